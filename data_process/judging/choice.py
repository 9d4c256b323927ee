"""Reading a letter: `(B)`, `B.`, `B`, `B. 40 cm`, `(B) 40.0`, or the value or wording of exactly one choice."""

from __future__ import annotations

import re
from functools import lru_cache

from data_process.judging.answers import Quantity, clean, plain, read_quantity, same_value
from data_process.judging.cues import Place, Reading, find_answer
from data_process.schema import LETTERS, DataError, Problem, Verdict

_LEAD = re.compile(
    r"(?:[\s:=>*_\"'{]|\b(?:therefore|thus|clearly|indeed|simply|option|choice|letter|definitely)\b)+", re.IGNORECASE
)
# A letter in brackets may be small and may be followed by anything but a letter or digit.
_BRACKETED = re.compile(r"[(\[{]\s?([A-Za-z])\s?[.)\]}]+(?![A-Za-z0-9])|[(\[{]\s?([A-Z])\s?[)\]}](?=[A-Za-z0-9])")
# Without brackets it must end: "B", "B.", "B) 40", "B: 40". "A triangle" and "A.M." do not end there.
_BARE = re.compile(
    r"([A-Z])(?:\s?[)\]}*_\"']+(?![A-Za-z0-9])|\s?[.:](?![A-Za-z])|[,;!?](?=\s|$)|$)|([a-z])(?:[).](?=\s|$)|$)"
)
_SPACED = re.compile(r"([A-Z])\s{0,2}(?:[.:)=-]\s{0,2}|\s)(?=\S)")
_REASON = re.compile(r"(?:because|since|is (?:the )?(?:correct|right|best)|as (?:the|it|shown|angle)\b)", re.IGNORECASE)
_ANOTHER = re.compile(
    r"\W{0,4}(?:(?:or|and)\b\W{0,3}(?:option\s)?[A-J]\b|[/&,]\s?\(?[A-J]\b(?!\s(?:is|was|has|does)\b)|\(\s?[A-J]\s?\))"
    r"|.{0,80}\bor\s\(?[A-J]\)?\W*$"
)
_REJECTED = re.compile(
    r"\W{0,4}(?:which\s|this\s|that\s)?(?:is|was|cannot|can't|isn't)\s(?:not\b|wrong\b|incorrect\b|be\b|ruled\b|the\swrong\b)"
)
_AT_END = re.compile(r"(?:\(\s?([A-Z])\s?\)|\b(?:option|choice)\s\(?([A-Z])\)?)\W*$")


@lru_cache(maxsize=1 << 14)
def _choice(text: str) -> tuple[str, Quantity | None]:
    return plain(text), read_quantity(text, strict=True)


def _units_clash(a: Quantity, b: Quantity) -> bool:
    """`40 mm` is not `40 cm`; a missing unit agrees with every unit."""
    return bool(a.unit and b.unit and a.unit != b.unit)


def matching_letters(text: str, problem: Problem) -> str:
    """The letters of the choices that `text` names by wording or, failing that, by value."""
    choices = [(letter, *_choice(c)) for letter, c in zip(LETTERS, problem.choices, strict=False)]
    words = plain(text)
    by_words = "".join(letter for letter, wording, _ in choices if wording and wording == words)
    if len(by_words) == 1:
        return by_words
    said = read_quantity(text)
    if said is None:
        return by_words
    return "".join(
        letter for letter, _, q in choices if q and same_value(said.value, q.value) and not _units_clash(q, said)
    )


def _letter(text: str, problem: Problem) -> tuple[str, str] | None:
    """The letter that `text` begins with as a choice, and what follows the letter itself."""
    if m := _BRACKETED.match(text) or _BARE.match(text):
        return (m[1] or m[2]).upper(), text[max(m.end(1), m.end(2)) :]
    if m := _SPACED.match(text):  # "B 40 cm", "B - 40", "B because": not "A triangle"
        rest = text[m.end() :]
        if _REASON.match(rest) or m[1] in matching_letters(rest.strip("()- "), problem):
            return m[1], text[m.end(1) :]
    return None


def read_choice(payload: str, problem: Problem, place: Place) -> Reading:
    """What `payload` says: a letter, or the one choice that it names by wording or value."""
    text = clean(payload)
    lead = _LEAD.match(text)
    text = text[lead.end() :] if lead else text
    if not text:
        return Reading(None, "no_answer")
    if found := _letter(text, problem):
        letter, rest = found
        named = rest.strip(" .:;,-=()*_}]\"'")
        value_of = matching_letters(named, problem) if named else ""
        if _ANOTHER.match(rest):
            return Reading(None, "several_letters")
        if _REJECTED.match(rest):
            return Reading(None, "rejected_letter")
        # Away from its cue "A. The triangle is ..." opens a list, while "A. 40 cm" is an answer.
        free = place == "inline" or (place == "below" and text[0] in "([{")
        if letter in problem.letters and (free or value_of or not named):
            clash = value_of and letter not in value_of
            note = (
                f"letter {letter}, but what follows is choice {'/'.join(value_of)}; the letter counts"
                if clash
                else None
            )
            return Reading(letter, "letter", note, closed=bool(rest))
        if letter in problem.letters:
            return Reading(None, "unreadable_answer")
        by_words = matching_letters(text, problem)  # a choice may itself be a letter: "E" among the points E, F, G
        return Reading(by_words, "text") if len(by_words) == 1 else Reading(None, "letter_beyond_choices")
    if place != "inline":
        matched, quantity = matching_letters(text, problem), read_quantity(text, strict=True)
        if quantity is None and plain(text) not in {plain(c) for c in problem.choices}:
            matched = ""
    else:
        matched, quantity = matching_letters(text, problem), read_quantity(text)
        # "40 degrees (B)", "40, so option B": the letter counts, as everywhere.
        if (m := _AT_END.search(text)) and (m[1] or m[2]) in problem.letters:
            before = matching_letters(text[: m.start()].rstrip(" ,;:-="), problem)
            if before:
                letter = m[1] or m[2]
                note = None if letter in before else f"choice {'/'.join(before)} by value, but letter {letter}"
                return Reading(letter, "letter", note, closed=m[0].endswith((")", ".")))
    if len(matched) == 1:
        return Reading(matched, "value" if quantity else "text", closed=bool(quantity and quantity.ended))
    if matched:
        return Reading(None, "ambiguous_value")
    return Reading(None, "value_not_among_choices" if quantity else "unreadable_answer")


def judge_choice(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Verdict on a multiple-choice response; DataError when the gold answer is not one of the letters."""
    if len(problem.answer) != 1 or problem.answer not in problem.letters:
        raise DataError(f"problem {problem.id}: gold {problem.answer!r} is not one of the letters {problem.letters!r}")
    found = find_answer(text, lambda payload, place: read_choice(payload, problem, place), truncated)
    if found.answer is None:
        return Verdict("abstain", None, found.rule)
    status = "correct" if found.answer == problem.answer else "wrong"
    return Verdict(status, found.answer, found.rule, found.span, found.note)
