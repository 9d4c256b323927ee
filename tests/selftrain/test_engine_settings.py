"""Settings of engines: one class for each kind, layers that change the kind, and the flat form of earlier versions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar, Literal

import pytest

import selftrain.engine_settings as registry
from selftrain.config import ConfigError, build_config, load_config
from selftrain.engine_settings import (
    EngineSettings,
    HFSettings,
    RaySettings,
    ScriptedSettings,
    ServerSettings,
    VLLMSettings,
    register_engine,
)
from selftrain.engines.base import Engine
from selftrain.sampling.engine_factory import engine_job, open_engine

ROOT = Path(__file__).parents[2]

REFUSED = {
    "a key of another kind": (
        ["engine.kind=vllm", "engine.url=x"],
        "unknown key 'engine.url': it belongs to engine.kind server, and engine.kind is vllm; leave it out",
    ),
    "of two other kinds": (["engine.logprobs=false"], "it belongs to engine.kind vllm and server, and .* is hf"),
    "near": (["engine.kind=vllm", "engine.memory_shar=1"], "did you mean 'engine.memory_share'"),
    "near, in an actor": (
        ["engine={kind: ray, engine: {kind: vllm, parit: 1}}"],
        "did you mean 'engine.engine.parity'",
    ),
    "of no kind": (["engine.zzz=1"], "unknown key 'engine.zzz'; known: kind, threads"),
    "no such kind": (["engine.kind=tgi"], r"engine\.kind: there is no such kind of engine; known: 'hf', .*got 'tgi'"),
    "no such kind in an actor": (
        ["engine={kind: ray, engine: {kind: tgi}}"],
        r"engine\.engine\.kind: there is no such",
    ),
    "Ray in Ray": (["engine={kind: ray, engine: {kind: ray}}"], "engine: an actor cannot run Ray again"),
    "half a GPU too many": (["engine={kind: ray, gpus: 1.5}"], "gpus must be whole or at most 1"),
    "no section": (["engine=3"], "engine: "),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    overrides, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


# ---- another kind on top of settings for the old one -----------------------------------------------------------------

HF = "engine: {kind: hf, batch_size: 96, dtype: bfloat16, threads: 2}"
LAYERS = [
    (HF, ["engine.kind=vllm"], VLLMSettings(batch_size=96, dtype="bfloat16", threads=2), ""),
    (
        HF,
        ["engine.kind=server"],
        ServerSettings(batch_size=96, threads=2),
        "engine.kind server replaces hf and has no engine.dtype, which is left out",
    ),
    (
        HF,
        ["engine.memory_share=0.5", "engine.kind=vllm"],
        VLLMSettings(batch_size=96, dtype="bfloat16", threads=2, memory_share=0.5),
        "",
    ),
    # Ray runs copies of the engine that was set before.
    (
        HF,
        ["engine.kind=ray", "engine.actors=3"],
        RaySettings(actors=3, threads=2, engine=HFSettings(batch_size=96, dtype="bfloat16", threads=2)),
        "",
    ),
    (
        HF,
        ["engine.kind=ray", "engine.engine.kind=vllm", "engine.engine.tensor_parallel=2"],
        RaySettings(threads=2, engine=VLLMSettings(batch_size=96, dtype="bfloat16", threads=2, tensor_parallel=2)),
        "",
    ),
    (
        "engine: {kind: ray, actors: 2, engine: {kind: vllm, parity: 0}}",
        ["engine.kind=vllm"],
        VLLMSettings(parity=0),
        "",
    ),
    # The last kind wins, whatever a script set before for another one.
    (
        HF,
        ["engine.kind=ray", "engine.engine.kind=vllm", "engine.actors=2", "engine.kind=hf"],
        HFSettings(batch_size=96, dtype="bfloat16", threads=2),
        "",
    ),
    ("engine: {kind: vllm, options: {a: 1}}", ["engine.options.b=2"], VLLMSettings(options={"a": 1, "b": 2}), ""),
    ("engine: {threads: 1}", ["engine.kind=scripted"], ScriptedSettings(threads=1), ""),
]


@pytest.mark.parametrize(("text", "overrides", "expected", "note"), LAYERS)
def test_layers(tmp_path, capsys, text, overrides, expected, note):
    (tmp_path / "a.yaml").write_text(text)
    assert load_config(tmp_path / "a.yaml", overrides).engine == expected
    told = capsys.readouterr().err
    assert told == (f"note: {tmp_path / 'a.yaml'}: {note}\n" if note else "")


def test_a_file_that_changes_the_kind_of_its_parent_needs_no_advice(tmp_path, capsys):
    (tmp_path / "parent.yaml").write_text(HF)
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\nengine: {kind: server, model_name: m}")
    assert load_config(tmp_path / "child.yaml").engine == ServerSettings(batch_size=96, threads=2, model_name="m")
    assert capsys.readouterr().err == ""


# ---- the flat form ---------------------------------------------------------------------------------------------------

FLAT = [
    (
        {"kind": "vllm", "memory_share": 0.5, "ray_actors": 2, "script_gain": 0.3, "vllm_options": {"a": 1}},
        VLLMSettings(memory_share=0.5, options={"a": 1}),
        "rename engine.vllm_options to engine.options; "
        "remove engine.ray_actors, engine.script_gain, which engine.kind vllm does not have",
    ),
    (
        {"kind": "scripted", "script_accuracy": 0.6},
        ScriptedSettings(accuracy=0.6),
        "rename engine.script_accuracy to engine.accuracy",
    ),
    (
        {"kind": "ray", "ray_engine": "vllm", "ray_actors": 8, "tensor_parallel": 2, "batch_size": 5, "threads": 3},
        RaySettings(actors=8, threads=3, engine=VLLMSettings(tensor_parallel=2, batch_size=5)),
        "rename engine.ray_engine to engine.engine.kind, engine.ray_actors to engine.actors, "
        "engine.tensor_parallel to engine.engine.tensor_parallel, engine.batch_size to engine.engine.batch_size",
    ),
    ({"kind": "ray", "batch_size": 5}, RaySettings(engine=HFSettings(batch_size=5)), "rename engine.batch_size to .*"),
    ({"script_gain": 0.1}, HFSettings(), "remove engine.script_gain, which engine.kind hf does not have"),
]


@pytest.mark.parametrize(("flat", "expected", "advice"), FLAT)
def test_flat_settings_are_read_with_one_line_of_advice(tmp_path, capsys, flat, expected, advice):
    (tmp_path / "a.yaml").write_text(json.dumps({"engine": flat}))
    assert load_config(tmp_path / "a.yaml").engine == expected
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"note: {tmp_path / 'a.yaml'}: {advice.removesuffix('.*')}")
    overrides = [f"engine.{key}={json.dumps(value)}" for key, value in flat.items()]
    assert load_config(None, overrides).engine == expected
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert build_config({"engine": flat}, "config.json of an earlier run").engine == expected
    assert capsys.readouterr().err == ""


# What the last version with flat settings wrote into the config.json of a run.
DUMP = {
    **{"batch_size": 192, "dtype": "auto", "device": "auto", "threads": None, "interpreter": None},
    **{"memory_share": 0.9, "tensor_parallel": 1, "max_model_len": None, "keep_open": True, "vllm_options": {}},
    **{"parity": 8, "ray_engine": "hf", "ray_address": None, "ray_actors": None, "ray_cpus": 1.0, "ray_gpus": None},
    **{"url": "http://127.0.0.1:8000/v1", "model_name": None, "dialect": "auto", "api_key_env": None},
    **{"max_concurrency": 32, "timeout_s": 600.0, "retries": 5, "logprobs": True},
    **{"script_accuracy": 0.5, "script_gain": 0.1, "script_abstain": 0.02},
}


@pytest.mark.parametrize("kind", ["hf", "vllm", "server", "ray", "scripted"])
def test_the_settings_of_an_earlier_run_are_read(kind):
    read = build_config({"engine": {**DUMP, "kind": kind}}, "config.json")
    assert read == load_config(None, [f"engine.kind={kind}"])


# Digests of the version before each kind had settings of its own: the same run folder goes on with them.
DIGESTS = {
    "demo": "0c768a61d93c6817",
    "demo_star": "cb5ecaee9fd2f60d",
    "geoqa_qwen2vl_2b": "181432b34475192f",
    "geoqa_qwen2vl_72b": "464f9fdc213a5cc0",
    "geoqa_qwen2vl_7b": "501016d0ad002a61",
    "rehearsal": "f51c9e833bc00568",
    "smoke": "9f93031167a39a5f",
}
MORE_DIGESTS = [
    (["engine={kind: vllm, max_model_len: 4096, logprobs: false}"], "b8692430c632e641"),
    (["engine={kind: ray, actors: 3, engine: {kind: vllm, options: {a: 1}}}"], "98c067679161d677"),
    (["engine={kind: server, model_name: m}"], "6d93bdc5adea130d"),
    (["engine={kind: scripted, gain: 0.2}"], "092211e9f6ae6525"),
    (["engine={batch_size: 7, dtype: bfloat16}"], "658ea058ac0dd944"),
]


# What shipped configurations said before there were second thoughts.
PUBLISHED = (
    "select_format=answer",
    "build.parts.reflect=0",
    "evaluation.select_max_tokens=64",
    "evaluation.test_strategies=[]",
)
DEMO_PARTS = ("sampling.n=3", "build.parts.cot=1", "build.parts.refine=0.5", "build.parts.select=0.5")


@pytest.mark.parametrize("name", DIGESTS)
def test_shipped_configs_have_the_digest_that_their_runs_began_with(name, capsys):
    parts = DEMO_PARTS if name in ("demo", "rehearsal", "smoke") else DEMO_PARTS[:1] if name == "demo_star" else ()
    assert load_config(ROOT / "configs" / f"{name}.yaml", [*PUBLISHED, *parts]).digest() == DIGESTS[name]
    assert capsys.readouterr().err == ""  # they are in today's form


@pytest.mark.parametrize(("overrides", "digest"), MORE_DIGESTS)
def test_digests_stay(overrides, digest):
    assert load_config(None, overrides).digest() == digest


SAMPLES = [
    ("engine={dtype: float32}", "W-float32"),
    ("engine={batch_size: 3}", "W"),
    ("engine={kind: vllm}", "W-vllm"),
    ("engine={kind: vllm, dtype: bfloat16, logprobs: false}", "W-bfloat16-vllm-without-logprobs"),
    ("engine={kind: ray, engine: {kind: vllm}}", "W-vllm"),
    ("engine={kind: ray}", "W"),
    ("engine={kind: server, model_name: m}", "server-5259a2bf1ef0af04"),
    ("engine={kind: server, model_name: m, logprobs: false}", "server-8e040efc2c7c24ee"),
    ("engine={kind: scripted}", "scripted-7c0469b0c0a2af41"),
]


@pytest.mark.parametrize(("override", "expected"), SAMPLES)
def test_samples_are_kept_under_the_digest_they_always_had(override, expected):
    config = load_config(None, [override])
    assert config.engine.samples_digest(engine_job(config, None, 2, []), lambda: "W") == expected


# ---- a kind from outside ---------------------------------------------------------------------------------------------


@pytest.fixture
def forget(monkeypatch):
    """What a test registers is gone afterwards."""
    monkeypatch.setattr(registry, "KINDS", dict(registry.KINDS))


class Echo(Engine):
    def __init__(self, word: str) -> None:
        self.word = word

    def generate(self, requests, params):
        raise NotImplementedError

    def close(self) -> None: ...


def open_echo(settings, job) -> Echo:
    return Echo(f"{settings.word} {job.seed}")


def test_a_kind_from_outside(forget):
    @register_engine
    class EchoSettings(EngineSettings):
        opener: ClassVar[str] = f"{__name__}:open_echo"
        kind: Literal["echo"] = "echo"
        word: str = "hello"

    config = load_config(None, ["engine.kind=echo", "engine.word=hi", "seed=3"])
    with open_engine(config, None, 0, []) as engine:
        assert isinstance(engine, Echo)
        assert engine.word == "hi 3"
    assert config.digest() != load_config(None, ["engine.kind=echo"]).digest()
    assert build_config(config.model_dump(mode="json"), "its own dump") == config
    assert config.engine.samples_digest(engine_job(config, None, 0, []), lambda: "W") == "W-echo"
    with pytest.raises(ConfigError, match=r"'engine\.word': it belongs to engine\.kind echo, and .* is hf"):
        load_config(None, ["engine.word=hi"])


def test_what_cannot_be_registered(forget):
    class Nameless(EngineSettings):
        opener: ClassVar[str] = "a:b"

    class Closed(EngineSettings):
        kind: Literal["closed"] = "closed"

    class Again(EngineSettings):
        opener: ClassVar[str] = "a:b"
        kind: Literal["hf"] = "hf"

    for settings, message in ((Nameless, "names no kind"), (Closed, "names no opener"), (Again, "'hf' is taken by")):
        with pytest.raises(ValueError, match=message):
            register_engine(settings)
    assert register_engine(HFSettings) is HFSettings  # a module that is imported twice does no harm


def test_threads_of_ray_are_those_of_its_copies():
    assert RaySettings(threads=3).copies == HFSettings(threads=3)
    assert RaySettings(threads=3, engine=VLLMSettings(threads=1)).copies == VLLMSettings(threads=1, keep_open=False)
