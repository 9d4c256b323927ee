"""Judges the stored answers of finished runs again. No model, no sampling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

from data_process.io import each_record, load_problems, write_jsonl
from data_process.judging import JUDGE_VERSION, judge
from data_process.outputs import check_outputs
from data_process.predictions.score_forms import form_of, form_totals
from data_process.schema import Finish, Problem, Status, Verdict, judged_from_json, to_json
from selftrain import stats
from selftrain.files import Record, RunError
from selftrain.runs.metrics import EVALUATED
from selftrain.runs.run_dir import iteration_files, run_config
from selftrain.test_time.results import EvaluatedProblem

STATUSES = ("correct", "wrong", "abstain")
FLIPS_FOLDER = Path("outputs/rejudge")  # under the current folder: a finished run is not written to
SHOWN_FLIPS = 20


@dataclass(frozen=True)
class StoredAnswer:
    """One answer of a finished run, with the verdict that the run gave it."""

    file: str  # relative to the run folder
    iteration: int
    split: str
    name: str  # "greedy", "select", "sample 3", ...
    problem: Problem
    text: str
    truncated: bool
    stored: Verdict

    def now(self) -> Verdict:
        """The verdict of today's judge."""
        return judge(self.text, self.problem, truncated=self.truncated)


def stored_answers(run: Path, splits: Sequence[str] = ("train", *EVALUATED)) -> Iterator[StoredAnswer]:
    """Every judged answer of a run folder: the candidates for training, then the evaluations, in iteration order.

    Raises RunError if the folder holds no run or the data have changed, ConfigError or DataError if its settings or
    data cannot be read.
    """
    config = run_config(run)
    for split in splits:
        files = iteration_files(run, "judge/judged.jsonl" if split == "train" else f"{split}/rows.jsonl")
        if not files:
            continue
        source = config.data.folder / getattr(config.data, split)
        problems = {p.id: p for p in load_problems(source, config.data.folder)}
        for iteration, file in files:
            for identifier, name, text, finish, verdict in _judged(file, split):
                if identifier not in problems:
                    raise RunError(f"{file}: problem {identifier!r} is not in {source}; the data have changed")
                where = str(file.relative_to(run))
                problem, truncated = problems[identifier], finish == "length"
                yield StoredAnswer(where, iteration, split, name, problem, text, truncated, verdict)


def _judged(file: Path, split: str) -> Iterator[tuple[str, str, str, Finish, Verdict]]:
    """(problem id, name, text, finish, verdict) of every judged text, whatever strategies the evaluation had."""
    if split == "train":
        for item in each_record(file, judged_from_json):
            c = item.candidate
            yield c.problem_id, f"sample {c.sample}", c.text, c.finish, item.verdict
        return
    for problem in EvaluatedProblem.read_rows(file):
        for name, one in problem.judged_texts():
            yield problem.id, name, one.text, one.finish, one.verdict


class Change(Record):
    """An answer of an evaluation whose status is another one now."""

    id: str
    answer: str
    stored: Status
    now: Status


class Rescored(Record):
    """Greedy accuracy of one evaluation under today's judge, and the changes among all its answers."""

    iteration: int
    split: str
    n: int
    correct: int
    wrong: int
    abstain: int
    accuracy: float
    low: float
    high: float
    changed: int
    changes: tuple[Change, ...]
    benchmark: Mapping[str, Any]  # tables and measures of the greedy answers; empty where the problems have no form


class RunScore(Record):
    """All evaluations of a run under today's judge."""

    judge: str
    evaluations: tuple[Rescored, ...]


def rescore(run: Path) -> RunScore:
    """Judge every evaluation in a run folder again.

    Raises as `stored_answers` does, and RunError where there is no finished evaluation.
    """
    evaluations = []
    answers = stored_answers(run, EVALUATED)
    for (split, iteration), several in groupby(answers, lambda answer: (answer.split, answer.iteration)):
        found: Counter[str] = Counter()
        changes = []
        greedy = []
        for answer in several:
            stored, now = answer.stored.status, answer.now().status
            if answer.name == "greedy":
                found[now] += 1
                greedy.append((to_json(answer.problem), now == "correct"))
            if now != stored:
                changes.append(Change(id=answer.problem.id, answer=answer.name, stored=stored, now=now))
        n, correct = found.total(), found["correct"]
        low, high = stats.wilson(correct, n)
        form = form_of(row for row, _ in greedy)
        rescored = Rescored(
            iteration=iteration, split=split, n=n, correct=correct, wrong=found["wrong"], abstain=found["abstain"],
            accuracy=correct / n, low=low, high=high, changed=len(changes), changes=tuple(changes),
            benchmark={} if form is None else form_totals(form, greedy),
        )  # fmt: skip
        evaluations.append(rescored)
    if not evaluations:
        raise RunError(f"{run} holds no finished evaluation; run the loop first")
    return RunScore(judge=JUDGE_VERSION, evaluations=tuple(evaluations))


class Reading(Record):
    """What a judge made of an answer."""

    status: Status
    extracted: str | None
    rule: str

    @classmethod
    def of(cls, verdict: Verdict) -> Reading:
        return cls(status=verdict.status, extracted=verdict.extracted, rule=verdict.rule)


class Flip(Record):
    """An answer that is judged otherwise than stored: a line of the list of changes."""

    id: str
    file: str
    answer: str
    gold: str
    stored: Reading
    now: Reading
    end_of_text: str  # its last 200 characters


class Rejudged(Record):
    """Counts that add up: answers = unchanged + flipped + other_answer."""

    run: str
    judge: str
    answers: int
    unchanged: int
    flipped: int  # another status
    other_answer: int  # the same status, another extracted answer, which moves votes
    stored: Mapping[str, int]  # answers by status
    now: Mapping[str, int]
    by_status: Mapping[str, int]  # flips as "stored -> now"
    by_rule: Mapping[str, int]
    examples: tuple[Flip, ...]  # the first SHOWN_FLIPS changes
    flips: str  # the file that lists all changes


def rejudge(run: Path, flips: Path | None = None) -> Rejudged:
    """Judge every stored answer of a run again; the list of what changed goes to the file `flips`.

    The run folder is not written to. Raises as `stored_answers` does, RunError where the run has no judged answer, and
    DataError where `flips` would overwrite something of the run.
    """
    config = run_config(run)
    data = [config.data.folder / name for name in (config.data.train, config.data.dev, config.data.test)]
    check_outputs({"--flips": flips}, [*data, config.bank, config.model.path], runs=[run])
    stored, now_counts, by_status, by_rule = Counter[str](), Counter[str](), Counter[str](), Counter[str]()
    flipped, other_answer = [], []
    for answer in stored_answers(run):
        before, now = Reading.of(answer.stored), Reading.of(answer.now())
        stored[before.status] += 1
        now_counts[now.status] += 1
        if (before.status, before.extracted) == (now.status, now.extracted):
            continue
        flip = Flip(
            id=answer.problem.id, file=answer.file, answer=answer.name, gold=answer.problem.answer, stored=before,
            now=now, end_of_text=answer.text[-200:],
        )  # fmt: skip
        if before.status == now.status:
            other_answer.append(flip)
            continue
        flipped.append(flip)
        by_status[f"{before.status} -> {now.status}"] += 1
        by_rule[f"{before.rule} -> {now.rule}"] += 1
    if not stored:
        raise RunError(f"{run} holds no judged answers; run the loop first")
    path = flips or FLIPS_FOLDER / f"{run.resolve().name}.{sha256(str(run.resolve()).encode()).hexdigest()[:8]}.jsonl"
    changed = [*flipped, *other_answer]
    try:
        write_jsonl(path, (flip.to_json() for flip in changed))
    except OSError as error:
        raise RunError(f"{error}; name a file that can be written with --flips FILE") from error
    return Rejudged(
        run=str(run), judge=JUDGE_VERSION, answers=stored.total(), unchanged=stored.total() - len(changed),
        flipped=len(flipped), other_answer=len(other_answer),
        stored={status: stored[status] for status in STATUSES}, now={status: now_counts[status] for status in STATUSES},
        by_status=dict(by_status.most_common()), by_rule=dict(by_rule.most_common()),
        examples=tuple(changed[:SHOWN_FLIPS]), flips=str(path.resolve()),
    )  # fmt: skip
