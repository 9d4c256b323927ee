"""Reads the first sheet of an Excel workbook (.xlsx), the default form of VLMEvalKit's prediction tables.

A workbook is a zip of XML files (ECMA-376, part 1, section 18). Formulas and dates are not needed here: a formula gives
the value that was stored with it, and a date its serial number.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree

from data_process.limits import check_member
from data_process.schema import DataError

MAX_CELL = 32_767  # characters of a cell: programs that write workbooks cut longer texts
_SHEET = re.compile(r"xl/worksheets/sheet(\d+)\.xml")
_SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_ESCAPE = re.compile(r"_x([0-9A-Fa-f]{4})_")  # how a workbook writes control characters


def read_workbook(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of the first sheet by the names in its first row; an empty cell is None. Raises DataError."""
    try:
        with zipfile.ZipFile(path) as archive:
            sheets = [(int(m[1]), m[0]) for name in archive.namelist() if (m := _SHEET.fullmatch(name))]
            if not sheets:
                raise DataError(f"{path}: a workbook without a sheet; save it again, or as CSV")
            for info in archive.infolist():
                check_member(info, path)
            texts: list[str] = []
            if "xl/sharedStrings.xml" in archive.namelist():
                with archive.open("xl/sharedStrings.xml") as file:
                    texts = [_text(item) for item in _elements(file, "si")]
            with archive.open(min(sheets)[1]) as file:
                yield from _rows(file, texts, path)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}); check the path") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, ElementTree.ParseError) as error:
        raise DataError(f"{path}: not a whole Excel workbook ({error}); save it again, or as CSV") from error


def _rows(file: IO[bytes], texts: list[str], path: Path) -> Iterator[dict[str, Any]]:
    header: dict[str, str] = {}  # column letters -> name
    for row in _elements(file, "row"):
        cells = {}
        for cell in row.iter(f"{_SPACE}c"):
            reference = cell.get("r", "")
            try:
                cells[reference.rstrip("0123456789")] = _value(cell, texts)
            except (ValueError, IndexError) as error:
                raise DataError(f"{path}, cell {reference}: cannot be read ({error}); save the file as CSV") from error
        if not header:
            header = {column: str(name) for column, name in cells.items() if name is not None}
            if not header or len({*header.values()}) < len(header):
                raise DataError(f"{path}: the first row must name the columns, each once; add a header")
        elif any(value is not None for value in cells.values()):
            yield {name: cells.get(column) for column, name in header.items()}


def _elements(file: IO[bytes], tag: str) -> Iterator[ElementTree.Element]:
    """Every element of a kind, one in memory at a time."""
    for _, element in ElementTree.iterparse(file):
        if element.tag == f"{_SPACE}{tag}":
            yield element
            element.clear()


def _text(element: ElementTree.Element) -> str:
    """The text of a shared or inline string, whose formatted runs are joined."""
    written = "".join(part.text or "" for part in element.iter(f"{_SPACE}t"))
    return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), written)


def _value(cell: ElementTree.Element, texts: list[str]) -> Any:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return _text(cell) or None
    stored = cell.findtext(f"{_SPACE}v")
    if stored is None or kind == "e":  # "e": an error such as #N/A
        return None
    if kind == "s":
        return texts[int(stored)] or None
    if kind == "str":
        return _ESCAPE.sub(lambda found: chr(int(found[1], 16)), stored) or None
    if kind == "b":
        return stored == "1"
    number = float(stored)
    return int(number) if number.is_integer() else number
