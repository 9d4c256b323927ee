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
from data_process.io import write_aside, write_jsonl
from data_process.json_files import read_json
from data_process.schema import DataError, Example, wrong

INFO = "dataset_info.json"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_TAGS = {"role_tag": "role", "content_tag": "content", "user_tag": "user", "assistant_tag": "assistant"}
# Ends an assistant's turn in Qwen2-VL's chat template. The template of open turns leaves it to the rows.
END_OF_TURN = "<|im_end|>\n"


def to_row(example: Example, image_path: Callable[[str], Path], open_turns: bool = False) -> dict[str, Any]:
    """One ShareGPT row. An image mark stands in the prompt wherever the engines place an image.

    `open_turns`: for the template that adds nothing to the turns of the assistant and to observations
    (selftrain/training/open_turns.py). An attempt is then a turn of the assistant, an ignore string an observation, and
    the target ends with END_OF_TURN. DataError for an example with a history otherwise.

    A preference pair has the columns `chosen` and `rejected` instead of a turn of the assistant.
    """
    if example.history and not open_turns:
        wrong(f"example {example.id!r}", "its history needs a data set with open turns")
    if example.rejected and open_turns:
        wrong(f"example {example.id!r}", "a preference pair cannot stand in a data set with open turns")
    history = [
        message
        for attempt, ignore in example.history
        for message in ({"role": "assistant", "content": attempt}, {"role": "observation", "content": ignore})
    ]
    user = {"role": "user", "content": PLACEHOLDER.join(segments(example.prompt, len(example.images)))}
    target = {"role": "assistant", "content": example.target + END_OF_TURN * open_turns}
    images = [str(image_path(image)) for image in example.images]
    if example.rejected:
        rejected = {"role": "assistant", "content": example.rejected}
        return {"messages": [user], "chosen": target, "rejected": rejected, "images": images}
    return {"messages": [user, *history, target], "images": images}


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
    if any(neutralise(text) != text for pair in example.history for text in pair):
        return "mark_in_history"
    if example.rejected and not example.rejected.strip():
        return "empty_rejected"
    if neutralise(example.rejected) != example.rejected:
        return "mark_in_rejected"
    return None


def write_dataset(
    folder: str | Path,
    name: str,
    examples: Iterable[Example],
    image_path: Callable[[str], Path],
    open_turns: bool = False,
) -> Counter[str]:
    """Write `folder/name.jsonl` and register it as `name` in `folder/dataset_info.json`, for `dataset_dir: folder`.

    `image_path` turns an example's image into the path that the trainer opens, preferably an absolute one. It is called
    once for each image. `open_turns` as in `to_row`, for all rows.
    Each file is written whole or not at all, the registration last. Returns counts of "written" and of each reason for
    leaving an example out, which add up to the number of examples; the caller decides whether too few were written.
    Raises DataError for an unusable name or an unreadable dataset_info.json, and for preference pairs among other rows.
    """
    if not _NAME.fullmatch(name):
        raise DataError(
            f"dataset name {name!r}: use letters, digits, '.', '_' and '-' only, because it becomes a file name"
        )
    folder = Path(folder)
    info = _read_info(folder / INFO)
    counts: Counter[str] = Counter()
    has_images, pairs = False, None
    path_of = cache(image_path)

    def rows() -> Iterator[dict[str, Any]]:
        nonlocal has_images, pairs
        for example in examples:
            reason = rejection_reason(example)
            counts[reason or "written"] += 1
            if reason is None:
                has_images = has_images or bool(example.images)
                if pairs not in (None, bool(example.rejected)):
                    wrong(f"example {example.id!r}", "preference pairs and other rows cannot be trained on together")
                pairs = bool(example.rejected)
                yield to_row(example, path_of, open_turns)

    write_jsonl(folder / f"{name}.jsonl", rows())
    # The reader cannot infer the type of a column of empty lists, so a text-only dataset does not declare it.
    columns = {"messages": "messages"} | ({"images": "images"} if has_images else {})
    columns |= {"chosen": "chosen", "rejected": "rejected"} if pairs else {}
    tags = _TAGS | ({"observation_tag": "observation"} if open_turns else {})
    info[name] = {"file_name": f"{name}.jsonl", "formatting": "sharegpt", "columns": columns, "tags": tags}
    info[name] |= {"ranking": True} if pairs else {}
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
