"""Finds the choice that a closing sentence without a cue states: by its letter, yes or no, or its wording."""

from __future__ import annotations

import re
from functools import lru_cache

from data_process.judging.locate.assertion import denied, framed
from data_process.judging.locate.sentences import CONCLUSION, REFUSAL
from data_process.judging.locate.statements import main_clause
from data_process.judging.locate.yes_no import leading_yes_no, restates, stated_truth, stem, words_of, yes_or_no
from data_process.judging.maths.quantity import clean, plain
from data_process.schema import LETTERS, Problem

_LETTER = re.compile(r"\(\s?([A-J])\s?\)")
# The letter stands where an answer stands: after the verb, or at the end of the sentence.
_STATED_LETTER = re.compile(
    r"(?:\b(?:is|are|be|was|were|equals?|to|of|option|choice|answer|choose|select|pick|has|have|at)|[:=≈])\s{0,2}\W{0,2}"
    r"(?:(?:approximately|about|around|option|choice|letter)\s)?$",
    re.IGNORECASE,
)
_STOP = frozenset((
    "a", "an", "and", "are", "at", "be", "by", "for", "in", "is", "it", "its", "of", "on", "or", "that", "the",
    "this", "to", "was", "were", "will", "with", "would",
))  # fmt: skip
_POINT = re.compile(r"\b(?:points?|vertex|vertices|cent(?:er|re)|midpoint|intersection|line|side)\b", re.IGNORECASE)
_CORRECT = re.compile(
    r"\W{0,4}(?:is|was|seems|appears|would be)\s(?:to be\s)?(?:the\s)?(?:most\s)?(?:correct|right|best|answer)"
)
_LETTER_NAME = re.compile(
    r"(?:\b(?:is|be|are|option|choice|letter|shape|figure|labell?ed|select|choose|pick)|[:=])\s{0,2}[\"'(*]{0,3}"
    r"(?:(?:option|choice|letter|shape|figure|cube|image|picture)\s)?[\"'(*]{0,3}([A-Ja-j])[\"')*]{0,3}\W*$"
)


_CLAIMED = re.compile(
    r"(?:^|[\s,:;，：、]|(?P<name>[Oo]ption\s|[Cc]hoice\s|[Aa]nswer\s|选项|選択肢))\(?([A-J])\)?"
    r"(?:\s(?:is|was|must be|would be|should be)\s(?:\w{2,12}ly\s|indeed\s|thus\s)?(?:the\s)?(?:only\s|most\s)?"
    r"(?:correct|right|best|true|answer|accurate|valid)\b|(?:选?项|的?答案)?(?:是|为)?(?:正确|对的)|が(?:正解|正し|答え|最も|適切)|\s?を選(?!ば|ぶのは|ぶべきで|んでは))"
    r"|\b(?:[Cc]hoose|[Ss]elect(?:ed)?|[Pp]ick|[Gg]o(?:ing)? with|[Oo]pt for|[Cc]hose|[Cc]hoice is|[Vv]ote for"
    r"|settle on)\s"
    r"(?:the\s)?(?P<option>[Oo]ption\s|[Cc]hoice\s|[Ll]etter\s|[Aa]nswer\s)?\(?([A-J])\)?(?=\W*$|[,.;]|\s(?:because|since|as|for)\b)"
    r"|^\W*(?:(?:[Tt]herefore|[Ss]o|[Tt]hus|[Hh]ence|[Ii]n conclusion|[Ff]inally)\b,?\s|∴|所以|因此|故|よって"
    r"|したがって)?[、,]?\s?"
    r"(?:[Ii]t(?:'s|’s|\s(?:is|must be|has to be|should be|can only be))\s|[Tt]he (?:correct |right )?letter is\s)?"
    r"(?:the answer is\s|it is\s|it's\s)?(?P<letter>[Oo]ption\s|[Cc]hoice\s"
    r"|[Aa]nswer\s|选|选项|選択肢)?\(?([A-J])\)?(?:\sit is|です|だ|である|となる|になる)?\W*$"
)


_NONE_OF = re.compile(
    r"\b(?:[Nn]one|[Nn]either|[Nn]o option|[Aa]ll of)\b|[都均]|どれも|いずれも|[A-J]\)?\s?(?:[,、/&]|and|or|或|和|と"
    r"|か)\s?\(?[A-J]\b"
)


def claimed_letter(sentence: str, problem: Problem) -> str | None:
    """The only letter that a sentence calls the answer: "Option B is correct.", "So it is B.", "Bが正解です"."""
    if REFUSAL.search(sentence) or _NONE_OF.search(sentence):
        return None
    points = all(len(c.strip("() ")) == 1 for c in problem.choices)  # choices that are letters are read by name
    found = set()
    for m in _CLAIMED.finditer(sentence):
        letter = m[2] or m[4] or m[6]
        start = m.start(2 if m[2] else 4 if m[4] else 6)
        rest = m.end() if m[2] else start + 1
        if "would be" in m[0] and re.search(r"\b(?:if|had|were|unless)\b", sentence, re.IGNORECASE):
            continue
        if (points and not (m["name"] or m["option"] or m["letter"])) or denied(
            sentence, start, rest, problem.question
        ):
            continue
        found.add(letter)
    return found.pop() if len(found) == 1 and found <= set(problem.letters) else None


def stated_letter(sentence: str, problem: Problem) -> str | None:
    """The only letter in brackets of a sentence, where it stands in the place of an answer; else None."""
    found = [m for m in _LETTER.finditer(sentence) if not denied(sentence, *m.span(), problem.question)]
    if not found or len({m[1] for m in found}) > 1 or REFUSAL.search(sentence):
        return None
    for m in found:
        after = sentence[m.end() :]
        at_end = re.fullmatch(r"\W{0,4}", after)
        correct = _CORRECT.match(after)
        rejected = not correct and re.match(r"\W{0,4}(?:(?:is|was|cannot|can't|isn't)\b)", after)
        if (
            m[1] in problem.letters
            and not rejected
            and (correct or at_end or _STATED_LETTER.search(sentence[: m.start()]))
        ):
            return m[1]
    return None


def polar_letter(sentence: str, problem: Problem, restated: bool = True) -> str | None:
    """The letter of yes or no, where those are the choices: said first or, with `restated`, implied by the sentence."""
    names = [plain(c) for c in problem.choices]
    if sorted(names) not in (["no", "yes"], ["false", "true"]):
        return None
    said = leading_yes_no(clean(sentence)) or stated_truth(sentence)
    if said is None and restated and not REFUSAL.search(sentence) and not framed(sentence, problem.question):
        said = yes_or_no(sentence, problem.question)
    if said is None:
        return None
    same = {"true": "yes", "false": "no"}
    wanted = same.get(said, said)
    letters = [letter for letter, name in zip(LETTERS, names, strict=False) if same.get(name, name) == wanted]
    return letters[0] if len(letters) == 1 else None


def named_letter(sentence: str, problem: Problem) -> str | None:
    """A letter at the end of a sentence: "The next shape is C" where the choices are letters themselves.

    Among other choices only a conclusion that restates the question counts ("So the length of CD is B."), and the
    letter must not be the name of a point.
    """
    m = _LETTER_NAME.search(sentence.rstrip())
    if m is None or REFUSAL.search(sentence) or denied(sentence, *m.span(1), problem.question):
        return None
    names = [c.strip("() ").casefold() for c in problem.choices]
    if all(len(name) == 1 and name.isalpha() for name in names):
        return LETTERS[names.index(m[1].casefold())] if names.count(m[1].casefold()) == 1 else None
    concludes = CONCLUSION.match(sentence) and m[1] in problem.letters and not _POINT.search(sentence)
    return m[1] if concludes and restates(sentence, problem.question) else None


@lru_cache(maxsize=1 << 14)
def _stems(text: str) -> tuple[str, ...]:
    return tuple(stem(w) for w in words_of(text))


def _places(said: tuple[str, ...], name: tuple[str, ...]) -> list[int]:
    n = len(name)
    return [i for i in range(len(said) - n + 1) if said[i : i + n] == name]


def _literal(sentence: str, names: dict[str, str]) -> str | None:
    """The only choice that the sentence holds character by character: "[2, 4]", "5:30", "11-15"."""
    if not all(re.search(r"[0-9]", n) and re.search(r"[-:/,~]", n) for n in names.values()):
        return None
    squeezed = re.sub(r"\s+", "", sentence)
    found = {}
    for letter, name in names.items():
        name = re.sub(r"\s+", "", name)
        if re.search(rf"(?<![0-9.:/-]){re.escape(name)}(?![0-9:/-]|\.[0-9])", squeezed):
            found[letter] = name
    kept = [a for a, n in found.items() if not any(n != m and n in m for m in found.values())]
    return kept[0] if len(kept) == 1 else None


def worded_letter(sentence: str, problem: Problem) -> str | None:
    """The only choice whose wording, or all of whose words, the sentence holds. Numbers are read elsewhere."""
    if REFUSAL.search(sentence):  # "cannot be determined" may itself be a choice
        same = [letter for letter, c in zip(LETTERS, problem.choices, strict=False) if REFUSAL.search(c)]
        return same[0] if len(same) == 1 else None
    text = plain(main_clause(sentence[-300:]))
    names = {letter: plain(c) for letter, c in zip(LETTERS, problem.choices, strict=False)}
    if framed(sentence, problem.question) and not any(map(framed, problem.choices)):
        return None
    if letter := _literal(text, names):
        return letter
    if any(len(name) < 2 or not re.search(r"[a-z]", name) or re.match(r"[-$.0-9]", name) for name in names.values()):
        return None  # numbers and letters are read elsewhere
    if sorted(names.values()) in (["no", "yes"], ["false", "true"]):
        return None
    said, stems = _stems(text), {letter: _stems(name) for letter, name in names.items()}
    held: dict[str, list[int]] = {}
    for letter, name in stems.items():
        if places := [i for i in _places(said, name) if name and not _negated(said, i)]:
            held[letter] = places
    # "quarter" inside "quarter past" does not count.
    for letter in list(held):
        for other in set(held) - {letter}:
            n = len(stems[other])
            if n > len(stems[letter]):
                held[letter] = [i for i in held[letter] if not any(j <= i < j + n for j in held[other])]
    held = {letter: places for letter, places in held.items() if places}
    if len(held) == 1:
        return next(iter(held))
    if len(held) > 1:
        after_verb = {letter for letter, places in held.items() if any(_after_verb(said, i) for i in places)}
        return next(iter(after_verb)) if len(after_verb) == 1 else None
    full = {letter: {w for w in name if w not in _STOP} for letter, name in stems.items()}
    whole = [letter for letter, words in full.items() if len(words) >= 2 and words <= set(said)]
    whole = [letter for letter in whole if not any(full[letter] < full[other] for other in whole)]
    return whole[0] if len(whole) == 1 and not set(said) & _NEGATIONS else None


_NEGATIONS = frozenset(("not", "neither", "nor", "isn't", "no", "without", "except", "never"))
_VERBS = frozenset(("is", "are", "was", "were", "be", "becom", "call", "nam"))  # stems


def _negated(said: tuple[str, ...], at: int) -> bool:
    before = said[max(0, at - 3) : at]
    return bool(set(before) & _NEGATIONS) or before[-2:] in (("rather", "than"), ("instead", "of"), ("other", "than"))


def _after_verb(said: tuple[str, ...], at: int) -> bool:
    return bool(set(said[max(0, at - 3) : at]) & _VERBS)
