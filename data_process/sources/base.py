"""What a source of problems is: where its raw rows are, and how one row becomes one problem with its images.

A source is one small module, in this package or anywhere that Python imports from. Most read a table, and only say
which column holds what; `columns.read_row` does the rest:

    from data_process.sources.base import Source
    from data_process.sources.columns import TableForm, read_row

    FORM = TableForm(columns={"question": "text", "answer": "result", "image": "diagram"}, answer_type="number")

    def item(request, split, where, row):
        return read_row(FORM, request, split, where, row)

    SOURCE = Source(name="mine", item=item)

`selftrain prepare my_package.my_source --raw DIR --out data/mine` prepares it; `docs/sources.md` has a longer example.
Texts may mark the places of images; `data_process.images.marks` says how.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from data_process.prompts import BASE
from data_process.schema import LETTERS, DataError, shown, wrong

Row = dict[str, Any]
LocatedRow = tuple[str, Row]  # where the row is, for messages; the row
SplitRows = tuple[str, Iterable[LocatedRow]]  # a raw split, its rows

UNREADABLE = "\0unreadable"  # key of the error in the row that stands for one that cannot be read
MAX_NAME = 255  # bytes of a file's name, as file systems have it
MAX_ENCODED = 1 << 27  # characters of a base64 image: 100 MB
SPLITS = ("train", "dev", "test")  # what a prepared folder holds, in this order


@dataclass(frozen=True)
class SourceImage:
    """An image that a row names or carries: either `candidates` or `data` holds its bytes."""

    name: str  # wanted name below `images/` of the prepared folder, with its suffix
    candidates: tuple[Path, ...] = ()  # files that may hold it; the first that exists is taken
    data: bytes | None = None  # the encoded file itself, as Parquet carries it


@dataclass(frozen=True)
class Item:
    """One problem read from a raw row: the fields that `load_problems` takes, without images, and its images."""

    fields: Row
    images: tuple[SourceImage, ...] = ()  # in the order that the marks in its texts count
    notes: tuple[str, ...] = ()  # remarks on the row, which the data card counts
    columns: Mapping[str, str] = field(default_factory=dict)  # field -> the column it was taken from, where one was
    unused: tuple[str, ...] = ()  # columns that no field takes


@dataclass(frozen=True)
class PrepareRequest:
    """What the user asks of a source, checked by `prepare`."""

    raw: Path | None = None  # file or folder; None: from the hub
    images: Path | None = None  # folder of images, where it is not beside the rows
    hub: str | None = None  # repository of data sets, "owner/name"
    hub_config: str | None = None
    revision: str | None = None
    splits: Mapping[str, str] = field(default_factory=dict)  # raw split -> prepared split; empty: the source's own
    assumed: bool = False  # nobody said which split the rows are, and their file's name does not either
    origin: str | None = None  # data set that the problems are from, where neither source nor row names one
    options: Mapping[str, Any] = field(default_factory=dict)  # those that `Source.options` names


@dataclass(frozen=True)
class Source:
    """A data set whose files are all read in one way."""

    name: str
    item: Callable[[PrepareRequest, str, str, Row], Item]  # (request, raw split, where, row); DataError for a bad row
    # (request, raw split -> prepared split) to each raw split with its rows; None: `tables.table_rows`.
    rows: Callable[[PrepareRequest, Mapping[str, str]], Iterable[SplitRows]] | None = None
    splits: Mapping[str, str] = field(default_factory=lambda: {split: split for split in SPLITS})  # read by default
    licence: str = "not known here; see where the data set comes from"
    citation: str = "not known here; see where the data set comes from"
    hub: str | None = None  # the repository to read when the user names none
    hub_files: Mapping[str, str] = field(default_factory=dict)  # raw split -> its files there: others are not loaded
    files: str = ""  # what to download and where to put it, for messages
    origin: str | None = None  # data set that every problem is from, unless an item names another
    language: str | None = None  # of every problem, where the source states it for all
    unlabelled: tuple[str, ...] = ()  # raw splits whose answers are not public
    prompts: str = BASE  # the prompt set made for it; the data card names it, and a configuration chooses
    judge: str = "auto"  # the judge that gives its published score: a name for `selftrain score --judge`
    assumed_split: str | None = None  # of one file where neither the user nor its name says which; None: ask
    test_share: float = 0.0  # held out of train where there is no test split, unless the user says otherwise
    pictured: bool = False  # every problem has an image: a row without one is unusable
    options: tuple[str, ...] = ()  # names of the command's options that it reads from `PrepareRequest.options`


def unreadable(error: DataError, path: Path) -> Row:
    """The row that stands for one that cannot be read, so that it is counted and those after it are read."""
    return {UNREADABLE: str(error).removeprefix(f"{path}, ")}


def refuse_unreadable(row: Mapping[str, Any], where: str) -> None:
    """DataError for a row that stands for one that cannot be read."""
    if UNREADABLE in row:
        wrong(where, row[UNREADABLE].removeprefix(f"{where.rpartition(', ')[2]}: "))


def text_of(row: Mapping[str, Any], field_name: str, where: str) -> str:
    """A field that must be text and not blank. DataError otherwise."""
    value = row.get(field_name)
    if not isinstance(value, str) or not value.strip():
        found = repr(value)[:80] if field_name in row else f"nothing (fields: {', '.join(map(str, row))[:200]})"
        wrong(where, f"{field_name!r} must be text, found {found}")
    return value


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: null, NaN, no text, or what pandas writes for a missing value as text."""
    return value is None or value in ("", "nan", "NaN", "<NA>") or (isinstance(value, float) and value != value)


def plain_value(value: Any) -> str | None:
    """Text unchanged, a number as text; None for anything else. 3.0 is "3": a column with gaps makes it a decimal."""
    if isinstance(value, str):
        return value
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value) if math.isfinite(value) else None
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else None


def row_id(split: str, where: str) -> str:
    """The id of a problem that has none: its row in the split, and from the second shard on the shard's number."""
    shard = re.search(r"-(\d+)-of-\d+\.[^/\\]*$", where.rpartition(",")[0])
    part = f"{int(shard[1])}-" if shard and int(shard[1]) else ""
    return f"{split}-{part}row{where.rpartition(' ')[2]}"


def choices_of(value: Any, where: str) -> tuple[str, ...]:
    """A list of 2 to 10 texts or numbers as choices. DataError for anything else."""
    texts = [plain_value(choice) for choice in value] if isinstance(value, list | tuple) else [None]
    if any(text is None or not text.strip() for text in texts):
        wrong(where, f"choices must be a list of texts, found {str(value)[:80]!r}")
    if not 2 <= len(texts) <= len(LETTERS):
        wrong(where, f"{len(texts)} choices; there must be 2 to {len(LETTERS)}")
    return tuple(text for text in texts if text is not None)


def letter_of(answer: str, choices: tuple[str, ...], where: str, said_as: str | None = None) -> str:
    """The gold letter: given as "B", "b", "(B)" or "B.", or as the text of exactly one choice.

    "B" may be both a letter and the text of another choice (the points A, C, B, D). `said_as`, "letter" or "text", says
    which is meant; without it, that is a DataError, as is a gold answer that is neither.
    """
    letters = LETTERS[: len(choices)]
    found = (
        re.fullmatch(r"\s*[(（\[]?([A-Za-z])(?:[)）\].:：、]+\s*(.*)|\s*)", answer, re.DOTALL)
        if said_as != "text"
        else None
    )
    letter = found[1].upper() if found and found[1].upper() in letters else None
    if letter and found and found[2] and found[2].strip() != choices[letters.index(letter)].strip():
        letter = None  # "B. 40" is a letter only where 40 is the text of B
    same = [mark for mark, choice in zip(letters, choices, strict=True) if choice == answer]
    if said_as == "letter":
        same = [] if letter else same
    if len(same) > 1:
        wrong(where, f"gold {shown(answer)} is the text of {len(same)} choices, so its letter is ambiguous")
    if letter and same and same[0] != letter:
        wrong(
            where, f"gold {shown(answer)} is a letter and also the text of choice {same[0]}; say which: letter or text"
        )
    if not letter and not same:
        wrong(where, f"gold {shown(answer)} is outside the choices: neither a letter of {letters} nor the text of one")
    return letter or same[0]


def repeated_choices(choices: tuple[str, ...], letter: str) -> tuple[str, ...]:
    """Notes on choices that have equal texts, so that the gold choice may be ambiguous."""
    if len(set(choices)) == len(choices):
        return ()
    twice = choices.count(choices[LETTERS.index(letter)]) > 1
    return ("two choices of the same text", *(("the gold choice occurs twice",) if twice else ()))


def find_image(name: Any, request: PrepareRequest, where: str, *, basename: bool = False) -> SourceImage:
    """The image that a row names by a path relative to the image folder.

    It is looked up in `--images` if given, and otherwise in `images/` beside the rows and beside the rows; a name that
    starts with `images/` is also looked up without it. `basename`: the path is from another machine, so only the
    file's name counts. DataError for a path that leads outside.
    """
    if not isinstance(name, str) or not name.strip() or "\0" in name:
        wrong(where, f"the image must be a path, found {str(name)[:80]!r}")
    relative = PurePosixPath(PurePosixPath(name).name) if basename else PurePosixPath(name)
    if relative.is_absolute() or ".." in relative.parts or (re.match(r"[A-Za-z]:[\\/]|[\\/]", name) and not basename):
        wrong(where, f"image {shown(name)} leads outside the image folder; give paths inside it, without '..'")
    if any(len(part.encode("utf-8", "replace")) > MAX_NAME for part in relative.parts) or not relative.name:
        what = f"{shown(name, 60)} ({len(name):,} characters) is neither the name of a file nor a base64 image"
        wrong(where, f"{what}; name the column of the images with --map image=COLUMN")
    short = PurePosixPath(*relative.parts[1:]) if relative.parts[0] == "images" and relative.parts[1:] else relative
    base = request.raw if request.raw is None or request.raw.is_dir() else request.raw.parent
    roots = [request.images] if request.images else [base / "images", base] if base else []
    for root in roots:
        for candidate in (root / relative, root / short):
            if candidate.exists() and not candidate.resolve().is_relative_to(root.resolve()):
                wrong(where, f"image {shown(name)} leads out of {root} through a link; copy the file inside")
    return SourceImage(str(short), tuple(root / tail for root in roots for tail in dict.fromkeys((relative, short))))


def embedded_image(value: Any, name: str, request: PrepareRequest, where: str) -> SourceImage:
    """An image as Parquet and the hub have it, {"bytes": ..., "path": ...}, named `name` with the suffix of its format.

    The bytes stay as they are. Without bytes, the path is used: any path for the hub, whose cache contains it, and
    otherwise only its file name in the image folder. {"url": ...} holds a data URI, or an address, of which only the
    file name counts.
    """
    while isinstance(value, Mapping) and isinstance(inner := value.get("image_url", value.get("url")), Mapping):
        value = inner
    data, path = (value.get("bytes"), value.get("path")) if isinstance(value, Mapping) else (value, None)
    if isinstance(value, Mapping) and data is None and isinstance(url := value.get("url"), str):
        if url.startswith("data:"):
            data = url
        else:
            path = path or url.partition("?")[0]
    if data is None and isinstance(path, str) and path:
        named = f"{name}{PurePosixPath(path).suffix.lower() or '.img'}"
        if request.raw is None:
            return SourceImage(named, (Path(path),))
        return SourceImage(named, find_image(path, request, where, basename=True).candidates)
    if isinstance(data, str):
        data = from_base64(data, where)
        if data is None:
            wrong(
                where, f"the image holds a str, not the bytes of an image file, and it is no base64: {shown(value, 60)}"
            )
    elif isinstance(data, list) and all(isinstance(byte, int) and 0 <= byte < 256 for byte in data):
        data = bytes(data)
    if not isinstance(data, bytes):
        wrong(where, f"the image holds a {type(data).__name__}, not the bytes of an image file")
    return SourceImage(f"{name}{suffix_of(data)}", data=data)


def images_of(value: Any, name: str, request: PrepareRequest, where: str) -> tuple[SourceImage, ...]:
    """The images in a cell: a path, base64 text, a data URI, an object with bytes or path, or a list of these.

    Empty cells are left out of a list. `name` is for an image without a file name; the images of a list are
    numbered after it.
    """
    cells = value if isinstance(value, list) else [value]
    held = [cell for cell in cells if not (is_missing(cell) or (isinstance(cell, Mapping) and not any(cell.values())))]
    if len(held) == 1:
        return (_image_of(held[0], name, request, where),)
    return tuple(_image_of(cell, f"{name}-{number}", request, where) for number, cell in enumerate(held, start=1))


def _image_of(value: Any, name: str, request: PrepareRequest, where: str) -> SourceImage:
    short = re.sub(r"[^A-Za-z0-9._-]", "_", name)[:100]
    if not isinstance(value, str):
        return embedded_image(value, short, request, where)
    if (data := from_base64(value, where)) is not None:
        return SourceImage(f"{short}{suffix_of(data)}", data=data)
    return find_image(value, request, where)


def from_base64(text: str, where: str) -> bytes | None:
    """The image file that a text holds as base64 or as a data URI; None for other text, such as a path.

    DataError for a data URI that is damaged, base64 that ends too early, and an image above `MAX_ENCODED` characters.
    """
    header, comma, _ = text[:200].partition(",")
    is_uri = bool(comma) and header.startswith("data:")
    if not is_uri and (len(text) < 64 or suffix_of(_decoded(text[:40]) or b"") == ".img"):
        return None
    if len(text) > MAX_ENCODED:
        wrong(where, f"the image has {len(text):,} characters of base64, more than {MAX_ENCODED:,}; scale it down")
    data = _decoded(text[len(header) + 1 :] if is_uri else text)
    if data is None and not is_uri and "." in text[:4096]:
        return None  # a long path that happens to begin like an image
    if data is None or (is_uri and "base64" not in header):
        wrong(where, f"the image is not complete base64: {shown(text, 60)}; encode it again")
    return data


def _decoded(text: str) -> bytes | None:
    plain = re.sub(r"\s", "", text).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        return None


def suffix_of(data: bytes) -> str:
    """The usual suffix of an image file's format, from its first bytes; ".img" if unknown."""
    for magic, suffix in (
        (b"\x89PNG", ".png"), (b"\xff\xd8\xff", ".jpg"), (b"GIF8", ".gif"), (b"BM", ".bmp"),
        (b"II*\0", ".tif"), (b"MM\0*", ".tif"),
    ):  # fmt: skip
        if data.startswith(magic):
            return suffix
    return ".webp" if data[:4] == b"RIFF" and data[8:12] == b"WEBP" else ".img"
