"""Reads outside traces: rows that other models, people or earlier runs wrote, checked before anything trains on them.

A row is left out, with a counted reason, if the judge does not find the gold answer in its response, if its thinking
carries another model's tags, if its text holds marks of images or of turns, or if an image is not in the data folder.
Counts add up: offered == kept + dropped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from data_process.building.sharegpt import rejection_reason
from data_process.io import numbered_rows
from data_process.judging import judge
from data_process.prompts import PromptSet
from data_process.schema import DataError, Problem
from data_process.traces import TraceKind
from data_process.traces.forms import READERS, Dropped, Surroundings, Trace
from data_process.traces.tags import CLOSE, OPEN, Tags, retagged, thinking_fault


@dataclass(frozen=True)
class TraceFile:
    """A file of outside traces."""

    file: Path
    kind: TraceKind
    tags: Tags = (OPEN, CLOSE)  # around the thinking in this file, rewritten to OPEN and CLOSE
    unjudged: bool = False  # whether rows without a gold answer are kept
    limit: int | None = None  # use the first so many rows that pass

    @property
    def name(self) -> str:
        return self.file.name.partition(".")[0]


@dataclass(frozen=True)
class ReadTraces:
    """What was read, and counts of what was not used."""

    traces: list[Trace]
    offered: int
    dropped: Counter[str] = field(default_factory=Counter)  # reason -> rows
    unjudged: int = 0  # of `traces`, those without a gold answer
    text_only: int = 0  # of `traces`, those without an image

    def without(self, ids: Mapping[str, str]) -> ReadTraces:
        """Without the traces whose example has one of these ids, for the reasons given."""
        reasons = Counter(ids[trace.example.id] for trace in self.traces if trace.example.id in ids)
        return summed((t for t in self.traces if t.example.id not in ids), self.offered, self.dropped + reasons)


def summed(traces: Iterable[Trace], offered: int, dropped: Counter[str]) -> ReadTraces:
    kept = list(traces)
    unjudged, text_only = sum(t.problem is None for t in kept), sum(not t.example.images for t in kept)
    return ReadTraces(kept, offered, dropped, unjudged, text_only)


def read_traces(
    source: TraceFile, train: Mapping[str, Problem], prompts: PromptSet, images: Path, prefix: str = "outside"
) -> ReadTraces:
    """The usable traces of a file. `train`: the problems that rows may name, by id; `images`: the folder of all images.

    Their ids are "PREFIX/NAME/NUMBER", with the number of the row. Raises DataError for a file that cannot be read, a
    row whose fields do not fit the kind, and a file of which no row can be used.
    """
    around = Surroundings(train, prompts, images)
    dropped: Counter[str] = Counter()
    kept: list[Trace] = []
    seen: set[tuple[str, str, tuple[str, ...]]] = set()
    offered = 0
    for number, (where, row) in enumerate(numbered_rows(source.file, nan_is_null=True), start=1):
        if len(kept) == source.limit:
            break
        offered += 1
        try:
            trace = READERS[source.kind](row, where, f"{prefix}/{source.name}/{number}", around)
            trace = _checked(trace, source, row.get("finish") == "length")
            example = trace.example
            if (same := (example.prompt, example.target, example.images)) in seen:
                raise Dropped("duplicate")
        except Dropped as reason:
            dropped[str(reason)] += 1
            continue
        seen.add(same)
        kept.append(trace)
    result = summed(kept, offered, dropped)
    refuse_empty(source, result)
    return result


def refuse_empty(source: TraceFile, result: ReadTraces) -> None:
    """DataError if no row of a file is left."""
    if result.traces:
        return
    reasons = ", ".join(f"{reason} {n}" for reason, n in result.dropped.most_common()) or "the file holds no row"
    advice = "correct the file, or take it out of `traces`"
    if result.dropped.get("no_gold"):
        advice = "add the gold answers, name training problems by id, or set unjudged: true to trust the file"
    elif result.dropped.get("foreign_tags"):
        advice = "name the file's own thinking tags: tags: [OPENING, CLOSING]"
    raise DataError(f"{source.file}: none of {result.offered} traces can be used ({reasons}); {advice}")


def _checked(trace: Trace, source: TraceFile, truncated: bool) -> Trace:
    """The trace with this project's thinking tags. Dropped if its text or its answer is not fit to be taught."""
    example = replace(trace.example, target=retagged(trace.example.target, source.tags))
    if truncated:
        raise Dropped("truncated")
    if source.kind != "rows" and (fault := thinking_fault(example.target)):  # our own rows may begin within a thinking
        raise Dropped(fault)
    if reason := rejection_reason(example):
        raise Dropped(reason)
    if trace.problem is None:
        if not source.unjudged:
            raise Dropped("no_gold")
    elif not (verdict := judge(example.target, trace.problem)).correct:
        raise Dropped("wrong" if verdict.status == "wrong" else "unreadable")
    return replace(trace, example=example)
