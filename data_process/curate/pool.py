"""Reads a pool once and keeps of each problem only what decisions need, so that a million problems fit into memory."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from data_process.curate.quality import QualityRules, read_images, text_fault, trace_is_right
from data_process.decontamination.known_overlaps import origin_of
from data_process.images.opening import ImageError
from data_process.io import numbered_rows, paused_garbage_collection, problem_from_row
from data_process.prepare.holdout import question_key
from data_process.schema import DataError, Problem
from data_process.sources.base import refuse_unreadable, unreadable

_WORD = re.compile(r"\w+|[^\w\s]")
QUESTION = "question"  # the length of a problem, where no field is named
ORIGIN = "origin"  # the domain of a problem, where no field of `meta` is named


@dataclass(slots=True)
class Item:
    """One problem of the pool, as decisions see it, and what was decided."""

    place: int  # 0-based, in the file
    id: str
    origin: str | None = None
    usable: bool = True  # False: the row is no problem, and `fault` says why
    fault: str | None = None  # otherwise what the quality rules found
    same: bytes = b""  # equal for copies: question, choices and image
    gold: bytes = b""  # of the gold answer's text
    length: float | None = None
    domain: str | None = None
    trace_right: bool | None = None
    rates: tuple[float | None, ...] = ()  # pass rates in [0, 1], one for each model; None: no samples
    by: str = ""  # the filter or draw that decided; "" while nobody has
    why: str = ""
    kept: bool = False

    @property
    def open(self) -> bool:
        return not self.by

    def leave(self, by: str, why: str) -> None:
        self.by, self.why = by, why


@dataclass(frozen=True)
class Reading:
    """What is read of each problem."""

    rules: QualityRules
    images: bool  # decode images, for the quality filter and for copies
    length: str | None  # QUESTION, or a field of `meta` with a number or a text; None: measured later
    count: Callable[[str], int]  # length of a text
    domain: str | None  # ORIGIN, or a field of `meta`; None: measured later, or not at all
    judge_traces_of: Collection[str]  # data sets whose traces are judged
    suspicious: Callable[[Problem], bool]  # whether a problem may be one of the test sets


@dataclass
class Pool:
    """The items, and the problems that contamination has to look at, without their `meta`."""

    path: Path
    root: Path  # folder of the images
    items: list[Item] = field(default_factory=list)
    suspects: dict[str, Problem] = field(default_factory=dict)
    standins: dict[str | None, Problem] = field(default_factory=dict)  # one of each origin, for overlaps of sources
    digest: str = ""  # of the file's bytes


def words_of(text: str) -> int:
    """Words and signs of a text: a length that needs no tokenizer."""
    return sum(1 for _ in _WORD.finditer(text))


def file_digest(path: Path) -> str:
    """SHA-256 of a file. DataError if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); give a folder with {path.name}") from error


@paused_garbage_collection()
def read_pool(path: Path, root: Path, reading: Reading, on_row: Callable[[int], None] = lambda n: None) -> Pool:
    """Every row as an item; a row that is no problem is an item with a fault. DataError for an empty file."""
    pool = Pool(path, root, digest=file_digest(path))
    images: dict[str, str | ImageError] = {}
    lines: dict[str, str] = {}
    for place, (where, row, problem) in enumerate(_rows(path, root)):
        on_row(place + 1)
        identifier = row.get("id")
        first = lines.setdefault(identifier, where) if isinstance(identifier, str) and identifier else None
        if first != where:  # without an id of its own, the place in the file names it
            why = "no usable id" if first is None else f"id already used ({first.rpartition(', ')[2]})"
            pool.items.append(Item(place, where.rpartition(", ")[2], usable=False, fault=why))
        elif isinstance(problem, DataError):
            why = str(problem).removeprefix(where).lstrip(":, ")[:300]
            pool.items.append(Item(place, str(identifier), usable=False, fault=why))
        else:
            pool.items.append(_item(place, problem, root, reading, images))
            _note_suspect(pool, pool.items[-1], problem, reading)
    if not pool.items:
        raise DataError(f"{path} holds no problems; check the path")
    return pool


def _rows(path: Path, root: Path) -> Iterator[tuple[str, dict[str, Any], Problem | DataError]]:
    root = root.resolve()
    for where, row in numbered_rows(path, nan_is_null=True, bad=lambda error: unreadable(error, path)):
        try:
            refuse_unreadable(row, where)
            problem: Problem | DataError = problem_from_row(row, where, root)
        except DataError as error:
            problem = error
        yield where, row, problem


def each_problem(path: Path, root: Path, wanted: Collection[str]) -> Iterator[Problem]:
    """The problems of a pool with these ids, in the order of the file, the first of those that share an id."""
    left = set(wanted)
    for _, _, problem in _rows(path, root):
        if not left:
            return
        if isinstance(problem, Problem) and problem.id in left:
            left.discard(problem.id)
            yield problem


def _item(place: int, problem: Problem, root: Path, reading: Reading, images: dict[str, str | ImageError]) -> Item:
    origin = origin_of(problem)
    item = Item(place, problem.id, origin.dataset if origin else None)
    shown = read_images(root, problem.images, images) if reading.images else problem.images
    item.fault = text_fault(problem, item.origin, reading.rules)
    if isinstance(shown, str):
        if reading.rules.images:
            item.fault = item.fault or shown
        shown = problem.images  # copies are then told by the image's name
    key = [question_key(problem), sorted(problem.choices), shown]
    item.same = _short(json.dumps(key, ensure_ascii=False))
    item.gold = _short(problem.gold_text)
    if reading.length is not None:
        item.length = _length(problem, reading)
    if reading.domain == ORIGIN:
        item.domain = item.origin
    elif reading.domain is not None:
        value = problem.meta.get(reading.domain)
        item.domain = None if value is None or value == "" else str(value)
    if reading.rules.trace is not None and item.origin in reading.judge_traces_of:
        item.trace_right = trace_is_right(problem, reading.rules.trace)
    return item


def _short(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=12).digest()


def _length(problem: Problem, reading: Reading) -> float | None:
    if reading.length == QUESTION:
        return reading.count("\n".join((problem.full_question, *problem.choices)))
    value = problem.meta.get(str(reading.length))
    if isinstance(value, str):
        return reading.count(value) if value else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _note_suspect(pool: Pool, item: Item, problem: Problem, reading: Reading) -> None:
    origin = origin_of(problem)
    if reading.suspicious(problem):
        pool.suspects[item.id] = replace(problem, meta={}, origin=origin)
    elif item.origin not in pool.standins:
        pool.standins[item.origin] = replace(problem, meta={}, origin=origin, images=())
