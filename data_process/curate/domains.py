"""Domains that a model names: the prompt, and how its reply is read."""

from __future__ import annotations

import re
from collections.abc import Sequence

_CODE = re.compile(r"\b(\d{1,3})\b")


def domain_prompt(body: str, labels: Sequence[str]) -> str:
    """Asks for the domain of a problem. `body` is the problem as prompts show it, with the places of its images."""
    listed = "\n".join(f"{code}. {label}" for code, label in enumerate(labels, start=1))
    return (
        f"Here is a problem:\n\n{body}\n\nWhich of these domains does it belong to? Do not solve it.\n{listed}\n\n"
        f"Answer with the number of one domain, from 1 to {len(labels)}."
    )


def read_domain(reply: str, labels: Sequence[str]) -> str | None:
    """The label that a reply names: by the only code of its last line with one, or by its words; None if unclear."""
    for line in reversed(reply.strip().splitlines()):
        codes = {int(code) for code in _CODE.findall(line)}
        if codes:
            code = codes.pop()
            return labels[code - 1] if not codes and 1 <= code <= len(labels) else None
    named = [label for label in labels if label.casefold() in reply.casefold()]
    return named[0] if len(named) == 1 else None
