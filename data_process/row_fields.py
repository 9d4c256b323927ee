"""The fields of a problem's row, each checked: what is wrong is a DataError that names the row."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from data_process.limits import MAX_NAME, check_text
from data_process.schema import LETTERS, DataError, Origin, shown, wrong


def text_field(row: Mapping[str, Any], field: str, where: str) -> str:
    """A field that must be text, and not empty."""
    value = row.get(field)
    if not isinstance(value, str):
        found = f"{type(value).__name__} {shown(value)}" if field in row else "nothing"
        wrong(where, f"{field!r} must be text, found {found}")
    if not value.strip():
        wrong(where, f"{field!r} is empty")
    check_text(value, field, where)
    return value


def choices_of(value: Any, where: str) -> tuple[str, ...]:
    """The choices of a row, () for null or an empty list. DataError unless they are 2 to 10 texts, none empty."""
    if value is None or value == []:
        return ()
    if not isinstance(value, list) or not all(isinstance(choice, str) for choice in value):
        wrong(where, f"'choices' must be a list of texts, found {shown(value)}")
    if not 2 <= len(value) <= len(LETTERS):
        wrong(where, f"{len(value)} choices; there must be 2 to {len(LETTERS)}")
    if not all(choice.strip() for choice in value):
        wrong(where, "a choice is empty")
    for choice in value:
        check_text(choice, "choices", where)
    return tuple(value)


def origin_of(value: Any, where: str) -> Origin | None:
    """ "GeoQA", ["GeoQA", null] or ["UniGeo", "MathVista"] as an Origin."""
    if value is None:
        return None
    names = [value] if isinstance(value, str) else value
    if isinstance(names, list | tuple) and len(names) == 2 and names[1] is None:
        names = names[:1]
    if (
        not isinstance(names, list | tuple)
        or not 1 <= len(names) <= 2
        or not all(isinstance(name, str) and name.strip() for name in names)
    ):
        what = "'origin' must name a data set, or be a list of a data set and the collection that contains it"
        wrong(where, f"{what}; found {shown(value)}")
    return Origin(*(name.strip() for name in names))


def gold_letter(answer: str, choices: tuple[str, ...], where: str) -> str:
    """The letter of a gold answer that is one, or is the text of one choice."""
    letters = LETTERS[: len(choices)]
    if len(answer) == 1 and answer in letters:
        return answer
    if choices.count(answer) != 1:
        wrong(
            where, f"answer {shown(answer)} is neither one of the letters {letters} nor the text of exactly one choice"
        )
    return letters[choices.index(answer)]


def image_field(value: Any, where: str, root: Path) -> str:
    """An image's path relative to `root`, checked: inside of it, without `..`. The file may be missing."""
    if not isinstance(value, str) or not value or "\0" in value:
        wrong(where, f"'image' must be a relative path, or null for a problem without one; found {shown(value)}")
    check_text(value, "image", where)
    relative = PurePosixPath(value)
    if not relative.name or any(len(part.encode()) > MAX_NAME for part in relative.parts):
        wrong(where, f"image {shown(value)} is not the name of a file, whose parts have at most {MAX_NAME} bytes")
    # `..` is refused even if it stays inside, since two spellings of one file would be two images.
    if relative.is_absolute() or ".." in relative.parts or re.match(r"[A-Za-z]:[\\/]|[\\/]", value):
        wrong(where, f"image {shown(value)} must be a path inside the image folder, without '..'")
    try:
        inside = (root / relative).resolve().is_relative_to(root)
    except (OSError, RuntimeError) as error:  # a loop of links, a name too long
        raise DataError(f"{where}: image {shown(value)} cannot be looked up ({type(error).__name__})") from error
    if not inside:
        wrong(where, f"image {shown(value)} leads out of the image folder through a link; copy the file inside")
    return value
