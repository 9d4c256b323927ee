"""Reads yes or no from a sentence that restates the question: "Is Teal the maximum?", "Teal is not the maximum."

The sentence must repeat at least half of the question's content words. The answer is then yes. A negation ("does not
have"), the opposite comparison ("greater" for "less") and exchanged sides ("more B than A") each reverse it once.
"""

from __future__ import annotations

import re

from data_process.judging.locate.assertion import denied

MIN_OVERLAP = 0.5  # of the question's content words that the sentence repeats
MIN_PRECISION = 0.5  # of the sentence's content words that are the question's

_YES_NO = re.compile(
    r"\W{0,3}(yes|no|true|false)(?=\s*(?:$|[.,;:!*)-])|\s(?:it|the|there|this|they|he|she|that)\b)", re.IGNORECASE
)
_STOP = frozenset((
    "a", "all", "among", "an", "and", "answer", "any", "are", "as", "at", "based", "be", "been", "being", "bigger",
    "by", "can", "chart", "compared", "could", "did", "do", "does", "equal", "fewer", "figure", "for", "from",
    "given", "graph", "great", "greater", "had", "has", "have", "hence", "high", "higher", "if", "image", "in",
    "is", "it", "its", "larger", "less", "low", "lower", "more", "n't", "no", "not", "number", "of", "on", "or",
    "picture", "same", "see", "shown", "smaller", "so", "than", "that", "the", "then", "there", "therefore",
    "these", "this", "those", "thus", "to", "value", "was", "we", "were", "will", "with", "would", "yes",
))  # fmt: skip
_MORE = frozenset((
    "bigger", "exceeds", "greater", "heavier", "higher", "larger", "longer", "more", "older", "taller", "wider",
))  # fmt: skip
_LESS = frozenset(("fewer", "less", "lighter", "lower", "narrower", "shorter", "smaller", "younger"))
_SAME = frozenset(("equal", "equals", "identical", "same"))
_QUESTION_WORD = re.compile(r"^\W*(?:what|which|who|whom|whose|when|where|why|how)\b", re.IGNORECASE)
_NEGATION = re.compile(
    r"\b(?:not|n't|cannot|never|neither|isn't|aren't|doesn't|don't|wasn't|weren't|hasn't|can't)\b|n't\b"
)
_LEAD_IN = re.compile(r"^\W*(?:based on|according to|from|in|looking at)\b[^,]{0,60},\s*", re.IGNORECASE)
_REASON = re.compile(
    r",?\s(?:because|since|which|indicating|meaning|suggesting)\b|,\s(?:as|so|while|but|with)\b", re.IGNORECASE
)
_WORD = re.compile(r"[a-z0-9]+(?:[-'][a-z0-9]+)*")


def leading_yes_no(text: str) -> str | None:
    """The yes or no (true, false) that `text` begins with; None for "No other ..." and "Yes or no"."""
    if (east := _EAST_YES_NO.match(text)) is not None:
        return "yes" if east[1] else "no"
    m = _YES_NO.match(text)
    return m[1].lower() if m and not re.match(r"\s*(?:or|/|and)\b", text[m.end() :], re.IGNORECASE) else None


_EAST_YES_NO = re.compile(
    r"[\W_]{0,3}(?:(是的?|对的?|正确|はい|そうです)|(?:不是的?|不对|否|错误|いいえ|違います))(?=[。，、,.!！\s]|$)"
)
_TRUTH = re.compile(
    r"\b(?:statement|claim|sentence|assertion|proposition|it|this|that|answer)\s(?:is|must be)\s"
    r"(?:indeed\s|therefore\s|thus\s|definitely\s|clearly\s|actually\s)?(true|false)\W*$"
    r"|\b(?:statement|claim|sentence|assertion|proposition)\s(?:is\s(?:therefore\s|thus\s)?|holds\s)(true|correct|incorrect)\W*$",
    re.IGNORECASE,
)


def stated_truth(sentence: str) -> str | None:
    """ "true" or "false" where a sentence ends with that verdict: "The statement is true." """
    m = _TRUTH.search(sentence)
    if m is None or denied(sentence, *m.span(m.lastindex or 1)):
        return None
    said = m[m.lastindex or 1].lower()
    return {"correct": "true", "incorrect": "false"}.get(said, said)


def stem(word: str) -> str:
    """The word without a common ending, so that "bars" equals "bar"; not a dictionary form."""
    if word.endswith("ies") and len(word) > 4:
        word = word[:-3] + "y"
    elif word.endswith(("ses", "xes", "ches", "shes")):
        word = word[:-2]
    elif word.endswith("s") and len(word) > 3 and not word.endswith("us"):
        word = word[:-1]
    for ending in ("ing", "ed"):
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            word = word[: -len(ending)]
            break
    if len(word) > 3 and word[-1] == word[-2]:
        word = word[:-1]
    return word[:-1] if word.endswith("e") and len(word) > 3 else word


def words_of(text: str) -> list[str]:
    return _WORD.findall(text.lower())


def _content(words: list[str]) -> list[str]:
    return [stem(w) for w in words if w not in _STOP]


def _direction(words: list[str]) -> int | None:
    """+1 for more, -1 for less, 0 for the same; None without a comparison or with two different ones."""
    found = {+1 for w in words if w in _MORE} | {-1 for w in words if w in _LESS} | {0 for w in words if w in _SAME}
    return found.pop() if len(found) == 1 else None


def _sides(words: list[str]) -> tuple[set[str], set[str]] | None:
    """The content words on both sides of "than" (or "as", "to" after "equal")."""
    for joint in ("than", "as", "to"):
        if words.count(joint) == 1:
            at = words.index(joint)
            left, right = set(_content(words[:at])), set(_content(words[at + 1 :]))
            return left - right, right - left
    return None


def _exchanged(question: list[str], said: list[str]) -> bool | None:
    """Whether the two sides of the comparison changed places; None where that is unclear."""
    a, b = _sides(question), _sides(said)
    if a is None or b is None:
        return None
    straight = len(a[0] & b[0]) + len(a[1] & b[1])
    crossed = len(a[0] & b[1]) + len(a[1] & b[0])
    return None if straight == crossed else crossed > straight


def bare_question(question: str) -> str:
    """The last question of a prompt, without a hint, the choices or a unit."""
    text = re.split(r"\n\s*Choices:|\n\s*\(A\)", question)[0]
    text = re.sub(r"^\s*Hint:[^\n]*\n", "", text)
    text = re.sub(r"^\s*Question:\s*", "", text).strip()
    asked = [s for s in re.split(r"(?<=[.?!])\s+", text) if s.strip()]
    return asked[-1] if asked else text


def restates(sentence: str, question: str) -> bool:
    """Whether `sentence` repeats most content words of the question."""
    wanted, given = set(_content(words_of(bare_question(question)))), set(_content(words_of(sentence)))
    return bool(wanted) and len(wanted & given) / len(wanted) >= MIN_OVERLAP


def yes_or_no(sentence: str, question: str) -> str | None:
    """ "yes" or "no" where `sentence` affirms or denies what the question asks, else None."""
    question = bare_question(question)
    if _QUESTION_WORD.match(question):
        return None
    # A lead-in ("Based on the image,") and a reason (", as they are ...") are not compared.
    sentence = _LEAD_IN.sub("", sentence)
    sentence = _REASON.split(sentence)[0]
    asked, said = words_of(question), words_of(sentence)
    wanted, given = set(_content(asked)), set(_content(said))
    if not wanted or not given:
        return None
    shared = wanted & given
    subject = _content(asked)[:2]  # a sentence about another subject is not an answer
    if not set(subject) <= given:
        return None
    if len(shared) / len(wanted) < MIN_OVERLAP or len(shared) / len(given) < MIN_PRECISION:
        return None
    answer = True
    compared, comparison = _direction(asked), _direction(said)
    if (compared is None) != (comparison is None):
        return None
    if compared is not None and comparison is not None:
        if compared and comparison:
            exchanged = _exchanged(asked, said)
            if exchanged is None:
                return None
            answer = exchanged != (compared == comparison)
        else:
            answer = compared == comparison  # False for "equal" where more was asked, or the reverse
    if _NEGATION.search(question.lower()):
        return None
    negations = len(_NEGATION.findall(sentence.lower()))
    if negations > 1 or (negations and comparison is not None and answer is not True):
        return None
    return "yes" if answer != bool(negations) else "no"
