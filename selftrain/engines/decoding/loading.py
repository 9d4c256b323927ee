"""Weights from a model folder, with or without a PEFT adapter. torch is imported inside the functions."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.engines.base import EngineError
from selftrain.engines.decoding import kv_cache

if TYPE_CHECKING:
    import torch


def load_model(path: Path, dtype: torch.dtype) -> Any:
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
        )
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise EngineError(f"cannot load a model from {path}: {error}") from error
    parts = getattr(model, "model", None)
    if not (hasattr(parts, "get_image_features") and hasattr(parts, "get_rope_index")):
        raise EngineError(f"{path} is a {model.config.model_type} model; this engine runs Qwen2-VL and Qwen2.5-VL")
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
            adapted = PeftModel.from_pretrained(model, str(path))
    except (RuntimeError, ValueError, KeyError) as error:
        raise EngineError(f"adapter {path} does not fit the model: it was trained for another one ({error})") from error
    with safe_open(weights, "pt") as file:
        given = set(file.keys())
    # PEFT is content with these, and the result would be the base model, or half the adapter, under another name.
    if given != (wanted := set(get_peft_model_state_dict(adapted))):
        strange = sorted(given ^ wanted)
        raise EngineError(
            f"adapter {path} does not fit the model: {len(strange)} tensors are missing or unknown, e.g. {strange[0]}"
        )
    return adapted.merge_and_unload() if merge else adapted.get_base_model()
