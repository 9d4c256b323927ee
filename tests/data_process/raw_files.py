"""Small raw files of the published forms, and what tests of the sources share."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from data_process.io import load_problems
from data_process.prepare.command import source_named, splits_of
from data_process.prepare.folder import FolderPlan, prepare
from data_process.schema import Problem
from data_process.sources.base import Item, PrepareRequest

SHARED = Path(__file__).parents[3] / "shared" / "data"


def shared(name: str) -> Path:
    """A file of the shared data, or a skip that names it."""
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"no {path}")
    return path


def png(colour: str = "red", size: tuple[int, int] = (20, 10), form: str = "PNG") -> bytes:
    from PIL import Image

    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, format=form)
    return out.getvalue()


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, rows: list[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))


def item_of(name: str, row: dict, split: str = "train", where: str = "x.jsonl, row 1", **request: Any) -> Item:
    """One row read by a source, without files."""
    return source_named(name).item(PrepareRequest(**request), split, where, row)


def prepared(name: str, raw: Path | None, out: Path, *splits: str, **settings: Any) -> dict[str, Any]:
    """A prepared folder's card. `settings`: of FolderPlan, or of PrepareRequest."""
    source = source_named(name)
    mine = {key: settings.pop(key) for key in ("images", "hub", "options") if key in settings}
    return prepare(
        source, PrepareRequest(raw=raw, splits=splits_of(source, splits), **mine), FolderPlan(out, **settings)
    )


def load(out: Path, split: str) -> list[Problem]:
    return load_problems(out / f"{split}.jsonl", out)
