"""Several responses to each problem: the mean over them, the vote among them, and whether any is correct."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from data_process.schema import Verdict
from selftrain import stats
from selftrain.stats.votes import majority
from selftrain.test_time.records import equal_answers

NAMES = {"mean": "mean of the responses", "vote": "majority of their answers", "pass": "any correct (oracle)"}


def per_problem(verdicts: Sequence[Verdict]) -> dict[str, Any]:
    """The verdicts on one problem's responses and its credits, each in [0, 1].

    Answers that share the first place of the vote share its credit; unreadable responses have no vote.
    """
    answers = equal_answers(verdicts)
    first = set(majority(answers))
    right = {answer for answer, verdict in zip(answers, verdicts, strict=True) if verdict.correct}
    listed = [{"verdict": v.status, "extracted": v.extracted, "rule": v.rule} for v in verdicts]
    return {
        "n": len(verdicts), "mean": sum(v.correct for v in verdicts) / len(verdicts),
        "vote": len(first & right) / len(first) if first else 0.0, "pass": float(any(v.correct for v in verdicts)),
        "verdicts": listed,
    }  # fmt: skip


def several_totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """`samples` of the totals: the range of n, and each credit over all problems; {} where all have one response.

    A problem without a response gets no credit. One with a single response counts with that one.
    """
    found = [row["samples"] for row in rows if "samples" in row]
    if not found:
        return {}
    alone = [float(row["verdict"] == "correct") for row in rows if "samples" not in row]
    totals: dict[str, Any] = {"least": min(one["n"] for one in found), "most": max(one["n"] for one in found)}
    for name in NAMES:
        correct = math.fsum([*(one[name] for one in found), *alone])
        low, high = stats.wilson(min(correct, len(rows)), len(rows))
        totals[name] = {"accuracy": correct / len(rows), "interval": [low, high]}
    return {"samples": totals}


def several_lines(result: Mapping[str, Any]) -> list[str]:
    """The totals over several responses as text."""
    if "samples" not in result:
        return []
    samples = result["samples"]
    least, most = samples["least"], samples["most"]
    n = str(most) if least == most else f"{least}-{most}"
    lines = [f"the numbers above are of the first of {n} responses to each problem; over all of them:"]
    for name, about in NAMES.items():
        one = samples[name]
        low, high = one["interval"]
        lines.append(f"  {name}@{n} {100 * one['accuracy']:.2f}% [{100 * low:.1f}, {100 * high:.1f}] ({about})")
    return lines
