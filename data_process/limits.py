"""Bounds on what files may hold, so that no row takes minutes or gigabytes: lengths of texts, lines and numbers."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from data_process.schema import DataError, shown, wrong

MAX_LINE = 160_000_000  # bytes of a line of JSON: an image of 100 MB as base64, and its row
# A compressed file may hold this many times its own size in one piece; JSON and tables reach 30.
MAX_RATIO = 200
ALWAYS = 1 << 26  # bytes that a compressed file may hold in any case
MAX_TEXT = {"id": 1000, "question": 2_000_000, "context": 2_000_000, "answer": 20_000, "choices": 20_000, "unit": 200,
            "alternatives": 20_000, "image": 1000}  # characters  # fmt: skip
MAX_NUMBER = 400  # characters of a gold answer that is one number
MAX_PRECISION = 30  # decimals that are compared
MAX_TOLERANCE = 1e100
MAX_NAME = 255  # bytes of a file's name, as file systems have it
_NO_TEXT = re.compile("[\0\ud800-\udfff]")


def check_text(value: str, field: str, where: str) -> None:
    """DataError for a text that is too long, or holds what no tokenizer, terminal or file takes.

    That is a null character, or half of a surrogate pair (an escape such as \\ud800 alone).
    """
    if len(value) > MAX_TEXT[field]:
        wrong(where, f"{field!r} has {len(value):,} characters, more than {MAX_TEXT[field]:,} ({shown(value, 40)})")
    if found := _NO_TEXT.search(value):
        what = "a null character" if found[0] == "\0" else "half of a character"
        wrong(where, f"{field!r} holds {what} ({shown(value)}); write the text as UTF-8")


def check_precision(value: Any, where: str) -> int | None:
    """The decimals of a float answer; DataError unless there are 0 to MAX_PRECISION of them, or None."""
    if isinstance(value, float) and value.is_integer():  # a table with gaps writes 2 as 2.0
        value = int(value)
    if value is not None and (type(value) is not int or not 0 <= value <= MAX_PRECISION):
        wrong(
            where,
            f"'precision' must be a number of decimals such as 2, at most {MAX_PRECISION}, found {shown(value)}",
        )
    return None if value is None else int(value)


def check_tolerances(relative: Any, absolute: Any, where: str) -> None:
    """DataError unless each of a problem's tolerances is None or a number in its range, and one of them is None."""
    if relative is not None and (type(relative) not in (int, float) or not 0 <= relative < 1):
        wrong(where, f"'tolerance' must be a fraction of the answer such as 0.05, found {shown(relative)}")
    if absolute is not None and (type(absolute) not in (int, float) or not 0 <= absolute <= MAX_TOLERANCE):
        wrong(where, f"'absolute_tolerance' must be a number from 0 on, found {shown(absolute)}")
    if absolute is not None and relative is not None:
        wrong(where, "'tolerance' and 'absolute_tolerance' are both given; keep one")


class Readable(Protocol):
    """A binary file, plain or compressed."""

    def read(self, size: int = -1, /) -> bytes: ...
    def readline(self, size: int = -1, /) -> bytes: ...


def lines_of(file: Readable, path: Path) -> Iterator[bytes]:
    """The lines of a file. DataError for one that is too long to be a row, before it is read whole."""
    limit = piece_limit(path)
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise DataError(
                f"{path}, line {number}: more than {limit:,} bytes without a line end, which is no row; split the "
                "line, or write the file again"
            )
        yield line


def read_whole(file: Readable, path: Path) -> bytes:
    """The rest of a file. DataError for a compressed one that holds far more than JSON can be compressed to."""
    if path.suffix != ".gz":
        return file.read()
    limit = max(ALWAYS, MAX_RATIO * path.stat().st_size)
    data = file.read(limit + 1)
    if len(data) > limit:
        raise DataError(f"{path}: holds more than {limit:,} bytes, {MAX_RATIO} times its size; decompress it yourself")
    return data


def check_member(info: zipfile.ZipInfo, path: Path) -> None:
    """DataError for a member of a zip that says that it holds far more than text can be compressed to.

    Python reads no more of a member than it says.
    """
    limit = max(ALWAYS, MAX_RATIO * info.compress_size)
    if info.file_size > limit:
        raise DataError(f"{path}: {shown(info.filename)} holds more than {limit:,} bytes; unpack the file yourself")


def piece_limit(path: Path) -> int:
    """Bytes that one line of a file may have."""
    if path.suffix != ".gz":
        return MAX_LINE
    return min(MAX_LINE, max(ALWAYS, MAX_RATIO * path.stat().st_size))
