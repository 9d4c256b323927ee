"""From measured settings to answers: the best of each family at equal tokens, and how sure the differences are.

A setting is chosen on dev and reported on test. Costs are tokens per question, generated and prompt together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from data_process.seeds import seed_for
from selftrain import stats
from selftrain.scaling.grid import FAMILIES
from selftrain.scaling.measure import Measured
from selftrain.stats.scaling import Bounds
from selftrain.test_time import audit, length_control, thinking_tokens

BUDGETS = 8  # token budgets of the table at equal tokens, evenly spaced on a log scale
POWER_POINTS = (0.02, 0.05)  # differences for which the number of questions needed is told


def findings(dev: Sequence[Measured], test: Sequence[Measured], seed: int) -> dict[str, Any]:
    """All that is concluded about one model, JSON-able. `dev` and `test` hold the same settings."""
    by_dev = {m.setting.name: m for m in dev}
    by_test = {m.setting.name: m for m in test}
    if by_dev.keys() != by_test.keys():
        raise ValueError("dev and test were measured with different settings")
    answering = [name for name, m in by_test.items() if m.setting.family != "oracle"]
    chosen = {
        family: record
        for family in FAMILIES
        if family != "oracle" and (record := _choose(family, by_dev, by_test, math.inf))
    }
    return {
        "chosen": chosen,
        "comparisons": _between_families(chosen, by_test, seed),
        "budgets": _at_equal_tokens(by_dev, by_test, seed),
        "frontier": stats.frontier({name: (by_test[name].cost, by_test[name].accuracy) for name in answering}),
        "select_against_vote": _select_against_vote(by_test, seed),
        "audits": {name: _audit(m, by_test) for name, m in by_test.items() if m.setting.family == "select"},
        "scaling": _scaling(test),
        "power": _power(by_test, seed),
    }


def _choose(
    family: str, dev: Mapping[str, Measured], test: Mapping[str, Measured], tokens: float
) -> dict[str, Any] | None:
    """The family's best setting on dev among those within `tokens` there; None where there is none."""
    names = [name for name, m in dev.items() if m.setting.family == family and m.cost <= tokens]
    if not names:
        return None
    best = stats.choose_on_dev(
        {name: dev[name].credits for name in names},
        {name: test[name].credits for name in names},
        {name: dev[name].cost for name in names},
    )
    totals = test[best.setting].totals
    return {**asdict(best), "abstain": totals["abstain"], "tokens_per_problem": totals["tokens_per_problem"]}


def _difference(a: Measured, b: Measured, seed: int) -> dict[str, Any]:
    """b minus a on the same questions: paired bootstrap and sign-flip test."""
    difference, low, high, p = stats.paired_bootstrap(a.credits, b.credits, seed)
    return {
        "a": a.setting.name,
        "b": b.setting.name,
        "difference": difference,
        "low": low,
        "high": high,
        "p": p,
        "tokens_a": a.cost,
        "tokens_b": b.cost,
    }


def _between_families(chosen: Mapping[str, Mapping[str, Any]], test: Mapping[str, Measured], seed: int) -> list[Any]:
    """Every pair of families by their best settings, Holm-corrected for the number of pairs."""
    families = list(chosen)
    records = []
    for i, a in enumerate(families):
        for b in families[i + 1 :]:
            one, other = test[chosen[a]["setting"]], test[chosen[b]["setting"]]
            records.append({"family_a": a, "family_b": b, **_difference(one, other, seed_for(seed, "families", a, b))})
    adjusted = stats.holm({f"{r['family_a']}/{r['family_b']}": r["p"] for r in records})
    return [{**r, "p_holm": adjusted[f"{r['family_a']}/{r['family_b']}"]} for r in records]


def _at_equal_tokens(dev: Mapping[str, Measured], test: Mapping[str, Measured], seed: int) -> list[dict[str, Any]]:
    """For token budgets from the cheapest to the dearest setting: each family's best within the budget.

    Beside each family's number its difference to the vote's at the same budget.
    """
    costs = [m.cost for m in dev.values() if m.setting.family != "oracle"]
    low, high = math.log(min(costs)), math.log(max(costs))
    steps = [math.exp(low + (high - low) * k / (BUDGETS - 1)) for k in range(BUDGETS)]
    table = []
    for tokens in steps:
        tokens = math.ceil(tokens)
        best = {
            family: record
            for family in FAMILIES
            if family != "oracle" and (record := _choose(family, dev, test, tokens))
        }
        if "vote" in best:
            vote = test[best["vote"]["setting"]]
            for family, record in best.items():
                if family != "vote":
                    pair = _difference(vote, test[record["setting"]], seed_for(seed, "budget", tokens, family))
                    record["against_vote"] = {key: pair[key] for key in ("difference", "low", "high", "p")}
        table.append({"tokens": tokens, "families": best})
    return table


def _select_against_vote(test: Mapping[str, Measured], seed: int) -> list[dict[str, Any]]:
    """select@N minus vote@N at equal N, and minus the largest vote that costs no more tokens."""
    votes, selects = _plain(test, "vote"), _plain(test, "select")
    records = []
    for n, select in sorted(selects.items()):
        record: dict[str, Any] = {"n": n}
        if n in votes:
            record["equal_n"] = _difference(votes[n], select, seed_for(seed, "equal n", n))
        affordable = [vote for vote in votes.values() if vote.cost <= select.cost]
        if affordable:
            vote = max(affordable, key=lambda m: m.cost)
            record["equal_tokens"] = _difference(vote, select, seed_for(seed, "equal tokens", n))
            record["more_votes_untried"] = vote.setting.n == max(votes)  # a larger vote might also have been affordable
        records.append(record)
    return records


def _plain(test: Mapping[str, Measured], strategy: str) -> dict[int, Measured]:
    """A strategy's settings without budget, condition or variant, by N."""
    return {
        m.setting.n: m
        for m in test.values()
        if m.setting.strategy == strategy
        and not m.setting.forced
        and m.setting.plan.condition is None
        and not m.setting.plan.distinct
    }


def _audit(m: Measured, test: Mapping[str, Measured]) -> dict[str, Any]:
    """What is behind a selector's score."""
    calls = audit.calls_of(m.outcomes)
    n = m.setting.n
    best = test.get(f"pass@{n}")
    mean = test["mean@1"]
    record: dict[str, Any] = {
        "n": n,
        "calls": len(calls),
        "sources": dict(audit.sources(calls)),
        "by_position": {place: asdict(rate) for place, rate in audit.by_position(calls).items()},
        "given_right": {k: asdict(rate) for k, rate in audit.given_right(calls).items()},
        "places": asdict(audit.position_bias(calls)),
        "efficiency": audit.efficiency(m.accuracy, mean.accuracy, best.accuracy) if best else None,
    }
    if m.setting.strategy == "permuted":
        record["agreement"] = asdict(audit.agreement(m.outcomes))
    return record


def _scaling(test: Sequence[Measured]) -> dict[str, Any]:
    """s1's Scaling, Performance and Control of every way to set the length, forced and unforced ones apart.

    A way is a curve of runs: ignore counts, limits, or a condition with its limits. `control` is s1's, over the means
    of runs; `sample_control` is over single samples, where a mean hides nothing.
    """
    greedy = [m for m in test if m.setting.strategy == "greedy"]
    default = next(m for m in greedy if m.setting.name == "greedy").thinking["mean"]
    ways: dict[str, list[tuple[Measured, Bounds | None]]] = {}
    for m in greedy:
        condition, limit = m.setting.plan.condition, m.setting.limit
        if condition is not None:
            name = "class" if condition.name in ("short", "long") else condition.name
            way = f"asked: {name}" + (", forced" if m.setting.forced else "")
            ways.setdefault(way, []).append((m, length_control.bounds(condition, default)))
        elif m.setting.family == "think":
            way = "ignores" if limit is None else "limits"
            ways.setdefault(way, []).append((m, None if limit is None else (None, float(limit))))
    for m in test:
        if m.setting.strategy == "reject" and m.setting.limit is not None:
            way = "reject, forced" if m.setting.forced else "reject"
            ways.setdefault(way, []).append((m, (None, float(m.setting.limit))))
    return {way: _way(runs) for way, runs in ways.items()}


def _way(runs: Sequence[tuple[Measured, Bounds | None]]) -> dict[str, Any]:
    bounded = [(m, bound) for m, bound in runs if bound is not None]
    lengths = [_kept_lengths(m) for m, _ in bounded]
    means = [sum(several) / len(several) if several else 0.0 for several in lengths]
    everything = [(_kept_lengths(m), m.accuracy) for m, _ in runs]
    points = [(max(sum(several) / len(several), 1e-9), accuracy) for several, accuracy in everything if several]
    record = {
        **asdict(stats.scaling(points)),
        "runs": len(runs),
        "tokens": [min((x for x, _ in points), default=0.0), max((x for x, _ in points), default=0.0)],
        "performance": stats.performance([m.accuracy for m, _ in runs]),
        "control": stats.control(means, [bound for _, bound in bounded]) if bounded else None,
        "sample_control": stats.sample_control(lengths, [bound for _, bound in bounded]) if any(lengths) else None,
    }
    rejecting = [m for m, _ in runs if m.setting.strategy == "reject" and m.setting.limit is not None]
    if rejecting:
        record["tries"] = {
            m.setting.name: asdict(length_control.tries(m.outcomes, m.setting.limit))
            for m in rejecting
            if m.setting.limit
        }
    return record


def _kept_lengths(m: Measured) -> list[int]:
    """Thinking tokens of the samples that answered: of rejection sampling the accepted ones alone."""
    if m.setting.strategy != "reject" or m.setting.limit is None:
        return list(m.lengths)
    kept = [outcome.texts for outcome in m.outcomes if length_control.accepted(outcome.texts, m.setting.limit)]
    return [thinking_tokens(path[-1].completion) for path in kept]


def _power(test: Mapping[str, Measured], seed: int) -> dict[str, Any] | None:
    """What this many questions can resolve, from how often the plain vote and a greedy answer disagree."""
    votes = [m for m in test.values() if m.setting.strategy == "vote" and not m.setting.forced]
    if not votes:
        return None
    vote, greedy = max(votes, key=lambda m: m.setting.n), test["greedy"]
    a, b = greedy.credits, vote.credits
    discordance = sum(abs(a[key] - b[key]) for key in a) / len(a)
    if not discordance:
        return None
    return {
        "n": len(a),
        "discordance": discordance,
        "detectable": stats.detectable_difference(len(a), discordance),
        "needed": {str(d): stats.questions_needed(d, discordance) for d in POWER_POINTS if d < discordance},
    }
