r"""Reads one value from a short text, compares values, and writes them as canonical text.

A value is a decimal, `a/b`, `\frac{a}{b}`, a mixed number or `a \times 10^b`, with an optional unit. At most
`MAX_PAYLOAD` characters are read, so no input can take long.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from decimal import ROUND_HALF_EVEN, Context, Decimal
from fractions import Fraction
from functools import lru_cache

from data_process.judging.maths.units import UNIT, unit_of

REL_TOL = Fraction(1, 10**6)  # relative to the gold value: forgives a last rounded digit, not a rounded answer
MAX_PAYLOAD = 300  # characters read after a cue; the longest GeoQA choice or answer has under 60
MAX_EXPONENT = 100  # of ten; a larger exact value would have thousands of digits
MAX_DIGITS = 60  # of one written number; a longer one is a loop, not an answer
CANONICAL_DIGITS = 12  # significant digits of the canonical text: 1/3 becomes 0.333333333333


@dataclass(frozen=True)
class Quantity:
    """An exact value and its unit; "" for none and for an unknown word, which is stripped."""

    value: Fraction
    unit: str = ""
    # False when more text could still change the value: "4" at the end of a cut text may have become "40".
    ended: bool = False


# Wrappers that change the look of an answer, not its meaning. Their braces stay; the patterns below read them.
_WRAPPERS = re.compile(
    r"\\(?:textbf|textit|texttt|text|mathrm|mathbf|mathit|operatorname|bf|rm|left|right|displaystyle)(?![A-Za-z])"
    r"|\\[()\[\]]|\\[,;!: ]|\*\*|__|`|\$|\\$"
)
_CHARS = str.maketrans(
    {
        "−": "-", "–": "-", "—": "-", "﹣": "-", "－": "-", "＋": "+", "⁄": "/", "／": "/",
        "（": "(", "）": ")", "：": ":", "．": ".", "，": ",", "。": ".", "％": "%",
        "∘": "°", "º": "°", "˚": "°", "²": "^2", "³": "^3",
        "½": " 1/2", "¼": " 1/4", "¾": " 3/4", "⅓": " 1/3", "⅔": " 2/3",
        "\u00a0": " ", "\u2009": " ", "\u202f": " ", "~": " ",
        **{chr(0xFF10 + d): str(d) for d in range(10)},
        **{chr(0xFF21 + i): chr(65 + i) for i in range(26)},
    }
)  # fmt: skip


_RANGE = re.compile(r"(?<=[0-9°%])\s?[~～〜]\s?(?=-?[0-9])")


def clean(text: str) -> str:
    """`text`, cut to MAX_PAYLOAD, without markup and with one spelling for minus, degree and full-width characters."""
    text = _RANGE.sub(" to ", text[:MAX_PAYLOAD])  # elsewhere `~` is LaTeX's blank, or "about"
    text = text.replace("{,}", ",").replace("{}", "").replace(r"\$", "").replace(r"\%", "%").translate(_CHARS)
    text = re.sub(r"\^?\s?\{?\s?\\(?:circ|degree)(?![A-Za-z])\s?\}?", "°", text)
    return _WRAPPERS.sub("", text).strip()


_DEC = r"(?:(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)(?:\.[0-9]+)?|\.[0-9]+)"
_SIGN = r"[+-]?"  # directly before the digits: "- 40" is a bullet more often than minus forty
NUMBER = re.compile(
    rf"(?P<sign>{_SIGN})(?:(?:(?P<whole>[0-9]{{1,9}})\s?)?\\[dt]?frac\s?(?:"
    rf"\{{\s?(?P<ln>{_SIGN}{_DEC})\s?\}}\s?\{{\s?(?P<ld>{_SIGN}{_DEC})\s?\}}|(?P<sn>[0-9])\s?(?P<sd>[0-9]))"
    rf"|(?P<mixed>[0-9]{{1,9}})\s(?P<mn>[0-9]{{1,9}})\s?/\s?(?P<md>[0-9]{{1,9}})"
    rf"|(?P<n>{_DEC})\s?/\s?(?P<d>{_DEC})|(?P<dec>{_DEC})(?:[eE](?P<e>[+-]?[0-9]+)"
    rf"|\s?(?:\\times|\\cdot|×|·|\*|x)\s?10\s?\^\s?\{{?\s?(?P<p>[+-]?[0-9]+)\s?\}}?)?"
    r")"
)

LEAD = re.compile(
    r"(?:[\s:=≈€£¥*_>\"']|\\approx|\b(?:is|equals|approximately|approx\.?|about|around|roughly|nearly|therefore|thus"
    r"|clearly|simply|just|exactly)\b)+",
    re.IGNORECASE,
)
# A value may be followed by nothing, the end of its sentence, a reason, or a remark without digits.
_TAIL = re.compile(
    r"\s*(?:[\"'}\])*_]*\s*$"
    r"|[\"'}\])*_]*[.;!](?=\s|$)(?!\s+(?:[Oo]r|[Aa]lternatively|[Mm]aybe|[Pp]erhaps|[Pp]ossibly|[Oo]therwise)\b)(?!\s+[0-9.]+\W*$)"
    r"|,(?=\s)(?!\s+(?:or|and|possibly|perhaps|maybe|alternatively|otherwise)\b)(?!\s*[-+(\\]?\s?[0-9])"
    r"|(?<=\s)(?:because|since|so|as|which|where|when|based|using|from|by)\b|\([^0-9()]{1,60}\)\W*$"
    # A Chinese or Japanese counter or ending ("5 个", "5です"), not a factor, a range, a denial or a question.
    r"|\s?(?![万萬亿億千百十分之到至或和与不点倍半と])(?:(?!では|じゃ|な[いく]|とは|違|誤|错|不|吗|或|なら|か)[\u3040-\u30ff\u4e00-\u9fff]){1,8}[.,;!]?\s*$)"
)
_REJECTED = re.compile(r"\W{0,4}(?:which\s|this\s|that\s)?(?:is|was)\s(?:not|wrong|incorrect)\b", re.IGNORECASE)
_WORDS = re.compile(r"(?:\s[A-Za-z][A-Za-z'-]+){1,3}\s?[.!]?\s*$")
# Words after a number that make it another number, a list or a rejected one: "3 million", "5 or 6", "40 is wrong".
_NOT_UNITS = re.compile(
    r"\b(?:or|and|to|times|plus|minus|over|by|point|half|hundred|thousand|million|billion|trillion|dozen|pi|sqrt|root"
    r"|squared|cubed|power|divided|multiplied|is|isn't|was|not|wrong|incorrect|if|but|than|versus|vs|more|less|tenths?"
    r"|hundredths?|thirds?|quarters?|of)\b",
    re.IGNORECASE,
)


def trim_words(text: str) -> str:
    """`text` without one to three plain words at its end, which name a unit: "2√3 nautical miles"."""
    words = _WORDS.search(text)
    return text[: words.start()].rstrip() if words and not _NOT_UNITS.search(words[0]) else text


def _decimal(text: str) -> Fraction | None:
    digits = text.replace(",", "").replace(" ", "")
    return Fraction(digits) if len(digits) <= MAX_DIGITS else None


def _ratio(top: str, bottom: str) -> Fraction | None:
    above, below = _decimal(top), _decimal(bottom)
    return above / below if above is not None and below else None


def number_value(m: re.Match[str]) -> Fraction | None:
    """The value of a match of NUMBER; None for 1/0 and for too many digits."""
    if m["ln"] or m["sn"]:
        value = _ratio(m["ln"] or m["sn"], m["ld"] or m["sd"])
        if value is not None and m["whole"]:
            value += int(m["whole"])
    elif m["mixed"]:
        value = _ratio(m["mn"], m["md"])
        if value is not None:
            value += int(m["mixed"])
    elif m["n"]:
        value = _ratio(m["n"], m["d"])
    else:
        value = _decimal(m["dec"])
        exponent = m["e"] or m["p"]
        if exponent and value is not None:
            small = len(exponent) <= 4 and abs(int(exponent)) <= MAX_EXPONENT
            value = value * Fraction(10) ** int(exponent) if small else None
    return -value if value is not None and m["sign"].strip() == "-" else value


def _unwrap(text: str) -> str:
    """`text` without outer brackets, at most three layers: `((5))` and `{5}` are 5."""
    for _ in range(3):
        if len(text) > 2 and text[0] + text[-1] in ("()", "{}", "[]") and not set(text[1:-1]) & set("(){}[]"):
            text = text[1:-1].strip()
    return text


def _read(text: str, strict: bool) -> Quantity | None:
    lead = LEAD.match(text)
    start = lead.end() if lead and not strict else 0
    m = NUMBER.match(text, start)
    if not m or (value := number_value(m)) is None:
        return None
    end = m.end()
    unit = ""
    if u := UNIT.match(text, end):
        unit = unit_of(u)
        end = u.end()
    rest = text[end:]
    if strict:
        return Quantity(value, unit) if re.fullmatch(r"\s*\.?", rest) else None
    if _REJECTED.match(rest):
        return None
    if tail := _TAIL.match(text, end):
        # With text after the tail the value has ended: "40. The", "40, because". A "40." may still become "40.5".
        return Quantity(value, unit, ended=tail.end() < len(text))
    words = _WORDS.match(rest)
    if words and not _NOT_UNITS.search(rest):
        return Quantity(value, unit)
    return None


def read_quantity(text: str, strict: bool = False) -> Quantity | None:
    """The one value that `text` states, or None.

    `strict`: `text` is a value with at most a known unit, and nothing else (a gold answer, a choice, a bare line).
    Otherwise a lead ("about", "x =", "The angle is") and an ending ("apples", ", because ...") are skipped.
    None for two values ("5 or 6"), for arithmetic that is not carried out ("2√3", "5+3", "2:3") and for 1/0.
    """
    found = _read_quantity(text[:MAX_PAYLOAD], strict)
    # Where the text was cut to MAX_PAYLOAD, a value that reaches the cut may be incomplete.
    return found if found is None or len(text) <= MAX_PAYLOAD or found.ended else None


@lru_cache(maxsize=1 << 14)  # short answers repeat: a run judges millions of texts with a few thousand of them
def _read_quantity(text: str, strict: bool) -> Quantity | None:
    text = _unwrap(clean(text))
    if not any(c.isdigit() for c in text):
        return None
    found = _read(text, strict)
    if found or strict:
        return found
    # "AB = 2 * 3 = 6": the value after the last sign, provided that this is one statement.
    left, sign, right = text.replace("≈", "=").replace(r"\approx", "=").rpartition("=")
    if sign and not re.search(r"[,;<>!≤≥≠]|\b(?:or|and|not)\b|\\(?:neq?|leq?|geq?)\b|n't\b", left):
        return _read(right.strip(), strict=False)
    # "The degree of angle 1 is 40": one verb, so one statement.
    parts = re.split(r"\b(?:is|equals|equal to)\s", text)
    return (
        _read(parts[1].strip(), strict=False)
        if len(parts) == 2 and not re.search(r"[.;]\s|\bnot\b", parts[0])
        else None
    )


def same_value(value: Fraction, gold: Fraction, rel_tol: Fraction = REL_TOL) -> bool:
    """Whether `value` is within a tolerance relative to `gold`; a gold of 0 requires exactly 0."""
    return abs(value - gold) <= rel_tol * abs(gold)


def canonical(value: Fraction) -> str:
    """The value as a plain decimal with at most CANONICAL_DIGITS significant digits, no trailing zeros: 5.0 is "5"."""
    context = Context(prec=CANONICAL_DIGITS, rounding=ROUND_HALF_EVEN, Emax=10**6, Emin=-(10**6))
    text = format(context.divide(Decimal(value.numerator), Decimal(value.denominator)), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def plain(text: str) -> str:
    """Text for comparing choices by wording: no markup, case, outer punctuation or repeated spaces."""
    return re.sub(r"\s+", " ", clean(text)).strip(" .;:!?\"'{}*_").casefold()
