"""Takes API keys out of text that a server sent, before any of it is kept or shown."""

from __future__ import annotations

import re
from functools import lru_cache

MASK = "***"
# Shorter values are placeholders, such as the "EMPTY" of local servers: to mask these would change answers.
MIN_SECRET = 8  # characters


def masked(text: str, key: str | None, *, short: bool = False) -> str:
    """`text` with MASK for every appearance of `key`, or of a beginning or end that is at least half of it.

    Also as JSON escapes or percent-encoding write it. `short`: a key below MIN_SECRET is masked as well.
    """
    if not key:
        return text
    if len(key) < MIN_SECRET:
        return text.replace(key, MASK) if short else text
    half = max(MIN_SECRET, (len(key) + 1) // 2)
    if not any(sign in text for sign in (key[:half], key[-half:], "\\", "%")):  # most replies, ten times as fast
        return text
    whole, begins, ends = _patterns(key)
    text = whole.sub(MASK, text)
    for pattern, direction in (begins, ends):
        if pattern.search(text):
            text = _without_parts(text, pattern, key, direction)
    return text


@lru_cache(maxsize=8)
def _patterns(key: str) -> tuple[re.Pattern[str], tuple[re.Pattern[str], int], tuple[re.Pattern[str], int]]:
    """Patterns of the key, of its first half with the direction to go on in (1), and of its last half (-1)."""
    units = [_spellings(character) for character in key]
    half = max(MIN_SECRET, (len(key) + 1) // 2)
    return (
        re.compile("".join(units)),
        (re.compile("".join(units[:half])), 1),
        (re.compile("".join(units[-half:])), -1),
    )


def _spellings(character: str) -> str:
    """A pattern of the ways in which JSON and URLs write a character."""
    code = f"{ord(character):02x}"
    either_case = "".join(f"[{digit}{digit.upper()}]" if digit.isalpha() else digit for digit in code)
    escaped = re.escape(character)
    return f"(?:{escaped}|\\\\u00{either_case}|%{either_case}|\\\\{escaped})"


def _without_parts(text: str, pattern: re.Pattern[str], key: str, direction: int) -> str:
    """Masks each match, and the characters beside it with which the key goes on."""
    pieces, at = [], 0
    half = max(MIN_SECRET, (len(key) + 1) // 2)
    rest = key[half:] if direction > 0 else key[: len(key) - half][::-1]
    for found in pattern.finditer(text):
        start, end = found.span()
        if start < at:
            continue
        for character in rest:
            if direction > 0 and text[end : end + 1] == character:
                end += 1
            elif direction < 0 and start > at and text[start - 1] == character:
                start -= 1
            else:
                break
        pieces += [text[at:start], MASK]
        at = end
    return "".join([*pieces, text[at:]])
