"""Overrides of the trainer's settings: a mapping that may hold anything but secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any

from pydantic import AfterValidator

# hub_token, but not add_tokens.
_SECRET = re.compile(r"(?:^|_)(?:token|password|secret|api_?key|access_?key)$", re.IGNORECASE)


def holds_secret(key: object) -> str | None:
    """Why a setting of this name is refused, or None."""
    if not _SECRET.search(str(key)):
        return None
    return "would stand in the run folder for all to read; set it as an environment variable instead (such as HF_TOKEN)"


def _without_secrets(values: dict[str, Any]) -> dict[str, Any]:
    for key in values:
        if reason := holds_secret(key):
            raise ValueError(f"{key} {reason}")
    return values


Overrides = Annotated[dict[str, Any], AfterValidator(_without_secrets)]
