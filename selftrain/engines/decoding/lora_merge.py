"""A base checkpoint with a LoRA adapter added in, or the checkpoint that takes its place, tensor by tensor.

For engines that load weights themselves, in an environment without PEFT. Merged weights decode as fast as the base, and
a layer that the engine would ignore cannot be overlooked: an adapter tensor without its base tensor is an error.
torch and safetensors are imported inside the functions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.json_files import read_object
from selftrain.engines.base import EngineError
from selftrain.engines.decoding.reward_head import has_head

if TYPE_CHECKING:
    from torch import Tensor

Shape = tuple[int, ...]

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
_WEIGHTS = "adapter_model.safetensors"
_PART = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?P<part>[AB])\.weight")


def is_checkpoint(weights: Path) -> bool:
    """Whether a folder of trained weights holds a whole model; otherwise it is to hold an adapter."""
    return (weights / "config.json").is_file() and not (weights / "adapter_config.json").exists()


def merged(base: Path, weights: Path | None, device: Any = "cpu") -> Iterator[tuple[str, Tensor]]:
    """(name in the checkpoint, tensor) of every weight, as `reader` gives them. Only one tensor is in memory."""
    names, value = reader(base, weights, device)
    yield from ((name, value(name)) for name in names)


def reader(base: Path, weights: Path | None, device: Any = "cpu") -> tuple[list[str], Callable[[str], Tensor]]:
    """The names in the checkpoint of `base`, and a function that gives the tensor of a name.

    `weights`: the folder of an adapter, whose share is added in float32 on `device`, or of a checkpoint that takes the
    place of `base`. Tensors that an adapter does not touch come as they are stored; the others are float32, for the
    engine to round to its own precision as the hf engine does, and with the same sums: W + (B A) * scale. Raises
    EngineError for an adapter that does not fit this base in every layer or is not plain LoRA.
    """
    if has_head(weights):
        raise EngineError(f"{weights} is a reward head, which cannot be part of the weights; use the hf engine for it")
    if weights is not None and is_checkpoint(weights):
        base, weights = weights, None
    files = sorted(base.glob("*.safetensors"))
    if not files:
        raise EngineError(f"{base} holds no *.safetensors; convert it with save_pretrained")
    places: dict[str, Path] = {}
    shapes: dict[str, Shape] = {}
    for file in files:
        shapes |= (held := shapes_of(file))
        places |= dict.fromkeys(held, file)
    scale, modules = (1.0, {}) if weights is None else _read(weights)
    found = _match(shapes, modules, weights)

    def value(name: str) -> Tensor:
        tensor = tensor_of(places[name], name)
        if weights is None or name not in found:
            return tensor
        a, b = (_half(weights, found[name], part).to(device).float() for part in "AB")
        return tensor.to(device).float().add_((b @ a).mul_(scale))

    return list(places), value


def moves(weights: Path) -> bool:
    """Whether trained weights differ from the base: an adapter that was never trained has only zeros in its B."""
    if is_checkpoint(weights):
        return True  # compared when its training ended
    return any(bool(_half(weights, module, "B").any()) for module in _read(weights)[1])


def _half(adapter: Path, module: str, part: str) -> Tensor:
    """A [rank, in] or B [out, rank] of a module."""
    return tensor_of(adapter / _WEIGHTS, f"base_model.model.{module}.lora_{part}.weight")


def tensor_of(file: Path, name: str) -> Tensor:
    """One tensor. The file is opened for it alone: what is read of an open file stays among the memory in use."""
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        tensor: Tensor = held.get_tensor(name)
        return tensor


def shapes_of(file: Path) -> dict[str, Shape]:
    """Name -> shape of every tensor of a file."""
    from safetensors import safe_open

    with safe_open(file, "pt") as held:
        return {name: tuple(held.get_slice(name).get_shape()) for name in held.keys()}  # noqa: SIM118 - no mapping


def _read(adapter: Path) -> tuple[float, dict[str, dict[str, Shape]]]:
    """The factor, and module -> shapes of its halves, "A" [rank, in] and "B" [out, rank]."""
    from safetensors import SafetensorError

    try:
        config = read_object(adapter / "adapter_config.json", "restore it")
        kind, rank, alpha = config["peft_type"], int(config["r"]), float(config["lora_alpha"])
    except (ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{adapter} holds no adapter ({error!r}); train it again") from error
    strange = [key for key, plain in _PLAIN.items() if config.get(key, plain) not in (plain, None)]
    if kind != "LORA" or strange:
        what = f"of type {kind}" if kind != "LORA" else f"with {', '.join(f'{k}={config[k]!r}' for k in strange)}"
        raise EngineError(
            f"adapter {adapter} is {what}; only plain LoRA can be added to weights here: export it with "
            "`llamafactory-cli export` and set model.path to the result"
        )
    parts: dict[str, dict[str, Shape]] = {}
    try:
        shapes = shapes_of(adapter / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise EngineError(f"{adapter} holds no readable {_WEIGHTS} ({error}); train it again") from error
    for name, shape in shapes.items():
        match = _PART.fullmatch(name)
        if match is None:
            raise EngineError(f"adapter {adapter}: {name} is no part of a LoRA layer that can be merged here")
        parts.setdefault(match["module"], {})[match["part"]] = shape
    for module, both in parts.items():
        if both.keys() != {"A", "B"} or both["A"][0] != rank or both["B"][1] != rank:
            raise EngineError(f"adapter {adapter}: {module} lacks a half, or is not of rank {rank}; train it again")
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank), parts


def _match(shapes: dict[str, Shape], modules: dict[str, dict[str, Shape]], adapter: Path | None) -> dict[str, str]:
    """Checkpoint name -> module of the adapter. Checkpoints of different age nest the language model differently."""
    by_core = {core(name.removesuffix(".weight")): name for name in shapes if name.endswith(".weight")}
    found = {}
    for module, both in modules.items():
        name = by_core.get(core(module))
        shape = (both["B"][0], both["A"][1])
        if name is None or shapes[name] != shape:
            is_there = "is not in the base model" if name is None else f"is {shapes[name]} there, not {shape}"
            raise EngineError(f"adapter {adapter} does not fit the model: {module} {is_there}; it belongs to another")
        found[name] = module
    return found


def core(name: str) -> str:
    """A tensor's name without what checkpoints of different age nest it in."""
    return ".".join(part for part in name.split(".") if part not in ("model", "language_model"))
