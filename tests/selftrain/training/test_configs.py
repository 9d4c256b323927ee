"""The shipped settings for training: every file loads, is known to LLaMA-Factory, and suits the models it is for."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from data_process.images.store import ImageStore
from selftrain import tiny_model
from selftrain.config import load_config
from selftrain.engine_settings import HFSettings
from selftrain.families import FAMILIES, FamilyError
from selftrain.training.adapter import WEIGHTS, read_tensors
from selftrain.training.dry_run import settings_of, training_plan
from selftrain.training.hyperparameters import HyperparameterError, TrainingSettings, read_hyperparameters, resolve
from selftrain.training.llamafactory import train
from tests.selftrain import nano_models
from tests.selftrain.training.test_llamafactory import LIMITS, example, rows

ROOT = Path(__file__).parents[3]
HYPERPARAMETERS = sorted(path.name for path in (ROOT / "configs/llamafactory").glob("*.yaml"))
RUNS = sorted(path.name for path in (ROOT / "configs").glob("*.yaml"))


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Paths in a run's settings are relative to it."""
    monkeypatch.chdir(ROOT)


def read(name: str, **overrides) -> dict:
    return read_hyperparameters(ROOT / "configs/llamafactory" / name, overrides, Path(sys.executable))


@pytest.mark.slow
@pytest.mark.parametrize("name", HYPERPARAMETERS)
def test_hyperparameters(name):
    values = read(name)
    assert isinstance(values["learning_rate"], float)
    settings = TrainingSettings(hyperparameters=ROOT / "configs/llamafactory" / name, per_device_batch=1)
    resolved = resolve(values, settings, Path("model"), Path("out"), 100, LIMITS)
    assert yaml.safe_load(yaml.safe_dump(resolved)) == resolved


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_every_run_could_train(name):
    config = load_config(ROOT / "configs" / name)
    plan = training_plan(config)
    if config.engine.kind == "scripted":
        assert plan == ["rehearsal: nothing is trained"]
    else:
        assert " accumulated" in plan[int(config.training.method == "dpo")]  # after the line that says where DPO begins
        assert settings_of(config, 2**40).seed < 2**31


def test_the_plan_names_command_variables_and_checkpoints():
    words = ["training.nodes=2", "training.processes=4", "training.launcher=[srun, --nodes=2]", "training.save_steps=9"]
    plan = training_plan(load_config(ROOT / "configs/geoqa_qwen2vl_7b.yaml", words))
    assert plan[0] == "64 rows per step = 4 at a time x 4 processes x 2 nodes x 2 accumulated"
    assert plan[1].startswith("training in ")
    assert plan[2].startswith("srun --nodes=2 ")
    assert plan[2].endswith("/iter1/train.partial/work/nodes-ID/launch.json 60")
    assert "FORCE_TORCHRUN=1 " in plan[4]
    assert "NNODES=2 NPROC_PER_NODE=4 " in plan[4]
    assert plan[4].endswith(" -m llamafactory.cli train train.yaml")
    assert plan[5].startswith("a checkpoint every 9 steps")


def test_the_plan_of_another_machine(tmp_path):
    plan = training_plan(load_config(None, [f"training.interpreter={tmp_path}/python"]))
    assert plan[0].startswith(f"hyper-parameters not checked: cannot run {tmp_path}/python")
    assert f"{tmp_path}/python -m llamafactory.cli train train.yaml" in plan[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.processes=3"], "global_batch_size 64 is not a multiple of 4 rows x 3 processes"),
        (["training.overrides={fsdp: full_shard}", "training.save_steps=5"], "save_steps cannot be used with fsdp"),
        (["training.overrides={learning_rat: 1}"], "did you mean learning_rate"),
    ],
)
def test_a_plan_that_no_training_would_start_with(words, message):
    with pytest.raises(HyperparameterError, match=message):
        training_plan(load_config(ROOT / "configs/geoqa_qwen2vl_7b.yaml", words))


def test_an_interpreter_is_found_from_any_folder():
    assert (
        settings_of(load_config(None, ["training.interpreter=env/bin/python"]), 0).interpreter
        == ROOT / "env/bin/python"
    )


# --- DeepSpeed and FSDP -------------------------------------------------------------------------------------------

STAGES = {
    "qwen2vl_7b_lora_zero2.yaml": 2,
    "qwen2vl_72b_lora_zero3.yaml": 3,
}


@pytest.mark.parametrize("name", STAGES)
def test_deepspeed(name):
    """What transformers fills in from the other settings is left to it: a number here would disagree one day."""
    config = json.loads(Path(read(name)["deepspeed"]).read_text())
    zero = config["zero_optimization"]
    assert zero["stage"] == STAGES[name]
    for key in (
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "gradient_accumulation_steps",
        "gradient_clipping",
    ):
        assert config[key] == "auto"
    assert config["bf16"]["enabled"] == config["fp16"]["enabled"] == "auto"
    assert not {"optimizer", "scheduler"} & config.keys()  # LLaMA-Factory's own
    if zero["stage"] == 3:
        assert zero["stage3_gather_16bit_weights_on_model_save"] is True  # else no adapter is left


@pytest.mark.parametrize("name", ["qwen2vl_7b_lora_fsdp.yaml", "qwen2vl_72b_lora_fsdp.yaml"])
def test_fsdp(name):
    values = read(name)
    assert values["fsdp"] == "full_shard auto_wrap"
    assert values["fsdp_config"] == {"version": 2, "cpu_ram_efficient_loading": True}
    assert "deepspeed" not in values


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in HYPERPARAMETERS if "fsdp" in name])
def test_transformers_takes_the_fsdp_settings(name, tmp_path):
    from transformers import TrainingArguments

    values = read(name)
    arguments = TrainingArguments(
        output_dir=str(tmp_path), fsdp=values["fsdp"], fsdp_config=dict(values["fsdp_config"]), report_to="none"
    )
    plugin = arguments.fsdp_plugin_args
    assert plugin["fsdp_version"] == 2
    assert plugin["reshard_after_forward"] is True
    assert plugin["cpu_ram_efficient_loading"]
    assert plugin["auto_wrap_policy"] == "TRANSFORMER_BASED_WRAP"


def test_the_schedule_of_s1():
    """Golden: 1,000 rows for 5 epochs in batches of 16 are 63 steps an epoch, 315 in all: 16 of warm-up and 299."""
    config = load_config(ROOT / "configs/s1_qwen2_5vl_32b.yaml")
    settings = settings_of(config, 0)
    values = resolve(read("s1_full.yaml"), settings, config.model.path, Path("out"), 100, LIMITS)
    ranks = config.training.processes * config.training.nodes
    batch = values["per_device_train_batch_size"] * values["gradient_accumulation_steps"] * ranks
    an_epoch = -(-1000 // batch)  # the last batch of an epoch is smaller
    steps = an_epoch * values["num_train_epochs"]
    assert (batch, an_epoch, steps) == (16, 63, 315)
    warmup = math.ceil(steps * values["warmup_steps"])  # as transformers rounds a share
    assert (warmup, steps - warmup) == (16, 299)


# --- the families ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "kind"),
    [
        ("Qwen2-VL-2B-Instruct", "qwen2_vl"),
        ("Qwen2-VL-7B-Instruct", "qwen2_vl"),
        ("Qwen2-VL-72B-Instruct", "qwen2_vl"),
        ("Qwen2.5-VL-7B-Instruct", "qwen2_5_vl"),
        ("Qwen3-VL-2B-Instruct", "qwen3_vl"),
        ("Qwen3-VL-8B-Instruct", "qwen3_vl"),
    ],
)
def test_one_template_for_the_family(model, kind):
    from llamafactory.extras.constants import DEFAULT_TEMPLATE

    settings = TrainingSettings(hyperparameters=ROOT / "configs/llamafactory/tiny_lora.yaml", per_device_batch=1)
    given = {"global_batch_size": 1}
    resolved = resolve(given, settings, Path(model), Path("out"), 100, LIMITS, family=FAMILIES[kind])
    assert DEFAULT_TEMPLATE[model] == resolved["template"]


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES.values(), ids=list(FAMILIES))
def test_a_family_trains_and_answers(family, tmp_path):
    """Pre-flight, two steps, and the adapter merged: sampled from on the fly and from a folder of its own."""
    from transformers import AutoTokenizer

    from selftrain.engines.base import Request, SamplingParams
    from selftrain.engines.hf import HFEngine
    from selftrain.training.adapter import merge, verify_weights
    from selftrain.training.row_lengths import preflight

    base = nano_models.write(family.model_type, tmp_path / "base")
    low, high = nano_models.limits_of(family)
    for i in range(16):
        Image.new("L", (90 + 20 * (i % 4), 112), 10 * i).save(tmp_path / f"{i}.png")
    store = ImageStore(tmp_path / "store", tmp_path, min_pixels=low, max_pixels=high, patch=family.token_side)
    settings = TrainingSettings(
        hyperparameters=ROOT / "configs/llamafactory/tiny_lora.yaml",
        overrides={"global_batch_size": 8, "max_steps": 2, "lora_rank": 4, "lora_alpha": 8, "learning_rate": 0.01},
        per_device_batch=4,
    )
    result = train(
        rows(16), settings=settings, base_model=base, image_path=store.path, image_limits=(low, high),
        out=tmp_path / "out",
    )  # fmt: skip
    assert result.steps == 2
    assert result.resolved["template"] == family.template
    assert not any("visual" in name for name in read_tensors(result.weights / WEIGHTS)), "the vision tower is frozen"
    row = rows(16)[1]
    picture = store.path(row.images[0])
    assert verify_weights(base, result.weights, row.prompt, [picture]) > 0
    requests = [Request("a", row.prompt, (picture,), (1, 2)), Request("b", "How large is B?", (), (1,))]
    on_cpu = HFSettings(dtype="float32", device="cpu", threads=1)
    found = []
    for model, adapter in (
        (base, result.weights), (merge(base, result.weights, tmp_path / "merged"), None), (base, None)
    ):  # fmt: skip
        with HFEngine(model, adapter, settings=on_cpu) as engine:
            found.append(engine.generate(requests, SamplingParams(temperature=0.0, max_tokens=12)))
    assert [len(answer) for answer in found[0]] == [2, 1]
    merged, written, untrained = ([c for answer in answers for c in answer] for answers in found)
    for a, b, c in zip(merged, written, untrained, strict=True):
        assert a.token_ids == b.token_ids
        assert a.mean_logprob == pytest.approx(b.mean_logprob, abs=1e-5)
        assert abs(a.mean_logprob - c.mean_logprob) > 1e-3
    # What was trained on is what is asked: the row is the prompt, the target, the end of the turn and a newline.
    length = preflight([row], base, store.path, 2048).lengths[0]
    tokens = len(AutoTokenizer.from_pretrained(base).encode(row.target, add_special_tokens=False))
    assert found[0][0][0].n_prompt_tokens + tokens + 2 == length


@pytest.mark.slow
def test_what_cannot_be_trained_is_refused_before_llamafactory_starts(tmp_path):
    """An unknown family, a template that opens a thought or is another one, an adapter of another family."""
    settings = TrainingSettings(hyperparameters=ROOT / "configs/llamafactory/tiny_lora.yaml")

    def refused(base: Path, message: str, start: Path | None = None) -> None:
        given = {"settings": settings, "base_model": base, "image_path": Path, "image_limits": LIMITS}
        with pytest.raises(FamilyError, match=message):
            train([example(0)], out=tmp_path / "out", start=start, **given)
        assert not (tmp_path / "out").exists()

    thinking = nano_models.write("qwen3_vl", tmp_path / "thinking", thinking=True)
    refused(thinking, "opens a thought by itself")
    base = nano_models.write("qwen3_vl", tmp_path / "base")
    start = tmp_path / "adapter"
    start.mkdir()
    (start / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "Qwen/Qwen2-VL-7B"}))
    refused(base, "trained on a Qwen2-VL model", start)
    template = base / "chat_template.jinja"
    template.write_text(tiny_model.CHAT_TEMPLATE)
    refused(base, "and LLaMA-Factory's qwen3_vl_nothink.*disagree .before: '<.im_start.>system")
    (base / "config.json").write_text(json.dumps({"model_type": "llava"}))
    refused(base, "is a llava model")
