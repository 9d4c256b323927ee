"""Pseudo-labels: the vote of a problem's own candidates stands in for an answer that is not known.

The label is the answer with the largest share of the candidates' weight, unreadable candidates included in the whole;
equal answers in different forms are one. Without a clear leader, or below a floor, there is no label, and nothing of
the problem is trained on. MM-UPT (arXiv 2505.22453) trains on the majority in this way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from data_process.judging import judge, same_answer
from data_process.judging.consistency import contradictions
from data_process.schema import PLACEHOLDERS, Candidate, Problem, Verdict
from selftrain.config import LabelsConfig
from selftrain.files import Record
from selftrain.test_time.records import equal_answers
from selftrain.test_time.results import Count, Fraction
from selftrain.test_time.vote import heaviest
from selftrain.test_time.weights import LEAST

Reason = Literal["no_answer", "tie", "below_min_share"]


class PseudoLabel(Record):
    """What the candidates of one problem say: a line of `labels.jsonl`."""

    id: str
    answer: str | None  # None: no label, for `reason`
    share: Fraction  # of the weight of all candidates
    n: Count  # candidates
    reason: Reason | None = None
    right: bool | None = None  # against the gold answer, where there is one


def needs_label(problem: Problem, settings: LabelsConfig) -> bool:
    return settings.source == "vote" and (settings.hide_gold or not problem.labelled)


def vote(problem: Problem, candidates: Sequence[Candidate], settings: LabelsConfig) -> PseudoLabel:
    """The pseudo-label of one problem; the gold answer, where there is one, is compared with and not used."""
    blank = replace(problem, answer=PLACEHOLDERS[problem.answer_type], alternatives=())
    verdicts = [judge(c.text, blank, truncated=c.finish == "length") for c in candidates]
    weights = [_weight(c, v, blank, settings) for c, v in zip(candidates, verdicts, strict=True)]
    leaders = heaviest(answers := equal_answers(verdicts), weights)
    found = PseudoLabel(id=problem.id, answer=None, share=0, n=len(candidates))
    if not leaders:
        return found.model_copy(update={"reason": "no_answer"})
    led = sum(w for a, w in zip(answers, weights, strict=True) if a == leaders[0])
    share = led / (sum(weights) or 1)
    if len(leaders) > 1 or share < settings.min_share:
        reason: Reason = "tie" if len(leaders) > 1 else "below_min_share"
        return found.model_copy(update={"reason": reason, "share": share})
    right = None
    if problem.labelled:
        example = next(v for a, v in zip(answers, verdicts, strict=True) if a == leaders[0])
        text = next(c.text for c, v in zip(candidates, verdicts, strict=True) if v is example)
        right = judge(text, problem).correct
    return found.model_copy(update={"answer": leaders[0], "share": share, "right": right})


def _weight(candidate: Candidate, verdict: Verdict, problem: Problem, settings: LabelsConfig) -> float:
    if settings.weight == "equal" or not contradictions(candidate.text, problem, verdict):
        return 1.0
    return LEAST


def relabelled(
    problems: Iterable[Problem], labels: Mapping[str, PseudoLabel], settings: LabelsConfig
) -> dict[str, Problem]:
    """By id, the problems whose answer may be used: labelled ones as they are, others with their pseudo-label."""
    found = {}
    for problem in problems:
        if not needs_label(problem, settings):
            found[problem.id] = problem
        elif (label := labels.get(problem.id)) is not None and label.answer is not None:
            found[problem.id] = replace(problem, answer=label.answer, alternatives=())
    return found


def newest_labels(run: Path, iteration: int) -> dict[str, PseudoLabel]:
    """By problem, the label of the last iteration up to this one that sampled it."""
    return {
        label.id: label
        for k in range(1, iteration + 1)
        for label in PseudoLabel.read_rows(run / f"iter{k}/judge/labels.jsonl")
    }


def changed(run: Path, iteration: int, problems: Mapping[str, Problem]) -> set[tuple[int, str]]:
    """(iteration, problem) of labels that are no longer the newest one, and of problems that had none."""
    found = set()
    for k in range(1, iteration + 1):
        for label in PseudoLabel.read_rows(run / f"iter{k}/judge/labels.jsonl"):
            now = problems.get(label.id)
            if now is None or label.answer is None or not _same(label.answer, now):
                found.add((k, label.id))
    return found


def _same(answer: str, problem: Problem) -> bool:
    verdicts = [judge(f"Answer: {text}", problem) for text in (answer, problem.answer)]
    return answer == problem.answer or same_answer(*verdicts)


def counts(labels: Iterable[PseudoLabel]) -> dict[str, int]:
    """`labelled`, `unlabelled:REASON`, and where gold is known `right` and `wrong` labels."""
    found: Counter[str] = Counter()
    for label in labels:
        found["labelled" if label.reason is None else f"unlabelled:{label.reason}"] += 1
        if label.right is not None:
            found["right" if label.right else "wrong"] += 1
    return dict(sorted(found.items()))


def say(counted: Mapping[str, int]) -> str:
    """`counts` in a sentence."""
    total = sum(n for name, n in counted.items() if name == "labelled" or name.startswith("unlabelled"))
    known = counted.get("right", 0) + counted.get("wrong", 0)
    checked = (
        f"; {100 * counted.get('right', 0) / known:.1f}% of {known} labels agree with the hidden gold" if known else ""
    )
    return f"{counted.get('labelled', 0)} of {total} problems labelled by the vote{checked}"
