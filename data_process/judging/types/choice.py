"""Reading a letter: `(B)`, `B.`, `B`, `B. 40 cm`, `(B) 40.0`, or the value or wording of exactly one choice."""

from __future__ import annotations

import re
from functools import lru_cache

from data_process.judging.locate.choice_statements import named_letter, polar_letter, stated_letter, worded_letter
from data_process.judging.locate.cues import Place, Reading, find_answer
from data_process.judging.locate.statements import last_statement, read_number_statement
from data_process.judging.maths.quantity import Quantity, clean, plain, read_quantity, same_value
from data_process.judging.types.expression import read_gold
from data_process.schema import LETTERS, DataError, Problem, Verdict

_LEAD = re.compile(
    r"(?:[\s:=>*_\"'{]|\b(?:therefore|thus|clearly|indeed|simply|option|choice|letter|definitely)\b)+", re.IGNORECASE
)
# A letter in brackets may be small and may be followed by anything but a letter or digit.
_BRACKETED = re.compile(r"[(\[{]\s?([A-Za-z])\s?[.)\]}]+(?![A-Za-z0-9])|[(\[{]\s?([A-Z])\s?[)\]}](?=[A-Za-z0-9])")
# Without brackets it must end: "B", "B.", "B) 40", "B: 40". "A triangle" and "A.M." do not end there.
_BARE = re.compile(
    r"([A-Z])(?:\s?[)\]}*_\"']+(?![A-Za-z0-9])|\s?[.:](?![A-Za-z])|[,;!?](?=\s|$)|(?=[是为为，、])|$)|([a-z])(?:[).](?=\s|$)|$)"
)
_ANNOUNCED = re.compile(r"A\s?:\s")  # "A: No" answers a "Q:"
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


def _by_value(said: Quantity, problem: Problem) -> str:
    choices = [(letter, _choice(c)[1]) for letter, c in zip(LETTERS, problem.choices, strict=False)]
    return "".join(
        letter for letter, q in choices if q and same_value(said.value, q.value) and not _units_clash(q, said)
    )


@lru_cache(maxsize=1 << 14)
def _expression(text: str) -> str | None:
    found = read_gold(text)
    return found if found and ("sqrt" in found or "pi" in found) else None


def _by_expression(text: str, problem: Problem) -> str:
    """The letters of the choices that equal a root or a multiple of π: "5√3 m" among 5√{3}m, 10√{3}m."""
    if not re.search(r"√|sqrt|π|\\pi|\bpi\b|root", text):
        return ""
    said = _expression(text)
    return (
        ""
        if said is None
        else "".join(letter for letter, c in zip(LETTERS, problem.choices, strict=False) if _expression(c) == said)
    )


def matching_letters(text: str, problem: Problem) -> str:
    """The letters of the choices that `text` names by wording or, failing that, by value."""
    choices = [(letter, *_choice(c)) for letter, c in zip(LETTERS, problem.choices, strict=False)]
    words = plain(text)
    short = re.sub(r"^(?:the|an?)\s(?=\S{2})", "", words)
    by_words = "".join(letter for letter, wording, _ in choices if wording and wording in (words, short))
    if len(by_words) == 1:
        return by_words
    said = read_quantity(text)
    if said is None:
        return by_words or _by_expression(text, problem)
    return _by_value(said, problem)


def _letter(text: str, problem: Problem) -> tuple[str, str] | None:
    """The letter that `text` begins with as a choice, and what follows the letter itself."""
    if m := _BRACKETED.match(text) or _BARE.match(text):
        return (m[1] or m[2]).upper(), text[max(m.end(1), m.end(2)) :]
    if m := _SPACED.match(text):  # "B 40 cm", "B - 40", "B because": not "A triangle"
        rest = text[m.end() :]
        if _REASON.match(rest) or m[1] in matching_letters(rest.strip("()- *_."), problem):
            return m[1], text[m.end(1) :]
    return None


_STATEMENTS = (
    (stated_letter, "letter"),
    (named_letter, "letter"),
    (polar_letter, "yes_no"),
    (worded_letter, "text"),
)


def _read_statement(sentence: str, problem: Problem, place: Place) -> Reading:
    for read, form in _STATEMENTS:
        if letter := read(sentence, problem):
            return Reading(letter, form)
    if place == "opening":  # a derivation opens with given values
        return Reading(None, "unreadable_answer")
    said = read_number_statement(sentence, problem.question, verb=True)
    matched = "" if said is None else _by_value(said, problem)
    if not matched and said is None and (stated := last_statement(sentence)):
        matched = _by_expression(stated, problem)
    return Reading(matched, "value") if len(matched) == 1 else Reading(None, "unreadable_answer")


def read_choice(payload: str, problem: Problem, place: Place) -> Reading:
    """What `payload` says: a letter, or the one choice that it names by wording or value."""
    if place in ("statement", "opening"):
        return _read_statement(payload, problem, place)
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
        free = place in ("inline", "bold") or (place == "below" and text[0] in "([{")
        worded = place == "bare" and named and worded_letter(named, problem) == letter
        if len(value_of) == 1 and letter == "A" != value_of and _ANNOUNCED.match(text):
            return Reading(value_of, "text", "A: announces an answer here; the wording counts")
        if letter in problem.letters and (free or value_of or worded or not named):
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
    if letter := polar_letter(text, problem, restated=False):  # "no, there are not more ..."
        return Reading(letter, "yes_no", closed=True)
    if place not in ("inline", "bold"):
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


def check_letter(problem: Problem) -> None:
    """DataError when the gold answer is not one of the letters."""
    if len(problem.answer) != 1 or problem.answer not in problem.letters:
        raise DataError(f"problem {problem.id}: gold {problem.answer!r} is not one of the letters {problem.letters!r}")


def judge_choice(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Verdict on a multiple-choice response; DataError when the gold answer is not one of the letters."""
    check_letter(problem)
    found = find_answer(text, lambda payload, place: read_choice(payload, problem, place), truncated)
    if found.answer is None:
        return Verdict("abstain", None, found.rule)
    texts = dict(zip(LETTERS, problem.choices, strict=False))  # two choices may be the same text
    right = found.answer == problem.answer or texts[found.answer] == texts[problem.answer]
    status = "correct" if right else "wrong"
    return Verdict(status, found.answer, found.rule, found.span, found.note)
