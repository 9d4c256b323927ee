"""The shipped settings for training: every file loads, is known to LLaMA-Factory, and suits the models it is for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from selftrain.config import load_config
from selftrain.engine_settings import HFSettings
from selftrain.training.dry_run import settings_of, training_plan
from selftrain.training.hyperparameters import HyperparameterError, TrainingSettings, read_hyperparameters, resolve
from selftrain.training.llamafactory import train
from tests.selftrain.training.test_llamafactory import (
    LIMITS,
    rows,
    store,  # a fixture  # noqa: F401
)

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
        assert " accumulated" in plan[0]
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


# --- the Qwen2-VL family ------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    "model", ["Qwen2-VL-2B-Instruct", "Qwen2-VL-7B-Instruct", "Qwen2-VL-72B-Instruct", "Qwen2.5-VL-7B-Instruct"]
)
def test_one_template_for_the_family(model):
    from llamafactory.extras.constants import DEFAULT_TEMPLATE

    settings = TrainingSettings(hyperparameters=ROOT / "configs/llamafactory/tiny_lora.yaml", per_device_batch=1)
    resolved = resolve({"global_batch_size": 1}, settings, Path(model), Path("out"), 100, LIMITS)
    assert DEFAULT_TEMPLATE[model] == resolved["template"]


@pytest.fixture(scope="module")
def tiny_qwen2_5(tmp_path_factory) -> Path:
    """A random Qwen2.5-VL of 0.3 M parameters with the tiny model's tokenizer."""
    import torch
    from transformers import (
        GenerationConfig,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    from data_process import prompts
    from data_process.sources import minigeo
    from selftrain import tiny_model

    torch.set_num_threads(1)
    tokenizer = tiny_model.build_tokenizer(
        [prompts.cot(p, prompts.SHORT) for p, _ in minigeo.generate("base", 12)] * 3, 384
    )
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tiny_model.SPECIAL_TOKENS}
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 2048,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0, "mrope_section": [2, 3, 3]},
            "bos_token_id": ids["<|endoftext|>"],
            "eos_token_id": ids["<|im_end|>"],
            "pad_token_id": ids["<|endoftext|>"],
            "tie_word_embeddings": True,
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "out_hidden_size": 64,
            "num_heads": 2,
            "window_size": 56,
            "fullatt_block_indexes": [1],
        },
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2_5_VLForConditionalGeneration(config)
    model.generation_config = GenerationConfig(eos_token_id=ids["<|im_end|>"], pad_token_id=ids["<|endoftext|>"])
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size={"shortest_edge": LIMITS[0], "longest_edge": LIMITS[1]}),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=tiny_model.CHAT_TEMPLATE,
    )
    folder = tmp_path_factory.mktemp("qwen2_5") / "model"
    tiny_model.save(model, processor, folder)
    return folder


@pytest.mark.slow
def test_qwen2_5_vl_trains_and_answers(tiny_qwen2_5, store, tmp_path):  # noqa: F811
    from transformers import AutoTokenizer

    from selftrain.engines.base import Request, SamplingParams
    from selftrain.engines.hf import HFEngine
    from selftrain.training.adapter import verify_adapter
    from selftrain.training.row_lengths import preflight

    settings = TrainingSettings(
        hyperparameters=ROOT / "configs/llamafactory/tiny_lora.yaml",
        overrides={"global_batch_size": 8, "max_steps": 2, "lora_rank": 4, "lora_alpha": 8},
        per_device_batch=4,
    )
    result = train(
        rows(16),
        settings=settings,
        base_model=tiny_qwen2_5,
        image_path=store.path,
        image_limits=LIMITS,
        out=tmp_path / "out",
    )
    assert result.steps == 2
    row = rows(16)[1]
    picture = store.path(row.images[0])
    assert verify_adapter(tiny_qwen2_5, result.adapter, row.prompt, [picture]) > 0
    with HFEngine(tiny_qwen2_5, result.adapter, settings=HFSettings(dtype="float32", threads=1)) as engine:
        requests = [Request("a", row.prompt, (picture,), (1, 2)), Request("b", "How large is B?", (), (1,))]
        answers = engine.generate(requests, SamplingParams(temperature=0.0, max_tokens=5))
    assert [len(answer) for answer in answers] == [2, 1]
    # What was trained on is what is asked: the row is the prompt, the target, the end of the turn and a newline.
    length = preflight([row], tiny_qwen2_5, store.path, 2048).lengths[0]
    tokens = len(AutoTokenizer.from_pretrained(tiny_qwen2_5).encode(row.target, add_special_tokens=False))
    assert answers[0][0].n_prompt_tokens + tokens + 2 == length
