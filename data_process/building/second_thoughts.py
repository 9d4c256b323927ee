"""What a model wrote when it thought again: texts continued after an ignore string, and selections among candidates.

Their right derivations are the targets of reflection rows and of selections with a rationale.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_process.judging import judge
from data_process.judging.consistency import contradiction
from data_process.schema import Candidate, Judged, Problem, judged_from_json, stored_row, to_json

_OPENING = re.compile(r"\s*<([A-Za-z]{1,20})>")  # the tag that thinking may begin with: <think>


@dataclass(frozen=True, slots=True)
class Trace:
    """A sample whose end of thinking was replaced by ignore strings: attempt, ignore string, ..., continuation."""

    judged: Judged  # the whole text, with the verdict on the continuation alone
    attempts: tuple[tuple[str, str], ...]  # each with the ignore string after it
    right: tuple[bool, ...]  # whether each attempt states the right answer; one without an answer does not
    continuation: str  # what follows the last ignore string

    @property
    def id(self) -> str:
        return f"trace/{self.judged.candidate.id}"


@dataclass(frozen=True, slots=True)
class Selection:
    """A selection in the rationale form among candidates of a training problem."""

    judged: Judged  # what the selector wrote
    shown: tuple[str, ...]  # ids of the candidates, in the order in which they were drawn
    vote_right: bool  # whether the majority of the candidates is right; a tie is not

    @property
    def id(self) -> str:
        return f"selection/{self.judged.candidate.id}"


@dataclass(frozen=True)
class SecondThoughts:
    """All of a run so far, by problem id, newest first."""

    traces: Mapping[str, Sequence[Trace]]
    selections: Mapping[str, Sequence[Selection]]

    @property
    def alone(self) -> bool:
        """Whether they are the only targets of refinements and selections: in a run with reflection.

        There a sample as the target would teach the model to answer without a check.
        """
        return bool(self.traces)

    @classmethod
    def of(cls, traces: Iterable[Trace] = (), selections: Iterable[Selection] = ()) -> SecondThoughts:
        found = cls(defaultdict(list), defaultdict(list))
        for trace in sorted(traces, key=_age, reverse=True):
            _of(found.traces, trace).append(trace)
        for selection in sorted(selections, key=_age, reverse=True):
            _of(found.selections, selection).append(selection)
        return SecondThoughts(dict(found.traces), dict(found.selections))


NONE = SecondThoughts({}, {})


def _age(item: Trace | Selection) -> tuple[int, int]:
    return item.judged.candidate.age_key


def _of(groups: Mapping[str, Any], item: Trace | Selection) -> list[Any]:
    found: list[Any] = groups[item.judged.candidate.problem_id]
    return found


@dataclass(frozen=True)
class Response:
    """A right text and where it is from: the id of a candidate, a trace or a selection."""

    source: str
    text: str


def cut_trace(candidate: Candidate, problem: Problem, ignore: Sequence[str], ignores: int) -> Trace:
    """A forced sample, cut at its ignore strings and judged. `ignores`: how many were put in.

    Where the model also wrote an ignore string of its own, nobody can say which of them were put in. Everything before
    the last one is then one attempt.
    """
    text = candidate.text
    cuts = [match.span() for match in re.finditer("|".join(map(re.escape, _longest_first(ignore))), text)]
    if len(cuts) != ignores:
        cuts = cuts[-1:]
    starts, ends = [0, *(end for _, end in cuts)], [start for start, _ in cuts]
    attempts = tuple((text[a:b], text[b:c]) for a, b, c in zip(starts, ends, starts[1:], strict=False))
    continuation = text[starts[-1] :] if cuts else ""
    right = tuple(judge(without_opening(attempt), problem).correct for attempt, _ in attempts)
    verdict = judge(continuation, problem, truncated=candidate.finish == "length")
    return Trace(Judged(candidate, verdict), attempts, right, continuation)


def _longest_first(texts: Sequence[str]) -> list[str]:
    return sorted(set(texts), key=lambda text: (-len(text), text))


def opening(text: str) -> str:
    """The tag that a response begins with: "<think>"; "" if there is none."""
    found = _OPENING.match(text)
    return found[0] if found else ""


def without_opening(text: str) -> str:
    return text[len(opening(text)) :]


def closed(text: str, tag: str) -> bool:
    """Whether thinking that began with `tag` ends in `text`. True without a tag."""
    return not tag or tag.strip().replace("<", "</") in text


def derives(text: str) -> bool:
    """Whether a response derives its answer. A bare answer ("Answer: B", "<think></think> Answer: B") does not."""
    thought, closing, _ = without_opening(text).partition("</") if opening(text) else (text, "", "")
    return bool(thought.strip()) if closing else not text.strip().startswith("Answer")


def sound(item: Judged, text: str, problem: Problem, require_consistent: bool) -> bool:
    """Whether a text is right, whole and a derivation, and so may be a target."""
    whole = item.verdict.correct and item.candidate.finish == "stop" and derives(text)
    return whole and not (require_consistent and contradiction(text, problem) is not None)


def own_response(trace: Trace) -> str:
    """The continuation as a response of its own: it begins as the trace does."""
    tag = opening(trace.attempts[0][0]) if trace.attempts else ""
    return tag + trace.continuation.lstrip()


def responses(problem: Problem, thoughts: SecondThoughts, require_consistent: bool) -> list[Response]:
    """The right second thoughts about a problem as responses: those of traces, then of selections, newest first."""
    found = []
    for trace in thoughts.traces.get(problem.id, ()):
        text = own_response(trace)
        if trace.attempts and sound(trace.judged, text, problem, require_consistent) and closed(text, opening(text)):
            found.append(Response(trace.id, text))
    for selection in thoughts.selections.get(problem.id, ()):
        text = selection.judged.candidate.text
        if sound(selection.judged, text, problem, require_consistent):
            found.append(Response(selection.id, text))
    return found


def trace_to_json(trace: Trace) -> dict[str, Any]:
    parts = {"attempts": [list(pair) for pair in trace.attempts], "right": list(trace.right)}
    return {**to_json(trace.judged), **parts, "continuation": trace.continuation}


@stored_row
def trace_from_json(row: Mapping[str, Any]) -> Trace:
    attempts = tuple((attempt, ignore) for attempt, ignore in row["attempts"])
    return Trace(judged_from_json(row), attempts, tuple(row["right"]), row["continuation"])


def selection_to_json(selection: Selection) -> dict[str, Any]:
    return {**to_json(selection.judged), "shown": list(selection.shown), "vote_right": selection.vote_right}


@stored_row
def selection_from_json(row: Mapping[str, Any]) -> Selection:
    return Selection(judged_from_json(row), tuple(row["shown"]), row["vote_right"])
