"""How a number or a name is written in a report. A missing one is "–"; fractions become percent only here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

from selftrain.runs.metrics import Metrics
from selftrain.test_time.results import Score
from selftrain.test_time.strategies import STRATEGIES
from selftrain.test_time.variants import variant

T = TypeVar("T")
Columns = Mapping[str, Callable[[T], str]]  # a table's header, each with how its cell is written

NONE = "–"
SPLITS = {"dev": "Dev", "test": "Test", "hard": "Hard"}

# Reading order of every table; other strategies follow in the order of the file. {n} is the number of samples.
NAMES = {
    "greedy": "Greedy",
    "mean": "Mean@{n}",
    "majority": "Majority@{n}",
    "select": "Self-select@{n}",
    "pass": "Pass@{n} (oracle)",
}
SHORT_NAMES = {**NAMES, "majority": "Maj@{n}", "select": "Select@{n}", "pass": "Pass@{n}"}  # for 80 columns


# Of strategies beside these, with their numbers: "consistent vote@5".
OTHER_NAMES = {
    "vote_consistent": "Consistent vote@{n}",
    "vote_consistent_logprob": "Consistent vote@{n} by likelihood",
    "vote_logprob": "Vote@{n} by likelihood",
    "adaptive": "Adaptive vote@{n}",
    "adaptive_posterior": "Adaptive vote@{n}, 95%",
    "adaptive_consistent": "Adaptive consistent vote@{n}",
    "adaptive_consistent_posterior": "Adaptive consistent vote@{n}, 95%",
    "tournament": "Tournament@{n}",
    "fused": "Fused tournament@{n}",
    "refine": "Refined ×{n}",
    "vote_reward": "Vote@{n} by reward",
    "best_reward": "Highest reward of {n}",
    "reward_pass": "Reward-pass of {n} (oracle)",
}


def visible(text: str) -> str:
    """A text for the terminal: control characters, which could move the cursor or recolour the screen, as escapes."""
    return "".join(c if c.isprintable() or c in "\n\t" else ascii(c)[1:-1] for c in text)


def strategies(m: Metrics, *splits: str) -> list[str]:
    """Every strategy measured on those splits, in reading order; without `extras`."""
    left_out = extras(m)
    seen = {strategy: None for name in splits for _, split in m.splits(name) for strategy in split.strategies}
    seen = {strategy: None for strategy in seen if strategy not in left_out}
    return [s for s in NAMES if s in seen] + [s for s in seen if s not in NAMES]


def extras(m: Metrics) -> list[str]:
    """Strategies measured on test alone, in a run that measured others on dev: for the figure against tokens."""
    on_dev = {strategy for _, split in m.splits("dev") for strategy in split.strategies}
    on_test = {strategy: None for _, split in m.splits("test") for strategy in split.strategies}
    return [strategy for strategy in on_test if strategy not in on_dev] if on_dev else []


def strategy_name(m: Metrics, strategy: str, names: Mapping[str, str] = NAMES) -> str:
    """A known strategy with its number of samples, N where that differs; another one under its own name.

    "majority@5" is Majority@5, "greedy+2" Greedy +2 Waits, "tournament@10/5" Tournament@10 in groups of 5.
    """
    measured = {split.n_samples for name in SPLITS for _, split in m.splits(name) if split.n_samples}
    n = m.run.n_samples if not measured else measured.pop() if len(measured) == 1 else None
    templates = {**OTHER_NAMES, **names}
    if strategy in templates:
        return templates[strategy].format(n=n or "N")
    found = variant(strategy)
    template = None if found is None else templates.get(found.strategy)
    if found is None or template is None or strategy in STRATEGIES:
        return strategy
    groups = f" in groups of {found.group}" if found.group else ""
    waits = f" +{found.waits} Wait{'s' if found.waits > 1 else ''}" if found.waits else ""
    return template.format(n=found.n or n or "N") + groups + waits


def percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f}"


def estimate(value: str, low: str, high: str) -> str:
    """`51.0 [46.1, 55.9]`."""
    return f"{value} [{low}, {high}]"


def with_interval(score: Score | None) -> str:
    """`51.0 [46.1, 55.9]`, in percent."""
    return NONE if score is None else estimate(*map(percent, (score.accuracy, score.low, score.high)))


def rate(part: float | None, whole: float | None, digits: int = 1) -> str:
    """`0.8%`, or – when either is unknown or the whole is empty."""
    return NONE if part is None or not whole else f"{percent(part / whole, digits)}%"


def number(value: float | None) -> str:
    """A count with thousands apart, a fraction with one decimal."""
    # Sums of thirds are not quite whole.
    return NONE if value is None else f"{value:,.0f}" if abs(value - round(value)) < 1e-6 else f"{value:,.1f}"


def signed(value: float | None, form: str) -> str:
    return NONE if value is None else f"{value:{form}}".replace("-", "−")


def points(share: float | None) -> str:
    """A difference in percentage points, with its sign."""
    return signed(None if share is None else 100 * share, "+.1f")


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    """`2 h 05 min`, `15 min 00 s`, `3.2 s`."""
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def iteration_name(m: Metrics, iteration: int) -> str:
    """`0 (base)`, `2`; in a run with a warm-up `base` and `0 (warm-up)`."""
    if iteration > 0:
        return str(iteration)
    return "base" if iteration < 0 else "0 (warm-up)" if m.base < 0 else "0 (base)"


def weights_name(m: Metrics, iteration: int) -> str:
    """The same within a sentence: `the base model`, `the warm-up`, `iteration 2`."""
    return "the base model" if iteration == m.base else f"iteration {iteration}" if iteration else "the warm-up"


def printable(value: str) -> str:
    """Without control characters and lone surrogates, which fonts and XML refuse."""
    return "".join(c if c.isprintable() else "\ufffd" for c in value)


def text(value: str) -> str:
    """Plain text inside Markdown: a name cannot end a table cell, open a tag or become a link."""
    value = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\|`*_":
        value = value.replace(mark, f"\\{mark}")
    return value.replace("](", "]\\(")


def tabulate(columns: Columns[T], items: Iterable[T]) -> tuple[list[str], list[list[str]]]:
    """Header and cells."""
    return [*columns], [[cell(item) for cell in columns.values()] for item in items]


def markdown_table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int = 1) -> str:
    """A pipe table of cells that are Markdown already; the first `left` columns hold words, the others numbers."""
    head = [*header]
    rule = [":--" if position < left else "--:" for position in range(len(head))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *rows))
