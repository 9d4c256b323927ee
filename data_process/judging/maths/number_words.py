"""Numbers written as English words: "twenty-five", "one hundred and five", "two thousand"."""

from __future__ import annotations

import re
from fractions import Fraction

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


_SIZES = _SCALES | {"trillion": 10**12, "万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_SCALED = re.compile(
    r"(?<![\w.,/])(?P<number>[0-9]{1,3}(?:,[0-9]{3}){0,3}(?:\.[0-9]{1,6})?|[0-9]{1,9}(?:\.[0-9]{1,6})?)"
    r"(?:\s(?P<word>hundred|thousand|million|billion|trillion)(?![A-Za-z])|\s?(?P<sign>[万萬亿億])(?!\s?[0-9]))",
    re.IGNORECASE,
)
_NEGATIVE = re.compile(
    r"(?P<before>^\W{0,4}|[:=]\s?|\b(?:is|equals|be|to|answer)\s)(?:minus|negative)\s(?=[0-9])", re.IGNORECASE
)
_PARTS = {"half": 2, "halves": 2, "third": 3, "quarter": 4, "fourth": 4, "fifth": 5, "sixth": 6, "seventh": 7,
          "eighth": 8, "ninth": 9, "tenth": 10}  # fmt: skip
_FRACTION = re.compile(
    rf"(?<![\w-])(?P<top>[0-9]|{_UNITS_OF_TENS})[\s-](?P<bottom>{'|'.join(_PARTS)})s?(?![\w-])(?!\s(?:past|to|of)\b)",
    re.IGNORECASE,
)


def _scaled(m: re.Match[str]) -> str:
    """ "5 million" in digits."""
    value = Fraction(m["number"].replace(",", "")) * _SIZES[(m["word"] or m["sign"]).lower()]
    return str(value.numerator) if value.denominator == 1 else str(float(value))


def _fraction(m: re.Match[str]) -> str:
    """ "three quarters" as 3/4."""
    top = m["top"].lower()
    return f"{_SMALL.get(top, top)}/{_PARTS[m['bottom'].lower()]}"


# Chinese and Japanese: 十二, 二百零五, 负三, 二分之一 (1/2), マイナス3. A numeral counts only before a counter,
# at the end or in a fraction: 一 also means "a", and 一定 "certainly".
COUNTERS = "个個つ台辆輛人名本匹头頭支只隻条張张枚回次元円块塊岁歳页頁颗顆棵朵艘架件位箱杯册冊种组倍"
_DIGITS = {numeral: value for value, numeral in enumerate("零一二三四五六七八九")} | {"〇": 0, "两": 2}
_PLACES = {"十": 10, "百": 100, "千": 1000}
_MYRIADS = {"万": 10**4, "萬": 10**4, "亿": 10**8, "億": 10**8}
_NUMERALS = "".join((*_DIGITS, *_PLACES, *_MYRIADS))
_EAST = re.compile(
    rf"(?<![第每任唯期0-9{_NUMERALS}])[{_NUMERALS}]{{1,16}}"
    rf"(?=\s?[{COUNTERS}]|分之|分の)|(?:(?<![\u4e00-\u9fff])|(?<=[是为有得于负負]))[{_NUMERALS}]{{1,16}}"
    r"(?=\W*(?:です|である|だ)?\W*$)|(?<=分之)[一二三四五六七八九十]{1,3}"
)
_EAST_FRACTION = re.compile(r"(?P<bottom>[0-9]{1,4})\s?分[之の]\s?(?P<top>[0-9]{1,4})")
_EAST_SIGN = re.compile(r"(?:(?<![正抱])[负負]|マイナス)\s?(?=[0-9])")
_HALF = re.compile(r"(?P<before>^\W{0,4})(?:(?:a|one)\s)?half(?=\W{0,4}$)", re.IGNORECASE)
# "a dozen", "two dozen", "half a dozen"; not "dozens", "a baker's dozen" or "a dozen or so".
_DOZEN = re.compile(
    r"(?<![\w-])(?:(?P<half>half(?:\sa|-a|-)?\s?)|(?P<count>an?|[0-9]{1,6}|[a-z]{3,9}(?:-[a-z]{3,5})?)\s)dozen(?![\w-])"
    r"(?!\sor\sso\b)",
    re.IGNORECASE,
)
_TWICE = re.compile(r"\b([0-9]{1,9}) \(\1\)")


def _east_asian(m: re.Match[str]) -> str:
    """A numeral such as 二百零五 in digits; others stay, such as 五六 ("five or six") and 二百五 (250 in speech)."""
    total, section, digit, last = 0, 0, None, ""
    for numeral in m[0]:
        if numeral in _DIGITS:
            if digit:
                return m[0]
            digit = _DIGITS[numeral]
        elif numeral in _PLACES:
            section += (digit or 1) * _PLACES[numeral]
            digit = None
        else:
            if not section and not digit:
                return m[0]
            total, section, digit = (total + section + (digit or 0)) * _MYRIADS[numeral], 0, None
        ends_short = (last in _PLACES and last != "十") or last in _MYRIADS
        last = numeral
    if digit and len(m[0]) > 1 and ends_short:
        return m[0]
    return str(total + section + (digit or 0))


def _dozens(m: re.Match[str]) -> str:
    if m["half"]:
        return "6"
    count = m["count"].lower()
    value = 1 if count in ("a", "an") else int(count) if count.isdecimal() else _value(re.split("-", count))
    known = count in ("a", "an") or count.isdecimal() or all(w in _SMALL or w in _TENS for w in count.split("-"))
    return str(12 * value) if known and value is not None else m[0]


def to_digits(text: str) -> str:
    """`text` with every number in words written in digits; words that make no number stay."""

    def digits(m: re.Match[str]) -> str:
        value = _value(re.split(r"[\s-]+", m[0].lower()))
        if value is None and " and " in m[0]:  # "thirteen and two" are two numbers
            return " and ".join(to_digits(part) for part in m[0].split(" and "))
        return m[0] if value is None or value >= MAX_WORDS else str(value)

    if "ozen" in text:
        text = _DOZEN.sub(_dozens, text)
    text = _FRACTION.sub(_fraction, _NUMBER.sub(digits, _HALF.sub(r"\g<before>1/2", text)))
    if not text.isascii():
        text = _EAST_FRACTION.sub(r"\g<top>/\g<bottom>", _EAST_SIGN.sub("-", _EAST.sub(_east_asian, text)))
    text = _TWICE.sub(r"\1", text)  # "twelve (12)"
    return _SCALED.sub(_scaled, _NEGATIVE.sub(r"\g<before>-", text))
