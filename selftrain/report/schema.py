"""What metrics.json must hold, as small frozen records, and what to say when it does not.

Proportions are fractions of 1, times are seconds. A field with a default may be missing and is then printed as "–".
Fields that no report prints are ignored, so a run may record more than this.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_process.errors import UserError

Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]
Amount = Annotated[float, Field(ge=0)]
Difference = Annotated[float, Field(ge=-1, le=1)]

# Reading order of every table. Strategies that are not listed follow, in the order of the file.
STRATEGIES = ("greedy", "mean", "majority", "select", "pass")


class ReportError(UserError, ValueError):
    """Metrics or traces that cannot be reported. The message names the field and the file to write again."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, allow_inf_nan=False)


class Tokens(_Record):
    """Mean tokens that one problem costs: generated, and read as prompt (image tokens included)."""

    generated: Amount | None = None
    prompt: Amount | None = None


class Score(_Record):
    """One strategy on one split. `correct` is fractional where ties share a point or samples are averaged.

    `abstain` and `truncated` count problems, except under "mean", where they count responses (see `responses`).
    """

    accuracy: Share
    low: Share
    high: Share
    n: Count
    correct: Amount | None = None
    abstain: Amount | None = None
    truncated: Amount | None = None
    tokens_per_problem: Tokens = Tokens()

    @model_validator(mode="after")
    def _adds_up(self) -> Score:
        slack = 1e-3  # accuracies may have been rounded before they were written
        if not self.low - slack <= self.accuracy <= self.high + slack:
            raise ValueError(f"accuracy {self.accuracy} lies outside its interval [{self.low}, {self.high}]")
        if self.correct is not None and self.n and abs(self.correct / self.n - self.accuracy) > slack:
            raise ValueError(f"accuracy {self.accuracy} is not correct / n = {self.correct:g} / {self.n}")
        return self


class Split(_Record):
    n: Count
    strategies: Mapping[str, Score] = Field(min_length=1)
    n_samples: Count | None = None

    def responses(self, strategy: str) -> int:
        """What abstentions are counted among: under "mean" every sample of every problem, otherwise problems."""
        score = self.strategies[strategy]
        return self.n * (self.n_samples or 1) if strategy == "mean" and score.n == self.n else score.n


class Evaluation(_Record):
    dev: Split
    test: Split | None = None


class Train(_Record):
    sampled_problems: Count | None = None
    candidates: Count | None = None
    correct: Count | None = None
    wrong: Count | None = None
    abstain: Count | None = None
    truncated: Count | None = None
    pool: Mapping[str, Count] = {}  # problems: all_right, mixed, all_wrong, unreadable
    examples: Mapping[str, Count] = {}  # training rows by kind: qa, cot, refine, select
    dropped: Mapping[str, Count] = {}  # reason: how many
    steps: Count | None = None
    train_loss: float | None = None
    seconds: Mapping[str, Amount] = {}

    @model_validator(mode="after")
    def _adds_up(self) -> Train:
        parts = (self.correct, self.wrong, self.abstain)
        if self.candidates is not None and None not in parts and sum(parts) != self.candidates:
            raise ValueError(f"correct + wrong + abstain = {sum(parts)}, but there are {self.candidates} candidates")
        return self


class Iteration(_Record):
    iteration: Count  # 0 is the base model
    evaluation: Evaluation = Field(alias="eval")
    accepted: bool | None = None  # became the starting point of what followed
    train: Train | None = None  # None for the base model


class Run(_Record):
    name: str
    config_digest: str | None = None
    seed: int | None = None
    model: str | None = None
    recipe: str | None = None
    n_samples: Count | None = None
    started: str | None = None
    wall_seconds: Amount | None = None
    stage_seconds: Mapping[str, Amount] = {}
    chance: Share | None = None  # accuracy of guessing, drawn as a line


class Comparison(_Record):
    """Iteration b against iteration a on the same problems; differences are b minus a."""

    split: str
    strategy: str
    a: Count
    b: Count
    difference: Difference
    low: Difference | None = None
    high: Difference | None = None
    p: Share | None = None
    gained: Count | None = None
    lost: Count | None = None
    n: Count | None = None


class Metrics(_Record):
    run: Run
    iterations: tuple[Iteration, ...] = Field(min_length=1)  # sorted by `check`
    accepted: Count | None  # the iteration that dev chose; None when none was chosen yet
    comparisons: tuple[Comparison, ...] = ()

    @model_validator(mode="after")
    def _iterations_are_distinct(self) -> Metrics:
        numbers = [row.iteration for row in self.iterations]
        if len(set(numbers)) != len(numbers):
            raise ValueError(f"iterations are listed twice: {numbers}")
        if self.accepted is not None and self.accepted not in numbers:
            raise ValueError(f"accepted is {self.accepted}, but the iterations are {numbers}")
        return self

    def splits(self, name: str) -> Iterator[tuple[Iteration, Split]]:
        """The iterations that were evaluated on "dev" or "test", with what was measured there."""
        for row in self.iterations:
            split = row.evaluation.dev if name == "dev" else row.evaluation.test
            if split is not None:
                yield row, split

    def strategies(self, name: str) -> list[str]:
        """Every strategy measured on that split, in reading order."""
        seen = {strategy: None for _, split in self.splits(name) for strategy in split.strategies}
        return [s for s in STRATEGIES if s in seen] + [s for s in seen if s not in STRATEGIES]

    def strategy_name(self, strategy: str) -> str:
        return strategy_name(strategy, self._samples())

    def short_name(self, strategy: str) -> str:
        """For a terminal of 80 columns."""
        n = self._samples() or "N"
        names = {"mean": f"Mean@{n}", "majority": f"Maj@{n}", "select": f"Select@{n}", "pass": f"Pass@{n}"}
        return names.get(strategy, self.strategy_name(strategy))

    def _samples(self) -> int | None:
        """How many samples per problem, when that is one number throughout."""
        splits = [split for name in ("dev", "test") for _, split in self.splits(name)]
        numbers = {split.n_samples for split in splits if split.n_samples} or {self.run.n_samples}
        return numbers.pop() if len(numbers) == 1 else None


def strategy_name(strategy: str, n_samples: int | None) -> str:
    n = n_samples or "N"
    names = {
        "greedy": "Greedy",
        "mean": f"Mean@{n}",
        "majority": f"Majority@{n}",
        "select": f"Self-select@{n}",
        "pass": f"Pass@{n} (oracle)",
    }
    return names.get(strategy, strategy)


class TraceRow(_Record):
    strategy: str
    text: str
    iteration: int | None = None
    verdict: str | None = None
    extracted: str | None = None
    rule: str | None = None


class Trace(_Record):
    """One problem and what the strategies answered, to be read by a person."""

    problem_id: str
    question: str
    choices: tuple[str, ...] = ()
    gold: str | None = None
    image_png_base64: str | None = None
    rows: tuple[TraceRow, ...] = ()


def check(metrics: Mapping[str, Any] | Metrics) -> Metrics:
    """The metrics as records, iterations sorted. ReportError names every missing or impossible field."""
    if isinstance(metrics, Metrics):
        return metrics
    try:
        checked = Metrics.model_validate(metrics)
    except ValidationError as error:
        run = metrics.get("run") if isinstance(metrics, Mapping) else None
        name = run.get("name") if isinstance(run, Mapping) else None
        raise ReportError(
            f"metrics.json{f' of run {name!r}' if name else ''} cannot be reported: {_said(error)}; "
            "regenerate metrics.json in the run folder from the finished evaluations"
        ) from error
    return checked.model_copy(update={"iterations": tuple(sorted(checked.iterations, key=lambda row: row.iteration))})


def check_traces(traces: Iterable[Mapping[str, Any] | Trace]) -> list[Trace]:
    """The traces as records. ReportError names the trace and the field."""
    checked = []
    for position, trace in enumerate(traces):
        try:
            checked.append(trace if isinstance(trace, Trace) else Trace.model_validate(trace))
        except ValidationError as error:
            raise ReportError(f"trace {position} cannot be shown: {_said(error)}; regenerate the traces") from error
    return checked


def _said(error: ValidationError) -> str:
    """`iterations[1].eval.dev.n is missing`, for every fault found."""
    faults = []
    for fault in error.errors(include_url=False, include_input=False):
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault["loc"]).lstrip(".")
        what = (
            "is missing" if fault["type"] == "missing" else f"is wrong ({fault['msg'].removeprefix('Value error, ')})"
        )
        faults.append(f"{where or 'the whole'} {what}")
    return ", ".join(faults)
