"""Settings: what is refused and in which words, how the layers stack, and what a run folder is bound to."""

from __future__ import annotations

from pathlib import Path

import pytest

from selftrain.config import Config, ConfigError, build_config, differences, load_config, parse_override, read_yaml

ROOT = Path(__file__).parents[2]

REFUSED = {
    "near name": (["sampling.temprature=1"], "unknown key 'sampling.temprature'; did you mean 'sampling.temperature'"),
    "near section": (["sampeling.n=1"], "did you mean 'sampling'"),
    "near nested": (["build.parts.refin=1"], "did you mean 'build.parts.refine'"),
    "nothing near": (["data.zzz=1"], "unknown key 'data.zzz'; known: source, folder"),
    "empty part": (["sampling..n=4"], "unknown key 'sampling.'"),
    "no iterations": (["iters=0"], "iters: .*greater than or equal to 1"),
    "negative": (["iters=-1"], "iters: "),
    "text": (["iters=abc"], r"iters: .*valid integer.*'abc'"),
    "text that looks whole": (['iters="3"'], "iters: "),
    "half a sample": (["sampling.n=1.5"], "sampling.n: "),
    "whole float": (["sampling.n=2.0"], "sampling.n: "),
    "yes": (["sampling.n=true"], "sampling.n: "),
    "cold": (["sampling.temperature=0"], "sampling.temperature: .*greater than 0"),
    "NaN": (["engine.kind=scripted", "engine.gain=.nan"], "engine.gain: .*finite"),
    "infinite": (["sampling.temperature=.inf"], "sampling.temperature: .*finite"),
    "top_p": (["sampling.top_p=1.2"], "sampling.top_p: "),
    "section is a number": (["sampling=3"], "sampling: .*dictionary"),
    "section is empty": (["sampling="], "sampling: .*dictionary"),
    "through a value": (["iters.n=3"], "iters: "),
    "pixels": (["model.min_pixels=9999999"], r"min_pixels 9999999 is above max_pixels"),
    "no such engine": (["engine.kind=tgi"], "engine.kind: .*'hf'"),
    "share": (["data.max_dropped_share=2"], "data.max_dropped_share: "),
    "two at once": (["iters=0", "nmae=x"], "iters: .*; unknown key 'nmae'; did you mean 'name'"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    overrides, message = REFUSED[name]
    with pytest.raises(ConfigError, match=message):
        load_config(None, overrides)


OVERRIDES = {
    "a.b=3": (["a", "b"], 3),
    "a=1.5": (["a"], 1.5),
    "a=null": (["a"], None),
    "a=": (["a"], None),
    "a=x=y": (["a"], "x=y"),
    " a.b = [1, 2]": (["a", "b"], [1, 2]),
    "a={b: 1}": (["a"], {"b": 1}),
    "path=/a b/c": (["path"], "/a b/c"),
}


@pytest.mark.parametrize("text", OVERRIDES)
def test_override(text):
    assert parse_override(text) == OVERRIDES[text]


@pytest.mark.parametrize(
    ("text", "message"),
    [("a", "write it as key=value"), ("=3", "write it as"), ("", "write it as"), ("a=[1", "not YAML")],
)
def test_override_refused(text, message):
    with pytest.raises(ConfigError, match=message):
        parse_override(text)


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / f"{name}.yaml").write_text(text)
    return folder / f"{next(iter(files))}.yaml"


def test_layers(tmp_path):
    """Defaults, the parent, the file, --set, flags: each wins over those before, key by key."""
    path = write(
        tmp_path,
        child="extends: parent.yaml\nsampling: {n: 5}\ndata: {train_limit: 7}\n",
        parent="iters: 7\nseed: 4\nsampling: {n: 4, max_tokens: 11}\nname: parent\n",
    )
    config = load_config(path, ["seed=9", "iters=8", "data.train_limit=null"], {"iters": 2, "output": None})
    assert (config.name, config.seed, config.iters) == ("parent", 9, 2)
    assert (config.sampling.n, config.sampling.max_tokens, config.sampling.top_k) == (5, 11, 50)
    assert config.data.train_limit is None
    assert config.output == Config().output


def test_training_overrides_are_one_value_unless_a_key_is_named(tmp_path):
    path = write(
        tmp_path,
        child="extends: parent.yaml\ntraining: {overrides: {b: 2}}\n",
        parent="training: {overrides: {a: 1}, per_device_batch: 2}\n",
    )
    assert load_config(path).training.overrides == {"b": 2}
    assert load_config(path).training.per_device_batch == 2
    # Naming one key must not silently lose those of the file.
    assert load_config(path, ["training.overrides.c=3"]).training.overrides == {"b": 2, "c": 3}
    assert load_config(path, ["training.overrides={c: 3}"]).training.overrides == {"c": 3}


BAD_FILES = {
    "self": ({"a": "extends: a.yaml"}, "extends itself"),
    "circle": ({"a": "extends: b.yaml", "b": "extends: c.yaml", "c": "extends: a.yaml"}, r"extends itself.*b\.yaml"),
    "no parent": ({"a": "extends: gone.yaml"}, r"no configuration file .*gone\.yaml"),
    "parent is a number": ({"a": "extends: 3"}, "extends must be the path"),
    "parents": ({"a": "extends: [b.yaml, c.yaml]"}, "extends must be the path"),
    "list": ({"a": "- iters: 3"}, "holds a list"),
    "text": ({"a": "iters"}, "holds a str"),
    "false": ({"a": "false"}, "holds a bool"),
    "torn": ({"a": "sampling: {n: 3"}, "cannot be read as YAML"),
    "twice": ({"a": "sampling: {n: 3}\nseed: 1\nsampling: {top_k: 3}\n"}, "'sampling' stands twice"),
    "unknown": ({"a": "iter: 3"}, r"a\.yaml: unknown key 'iter'; did you mean 'iters'"),
    "number as a key": ({"a": "3: 4"}, "3: Keys should be strings"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_bad_file(tmp_path, name):
    files, message = BAD_FILES[name]
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, **files))


def test_not_utf8(tmp_path):
    (tmp_path / "a.yaml").write_bytes(b"name: \xff\xfe\n")
    with pytest.raises(ConfigError, match="cannot be read as YAML"):
        load_config(tmp_path / "a.yaml")


@pytest.mark.parametrize("text", ["", "# nothing\n", "extends:\n"])
def test_empty_file_is_the_defaults(tmp_path, text):
    assert load_config(write(tmp_path, a=text)) == Config()


def test_extends_is_relative_to_the_file(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "parent.yaml").write_text("seed: 5")
    (tmp_path / "deep" / "child.yaml").write_text("extends: ../parent.yaml")
    assert read_yaml(tmp_path / "deep" / "child.yaml") == {"seed": 5}


SHIPPED = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_config(name):
    config = load_config(ROOT / "configs" / name)
    assert (ROOT / config.training.hyperparameters).is_file()
    assert config == build_config(config.model_dump(mode="json"), "its own dump")


def test_shipped_configs_do_not_share_a_run_folder():
    outputs = [load_config(ROOT / "configs" / name).output for name in SHIPPED]
    assert len(set(outputs)) == len(outputs)


FREE = {
    "hf": [
        *("output=elsewhere", "bank=b.sqlite", "iters=9", "name=x", "engine.threads=3"),
        *("training.threads=2", "training.save_steps=5", "training.launcher=[srun]", "training.master=a:1"),
    ],
    "vllm": [
        *("engine.parity=0", "engine.keep_open=false", "engine.interpreter=vllm/bin/python"),
        *("engine.memory_share=0.5", "engine.tensor_parallel=2"),
    ],
    "ray": [
        *("engine.actors=2", "engine.cpus=2", "engine.gpus=1", "engine.address=auto"),
        *("engine.engine.threads=2", "engine={engine: {kind: hf}}"),
    ],
    "server": ["engine.url=http://other/v1", "engine.retries=0", "engine.timeout_s=1", "engine.api_key_env=KEY"],
}
BOUND = {
    "hf": [
        *("seed=1", "prompts=short", "data.seed=3", "data.train_limit=5", "data.folder=x", "model.max_pixels=60000"),
        *("engine.kind=scripted", "engine.dtype=bfloat16", "engine.batch_size=3", "training.processes=2"),
        *("sampling.n=4", "sampling.top_k=0", "build.parts.qa=0", "build.max_rows=3", "training.overrides={a: 1}"),
        *("training.restart=previous", "evaluation.n=4", "evaluation.select_max_tokens=9", "evaluation.test=none"),
    ],
    "vllm": ["engine.options={a: 1}", "engine.max_model_len=9", "engine.logprobs=false"],
    "ray": ["engine.engine.dtype=bfloat16", "engine.engine={kind: vllm}"],
    "server": ["engine.model_name=m", "engine.dialect=vllm", "engine.logprobs=false"],
    "scripted": ["engine.accuracy=0.6", "engine.gain=0", "engine.abstain=0"],
}


def cases(table: dict[str, list[str]]) -> list[tuple[str, str]]:
    return [(kind, override) for kind, overrides in table.items() for override in overrides]


@pytest.mark.parametrize(("kind", "override"), cases(FREE))
def test_settings_that_change_no_result(kind, override):
    before = load_config(None, [f"engine.kind={kind}"])
    changed = load_config(None, [f"engine.kind={kind}", override])
    assert changed != before or override == "engine={engine: {kind: hf}}"
    assert changed.identity() == before.identity()
    assert changed.digest() == before.digest()


OLD_KEYS = {  # under which a run folder holds what has another name today
    **{f"engine.{name}": f"engine.script_{name}" for name in ("accuracy", "gain", "abstain")},
    **{"engine.options": "engine.vllm_options", "engine.engine": "engine.ray_engine"},
    "engine.engine.dtype": "engine.dtype",
}


@pytest.mark.parametrize(("kind", "override"), cases(BOUND))
def test_settings_that_bind_a_run(kind, override):
    before = load_config(None, [f"engine.kind={kind}"])
    changed = (
        load_config(None, [f"engine.kind={kind}", override])
        if "kind=" not in override
        else load_config(None, [override])
    )
    assert changed.digest() != before.digest()
    key = override.split("=")[0]
    lines = differences(before.identity(), changed.identity())
    assert len(lines) == 1
    assert lines[0].startswith(OLD_KEYS.get(key, key))


DIFFERENCES = [
    ({}, {}, []),
    ({"a": 1, "b": {"c": 2}}, {"a": 1, "b": {"c": 2}}, []),
    ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b: 1 -> 2"]),
    ({"a": 1}, {"b": 1}, ["a: 1 -> None", "b: None -> 1"]),
    ({"a": [1, 2]}, {"a": [2, 1]}, ["a: [1, 2] -> [2, 1]"]),
    ({"a": None}, {}, []),  # a new setting whose default is "not set" does not lock old run folders
    ({"a": {"b": 1}}, {"a": 3}, ["a: {'b': 1} -> 3"]),
]


@pytest.mark.parametrize(("old", "new", "lines"), DIFFERENCES)
def test_differences(old, new, lines):
    assert differences(old, new) == lines


def test_frozen_and_saved_config_of_another_version():
    with pytest.raises(ValueError, match="frozen"):
        Config().seed = 3
    with pytest.raises(ConfigError, match=r"^config\.json: unknown key 'colour'"):
        build_config({"colour": 1}, "config.json")
    with pytest.raises(ConfigError, match=r"^config\.json: configuration: "):
        build_config([], "config.json")
