"""LoRA adapters on disk: is this one whole, finite and trained, does it change the model, and the merged weights."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.errors import FailedError
from data_process.images.marks import segments
from data_process.images.opening import canonical
from data_process.json_files import read_object
from selftrain.engines.decoding.lora_merge import is_checkpoint, reader
from selftrain.engines.decoding.reward_head import BIAS, WEIGHT
from selftrain.engines.decoding.reward_head import FILE as HEAD
from selftrain.training.weight_files import write_like

if TYPE_CHECKING:
    import numpy as np

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"

# safetensors' names for what an adapter may hold, and how NumPy reads them. NumPy has no bfloat16: its 16 bits are the
# upper half of a float32.
_NUMPY_TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}


class AdapterError(FailedError, RuntimeError):
    """An adapter cannot be trusted. The message says which file, what is wrong with it and what to do."""

    heading = "training failed"


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file, as floating-point arrays. AdapterError if the file is not whole.

    Read by hand (layout: github.com/huggingface/safetensors, "Format"), because the check must not need torch and the
    package's NumPy side does not know bfloat16.
    """
    import numpy as np

    raw = path.read_bytes()
    try:
        length = int.from_bytes(raw[:8], "little")
        header: dict[str, Any] = json.loads(raw[8 : 8 + length])
        header.pop("__metadata__", None)
        tensors = {}
        for name, entry in header.items():
            start, end = (8 + length + offset for offset in entry["data_offsets"])
            if end > len(raw):
                raise ValueError(f"{name} ends at byte {end} of {len(raw)}")
            values = np.frombuffer(raw[start:end], dtype=_NUMPY_TYPES[entry["dtype"]])
            if entry["dtype"] == "BF16":
                values = (values.astype(np.uint32) << 16).view(np.float32)
            tensors[name] = values.reshape(entry["shape"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise AdapterError(f"{path} is not a whole safetensors file ({error}); train this adapter again") from error
    return tensors


def check_adapter(adapter: Path) -> None:
    """Raise AdapterError unless both files exist, every number is finite and at least one lora_B is not all zero.

    lora_B starts at zero, so an adapter whose lora_B are all zero is one that never trained.
    """
    import numpy as np

    for name in (CONFIG, WEIGHTS):
        if not (adapter / name).is_file():
            raise AdapterError(f"{adapter} has no {name}: it is not a finished adapter")
    tensors = read_tensors(adapter / WEIGHTS)
    if broken := [name for name, values in tensors.items() if not np.isfinite(values).all()]:
        raise AdapterError(
            f"{adapter / WEIGHTS} holds NaN or infinity in {len(broken)} of {len(tensors)} tensors, first {broken[0]}: "
            "training diverged, so lower learning_rate or max_grad_norm"
        )
    if not any(values.any() for name, values in tensors.items() if "lora_B" in name):
        raise AdapterError(f"{adapter / WEIGHTS} is untrained: every lora_B is zero; check rows, steps, learning_rate")


def check_head(trained: Path) -> None:
    """Raise AdapterError unless there is a reward head beside an adapter, and all its numbers are finite."""
    import numpy as np

    if not (trained / HEAD).is_file():
        raise AdapterError(f"{trained} has no {HEAD}: LLaMA-Factory left no reward head; the end of its log says why")
    tensors = read_tensors(trained / HEAD)
    if set(tensors) != {WEIGHT, BIAS}:
        raise AdapterError(f"{trained / HEAD} holds {', '.join(tensors)}, not {WEIGHT} and {BIAS}; train it again")
    if not all(np.isfinite(values).all() for values in tensors.values()):
        raise AdapterError(f"{trained / HEAD} holds NaN or infinity: training diverged, so lower learning_rate")


def shape_of(adapter: Path) -> dict[str, float]:
    """Rank, alpha and dropout as LLaMA-Factory's settings call them. AdapterError without a readable config."""
    try:
        config = read_object(adapter / CONFIG, "give the folder of a training")
        return {"lora_rank": config["r"], "lora_alpha": config["lora_alpha"], "lora_dropout": config["lora_dropout"]}
    except (ValueError, KeyError) as error:
        raise AdapterError(f"{adapter} is not a LoRA adapter ({error!r}); give the folder of a training") from error


def verify_weights(base_model: Path, weights: Path, probe_prompt: str, probe_images: Sequence[Path] = ()) -> float:
    """Largest absolute difference between the logits of the base and of what was trained, over one probe prompt.

    `weights`: the folder of an adapter or of a whole checkpoint. Loads the models in float32 on the CPU: meant for a
    tiny model or a last check. AdapterError if nothing changes.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForImageTextToText, AutoProcessor
    from transformers.utils import logging

    logging.disable_progress_bar()
    processor = AutoProcessor.from_pretrained(base_model, local_files_only=True)
    first, *others = segments(probe_prompt, len(probe_images))
    content = [{"type": "text", "text": first}] if first else []
    for shown in others:
        content += [{"type": "image"}, {"type": "text", "text": shown}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    images = [canonical(Path(image)) for image in probe_images] or None
    inputs = processor(text=[text], images=images, return_tensors="pt")
    base = AutoModelForImageTextToText.from_pretrained(base_model, dtype=torch.float32, local_files_only=True).eval()
    with torch.inference_mode():
        before = base(**inputs).logits.clone()
        trained: torch.nn.Module
        if is_checkpoint(weights):
            trained = AutoModelForImageTextToText.from_pretrained(weights, dtype=torch.float32, local_files_only=True)
        else:
            trained = PeftModel.from_pretrained(base, weights)
        after = trained.eval()(**inputs).logits
    difference = float((after - before).abs().max())
    if not difference > 0 or math.isinf(difference):  # NaN is not > 0 either
        raise AdapterError(f"{weights} does not change what {base_model} answers (largest difference {difference})")
    return difference


def merge(base_model: Path, adapter: Path, out: Path) -> Path:
    """Write the base with the adapter folded in, in the base's own precision, with its processor. Returns `out`.

    Written aside and renamed, so `out` is whole or absent. Folding is done in float32, and one tensor at a time is in
    memory. EngineError for an adapter that is not plain LoRA or belongs to another base.
    """
    _, value = reader(base_model, adapter)
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    write_like(base_model, value, partial)
    partial.replace(out)
    return out
