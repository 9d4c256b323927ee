"""The weights of an export: an adapter, or whole weights; with the processor in both cases.

The files are the base model's own, so that everything that loads the base loads the export. torch is imported inside
the functions.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from data_process.json_files import read_object
from selftrain.export.source import Exported, ExportError
from selftrain.files import read_json, write_json

# Of the base model: tokenizer, chat template and processors, in the old and the new form.
_PROCESSOR = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "merges.txt", "chat_template.jinja", "chat_template.json", "preprocessor_config.json", "processor_config.json",
    "video_preprocessor_config.json",
)  # fmt: skip
_LEGAL = ("LICENSE*", "LICENCE*", "NOTICE*")
_INDEX = "model.safetensors.index.json"
_SPECIAL_TOKENS = ("bos_token_id", "eos_token_id", "pad_token_id")


def write_adapter(found: Exported, folder: Path, base_name: str) -> None:
    """The adapter for PEFT; its configuration names the base as `base_name` and not by a path of this machine."""
    _copy(found.trained, folder, ("adapter_model.safetensors", "adapter_config.json"))
    config = read_json(folder / "adapter_config.json")
    write_json(folder / "adapter_config.json", {**config, "base_model_name_or_path": base_name})
    _write_processor(found, folder)


def write_merged(found: Exported, folder: Path) -> None:
    """The base's checkpoint, file by file, with the adapter added in; every tensor in the dtype it has in the base.

    Of a run that trained all weights, its own checkpoint. One file of weights is in memory at a time. Raises
    EngineError for an adapter that does not fit the base.
    """
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    from selftrain.engines.decoding.lora_merge import merged

    dtypes = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32, "F64": torch.float64}
    files: dict[str, list[str]] = {}  # file -> the names of its tensors
    stored: dict[str, torch.dtype | None] = {}  # None: an integer type, which no adapter touches
    source, adapter = (found.trained, None) if found.is_whole else (found.base, found.trained)
    for file in sorted(source.glob("*.safetensors")):
        with safe_open(file, "pt") as held:
            files[file.name] = list(held.keys())
            stored |= {name: dtypes.get(held.get_slice(name).get_dtype()) for name in files[file.name]}
    tensors = ((name, tensor.to(stored[name] or tensor.dtype)) for name, tensor in merged(source, adapter))
    ready: dict[str, torch.Tensor] = {}
    for file_name, names in files.items():
        while not ready.keys() >= set(names):
            name, tensor = next(tensors)
            ready[name] = tensor.contiguous()
        save_file({name: ready.pop(name) for name in names}, folder / file_name, {"format": "pt"})
    _copy(source, folder, ("config.json", _INDEX))
    _write_processor(found, folder)


def _write_processor(found: Exported, folder: Path) -> None:
    """Processor with the run's pixel limits, licence, and a generation configuration that only ends completions."""
    _copy(found.base, folder, _PROCESSOR)
    for pattern in _LEGAL:
        for file in found.base.glob(pattern):
            shutil.copy(file, folder)
    limited = [_limit_pixels(folder / name, found) for name in ("preprocessor_config.json", "processor_config.json")]
    if not any(limited):
        raise ExportError(f"{found.base} holds no image processor; fetch the base model again")
    write_json(folder / "generation_config.json", generation_config(found.base))


def _limit_pixels(path: Path, found: Exported) -> bool:
    """Write the run's limits into a processor's configuration; False if it has no image processor."""
    if not path.is_file():
        return False
    config = read_json(path)
    image = config.get("image_processor") if path.name == "processor_config.json" else config
    if not isinstance(image, dict):
        return False
    low, high = found.config.model.min_pixels, found.config.model.max_pixels
    image["size"] = {"shortest_edge": low, "longest_edge": high}
    image |= {"min_pixels": low, "max_pixels": high}  # how older versions of transformers read them
    write_json(path, config)
    return True


def generation_config(base: Path) -> dict[str, Any]:
    """The base's special tokens, and greedy decoding.

    Published checkpoints carry sampling settings that servers and `generate` apply unasked: Qwen2-VL's top_k 1 and
    top_p 0.001, Qwen2.5-VL's repetition_penalty 1.05. They would change what the scores were measured with.
    """
    known: dict[str, Any] = {}
    for name in ("config.json", "generation_config.json"):  # the latter is the one that `generate` reads
        if (path := base / name).is_file():
            values = read_object(path, "copy the checkpoint again")
            text = values.get("text_config") or {}
            known |= {key: value for key in _SPECIAL_TOKENS if (value := values.get(key, text.get(key))) is not None}
    return {"do_sample": False, **known}


def _copy(source: Path, folder: Path, names: tuple[str, ...]) -> None:
    for name in names:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
