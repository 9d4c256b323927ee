"""The training rows of an iteration as a data set with a card."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data_process.building.sharegpt import rejection_reason
from data_process.io import read_examples
from data_process.schema import DataError, Example
from selftrain.export import parquet
from selftrain.export.cards import data_set_card
from selftrain.export.source import Exported
from selftrain.files import write_whole
from selftrain.runs.splits import image_store

FILE = "train.parquet"


def write_rows(found: Exported, folder: Path) -> dict[str, int]:
    """Write the rows that the iteration was trained on, and their card; returns counts by kind.

    Rows that LLaMA-Factory is not given are left out, as in training: marks of images or turns in the texts. ImageError
    if an image is missing, DataError for preference pairs.
    """
    examples = read_examples(found.run / f"iter{found.iteration}/build/examples.jsonl")
    if any(example.rejected for example in examples):
        raise DataError(
            f"iteration {found.iteration} was trained on preference pairs, which this export has no columns for; they "
            f"are in iter{found.iteration}/build/examples.jsonl"
        )
    store = image_store(found.config)
    kinds: Counter[str] = Counter()
    left_out: Counter[str] = Counter()

    def rows() -> Iterator[dict[str, Any]]:
        for example in examples:
            if (reason := rejection_reason(example)) is not None:
                left_out[reason] += 1
                continue
            kinds[example.kind] += 1
            yield row_of(example) | {"images": parquet.image_values(example.images, store.path)}

    text = parquet.text()
    features = {
        **dict.fromkeys(("id", "kind", "problem_id"), text),
        "messages": parquet.messages(),
        "history": [{"attempt": text, "ignore": text}],
        "images": parquet.images(),
        "sources": [text],
    }
    parquet.write_parquet(folder / FILE, rows(), features)
    write_whole(folder / "README.md", data_set_card(found, kinds, left_out))
    return dict(kinds)


def row_of(example: Example) -> dict[str, Any]:
    """A row without its images. The assistant's turn is whole; `history` is the part of it that has no loss."""
    begun = "".join(attempt + ignore for attempt, ignore in example.history)
    return {
        "id": example.id,
        "kind": example.kind,
        "problem_id": example.problem_id,
        "messages": [
            {"role": "user", "content": parquet.marked(example.prompt, len(example.images))},
            {"role": "assistant", "content": begun + example.target},
        ],
        "history": [{"attempt": attempt, "ignore": ignore} for attempt, ignore in example.history],
        "sources": list(example.sources),
    }
