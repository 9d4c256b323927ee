"""Numbers written as English words: "twenty-five", "one hundred and five", "two thousand"."""

from __future__ import annotations

import re

_NAMES_BELOW_20 = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_NAMES_OF_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_SMALL = {word: value for value, word in enumerate(_NAMES_BELOW_20)}
_TENS = {word: 10 * value for value, word in enumerate(_NAMES_OF_TENS, start=2)}
_SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
_UNITS_OF_TENS = "|".join(w for w, v in _SMALL.items() if 0 < v < 10)
_BELOW_100 = (
    rf"(?:(?:{'|'.join(_TENS)})(?:[\s-](?:{_UNITS_OF_TENS}))?|{'|'.join(sorted(_SMALL, key=len, reverse=True))})"
)
_STEP = rf"(?:\s(?:and\s)?(?:{_BELOW_100}|{'|'.join(_SCALES)})(?![a-z]))"
# "a hundred" needs its scale; a fraction ("two thirds", "one half"), an ordinal and a compound ("one-third",
# "three-digit", "two-dimensional") are something else.
_NUMBER = re.compile(
    rf"(?<![A-Za-z-])(?:{_BELOW_100}|a(?=\s(?:{'|'.join(_SCALES)})\b))(?![a-z]){_STEP}{{0,8}}"
    r"(?![A-Za-z])(?!-[A-Za-z])(?!\s(?:and\sa\s)?(?:half|halves|thirds?|quarters?|fourths|fifths|tenths|point)\b)",
    re.IGNORECASE,
)
MAX_WORDS = 10**12


def _value(words: list[str]) -> int | None:
    total = group = 0
    last = None  # the size of the last word: "two three" and "five twenty" are not numbers
    for word in words:
        if word == "and":
            continue
        if word == "a":
            group, last = 1, 1
        elif word in _SCALES:
            scale = _SCALES[word]
            if group == 0 or (scale == 100 and group >= 100) or (total and scale > 100 and total < scale):
                return None
            group, total = (group * 100, total) if scale == 100 else (0, total + group * scale)
            last = scale
        else:
            value = _SMALL.get(word, _TENS.get(word, 0))
            if last is not None and last < 100 and not (last >= 20 and 0 < value < 10):
                return None
            group += value
            last = value
    return total + group


def to_digits(text: str) -> str:
    """`text` with every number in words written in digits; words that make no number stay."""

    def digits(m: re.Match[str]) -> str:
        value = _value(re.split(r"[\s-]+", m[0].lower()))
        if value is None and " and " in m[0]:  # "thirteen and two" are two numbers
            return " and ".join(to_digits(part) for part in m[0].split(" and "))
        return m[0] if value is None or value >= MAX_WORDS else str(value)

    return _NUMBER.sub(digits, text)
