"""A base checkpoint with a LoRA adapter added in, tensor by tensor.

For engines that load weights themselves, in an environment without PEFT. Merged weights decode as fast as the base, and
a layer that the engine would ignore cannot be overlooked: an adapter tensor without its base tensor is an error.
torch and safetensors are imported inside the functions.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from selftrain.engines.base import EngineError

if TYPE_CHECKING:
    from torch import Tensor

# Settings of PEFT's LoRA that change the sum W + scale * B A, with the value at which they do not.
_PLAIN = {
    "use_dora": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "layer_replication": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
    "target_parameters": None,
    "trainable_token_indices": None,
    "alora_invocation_tokens": None,
}
_PART = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")


def merged(base: Path, adapter: Path | None, device: Any = "cpu") -> Iterator[tuple[str, Tensor]]:
    """(name in the checkpoint, tensor) of every weight of `base`, the adapter's share added in float32 on `device`.

    Tensors that the adapter does not touch come as they are stored; the others are float32, for the engine to round to
    its own precision as the hf engine does. Raises EngineError, before the first tensor, for an adapter that does not
    fit this base in every layer or is not plain LoRA.
    """
    from safetensors import safe_open

    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise EngineError(f"{base} holds no *.safetensors; convert it with save_pretrained")
    scale, deltas = (1.0, {}) if adapter is None else _read(adapter)
    places = {}
    for file in files:
        with safe_open(file, "pt") as held:
            for name in held.keys():  # noqa: SIM118 - not a mapping
                places[name] = tuple(held.get_slice(name).get_shape())
    found = _match(places, deltas, adapter)
    for file in files:
        with safe_open(file, "pt") as held:
            for name in held.keys():  # noqa: SIM118
                tensor = held.get_tensor(name)
                if name in found:
                    a, b = deltas[found[name]]
                    a, b = (part.to(device).float() for part in (a, b))
                    tensor = tensor.to(device).float().addmm_(b, a, alpha=scale)
                yield name, tensor


def moves(adapter: Path) -> bool:
    """Whether the adapter changes anything: one that was never trained has only zeros in its B."""
    return any(bool(b.any()) for _, b in _read(adapter)[1].values())


def _read(adapter: Path) -> tuple[float, dict[str, tuple[Tensor, Tensor]]]:
    """The factor, and module -> (A [rank, in], B [out, rank])."""
    from safetensors import SafetensorError, safe_open

    try:
        config: dict[str, Any] = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        kind, rank, alpha = config["peft_type"], int(config["r"]), float(config["lora_alpha"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{adapter} holds no adapter ({error!r}); train it again") from error
    strange = [key for key, plain in _PLAIN.items() if config.get(key, plain) not in (plain, None)]
    if kind != "LORA" or strange:
        what = f"of type {kind}" if kind != "LORA" else f"with {', '.join(f'{k}={config[k]!r}' for k in strange)}"
        raise EngineError(
            f"adapter {adapter} is {what}; only plain LoRA can be added to weights here: export it with "
            "`llamafactory-cli export` and set model.path to the result"
        )
    parts: dict[str, dict[str, Tensor]] = {}
    try:
        with safe_open(adapter / "adapter_model.safetensors", "pt") as held:
            for name in held.keys():  # noqa: SIM118
                match = _PART.fullmatch(name)
                if match is None:
                    raise EngineError(f"adapter {adapter}: {name} is no part of a LoRA layer that can be merged here")
                parts.setdefault(match["module"], {})[match["part"]] = held.get_tensor(name)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{adapter} holds no readable adapter_model.safetensors ({error}); train it again") from error
    for module, both in parts.items():
        if both.keys() != {"A", "B"} or both["A"].shape[0] != rank or both["B"].shape[1] != rank:
            raise EngineError(f"adapter {adapter}: {module} lacks a half, or is not of rank {rank}; train it again")
    scale = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return scale, {module: (both["A"], both["B"]) for module, both in parts.items()}


def _match(
    shapes: dict[str, tuple[int, ...]], deltas: dict[str, tuple[Tensor, Tensor]], adapter: Path | None
) -> dict[str, str]:
    """Checkpoint name -> module of the adapter. Checkpoints of different age nest the language model differently."""
    by_core = {_core(name.removesuffix(".weight")): name for name in shapes if name.endswith(".weight")}
    found = {}
    for module, (a, b) in deltas.items():
        name = by_core.get(_core(module))
        shape = (b.shape[0], a.shape[1])
        if name is None or shapes[name] != shape:
            is_there = "is not in the base model" if name is None else f"is {shapes[name]} there, not {shape}"
            raise EngineError(f"adapter {adapter} does not fit the model: {module} {is_there}; it belongs to another")
        found[name] = module
    return found


def _core(name: str) -> str:
    return ".".join(part for part in name.split(".") if part not in ("model", "language_model"))
