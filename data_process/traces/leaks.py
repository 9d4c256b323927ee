"""Outside traces under the leakage guard: a row whose problem stands in dev or test teaches the answer to it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from data_process.decontamination.guard import guard
from data_process.decontamination.report import LeakReport
from data_process.images.marks import without_marks
from data_process.schema import Problem
from data_process.traces.forms import Trace, question_of


def leaking(
    traces: Sequence[Trace],
    tests: Mapping[str, Sequence[Problem]],
    images: Path,
    allow_sources: Collection[str] = (),
    test_images: Path | None = None,
) -> tuple[LeakReport, frozenset[str]]:
    """The guard's report on the traces that are not about training problems, and the ids of the examples that leak.

    A run has looked at its training problems already. Problems in the report have the ids of the examples.
    `test_images`: the folder of the tests' images, if it is not `images`.
    """
    asked = [_asked(trace) for trace in traces if not trace.ours]
    report = guard(asked, tests, images, test_images, allow_sources=allow_sources)
    sources = {overlap.train_source for overlap in report.sources if overlap.blocking}
    from_sources = {problem.id for problem in asked if problem.origin and problem.origin.dataset in sources}
    return report, report.train_ids() | from_sources


def _asked(trace: Trace) -> Problem:
    example, problem = trace.example, trace.problem
    if problem is None:
        problem = Problem(example.id, without_marks(example.prompt), "", images=example.images, answer_type="text")
    return replace(problem, id=example.id, question=question_of(problem.question))
