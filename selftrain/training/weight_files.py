"""Files of weights: whole or not, and written again with other values in the same form.

Layout of a file (github.com/huggingface/safetensors, "Format"): the length of the header as 8 bytes, the header as
JSON, which gives each tensor's dtype, shape and place, and then the bytes of the tensors.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.errors import naming
from data_process.json_files import read_json
from data_process.schema import DataError

if TYPE_CHECKING:
    from torch import Tensor

INDEX = "model.safetensors.index.json"
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}  # as torch calls them
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def weights_files(model: Path) -> list[Path]:
    """The files that hold a checkpoint's weights, whether they are there or not. DataError for a damaged index."""
    if (model / INDEX).is_file():
        index = read_json(model / INDEX, "copy the checkpoint again")
        try:
            return [model / name for name in sorted(set(index["weight_map"].values()))]
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{model / INDEX} is not the index of a checkpoint; copy the checkpoint again") from error
    return sorted(model.glob("*.safetensors")) or [model / "model.safetensors"]


def weights_bytes(model: Path) -> int:
    """Bytes of a checkpoint's weights on the disk."""
    return sum(file.stat().st_size for file in model.glob("*.safetensors"))


def header_of(file: Path) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """The bytes before the tensors, and each tensor's entry. DataError if the file is cut or of another format."""
    size = file.stat().st_size
    with file.open("rb") as source:
        length = source.read(8)
        text = source.read(min(int.from_bytes(length, "little"), size))
    try:
        entries: dict[str, dict[str, Any]] = json.loads(text)
        entries.pop("__metadata__", None)
        end = max(entry["data_offsets"][1] for entry in entries.values())
        whole = size == 8 + len(text) + end
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{file} is not a whole safetensors file ({str(error)[:200]}); copy it again") from error
    if not whole:
        raise DataError(f"{file} is not a whole safetensors file: it has {size} bytes; copy it again")
    return length + text, entries


def write_like(model: Path, value: Callable[[str], Tensor], out: Path) -> None:
    """Write into `out` what `model` is, with other values: the same names, shapes, dtypes and files.

    `value` gives the tensor of a name, which is rounded to the stored dtype. Everything else of the folder, the
    tokenizer and so on, is copied. One tensor is in memory at a time. ValueError if a tensor has another shape, or
    `model` is not a whole checkpoint in safetensors files.
    """
    import torch

    for file in weights_files(model):
        head, entries = header_of(file)
        with naming(out / file.name), (out / file.name).open("wb") as target:
            target.write(head)
            for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
                tensor = value(name)
                if list(tensor.shape) != entry["shape"]:
                    raise ValueError(f"{name} has the shape {list(tensor.shape)}, not {entry['shape']} as in {file}")
                if entry["dtype"] in _DTYPES:
                    tensor = tensor.to(getattr(torch, _DTYPES[entry["dtype"]]))
                target.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    for path in model.iterdir():
        if path.is_file() and path.suffix not in _WEIGHTS:
            shutil.copyfile(path, out / path.name)
