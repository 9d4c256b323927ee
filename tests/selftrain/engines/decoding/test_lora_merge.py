"""Adding an adapter into weights without PEFT, against PEFT; and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from selftrain.engines.base import EngineError
from selftrain.engines.decoding.lora_merge import merged, moves
from tests.selftrain.engines.adapters import random_adapter

LAYER = "base_model.model.model.language_model.layers.0.q_proj"


def write_base(folder: Path, name: str = "model.layers.0.q_proj.weight", shape=(6, 4)) -> Path:
    from safetensors.torch import save_file

    folder.mkdir(exist_ok=True)
    save_file({name: torch.ones(shape), "lm_head.weight": torch.zeros(2, 4)}, folder / "model.safetensors")
    return folder


def write_adapter(folder: Path, *, rank=2, module=LAYER, shape=(6, 4), b=1.0, halves="AB", extra=(), **config) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    tensors = {"A": torch.full((rank, shape[1]), 0.5), "B": torch.full((shape[0], rank), b)}
    found = {f"{module}.lora_{half}.weight": tensors[half] for half in halves}
    save_file({**found, **{name: torch.ones(1) for name in extra}}, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "bias": "none", **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "config", "expected"),
    [
        ("model.layers.0.q_proj.weight", {}, 1 + 2.0 * 1.0),  # 4 / 2 times (1 x 0.5 + 1 x 0.5)
        ("model.language_model.layers.0.q_proj.weight", {}, 3.0),
        ("language_model.model.layers.0.q_proj.weight", {"lora_alpha": 2}, 2.0),
        ("model.layers.0.q_proj.weight", {"use_rslora": True}, 1 + 4 / 2**0.5),
    ],
)
def test_the_sum(tmp_path, name, config, expected):
    base, adapter = write_base(tmp_path / "base", name), write_adapter(tmp_path / "adapter", **config)
    found = dict(merged(base, adapter))
    assert found.keys() == {name, "lm_head.weight"}
    torch.testing.assert_close(found[name], torch.full((6, 4), expected))
    assert not found["lm_head.weight"].any()
    assert dict(merged(base, None))[name].eq(1).all()


def test_a_checkpoint_takes_the_place_of_the_base(tmp_path):
    base, trained = write_base(tmp_path / "base"), write_base(tmp_path / "trained", shape=(3, 2))
    (trained / "config.json").write_text("{}")
    assert dict(merged(base, trained))["model.layers.0.q_proj.weight"].shape == (3, 2)
    assert moves(trained)


def test_moves(tmp_path):
    assert moves(write_adapter(tmp_path / "a"))
    assert not moves(write_adapter(tmp_path / "b", b=0.0))


@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        ({"module": LAYER.replace("0", "7")}, r"layers\.7\.q_proj is not in the base model; it belongs to another"),
        ({"shape": (6, 5)}, r"is \(6, 4\) there, not \(6, 5\)"),
        ({"halves": "A"}, "lacks a half"),
        ({"rank": 3}, "is not of rank 2"),
        ({"extra": ["base_model.model.lm_head.weight"]}, r"lm_head\.weight is no part of a LoRA layer"),
        ({"use_dora": True}, "with use_dora=True; only plain LoRA"),
        ({"modules_to_save": ["lm_head"]}, "only plain LoRA"),
        ({"rank_pattern": {"q_proj": 8}}, "only plain LoRA"),
        ({"peft_type": "IA3"}, "is of type IA3"),
        ({"r": None}, "holds no adapter"),
    ],
)
def test_refused_before_the_first_tensor(tmp_path, adapter, message):
    base, folder = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter", **adapter)
    with pytest.raises(EngineError, match=message):
        next(merged(base, folder))


def test_torn_or_missing_files(tmp_path):
    base, adapter = write_base(tmp_path / "base"), write_adapter(tmp_path / "adapter")
    weights = adapter / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(EngineError, match="no readable adapter_model"):
        next(merged(base, adapter))
    weights.unlink()
    with pytest.raises(EngineError, match="no readable adapter_model"):
        next(merged(base, adapter))
    with pytest.raises(EngineError, match="holds no adapter"):
        next(merged(base, tmp_path / "none"))
    with pytest.raises(EngineError, match=r"holds no \*\.safetensors"):
        next(merged(tmp_path, None))


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"use_rslora": True, "r": 8}])
def test_against_peft(tiny_model, tmp_path, options):
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText

    adapter = random_adapter(tiny_model, tmp_path / "adapter", **options)
    base = AutoModelForImageTextToText.from_pretrained(tiny_model, dtype=torch.float32)
    theirs = PeftModel.from_pretrained(base, str(adapter)).merge_and_unload()
    theirs.save_pretrained(tmp_path / "merged")
    expected = dict(merged(tmp_path / "merged", None))
    found = dict(merged(tiny_model, adapter))
    assert found.keys() == expected.keys()
    changed = 0
    for name, tensor in merged(tiny_model, None):
        assert torch.equal(found[name].float(), expected[name].float()), name
        changed += bool((found[name].float() != tensor.float()).any())
    assert changed == 3 * 4  # layers, projections
