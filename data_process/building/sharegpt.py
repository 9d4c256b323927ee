"""Training examples as a private LLaMA-Factory dataset folder in ShareGPT form."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from data_process.io import write_aside, write_jsonl
from data_process.prompts import neutralise
from data_process.schema import DataError, Example

INFO = "dataset_info.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def to_row(example: Example, image_path: Callable[[str], Path]) -> dict[str, Any]:
    """One ShareGPT row. The image mark stands directly before the prompt, as the engines place the image."""
    images = [] if example.image is None else [str(image_path(example.image))]
    return {
        "messages": [
            {"role": "user", "content": "<image>" * len(images) + example.prompt},
            {"role": "assistant", "content": example.target},
        ],
        "images": images,
    }


def why_not(example: Example) -> str | None:
    """Why an example cannot be a training row, or None.

    A target is kept exactly as it was sampled, so one that holds a mark (`<image>`, `<|im_end|>`) is left out rather
    than changed: LLaMA-Factory counts marks against images, and the tokenizer would turn it into a special token.
    """
    if not example.target.strip():
        return "empty_target"
    if neutralise(example.target) != example.target:
        return "mark_in_target"
    if neutralise(example.prompt) != example.prompt:
        return "mark_in_prompt"
    return None


def write_dataset(
    folder: str | Path, name: str, examples: Iterable[Example], image_path: Callable[[str], Path]
) -> Counter[str]:
    """Write `folder/name.jsonl` and enter it as `name` in `folder/dataset_info.json`, for `dataset_dir: folder`.

    `image_path` turns an example's image into the path that the trainer opens; an absolute one is safest. It is asked
    once for each image.
    Both files are whole or absent, the entry last. Returns "written" and the reasons of what was left out; their sum is
    the number of examples. The caller decides whether too few were written. Raises DataError for an unusable name or an
    unreadable dataset_info.json.
    """
    if not _NAME.fullmatch(name):
        raise DataError(f"dataset name {name!r}: use letters, digits, '.', '_' and '-' only, it becomes a file name")
    folder = Path(folder)
    info = _read_info(folder / INFO)
    counts: Counter[str] = Counter()
    has_images = False
    path_of = cache(image_path)

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal has_images
        for example in examples:
            reason = why_not(example)
            counts[reason or "written"] += 1
            if reason is None:
                has_images = has_images or example.image is not None
                yield to_row(example, path_of)

    write_jsonl(folder / f"{name}.jsonl", rows())
    # A column of empty lists has no type for the reader, so a text-only dataset does not declare it.
    columns = {"messages": "messages"} | ({"images": "images"} if has_images else {})
    info[name] = {"file_name": f"{name}.jsonl", "formatting": "sharegpt", "columns": columns, "tags": _TAGS}
    with write_aside(folder / INFO) as file:
        file.write(json.dumps(info, indent=2, sort_keys=True).encode() + b"\n")
    return counts


def _read_info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        info = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error}); the folder is private to a run: remove the file") from error
    if not isinstance(info, dict):
        raise DataError(f"{path}: must hold one object; the folder is private to a run: remove the file")
    return info
