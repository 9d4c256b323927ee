"""Every reader of a model folder's small files, on every kind of damage: an error that names the file, and no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from data_process.errors import UserError
from selftrain import doctor
from selftrain.config import build_config
from selftrain.engines.decoding.lora_merge import _read
from selftrain.engines.vllm_config import generation_eos
from selftrain.engines.vllm_server import _lora_rank, _template
from selftrain.export.weights import generation_config
from selftrain.families import chat_template, family_of, family_of_adapter, pixel_limits, read_model_config
from selftrain.sampling.bank import Bank
from selftrain.sampling.weights import weights_digest
from selftrain.training.adapter import shape_of
from selftrain.training.hyperparameters import zero_settings
from selftrain.training.precision import stored_dtype
from selftrain.training.weight_files import INDEX, header_of, weights_files

DAMAGES = {
    "cut": b'{"a": ',
    "empty": b"",
    "list": b"[]",
    "number": b"5",
    "null": b"null",
    "deep": b"[" * 200_000,
    "not UTF-8": b'{"a": "\xff"}',
    "long number": b'{"a": ' + b"9" * 5000 + b"}",
}


def digest(folder: Path) -> str:
    (folder / "adapter_model.safetensors").write_bytes(b"adapter")
    base = folder / "base"
    base.mkdir()
    (base / "model.safetensors").write_bytes(b"weights")
    with Bank(folder / "bank.sqlite") as bank:
        return weights_digest(bank, base, folder)


ADAPTER = "adapter_config.json"
READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "model's settings": ("config.json", read_model_config),
    "family": ("config.json", family_of),
    "dtype": ("config.json", stored_dtype),
    "end of turn": ("generation_config.json", generation_eos),
    "special tokens": ("generation_config.json", generation_config),
    "server's template": ("tokenizer_config.json", _template),
    "index": (INDEX, weights_files),
    "header": ("model.safetensors", lambda folder: header_of(folder / "model.safetensors")),
    "DeepSpeed": ("zero.json", lambda folder: zero_settings("zero.json", folder)),
    "adapter's rank": (ADAPTER, lambda folder: _lora_rank([folder])),
    "adapter's shape": (ADAPTER, shape_of),
    "adapter's factor": (ADAPTER, _read),
    "adapter's digest": (ADAPTER, digest),
}
# They look whether a file says something, and leave what is wrong with it to whoever opens it.
LENIENT: dict[str, tuple[str, Callable[[Path], object]]] = {
    "pixels": ("preprocessor_config.json", pixel_limits),
    "template": ("tokenizer_config.json", chat_template),
    "adapter's family": (ADAPTER, family_of_adapter),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", READERS)
def test_damage_is_named(tmp_path, reader, damage):
    name, read = READERS[reader]
    (tmp_path / name).write_bytes(DAMAGES[damage])
    with pytest.raises(UserError, match=tmp_path.name):
        read(tmp_path)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("reader", LENIENT)
def test_damage_says_nothing(tmp_path, reader, damage):
    name, read = LENIENT[reader]
    (tmp_path / name).write_bytes(DAMAGES[damage])
    assert read(tmp_path) is None


@pytest.mark.parametrize("damage", DAMAGES)
def test_doctor_finds_a_damaged_index(tmp_path, damage):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (tmp_path / "model.safetensors").write_bytes(b"x")
    (tmp_path / INDEX).write_bytes(DAMAGES[damage])
    config = build_config({"output": str(tmp_path / "run"), "model": {"path": str(tmp_path)}}, "test")
    (finding,) = doctor._model(config)
    assert finding.state == "fail"
    assert INDEX in finding.found


@pytest.mark.parametrize("value", [[], 3, {"stage": "3"}, {"stage3_max_live_parameters": "auto"}])
def test_deepspeed_settings_that_are_none(value):
    with pytest.raises(UserError, match="zero_optimization"):
        zero_settings({"zero_optimization": value})
