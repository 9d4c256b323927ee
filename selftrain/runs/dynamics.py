"""Learning dynamics: what the candidates of an iteration say about the weights that wrote them.

Rates are of training problems. A problem is solved if one of its candidates is correct.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from data_process.behaviours import RULES, behaviours
from data_process.derivations import RIGHT, derivation_of
from data_process.schema import Judged, Problem
from selftrain.files import Record, SparseRecord
from selftrain.test_time.results import Amount, Count, Fraction

# Upper bounds of the classes of pass rates: none, up to a quarter, ..., below 1, all.
BOUNDS = (0.0, 0.25, 0.5, 0.75)
CLASSES = ("0", "to 1/4", "to 1/2", "to 3/4", "below 1", "1")
_NOT_WORDS = re.compile(r"[\W_]+")
_AGE = re.compile(r"/(\d+)/\d+$")  # the end of a candidate's id: iteration and sample


class PassRate(Record):
    """The candidates of one problem in one iteration: a line of `rates.jsonl`."""

    id: str
    n: Count
    correct: Count


class Dynamics(SparseRecord):
    """One iteration's candidates: `dynamics.json`."""

    optional: ClassVar[frozenset[str]] = frozenset({"lucky"})

    problems: Count  # that were sampled
    solved: Count
    newly_solved: Count  # solved now and in no iteration before
    forgotten: Count  # sampled and solved in the last iteration that sampled them, not now
    never_solved: Count  # sampled in some iteration so far, and solved in none
    pass_rates: tuple[Count, ...]  # problems in each of CLASSES
    distinct: Fraction  # different rationales per candidate of a problem, mean over the problems
    tokens: Amount  # generated per candidate, mean
    behaviours: Mapping[str, Fraction]  # share of the candidates with a wording of each of `data_process.behaviours`
    rows_by_iteration: Mapping[str, Count]  # training rows by the weights of their newest candidate; 0: base
    lucky: Fraction | None = None  # share of the correct candidates whose derivation is not; None: it cannot be told


@dataclass
class Tally:
    """Counts candidates one at a time, without keeping their texts."""

    by_id: Mapping[str, Problem]
    _texts: dict[str, set[int]] = field(default_factory=dict)
    _n: Counter[str] = field(default_factory=Counter)
    _correct: Counter[str] = field(default_factory=Counter)
    _signs: Counter[str] = field(default_factory=Counter)
    _tokens: int = 0
    _lucky: int = 0
    _derived: bool = True  # every correct candidate so far could be checked

    def add(self, item: Judged) -> None:
        candidate, problem_id = item.candidate, item.candidate.problem_id
        self._n[problem_id] += 1
        self._tokens += candidate.n_tokens
        self._texts.setdefault(problem_id, set()).add(hash(normalized(candidate.text)))
        self._signs.update(behaviours(candidate.text))
        if item.verdict.correct:
            self._correct[problem_id] += 1
            way = derivation_of(candidate.text, item.verdict, self.by_id[problem_id])
            self._derived &= way is not None
            self._lucky += way not in (None, RIGHT)

    def rates(self) -> list[PassRate]:
        return [PassRate(id=i, n=n, correct=self._correct[i]) for i, n in sorted(self._n.items())]

    def dynamics(self, earlier: Sequence[Sequence[PassRate]], rows_by_iteration: Mapping[str, int]) -> Dynamics:
        """`earlier`: the rates of the iterations before, oldest first."""
        now = {rate.id: rate for rate in self.rates()}
        before = {rate.id: rate for rates in earlier for rate in rates}  # the newest of each problem
        ever = {rate.id for rates in earlier for rate in rates if rate.correct}
        solved = {i for i, rate in now.items() if rate.correct}
        candidates, correct = self._n.total(), self._correct.total()
        shares = [len(texts) / self._n[i] for i, texts in self._texts.items()]
        return Dynamics(
            problems=len(now),
            solved=len(solved),
            newly_solved=len(solved - ever),
            forgotten=sum(bool(before[i].correct) for i in now.keys() - solved if i in before),
            never_solved=len((now.keys() | before.keys()) - ever - solved),
            pass_rates=pass_rates(now.values()),
            distinct=sum(shares) / len(shares) if shares else 0.0,
            tokens=self._tokens / candidates if candidates else 0.0,
            behaviours={name: self._signs[name] / candidates if candidates else 0.0 for name in RULES},
            rows_by_iteration=dict(rows_by_iteration),
            lucky=self._lucky / correct if correct and self._derived else None,
        )


def normalized(text: str) -> str:
    """A response without case, punctuation and spacing: two that are equal then say the same in the same words."""
    return _NOT_WORDS.sub(" ", text).strip().casefold()


def pass_rates(rates: Iterable[PassRate]) -> tuple[int, ...]:
    """How many problems are in each of CLASSES."""
    found = [0] * len(CLASSES)
    for rate in rates:
        share = rate.correct / rate.n
        found[len(CLASSES) - 1 if share == 1 else sum(share > bound for bound in BOUNDS)] += 1
    return tuple(found)


def rows_by_iteration(examples: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    """Rows of `examples.jsonl` by the iteration in the ids of their sources; "none" for rows without candidates."""
    found: Counter[str] = Counter()
    for row in examples:
        ages = [int(age[1]) for source in row.get("sources") or () if (age := _AGE.search(source))]
        found[str(max(ages)) if ages else "none"] += 1
    return dict(sorted(found.items()))


def earlier_rates(run: Path, iteration: int) -> list[list[PassRate]]:
    """The rates of a run's iterations before this one, oldest first."""
    return [PassRate.read_rows(run / f"iter{k}/dynamics/rates.jsonl") for k in range(1, iteration)]


def measure(judged: Iterable[Judged], problems: Sequence[Problem]) -> Tally:
    """The tally of an iteration's judged candidates."""
    tally = Tally({problem.id: problem for problem in problems})
    for item in judged:
        tally.add(item)
    return tally
