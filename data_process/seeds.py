"""Seeds that depend only on what is drawn, so that a resumed run draws what an uninterrupted one would have."""

from __future__ import annotations

from hashlib import sha256

Name = str | int | float | bool | None | tuple[object, ...]


def seed_for(*what: Name) -> int:
    """The 32-bit seed of a draw, from what names it: `seed_for(seed, iteration, problem.id, "select")`.

    It is the same in every process and on every machine, unlike `hash()` of a string. Raises TypeError for an object
    whose `repr` might contain a memory address.
    """
    for part in what:
        if not isinstance(part, str | int | float | bool | tuple | None):
            raise TypeError(f"a seed is made from text, numbers and tuples, not from {type(part).__name__}")
    return int.from_bytes(sha256(repr(what).encode("utf-8", "surrogatepass")).digest()[:4], "big")
