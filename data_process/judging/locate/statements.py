"""Reads the value that a sentence without a cue states: "There are two people left.", "So f(4) = 4."

The rules are weak, so they abstain on a sentence with two values, a range, a refusal or several candidates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache

from data_process.judging.locate.assertion import denied
from data_process.judging.locate.sentences import CONCLUSION, REFUSAL
from data_process.judging.maths.number_words import COUNTERS, to_digits
from data_process.judging.maths.quantity import NUMBER, Quantity, clean, number_value
from data_process.judging.maths.units import UNIT, unit_of


def last_statement(sentence: str, question: str) -> str | None:
    """The text after the last `=` or verb of a sentence: "5√3 m" in "The height of the tree is 5√3 m." """
    if REFUSAL.search(sentence):
        return None
    text = clean(sentence[-300:])
    parts = re.split(r"[=≈]|\b(?:is|are|be|equals|equal to|of)\s", text)
    stated = parts[-1].strip(" .,;")
    at = text.rfind(stated)
    return stated if len(parts) > 1 and not denied(text, at, at + len(stated), question) else None


# The words before a number decide whether it is the one that the sentence states.
_STATES = re.compile(
    r"(?:\b(?:is|are|was|were|be|been|equals?|has|have|had|having|contains?|containing|leaves?|leaving|left with|shows?"
    r"|reads?|gets?|got|makes?|made|spends?|spent|costs?|weighs?|measures?|totals?|becomes?|gives?|yields?|needs?|scored"
    r"|comes?\sout\sto|works?\sout\sto(?:\sbe)?|sold|visited|provides?|holds?|sees?|see|find|count|counted|points to"
    r"|indicates?|states?|expressed as|given as|written as)|[:=≈]|等于|[为是はが])\s{0,2}"
    r"(?:(?:only|exactly|about|approximately|around|roughly|nearly|almost|actually|also|now|just|still|therefore|then"
    r"|thus|equal|equals|to|at|a|an|the|total|sum|value|score|length|distance|angle|number|amount|of|be|estimated"
    r"|likely|probably|currently|indeed|always|simply|up|us|me)\s|[$£€*≈~(\\]|\s){0,12}$",
    re.IGNORECASE,
)
_NOT_STATED = re.compile(
    r"(?:\b(?:than|in|at|on|from|during|since|until|by|between|figure|fig\.|step|week|day|month|year|grade|group|dataset"
    r"|store|town|person|player|angle|line|point|question|option|choice|part|case|row|column|page|no\.|number|subject"
    r"|for|per|when|if|over|under|above|below|least|most|exceeds?|exceeding|surpass(?:es)?|approaches|size|and|or|plus|minus|times|to|subtract(?:ing)?"
    r"|add(?:ing)?|x|every|model|test|item|object|trial|grade|level|age|ages|aged|stage|phase|problem|example)|[∠△#_^+*/×÷<>≤≥]|[A-Za-z]\()\s?[$£€*(\\]?$",
    re.IGNORECASE,
)
_RANGE = re.compile(
    r"\s?(?:-|–|~|to|or|and|至|到|或|、|か|または)\s?\$?[0-9]|\s(?:or|and|to|times|plus|minus|x)\W*$|\s?(?:hundred|thousand|million|billion|trillion)s?\b",
    re.IGNORECASE,
)
_GOES_ON = re.compile(
    r"[KkMBT](?![A-Za-z])|\s?[√π^*/+×÷:∶]|\s?\\(?:sqrt|pi|times|cdot|frac)|-?[A-Za-z]*[0-9]|st\b|nd\b|rd\b|th\b|\s?-\s?[0-9]"
)
_EAST_IF = re.compile(
    r"\W*(?:如果|假如|假设|假定|要是|倘若|もし|仮に|若[^，,。]{0,12}(?:选|答案|正确|[A-J](?![A-Za-z∠△=])))"
)
_BOUND = re.compile(
    r"(?:大于|小于|大於|小於|超过|超過|不足|至少|至多|多于|少于|高于|低于|最多|最少|介于)(?:等于|[为是はが])?\s?$|第\s?$"
)
# After a number a Chinese or Japanese sentence ends, or a unit or a counter stands there: not "5的倍数", "5より大きい".
_EAST_GOES_ON = re.compile(
    rf"\s?(?=[\u3040-\u9fff])(?![{COUNTERS}]{{0,2}}(?:です|である|であり|だ|となる|になる|を得る|と求まる|なので|があ|あ|い)?"
    r"(?:[^\u3040-\u9fffA-Za-z0-9]|$|而|所以|因此|故|但|ます|る|り|[，,]))"
    rf"(?![{COUNTERS}]\s?[\u4e00-\u9fff]{{1,6}}[。.]?$)"
)
_NONE = re.compile(
    r"\b(?:there (?:is|are|was|were|will be|would be) (?:no|none|not any)|none of the|(?:is|are) none"
    r"|no (?:other )?\w+ (?:is|are|was|were|has|have|had))\b",
    re.IGNORECASE,
)


_ASKS_MULTIPLE = re.compile(r"倍|\btimes\b|比|\bratio\b", re.IGNORECASE)  # otherwise "5倍" is five times something


def _goes_on(rest: str) -> bool:
    """Whether a number is part of something larger, by the text after it."""
    return bool(_GOES_ON.match(rest) or _RANGE.match(rest) or _EAST_GOES_ON.match(rest))


def _numbers(text: str, question: str | None = None) -> Iterator[tuple[int, Quantity]]:
    """Every number that is a word of its own, with its position and unit, which is "?" inside something larger.

    With the `question` that a sentence answers, the numbers that the sentence denies or supposes are left out.
    """
    for m in NUMBER.finditer(text):
        start, end = m.span()
        if m["sign"] and start and not re.search(r"[\s=:(≈$]$", text[:start]):
            start += 1  # "5-3": a minus between two numbers, not a sign
        if start and re.search(r"[A-Za-z0-9.,_\\{]$", text[max(0, start - 1) : start]):
            continue
        value = number_value(m)
        if value is None:
            continue
        if start > m.start() and value < 0:
            value = -value
        unit = ""
        if u := UNIT.match(text, end):
            unit, end = unit_of(u), u.end()
        if question is not None and denied(text, start, end, question):
            continue
        rest = text[end : end + 24]
        bullet = re.search(r"(?:^|[\s=:(])-\s$", text[max(0, start - 3) : start])  # "- 5" may be a bullet or a sign
        multiple = rest.startswith("倍") and question is not None and not _ASKS_MULTIPLE.search(question)
        if bullet or multiple or _BOUND.search(text[max(0, start - 6) : start]) or _goes_on(rest):
            yield start, Quantity(value, "?")  # part of something larger, which makes the sentence ambiguous
        else:
            yield start, Quantity(value, unit)


# "We can deduce that", "If ∠C = 35°, then": the statement follows.
_MAIN = re.compile(
    r".*\b(?:deduce|conclude|determine|find|see|say|infer|know|calculate|estimate)\sthat\s"
    r"|^\W*(?:if|given|since|as|when|because)\b.*,\sthen\s"
    r"|^\W*(?:if|given|since|as|when|because|in|at|for|from|based|with|of|on|by)\b.*?,\s(?:so\s)?(?=\S*[A-Za-z∠△])",
    re.IGNORECASE | re.DOTALL,
)
# A sentence without a full stop must end at its value: "The difference is 27", not "we know that AB + AC".
_ENDED = re.compile(
    r"[.!?。！？…;:)\]}\"'”’]\s*$|[0-9]\s?(?:°|%|[A-Za-z^{}²³/$]{1,12}){0,3}\s*$|\b(?:is|=)\s\S+\s\S+\s*$"
)
_HOW_MANY_YEARS = re.compile(r"\bhow many years\b", re.IGNORECASE)
_ASKS_WHICH = re.compile(r"\bwhich ([a-z]{3,16})\b", re.IGNORECASE)
_ASKS_ONLY_YEAR = re.compile(r"\b(?:which|what) year\b", re.IGNORECASE)
_ASKS_YEAR = re.compile(
    r"\b(?:which|what) year\b|^\W*when\b(?!.*\b(?:what|how|which|find)\b)", re.IGNORECASE | re.DOTALL
)


def main_clause(sentence: str) -> str:
    """The statement of a sentence: without "If all the algae die, " or "We can conclude that "."""
    m = _MAIN.match(sentence)
    return sentence[m.end() :] if m and m.end() < len(sentence) else sentence


def read_number_statement(sentence: str, question: str, verb: bool = False) -> Quantity | None:
    """The one value that a sentence states, in digits or words, or None.

    It is the value after the last `=`; else the number after the verb; else the only number of the sentence, unless the
    question gave it or it is a name ("week 2"). "There are no ..." states 0. With `verb`, only `=` and verbs count.
    """
    if REFUSAL.search(sentence) or _EAST_IF.match(sentence):
        return None
    text = to_digits(clean(sentence[-300:]).replace("\\approx", "≈"))
    if not _ENDED.search(text):
        return None
    if m := _MAIN.match(text):
        if denied(text, m.end(), len(text), question):  # "It is wrong to say that AB is 5."
            return None
        main = _stated(text[m.end() :], question, verb)
        if main is not None:
            return main
        asked = _asked(question)
        if any(q.value not in asked for _, q in _numbers(text[m.end() :], question)):
            return None  # the statement holds a number that these rules cannot read
    return _stated(text, question, verb)


@lru_cache(maxsize=1 << 12)
def _asked(question: str) -> frozenset[Fraction]:
    """The numbers that the question gives."""
    return frozenset(q.value for _, q in _numbers(to_digits(clean(question[-300:]))))


def _stated(text: str, question: str, verb: bool) -> Quantity | None:
    found = list(_numbers(text, question))
    if not found:
        return Quantity(Fraction(0)) if _NONE.search(text) else None
    if not verb and ((named := _asked_for(text, question, found)) or _ASKS_ONLY_YEAR.search(question)):
        return named  # "The share was highest in 2016, with 94%"
    stated = [(at, q) for at, q in found if _STATES.search(text[max(0, at - 60) : at])]
    equals = [(at, q) for at, q in stated if re.search(r"[=≈]\s?\W{0,2}$", text[max(0, at - 4) : at])]
    if equals:
        return _after_equals(text, found, equals)
    values = {q.value for _, q in stated}
    if any(q.unit == "?" for _, q in stated):
        return None
    if len(values) == 1:
        at, value = stated[-1]
        asked = _asked(question)
        if found[0][0] == 0 and value.value in asked and found[0][1].value not in asked:
            return None if found[0][1].unit == "?" else found[0][1]  # "0 shipments had exactly 56 boxes."
        # In "There are two cars and three buses" the verb states both.
        both = any(p > at and q != value and re.search(r"\band\s$", text[:p]) for p, q in found)
        return None if both else value
    if len(values) > 1:
        # "There are 4 dots in 2 groups, so each has 2": the value after the conclusion.
        concluded = list(re.finditer(r"\b(?:so|therefore|thus|hence|leaving|which means|meaning)\b", text))
        after = [q for at, q in stated if concluded and at > concluded[-1].start()]
        return after[-1] if len({q.value for q in after}) == 1 else None
    if verb:
        return None
    if _NONE.search(text):
        return Quantity(Fraction(0))
    asked = _asked(question)
    free = [q for at, q in found if not _NOT_STATED.search(text[max(0, at - 24) : at]) and q.value not in asked]
    if len({q.value for q in free}) == 1:
        return free[0] if free[0].unit != "?" else None
    if len(found) == 1 and found[0][0] == 0 and 2 <= len(text.split()) <= 8:  # "3 dots in each group."
        return found[0][1] if found[0][1].unit != "?" else None
    return None


def _asked_for(text: str, question: str, found: list[tuple[int, Quantity]]) -> Quantity | None:
    """A year, a number of years or a numbered thing ("subject 11") where the question asks for one."""
    if _HOW_MANY_YEARS.search(question):
        hits = [q for at, q in found if re.match(r"[0-9]+ years?\b", text[at:])]
    elif _ASKS_YEAR.search(question):
        hits = [q for at, q in found if re.match(r"[12][0-9]{3}(?![0-9])", text[at:])]
    elif m := _ASKS_WHICH.search(question):
        hits = [q for at, q in found if re.search(rf"\b{m[1]}\s(?:number\s)?$", text[:at], re.IGNORECASE)]
    else:
        hits = []
    return hits[0] if len({q.value for q in hits}) == 1 and hits[0].unit != "?" else None


def _after_equals(text: str, found: list[tuple[int, Quantity]], equals: list[tuple[int, Quantity]]) -> Quantity | None:
    """The value after the last `=`: "2 * 3 = 6"; "x = 3, y = 4" states two, and so does "x = 3 and the sum is 7"."""
    at, value = equals[-1]
    later = [(p, q) for p, q in found if p > at and q != value and _STATES.search(text[max(0, p - 60) : p])]
    if later:  # "the field at r = 2 is 0.2"
        value = later[-1][1]
        return value if len({q.value for _, q in later}) == 1 and value.unit != "?" else None
    if value.unit == "?":
        return None
    parts = re.split(r"[,;]\s|\band\b", text)
    sides = {part.rpartition("=")[2].strip(" .") for part in parts if "=" in part}
    return value if len(sides) <= 1 or CONCLUSION.match(text) else None
