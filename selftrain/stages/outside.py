"""The stages about rows that the weights did not write: outside traces, and the rows of the warm-up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from data_process.building.mixture import build
from data_process.building.weights import KINDS, weigh
from data_process.io import read_examples, write_jsonl
from data_process.prompts import prompt_set
from data_process.schema import DataError, Example, Problem, to_json
from data_process.seeds import seed_for
from data_process.traces.leaks import leaking
from data_process.traces.reader import ReadTraces, TraceFile, read_traces, refuse_empty
from selftrain.config.outside import TracesConfig
from selftrain.files import write_json
from selftrain.sampling.pseudo_labels import needs_label
from selftrain.stages.context import RunContext

OUTSIDE = "outside"  # the part of a mixture that these rows are, in counts and in ids
RATIONALISED = "rationalised"
APART = (OUTSIDE, RATIONALISED)


def traces_stage(run: RunContext) -> None:
    """The outside traces of a run, read and checked: `traces/examples.jsonl`, and counts for each file.

    DataError for a file of which nothing is left, and for traces of dev or test problems where `data.leakage` is error.
    """
    if not run.config.traces:
        return

    def make(folder: Path) -> None:
        rows: list[Example] = []
        counts: dict[str, Any] = {}
        for one in run.config.traces:
            found = _read(run, one)
            rows += [trace.example for trace in found.traces]
            counts[one.name] = {
                "file": str(one.file), "kind": one.kind, "offered": found.offered, "kept": len(found.traces),
                "dropped": found.dropped, "unjudged": found.unjudged, "text_only": found.text_only,
            }  # fmt: skip
            lost = "".join(f", {reason.replace('_', ' ')} {n}" for reason, n in found.dropped.most_common())
            run.progress.say(f"  {one.file}: {len(found.traces)} of {found.offered} traces{lost}")
        write_jsonl(folder / "examples.jsonl", map(to_json, rows))
        write_json(folder / "counts.json", counts)

    shown = run.progress.during("reading outside traces", "rows", make)
    run.folder.stage("traces", shown, after=["leakage"] if run.folder.done("leakage") else [])


def _read(run: RunContext, one: TracesConfig) -> ReadTraces:
    config, data = run.config, run.config.data
    # Those whose gold answer may be used; rows about others bring their own.
    train = {p.id: p for p in run.splits["train"] if not needs_label(p, config.labels)}
    source = TraceFile(one.file, one.kind, one.tags, one.unjudged, one.limit)
    found = read_traces(source, train, prompt_set(config.prompts), data.folder, OUTSIDE)
    # The store looks at problems: these stand for rows.
    bare = [Problem(trace.example.id, "", "", (), trace.example.images) for trace in found.traces]
    _, _, failed = run.store.check(bare)
    found = found.without({name: f"image_{reason}" for name, reason in failed})
    if data.leakage != "ignore":
        tests = {name: problems for name, problems in run.splits.items() if name != "train"}
        report, leaks = leaking(found.traces, tests, data.folder, data.allow_sources)
        if leaks and data.leakage == "error":
            raise DataError(
                f"{one.file}: traces of dev or test problems.\n{report.summary()}\nLeave them out with "
                "data.leakage=drop, or correct the file"
            )
        found = found.without(dict.fromkeys(leaks, "leak"))
    if config.engine.has_model:
        from selftrain.training.row_lengths import preflight

        examples = [trace.example for trace in found.traces]
        if examples:
            longest = config.training.max_length
            fits = {row.id for row in preflight(examples, config.model.path, run.store.path, longest, 1.0).kept}
            found = found.without({row.id: "too_long" for row in examples if row.id not in fits})
    refuse_empty(source, found)
    return found


def kinds_of(rows: Iterable[Example]) -> Counter[str]:
    """Rows by kind; those of traces and of rationalisation are kinds of their own."""
    return Counter(part if (part := row.id.partition("/")[0]) in APART else row.kind for row in rows)


def outside_rows(run: RunContext, iteration: int, dropped: Counter[str], repeated: Counter[str]) -> list[Example]:
    """The traces at their weights for an iteration's mixture, 0 being the warm-up; adds to the two counts."""
    if not run.config.traces:
        return []
    rows = read_examples(run.folder.path / "traces/examples.jsonl")
    weighed: list[Example] = []
    for one in run.config.traces:
        own = [row for row in rows if row.id.startswith(f"{OUTSIDE}/{one.name}/")]
        weight = one.weight if iteration else one.warmup_weight
        seed = seed_for(run.config.seed, OUTSIDE, one.name, iteration)
        weighed += weigh(own, OUTSIDE, weight, seed, dropped, repeated)
    return weighed


def warmup_rows_stage(run: RunContext) -> None:
    """The rows that the warm-up trains on, `iter0/build`: the traces, and direct answers to the training problems."""
    warmup = run.config.warmup
    assert warmup is not None

    def make(folder: Path) -> None:
        dropped, repeated = Counter[str](), Counter[str]()
        traces = outside_rows(run, 0, dropped, repeated)
        result = build(
            run.splits["train"], (), rule=run.config.build.rule, prompts=prompt_set(run.config.prompts),
            seed=seed_for(run.config.seed, "build", 0), parts=dict.fromkeys(KINDS, 0) | {"qa": warmup.qa},
            qa_problems=None if warmup.qa else (), extra=traces,
        )  # fmt: skip
        write_jsonl(folder / "examples.jsonl", map(to_json, result.examples))
        qa = {key: n for key, n in result.dropped.items() if key.startswith("qa:")}
        counts = {"examples": kinds_of(result.examples), "dropped": dropped + Counter(qa)}
        write_json(folder / "counts.json", {**counts, "repeated": repeated + result.repeated})

    shown = run.progress.during("building the rows of the warm-up", "rows", make)
    run.folder.stage("iter0/build", shown, after=["traces"] if run.config.traces else [])
