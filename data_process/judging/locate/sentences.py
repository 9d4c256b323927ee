"""The sentences of a response that may state its answer, and those that never do.

The judge reads them only where no cue gave an answer and the text was not truncated; `cues.py` sets the order.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

MAX_SENTENCES = 3  # read backwards from the end
MAX_SENTENCE = 400  # characters; a longer one is not a statement
MAX_PARAGRAPH = 3000  # characters; in a longer response the first sentence is not read
SCANNED = 40  # sentences looked at from the end
_DERIVATION = re.compile(
    r"\W{0,4}(?:to\s|first|given|let|since|we\s|as\s|in order|using|step|from the|okay|when|for\s|suppose|assume"
    r"|consider|note|by\s)",
    re.IGNORECASE,
)
_ENDS = re.compile(r"(?<=[.!?])[\"')*]{0,3}\s+|(?<=[。！？；])|\n+")
_FENCE = re.compile(r"^```", re.MULTILINE)
# Courtesies, explanations, questions to the reader, tables and code state nothing.
_COURTESY = (
    "I hope|Hope this|Let me know|Please let|Please note|Feel free|Is there anything|Do you|Would you|If you have"
    "|If you need|Here is|Here are|Here's|Thank|You can|I recommend"
)
_EMPTY = re.compile(
    rf"[\s*#\-_=.`|>]*$|\W{{0,4}}(?:{_COURTESY}|This is because|This is due|Because)\b|.*[?？][\"')*\s]*$"
    r"|\|.*\|\s*$|[^|=$\n]{0,40}\s\|\s[^|=$\n]{0,40}(?:\|[^|=$\n]{0,40})*$|```",
    re.IGNORECASE,
)
# The writer says that there is no answer; a number in such a sentence is an example.
_NO_DATA = r"(?:enough|sufficient|any|specific|information|details|the (?:necessary|information|context|image))"
_GIVES = r"(?:have|provide|contain|specify|mention|include|show|give)"
REFUSAL = re.compile(
    r"\b(?:cannot|can't|can not|unable|not able|impossible|not possible|insufficient|unclear|unknown|not sure"
    rf"|(?:I|we) (?:do not|don't) have|(?:do|does)(?: not|n't) {_GIVES} {_NO_DATA}|would need"
    r"|not (?:enough|provided|given|clear|sufficient|specified|visible)|no (?:information|way|image|context)"
    r"|need(?:ed)? more|more (?:information|context)|for example|e\.g\.|please provide|apologi[sz]e|sorry"
    r"|hypothetical(?:ly)?|could theoretically|ambiguous)\b",
    re.IGNORECASE,
)
CONCLUSION = re.compile(
    r"\W{0,4}(?:therefore|so|thus|hence|finally|in conclusion|in summary|overall|consequently|accordingly)\b"
    r"|\W{0,4}(?:∴|所以|因此|综上|故)",
    re.IGNORECASE,
)


def _backwards(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The ranges of the sentences in text[start:end] that may state something, last first; a line end ends one."""
    begin = max(start, end - SCANNED * MAX_SENTENCE)
    fences = [m.start() for m in _FENCE.finditer(text, begin, end)]
    bounds = [begin, *(m.end() for m in _ENDS.finditer(text, begin, end)), end]
    for a, b in list(zip(reversed(bounds[:-1]), reversed(bounds[1:]), strict=True))[:SCANNED]:
        part = text[a:b]
        in_code = bisect_right(fences, a) % 2 == 1
        if len(part) <= MAX_SENTENCE and not in_code and not _EMPTY.match(part.strip()):
            yield a + len(part) - len(part.lstrip()), b - (len(part) - len(part.rstrip()))


def finished(text: str, start: int, end: int) -> bool:
    """Whether text[start:end] ends like a sentence, a formula or a table, not in the middle of one."""
    return bool(re.search(r"[.!?。！？…)\]}\"'”’*`$|>:;]\s*$", text[max(start, end - 40) : end]))


def closing_sentences(text: str, start: int, end: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """(the sentences to read first, those to read after them), as ranges.

    First come the last sentence and the last one that concludes ("Therefore, ..."); then up to two more from the end.
    A text that stops in the middle of a sentence offers only that sentence ("The difference is 27"), and a text that
    repeats itself offers none: both may have been cut.
    """
    found = list(_backwards(text, start, end))
    bodies = [text[slice(*r)] for r in found[: MAX_SENTENCES + 1]]
    if len(bodies) > 2 and (bodies[0] == bodies[1] == bodies[2] or bodies[1] == bodies[2]):
        return [], []  # the model repeated itself until the token limit
    if not finished(text, start, end):
        return [r for r in found[:1] if r[1] >= len(text[:end].rstrip())], []
    concludes = [r for r in found if CONCLUSION.match(text, r[0], r[1])][:1]
    first = found[:1] + [r for r in concludes if r not in found[:1]]
    return first, [r for r in found[1:MAX_SENTENCES] if r not in first]


def opening_sentence(text: str, start: int, end: int) -> tuple[int, int] | None:
    """The first sentence of a response, unless it opens a derivation ("Since ...", "To find ...")."""
    if end - start > MAX_PARAGRAPH or not finished(text, start, end):
        return None
    a = start
    for _ in range(2):  # "Sure, I can help you with that." and the first sentence itself
        while a < end and text[a].isspace():
            a += 1
        m = _ENDS.search(text, a, end)
        b = m.start() if m else end
        if not re.match(r"\W{0,3}(?:sure|certainly|of course|I see|yes, I can|okay)\b", text[a:b], re.IGNORECASE):
            break
        a = m.end() if m else end
    if a >= b or b - a > MAX_SENTENCE or _DERIVATION.match(text, a) or _EMPTY.match(text[a:b]):
        return None
    return a, b
