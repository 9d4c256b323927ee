"""What `selftrain scale` leaves in files: `scale.json` and the raw results. Proportions are fractions of 1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from selftrain.files import Record, SparseRecord
from selftrain.scaling.grid import Family, ScaleConfig, Setting
from selftrain.test_time import Outcome, Score
from selftrain.test_time.audit import Agreement, PositionBias, Rate
from selftrain.test_time.length_control import Tries
from selftrain.test_time.results import Tokens


class RawResult(SparseRecord):
    """One setting on one problem: a line of `results.jsonl.gz`."""

    optional: ClassVar[frozenset[str]] = frozenset({"honest"})

    subject: str
    split: str
    setting: str
    id: str
    credit: float
    abstain: float
    answers: tuple[tuple[str, ...], ...]  # of each draw
    generated: float  # tokens
    prompt: float
    honest: float | None = None  # the part of `credit` that is derived rightly; None: the data set cannot say

    @classmethod
    def of(cls, outcome: Outcome, subject: str, split: str, setting: str) -> RawResult:
        answers = tuple(choice.answers for choice in outcome.choices)
        return cls(
            subject=subject, split=split, setting=setting, id=outcome.problem_id, credit=outcome.credit,
            abstain=outcome.abstain, answers=answers, generated=outcome.cost.generated, prompt=outcome.cost.prompt,
            honest=outcome.honest,
        )  # fmt: skip


class Thinking(Record):
    """Lengths of thinking in tokens, and what a budget did: counts that add up to `completions`."""

    completions: int
    mean: float
    median: float
    p95: float
    max: float
    # "forced": ignore strings put in, or closed by a limit or a loop. "unforced": the model ended its thinking itself.
    # "no_delimiter": the model never wrote the end of thinking, and nothing was done about it. "plain": nothing was
    # recorded, and all of the text counts.
    status: Mapping[str, int]
    closed_by: Mapping[str, int]
    ignores: int
    truncated: int
    idle: int | None = None  # on which what the setting asks for had no effect; None: it asks for nothing


class SettingResult(Record):
    """One setting on one split."""

    name: str
    family: Family
    strategy: str
    n: int
    num_ignore: int | None
    limit: int | None
    least: int | None
    forced: bool
    plain: bool  # no condition in the prompt, and every candidate is shown
    totals: Score
    thinking: Thinking

    @classmethod
    def of(cls, s: Setting, totals: Score, thinking: Thinking) -> SettingResult:
        return cls(
            name=s.name, family=s.family, strategy=s.strategy, n=s.n, num_ignore=s.num_ignore, limit=s.limit,
            least=s.least, forced=s.forced, totals=totals, thinking=thinking,
            plain=not s.plan.distinct and s.plan.texts is None and s.plan.condition is None,
        )  # fmt: skip

    @property
    def cost(self) -> float:
        """Tokens per problem, generated and prompt together."""
        return self.totals.tokens_per_problem.total


class Difference(Record):
    """Setting b minus setting a on the same problems: paired bootstrap and sign-flip test."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    p: float
    tokens_a: float
    tokens_b: float


class FamilyDifference(Difference):
    """The best settings of two families; `p_holm` is corrected for the number of pairs."""

    family_a: Family
    family_b: Family
    p_holm: float


class ChosenSetting(SparseRecord):
    """A family's best setting on dev, and what it does on test."""

    optional: ClassVar[frozenset[str]] = frozenset({"test_honest"})

    setting: str
    n_settings: int
    dev_accuracy: float
    n_dev: int
    test_accuracy: float
    low: float
    high: float
    n_test: int
    abstain: float  # share of the test problems
    tokens_per_problem: Tokens
    against_vote: Difference | None = None  # to the vote within the same token budget
    test_honest: float | None = None  # counting only answers that are derived rightly, where the data can tell


class BudgetRow(Record):
    """The best of each family within a budget of tokens per problem."""

    tokens: int
    families: Mapping[Family, ChosenSetting]


class SelectAgainstVote(Record):
    """select@N minus vote@N, and minus the largest vote that costs no more tokens."""

    n: int
    equal_n: Difference | None = None
    equal_tokens: Difference | None = None
    more_votes_untried: bool = False  # a larger vote might also have been affordable
    consistent: Difference | None = None  # to the consistent vote among the same N
    refined: Difference | None = None  # to a greedy answer refined once
    waited: Difference | None = None  # to a greedy answer with one ignore string


class FrontierPoint(Record):
    """A setting that no other one beats on dev, and what it does on test."""

    setting: str
    family: Family
    dev_tokens: float
    dev_accuracy: float
    test_tokens: float
    test_accuracy: float
    low: float
    high: float


class Combination(Record):
    """The best combined setting on dev, and the best setting of one method alone within its tokens; b is combined."""

    family: Family  # of the single method
    difference: Difference  # on test


class SelectorAudit(Record):
    """What is behind a selector's score."""

    n: int
    calls: int
    sources: Mapping[str, int]
    by_position: Mapping[int, Rate]
    given_right: Mapping[int, Rate]
    left_out: float = 0.0  # candidates per call that a prompt of a trained length had no room for
    places: PositionBias
    efficiency: float | None
    agreement: Agreement | None = None  # of a permutation vote


class LengthControl(Record):
    """s1's measures of one way to set the length."""

    runs: int
    tokens: tuple[float, float]  # mean thinking tokens, least and most
    per_doubling: float | None  # as in `stats.Scaling`, with the three fields after it
    per_token: float | None
    pairs: int
    skipped: int
    performance: float
    control: float | None  # over the means of runs
    sample_control: float | None  # over single samples, where a mean hides nothing
    tries: Mapping[str, Tries] = {}  # of rejection sampling, by setting


class Power(Record):
    """What this many problems can resolve."""

    n: int
    discordance: float
    detectable: float | None
    needed: Mapping[str, int]  # difference -> problems


class Findings(Record):
    """All that is concluded about one model."""

    chosen: Mapping[Family, ChosenSetting]
    comparisons: tuple[FamilyDifference, ...]
    budgets: tuple[BudgetRow, ...]
    frontier: tuple[str, ...]  # on test
    dev_frontier: tuple[FrontierPoint, ...] = ()
    combination: Combination | None = None
    select_against_vote: tuple[SelectAgainstVote, ...]
    audits: Mapping[str, SelectorAudit]
    scaling: Mapping[str, LengthControl]
    power: Power | None


class ModelResult(Record):
    """One model under every setting."""

    name: str
    model: str
    adapter: str | None  # or the checkpoint of a full fine-tuning
    samples_drawn: int  # now and by this process; the others were in the bank
    settings: Mapping[str, tuple[SettingResult, ...]]  # by split
    findings: Findings


class ScaleResult(Record):
    """All of `scale.json`."""

    name: str
    questions: str
    n_dev: int
    n_test: int
    judge: str
    seed: int
    settings: ScaleConfig
    sampling: Mapping[str, Any]
    subjects: tuple[ModelResult, ...]
    untrained: tuple[str, ...] = ()  # ignore strings that were forced, but that no training row of the run holds
    seconds: float
    trained_prompt: int | None = None  # tokens; longer selection prompts were cut
    fitted: str | None = None  # what the grid was made from, as far as nobody set it; None: the built-in grid

    @property
    def readings(self) -> int:
        """How often an accuracy on test was computed: every setting of every model."""
        return sum(len(subject.settings["test"]) for subject in self.subjects)
