"""What an evaluation leaves: one record per problem (`rows.jsonl`), totals (`split.json`), paired comparisons.

Proportions are fractions of 1. Counts are in problems, and fractional where ties share a point or samples are averaged.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Annotated, Any, ClassVar

from pydantic import Field, model_validator

from data_process.schema import Finish, Verdict
from selftrain import stats
from selftrain.engines.budget import ClosedBy, ForcingRecord
from selftrain.files import Record, SparseRecord
from selftrain.runs.run_dir import BASE
from selftrain.test_time.records import Attempt, Outcome, SelectorCall
from selftrain.test_time.tokens import generated_tokens, mean_cost

Fraction = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
IterationNumber = Annotated[int, Field(ge=BASE)]
Amount = Annotated[float, Field(ge=0)]
Difference = Annotated[float, Field(ge=-1, le=1)]


_ADDED = ("forced", "question", "choices")  # fields of EvaluatedProblem that earlier versions lack


class BudgetLedger(Record):
    """What a budget did to one text, in tokens."""

    thinking: Count  # with the ignore strings
    ignored_at: tuple[Count, ...]  # where in the text each ignore string was put in
    closed_by: ClosedBy | None  # None: truncated while thinking

    @classmethod
    def of(cls, record: ForcingRecord) -> BudgetLedger:
        return cls(thinking=record.thinking_tokens, ignored_at=record.ignored_at, closed_by=record.closed_by)


class JudgedText(SparseRecord):
    """One text of the model with its verdict."""

    optional: ClassVar[frozenset[str]] = frozenset({"reward", "budget", "prompt", "named"})

    text: str
    tokens: Count  # generated
    prompt_tokens: Count  # image tokens included
    finish: Finish
    verdict: Verdict
    reward: float | None = None  # None: no reward model has looked at it
    budget: BudgetLedger | None = None  # None: nothing was forced
    prompt: tuple[str, ...] | None = None  # of a selector, as `in_parts` writes it
    named: Count | None = None  # the prediction that a selector calls correct, from 1, where it is asked for one

    @classmethod
    def of(cls, attempt: Attempt, call: SelectorCall | None = None, samples: Sequence[JudgedText] = ()) -> JudgedText:
        """`call`: the selector's call that `attempt` answers, which may have been shown some of `samples`."""
        c = attempt.completion
        return cls(
            text=c.text, tokens=generated_tokens(c), prompt_tokens=c.n_prompt_tokens, finish=c.finish,
            verdict=attempt.verdict, reward=None if attempt.rating is None else attempt.rating.score,
            budget=None if c.forcing is None else BudgetLedger.of(c.forcing),
            prompt=in_parts(call.prompt, [one.text for one in samples]) if call and call.prompt else None,
            named=call.named if call else None,
        )  # fmt: skip


def in_parts(prompt: str, texts: Sequence[str]) -> tuple[str, ...]:
    """A prompt without the texts that it shows and that are stored already: every second part is a number in `texts`.

    Numbers are written as text, because readers of columns want one type in a list.
    """
    places = {text: k for k, text in reversed([*enumerate(texts)]) if len(text) > 8}  # a short one saves nothing
    if not places:
        return (prompt,)
    longest_first = sorted(places, key=len, reverse=True)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", prompt)
    return tuple(str(places[part]) if i % 2 else part for i, part in enumerate(parts))


class StrategyResult(SparseRecord):
    """What one strategy made of one problem."""

    optional: ClassVar[frozenset[str]] = frozenset({"honest"})

    credit: Fraction
    abstain: Fraction  # share of draws without a readable answer
    answers: tuple[str, ...] = ()  # that share first place; () where nothing was chosen, or credit is a mean
    texts: tuple[JudgedText, ...] = ()  # what the model wrote for this strategy besides the samples, in order
    honest: Fraction | None = None  # the part of `credit` that is derived rightly; None: the data set cannot say

    @classmethod
    def of(cls, outcome: Outcome, samples: Sequence[JudgedText] = ()) -> StrategyResult:
        """`samples`: the texts that its selectors may have been shown."""
        each = len(outcome.calls) == len(outcome.texts)  # the texts are those of selectors
        calls: Sequence[SelectorCall | None] = outcome.calls if each else [None] * len(outcome.texts)
        return cls(
            credit=min(outcome.credit, 1.0),
            abstain=min(outcome.abstain, 1.0),
            answers=outcome.choices[0].answers if len(outcome.choices) == 1 else (),
            texts=tuple(JudgedText.of(text, call, samples) for text, call in zip(outcome.texts, calls, strict=True)),
            honest=None if outcome.honest is None else min(outcome.honest, 1.0),
        )


class EvaluatedProblem(Record):
    """One problem under every strategy: a line of `rows.jsonl`."""

    id: str
    gold: str
    iteration: IterationNumber  # whose weights answered; the base model is 0, or BASE under a warm-up
    samples: tuple[JudgedText, ...]  # that votes and selections share; sample 0 first
    strategies: Mapping[str, StrategyResult]
    forced: Mapping[str, tuple[JudgedText, ...]] = {}  # the same with ignore strings: "+1" is one in each sample
    question: str = ""  # with its context; "" in rows of earlier versions
    choices: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """With the problem first, and without `forced` where there is none. What is empty is left out, as before."""
        row = super().to_json()
        problem = {name: row.pop(name) for name in ("id", "question", "choices")}
        return {key: value for key, value in {**problem, **row}.items() if key not in _ADDED or value}

    def judged_texts(self) -> list[tuple[str, JudgedText]]:
        """Every text with a name: "sample 0", "greedy", "refine 1"."""
        named = [(f"sample {k}", text) for k, text in enumerate(self.samples)]
        for waits, samples in self.forced.items():
            named += [(f"sample {k} {waits}", text) for k, text in enumerate(samples)]
        for strategy, result in self.strategies.items():
            several = len(result.texts) > 1
            named += [(f"{strategy} {k}" if several else strategy, text) for k, text in enumerate(result.texts)]
        return named

    @model_validator(mode="before")
    @classmethod
    def _before_strategies_were_a_table(cls, row: Any) -> Any:
        """Rows of earlier versions have a strategy's single text, or the majority's vote, under its name."""
        if not isinstance(row, Mapping) or "strategies" in row:
            return row
        rest = {key: value for key, value in row.items() if key not in cls.model_fields and isinstance(value, Mapping)}
        verdicts = [sample.get("verdict", {}) for sample in row.get("samples", ())]
        right = [verdict.get("status") == "correct" for verdict in verdicts]
        silent = [verdict.get("status") == "abstain" for verdict in verdicts]
        found: dict[str, Any] = {}
        if right:
            n = len(right)
            found["mean"] = {"credit": sum(right) / n, "abstain": sum(silent) / n}
            found["pass"] = {"credit": float(any(right)), "abstain": float(all(silent))}
        for name, value in rest.items():
            answers, credit, texts = value.get("answers", []), value.get("credit"), []
            if verdict := value.get("verdict"):
                answers = [answer for answer in [verdict.get("extracted")] if answer is not None]
                credit, texts = float(verdict.get("status") == "correct"), [value]
            found[name] = {"credit": credit, "abstain": float(not answers), "answers": answers, "texts": texts}
        return {**{key: value for key, value in row.items() if key not in rest}, "strategies": found}


class Tokens(Record):
    """Mean tokens that one problem costs: generated, and read as prompt (image tokens included)."""

    generated: Amount | None = None
    prompt: Amount | None = None

    @property
    def total(self) -> float:
        return (self.generated or 0.0) + (self.prompt or 0.0)


class Score(SparseRecord):
    """One strategy on one split. Only what a result cannot do without is required of a file."""

    optional: ClassVar[frozenset[str]] = frozenset({"honest", "faults", "idle"})

    n: Count
    accuracy: Fraction
    low: Fraction  # 95% interval over problems (Wilson)
    high: Fraction
    correct: Amount | None = None
    abstain: Amount | None = None  # problems without a readable answer
    completions: Amount | None = None  # that were paid for
    truncated: Amount | None = None  # completions that hit the token limit
    tokens_per_problem: Tokens = Tokens()
    # Standard error of the accuracy that drawing subsets leaves, in no interval; None: one draw of many for a problem.
    drawing_error: Amount | None = 0.0
    honest: Fraction | None = None  # accuracy counting only answers that are derived rightly, where the data can tell
    faults: Mapping[str, Fraction] = {}  # shares of the problems that are answered wrong, by the derivation's fault
    idle: Fraction | None = None  # share of forced samples that no ignore string was put into; None: nothing is forced

    @model_validator(mode="after")
    def _adds_up(self) -> Score:
        slack = 1e-3  # accuracies may have been rounded before they were written
        if not self.low - slack <= self.accuracy <= self.high + slack:
            raise ValueError(f"accuracy {self.accuracy} lies outside its interval [{self.low}, {self.high}]")
        if self.correct is not None and self.n and abs(self.correct / self.n - self.accuracy) > slack:
            raise ValueError(f"accuracy {self.accuracy} is not correct / n = {self.correct:g} / {self.n}")
        return self


def score(outcomes: Sequence[Outcome]) -> Score:
    """The totals of one strategy over a split. ValueError without outcomes or with a problem that occurs twice."""
    n = len(outcomes)
    if not n:
        raise ValueError("a score of no problems")
    if len({o.problem_id for o in outcomes}) < n:
        raise ValueError("a problem occurs twice in one score")
    correct = min(math.fsum(o.credit for o in outcomes), float(n))  # thirds may add up to n and 1e-16
    low, high = stats.wilson(correct, n)
    errors = [o.error for o in outcomes]
    cost = mean_cost([o.cost for o in outcomes])
    return Score(
        n=n,
        accuracy=correct / n,
        low=low,
        high=high,
        correct=correct,
        abstain=math.fsum(o.abstain for o in outcomes),
        completions=math.fsum(o.cost.completions for o in outcomes),
        truncated=math.fsum(o.cost.truncated for o in outcomes),
        tokens_per_problem=Tokens(generated=cost.generated, prompt=cost.prompt),
        drawing_error=None if None in errors else math.sqrt(math.fsum(e**2 for e in errors if e)) / n,
        honest=honest_accuracy(outcomes),
        faults=_faults(outcomes),
    )


def honest_accuracy(outcomes: Sequence[Outcome]) -> float | None:
    """Mean of the honest credits; None unless all outcomes have one."""
    known = [one.honest for one in outcomes if one.honest is not None]
    return min(1.0, math.fsum(known) / len(known)) if known and len(known) == len(outcomes) else None


def _faults(outcomes: Sequence[Outcome]) -> dict[str, float]:
    names = sorted({name for one in outcomes for name in one.faults})
    return {name: math.fsum(one.faults.get(name, 0.0) for one in outcomes) / len(outcomes) for name in names}


class ReliabilityBin(Record):
    """Samples whose reward lies in [low, high), or up to 1 in the last bin."""

    low: Fraction
    high: Fraction
    n: Count
    mean: Fraction  # reward
    right: Fraction  # share that the judge calls correct


class Calibration(SparseRecord):
    """Whether a reward says how likely a sample is right: rewards in [0, 1] against the judge's verdicts."""

    optional: ClassVar[frozenset[str]] = frozenset({"auc_within"})

    n: Count
    mean: Fraction  # reward
    right: Fraction
    brier: Fraction  # mean squared difference of reward and verdict; 0.25 is that of a constant 0.5
    auc: Fraction | None  # chance that a right sample has a higher reward than a wrong one; None: one kind alone
    auc_within: Fraction | None = None  # the same for two samples of one problem; None: not measured, or no such two
    ece: Fraction  # mean distance of reward and share of right ones in a bin, by the samples in it
    bins: tuple[ReliabilityBin, ...]  # the bins that have samples

    @classmethod
    def of(cls, judged: Sequence[Sequence[tuple[float, bool]]]) -> Calibration:
        """Of (reward, whether the sample is right) for the samples of each problem.

        ValueError for no samples or a reward outside [0, 1].
        """
        found = stats.calibration([one for several in judged for one in several])
        bins = [asdict(one) for one in found.bins]
        return cls.model_validate({**asdict(found), "auc_within": stats.auc_within(judged), "bins": bins})


class SplitResult(SparseRecord):
    """Every strategy on one split: `split.json`."""

    optional: ClassVar[frozenset[str]] = frozenset({"calibration"})

    n: Count
    strategies: Mapping[str, Score] = Field(min_length=1)
    n_samples: Count | None = None
    calibration: Calibration | None = None  # of the reward model; None: no strategy asked it

    @model_validator(mode="before")
    @classmethod
    def _before_counts_were_in_problems(cls, value: Any) -> Any:
        """Under "mean" earlier versions counted samples, not problems."""
        if not isinstance(value, Mapping) or not isinstance(value.get("strategies"), Mapping):
            return value
        mean, n_samples = value["strategies"].get("mean"), value.get("n_samples")
        if not isinstance(mean, Mapping) or "completions" in mean or not n_samples:
            return value
        counts = {key: mean[key] / n_samples for key in ("abstain", "truncated") if mean.get(key) is not None}
        return {**value, "strategies": {**value["strategies"], "mean": {**mean, **counts}}}


class PairedDifference(Record):
    """What a paired test found: b minus a on the same problems."""

    difference: Difference
    low: Difference | None = None
    high: Difference | None = None
    p: Fraction | None = None  # two-sided
    gained: Count | None = None  # problems; None where credits are fractional
    lost: Count | None = None
    n: Count | None = None


class Comparison(SparseRecord, PairedDifference):
    """Iteration b against iteration a under one strategy."""

    optional: ClassVar[frozenset[str]] = frozenset({"honest"})

    split: str
    strategy: str
    a: IterationNumber
    b: IterationNumber
    honest: bool = False  # of honest accuracies


class Contrast(PairedDifference):
    """Strategy b against strategy a with one iteration's weights."""

    split: str
    iteration: IterationNumber
    a: str
    b: str


def compare(
    before: Sequence[EvaluatedProblem], after: Sequence[EvaluatedProblem], split: str, strategy: str, seed: int,
    *, honest: bool = False,
) -> Comparison:  # fmt: skip
    """Paired comparison of two evaluations of the same problems, joined by id.

    `honest`: only answers that are derived rightly count; see `has_honest`.

    Whole credits get the exact McNemar test; fractional ones, as of ties, the paired bootstrap. ValueError if the
    problems differ.
    """
    a, b = (
        {
            row.id: (row.strategies[strategy].honest or 0.0) if honest else row.strategies[strategy].credit
            for row in rows
        }
        for rows in (before, after)
    )
    names = {"split": split, "strategy": strategy, "a": before[0].iteration, "b": after[0].iteration, "honest": honest}
    return Comparison.model_validate({**names, **_paired(a, b, seed)})


def contrast(rows: Sequence[EvaluatedProblem], split: str, a: str, b: str, seed: int) -> Contrast:
    """Paired comparison of two strategies of one evaluation, with the tests of `compare`."""
    credits = [{row.id: row.strategies[name].credit for row in rows} for name in (a, b)]
    names = {"split": split, "iteration": rows[0].iteration, "a": a, "b": b}
    return Contrast.model_validate({**names, **_paired(credits[0], credits[1], seed)})


def _paired(a: Mapping[str, float], b: Mapping[str, float], seed: int) -> dict[str, float]:
    if {*a.values(), *b.values()} <= {0.0, 1.0}:
        test = stats.paired_test({k: v == 1 for k, v in a.items()}, {k: v == 1 for k, v in b.items()})
        found = {key: getattr(test, key) for key in ("difference", "low", "high", "p", "gained", "lost")}
    else:
        found = dict(zip(("difference", "low", "high", "p"), stats.paired_bootstrap(a, b, seed), strict=True))
    return {**found, "n": len(a)}


def compare_both(
    before: Sequence[EvaluatedProblem], after: Sequence[EvaluatedProblem], split: str, strategy: str, seed: int
) -> list[Comparison]:
    """The comparison of accuracies, and that of honest accuracies where both evaluations have them."""
    measures = [False, True] if has_honest(before, strategy) and has_honest(after, strategy) else [False]
    return [compare(before, after, split, strategy, seed, honest=honest) for honest in measures]


def has_honest(rows: Sequence[EvaluatedProblem], strategy: str) -> bool:
    """Whether every derivation of a strategy was checked."""
    return all(row.strategies[strategy].honest is not None for row in rows)
