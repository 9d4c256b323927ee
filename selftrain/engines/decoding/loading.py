"""Weights from a model folder, with or without what was trained. torch is imported inside the functions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.engines.base import EngineError
from selftrain.engines.decoding import kv_cache
from selftrain.engines.decoding.lora_merge import is_checkpoint
from selftrain.families import read_model_config

if TYPE_CHECKING:
    import torch


def load_trained(path: Path, weights: Path | None, dtype: torch.dtype, *, merge: bool = True) -> Any:
    """The base model of `path` with trained weights: an adapter, or a checkpoint that takes its place; None: alone.

    The host's memory holds the base once, in `dtype` or in its own precision if that is higher, and the adapter. Each
    tensor is merged in float32 and rounded once.
    """
    if weights is None or is_checkpoint(weights):
        return load_model(weights or path, dtype)
    model = load_model(path, merging_dtype(path, dtype) if merge else dtype)
    return with_adapter(model, weights, merge=merge).to(dtype)


def merging_dtype(path: Path, dtype: torch.dtype) -> torch.dtype:
    """The narrowest dtype that holds both the base as it is stored and `dtype`; float32 where the base names none."""
    import torch

    config = read_model_config(path)
    stored = getattr(torch, str(config.get("dtype") or config.get("torch_dtype")), torch.float32)
    return torch.promote_types(stored, dtype)


def load_model(path: Path, dtype: torch.dtype) -> Any:
    """The model of a folder whose family was looked up. EngineError if its weights cannot be loaded."""
    from transformers import AutoModelForImageTextToText
    from transformers.utils import logging

    kv_cache.register()
    logging.disable_progress_bar()  # ours shows what matters
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=dtype,
            attn_implementation={"text_config": kv_cache.ATTENTION, "vision_config": "sdpa"},
            local_files_only=True,
            use_safetensors=True,  # other formats are pickles, which can run code
        )
    except Exception as error:  # transformers, safetensors and torch raise their own on a damaged checkpoint
        said = f"{type(error).__name__}: {str(error)[:1000]}"
        raise EngineError(f"cannot load a model from {path}: {said}; fetch it again, or set model.path") from error
    if "sliding_attention" in getattr(model.config.get_text_config(), "layer_types", ()):
        raise EngineError(f"{path} uses sliding-window attention, which this engine does not; use the vLLM engine")
    return model


def with_adapter(model: Any, path: Path, *, merge: bool) -> Any:
    """The model with a PEFT adapter, merged into the weights or as extra layers (slower, but the base stays intact)."""
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    weights = path / "adapter_model.safetensors"
    if not (path / "adapter_config.json").is_file() or not weights.is_file():
        raise EngineError(f"{path} holds no adapter (adapter_config.json and adapter_model.safetensors are needed)")
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # an error below
            # Without these two the adapter is drawn at random first, and read onto a GPU while the base is not there.
            adapted = PeftModel.from_pretrained(model, str(path), low_cpu_mem_usage=True, torch_device="cpu")
    except Exception as error:  # as above
        raise EngineError(f"adapter {path} does not fit the model: it was trained for another one ({error})") from error
    with safe_open(weights, "pt") as file:
        given = set(file.keys())
    # PEFT is content with these, and the result would be the base model, or half the adapter, under another name.
    if given != (wanted := set(get_peft_model_state_dict(adapted))):
        strange = sorted(given ^ wanted)
        raise EngineError(
            f"adapter {path} does not fit the model: {len(strange)} tensors are missing or unknown, e.g. {strange[0]}"
        )
    if not merge:
        return adapted.get_base_model()
    parameters = dict(adapted.named_parameters())
    with safe_open(weights, "pt") as file:
        for name in given:  # as they are stored: PEFT has rounded them to the dtype of the base
            layer, _, kind = name.rpartition(".")
            if (parameter := parameters.get(f"{layer}.default.{kind}")) is not None:
                parameter.data = file.get_tensor(name).float()
    return adapted.merge_and_unload()
