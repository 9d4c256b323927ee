"""DPO through LLaMA-Factory: what its settings resolve to, what is measured, and two steps of the real one."""

from __future__ import annotations

import json
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from data_process.building.sharegpt import to_row
from data_process.schema import DataError
from selftrain.config import load_config
from selftrain.training import hyperparameters, llamafactory
from selftrain.training.adapter import read_tensors
from selftrain.training.dry_run import settings_of, training_plan
from selftrain.training.hyperparameters import (
    HyperparameterError,
    TrainingError,
    TrainingSettings,
    read_hyperparameters,
)
from selftrain.training.llamafactory import mean_rewards, train
from selftrain.training.row_lengths import PreflightReport, preflight
from tests.selftrain.training.test_llamafactory import (
    CONFIGS,
    LIMITS,
    OneTokenPerCharacter,
    example,
    rows,
    run,  # fixtures  # noqa: F401
    save_adapter,
    stand_in,  # noqa: F401
    store,  # noqa: F401
)

ROOT = Path(__file__).parents[3]
DPO = "training.method=dpo"


def pairs(n: int):
    return [replace(row, rejected=f"No reason.\nAnswer: ({'BCDA'[i % 4]})") for i, row in enumerate(rows(n))]


def resolve(tmp_path, adapter=None, stage="dpo", **changes):
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", per_device_batch=8)
    values = {"global_batch_size": 32, "lora_rank": 4, **changes}
    return hyperparameters.resolve(values, settings, tmp_path, tmp_path / "out", 300, LIMITS, adapter, stage=stage)


def test_a_dpo_is_explicit(tmp_path):
    resolved = resolve(tmp_path)
    assert (resolved["stage"], resolved["pref_beta"], resolved["pref_loss"]) == ("dpo", 0.1, "sigmoid")
    assert "ref_model" not in resolved, "LLaMA-Factory compares with the base: the model without its adapter"
    assert resolve(tmp_path, pref_beta=0.5)["pref_beta"] == 0.5
    plain = resolve(tmp_path, stage="sft")
    assert plain["stage"] == "sft"
    assert not {"pref_beta", "pref_loss"} & plain.keys()


@pytest.mark.parametrize(("loss", "compares"), [("sigmoid", True), ("orpo", False), ("simpo", False)])
def test_the_reference_is_where_the_training_starts(tmp_path, loss, compares):
    adapter = save_adapter(tmp_path / "previous", [1.0])
    resolved = resolve(tmp_path, adapter, pref_loss=loss)
    assert resolved["adapter_name_or_path"] == str(adapter.resolve())
    expected = (resolved["model_name_or_path"], str(adapter.resolve())) if compares else (None, None)
    assert (resolved.get("ref_model"), resolved.get("ref_model_adapters")) == expected


@pytest.mark.parametrize(
    ("stage", "changes", "message"),
    [
        ("sft", {"pref_beta": 0.2}, "an SFT does not read pref_beta; put it under training.dpo.overrides"),
        ("sft", {"pref_loss": "orpo"}, "an SFT does not read pref_loss"),
        ("dpo", {"pref_loss": "ipo"}, "pref_loss 'ipo' cannot be used; .* sigmoid, orpo, simpo"),
        ("dpo", {"pref_loss": "sigmod"}, "pref_loss 'sigmod' cannot be used"),
        ("dpo", {"packing": True}, "DPO does not read packing"),
        ("rm", {"packing": True}, r"A reward head's training does not read packing; .* in reward\.overrides"),
        ("rm", {"pref_beta": 0.2}, "the training of a reward head does not read pref_beta; remove it"),
    ],
)
def test_settings_that_would_change_nothing(tmp_path, stage, changes, message):
    with pytest.raises(HyperparameterError, match=message):
        resolve(tmp_path, stage=stage, **changes)


def test_a_reward_head_has_no_reference_and_is_no_full_training(tmp_path):
    adapter = save_adapter(tmp_path / "previous", [1.0])
    assert resolve(tmp_path, stage="rm")["stage"] == "rm"
    assert "ref_model" not in resolve(tmp_path, adapter, stage="rm")
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", finetuning_type="full")
    with pytest.raises(HyperparameterError, match="preference pairs train adapters alone"):
        hyperparameters.resolve({"global_batch_size": 8}, settings, tmp_path, tmp_path, 300, LIMITS, stage="rm")


def test_the_reference_is_set_by_the_loop(tmp_path):
    with pytest.raises(HyperparameterError, match=r"ref_model .*is set by the loop"):
        read_hyperparameters(CONFIGS / "tiny_lora.yaml", {"ref_model": "x"}, Path(sys.executable))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.overrides={pref_beta: 0.2}"], "an SFT does not read pref_beta"),
        (
            [DPO, "training.dpo.sft_iterations=1", "training.overrides={pref_beta: 0.2}"],
            "an SFT does not read pref_beta",
        ),
        ([DPO, "training.dpo.overrides={pref_loss: hinge}"], "pref_loss 'hinge' cannot be used"),
        ([DPO, "training.dpo.overrides={global_batch_size: 30}"], "30 is not a multiple of 8"),
    ],
)
def test_a_plan_that_no_training_would_start_with(words, message):
    with pytest.raises(HyperparameterError, match=message):
        training_plan(load_config(None, words))


@pytest.mark.slow
def test_the_plan_says_where_dpo_begins(monkeypatch):
    monkeypatch.chdir(ROOT)
    plan = training_plan(load_config(ROOT / "configs/demo_dpo.yaml"))
    assert plan[0] == "DPO in iteration 2 and later, starting from the previous weights"
    assert plan[1].startswith("32 rows per step")
    assert training_plan(load_config(None, [DPO, "training.overrides={pref_beta: 0.2}"]))[0].startswith(
        "DPO in iteration 1 and later, starting from the base weights"
    )
    config = load_config(ROOT / "configs/demo_dpo.yaml")
    of_dpo = settings_of(config, 0, config.training.dpo.overrides).overrides
    assert of_dpo == {"max_steps": 100, "learning_rate": 2e-4, "pref_beta": 0.1}


@pytest.mark.slow
def test_a_pair_is_as_long_as_its_longer_text(monkeypatch):
    """Either text must fit; LLaMA-Factory would truncate both to the longer one's share."""
    import transformers

    from selftrain.training import row_lengths

    class Processor(OneTokenPerCharacter):
        def __init__(self):
            self.tokenizer = super().tokenizer
            self.image_processor = None

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", lambda _, **__: Processor())
    monkeypatch.setattr(row_lengths, "family_of", lambda _: None)
    monkeypatch.setattr(row_lengths, "check_frame", lambda *_: None)
    monkeypatch.setattr(row_lengths, "count_image_tokens", lambda *_: {})
    around = len("[user]<end>[assistant]<end>")
    given = [
        replace(example(0, "12345", "123"), rejected="1234567"),
        replace(example(1, "12345", "1234567"), rejected="1"),
        replace(example(2, "12345", "123"), rejected="1" * 50),
        replace(example(3, "12345", "123"), rejected="<image>"),
    ]
    report = preflight(given, Path("model"), Path, around + 5 + 20, 0.6)
    assert report.lengths == [around + 5 + 7] * 2
    assert report.dropped == {"too_long": 1, "mark_in_rejected": 1}
    with pytest.raises(DataError, match=r"e2, has \d+ tokens"):
        preflight(given, Path("model"), Path, around + 5 + 20, 0.1)


@pytest.mark.parametrize(
    ("history", "expected"),
    [
        ([(0.0, -1.0), (1.0, 3.0)], {"accuracy": 1.0, "margin": 3.0}),
        ([(0.0, 0.0)] * 6 + [(0.5, 1.0), (1.0, 2.0)], {"accuracy": 0.75, "margin": 1.5}),
    ],
)
def test_rewards_of_the_last_steps(tmp_path, history, expected):
    lines = [{"loss": 1.0, "rewards/accuracies": a, "rewards/margins": m} for a, m in history]
    (tmp_path / "trainer_state.json").write_text(json.dumps({"log_history": [*lines, {"train_loss": 1.0}]}))
    assert mean_rewards(tmp_path) == expected


def test_a_dpo_without_rewards_is_refused(run, stand_in, monkeypatch):  # noqa: F811
    report = PreflightReport([100], [replace(example(0), rejected="x")], Counter())
    monkeypatch.setattr(llamafactory, "preflight", lambda *_: report)
    monkeypatch.setattr(
        llamafactory, "run_child", _with_state(llamafactory.run_child, {"global_step": 2, "log_history": [{"loss": 1}]})
    )
    with pytest.raises(TrainingError, match="logged no rewards"):
        run(stand_in("fine"))


def _with_state(real, state):
    def child(settings, resolved, *more):
        real(settings, resolved, *more)
        (Path(resolved["output_dir"]) / "trainer_state.json").write_text(json.dumps(state))

    return child


def test_a_training_that_leaves_no_reward_head_is_refused(run, stand_in, monkeypatch, tmp_path):  # noqa: F811
    report = PreflightReport([100], [replace(example(0), rejected="x")], Counter())
    monkeypatch.setattr(llamafactory, "preflight", lambda *_: report)
    with pytest.raises(TrainingError, match=r"has no value_head\.safetensors: LLaMA-Factory left no reward head"):
        run(stand_in("fine"), head=True)
    assert yaml.safe_load((tmp_path / "a folder/train.yaml").read_text())["stage"] == "rm"


@pytest.mark.slow
def test_real_dpo_steps_from_the_base_and_from_an_adapter(tiny_model_path, store, tmp_path):  # noqa: F811
    """Two steps each. Policy and reference are the same before the first, so its loss is ln 2, and rewards are 0.

    In float32: LLaMA-Factory folds the reference's adapter into its weights, which rounds them to bfloat16 otherwise.
    """
    overrides = {"global_batch_size": 8, "lora_rank": 4, "lora_alpha": 8, "max_steps": 2, "warmup_steps": 0}
    settings = TrainingSettings(
        hyperparameters=CONFIGS / "tiny_lora.yaml", overrides=overrides, per_device_batch=4, save_steps=1,
        dtype="float32",
    )  # fmt: skip
    shared = {"settings": settings, "base_model": tiny_model_path, "image_path": store.path, "image_limits": LIMITS}
    first = train(pairs(16), out=tmp_path / "first", checkpoints=tmp_path / "kept", **shared)
    assert (first.steps, first.rows) == (2, 16)
    second = train(pairs(16), out=tmp_path / "second", start=first.weights, **shared)
    for result in (first, second):
        history = json.loads((result.weights / "trainer_state.json").read_text())["log_history"]
        losses = [entry["loss"] for entry in history if "rewards/margins" in entry]
        assert losses[0] == pytest.approx(0.6931, abs=2e-3)
        assert losses[1] < losses[0]
        margins = [entry["rewards/margins"] for entry in history if "rewards/margins" in entry]
        assert margins[0] == pytest.approx(0, abs=2e-2)
        assert margins[1] > 0.01
        assert result.rewards == {"accuracy": result.rewards["accuracy"], "margin": margins[-1]}
    assert yaml.safe_load((tmp_path / "second/train.yaml").read_text())["ref_model_adapters"] == str(first.weights)


@pytest.mark.slow
def test_an_interrupted_dpo_resumes(tiny_model_path, store, tmp_path):  # noqa: F811
    """From a step's checkpoint, with the steps that an uninterrupted one takes."""
    overrides = {"global_batch_size": 4, "lora_rank": 4, "lora_alpha": 8, "max_steps": 4, "warmup_steps": 0}
    settings = TrainingSettings(
        hyperparameters=CONFIGS / "tiny_lora.yaml", overrides=overrides, per_device_batch=4, save_steps=1,
        dtype="float32",
    )  # fmt: skip
    shared = {"settings": settings, "base_model": tiny_model_path, "image_path": store.path, "image_limits": LIMITS}
    said = []

    def stop(line):
        if line.get("current_steps") == 2:  # the checkpoint of step 1 is whole
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(pairs(16), out=tmp_path / "stopped", checkpoints=tmp_path / "kept", on_progress=stop, **shared)
    shutil.rmtree(tmp_path / "stopped")
    resumed = train(pairs(16), out=tmp_path / "stopped", checkpoints=tmp_path / "kept", say=said.append, **shared)
    whole = train(pairs(16), out=tmp_path / "whole", **shared)
    assert any("resuming the interrupted training after step" in line for line in said), said
    assert resumed.steps == whole.steps == 4
    assert resumed.rewards == pytest.approx(whole.rewards, rel=1e-3)
    a, b = (read_tensors(result.weights / "adapter_model.safetensors") for result in (resumed, whole))
    assert all(np.allclose(a[name], b[name], atol=1e-5) for name in a.keys() | b.keys())


@pytest.mark.slow
def test_what_a_pair_is_trained_on(tiny_model_path, store, tmp_path):  # noqa: F811
    """The same prompt before both texts, loss on the texts and their ends alone, and lengths as in the pre-flight."""
    from llamafactory.data import get_template_and_fix_tokenizer
    from llamafactory.data.converter import SharegptDatasetConverter
    from llamafactory.data.parser import DatasetAttr
    from llamafactory.data.processor import PairwiseDatasetProcessor
    from llamafactory.hparams import get_train_args
    from llamafactory.model import load_tokenizer

    given = pairs(8)
    report = preflight(given, tiny_model_path, store.path, 2048)
    settings = TrainingSettings(hyperparameters=CONFIGS / "tiny_lora.yaml", per_device_batch=8)
    values = hyperparameters.read_hyperparameters(settings.hyperparameters, {}, settings.interpreter)
    longest = max(report.lengths)
    resolved = hyperparameters.resolve(
        values, settings, tiny_model_path, tmp_path / "out", longest, LIMITS, stage="dpo"
    )
    model_args, data_args, *_ = get_train_args(resolved)
    module = load_tokenizer(model_args)
    tokenizer = module["tokenizer"]
    template = get_template_and_fix_tokenizer(tokenizer, data_args)
    encoder = PairwiseDatasetProcessor(template=template, data_args=data_args, **module)
    tags = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
    columns = {"messages": "messages", "images": "images", "chosen": "chosen", "rejected": "rejected"}
    attr = DatasetAttr("file", "x", formatting="sharegpt", ranking=True, **columns, **tags)
    converter = SharegptDatasetConverter(dataset_attr=attr, data_args=data_args)
    for row, length in zip(report.kept, report.lengths, strict=True):
        aligned = converter(to_row(row, store.path))
        features = encoder.preprocess_dataset({key: [value] for key, value in aligned.items()})
        ids = {name: features[f"{name}_input_ids"][0] for name in ("chosen", "rejected")}
        assert max(map(len, ids.values())) == length
        for name, text in (("chosen", row.target), ("rejected", row.rejected)):
            labels = features[f"{name}_labels"][0]
            trained = [i for i in labels if i != -100]
            assert tokenizer.decode(trained) == text + "<|im_end|>\n"
            assert labels[-len(trained) :] == trained == ids[name][-len(trained) :]
            assert ids[name][: -len(trained)] == ids["chosen"][: len(ids[name]) - len(trained)]
