"""From a run folder to what the report's page holds of its problems."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from data_process.io import each_row, load_problems
from data_process.schema import DataError, Problem
from data_process.seeds import seed_for
from selftrain.report.browser import entries, rows
from selftrain.report.browser.images import Images, PageImage
from selftrain.report.browser.pages import PROBLEMS_A_PAGE, ROWS_A_PAGE, Archive, Limits, compressed, written
from selftrain.runs.metrics import EVALUATED
from selftrain.runs.run_dir import called, folder_of
from selftrain.runs.stored import StoredRun
from selftrain.test_time.results import Calibration, EvaluatedProblem

EXAMPLES = (3, 2, 1)  # problems shown in full without a script: gained, lost, others; the last fill the rest
QUESTION = 160  # characters of a question in the list


@dataclass(frozen=True)
class Example:
    """One problem with its texts, by iteration."""

    id: str
    problem: Mapping[str, Any]
    entries: Sequence[tuple[str, Mapping[str, Any]]]  # under the name of the weights


@dataclass(frozen=True)
class Listed:
    """The problems of a split as a table that needs no script."""

    split: str
    columns: Sequence[str]  # names of the weights
    rows: Sequence[Sequence[Any]]  # id, gold, question, then (mark, answer) for each column
    of: int  # problems of the split


@dataclass(frozen=True)
class Browser:
    """What the page holds: an index, pages of records, images, and a part in plain HTML."""

    index: str  # compressed
    pages: Mapping[str, Sequence[str]]
    images: Sequence[PageImage]
    examples: Sequence[Example]
    listed: Sequence[Listed]
    notes: Sequence[str]  # what is not in the page
    confidence: Sequence[tuple[str, Calibration]] = ()  # of votes, by split and weights


@dataclass
class _Evaluation:
    """One evaluation, ready for pages; `records` and `summaries` are in the order of its file."""

    iteration: int
    strategies: list[str]
    records: list[str] = field(default_factory=list)
    summaries: dict[str, list[Any]] = field(default_factory=dict)
    votes: list[tuple[float, bool]] = field(default_factory=list)  # `entries.confidence` of problems that have one


@dataclass
class _Split:
    """The problems of a split, and the evaluations that the page compares."""

    name: str
    known: dict[str, Problem]  # in the data folder; {} where it is gone
    problems: dict[str, dict[str, Any]] = field(default_factory=dict)
    evaluations: dict[int, _Evaluation] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)  # of pages: changed problems first

    def changes(self, base: int, chosen: int) -> dict[str, int]:
        """By problem: 1 gained, -1 lost, 0 neither."""
        before, after = self.evaluations[base], self.evaluations[chosen]
        main = after.strategies.index(_main(after.strategies))
        same = before.strategies.index(_main(after.strategies)) if _main(after.strategies) in before.strategies else 0

        def right(one: _Evaluation, name: str, place: int) -> bool:
            return name in one.summaries and one.summaries[name][0][place : place + 1] == "1"

        return {name: right(after, name, main) - right(before, name, same) for name in self.problems}


def browse(run: StoredRun, limits: Limits | None = None) -> Browser:
    """Read every evaluation of a run folder. RunError if one cannot be read."""
    limits = limits or Limits()
    archive, images, checks = Archive(limits.problem_bytes), Images(limits), entries.Checks(limits.checked)
    measured = {name: [k for split, k in run.evaluations if split == name] for name in EVALUATED}
    splits = [_Split(name, _known(run, name)) for name in EVALUATED if measured[name]]
    pairs: dict[str, tuple[int, int]] = {}
    for split in splits:
        first, chosen = pairs[split.name] = _pair(run, measured[split.name])
        for k in dict.fromkeys((first, chosen)):
            split.evaluations[k] = _read(run, split, k, checks)
    changes = {split.name: split.changes(*pairs[split.name]) for split in splits}
    for changed in (True, False):  # changed problems of every split have their images before all others
        for split in splits:
            for name, moved in changes[split.name].items():
                if bool(moved) == changed:
                    split.problems[name]["images"] = [*_images(run, split.known.get(name), images)]
    examples, missing = [], 0
    for split in splits:
        names, change = [*split.problems], changes[split.name]
        split.order = sorted(range(len(names)), key=lambda i: not change[names[i]])
        records = [written(problem) for problem in split.problems.values()]
        archive.add(f"{split.name}/problems", [records[i] for i in split.order], PROBLEMS_A_PAGE)
        if split is splits[0]:
            examples = _examples(run, split, change)
    listed = [_listed(run, split, changes[split.name], pairs[split.name], limits.static) for split in splits]
    for split in splits:
        for k in dict.fromkeys(reversed(pairs[split.name])):  # one, where the base is the accepted one
            missing += _packed(archive, split, k)
    for split in splits:
        for k in sorted(set(measured[split.name]) - set(split.evaluations), reverse=True):
            if not archive.full:
                split.evaluations[k] = _read(run, split, k, checks)
                missing += _packed(archive, split, k)
            else:
                missing += len(split.problems)
    shelf = Archive(limits.row_bytes)
    lineage = rows.pack(run.path, shelf)
    index = {
        "base": run.base, "accepted": run.accepted, "splits": [_index(split, pairs[split.name]) for split in splits],
        "names": {k: called(k) for split in splits for k in split.evaluations}, "rows": lineage.index,
        "page": PROBLEMS_A_PAGE, "rows_page": ROWS_A_PAGE,
    }  # fmt: skip
    notes = _notes(run, missing, images, checks, lineage)
    confidence = [
        (f"{split.name}, {called(k)}", Calibration.of([[one] for one in split.evaluations[k].votes]))
        for split in splits for k in dict.fromkeys(pairs[split.name]) if split.evaluations[k].votes
    ]  # fmt: skip
    pages = {**archive.pages, **shelf.pages}
    return Browser(compressed(index), pages, images.found, examples, listed, notes, confidence)


def _main(strategies: Sequence[str]) -> str:
    return "greedy" if "greedy" in strategies else strategies[0]


def _pair(run: StoredRun, measured: Sequence[int]) -> tuple[int, int]:
    """The base model and the accepted iteration, or the nearest to them that were measured."""
    chosen = run.accepted if run.accepted is not None and run.accepted in measured else measured[-1]
    return (run.base if run.base in measured else measured[0]), chosen


def _known(run: StoredRun, split: str) -> dict[str, Problem]:
    name = getattr(run.config.data, split)
    folder = run.config.data.folder
    try:
        return {p.id: p for p in load_problems(folder / name, folder)} if name else {}
    except DataError:  # the report of an old run can be written where its data are no longer: texts alone
        return {}


def _read(run: StoredRun, split: _Split, iteration: int, checks: entries.Checks) -> _Evaluation:
    """One evaluation, a row at a time: objects of all rows would take a gigabyte for 10,000 problems."""
    found = _Evaluation(iteration, [])
    file = run.path / folder_of(iteration) / f"{split.name}/rows.jsonl"
    for number, line in enumerate(each_row(file), 1):
        row = EvaluatedProblem.from_json(line, f"{file}, line {number}")
        found.strategies = found.strategies or [*row.strategies]
        problem = split.known.get(row.id)
        if row.id not in split.problems:
            split.problems[row.id] = _problem(row, problem)
        shown = entries.entry(row, checks.of(row, problem))
        found.records.append(written(shown))
        found.summaries[row.id] = entries.summary(row, _main([*row.strategies]), shown)
        if (vote := entries.confidence(row)) is not None:
            found.votes.append(vote)
    return found


def _problem(row: EvaluatedProblem, problem: Problem | None) -> dict[str, Any]:
    question = row.question or (problem.full_question if problem else "")
    return {
        "id": row.id, "question": question or "(neither the run folder nor the data folder has the question)",
        "choices": [*(row.choices or (problem.choices if problem else ()))], "gold": row.gold, "images": [],
    }  # fmt: skip


def _images(run: StoredRun, problem: Problem | None, images: Images) -> list[int | str]:
    """Numbers of a problem's images, or why one is not there."""
    found: list[int | str] = []
    for name in problem.images if problem else ():
        path = PurePosixPath(name)
        outside = path.is_absolute() or ".." in path.parts
        found.append(
            "The image lies outside the data folder." if outside else images.add(run.config.data.folder / name)
        )
    return found


def _packed(archive: Archive, split: _Split, iteration: int) -> int:
    """Put an evaluation into pages; returns how many problems there was no room for."""
    found = split.evaluations[iteration]
    by_id = dict(zip(found.summaries, found.records, strict=True))
    names = [*split.problems]
    ordered = [by_id.get(names[i], "null") for i in split.order]
    fitting = archive.add(f"{split.name}/{iteration}", ordered, PROBLEMS_A_PAGE)
    found.records.clear()
    return len(ordered) - fitting


def _index(split: _Split, pair: tuple[int, int]) -> dict[str, Any]:
    def by_weights(name: str) -> dict[int, list[Any] | None]:
        return {k: one.summaries.get(name) for k, one in split.evaluations.items()}

    return {
        "name": split.name, "pair": pair, "order": split.order,
        "strategies": {k: one.strategies for k, one in split.evaluations.items()},
        "problems": [
            [name, p["question"][:QUESTION], p["gold"], by_weights(name)] for name, p in split.problems.items()
        ],
    }  # fmt: skip


def _examples(run: StoredRun, split: _Split, change: Mapping[str, int]) -> list[Example]:
    """A few problems that the accepted iteration gained, lost or kept, drawn with the run's seed."""
    rng = random.Random(seed_for(run.config.seed, "traces"))
    names = [*split.problems]
    chosen: list[str] = []
    for kind, share in zip((1, -1, 0), EXAMPLES, strict=True):
        group = sorted(name for name in names if change[name] == kind)
        rng.shuffle(group)
        chosen += group[: share if kind else sum(EXAMPLES) - len(chosen)]
    found = []
    for name in chosen:
        texts = []
        for k, one in sorted(split.evaluations.items()):
            if name in one.summaries:
                texts.append((called(k), json.loads(one.records[[*one.summaries].index(name)])))
        found.append(Example(name, split.problems[name], texts))
    return found


def _listed(run: StoredRun, split: _Split, change: Mapping[str, int], pair: tuple[int, int], most: int) -> Listed:
    names = sorted(split.problems, key=lambda name: not change[name])[:most]
    shown = []
    for name in names:
        problem, cells = split.problems[name], []
        for k in dict.fromkeys(pair):
            one = split.evaluations[k]
            letters, answer, _ = one.summaries.get(name, ["", "", 0])
            cells.append((letters[one.strategies.index(_main(one.strategies)) :][:1], answer))
        shown.append([name, problem["gold"], problem["question"][:QUESTION], *cells])
    columns = [called(k) for k in dict.fromkeys(pair)]
    return Listed(split.name, columns, shown, len(split.problems))


def _notes(run: StoredRun, missing: int, images: Images, checks: entries.Checks, lineage: rows.Rows) -> list[str]:
    """What the page does not hold, in sentences; [] if it holds everything."""
    room, notes = "There was no room for", []
    if missing:
        notes.append(
            f"This file holds a part of the run. {room} the texts of {_counted(missing, 'evaluated problem')}; "
            f"`selftrain show {run.path} ID` shows any of them."
        )
    if images.left_out:
        notes.append(f"{room} {_counted(images.left_out, 'image')}.")
    if images.unreadable:
        notes.append(f"{_counted(len(images.unreadable), 'image')} could not be read.")
    if (left := lineage.offered - len(lineage.index)) > 0:
        notes.append(f"{room} {left:,} of {_counted(lineage.offered, 'training row')}.")
    if checks.skipped:
        notes.append(f"The reasoning of {_counted(checks.skipped, 'text')} was not checked against the answer.")
    return notes


def _counted(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
