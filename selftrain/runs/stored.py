"""A run folder read again: every judged text with its problem, one by one or as a table of pandas.

from selftrain import load
run = load("outputs/demo")
run.samples().groupby(["split", "iteration", "name"]).correct.mean()
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.io import each_record, load_problems
from data_process.schema import DataError, Finish, Verdict, judged_from_json
from selftrain.config import Config
from selftrain.files import RunError
from selftrain.runs.metrics import EVALUATED, Metrics, rows_of
from selftrain.runs.run_dir import BASE, IDENTITY, folder_of, iteration_files, run_config
from selftrain.test_time.results import EvaluatedProblem

if TYPE_CHECKING:
    import pandas as pd

SPLITS = ("train", *EVALUATED)


@dataclass(frozen=True)
class StoredProblem:
    """What a run folder and its data folder know of a problem."""

    id: str
    question: str | None = None  # None: an older run whose data folder is gone
    choices: tuple[str, ...] = ()
    gold: str | None = None


@dataclass(frozen=True)
class StoredText:
    """One text of the model with its verdict."""

    problem: StoredProblem
    split: str
    iteration: int  # whose weights wrote it
    name: str  # "greedy", "sample 0", "select"
    text: str
    tokens: int  # generated
    prompt_tokens: int
    finish: Finish
    verdict: Verdict

    def row(self) -> dict[str, Any]:
        """A row of `StoredRun.samples`."""
        p, v = self.problem, self.verdict
        return {
            "split": self.split, "iteration": self.iteration, "id": p.id, "name": self.name, "status": v.status,
            "correct": v.correct, "extracted": v.extracted, "gold": p.gold, "rule": v.rule, "note": v.note,
            "question": p.question, "choices": [*p.choices], "text": self.text, "tokens": self.tokens,
            "prompt_tokens": self.prompt_tokens, "finish": self.finish,
        }  # fmt: skip


class StoredRun:
    """A run folder, finished or not. RunError or ConfigError if the folder is none."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config: Config = run_config(self.path)
        metrics = self.path / "metrics.json"
        self.metrics: Metrics | None = Metrics.read(metrics) if metrics.is_file() else None  # None: not finished
        self._problems: dict[str, dict[str, StoredProblem]] = {}

    @property
    def base(self) -> int:
        """The number of the base model: 0, or BASE under a warm-up."""
        return BASE if (self.path / folder_of(BASE)).is_dir() else 0

    @property
    def accepted(self) -> int | None:
        """The iteration that dev chose; None where none was chosen yet."""
        return self.metrics.accepted if self.metrics else None

    @cached_property
    def evaluations(self) -> tuple[tuple[str, int], ...]:
        """(split, iteration) of every finished evaluation: dev, test, hard, each in order of the iterations."""
        found = ((split, k) for split in EVALUATED for k, _ in iteration_files(self.path, f"{split}/rows.jsonl"))
        return tuple(found)

    def rows(self, split: str, iteration: int) -> list[EvaluatedProblem]:
        """The problems of one evaluation. RunError where there is none, or its file cannot be read."""
        if (split, iteration) not in self.evaluations:
            known = ", ".join(f"{name} {k}" for name, k in self.evaluations) or "none"
            raise RunError(f"{self.path} has no evaluation of iteration {iteration} on {split}; finished: {known}")
        return rows_of(self.path, iteration, split)

    def problem(self, split: str, row: EvaluatedProblem) -> StoredProblem:
        """The problem of an evaluated row. Rows of older runs have no question; the data folder may."""
        if row.question:
            return StoredProblem(row.id, row.question, row.choices, row.gold)
        return replace(self._known(split).get(row.id, StoredProblem(row.id)), gold=row.gold)

    def _known(self, split: str) -> dict[str, StoredProblem]:
        """The problems of a split in the data folder; empty where they are not there any more."""
        if split not in self._problems:
            data = self.config.data
            name = getattr(data, split)
            try:
                problems = load_problems(data.folder / name, data.folder) if name else []
            except DataError:  # an old run is read where its data are no longer: its texts alone
                problems = []
            self._problems[split] = {
                p.id: StoredProblem(p.id, p.full_question, p.choices, p.answer or None) for p in problems
            }
        return self._problems[split]

    def texts(self, *splits: str) -> Iterator[StoredText]:
        """Every judged text of these splits (all by default): candidates for training, and evaluations."""
        if unknown := set(splits) - set(SPLITS):
            raise RunError(f"unknown split {sorted(unknown)[0]!r}; a run has {', '.join(SPLITS)}")
        for split in splits or SPLITS:
            if split == "train":
                yield from self._candidates()
            for k in (k for name, k in self.evaluations if name == split):
                for row in self.rows(split, k):
                    problem = self.problem(split, row)
                    for name, t in row.judged_texts():
                        yield StoredText(
                            problem, split, k, name, t.text, t.tokens, t.prompt_tokens, t.finish, t.verdict
                        )

    def _candidates(self) -> Iterator[StoredText]:
        known = self._known("train")
        for _, file in iteration_files(self.path, "judge/judged.jsonl"):
            for item in each_record(file, judged_from_json):
                c = item.candidate
                yield StoredText(
                    known.get(c.problem_id, StoredProblem(c.problem_id)), "train", c.iteration, f"sample {c.sample}",
                    c.text, c.n_tokens, c.n_prompt_tokens, c.finish, item.verdict,
                )  # fmt: skip

    def samples(self, *splits: str) -> pd.DataFrame:
        """Every judged text as a row, of these splits or of all: `StoredText.row` lists the columns.

        "name" tells samples ("sample 0") from what strategies wrote ("greedy", "select").
        """
        import pandas as pd

        return pd.DataFrame([text.row() for text in self.texts(*splits)])


def load(run: Path | str) -> StoredRun:
    """The run in a folder, to read its samples, verdicts and metrics. RunError or ConfigError if it is no run."""
    return StoredRun(run)


def refuse_unknown(wanted: Sequence[str], known: Sequence[str], run: Path) -> None:
    """RunError for an id that no evaluation has, with the nearest one."""
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"`selftrain show {run}` lists the ids"
            raise RunError(f"{run} has no evaluated problem {name!r}; {hint}")


def runs_below(folder: Path) -> list[Path]:
    """The run folders in a folder, at any depth but not inside other runs, by name. RunError if it is no folder."""
    if not folder.is_dir():
        raise RunError(f"{folder} is not a folder; give the folder that holds the runs, for instance outputs")
    found = []
    for place, inner, files in os.walk(folder):
        if IDENTITY in files and "config.json" in files:
            found.append(Path(place))
            inner.clear()
        inner.sort()
    return found
