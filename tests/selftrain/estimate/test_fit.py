"""The estimate of GPU memory and hours: sums by hand, what changes it, and every shipped configuration on its GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from selftrain import doctor
from selftrain.cli.run import plan
from selftrain.config import Config, ConfigError, load_config, read_yaml
from selftrain.estimate.fit import estimate, fits, lines
from selftrain.estimate.memory import GIB, Memory, Part
from selftrain.estimate.workload import longest_row
from selftrain.files import RunError
from selftrain.training.dry_run import check_gpus
from selftrain.training.hyperparameters import divide_batch

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
P7B, P2B, P32B = 8_291_375_616, 2_208_985_600, 33_452_718_336
LANGUAGE_7B = 7_615_616_512
ADAPTER_7B = 161_480_704


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Paths in a run's settings are relative to it."""
    monkeypatch.chdir(ROOT)


def shipped(name: str, *words: str, layer: str = "") -> Config:
    layers = [CONFIGS / "gpu" / f"{layer}.yaml"] if layer else []
    return load_config(CONFIGS / f"{name}.yaml", words, layers=layers)


def of(memory: Memory | None) -> dict[str, float]:
    assert memory is not None
    return {part.name.split(" of ")[0]: part.size for part in memory.parts}


# ---- sums --------------------------------------------------------------------------------------------------------

TOKEN_7B = 2 * 2 * 28 * 512  # bytes of a token's keys and values


def test_sampling_with_transformers():
    """96 greedy prompts of 336 image tokens and 256 others, or three samples of each of 32."""
    words = ["select_format=answer", "evaluation.strategies=[greedy, majority]", "model.max_pixels=263424"]
    parts = of(estimate(shipped("geoqa_qwen2vl_7b", *words)).sampling)
    assert parts["weights"] == 2 * P7B
    assert parts["cache"] == TOKEN_7B * 96 * (336 + 256 + 512)
    assert parts["reading prompts"] == 32768 * (TOKEN_7B + 2 * (3 * 18944 + 6 * 3584 + 4 * 3584))
    assert parts["logits"] == 16 * 96 * 152064


def test_a_prompt_is_held_once_for_its_samples():
    words = ["select_format=answer", "evaluation.strategies=[greedy]", "evaluation.max_tokens=1", "sampling.n=96"]
    many = of(estimate(shipped("geoqa_qwen2vl_7b", *words, "sampling.max_tokens=3000")).sampling)
    prompt = 262144 // 784 + 256
    assert many["cache"] == TOKEN_7B * (prompt + 96 * 3000)


def test_sampling_with_vllm():
    found = estimate(shipped("geoqa_qwen2vl_7b", "engine.kind=vllm", "engine.tensor_parallel=2", "gpu.count=2"))
    assert found.sampling is not None
    assert (of(found.sampling)["weights"], found.sampling.gpus, found.sampling.share) == (P7B, 2, 0.9)
    assert "room for 96 of 96 rows of 3,662 tokens" in str(found.sampling)


@pytest.mark.parametrize(
    ("name", "words", "weights", "gradients", "optimizer"),
    [
        ("geoqa_qwen2vl_7b", [], 2 * P7B + 4 * ADAPTER_7B, 4 * ADAPTER_7B, 8 * ADAPTER_7B),
        (
            "geoqa_qwen2vl_7b",
            ["training.hyperparameters=configs/llamafactory/qwen2vl_7b_lora_zero2.yaml", "training.processes=8"],
            2 * P7B + 2 * ADAPTER_7B, 2 * ADAPTER_7B / 8, 12 * ADAPTER_7B / 8,
        ),
        (
            "geoqa_qwen2vl_7b",
            ["training.hyperparameters=configs/llamafactory/qwen2vl_7b_lora_fsdp.yaml", "training.processes=8"],
            (2 * P7B + 4 * ADAPTER_7B) / 8, 4 * ADAPTER_7B / 8, 8 * ADAPTER_7B / 8,
        ),
        ("geoqa_qwen2vl_7b_full", [], 2 * P7B / 8, 2 * LANGUAGE_7B / 8, 12 * LANGUAGE_7B / 8),
        (
            "geoqa_qwen2vl_7b_full", ["training.overrides={deepspeed: null}"],
            4 * LANGUAGE_7B + 2 * (P7B - LANGUAGE_7B), 4 * LANGUAGE_7B, 8 * LANGUAGE_7B,
        ),
        (
            "geoqa_qwen2vl_7b_full",
            ["training.freeze_vision_tower=false", "training.freeze_multi_modal_projector=false"],
            2 * P7B / 8, 2 * P7B / 8, 12 * P7B / 8,
        ),
    ],
    ids=["lora", "zero2", "fsdp", "full zero3", "full alone", "all of full"],
)  # fmt: skip
def test_training(name, words, weights, gradients, optimizer):
    parts = of(estimate(shipped(name, *words)).training)
    assert parts["weights"] == pytest.approx(weights)
    assert parts["gradients"] == pytest.approx(gradients)
    assert parts["optimizer"] == pytest.approx(optimizer)


def test_activations_and_logits():
    tokens = 4 * 3662
    config = shipped("geoqa_qwen2vl_7b")
    parts = of(estimate(config).training)
    assert parts["activations"] == tokens * 2 * 3584 * 28
    assert parts["logits"] == 12 * tokens * 152064
    layer = 16 * 3584 + 2 * (5 * 3584 + 3 * 512) + 8 * 18944 + 11 * (5 * 3584 + 3584 + 18944)
    kept = of(estimate(shipped("geoqa_qwen2vl_7b", "training.overrides.disable_gradient_checkpointing=true")).training)
    assert kept["activations"] == tokens * layer * 28
    fused = of(estimate(shipped("geoqa_qwen2vl_7b", "training.overrides.enable_liger_kernel=true")).training)
    assert "logits" not in fused
    assert fused["a layer's activations"] == tokens * layer
    words = ("training.method=dpo", "training.overrides.enable_liger_kernel=true")
    for two in (of(estimate(config, pairs=True).training), of(estimate(shipped("geoqa_qwen2vl_7b", *words)).training)):
        assert two["activations"] == 2 * parts["activations"]
        assert two["logits"] == 2 * parts["logits"]  # LLaMA-Factory fuses the loss of an SFT alone


GROWING = [
    ("training.per_device_batch", 1, 8, "training"),
    ("sampling.max_tokens", 64, 700, "training"),
    ("build.select_shown", 2, 6, "training"),
    ("model.max_pixels", 50176, 802816, "training"),
    ("training.overrides.lora_rank", 8, 128, "training"),
    ("engine.batch_size", 8, 128, "sampling"),
    ("engine.prefill_tokens", 1024, 16384, "sampling"),
    ("evaluation.select_max_tokens", 512, 700, "sampling"),
]


@pytest.mark.parametrize(("key", "low", "high", "which"), GROWING, ids=[case[0] for case in GROWING])
def test_more_needs_more(key, low, high, which):
    few, many = (
        estimate(shipped("geoqa_qwen2vl_7b", "training.max_length=8192", f"{key}={value}")).memories[which].total
        for value in (low, high)
    )
    assert few < many


@pytest.mark.parametrize(
    ("words", "longest"),
    [
        ([], 334 + 256 + 5 * 512 + 512),
        (["select_format=answer"], 334 + 256 + 3 * 512 + 512),
        (["select_format=answer", "build.parts={qa: 1, cot: 0, refine: 0, select: 0}"], 334 + 256 + 16),
        (["select_format=answer", "build.parts={qa: 0, cot: 1, refine: 1, select: 0}"], 334 + 256 + 1024),
        (["select_format=answer", "build.parts.reflect=1", "rethink.max_tokens=3000"], 334 + 256 + 3000),
        (["training.max_length=3600"], 3600),
        (["traces=[{file: x.jsonl, kind: thinking}]"], 4096),  # of outside rows nothing is known but the limit
    ],
)
def test_the_longest_row(words, longest):
    config = shipped("geoqa_qwen2vl_7b", *words)
    assert longest_row(config, estimate(config).work) == longest


# ---- hours -------------------------------------------------------------------------------------------------------


def test_hours_are_of_the_problems_that_are_there(tmp_path):
    words = [f"data.folder={tmp_path}", "evaluation.strategies=[greedy]", "evaluation.test=none"]
    assumed = estimate(shipped("geoqa_qwen2vl_7b", *words))
    for name, number in (("train", 4000), ("dev", 10), ("test", 10)):
        (tmp_path / f"{name}.jsonl").write_text("{}\n" * number)
    found = estimate(shipped("geoqa_qwen2vl_7b", *words))
    assert found.hours is not None
    assert assumed.hours is not None
    assert (found.work.train, found.hours.assumed, assumed.hours.assumed) == (4000, False, True)
    assert found.hours.training == pytest.approx(4 * assumed.hours.training)
    half = estimate(shipped("geoqa_qwen2vl_7b", *words, "data.train_limit=2000")).hours
    assert half is not None
    assert half.training == pytest.approx(found.hours.training / 2)
    text = "\n".join(lines(shipped("geoqa_qwen2vl_7b", *words), found))
    assert "4,000 training problems, at assumed shares" in text


HOURS = [
    ("more iterations", ["iters=6"], 2.0, 2.0),
    ("eight times the GPUs in training", ["training.processes=8", "training.per_device_batch=1"], 1.0, 1 / 8),
    ("a faster GPU", ["gpu.tflops=624", "gpu.bandwidth=99999"], None, 0.5),
    ("fixed steps", ["training.overrides.max_steps=10", "training.overrides.global_batch_size=8"], 1.0, None),
    ("more samples", ["sampling.n=300"], None, 1.0),
]


@pytest.mark.parametrize(("words", "sampling", "training"), [case[1:] for case in HOURS], ids=[c[0] for c in HOURS])
def test_hours(words, sampling, training):
    before, after = (estimate(shipped("geoqa_qwen2vl_7b", *w)).hours for w in ([], words))
    assert before is not None
    assert after is not None
    if sampling is not None:
        assert after.sampling == pytest.approx(sampling * before.sampling)
    if training is not None:
        assert after.training == pytest.approx(training * before.training)
    assert (after.sampling, after.training) != (before.sampling, before.training)


def test_no_hours_without_a_speed():
    assert estimate(shipped("geoqa_qwen2vl_7b", "gpu.tflops=null")).hours is None
    assert estimate(shipped("geoqa_qwen2vl_7b", "gpu=null")).hours is None


# ---- whether it fits ---------------------------------------------------------------------------------------------


def memory(certain: float, rest: float, gpus: int = 1, share: float = 1.0) -> Memory:
    return Memory("x", (Part("weights", certain * GIB, certain=True), Part("cache", rest * GIB)), gpus, share)


@pytest.mark.parametrize(
    ("needed", "gib", "count", "state", "advice"),
    [
        (memory(15, 5), 24, 1, "ok", ""),
        (memory(15, 7.7), 24, 1, "ok", ""),
        (memory(15, 7.9), 24, 1, "note", "it may not fit in 24 GiB; lower training.per_device_batch"),
        (memory(15, 90), 24, 1, "note", "may not fit"),
        (memory(24.1, 0), 24, 1, "fail", "24.1 GiB of it do not depend on lengths, and the GPU has 24"),
        (memory(22, 0, share=0.9), 24, 1, "fail", "do not depend on lengths"),
        (memory(1, 1, gpus=8), 24, 1, "fail", "training takes 8 GPUs and gpu.count is 1; lower training.processes"),
    ],
)
def test_fits(needed, gib, count, state, advice):
    found = fits("training", needed, gib, count)
    assert found[0] == state
    assert advice in found[1]


FITS = [
    *((f"geoqa_{model}", f"{gpus}_{size}") for model, size in
      (("qwen2vl_2b", "2b"), ("qwen2_5vl_3b", "3b"), ("qwen2vl_7b", "7b")) for gpus in ("24gb", "80gb", "8x80gb")),
    ("geoqa_qwen2_5vl_7b", "24gb_7b"), ("geoqa_qwen3vl_8b", "8x80gb_7b"), ("geoqa_think_qwen2vl_7b", "24gb_7b"),
    ("r3v_original_qwen2vl_7b", "24gb_7b"), ("star_qwen2vl_7b", "24gb_7b"), ("mstar_qwen2vl_7b", "24gb_7b"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "layer"), FITS)
def test_a_layer_fits(name, layer):
    config = shipped(name, layer=layer)
    assert config.gpu is not None
    found = estimate(config)
    assert found.memories.keys() == {"sampling", "training"}
    states = {
        which: fits(which, needed, config.gpu.memory_gib, config.gpu.count) for which, needed in found.memories.items()
    }
    assert set(states.values()) == {("ok", "")}, found.memories
    assert found.hours is not None
    training = config.training
    batch = {**read_yaml(training.hyperparameters), **training.overrides}["global_batch_size"]
    assert divide_batch(batch, training.per_device_batch, training.processes) >= 1


NAMED = sorted(path.stem for path in CONFIGS.glob("*.yaml") if load_config(path).gpu is not None)


@pytest.mark.parametrize("name", NAMED)
def test_every_configuration_fits_on_the_gpus_that_it_names(name):
    config = shipped(name)
    assert config.gpu is not None
    given = config.data.folder.name.startswith("s1")  # only `selftrain train` goes with it
    found = estimate(config, given)
    for which, needed in found.memories.items():
        state, _ = fits(which, needed, config.gpu.memory_gib, config.gpu.count)
        assert state == "ok", needed


def test_which_configurations_name_gpus():
    """All that a tiny model, a server or a rehearsal does not answer for."""
    assert len(NAMED) >= 26
    assert not {"demo", "rehearsal", "quick", "smoke"} & {*NAMED}


REFUSED = [
    ("geoqa_qwen2vl_72b", ["engine.tensor_parallel=1"], "sampling, vllm engine: 136.7 weights"),
    ("geoqa_qwen2vl_7b", ["gpu.memory_gib=12"], "15.4 GiB of it do not depend on lengths, and the GPU has 12"),
    ("geoqa_qwen2vl_7b_full", ["training.processes=1"], "training, full: .* lengths, and the GPU has 80"),
    ("geoqa_qwen2vl_7b", ["training.processes=2"], "training takes 2 GPUs and gpu.count is 1"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "words", "message"), REFUSED)
def test_what_cannot_fit_is_refused_before_a_run_starts(tmp_path, name, words, message, monkeypatch):
    monkeypatch.setattr(doctor, "_training", lambda config: [])
    config = shipped(name, f"output={tmp_path}", *words)
    with pytest.raises(ConfigError, match=message):
        doctor.check_before_run(config)


def test_a_training_of_given_rows_that_cannot_fit():
    with pytest.raises(RunError, match=r"training, full: .* 80; .*; or correct gpu:"):
        check_gpus(shipped("s1_qwen2_5vl_32b", "training.nodes=1", "training.launcher=[]", "training.processes=4"))
    check_gpus(shipped("s1_qwen2_5vl_32b"))
    check_gpus(shipped("demo"))


def states(config: Config, gpus: list[float]) -> list[tuple[str, str, str]]:
    return [(finding.state, finding.found, finding.advice) for finding in doctor._gpu_memory(config, gpus)]


def test_doctor_compares_with_the_gpu_of_the_machine():
    config = shipped("geoqa_qwen2vl_7b", layer="80gb_7b")
    named = states(config, [])
    assert [state for state, *_ in named] == ["ok"] * 4
    assert "4 x 4,096 tokens" in named[2][1], "the longest rows that `selftrain train` takes"
    assert named[3][1].startswith("about ")
    small = states(config, [23.6, 79.2])
    assert small[:-1] == named
    assert "is for 80 GiB, and a GPU of this machine has 24" in small[-1][1]
    assert "--layer" in small[-1][2]
    unnamed = states(shipped("geoqa_qwen2vl_7b", "gpu=null"), [23.6])
    assert [state for state, *_ in unnamed] == ["note"] * 3
    assert states(shipped("demo"), []) == []


def test_a_model_of_unknown_size_is_not_estimated(tmp_path):
    config = shipped("geoqa_qwen2vl_7b", f"model.path={tmp_path}/mine")
    ((state, found, _),) = states(config, [])
    assert state == "note"
    assert "not estimated: the size of" in found
    assert "not estimated" in plan(config)


def test_a_plan_has_the_sum():
    text = plan(shipped("geoqa_qwen2vl_7b"))
    assert "GPU memory at the most, of 8.29 billion parameters (the published Qwen2-VL-7B)" in text
    assert "sampling, hf engine: 15.4 weights + " in text
    assert "training, lora: 16.0 weights + 0.6 gradients + 1.2 optimizer + " in text
    assert "GPU memory" not in plan(shipped("demo"))


def test_gpus_change_no_result():
    plain, layered = shipped("geoqa_qwen2vl_7b", "gpu=null"), shipped("geoqa_qwen2vl_7b")
    assert plain.digest() == layered.digest()
