"""The records that pass between stages. They are small and frozen, and each has an id.

Records are always joined by id. "Newest" means the largest (iteration, sample), never a file's position or date.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import cache, wraps
from operator import attrgetter
from sys import intern
from types import UnionType
from typing import Any, Literal, NamedTuple, NoReturn, TypeVar, get_args, get_origin, get_type_hints

from data_process.errors import UserError

LETTERS = "ABCDEFGHIJ"
MAX_IMAGES = 16  # of one problem: MMMU has up to 7; each costs hundreds of prompt tokens

AnswerType = Literal["choice", "integer", "float", "number", "list", "text", "expression"]
ANSWER_TYPES: tuple[str, ...] = get_args(AnswerType)
# Types whose answers a vote can stand in for, each with some answer: which one is right has no part in how a response
# is read.
PLACEHOLDERS = {"choice": "A", "integer": "0", "float": "0", "number": "0"}
Status = Literal["correct", "wrong", "abstain"]
Finish = Literal["stop", "length"]
Kind = Literal["qa", "cot", "refine", "select", "reflect"]


class DataError(UserError, ValueError):
    """Input that cannot be used as it is. The message says which file or record, what is wrong and what to do."""


def wrong(where: str, what: str) -> NoReturn:
    """Raises the DataError of a row or a field; `where` names it."""
    raise DataError(f"{where}: {what}")


def shown(value: object, limit: int = 80) -> str:
    """A value as a message shows it: its `repr`, cut after `limit` characters, so that no file fills a terminal."""
    # The repr of megabytes takes time and memory, so long texts and containers are cut first.
    whole = not isinstance(value, str | bytes) or len(value) <= limit
    try:
        text = repr(value[:limit]) if isinstance(value, str | bytes) else _SHOWN.repr(value)
    except (ValueError, RecursionError, OverflowError) as error:  # a number of 5,000 digits
        text = f"<{type(value).__name__}: {error}>"
    return text if whole and len(text) <= limit else f"{text[:limit]}..."


_SHOWN = reprlib.Repr()
_SHOWN.maxlist = _SHOWN.maxtuple = _SHOWN.maxdict = _SHOWN.maxset = _SHOWN.maxfrozenset = _SHOWN.maxdeque = 20
_SHOWN.maxstring = _SHOWN.maxlong = _SHOWN.maxother = 1000
_SHOWN.maxlevel = 4


class Origin(NamedTuple):
    """Where a problem was first published, and which collection took it from there, if one did."""

    dataset: str  # "GeoQA", "UniGeo"
    collection: str | None = None  # "MathVista"


@dataclass(frozen=True)
class Problem:
    """A question with its gold answer: a letter if there are `choices`, otherwise a value written as text.

    `answer_type` says how an answer is read and compared: "integer" (rounded to a whole number), "float" (rounded to
    `precision` decimals), "number" (any one value, within a tolerance), "list" (of numbers), "text" (words),
    "expression" (mathematics with roots, pi or symbols).
    """

    id: str
    question: str  # without the choices: the prompt renderer adds them
    answer: str  # "" where it is not known; null in a file
    choices: tuple[str, ...] = ()
    images: tuple[str, ...] = ()  # relative to the data folder, in the order that marks count; at most MAX_IMAGES
    answer_type: AnswerType = "choice"
    precision: int | None = None  # "float" only: decimals of the gold answer, to which a response is rounded
    unit: str | None = None  # that the question asks for: "years", "cm"; a response may leave it out
    tolerance: float | None = None  # "number" only: relative to the gold value; None: the judge's default
    meta: Mapping[str, Any] = field(default_factory=dict)  # family, difficulty, rationale ...; never shown to a model
    alternatives: tuple[str, ...] = ()  # other accepted answers of the same type: a response to any of them is right
    origin: Origin | None = None
    absolute_tolerance: float | None = None  # "number" only, instead of `tolerance`: in the unit of the gold value
    context: str | None = None  # a passage that belongs to the question; the prompt's wording gives it its place
    choices_in_image: bool = False  # the choices stand in the image, so that no prompt lists them

    @property
    def labelled(self) -> bool:
        """Whether the answer is known. Only a training problem may lack it; its `answer` is then ""."""
        return bool(self.answer)

    @property
    def letters(self) -> str:
        """The letters of the choices: "ABCD" for four of them, "" for a free answer."""
        return LETTERS[: len(self.choices)]

    @property
    def full_question(self) -> str:
        """The question, after its context where it has one."""
        return f"{self.context}\n{self.question}" if self.context else self.question

    @property
    def gold_text(self) -> str:
        """The text of the gold choice, or the gold value."""
        return self.choices[self.letters.index(self.answer)] if self.choices else self.answer


@dataclass(frozen=True, slots=True)  # with slots: there are a million of them
class Candidate:
    """One sampled response to one problem."""

    problem_id: str
    # The iteration before the one that drew it. Its weights generated the text, unless it was rolled back. 0 is the
    # base model.
    iteration: int
    sample: int  # 0-based index among the samples of this problem in this iteration
    text: str
    n_tokens: int  # generated only, prompt excluded
    n_prompt_tokens: int  # image tokens included
    finish: Finish  # "length": truncated at max_tokens
    mean_logprob: float | None = None  # mean over the generated tokens of ln p at temperature 1
    guide: str | None = None  # id of the candidate that was shown to be refined or continued; None: the problem alone
    begun: int = 0  # characters at the beginning of the text that are the guide's, and not generated

    @property
    def id(self) -> str:
        return f"{self.problem_id}/{self.iteration}/{self.sample}"

    @property
    def age_key(self) -> tuple[int, int]:
        """Larger is newer."""
        return (self.iteration, self.sample)

    @property
    def preference(self) -> tuple[bool, int, int]:
        """Larger comes first where candidates are chosen for rows: without guidance, then newer."""
        return (self.guide is None, self.iteration, self.sample)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judge's verdict on one response. `abstain`: no readable answer, so no credit and no vote."""

    status: Status
    extracted: str | None  # canonical answer (a letter, 12.5, [1, 2], 2*sqrt(3)): equal for equivalent answers
    rule: str  # the rule that found the answer, or why there is none ("no_answer", "truncated", ...)
    span: tuple[int, int] | None = None  # where in the text the answer is: start, end
    note: str | None = None  # e.g. a contradiction between the letter and the value

    @property
    def correct(self) -> bool:
        return self.status == "correct"


@dataclass(frozen=True, slots=True)
class Judged:
    """A candidate with its verdict."""

    candidate: Candidate
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Example:
    """One training row before it is written for LLaMA-Factory: a user turn and the target of the assistant turn.

    `history` is what the assistant's turn begins with, as pairs of an attempt and the ignore string after it. The
    target follows directly. There is no loss on the history.

    With a `rejected` target the row is a preference pair for DPO: `target` is to become more likely than it.
    """

    id: str
    kind: Kind
    problem_id: str
    prompt: str  # the user turn exactly as sampling would send it; `images.marks` says where the images stand in it
    target: str
    images: tuple[str, ...]  # as in Problem, in the order of their places in the prompt
    sources: tuple[str, ...] = ()  # ids of the candidates it was made from
    history: tuple[tuple[str, str], ...] = ()
    rejected: str = ""


# Fields younger than the folders in use: left out of JSON while empty, so that old data keep their bytes and digests.
_ADDED: dict[type, tuple[str, ...]] = {
    Problem: ("alternatives", "origin", "absolute_tolerance", "context", "choices_in_image"),
    Example: ("history", "rejected"),
    Candidate: ("guide", "begun"),
}


def to_json(record: Problem | Candidate | Verdict | Judged | Example) -> dict[str, Any]:
    """A record, nested ones included, as a dict for JSON. The values are shared with the record, not copied."""
    if isinstance(record, Judged):
        return {"candidate": to_json(record.candidate), "verdict": to_json(record.verdict)}
    kind: type = type(record)
    names, values = _reader(kind)
    row = dict(zip(names, values(record), strict=True))
    if isinstance(record, Problem) and not record.labelled:
        row["answer"] = None
    if "images" in row:
        row = with_image_field(row)
    added = _ADDED.get(kind)
    return row if added is None else {key: value for key, value in row.items() if value or key not in added}


def with_image_field(row: Mapping[str, Any]) -> dict[str, Any]:
    """A record's fields as a row has them: `image` for one image or none (null), a list `images` for several."""
    images = row["images"]
    if len(images) > 1:
        return {**row, "images": list(images)}
    one = images[0] if images else None
    return {"image" if key == "images" else key: one if key == "images" else value for key, value in row.items()}


def images_of(row: Mapping[str, Any], where: str) -> tuple[str, ...]:
    """The images of a row that has `image` (a path or null) or `images` (a list). DataError if it has both."""
    if row.get("image") is not None and row.get("images") is not None:
        wrong(where, "a row has 'image' or 'images', not both; list all images in 'images'")
    if (several := row.get("images")) is None:
        return () if row.get("image") is None else (row["image"],)
    if not isinstance(several, list | tuple):
        wrong(where, f"'images' must be a list of paths, found {shown(several)}")
    return tuple(several)


@cache
def _reader(kind: type) -> tuple[tuple[str, ...], Callable[[Any], tuple[Any, ...]]]:
    """The names of a record's fields, and a function that returns their values."""
    names = tuple(field.name for field in fields(kind))
    return names, attrgetter(*names)


_Record = TypeVar("_Record")


def stored_row(read: Callable[[Mapping[str, Any]], _Record]) -> Callable[[Mapping[str, Any]], _Record]:
    """A reader of rows whose missing, unknown or mistyped fields are a DataError."""

    @wraps(read)
    def reader(row: Mapping[str, Any]) -> _Record:
        try:
            return read(row)
        except DataError:
            raise
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            what = f"field {error} is missing" if isinstance(error, KeyError) else str(error)[:200]
            raise DataError(
                f"a stored row is not what was written ({what}): {shown(row, 200)}; restore the file, or delete its "
                "folder and run the command that made it again"
            ) from error

    return reader


def _checked(record: _Record) -> _Record:
    """The record; TypeError for a field whose value is of another type, or none of those that a Literal lists."""
    kind: type = type(record)
    for name, types, values in _expected(kind):
        value = getattr(record, name)
        if type(value) not in types or (values and value not in values):
            raise TypeError(f"field {name!r} is {shown(value)}")
    return record


@cache
def _expected(kind: type) -> list[tuple[str, frozenset[type], tuple[str, ...]]]:
    """Of each field of a record: its name, the types that it may have, and the values where these are listed."""
    found = []
    for name, hint in get_type_hints(kind).items():
        options = get_args(hint) if get_origin(hint) is UnionType else (hint,)
        types = {str if get_origin(one) is Literal else get_origin(one) or one for one in options}
        values = get_args(hint) if get_origin(hint) is Literal else ()
        found.append((name, frozenset(types | ({int} if float in types else set())), values))
    return found


@stored_row
def candidate_from_json(row: Mapping[str, Any]) -> Candidate:
    # One string for all candidates of a problem.
    return _checked(Candidate(**{**row, "problem_id": intern(row["problem_id"])}))


@stored_row
def judged_from_json(row: Mapping[str, Any]) -> Judged:
    verdict, span = row["verdict"], row["verdict"].get("span")
    if span is not None:
        start, end = span
        if type(start) is not int or type(end) is not int:
            raise TypeError(f"field 'span' is {shown(span)}")
        verdict = {**verdict, "span": (start, end)}
    return Judged(candidate_from_json(row["candidate"]), _checked(Verdict(**verdict)))


@stored_row
def example_from_json(row: Mapping[str, Any]) -> Example:
    # Strings that several rows of a problem share are kept once.
    same = {name: intern(row[name]) for name in ("kind", "problem_id", "prompt")}
    images = tuple(map(intern, images_of(row, f"example {row['id']!r}")))
    history = tuple((attempt, ignore) for attempt, ignore in row.get("history", ()))
    if not all(isinstance(text, str) for turn in history for text in turn):
        raise TypeError(f"field 'history' is {shown(row['history'])}")
    rest = {name: value for name, value in row.items() if name not in ("image", "images")}
    return _checked(Example(**{**rest, **same, "images": images, "sources": tuple(row["sources"]), "history": history}))
