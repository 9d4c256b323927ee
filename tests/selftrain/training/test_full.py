"""The weights of a full fine-tuning: the form of the base, checked; the room they take; and one real training."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file, save_file

from selftrain.config import ConfigError, load_config
from selftrain.files import RunError
from selftrain.training import disk
from selftrain.training.adapter import merge
from selftrain.training.disk import DiskPlan, check_room, disk_plan
from selftrain.training.dry_run import training_plan
from selftrain.training.full import adopt
from selftrain.training.hyperparameters import HyperparameterError, TrainingError
from selftrain.training.open_turns import load_by_core_name
from selftrain.training.weight_files import header_of, weights_files
from tests.selftrain.engines.decoding.test_lora_merge import write_adapter

ROOT = Path(__file__).parents[3]
NAMES = ("model.embed_tokens.weight", "model.layers.0.q_proj.weight", "visual.merger.weight")
NESTED = ("model.language_model.embed_tokens.weight", "model.language_model.layers.0.q_proj.weight",
          "model.visual.merger.weight")  # fmt: skip


def checkpoint(folder: Path, names=NAMES, value: float = 1.0, dtype=torch.bfloat16, shards: int = 1, **more) -> Path:
    """A checkpoint of small matrices in `shards` files, with a configuration and a tokenizer of sorts."""
    folder.mkdir(parents=True)
    tensors = {name: torch.full((6, 4), value, dtype=dtype) for name in names} | more.pop("tensors", {})
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    else:
        places = {name: f"model-{k % shards}.safetensors" for k, name in enumerate(tensors)}
        for file in set(places.values()):
            save_file({n: t for n, t in tensors.items() if places[n] == file}, folder / file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    (folder / "config.json").write_text(json.dumps({"dtype": "bfloat16", **more}))
    (folder / "tokenizer.json").write_text("{}")
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_values_take_the_form_of_the_base(tmp_path, shards):
    """Names, dtypes and files of the base; one file of float32 under other names is what the trainer left."""
    base = checkpoint(tmp_path / "base", shards=shards)
    trained = checkpoint(tmp_path / "trained", NESTED, 1.25, torch.float32)
    adopt(trained, base, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == sorted(path.name for path in base.iterdir())
    for file in weights_files(base):
        assert header_of(tmp_path / "out" / file.name) == header_of(file)
        for name, tensor in load_file(tmp_path / "out" / file.name).items():
            assert tensor.dtype == torch.bfloat16
            assert tensor.eq(1.25).all(), name


def test_a_tied_head_is_the_embedding(tmp_path):
    base = checkpoint(tmp_path / "base", (*NAMES, "lm_head.weight"), tie_word_embeddings=True)
    adopt(checkpoint(tmp_path / "trained", NESTED, 2.0), base, tmp_path / "out")
    assert load_file(tmp_path / "out/model.safetensors")["lm_head.weight"].eq(2).all()


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ({"names": NESTED[:2], "value": 2.0}, "left no tensor visual.merger.weight"),
        ({"tensors": {NAMES[1]: torch.full((6, 4), math.nan)}, "value": 2.0}, "q_proj.weight .*NaN or infinity"),
        ({"tensors": {NAMES[2]: torch.full((6, 4), math.inf)}, "value": 2.0}, "merger.weight .*NaN or infinity"),
        ({"tensors": {NAMES[1]: torch.ones(6, 5)}, "value": 2.0}, r"do not fit .*the shape \[6, 5\], not \[6, 4\]"),
        ({}, "equals .* in every number"),
        ({"value": 1.0001, "dtype": torch.float32}, "equals .* in every number"),  # less than bfloat16 can show
    ],
)
def test_weights_that_cannot_be_trusted(tmp_path, trained, message):
    base = checkpoint(tmp_path / "base")
    with pytest.raises(TrainingError, match=message):
        adopt(checkpoint(tmp_path / "trained", **trained), base, tmp_path / "out")


@pytest.mark.parametrize("harm", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-9])])
def test_a_training_that_left_no_whole_checkpoint(tmp_path, harm):
    trained = checkpoint(tmp_path / "trained", value=2.0)
    harm(trained / "model.safetensors")
    with pytest.raises(TrainingError, match="left no whole checkpoint"):
        adopt(trained, checkpoint(tmp_path / "base"), tmp_path / "out")


@pytest.mark.parametrize("shards", [1, 2])
def test_an_adapter_is_merged_in_the_precision_of_the_base(tmp_path, shards):
    base = checkpoint(tmp_path / "base", shards=shards)
    out = merge(base, write_adapter(tmp_path / "adapter"), tmp_path / "out")
    found = {name: tensor for file in weights_files(out) for name, tensor in load_file(file).items()}
    assert {name: tensor[0, 0].item() for name, tensor in found.items()} == dict(
        zip(NAMES, (1.0, 3.0, 1.0), strict=True)
    )
    assert {tensor.dtype for tensor in found.values()} == {torch.bfloat16}
    assert (out / "tokenizer.json").is_file()
    assert not (tmp_path / "out.partial").exists()


class Model:
    """What a trainer has to fill: tensors by today's names, one of them tied."""

    def __init__(self) -> None:
        embedding = torch.zeros(6, 4)
        self.tensors = {name: torch.zeros(6, 4) for name in NESTED}
        self.tensors |= {NESTED[0]: embedding, "lm_head.weight": embedding}

    def state_dict(self):
        return self.tensors


def test_a_trainer_finds_renamed_weights(tmp_path):
    model = Model()
    load_by_core_name(model, checkpoint(tmp_path / "a", value=3.0))
    assert all(tensor.eq(3).all() for tensor in model.tensors.values())
    with pytest.raises(ValueError, match=r"holds no model\.visual\.merger\.weight"):
        load_by_core_name(Model(), checkpoint(tmp_path / "b", NAMES[:2]))


# ---- settings ----------------------------------------------------------------------------------------------------

FULL = ("training.finetuning_type=full", "training.hyperparameters=configs/llamafactory/tiny_full.yaml")


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch):
    """Paths in a run's settings are relative to it."""
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["training.keep_weights=last"], "keep_weights is for finetuning_type full"),
        (["training.freeze_vision_tower=false"], "freeze_vision_tower is for finetuning_type full"),
        ([*FULL, "training.keep_weights=last", "evaluation.test=all"], "evaluation.test all measures every"),
        ([*FULL, "training.keep_weights=best"], "'last', 'accepted' or 'all'"),
    ],
)
def test_settings_that_exclude_each_other(words, message):
    with pytest.raises(ConfigError, match=message):
        load_config(None, words)


def test_adapters_own_settings_are_refused():
    with pytest.raises(HyperparameterError, match=r"lora_alpha, lora_dropout, .*only adapters have that"):
        training_plan(load_config(None, FULL[:1]))


def test_the_identity_of_a_run_names_full_fine_tuning_only():
    """Run folders of adapters from before can be resumed; what is kept is free to change."""
    plain, full = load_config(None).identity()["training"], load_config(None, FULL).identity()["training"]
    assert not {"finetuning_type", "freeze_vision_tower", "freeze_multi_modal_projector", "keep_weights"} & set(plain)
    assert (full["finetuning_type"], full["freeze_vision_tower"]) == ("full", True)
    assert load_config(None, FULL).digest() == load_config(None, [*FULL, "training.keep_weights=last"]).digest()


# ---- the disk ----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sets", "trainer", "checkpoints"),
    [
        ([], 5, 288, 0),
        (["training.keep_weights=accepted"], 3, 288, 0),
        (["training.keep_weights=last", "iters=2"], 2, 288, 0),
        (["warmup={qa: 1}"], 6, 288, 0),
        (["warmup={qa: 1}", "training.restart=warmup", "training.keep_weights=last"], 4, 288, 0),
        (["training.save_steps=5"], 5, 288, 2 * 72 * 12),
        (["training.overrides={deepspeed: zero3.json}", "training.save_steps=5"], 5, 144, 2 * 72 * 14),
        (["training.overrides={deepspeed: zero2.json}", "training.save_steps=5"], 5, 288, 2 * 72 * 16),
    ],
)
def test_the_room_that_weights_take(tmp_path, words, sets, trainer, checkpoints):
    """72 numbers: 2 bytes each in the base, 4 while they are trained, 8 for Adam, 4 for DeepSpeed's own copy."""
    base = checkpoint(tmp_path / "base")
    config = load_config(None, [*FULL, "iters=5", f"model.path={base}", f"output={tmp_path / 'run'}", *words])
    found = disk_plan(config)
    assert (found.sets, found.trainer, found.checkpoints) == (sets, trainer, checkpoints)
    assert found.each == (base / "model.safetensors").stat().st_size
    assert found.needed == sets * found.each + trainer + checkpoints
    shutil.copytree(base, tmp_path / "run/iter1/train/weights")  # of an interrupted run
    size = sum(path.stat().st_size for path in base.iterdir())
    assert disk_plan(config).needed == found.needed - size


def test_a_dry_run_where_the_base_is_not():
    plan = training_plan(load_config(ROOT / "configs/geoqa_qwen2vl_7b_full.yaml"))
    assert plan[0] == "64 rows per step = 2 at a time x 8 processes x 1 nodes x 4 accumulated"
    assert any(line.startswith("disk: not known here: full fine-tuning needs the base") for line in plan)


def test_adapters_and_rehearsals_need_no_plan():
    assert disk_plan(load_config(None)) is None
    assert disk_plan(load_config(None, [*FULL, "engine.kind=scripted"])) is None


def test_a_base_without_safetensors_is_refused(tmp_path):
    with pytest.raises(RunError, match="needs the base as safetensors files"):
        disk_plan(load_config(None, [*FULL, f"model.path={tmp_path}"]))


def test_a_full_disk_is_refused_with_the_arithmetic(tmp_path, monkeypatch):
    gib = 2**30
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: SimpleNamespace(free=40 * gib))
    plan = DiskPlan(tmp_path / "run", "all", 5, 16 * gib, 32 * gib, 0, 2 * gib)
    with pytest.raises(RunError) as refused:
        check_room(plan)
    assert (
        "5 x 16.0 GiB of weights (training.keep_weights: all) + 32.0 GiB that the trainer writes before they are "
        f"rounded - 2.0 GiB that are there = 110.0 GiB in {tmp_path / 'run'}; 40.0 GiB are free"
    ) in str(refused.value)
    assert "set training.keep_weights to accepted or last" in str(refused.value)
    check_room(DiskPlan(tmp_path / "run", "last", 1, 16 * gib, 24 * gib, 0, 0))
