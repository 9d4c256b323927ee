"""Multiple choice: `(B)`, `B.`, `B`, `B. 40 cm`, `(B) 40.0`, or the value or wording of exactly one choice."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache

from data_process.judging.locate.assertion import rejected
from data_process.judging.locate.choice_statements import (
    claimed_letter,
    named_letter,
    polar_letter,
    stated_letter,
    worded_letter,
)
from data_process.judging.locate.cues import Place, Reading, find_answer
from data_process.judging.locate.statements import last_statement, read_number_statement
from data_process.judging.maths.canonical import read_standalone
from data_process.judging.maths.quantity import Quantity, clean, plain, read_quantity, same_value
from data_process.judging.types.base import AnswerJudge, verdict_on
from data_process.schema import LETTERS, DataError, Problem, Verdict

_LEAD = re.compile(
    r"(?:[\s:=>*_\"'{]|\b(?:therefore|thus|clearly|indeed|simply|option|choice|letter|definitely)\b)+", re.IGNORECASE
)
# A letter in brackets may be lower case. Anything but a letter or digit may follow it.
_BRACKETED = re.compile(r"[(\[{]\s?([A-Za-z])\s?[.)\]}]+(?![A-Za-z0-9])|[(\[{]\s?([A-Z])\s?[)\]}](?=[A-Za-z0-9])")
# Without brackets the letter must end: "B", "B.", "B) 40", "B: 40". "A triangle" and "A.M." do not.
_BARE = re.compile(
    r"([A-Z])(?:\s?[)\]}*_\"']+(?![A-Za-z0-9])|\s?[.:](?![A-Za-z])|[,;!](?=\s|$|[\u3040-\u9fff∠△])|(?=[\u3040-\u9fff、])|$)"
    r"|([a-z])(?:[).](?=\s|$)|$)"
)
_ANNOUNCED = re.compile(r"A\s?:\s")  # "A: No" answers a "Q:"
_SPACED = re.compile(r"([A-Z])\s{0,2}(?:[.:)=-]\s{0,2}|\s)(?=\S)")
_REASON = re.compile(r"(?:because|since|is (?:the )?(?:correct|right|best)|as (?:the|it|shown|angle)\b)", re.IGNORECASE)
_LETTER = r"(?:option\s|choice\s|选项?|選択肢)?\(?[A-J](?![A-Za-z'’])\)?(?!\s?(?:is|was|has|does|错|不|誤)\b)"
_ANOTHER = re.compile(
    rf"\W{{0,4}}(?:or\b|and\b\W{{0,3}}(?:maybe\s|possibly\s|perhaps\s|also\s)?{_LETTER}|[/&,、;|+]\s?{_LETTER}|\(\s?[A-J]\s?\))"
    rf"|[^A-Za-z0-9]{{0,4}}(?:或者?是?|还是|抑或|和|与|及|跟|又は|または|もしくは|か|と)\s?{_LETTER}"
    rf"|[\s.:)*]{{1,6}}{_LETTER}(?:\W{{1,4}}{_LETTER})*\W*$"
    rf"|.{{0,80}}\b(?:[Oo]r|[Aa]lternatively|[Pp]ossibly|[Mm]aybe|[Pp]erhaps|[Oo]therwise),?\s{_LETTER}(?:\W*$|[.:]\s)"
    r"|.{0,80}\b[A-J]\)?\s(?:also|too|as well|works too|is (?:also|equally|possible))\b",
)
_SEPARATOR = re.compile(r"\s?[)\]}*_\"']*\s?[.:、,;)=]?[*_]*\s*")  # between a letter and the text of its choice
_AT_END = re.compile(r"(?:\(\s?([A-Z])\s?\)|\b(?:option|choice)\s\(?([A-Z])\)?)\W*$")


@lru_cache(maxsize=1 << 14)
def _choice(text: str) -> tuple[str, Quantity | None]:
    """The wording and the value of a choice."""
    return plain(text), read_quantity(text, strict=True)


@lru_cache(maxsize=1 << 14)
def _root_or_pi(text: str) -> str | None:
    """The canonical text of a root or a multiple of π; None for anything else."""
    found = read_standalone(text)
    return found if found and ("sqrt" in found or "pi" in found) else None


def _letters_where(problem: Problem, matches: Callable[[str], bool]) -> str:
    return "".join(letter for letter, c in zip(LETTERS, problem.choices, strict=False) if matches(c))


def _by_value(said: Quantity, problem: Problem) -> str:
    """The letters of the choices with this value; `40 mm` is not `40 cm`, and a missing unit agrees with any."""

    def same(choice: str) -> bool:
        quantity = _choice(choice)[1]
        if quantity is None or not same_value(said.value, quantity.value):
            return False
        return not (said.unit and quantity.unit) or said.unit == quantity.unit

    return _letters_where(problem, same)


def _by_expression(text: str, problem: Problem) -> str:
    """The letters of the choices that equal a root or a multiple of π: "5√3 m" among 5√{3}m, 10√{3}m."""
    if not re.search(r"√|sqrt|π|\\pi|\bpi\b|root", text):
        return ""
    said = _root_or_pi(text)
    return "" if said is None else _letters_where(problem, lambda choice: _root_or_pi(choice) == said)


def matching_letters(text: str, problem: Problem) -> str:
    """The letters of the choices that `text` names by wording or, failing that, by value."""
    words = plain(text)
    wordings = {words, re.sub(r"^(?:the|an?)\s(?=\S{2})", "", words)} - {""}
    by_words = _letters_where(problem, lambda choice: _choice(choice)[0] in wordings)
    if len(by_words) == 1:
        return by_words
    said = read_quantity(text)
    if said is None:
        return by_words or _by_expression(text, problem)
    return _by_value(said, problem)


def _is_choice(said: str, letter: str, problem: Problem) -> bool:
    """Whether `said`, after a separator, is the text of the letter's choice: signs and brackets belong to it."""
    choice = problem.choices[LETTERS.index(letter)]
    return any(_is_text_of(said[end:], choice, letter, problem) for end in _separators(said))


def _separators(said: str) -> set[int]:
    """Where the text of a choice may begin: "A - -3", "A -3"."""
    first = _SEPARATOR.match(said).end()  # type: ignore[union-attr]
    dash = re.match(r"-\s+", said[first:])
    return {first, first + dash.end()} if dash else {first}


def _is_text_of(said: str, choice: str, letter: str, problem: Problem) -> bool:
    said = re.sub(r"\s?(?:です|である|だ)$", "", said.strip(" .$*"))
    if not said:
        return False
    same = re.sub(r"\s", "", plain(choice))
    if same in (re.sub(r"\s", "", plain(said)), re.sub(r"\s", "", plain(said.strip("()")))):
        return True
    value = read_quantity(said, strict=True)
    return letter in (_by_value(value, problem) if value is not None else _by_expression(said, problem))


_JOINT = re.compile(r"(?:\s(?:and|or)|[,;、/&]|或|和|与|と|または)\s?\(?([A-J])(?=[).:、])")


def _with_its_text(rest: str, letter: str, problem: Problem) -> bool:
    """Whether the text of the letter's choice is followed by another letter: "A. 30° and B. 40°"."""
    return any(m[1] != letter and _is_choice(rest[: m.start()], letter, problem) for m in _JOINT.finditer(rest[:200]))


def _letter(text: str, problem: Problem) -> tuple[str, str] | None:
    """The letter that `text` begins with, where it names a choice, and the text after the letter."""
    if text[0] in problem.letters and not text[1:2].isalnum() and _is_choice(text[1:], text[0], problem):
        return text[0], text[1:]
    if m := _BRACKETED.match(text) or _BARE.match(text):
        return (m[1] or m[2]).upper(), text[max(m.end(1), m.end(2)) :]
    if m := _SPACED.match(text):  # "B 40 cm", "B - 40", "B because", but not "A triangle"
        rest = text[m.end() :]
        if _REASON.match(rest) or m[1] in matching_letters(rest.strip("()- *_."), problem):
            return m[1], text[m.end(1) :]
    return None


_CONCLUDES = re.compile(r"\W{0,4}(?:(?:so|therefore|thus|hence)\b|所以|因此|故)[,，]?\s?", re.IGNORECASE)


def _whole_choice(sentence: str, problem: Problem) -> str | None:
    """The letter of a conclusion that is a choice as it is listed, its letter and its text: "So A – -3." """
    text = clean(sentence)
    lead = _CONCLUDES.match(text)
    text = text[lead.end() :] if lead else ""
    return text[0] if text and text[0] in problem.letters and _is_choice(text[1:], text[0], problem) else None


_STATEMENTS = (
    (_whole_choice, "letter"),
    (stated_letter, "letter"),
    (claimed_letter, "letter"),
    (named_letter, "letter"),
    (polar_letter, "yes_no"),
    (worded_letter, "text"),
)


def _read_statement(sentence: str, problem: Problem, place: Place) -> Reading:
    """The letter that a sentence without a cue states, or the one choice whose value it states."""
    for read, form in _STATEMENTS:
        if letter := read(sentence, problem):
            return Reading(letter, form)
    if place == "opening":  # a derivation opens with given values
        return Reading(None, "unreadable_answer")
    said = read_number_statement(sentence, problem.question, verb=True)
    matched = "" if said is None else _by_value(said, problem)
    if not matched and said is None and (stated := last_statement(sentence, problem.question)):
        matched = _by_expression(stated, problem)
    return Reading(matched, "value") if len(matched) == 1 else Reading(None, "unreadable_answer")


def read_choice(payload: str, problem: Problem, place: Place) -> Reading:
    """The letter that `payload` states, or the letter of the one choice that it names by wording or value."""
    if place in ("statement", "opening"):
        return _read_statement(payload, problem, place)
    text = clean(payload)
    lead = _LEAD.match(text)
    text = text[lead.end() :] if lead else text
    if not text:
        return Reading(None, "no_answer")
    if found := _letter(text, problem):
        return _read_letter(text, *found, problem, place)
    if letter := polar_letter(text, problem, restated=False):  # "no, there are not more ..."
        return Reading(letter, "yes_no", closed=True)
    return _read_named(text, problem, place)


def _read_letter(text: str, letter: str, rest: str, problem: Problem, place: Place) -> Reading:
    """The reading of a text that begins with `letter`, before `rest`."""
    if letter in problem.letters and _is_choice(rest, letter, problem):
        return Reading(letter, "letter", closed=True)
    named = rest.strip(" .:;,-=()*_}]\"'、")
    value_of = matching_letters(named, problem) if named else ""
    if _ANOTHER.match(rest) or _with_its_text(rest, letter, problem):
        return Reading(None, "several_letters")
    if rejected(rest) or re.match(r"\W{0,2}[?？]", rest):
        return Reading(None, "rejected_letter")
    # Away from its cue "A. The triangle is ..." opens a list, while "A. 40 cm" is an answer.
    free = place in ("inline", "bold") or (place == "below" and text[0] in "([{")
    worded = place == "bare" and named and worded_letter(named, problem) == letter
    if len(value_of) == 1 and letter == "A" != value_of and _ANNOUNCED.match(text):
        return Reading(value_of, "text", "A: announces an answer here; the wording counts")
    if letter not in problem.letters:
        by_words = matching_letters(text, problem)  # a choice may itself be a letter: "E" among the points E, F, G
        return Reading(by_words, "text") if len(by_words) == 1 else Reading(None, "letter_beyond_choices")
    if not (free or value_of or worded or not named):
        return Reading(None, "unreadable_answer")
    note = None
    if value_of and letter not in value_of:
        note = f"letter {letter}, but what follows is choice {'/'.join(value_of)}; the letter counts"
    return Reading(letter, "letter", note, closed=bool(rest))


def _read_named(text: str, problem: Problem, place: Place) -> Reading:
    """The reading of a text that does not begin with a letter: by the wording or value of one choice."""
    strict = place not in ("inline", "bold")
    matched, quantity = matching_letters(text, problem), read_quantity(text, strict=strict)
    if (
        not strict
        and (m := _AT_END.search(text))
        and (letter := m[1] or m[2]) in problem.letters
        and (before := matching_letters(text[: m.start()].rstrip(" ,;:-="), problem))
    ):  # "40 degrees (B)", "40, so option B": the letter counts, as everywhere
        note = None if letter in before else f"choice {'/'.join(before)} by value, but letter {letter}"
        return Reading(letter, "letter", note, closed=m[0].endswith((")", ".")))
    if strict and quantity is None and plain(text) not in {plain(c) for c in problem.choices}:
        matched = ""
    if len(matched) == 1:
        return Reading(matched, "value" if quantity else "text", closed=bool(quantity and quantity.ended))
    if matched:
        return Reading(None, "ambiguous_value")
    return Reading(None, "value_not_among_choices" if quantity else "unreadable_answer")


def check_letter(problem: Problem) -> None:
    """Raises DataError where the gold answer is not one of the letters."""
    if len(problem.answer) != 1 or problem.answer not in problem.letters:
        raise DataError(f"problem {problem.id}: gold {problem.answer!r} is not one of the letters {problem.letters!r}")


def judge_choice(text: str, problem: Problem, truncated: bool) -> Verdict:
    """Correct where the letter is the gold one or names the same text; DataError where the gold is not a letter."""
    check_letter(problem)
    found = find_answer(text, lambda payload, place: read_choice(payload, problem, place), truncated)
    texts = dict(zip(LETTERS, problem.choices, strict=False))  # two choices may be the same text
    return verdict_on(found, lambda letter: texts[letter] == texts[problem.answer])


CHOICE = AnswerJudge(
    judge_choice, check_letter, "Write the letter of the choice that the response takes, one of {letters}."
)
