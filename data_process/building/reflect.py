"""Reflection rows: one or more attempts, each followed by an ignore string, and a right continuation.

The attempts are as sampling left them, right and wrong ones in the ratio in which they were sampled, and carry no loss.
A right attempt is confirmed by the shortest right continuation of its problem, a wrong one mended by its own or, where
that is not right, by another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from data_process import prompts as wording
from data_process.building.second_thoughts import (
    Response,
    SecondThoughts,
    Trace,
    closed,
    opening,
    sound,
    without_opening,
)
from data_process.prompts import PromptSet
from data_process.schema import Candidate, Example, Problem


def reflect_rows(
    by_id: Mapping[str, Problem],
    thoughts: SecondThoughts,
    right: Mapping[str, Sequence[Candidate]],
    prompts: PromptSet,
    slots: Counter[str],
    dropped: Counter[str],
    require_consistent: bool = False,
) -> list[Example]:
    """One slot per trace of a problem in `by_id`. `right`: the usable right samples by problem, newest first."""
    rows = []
    for problem_id, problem in sorted(by_id.items()):
        traces = thoughts.traces.get(problem_id, ())
        own = {trace.id: trace.continuation for trace in traces if _continues(trace, problem, require_consistent)}
        for trace in traces:
            slots["reflect"] += 1
            if not trace.attempts:
                dropped["reflect:no_ignore"] += 1
            elif not all(attempt.strip() for attempt, _ in trace.attempts):
                dropped["reflect:empty_attempt"] += 1
            elif (target := _continuation(trace, own, traces, thoughts, right.get(problem_id, ()))) is None:
                status = trace.judged.verdict.status
                dropped[f"reflect:{'no_answer' if status == 'abstain' else 'no_right_continuation'}"] += 1
            else:
                rows.append(
                    Example(
                        f"reflect/{trace.judged.candidate.id}", "reflect", problem_id, wording.cot(problem, prompts),
                        target.text, wording.images(problem), (trace.id, target.source), trace.attempts,
                    )
                )  # fmt: skip
    return rows


def _continues(trace: Trace, problem: Problem, require_consistent: bool) -> bool:
    """Whether a trace's continuation is right by itself, and ends the thinking that the trace began."""
    tag = opening(trace.attempts[0][0]) if trace.attempts else ""
    whole = sound(trace.judged, tag + trace.continuation, problem, require_consistent)
    return bool(trace.attempts) and whole and closed(trace.continuation, tag)


def _continuation(
    trace: Trace,
    own: Mapping[str, str],
    traces: Sequence[Trace],
    thoughts: SecondThoughts,
    right: Sequence[Candidate],
) -> Response | None:
    """The target of a trace's row; None if its problem has no right text of the same form."""
    tag = opening(trace.attempts[0][0])
    known = [Response(t.id, own[t.id]) for t in traces if t.id in own and opening(t.attempts[0][0]) == tag]
    if known and trace.right[-1]:
        return min(known, key=lambda response: len(response.text))
    if trace.id in own:
        return Response(trace.id, own[trace.id])
    if known:
        return known[0]
    selections = thoughts.selections.get(trace.judged.candidate.problem_id, ())
    selected = [(s.id, s.judged.candidate.text) for s in selections if s.judged.verdict.correct]
    for source, text in [*selected, *((candidate.id, candidate.text) for candidate in right)]:
        if opening(text) == tag and closed(text, tag):
            rest = trace.continuation
            lead = rest[: len(rest) - len(rest.lstrip())] or " "
            return Response(source, lead + without_opening(text).lstrip())
    return None
