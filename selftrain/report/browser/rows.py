"""Where each training row came from: the candidates behind it, with their verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.io import each_row
from selftrain.report.browser.pages import ROWS_A_PAGE, Archive, written
from selftrain.runs.run_dir import iteration_files

PAGE = "rows"
# Files of judged texts, and what their ids begin with among the sources of a row.
SOURCES = {
    "judge/judged.jsonl": "", "rationalise/judged.jsonl": "", "rethink/traces.jsonl": "trace/",
    "rethink/selections.jsonl": "selection/",
}  # fmt: skip
SHRINKS = 4  # rows compress to a quarter of their size at least


@dataclass(frozen=True)
class Rows:
    """The training rows that a page holds: [iteration, id, kind, problem] of each, in the order of its pages."""

    index: list[list[Any]]
    offered: int


def pack(run: Path, archive: Archive) -> Rows:
    """Put the training rows of all iterations into an archive, as many as there is room for."""
    kept: list[tuple[int, Mapping[str, Any]]] = []
    offered, size = 0, 0
    for iteration, file in iteration_files(run, "build/examples.jsonl"):
        for row in each_row(file):
            offered += 1
            size += len(row["prompt"]) + len(row["target"])
            if size < SHRINKS * archive.limit:
                kept.append((iteration, row))
    sources = _sources(run, {name for _, row in kept for name in row.get("sources", ())})
    records = [written(_row(row, sources)) for _, row in kept]
    fitting = archive.add(PAGE, records, ROWS_A_PAGE)
    index = [[k, row["id"], row["kind"], row["problem_id"]] for k, row in kept[:fitting]]
    return Rows(index, offered)


def _row(row: Mapping[str, Any], sources: Mapping[str, Any]) -> dict[str, Any]:
    """A row of `examples.jsonl` with what is known of its sources."""
    shown = {key: row[key] for key in ("id", "kind", "prompt", "target", "history", "rejected") if row.get(key)}
    names = dict.fromkeys(row.get("sources", ()))
    return {**shown, "sources": [{"name": name, **sources.get(name, {})} for name in names]}


def _sources(run: Path, wanted: set[str]) -> dict[str, dict[str, Any]]:
    found = {}
    for pattern, prefix in SOURCES.items():
        for _, file in iteration_files(run, pattern) if wanted else ():
            for item in each_row(file):
                c, v = item["candidate"], item["verdict"]
                name = f"{prefix}{c['problem_id']}/{c['iteration']}/{c['sample']}"
                if name in wanted:
                    found[name] = {
                        "status": v["status"], "answer": v["extracted"], "rule": v["rule"], "span": v.get("span"),
                        "note": v.get("note"), "text": c["text"], "tokens": c["n_tokens"],
                    }  # fmt: skip
    return found
