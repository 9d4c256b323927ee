"""How often a model solved a problem: counts from its samples, read from files.

A file is JSON Lines, plain or `.gz`, with rows of one of these forms, which may be mixed:

* a judged candidate of a run (`iter1/judge/judged.jsonl`);
* `id` and `correct`, true or false: one sample; or a whole number with `n`, the number of samples;
* `id` and `pass_rate` in [0, 1];
* `id` and `response`: a text to be judged, with `finish: length` where it was truncated.

`tokens` may say how long the sample was.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_process.io import numbered_rows
from data_process.judging import judge
from data_process.schema import DataError, Problem, shown, wrong


@dataclass(slots=True)
class Outcome:
    """Samples of one problem by one model."""

    n: float = 0  # samples; 1 where only a rate is known
    correct: float = 0
    tokens: float = 0  # of the correct samples together
    measured: int = 0  # correct samples whose length is known
    texts: list[tuple[str, bool]] = field(default_factory=list)  # responses that are not judged yet; truncated?

    @property
    def rate(self) -> float:
        return self.correct / self.n

    @property
    def length(self) -> float | None:
        """Mean tokens of the correct samples."""
        return self.tokens / self.measured if self.measured else None

    def add(self, correct: bool, tokens: float | None) -> None:
        self.n += 1
        self.correct += correct
        if correct and tokens is not None:
            self.tokens += tokens
            self.measured += 1


def read_outcomes(path: Path) -> dict[str, Outcome]:
    """Outcomes by problem id. DataError names the line of a row in none of the forms, and an empty file."""
    found: dict[str, Outcome] = {}
    for where, row in numbered_rows(path, nan_is_null=True):
        _add(row, where, found)
    if not found:
        raise DataError(f"{path} holds no samples; check the path")
    return found


def _add(row: Mapping[str, Any], where: str, found: dict[str, Outcome]) -> None:
    candidate, verdict = row.get("candidate"), row.get("verdict")
    if isinstance(candidate, dict) and isinstance(verdict, dict):
        outcome = found.setdefault(_id(candidate.get("problem_id"), where), Outcome())
        outcome.add(verdict.get("status") == "correct", candidate.get("n_tokens"))
        return
    outcome = found.setdefault(_id(row.get("id", row.get("pid", row.get("problem_id"))), where), Outcome())
    correct, n, rate, text = (row.get(name) for name in ("correct", "n", "pass_rate", "response"))
    if isinstance(correct, bool):
        outcome.add(correct, row.get("tokens"))
    elif isinstance(correct, int) and isinstance(n, int) and 0 <= correct <= n and n > 0:
        outcome.n += n
        outcome.correct += correct
    elif isinstance(rate, int | float) and 0 <= rate <= 1:
        outcome.n += 1
        outcome.correct += rate
    elif isinstance(text, str):
        outcome.texts.append((text, row.get("finish", row.get("finish_reason")) == "length"))
    else:
        wrong(
            where, "a row needs 'correct' (true or false, or a number with 'n'), 'pass_rate' in [0, 1], 'response', or "
            f"a judged candidate; it has {shown(dict(row), 200)}"
        )  # fmt: skip


def _id(value: Any, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        wrong(where, f"a row needs the 'id' of its problem, found {shown(value)}")
    return str(value)


def judge_texts(outcomes: Mapping[str, Outcome], problems: Iterable[Problem]) -> None:
    """Judges the responses that the files left to be judged."""
    for problem in problems:
        outcome = outcomes.get(problem.id)
        if outcome is not None:
            for text, truncated in outcome.texts:
                outcome.add(judge(text, problem, truncated=truncated).correct, None)
            outcome.texts.clear()
