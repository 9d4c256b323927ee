"""What a point of accuracy costs: in tokens for each strategy, in time for the whole run."""

from __future__ import annotations

from selftrain.report import formatting as fmt
from selftrain.runs.metrics import Metrics
from selftrain.runs.timing import Timing
from selftrain.test_time.variants import strategy_of


def token_prices(m: Metrics) -> list[tuple[str, float]]:
    """Tokens for each point that a strategy of the accepted model gains over its greedy answer on test, cheapest first.

    A strategy that gains nothing, or costs no more, has no price.
    """
    scores = next((split.strategies for row, split in m.splits("test") if row.iteration == m.accepted), {})
    if "greedy" not in scores:
        return []
    plain, found = scores["greedy"], []
    for name, score in scores.items():
        more = score.tokens_per_problem.total - plain.tokens_per_problem.total
        gain = 100 * (score.accuracy - plain.accuracy)
        answers = (strategy := strategy_of(name)) is None or strategy.answers
        if answers and more > 0 and gain > 1e-9:
            found.append((fmt.strategy_name(m, name), more / gain))
    return sorted(found, key=lambda one: one[1])


def time_per_point(m: Metrics, time: Timing) -> dict[str, str]:
    """Wall clock of the whole run for each point of greedy accuracy that it gained, on test where it was read."""
    for name in ("test", "dev"):
        scores = {row.iteration: split.strategies.get("greedy") for row, split in m.splits(name)}
        base, chosen = scores.get(m.base), scores.get(m.accepted) if m.accepted is not None else None
        if base and chosen and time.wall_seconds and (gain := 100 * (chosen.accuracy - base.accuracy)) > 1e-9:
            return {f"Wall clock per point ({name})": fmt.duration(time.wall_seconds / gain)}
    return {}
