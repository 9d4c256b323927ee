"""Rows with images as one Parquet file, which `datasets.load_dataset` reads with its features.

datasets and pyarrow are imported inside the functions.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from data_process.images.marks import PLACEHOLDER, segments

BATCH = 100  # rows in memory, and in a row group: rows hold whole images


def text() -> Any:
    from datasets import Value

    return Value("string")


def images() -> Any:
    from datasets import Image, Sequence

    return Sequence(Image())


def messages(*content: Any) -> Any:
    """A list of chat messages; `content`: the feature of a message's content, text by default."""
    return [{"role": text(), "content": content[0] if content else text()}]


def image_values(names: Sequence[str], path_of: Callable[[str], Path]) -> list[dict[str, Any]]:
    """Images of a row: the bytes of their canonical files, which a model sees as they are."""
    return [{"bytes": path_of(name).read_bytes(), "path": Path(name).with_suffix(".png").name} for name in names]


def marked(prompt: str, n_images: int) -> str:
    """A prompt with `<image>` wherever an image stands, also where images come first."""
    return PLACEHOLDER.join(segments(prompt, n_images))


def write_parquet(path: Path, rows: Iterable[dict[str, Any]], features: dict[str, Any]) -> int:
    """Write rows with these features of `datasets`; returns how many there are."""
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features

    described = Features(features)
    schema = described.arrow_schema
    remaining, count = iter(rows), 0
    path.parent.mkdir(parents=True, exist_ok=True)
    with pq.ParquetWriter(path, schema) as writer:
        while batch := list(itertools.islice(remaining, BATCH)):
            writer.write_table(pa.Table.from_pylist([described.encode_example(row) for row in batch], schema=schema))
            count += len(batch)
    return count
