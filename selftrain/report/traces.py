"""Which problems the report shows in full: a few that the accepted iteration won, lost, or that the vote got wrong."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_process.io import load_problems
from data_process.schema import DataError, Problem
from data_process.seeds import seed_for
from selftrain.config import Config
from selftrain.runs.metrics import rows_of
from selftrain.test_time.results import EvaluatedProblem, JudgedText

SHOWN = 6
SHOWN_SAMPLES = 3


@dataclass(frozen=True)
class TraceText:
    """One text, and who wrote it."""

    strategy: str
    iteration: int
    judged: JudgedText


@dataclass(frozen=True)
class Trace:
    """One problem and what the strategies answered, to be read by a person."""

    problem_id: str
    question: str
    choices: tuple[str, ...] = ()
    gold: str | None = None
    images: tuple[bytes, ...] = ()  # PNG files; others are not shown
    texts: tuple[TraceText, ...] = ()


def choose_traces(path: Path, accepted: int, config: Config) -> list[Trace]:
    """At most SHOWN dev problems with the base's and the accepted iteration's answers.

    Changed problems come first (gained, then lost), drawn with the run's seed, so that a rerun shows the same ones.
    RunError if an evaluation in the run folder `path` cannot be read.
    """
    before = {row.id: row for row in rows_of(path, 0, "dev")}
    after = {row.id: row for row in rows_of(path, accepted, "dev")}
    groups: list[list[str]] = [[], [], []]
    for identifier in sorted(after):
        was, now = (rows[identifier].strategies["greedy"].credit == 1 for rows in (before, after))
        groups[0 if now and not was else 1 if was and not now else 2].append(identifier)
    rng = random.Random(seed_for(config.seed, "traces"))
    chosen: list[str] = []
    for group, share in zip(groups, (3, 2, SHOWN), strict=True):
        rng.shuffle(group)
        chosen += group[: min(share, SHOWN - len(chosen))]
    try:
        problems = {p.id: p for p in load_problems(config.data.folder / config.data.dev, config.data.folder)}
    except DataError:  # the report of an old run can be written where its data are no longer: texts alone
        problems = {}
    return [_trace(identifier, problems.get(identifier), before, after, config) for identifier in chosen]


def _trace(
    identifier: str,
    problem: Problem | None,
    before: Mapping[str, EvaluatedProblem],
    after: Mapping[str, EvaluatedProblem],
    config: Config,
) -> Trace:
    base, now = before[identifier], after[identifier]
    rows = [base, now] if now.iteration else [now]
    texts = [TraceText("greedy", row.iteration, text) for row in rows for text in row.strategies["greedy"].texts]
    samples = enumerate(now.samples[:SHOWN_SAMPLES], 1)
    texts += [TraceText(f"sample {k}", now.iteration, sample) for k, sample in samples]
    others = {name: result.texts for name, result in now.strategies.items() if name != "greedy"}
    texts += [TraceText(name, now.iteration, text) for name, several in others.items() for text in several]
    files = [config.data.folder / image for image in (problem.images if problem else ())]
    return Trace(
        identifier,
        problem.full_question if problem else "(the data folder is not here any more)",
        problem.choices if problem else (),
        now.gold,
        tuple(file.read_bytes() for file in files if file.is_file() and file.suffix.lower() == ".png"),
        tuple(texts),
    )
