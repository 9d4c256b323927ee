"""Words: `Yes`, `the red car`. Case, articles, markup and outer punctuation do not count; the wording does."""

from __future__ import annotations

import re
from functools import lru_cache

from data_process.judging.locate.assertion import denied
from data_process.judging.locate.cues import Place, Read, Reading, find_answer
from data_process.judging.locate.yes_no import leading_yes_no, stated_truth
from data_process.judging.maths.number_words import to_digits
from data_process.judging.maths.quantity import MAX_PAYLOAD, canonical, clean, plain, read_quantity
from data_process.judging.types.base import AnswerJudge, verdict_on
from data_process.schema import DataError, Problem, Verdict

MAX_WORDS = 12  # a longer line without a cue is a sentence, not an answer
_POLAR = ("yes", "no", "true", "false")
_LEAD = re.compile(r"(?:(?:it|that|this|they|the answer)\s(?:is|are)\s|the\s|an?\s|is\s|are\s)+", re.IGNORECASE)
_SENTENCE_END = re.compile(r"(?<![A-Z])(?<!\b[A-Z][a-z])[.;!?](?=\s|$)|,\s(?=because|since|as\b|so\b|which\b)")


_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september", "october", "november",
    "december", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday",
)  # fmt: skip
_SHORT = {name[:3]: name for name in _MONTHS} | {
    "sept": "september",
    "tues": "tuesday",
    "thur": "thursday",
    "thurs": "thursday",
}
_SHORT |= {
    "&": "and",
    "approx": "approximately",
    "mister": "mr",
    "doctor": "dr",
    "saint": "st",
    "mount": "mt",
    "versus": "vs",
}
_ORDINALS = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
_SHORT |= {name: f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n, 'th') }" for n, name in enumerate(_ORDINALS, start=1)}
_SHORT |= {"noon": "12:00 pm", "midnight": "12:00 am"}
_TIME = re.compile(
    r"\b0?(\d{1,2})(?:[:.](\d\d))?(?:\s?(am|pm)\b|\s(in the morning|in the afternoon|in the evening|at night))"
)
_SYMMETRIC = re.compile(r"([^=∥⊥≅∽~]{1,20})([=∥⊥≅∽])([^=∥⊥≅∽~]{1,20})")


_SIGNS = {"parallel": "∥", "perp": "⊥", "triangle": "△", "angle": "∠", "cong": "≅", "sim": "∽"}
_LATEX = re.compile(rf"\\({'|'.join(_SIGNS)})(?![a-z])\s?")
_CIRCLED = re.compile(r"[①-⑳](?:[、,\s]*(?:和|与|and)?\s?[①-⑳])+")
_HALF_DAY = re.compile(r"(上午|早上|午前|下午|午后|午後|晚上)\s?(\d{1,2})(?:[:点點時时]\s?(\d{1,2})?分?)(?:です)?")


def _half_day(m: re.Match[str]) -> str:
    return f"{m[2]}:{m[3] or '00'} {'am' if m[1] in ('上午', '早上', '午前') else 'pm'}"


def _clock(m: re.Match[str]) -> str:
    half = m[3] or ("am" if m[4] == "in the morning" else "pm")
    return f"{m[1]}:{m[2] or '00'} {half}"


def _forms(words: str) -> str:
    """One form for times, initials, short names of months and days, and relations that read both ways (AC=BD)."""
    words = re.sub(r"\b(?:[a-z]\.\s?){1,5}[a-z]\b\.?", lambda m: re.sub(r"[.\s]", "", m[0]), words)  # u.s.a., p.m.
    words = re.sub(r"\s*°\s*", "°", re.sub(r"(?<=[a-z])\.(?=\s|$)", "", words))
    words = _HALF_DAY.sub(_half_day, _LATEX.sub(lambda m: _SIGNS[m[1]], words))
    words = re.sub(r"(?<![a-z])([nsew])\s?(?=[0-9.]+°)|(?<=°)([nsew])(?![a-z])", lambda m: m[0].strip(), words)
    if _CIRCLED.fullmatch(words):  # ③① is ①③
        words = "".join(sorted(set(re.findall("[①-⑳]", words))))
    words = re.sub(r"\b0([1-9]):(\d\d)\b(?!\s?[ap]m)", r"\1:\2 am", words)
    words = re.sub(r"\b(1[3-9]|2[0-3]):(\d\d)\b(?!\s?[ap]m)", lambda m: f"{int(m[1]) - 12}:{m[2]} pm", words)
    words = _TIME.sub(_clock, re.sub(r"\b(\d{1,2}) o['’]?clock\b", r"\1:00", words))
    words = re.sub(r"(?<=[a-z])-(?=[a-z])", " ", words.replace("≌", "≅"))  # "upper-left"
    words = " ".join(_SHORT.get(word, word) for word in words.split(" "))
    if m := _SYMMETRIC.fullmatch(words):
        sides = sorted(
            "".join(sorted(side)) if re.fullmatch("[a-z]{2}", side) else side for side in (m[1].strip(), m[3].strip())
        )
        return m[2].join(sides)
    return words


@lru_cache(maxsize=1 << 14)
def normal_text(text: str) -> str:
    """`text` for comparison: no markup, case, articles or outer punctuation; a number in plain decimal."""
    words = _forms(plain(text))
    lead = _LEAD.match(words)
    words = words[lead.end() :] if lead and lead.end() < len(words) else words
    quantity = read_quantity(words, strict=True) or read_quantity(to_digits(words), strict=True)
    return canonical(quantity.value) if quantity is not None else words.strip(" .,;:!?\"'")


_CLOCK = re.compile(r"\b\d{1,2}:\d\d (?:am|pm)\b")


def _only_time(said: str) -> str | None:
    """The only time of a short sentence, which it states: "The train leaves at 8:00 a.m.", not "before 8:00 a.m." """
    found = list(_CLOCK.finditer(said))
    if len(found) != 1 or denied(said, *found[0].span()) or re.search(r"\b(?:or|and|until|between)\b", said):
        return None
    return found[0][0] if re.search(r"(?:^|\b(?:at|is|was))\s?$", said[: found[0].start()]) else None


def _reader(gold: str) -> Read:
    polar, timed = gold in _POLAR, _CLOCK.fullmatch(gold) is not None

    def read(payload: str, place: Place) -> Reading:
        text = clean(payload[:MAX_PAYLOAD])
        said = (stated_truth(text) if place == "statement" else None) or leading_yes_no(text)
        if polar and place != "below" and said is not None:
            said = {"yes": "true", "no": "false"}.get(said, said) if gold in ("true", "false") else said
            return Reading(said, "text", closed=True)
        if place == "statement" or (place == "bare" and len(text.split()) > MAX_WORDS):
            return Reading(None, "unreadable_answer")
        end = _SENTENCE_END.search(text)
        said = normal_text(text[: end.start()] if end else text)
        if not said:
            return Reading(None, "no_answer")
        if timed and (time := _only_time(said)) is not None:
            said = time
        if polar and said not in _POLAR:
            return Reading(None, "unreadable_answer")
        return Reading(said, "text", closed=end is not None and end.end() < len(text))

    return read


def read_gold(problem: Problem) -> str:
    """The gold text as it is compared; DataError where it has no word or number."""
    gold = normal_text(problem.answer)
    if not gold:
        raise DataError(f"problem {problem.id}: gold {problem.answer!r} holds no word or number")
    return gold


def judge_text(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Correct where the wording is the same, or the value where it is a number."""
    gold = read_gold(problem)
    return verdict_on(find_answer(text, _reader(gold), truncated), lambda answer: answer == gold)


TEXT = AnswerJudge(judge_text, read_gold, "Write it as the word or phrase that the response gives.")
