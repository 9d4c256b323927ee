"""The manifest of a curated folder: the recipe, digests of what it was applied to, and a decision for every problem.

`manifest.json` has the recipe and the counts, `decisions.jsonl.gz` one row for each row of the pool. What was measured
(lengths, domains, pass rates) stands in the decisions, so that the folder can be made again without the models.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.curate.pool import Item, file_digest
from data_process.io import read_jsonl, write_json, write_jsonl
from data_process.json_files import read_json
from data_process.schema import DataError

MANIFEST, DECISIONS = "manifest.json", "decisions.jsonl.gz"
FORMAT = 1


@dataclass(frozen=True)
class Manifest:
    """What `read_manifest` gives back."""

    content: Mapping[str, Any]
    decisions: Sequence[Mapping[str, Any]]


def decision(item: Item, models: Sequence[str]) -> dict[str, Any]:
    """The row of an item; what was not measured is left out."""
    row: dict[str, Any] = {"id": item.id, "kept": item.kept, "by": item.by, "why": item.why}
    measured = {"origin": item.origin, "domain": item.domain, "length": item.length, "trace_right": item.trace_right}
    row |= {name: value for name, value in measured.items() if value is not None}
    if item.rates:
        row["pass_rates"] = dict(zip(models, item.rates, strict=True))
    return row


def write_manifest(folder: Path, content: Mapping[str, Any], items: Iterable[Item], models: Sequence[str]) -> None:
    """Both files; the same content and items give the same bytes."""
    write_jsonl(folder / DECISIONS, (decision(item, models) for item in items))
    write_json(folder / MANIFEST, {"format": FORMAT, **content})


def read_manifest(folder: Path) -> Manifest:
    """DataError if the folder has none, or one of another format."""
    content = read_json(folder / MANIFEST, "give a folder that `selftrain curate` wrote")
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise DataError(f"{folder / MANIFEST} is no manifest of format {FORMAT}; curate the pool again")
    return Manifest(content, read_jsonl(folder / DECISIONS))


def check_files(manifest: Manifest) -> None:
    """DataError if the pool or another file that was read is not what it was."""
    for name, digest in manifest.content["files"].items():
        if file_digest(Path(name)) != digest:
            raise DataError(f"{name} changed since the folder was made; restore it, or curate the pool again")


def recall(items: Sequence[Item], decisions: Sequence[Mapping[str, Any]], models: Sequence[str]) -> None:
    """Puts what was measured then into the items. DataError if they are others."""
    _check_ids(items, decisions)
    for item, row in zip(items, decisions, strict=True):
        item.domain, item.length = row.get("domain"), row.get("length")
        if (rates := row.get("pass_rates")) is not None:
            item.rates = tuple(rates[name] for name in models)


def check_decisions(items: Sequence[Item], decisions: Sequence[Mapping[str, Any]], models: Sequence[str]) -> None:
    """DataError if anything was decided otherwise than the manifest says."""
    _check_ids(items, decisions)
    for item, row in zip(items, decisions, strict=True):
        if (now := decision(item, models)) != row:
            keys = [key for key in {**row, **now} if row.get(key) != now.get(key)]
            changed = ", ".join(f"{key} {row.get(key)!r} -> {now.get(key)!r}" for key in keys)
            raise DataError(
                f"problem {item.id!r} is decided otherwise than in the manifest ({changed}); it was made by another "
                "version of selftrain: install that one, or curate the pool again"
            )


def _check_ids(items: Sequence[Item], decisions: Sequence[Mapping[str, Any]]) -> None:
    if [item.id for item in items] != [row.get("id") for row in decisions]:
        raise DataError(f"{DECISIONS} lists other problems than the pool has; curate the pool again")
