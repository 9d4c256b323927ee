"""The table of families, and what is refused because of a family before anything is computed."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from data_process.images.marks import neutralise
from selftrain import doctor, families
from selftrain.cli.main import main
from selftrain.config import ConfigError, build_config
from selftrain.engine_settings import EngineJob, HFSettings, RaySettings, ServerSettings, VLLMSettings
from selftrain.engines.base import EngineError
from selftrain.engines.opening import open_by_settings
from selftrain.engines.vllm_server import ServerConfig, command
from selftrain.families import FAMILIES, QWEN2_VL, FamilyError, family_of, opens_thinking, pixel_limits
from selftrain.runs.splits import check_image_sizes, image_store
from selftrain.training import given_rows, open_turns
from tests.selftrain import nano_models

ROOT = Path(__file__).parents[2]
TINY = ROOT / "models/tiny-qwen2vl"


def folder(path: Path, config: object, **files: object) -> Path:
    """A model folder with this config.json and other files, given as JSON or text."""
    path.mkdir(exist_ok=True)
    for name, content in {"config_json": config, **files}.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (path / name.replace("_json", ".json").replace("_jinja", ".jinja")).write_text(text)
    return path


def adapter(path: Path, base: object) -> Path:
    return folder(path, {}, adapter_config_json={"base_model_name_or_path": base})


# ---- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_mark_stays_text_in_a_problem(family):
    for mark in (*family.marks, "<|im_start|>", "<|im_end|>"):
        assert neutralise(f"see {mark} there") != f"see {mark} there"


@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_every_template_has_one_with_open_turns(family):
    assert family.template in open_turns.TEMPLATES_OF_FAMILIES


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_the_table_says_what_llamafactory_and_transformers_say(family):
    from llamafactory.data.template import TEMPLATES
    from llamafactory.model.model_utils.visual import COMPOSITE_MODELS
    from transformers import AutoConfig

    assert family.model_type in COMPOSITE_MODELS
    template = TEMPLATES[family.template]
    assert template.default_system == family.system
    user = template.format_user.apply(content="X")[0]
    assert f"<|im_start|>user\nX{family.frame.between}" == user
    assert template.format_assistant.apply(content="X") == [f"X{family.frame.after}"]
    plugin = template.mm_plugin
    assert plugin.vision_bos_token + plugin.image_token + plugin.vision_eos_token == family.frame.image
    vision = AutoConfig.for_model(family.model_type).vision_config
    assert (vision.patch_size, vision.spatial_merge_size) == (family.patch, family.merge)
    assert bool(getattr(vision, "deepstack_visual_indexes", None)) == family.deepstack


def test_geometry():
    assert {kind: family.token_side for kind, family in FAMILIES.items()} == {
        "qwen2_vl": 28,
        "qwen2_5_vl": 28,
        "qwen3_vl": 32,
    }


# ---- what a folder says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "llava"},
            r"is a llava model, which is not supported; supported: Qwen2-VL \(qwen2_vl\), Qwen2\.5",
        ),
        ({"model_type": "qwen3_vl_moe"}, "is a qwen3_vl_moe model"),
        ({}, "without a model_type"),
        ({"model_type": ["qwen2_vl"]}, "not supported"),
        ("{", "config.json: not complete JSON"),
        ("[]", "no JSON object"),
        ({"model_type": "qwen3_vl", "vision_config": {"patch_size": 14}}, "patch_size 14, and Qwen3-VL has 16"),
    ],
)
def test_a_folder_that_is_refused(tmp_path, config, message):
    with pytest.raises(FamilyError, match=message):
        family_of(folder(tmp_path / "model", config))


def test_no_folder(tmp_path):
    with pytest.raises(FamilyError, match="does not exist"):
        family_of(tmp_path / "none")
    with pytest.raises(FamilyError, match=r"holds no config\.json"):
        family_of(tmp_path)


@pytest.mark.parametrize(
    ("files", "limits"),
    [
        ({"preprocessor_config_json": {"min_pixels": 3136, "max_pixels": 99999}}, (3136, 99999)),
        ({"preprocessor_config_json": {"size": {"shortest_edge": 65536, "longest_edge": 99999}}}, (65536, 99999)),
        ({"processor_config_json": {"image_processor": {"size": {"shortest_edge": 1, "longest_edge": 2}}}}, (1, 2)),
        ({"preprocessor_config_json": {"size": {"height": 3, "width": 3}}}, None),
        ({"preprocessor_config_json": "{"}, None),
        ({}, None),
    ],
)
def test_pixel_limits(tmp_path, files, limits):
    assert pixel_limits(folder(tmp_path / "model", {}, **files)) == limits


@pytest.mark.parametrize(
    ("kind", "files", "found"),
    [
        ("qwen3_vl", {"chat_template_jinja": nano_models.THINKING}, True),
        ("qwen3_vl", {"chat_template_jinja": nano_models.INSTRUCT}, False),
        ("qwen3_vl", {"chat_template_json": {"chat_template": nano_models.THINKING}}, True),
        ("qwen3_vl", {"tokenizer_config_json": {"chat_template": nano_models.INSTRUCT}}, False),
        ("qwen2_vl", {"chat_template_jinja": "x"}, False),
    ],
)
def test_whether_a_template_opens_a_thought(tmp_path, kind, files, found):
    assert opens_thinking(folder(tmp_path / "model", {"model_type": kind}, **files)) is found


@pytest.mark.parametrize(
    ("files", "message"), [({}, "holds no chat template"), ({"chat_template_jinja": "{% for"}, "cannot be rendered")]
)
def test_a_template_that_cannot_be_used(tmp_path, files, message):
    with pytest.raises(FamilyError, match=message):
        opens_thinking(folder(tmp_path / "model", {"model_type": "qwen3_vl"}, **files))


# ---- engines -----------------------------------------------------------------------------------------------------


def job(model: Path, given: Path | None = None) -> EngineJob:
    return EngineJob(model, given, 3136, 50176, model.parent, "short", 0, 0, ())


ENGINES = {
    "hf": HFSettings(),
    "vllm": VLLMSettings(),
    "ray": RaySettings(engine=HFSettings()),
    "ray of vllm": RaySettings(engine=VLLMSettings()),
}


@pytest.mark.parametrize("settings", [*ENGINES.values(), ServerSettings()], ids=[*ENGINES, "server"])
def test_every_engine_refuses_an_unknown_family(tmp_path, settings):
    model = folder(tmp_path / "model", {"model_type": "llava"})
    with pytest.raises(EngineError, match=r"is a llava model.*Qwen3-VL \(qwen3_vl\)"):
        open_by_settings(settings, job(model))


@pytest.mark.parametrize("settings", ENGINES.values(), ids=list(ENGINES))
@pytest.mark.parametrize("base", ["folder", "Qwen/Qwen2.5-VL-7B-Instruct", "/gone/qwen2.5-vl-3b"])
def test_every_engine_refuses_an_adapter_of_another_family(tmp_path, settings, base):
    model = folder(tmp_path / "model", {"model_type": "qwen2_vl"})
    other = folder(tmp_path / "other", {"model_type": "qwen2_5_vl"})
    given = adapter(tmp_path / "adapter", str(other) if base == "folder" else base)
    with pytest.raises(EngineError, match=r"trained on a Qwen2\.5-VL model and model\.path holds a Qwen2-VL one"):
        open_by_settings(settings, job(model, given))


def test_a_server_refuses_them_too(tmp_path):
    with pytest.raises(EngineError, match="is a llava model"):
        command(ServerConfig(folder(tmp_path / "model", {"model_type": "llava"})))
    model = folder(tmp_path / "model", {"model_type": "qwen3_vl"})
    given = adapter(tmp_path / "adapter", "Qwen/Qwen2-VL-2B")
    with pytest.raises(EngineError, match=r"trained on a Qwen2-VL model and model\.path holds a Qwen3-VL one"):
        command(ServerConfig(model, adapters={"mine": given}))


@pytest.mark.parametrize("kind", ["hf", "vllm"])
def test_what_an_engine_does_not_run_is_refused_by_name(tmp_path, monkeypatch, kind):
    other = {"hf": "vllm", "vllm": "hf"}[kind]
    monkeypatch.setitem(FAMILIES, "qwen2_vl", dataclasses.replace(QWEN2_VL, engines=(other,)))
    model = folder(tmp_path / "model", {"model_type": "qwen2_vl"})
    with pytest.raises(EngineError, match=rf"Qwen2-VL model, which the {kind} engine does not run; .* to {other}"):
        open_by_settings(ENGINES[kind], job(model))


@pytest.mark.parametrize(
    ("base", "found"),
    [
        ("/nowhere/Qwen2-VL-7B-Instruct", "qwen2_vl"),
        ("Qwen/Qwen3-VL-8B-Instruct", "qwen3_vl"),
        (str(TINY), "qwen2_vl"),
        ("/nowhere/base", None),
        (None, None),
    ],
)
def test_the_family_of_an_adapter(tmp_path, base, found):
    family = families.family_of_adapter(adapter(tmp_path / "adapter", base))
    assert (family and family.model_type) == found


def test_the_family_of_a_trained_checkpoint(tmp_path):
    trained = folder(tmp_path / "trained", {"model_type": "qwen3_vl"})
    families.check_weights_family(families.FAMILIES["qwen3_vl"], trained)
    with pytest.raises(FamilyError, match=r"trained holds a Qwen3-VL model and model\.path a Qwen2-VL one"):
        families.check_weights_family(families.FAMILIES["qwen2_vl"], trained)


# ---- runs --------------------------------------------------------------------------------------------------------


def config(tmp_path: Path, model: Path, **sections):
    values = {"output": str(tmp_path / "run"), "bank": str(tmp_path / "bank.sqlite"), "model": {"path": str(model)}}
    return build_config({**values, "data": {"folder": str(tmp_path / "data")}, **sections}, "test")


@pytest.mark.parametrize(
    ("kind", "engine", "side"),
    [("qwen2_vl", "hf", 28), ("qwen3_vl", "hf", 32), ("qwen3_vl", "vllm", 32), ("llava", "scripted", 28)],
)
def test_images_are_stored_for_the_family(tmp_path, kind, engine, side):
    settings = config(tmp_path, folder(tmp_path / "model", {"model_type": kind}), engine={"kind": engine})
    assert image_store(settings).patch == side


@pytest.mark.parametrize("verb", ["run", "train"])
def test_a_template_that_opens_a_thought_is_refused_before_anything_is_computed(tmp_path, capsys, monkeypatch, verb):
    """By name. What is sampled with it has token ids that no row of LLaMA-Factory has: see the slow test below."""
    monkeypatch.setattr(given_rows, "read_given", lambda *_: pytest.fail("rows were read"))
    model = folder(tmp_path / "model", {"model_type": "qwen3_vl"}, chat_template_jinja=nano_models.THINKING)
    (model / "model.safetensors").write_bytes(b"x")
    settings = [f"model.path={model}", f"output={tmp_path}/run", f"bank={tmp_path}/bank.sqlite"]
    words = [word for one in settings for word in ("--set", one)]
    rows = ["--rows", str(tmp_path / "rows.jsonl")] if verb == "train" else []
    assert main([verb, "--config", "demo", *rows, *words]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "opens a thought by itself, and rows would be trained without it" in said
    assert "Set model.path to an Instruct checkpoint of Qwen3-VL" in said
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.slow
def test_only_of_an_instruct_checkpoint_are_trained_and_sampled_ids_the_same(tmp_path):
    """A prompt as the engine reads it, and as LLaMA-Factory trains on it: the same ids, or two tokens too few."""
    from llamafactory.data.template import TEMPLATES

    from selftrain.engines.base import Request
    from selftrain.engines.decoding.inputs import load_processor, prepare

    family = FAMILIES["qwen3_vl"]
    turns = [{"role": "user", "content": "find x"}, {"role": "assistant", "content": "it is so"}]
    for thinking in (False, True):
        model = nano_models.write("qwen3_vl", tmp_path / str(thinking), thinking=thinking)
        processor = load_processor(model, family, None, None)
        (prompt,) = prepare(processor, [Request("a", "find x", (), (0,))])
        trained, target = TEMPLATES[family.template].encode_oneturn(processor.tokenizer, turns)
        ids = processor.tokenizer("<think>\n", add_special_tokens=False)["input_ids"]
        assert [*prompt.ids] == [*trained, *(ids if thinking else [])]
        assert processor.tokenizer.convert_ids_to_tokens(ids)[0] == "<think>"
        assert not {*ids[:1]} & {*target}


def test_no_images_for_an_unknown_family(tmp_path):
    with pytest.raises(FamilyError, match="is a llava model"):
        image_store(config(tmp_path, folder(tmp_path / "model", {"model_type": "llava"})))


@pytest.mark.parametrize(("least", "fits"), [(64 * 64, True), (200 * 200, False)])
def test_images_that_training_would_resize_stop_a_run_before_sampling(tmp_path, least, fits):
    from PIL import Image

    from data_process.images.opening import ImageError
    from data_process.schema import Problem

    processor = {"size": {"shortest_edge": least, "longest_edge": 1000 * 1000}}
    model = folder(tmp_path / "model", {"model_type": "qwen3_vl"}, preprocessor_config_json=processor)
    (tmp_path / "data").mkdir()
    Image.new("RGB", (128, 128)).save(tmp_path / "data/a.png")
    settings = config(tmp_path, model)
    problem = Problem(id="p", question="x?", answer="1", answer_type="number", images=("a.png",))
    if fits:
        check_image_sizes(settings, [problem], image_store(settings))
        return
    with pytest.raises(ImageError, match="stored with 128 x 128 pixels, and training would resize it"):
        check_image_sizes(settings, [problem], image_store(settings))


# ---- the doctor, and a run that would fail -----------------------------------------------------------------------


@pytest.fixture
def thinking(tmp_path) -> Path:
    files = {"chat_template_jinja": nano_models.THINKING, "model_safetensors": ""}
    made = folder(tmp_path / "thinking", {"model_type": "qwen3_vl"}, **files)
    (made / "model_safetensors").rename(made / "model.safetensors")
    return made


def test_a_template_that_opens_a_thought_is_measured_and_not_trained(tmp_path, thinking):
    (finding,) = doctor._chat_template(config(tmp_path, thinking))
    assert finding.state == "fail"
    assert "opens a thought by itself" in finding.found
    (finding,) = doctor._chat_template(config(tmp_path, thinking, engine={"kind": "server"}))
    assert finding.state == "note"


def test_limits_outside_the_checkpoints_are_noted(tmp_path):
    copy = shutil.copytree(TINY, tmp_path / "model")
    assert list(doctor._chat_template(config(tmp_path, copy))) == []
    smaller = {"size": {"shortest_edge": 3136, "longest_edge": 12544}}
    (copy / "preprocessor_config.json").write_text(json.dumps(smaller))
    (finding,) = doctor._chat_template(config(tmp_path, copy))
    assert (finding.state, finding.what) == ("note", "image sizes")


def test_what_would_fail_is_said_before_a_run(tmp_path, thinking):
    doctor.check_before_run(config(tmp_path, TINY))
    broken = config(
        tmp_path, thinking, training={"interpreter": "/no/python"}, engine={"kind": "vllm", "interpreter": "/no/vllm"}
    )
    with pytest.raises(ConfigError) as error:
        doctor.check_before_run(broken)
    lines = str(error.value).splitlines()
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["chat template", "LLaMA-Factory", "vLLM"]
    assert "/no/python" in str(error.value)


def test_a_run_whose_training_is_done_needs_no_trainer(tmp_path):
    settings = config(tmp_path, TINY, training={"interpreter": "/no/python"}, iters=1)
    assert [finding.state for finding in doctor.quick(settings)][-1] == "fail"
    done = tmp_path / "run/iter1/train/stage.json"
    done.parent.mkdir(parents=True)
    done.touch()
    assert {finding.state for finding in doctor.quick(settings)} == {"ok"}


def test_a_run_is_not_started(tmp_path, capsys):
    model = folder(tmp_path / "model", {"model_type": "llava"}, model_safetensors="")
    (model / "model_safetensors").rename(model / "model.safetensors")
    settings = [f"model.path={model}", f"output={tmp_path}/run", f"bank={tmp_path}/bank.sqlite"]
    assert main(["run", "--config", "demo", *[word for one in settings for word in ("--set", one)]]) == 2
    said = capsys.readouterr().err
    assert "this run would fail, so it was not started" in said
    assert "is a llava model" in said
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "bank.sqlite").exists()
