"""Several settings at once: choose on one split and report on another; correct p-values for how many were looked at."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from selftrain.stats.intervals import wilson


@dataclass(frozen=True)
class Chosen:
    """The setting that was best on dev, and what it does on test. Accuracies and interval are fractions."""

    setting: str
    n_settings: int  # how many were tried on dev
    dev_accuracy: float  # the largest of n_settings numbers, so too high on average: for choosing, not for reporting
    n_dev: int
    test_accuracy: float
    low: float
    high: float
    n_test: int


def choose_on_dev(
    dev: Mapping[str, Mapping[str, float]],
    test: Mapping[str, Mapping[str, float]],
    cost: Mapping[str, float] | None = None,
    level: float = 0.95,
) -> Chosen:
    """Pick the setting with the best mean credit on dev and report it on test, with its Wilson interval.

    `dev` and `test`: setting -> question id -> credit in [0, 1]. Only the chosen setting is read from `test`. A tie on
    dev goes to the smaller `cost` (tokens per question, say), then to the name that comes first.
    ValueError: no settings, settings with different dev questions (it names one), a question that is in both splits,
    or no test credits for the chosen setting.
    """
    if not dev or any(not credits for credits in dev.values()):
        raise ValueError("choosing on dev needs at least one setting, and credits for each")
    first, *others = sorted(dev)
    for name in others:
        if differing := dev[first].keys() ^ dev[name].keys():
            raise ValueError(
                f"{first} and {name} were not measured on the same dev questions: {min(differing)!r} has one"
            )
    # Rounded so that sums of thirds in another order are still a tie.
    means = {name: round(math.fsum(credits.values()) / len(credits), 12) for name, credits in dev.items()}
    if cost is not None and (lacking := means.keys() - cost.keys()):
        raise ValueError(f"no cost is given for setting {min(lacking)!r}")
    setting = min(means, key=lambda name: (-means[name], cost[name] if cost is not None else 0, name))
    found = test.get(setting, {})
    if not found:
        raise ValueError(f"{setting} was chosen on dev but has no credits on test; measure it there")
    if both := dev[setting].keys() & found.keys():
        raise ValueError(f"{len(both)} questions are in dev and in test, for instance {min(both)!r}; split them")
    total = math.fsum(found.values())
    low, high = wilson(total, len(found), level)
    return Chosen(setting, len(dev), means[setting], len(dev[setting]), total / len(found), low, high, len(found))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values (Holm 1979, Scand J Stat 6:65), by name, in the order given.

    Rejecting where the adjusted p is at most alpha keeps the chance of any false rejection at alpha, whatever the
    dependence between the comparisons. ValueError: a p-value outside [0, 1].
    """
    for name, value in p.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{name}: {value} is not a p-value")
    adjusted: dict[str, float] = {}
    running = 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: (p[name], name))):
        running = max(running, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p}
