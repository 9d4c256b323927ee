"""Whether a problem can be used at all: broken text, images that cannot be read, traces, string rules."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_process.images.opening import ImageError
from data_process.images.store import decode
from data_process.judging import judge
from data_process.schema import Problem

# UTF-8 that was read as Windows-1252 or Latin-1 and written again: "Ã©" for "é", "â€™" for an apostrophe, "Â°" for "°".
_DOUBLE_ENCODED = re.compile("Ã[\u0080-\u00bf]|Â[\u00a0-\u00bf]|â€[\u0080-\u00bf\u0152\u0153\u2018-\u2122]")
_CONTROL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_TEX = re.compile(r"\\[a-zA-Z]+")


@dataclass(frozen=True)
class StringRule:
    """A problem leaves if `pattern` occurs in its question, unless it is from one of the data sets `unless`."""

    name: str
    pattern: re.Pattern[str]
    unless: frozenset[str] = frozenset()


@dataclass(frozen=True)
class QualityRules:
    """What a problem must have. A trace is a worked solution that came with the problem, in a field of its `meta`."""

    min_chars: int  # of the question, its context included
    max_chars: int | None
    images: bool  # decode every image
    trace: str | None  # field of the trace; None: problems have none
    trace_required: bool
    trace_right: bool  # the trace must reach the gold answer
    strings: Sequence[StringRule]


def broken_text(text: str) -> str | None:
    """How a text is damaged, or None."""
    if "\ufffd" in text:
        return "replacement characters"
    if _CONTROL.search(text):
        return "control characters"
    if not text.isascii() and _DOUBLE_ENCODED.search(text):
        return "text encoded twice"
    if _TEX.search(text):
        bare = text.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
        if bare.count("{") != bare.count("}"):
            return "unbalanced braces"
    return None


def text_fault(problem: Problem, origin: str | None, rules: QualityRules) -> str | None:
    """Why the text or the trace of a problem keeps it out, or None. Reasons are few, for counting."""
    question = problem.full_question
    if fault := next(filter(None, map(broken_text, (question, *problem.choices))), None):
        return fault
    if len(question) < rules.min_chars:
        return f"question shorter than {rules.min_chars} characters"
    if rules.max_chars is not None and len(question) > rules.max_chars:
        return f"question longer than {rules.max_chars} characters"
    if problem.choices and len(set(map(str.strip, problem.choices))) < len(problem.choices):
        return "two equal choices"
    for rule in rules.strings:
        if rule.pattern.search(question) and origin not in rule.unless:
            return f"string rule {rule.name}"
    if rules.trace is not None:
        text = problem.meta.get(rules.trace)
        if rules.trace_required and not text:
            return f"no trace in {rules.trace!r}"
        if rules.trace_right and not trace_is_right(problem, rules.trace):
            return "the trace does not reach the gold answer"
    return None


def trace_is_right(problem: Problem, field: str) -> bool:
    """Whether the trace in a field of `meta` ends in the gold answer. True or false in the field is the verdict."""
    value = problem.meta.get(field)
    if isinstance(value, bool):
        return value
    return isinstance(value, str) and judge(value, problem).correct


def read_images(root: Path, images: Collection[str], known: dict[str, str | ImageError]) -> tuple[str, ...] | str:
    """Digests of the decoded images of a problem, in order, or why one of them cannot be used. Adds to `known`.

    Digests are of pixels, so that a copy in another format without loss is the same image.
    """
    digests = []
    for name in images:
        if name not in known:
            try:
                known[name] = _digest(root / name)
            except ImageError as error:
                known[name] = error
        found = known[name]
        if isinstance(found, ImageError):
            return f"image {found.reason}"
        digests.append(found)
    return tuple(digests)


def _digest(path: Path) -> str:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ImageError("missing", f"{path} cannot be read ({error})") from error
    if not raw:
        raise ImageError("empty", f"{path} is empty")
    image = decode(path, raw)
    return hashlib.sha256(repr(image.size).encode() + image.tobytes()).hexdigest()[:32]
