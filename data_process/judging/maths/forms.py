r"""Forms in which one answer is written: `\pm 5` and "5 or -5", `x \ge 3` and `[3, +\infty)`.

`spell` and `alternatives` bring a text nearer to one form when it is read; `same_form` compares two canonical texts of
different forms. No function here knows which of two texts is the gold answer.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

Same = Callable[[str, str], bool]

MAX_ITEMS = 6
_SPELLINGS = (
    (re.compile(r"\{\s*(or|and)\s*\}"), r" \1 "),
    (re.compile(r"\\(le|ge)(?:q|qslant|slant)(?![A-Za-z])"), r"\\\1 "),
    (re.compile(r"\{\s?([0-9.]+)\s?\}\s?(?=°)"), r" \1"),
    (re.compile(r"\\number\s?\{([^{}]{1,40})\}"), r"\1"),
    (re.compile(r"\\(?:quantity|SI|qty)\s?\{([^{}]{1,40})\}\s?\{([^{}]{1,20})\}"), r"\1 \2"),
    (re.compile(r"\\(?:overrightarrow|vec|overline|boldsymbol|bm)\s?\{?\s?([A-Za-z])\s?(?:\}|(?![A-Za-z}]))"), r" \1 "),
    (re.compile(r"\\(?:overrightarrow|vec)\s?\{\s?([A-Z]{2})\s?\}"), r" v_{\1} "),
    (re.compile(r"\\(?:varphi|varepsilon|vartheta)(?![A-Za-z])"), r"\\phi "),
    (re.compile(r"\+\s?(?:\\infty(?![A-Za-z])|∞)"), "∞"),
    (re.compile(r"\\infty(?![A-Za-z])"), "∞"),
    (re.compile(r"\\pm(?![A-Za-z])"), "±"),
    (re.compile(r"\\neq?(?![A-Za-z])|!="), "≠"),
    (re.compile(r"⩽|≦"), "≤"),
    (re.compile(r"⩾|≧"), "≥"),
    (re.compile(r"\\le(?![A-Za-z])"), "≤"),
    (re.compile(r"\\ge(?![A-Za-z])"), "≥"),
)
_GREEK = str.maketrans(
    {"α": r"\alpha ", "β": r"\beta ", "γ": r"\gamma ", "θ": r"\theta ", "φ": r"\phi ", "λ": r"\lambda ", "μ": r"\mu ",
     "ω": r"\omega "}
)  # fmt: skip
_TRIGONOMETRIC = re.compile(r"(?<![A-Za-z])(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
_DEGREES = re.compile(r"([0-9]+(?:\.[0-9]+)?|\\[a-z]+\s?|[A-Za-z]|\))\s?°")


def spell(text: str) -> str:
    """One spelling for signs, Greek letters, vectors and degrees; the text has been cleaned."""
    for pattern, replacement in _SPELLINGS:
        text = pattern.sub(replacement, text)
    text = text.translate(_GREEK)
    if _TRIGONOMETRIC.search(text):  # sin 60° is sin(60π/180)
        return _DEGREES.sub(r"(\1\\pi/180)", text)
    return re.sub(r"°(?=\s?[-+*/),]|\s*$)", "", text) if re.search(r"°\s?[-+*/]|[-+*/(,]\s?[0-9.]+°", text) else text


_OR = re.compile(r"\s(?:or|and)\s|\s?(?:或者?|和|または|または)\s?|;\s|、|,\s?(?:or|and)\s")
_NAMED = re.compile(r"\s*([A-Za-z])(?:_\{?[0-9]\}?)?\s?=\s?([^=<>≤≥]{1,60})")


def alternatives(text: str, read: Callable[[str], str | None]) -> str | None:
    """The canonical text of several values: `{-5,5}` for "5 or -5" and `±5`, "x=2,y=5" for values with names.

    None where the text is one value, or where an item cannot be read.
    """
    if "±" in text and not re.search(r"[,;]|\bor\b", text):
        both = [read(text.replace("±", sign)) for sign in "+-"] if text.count("±") == 1 else []
        return _set([item for item in both if item is not None]) if both and None not in both else None
    either = _OR.split(text)
    parts = either if len(either) > 1 else _top_level(text, thousands=True)
    if not 1 < len(parts) <= MAX_ITEMS or not all(part.strip() for part in parts):
        return None
    if any(re.search(r"[<>≤≥]", part) for part in parts):
        regions = [re.sub(r"\s", "", part) for part in parts]
        return "∪".join(sorted(regions)) if all(_chain(region) for region in regions) else None
    named = [_NAMED.fullmatch(part) for part in parts]
    names = [m[1] for m in named if m]
    items = [read(m[2] if m else part) for m, part in zip(named, parts, strict=True)]
    if any(item is None for item in items) or (names and len(names) < len(parts)):
        return None
    found = [item for item in items if item is not None]
    if len(set(names)) > 1:
        return ",".join(sorted(f"{name}={item}" for name, item in zip(names, found, strict=True)))
    return _set(found) if names or len(either) > 1 else ",".join(found)


def _set(items: list[str]) -> str:
    unique = sorted(set(items))
    return unique[0] if len(unique) == 1 else "{" + ",".join(unique) + "}"


def _top_level(text: str, thousands: bool = False) -> list[str]:
    """The parts between the commas that stand in no bracket; with `thousands`, a comma may be part of a number."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and not depth and not (thousands and re.match(r"[0-9]{3}(?![0-9])", text[i + 1 : i + 5])):
            parts.append(text[start:i])
            start = i + 1
    return [*parts, text[start:]]


@dataclass(frozen=True)
class _Interval:
    """A range of one unknown; an end that is None is infinite."""

    low: str | None
    low_closed: bool
    high: str | None
    high_closed: bool


_INTERVAL = re.compile(r"([\[(])([^\[\],]{1,30}),([^\[\],]{1,30})([\])])")
_BETWEEN = re.compile(r"([^<>≤≥=]{1,30})([<≤])([A-Za-z])([<≤])([^<>≤≥=]{1,30})")
_ONE_SIDED = re.compile(r"([^<>≤≥=]{1,30})([<>≤≥])([^<>≤≥=]{1,30})")
_TURNED = {"<": ">", ">": "<", "≤": "≥", "≥": "≤"}


def _end(text: str) -> str | None:
    return None if "∞" in text else text


def _chain(text: str) -> _Interval | None:
    """`-4≤x≤3`, `x>3` or `3<x` as an interval."""
    if m := _BETWEEN.fullmatch(text):
        return _Interval(m[1], m[2] == "≤", m[5], m[4] == "≤")
    m = _ONE_SIDED.fullmatch(text)
    if m is None:
        return None
    left, sign, right = m.groups()
    if not re.fullmatch(r"[A-Za-z]", left):
        left, sign, right = right, _TURNED[sign], left
    if not re.fullmatch(r"[A-Za-z]", left):
        return None
    if sign in "<≤":
        return _Interval(None, False, right, sign == "≤")
    return _Interval(right, sign == "≥", None, False)


def _region(text: str) -> tuple[list[_Interval], bool] | None:
    """The intervals that a text names, and whether it writes one of them as an inequality."""
    text = re.sub(r"\s|\\(?:left|right)", "", text).replace("\\cup", "∪")
    text = re.sub(r"^\\?\{[A-Za-z][|:](.*?)\\?\}$", r"\1", text)
    text = re.sub(r"^[A-Za-z](?:∈|\\in)", "", text)
    intervals, inequality = [], False
    for part in text.split("∪"):
        if m := _INTERVAL.fullmatch(part):
            intervals.append(_Interval(_end(m[2]), m[1] == "[", _end(m[3]), m[4] == "]"))
        elif chain := _chain(part):
            intervals.append(chain)
            inequality = True
        else:
            return None
    return intervals, inequality


def _same_end(a: str | None, b: str | None, same: Same) -> bool:
    return a is b if a is None or b is None else same(a, b)


def _same_region(a: str, b: str, same: Same) -> bool | None:
    """Inequalities and intervals: `-4≤x≤3` and `[-4,3]`; None where neither is an inequality."""
    left, right = _region(a), _region(b)
    if left is None or right is None or not (left[1] or right[1]):
        return None
    if len(left[0]) != len(right[0]):
        return False
    rest = list(right[0])
    for one in left[0]:
        hits = [
            other
            for other in rest
            if (one.low is None or one.low_closed == other.low_closed)
            and (one.high is None or one.high_closed == other.high_closed)
            and _same_end(one.low, other.low, same)
            and _same_end(one.high, other.high, same)
        ]
        if not hits:
            return False
        rest.remove(hits[0])
    return True


def _items(text: str) -> tuple[list[str], bool] | None:
    """The values of a list without brackets or of a set, and whether it is a set."""
    m = re.fullmatch(r"\\?\{(.{1,80}?)\\?\}", text)
    parts = _top_level(m[1] if m else text)
    return (parts, m is not None) if len(parts) > 1 else None


def _same_items(a: str, b: str, same: Same) -> bool | None:
    """`{-5,5}` and "5,-5": the order counts only where neither is a set."""
    left, right = _items(a), _items(b)
    if left is None or right is None:
        return None
    if len(left[0]) != len(right[0]):
        return False
    if not (left[1] or right[1]):
        return all(same(p, q) for p, q in zip(left[0], right[0], strict=True))
    rest = list(right[0])
    for item in left[0]:
        hits = [other for other in rest if same(item, other)]
        if not hits:
            return False
        rest.remove(hits[0])
    return True


_POINT = re.compile(r"\((.{1,80})\)")
_LETTER_VALUE = re.compile(r"([A-Za-z])=([^=<>≤≥]{1,60})")


def _coordinates(text: str) -> list[str] | None:
    """The values of `x=2,y=3` in the order of their letters, which follow each other in the alphabet."""
    named = [_LETTER_VALUE.fullmatch(part) for part in _top_level(text)]
    found = sorted((m[1], m[2]) for m in named if m)
    letters = [name for name, _ in found]
    one_run = all(ord(b) - ord(a) == 1 for a, b in pairwise(letters))
    return [value for _, value in found] if len(found) == len(named) > 1 and one_run else None


def _point(text: str) -> list[str] | None:
    m = _POINT.fullmatch(text)
    parts = _top_level(m[1]) if m else []
    return parts if len(parts) > 1 else None


def is_point(canonical: str) -> bool:
    """Whether a canonical text is a tuple in round brackets, which `x=2,y=3` may stand for."""
    return _point(canonical) is not None


def named_values(canonical: str) -> bool:
    """Whether a canonical text is one of coordinates by their letters: `x=2,y=3`."""
    return _coordinates(canonical) is not None


def _same_point(a: str, b: str, same: Same) -> bool | None:
    """`(2,3)` and `x=2,y=3`."""
    for point, named in ((_point(a), _coordinates(b)), (_point(b), _coordinates(a))):
        if point and named:
            return len(point) == len(named) and all(same(p, q) for p, q in zip(point, named, strict=True))
    return None


def several_values(canonical: str) -> bool:
    """Whether a canonical text holds several values: a list, a set or values with names, not an interval or a tuple."""
    return len(_top_level(canonical)) > 1 or (canonical.startswith("{") and "," in canonical)


def same_form(a: str, b: str, same: Same) -> bool | None:
    """Whether two canonical texts of these forms are equal, their parts by `same`; None where this is another form."""
    for compare in (_same_point, _same_region, _same_items):
        if (found := compare(a, b, same)) is not None:
            return found
    return None
