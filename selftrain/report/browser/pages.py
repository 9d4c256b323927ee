"""Records as compressed pages within a page's limits."""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

PROBLEMS_A_PAGE = 40
ROWS_A_PAGE = 200


@dataclass(frozen=True)
class Limits:
    """What a report may hold. Bytes are as they stand in the file: base64 of compressed records."""

    problem_bytes: int = 30_000_000
    row_bytes: int = 4_000_000
    image_bytes: int = 9_000_000
    images: int = 1_200
    checked: int = 4_000  # texts whose reasoning is checked, which takes a millisecond each
    static: int = 300  # problems in the table that needs no script


@dataclass
class Archive:
    """Pages by name, in order, until `limit` bytes are used."""

    limit: int
    pages: dict[str, list[str]] = field(default_factory=dict)  # base64 of gzip of a JSON list
    size: int = 0

    @property
    def full(self) -> bool:
        return self.size >= self.limit

    def add(self, name: str, records: Sequence[str], at_once: int) -> int:
        """Put records, written as JSON, under a name, `at_once` in a page. Returns how many there was room for."""
        pages = self.pages.setdefault(name, [])
        for start in range(0, len(records), at_once):
            if self.full:
                return start
            pages.append(_packed(f"[{','.join(records[start : start + at_once])}]"))
            self.size += len(pages[-1])
        return len(records)


def compressed(value: Any) -> str:
    """Base64 of gzip of JSON: no character in it means anything to HTML. The same value gives the same text."""
    return _packed(written(value))


def written(value: Any) -> str:
    """JSON in ASCII, in which half a surrogate pair stays an escape."""
    return json.dumps(value, separators=(",", ":"))


def _packed(text: str) -> str:
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()
