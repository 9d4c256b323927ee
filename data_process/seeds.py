"""A seed is named by what is drawn, so a resumed run draws what the first one would have."""

from __future__ import annotations

from hashlib import sha256

Name = str | int | float | bool | None | tuple


def seed_for(*what: Name) -> int:
    """32-bit seed of a draw: `seed_for(seed, iteration, problem.id, "select")`.

    The same in every process and on every machine, which `hash()` of a string is not. Raises TypeError for an object
    whose `repr` might hold a memory address.
    """
    for part in what:
        if not isinstance(part, str | int | float | bool | tuple | None):
            raise TypeError(f"a seed is named by text, numbers and tuples, not by {type(part).__name__}")
    return int.from_bytes(sha256(repr(what).encode("utf-8", "surrogatepass")).digest()[:4], "big")
