"""Reads raw tables: JSON Lines, JSON (rows, rows by id, or columns), CSV, TSV, Parquet, Excel, and the hub.

All but Parquet and Excel may be `.gz`. A missing value, which pandas writes as NaN, is None in every row.
"""

from __future__ import annotations

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_process.io import numbered_rows
from data_process.json_files import read_json
from data_process.schema import DataError
from data_process.sources.base import LocatedRow, PrepareRequest, Row, Source, SplitRows, is_missing, unreadable
from data_process.sources.workbook import read_workbook

_PLAIN = (".jsonl", ".json", ".csv", ".tsv")
SUFFIXES = (*_PLAIN, *(f"{suffix}.gz" for suffix in _PLAIN), ".parquet", ".xlsx")
MAX_CELL = 1 << 27  # characters in a cell of a CSV or TSV file, which may hold an image as base64
# Names of each split in published files.
ALIASES = {
    "train": ("train", "training"),
    "dev": ("dev", "val", "valid", "validation"),
    "val": ("val", "valid", "validation", "dev"),
    "validation": ("validation", "val", "valid", "dev"),
    "test": ("test", "testing"),
}
BATCH = 64  # Parquet rows in memory at a time; they contain whole images


def read_table(path: Path) -> Iterator[LocatedRow]:
    """The rows of one file, each with "file, row N" for messages. Raises DataError."""
    name = path.name.removesuffix(".gz")
    if path.suffix == ".parquet":
        rows: Iterable[Row] = _parquet(path)
    elif path.suffix == ".xlsx":
        rows = read_workbook(path)
    else:
        _refuse_pointer(path)
        if name.endswith((".csv", ".tsv")):
            rows = _with_shared_images(path) if name.endswith(".tsv") else _separated(path, ",")
        else:
            rows = _json(path) if name.endswith(".json") else _json_lines(path)
    for number, row in enumerate(rows, start=1):
        yield f"{path}, row {number}", without_nan(row)


def without_nan(value: Any) -> Any:
    """A value with None for every NaN in it."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    return None if isinstance(value, float) and value != value else value


def _json_lines(path: Path) -> list[Row]:
    return [row for _, row in numbered_rows(path, nan_is_null=True, bad=lambda error: unreadable(error, path))]


def _separated(path: Path, separator: str) -> Iterator[Row]:
    """The rows of a CSV or TSV file with a header. A cell that is empty or "nan", as pandas writes it, is None."""
    limit = csv.field_size_limit(MAX_CELL)
    number = 1
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as raw:
            text = io.TextIOWrapper(raw, "utf-8-sig", newline="")
            head = text.readline(MAX_CELL)
            if separator == "," and "," not in head and ";" in head:
                separator = ";"
            reader = csv.reader(_from(head, text), delimiter=separator, strict=True)
            header = next(reader, [])
            if not any(header) or len(set(header)) < len(header):
                raise DataError(f"{path}: the first line must name the columns, each once; add a header")
            for cells in reader:
                number += 1
                if cells and len(cells) != len(header):
                    what = f"{len(cells)} cells under {len(header)} columns; quote the text"
                    yield unreadable(DataError(what), path)
                elif cells:
                    yield {name: None if is_missing(cell) else cell for name, cell in zip(header, cells, strict=True)}
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except csv.Error as error:
        raise DataError(
            f"{path}, row {number}: not a row of {separator!r}-separated text ({error}); correct it"
        ) from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: damaged gzip file ({error}); fetch or write it again") from error
    finally:
        csv.field_size_limit(limit)


def _with_shared_images(path: Path) -> Iterator[Row]:
    """The rows of a TSV file. As VLMEvalKit writes them, a row may give as its image the index of the row that has it.

    The file is read twice, so that only the images that several rows share are held in memory.
    """
    named = {str(row["image"]) for row in _separated(path, "\t") if _names_a_row(row)}
    held: dict[str, Row] = {}
    if named:
        held = {str(row["index"]): row for row in _separated(path, "\t") if row.get("index") in named}
    for row in _separated(path, "\t"):
        if _names_a_row(row) and (holder := held.get(str(row["image"]))) and not _names_a_row(holder):
            row = {**row, "image": holder["image"]}
        yield row


def _names_a_row(row: Row) -> bool:
    return row.get("index") is not None and re.fullmatch(r"[0-9]{1,10}", str(row.get("image"))) is not None


def _from(head: str, rest: io.TextIOWrapper) -> Iterator[str]:
    """Lines, or parts of MAX_CELL characters of longer ones, which the reader refuses as a cell."""
    yield head
    while line := rest.readline(MAX_CELL):
        yield line


def _refuse_pointer(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(40)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    if head.startswith(b"version https://git-lfs"):
        raise DataError(f"{path} is a Git LFS pointer, not the data; run `git lfs pull` in its repository first")


def _json(path: Path) -> list[Row]:
    """One JSON value: a list of rows, a dict whose values are the rows (MathVista's form, by pid), or columns."""
    try:
        value = read_json(path, "save it as UTF-8 JSON, or fetch it again if its download was interrupted")
    except DataError as error:
        if "Extra data" in str(error.__cause__):  # JSON Lines with the suffix .json
            return _json_lines(path)
        raise
    if (rows := _from_columns(value)) is not None:
        return rows
    if isinstance(value, dict) and value and all(isinstance(row, dict) for row in value.values()):
        return [{"pid": key, **row} for key, row in value.items()]
    if isinstance(value, dict):  # {"info": ..., "questions": [...]}
        lists = [inner for inner in value.values() if isinstance(inner, list) and inner]
        value = lists[0] if len(lists) == 1 else value
    if isinstance(value, list) and all(isinstance(row, dict) for row in value):
        return value
    raise DataError(f"{path}: holds a {type(value).__name__} that is no table; expected a list or a dict of rows")


_QUESTIONS = ("question", "query", "problem", "conversations", "messages")  # one of them is a column of every table


def _from_columns(value: Any) -> list[Row] | None:
    """The rows of a table that pandas wrote by columns (orient="columns", "split" or "list"); None for other values."""
    if not isinstance(value, dict):
        return None
    names, data = value.get("columns"), value.get("data")
    if isinstance(names, list) and isinstance(data, list) and all(isinstance(cells, list) for cells in data):
        if all(len(cells) == len(names) for cells in data):
            return [dict(zip(map(str, names), cells, strict=True)) for cells in data]
        return None
    if not any(str(name).lower() in _QUESTIONS for name in value):
        return None
    columns = list(value.values())
    if all(isinstance(cells, dict) and cells.keys() == columns[0].keys() for cells in columns):
        return [{name: cells[key] for name, cells in value.items()} for key in columns[0]]
    if all(isinstance(cells, list) and len(cells) == len(columns[0]) for cells in columns) and len(columns) > 1:
        return [dict(zip(value, cells, strict=True)) for cells in zip(*columns, strict=True)]
    return None


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=BATCH):
                yield from batch.to_pylist()
    except Exception as error:  # of a damaged file pyarrow raises its own errors, and those of Python's conversions
        said = f"{type(error).__name__}: {str(error)[:300]}"
        raise DataError(f"{path}: not a complete Parquet file ({said}); fetch it again") from error


def names_of(split: str, splits: Iterable[str]) -> tuple[str, ...]:
    """The names that a split may have, its own first; without those of other splits that are wanted too."""
    others = set(splits) - {split}
    return tuple(name for name in dict.fromkeys((split, *ALIASES.get(split, ()))) if name not in others)


def find_tables(raw: Path, splits: Iterable[str]) -> dict[str, list[Path]]:
    """split -> its files, in a folder (or its `data/`): `train.jsonl`, `train-00000-of-00002.parquet`, `x_train.json`.

    The split's own name takes precedence over its other usual names, and a file named exactly so over one with the name
    in its own. A split without files is left out. DataError if several files could be meant.
    """
    files = [f for f in sorted([*raw.glob("*"), *raw.glob("data/*")]) if f.name.endswith(SUFFIXES) and f.is_file()]
    found: dict[str, list[Path]] = {}
    for split in splits:
        for names in ((split,), names_of(split, splits)):
            exact = [f for f in files if f.name.partition(".")[0] in names]
            shards = [f for f in files if re.fullmatch(r"(.+?)-\d+-of-\d+.*", f.name) and _tokens(f)[0] in names]
            loose = [f for f in files if set(_tokens(f)) & set(names)]
            meant = exact or shards or loose
            if meant:
                break
        if len(meant) > 1 and meant is not shards:
            shown = ", ".join(f.name for f in meant[:5])
            raise DataError(f"{raw}: several files could be {split!r} ({shown}); give one with --raw FILE")
        if meant:
            found[split] = meant
    return found


def _tokens(path: Path) -> list[str]:
    return re.split(r"[^A-Za-z0-9]+", path.name.partition(".")[0].lower())


def split_of(path: Path, splits: Sequence[str]) -> str | None:
    """The split that a file's name contains; None for none or several."""
    named = [split for split in splits if set(_tokens(path)) & set(ALIASES.get(split, (split,)))]
    return named[0] if len(named) == 1 else None


def says_no_split(raw: Path, splits: Sequence[str]) -> Path | None:
    """A file, or a folder's only table, whose name says none of the splits; None for others."""
    if raw.is_dir():
        tables = [path for path in raw.iterdir() if path.name.endswith(SUFFIXES) and path.is_file()]
        if len(tables) != 1:
            return None
        [raw] = tables
    return raw if raw.is_file() and split_of(raw, splits) is None else None


def table_rows(source: Source, request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[SplitRows]:
    """Each raw split with its rows, from `request.raw`, a file or a folder, or else from the hub. Raises DataError."""
    if request.raw is None:
        yield from _read_hub(source, request, splits)
    elif request.raw.is_file():
        split = next(iter(splits)) if len(splits) == 1 else split_of(request.raw, list(splits))
        if split is None:
            raise DataError(f"{request.raw}: which split is this? Say it with --split {' or --split '.join(splits)}")
        yield split, read_table(request.raw)
    else:
        found = find_tables(request.raw, splits)
        if not found:
            wanted = f"{', '.join(splits)} ({', '.join(SUFFIXES)})"
            raise DataError(f"{request.raw} holds no table of {wanted}. {source.files}".rstrip())
        for split, paths in found.items():
            yield split, (located for path in paths for located in read_table(path))


def _read_hub(source: Source, request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[SplitRows]:
    """Each raw split of a data set on the Hugging Face hub with its rows; images stay the bytes that were uploaded.

    Raises DataError when the hub cannot be reached, naming what to download by hand and the flag that reads it.
    """
    repository = request.hub or source.hub
    if not repository:
        raise DataError("no hub repository is known for this source; name it: --hub OWNER/NAME")
    wanted = {split: source.hub_files[split] for split in splits if split in source.hub_files}
    try:
        import datasets

        loaded = datasets.load_dataset(
            repository, request.hub_config, revision=request.revision, data_files=wanted or None
        )
    except Exception as error:  # this call uses a dozen libraries, each with its own errors
        first = str(error).strip().splitlines() or [""]
        raise DataError(
            f"{repository} cannot be read from the hub ({type(error).__name__}: {first[0][:200]}). "
            f"{source.files or 'Download its Parquet or JSON files into a folder DIR and read that with --raw DIR.'}"
        ) from error
    names = {split: next((n for n in names_of(split, splits) if n in loaded), None) for split in splits}
    if not any(names.values()):
        raise DataError(
            f"{repository} has the splits {', '.join(loaded)}, none of {', '.join(splits)}; say which to read, "
            f"for instance --split {next(iter(loaded), 'train')}=train"
        )
    for split, name in names.items():
        if name is not None:
            yield split, _hub_rows(repository, name, loaded[name])


def _hub_rows(repository: str, split: str, dataset: Any) -> Iterator[LocatedRow]:
    number = 0
    # The Arrow format has an image as its file's bytes; the default format would decode it.
    for batch in dataset.with_format("arrow").iter(batch_size=BATCH):
        for row in batch.to_pylist():
            number += 1
            yield f"{repository} {split}, row {number}", without_nan(row)
