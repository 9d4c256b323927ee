"""Writes training examples as a LLaMA-Factory dataset folder in ShareGPT form."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from data_process.images.marks import PLACEHOLDER, neutralise, segments
from data_process.io import read_json, write_aside, write_jsonl
from data_process.schema import DataError, Example, wrong

INFO = "dataset_info.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}


def to_row(example: Example, image_path: Callable[[str], Path]) -> dict[str, Any]:
    """One ShareGPT row. An image mark stands in the prompt wherever the engines place an image."""
    return {
        "messages": [
            {"role": "user", "content": PLACEHOLDER.join(segments(example.prompt, len(example.images)))},
            {"role": "assistant", "content": example.target},
        ],
        "images": [str(image_path(image)) for image in example.images],
    }


def rejection_reason(example: Example) -> str | None:
    """Why an example cannot be a training row; None if it can.

    A target is kept exactly as it was sampled, so an example whose target has a mark (`<image>`, `<|im_end|>`) is left
    out, not changed: LLaMA-Factory counts marks against images, and the tokenizer would read it as a special token.
    """
    if not example.target.strip():
        return "empty_target"
    if neutralise(example.target) != example.target:
        return "mark_in_target"
    texts = example.prompt.split(PLACEHOLDER)
    if len(texts) - 1 > len(example.images) or any(neutralise(text) != text for text in texts):
        return "mark_in_prompt"
    return None


def write_dataset(
    folder: str | Path, name: str, examples: Iterable[Example], image_path: Callable[[str], Path]
) -> Counter[str]:
    """Write `folder/name.jsonl` and register it as `name` in `folder/dataset_info.json`, for `dataset_dir: folder`.

    `image_path` turns an example's image into the path that the trainer opens, preferably an absolute one. It is called
    once for each image.
    Each file is written whole or not at all, the registration last. Returns counts of "written" and of each reason for
    leaving an example out, which add up to the number of examples; the caller decides whether too few were written.
    Raises DataError for an unusable name or an unreadable dataset_info.json.
    """
    if not _NAME.fullmatch(name):
        raise DataError(
            f"dataset name {name!r}: use letters, digits, '.', '_' and '-' only, because it becomes a file name"
        )
    folder = Path(folder)
    info = _read_info(folder / INFO)
    counts: Counter[str] = Counter()
    has_images = False
    path_of = cache(image_path)

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal has_images
        for example in examples:
            reason = rejection_reason(example)
            counts[reason or "written"] += 1
            if reason is None:
                has_images = has_images or bool(example.images)
                yield to_row(example, path_of)

    write_jsonl(folder / f"{name}.jsonl", rows())
    # The reader cannot infer the type of a column of empty lists, so a text-only dataset does not declare it.
    columns = {"messages": "messages"} | ({"images": "images"} if has_images else {})
    info[name] = {"file_name": f"{name}.jsonl", "formatting": "sharegpt", "columns": columns, "tags": _TAGS}
    with write_aside(folder / INFO) as file:
        file.write(json.dumps(info, indent=2, sort_keys=True).encode() + b"\n")
    return counts


def _read_info(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    info = read_json(path, "remove the file; the run writes it again")
    if not isinstance(info, dict):
        wrong(str(path), "must contain one object; remove the file; the run writes it again")
    return info
