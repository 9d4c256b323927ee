"""From measured settings to answers: the best of each family at equal tokens, and how sure the differences are.

A setting is chosen on dev and reported on test. Costs are tokens per problem, generated and prompt together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations

from data_process.seeds import seed_for
from selftrain import stats
from selftrain.scaling import records
from selftrain.scaling.grid import FAMILIES, Family
from selftrain.scaling.measure import Measured
from selftrain.scaling.records import ChosenSetting, Difference, LengthControl
from selftrain.stats.scaling import Bounds
from selftrain.test_time import audit, length_control, thinking_tokens

BUDGETS = 8  # token budgets of the table at equal tokens, evenly spaced on a log scale
POWER_POINTS = (0.02, 0.05)  # differences for which the number of problems needed is reported


def findings(dev: Sequence[Measured], test: Sequence[Measured], seed: int) -> records.Findings:
    """All that is concluded about one model. `dev` and `test` hold the same settings."""
    by_dev = {m.setting.name: m for m in dev}
    by_test = {m.setting.name: m for m in test}
    if by_dev.keys() != by_test.keys():
        raise ValueError("dev and test were measured with different settings")
    answering = [name for name, m in by_test.items() if m.setting.family != "oracle"]
    chosen = _choose_each(by_dev, by_test, math.inf)
    points = {name: (by_test[name].cost, by_test[name].accuracy) for name in answering}
    return records.Findings(
        chosen=chosen,
        comparisons=tuple(_between_families(chosen, by_test, seed)),
        budgets=tuple(_at_equal_tokens(by_dev, by_test, seed)),
        frontier=tuple(stats.frontier(points)),
        dev_frontier=tuple(_dev_frontier(by_dev, by_test)),
        combination=_combination(by_dev, by_test, seed),
        select_against_vote=tuple(_select_against_vote(by_test, seed)),
        audits={name: _audit(m, by_test) for name, m in by_test.items() if m.calls},
        scaling=_scaling(test),
        power=_power(by_test),
    )


def _choose_each(
    dev: Mapping[str, Measured], test: Mapping[str, Measured], tokens: float
) -> dict[Family, ChosenSetting]:
    """On dev the best setting of each family that answers, among those within `tokens` per problem there."""
    chosen: dict[Family, ChosenSetting] = {}
    for family in FAMILIES:
        names = [name for name, m in dev.items() if m.setting.family == family and m.cost <= tokens]
        if family == "oracle" or not names:
            continue
        best = stats.choose_on_dev(
            {name: dev[name].credits for name in names},
            {name: test[name].credits for name in names},
            {name: dev[name].cost for name in names},
        )
        totals = test[best.setting].totals
        chosen[family] = ChosenSetting(
            **asdict(best),
            abstain=(totals.abstain or 0.0) / totals.n,
            tokens_per_problem=totals.tokens_per_problem,
            test_honest=totals.honest,
        )
    return chosen


def _difference(a: Measured, b: Measured, seed: int) -> Difference:
    difference, low, high, p = stats.paired_bootstrap(a.credits, b.credits, seed)
    return Difference(
        a=a.setting.name, b=b.setting.name, difference=difference, low=low, high=high, p=p, tokens_a=a.cost,
        tokens_b=b.cost,
    )  # fmt: skip


def _between_families(
    chosen: Mapping[Family, ChosenSetting], test: Mapping[str, Measured], seed: int
) -> list[records.FamilyDifference]:
    """Every pair of families by their best settings, Holm-corrected for the number of pairs."""
    found = {
        (a, b): _difference(test[chosen[a].setting], test[chosen[b].setting], seed_for(seed, "families", a, b))
        for a, b in combinations(chosen, 2)
    }
    adjusted = stats.holm({f"{a}/{b}": pair.p for (a, b), pair in found.items()})
    return [
        records.FamilyDifference(**pair.to_json(), family_a=a, family_b=b, p_holm=adjusted[f"{a}/{b}"])
        for (a, b), pair in found.items()
    ]


def _at_equal_tokens(dev: Mapping[str, Measured], test: Mapping[str, Measured], seed: int) -> list[records.BudgetRow]:
    """For token budgets from the cheapest to the dearest setting: each family's best within the budget.

    Beside each family's number its difference to the vote's at the same budget.
    """
    costs = [m.cost for m in dev.values() if m.setting.family != "oracle"]
    low, high = math.log(min(costs)), math.log(max(costs))
    table = []
    for k in range(BUDGETS):
        tokens = math.ceil(math.exp(low + (high - low) * k / (BUDGETS - 1)))
        best = _choose_each(dev, test, tokens)
        if "vote" in best:
            vote = test[best["vote"].setting]
            for family, record in best.items():
                if family != "vote":
                    pair = _difference(vote, test[record.setting], seed_for(seed, "budget", tokens, family))
                    best[family] = record.model_copy(update={"against_vote": pair})
        table.append(records.BudgetRow(tokens=tokens, families=best))
    return table


def _dev_frontier(dev: Mapping[str, Measured], test: Mapping[str, Measured]) -> list[records.FrontierPoint]:
    """What dev holds to be best at each cost, with its accuracy on test."""
    answering = {name: (m.cost, m.accuracy) for name, m in dev.items() if m.setting.family != "oracle"}
    return [
        records.FrontierPoint(
            setting=name, family=dev[name].setting.family, dev_tokens=dev[name].cost, dev_accuracy=dev[name].accuracy,
            test_tokens=test[name].cost, test_accuracy=test[name].accuracy, low=test[name].totals.low,
            high=test[name].totals.high,
        )
        for name in stats.frontier(answering)
    ]  # fmt: skip


def _combination(dev: Mapping[str, Measured], test: Mapping[str, Measured], seed: int) -> records.Combination | None:
    """The combination at its best against the best single method at equal tokens; dev chooses both."""
    chosen = _choose_each(dev, test, math.inf).get("combined")
    if chosen is None:
        return None
    single = _choose_each(dev, test, dev[chosen.setting].cost)
    del single["combined"]
    if not single:
        return None
    family = max(single, key=lambda f: (single[f].dev_accuracy, -single[f].tokens_per_problem.total))
    pair = _difference(test[single[family].setting], test[chosen.setting], seed_for(seed, "combination"))
    return records.Combination(family=family, difference=pair)


def _select_against_vote(test: Mapping[str, Measured], seed: int) -> list[records.SelectAgainstVote]:
    """select@N minus vote@N and the consistent vote at equal N, minus the largest vote that costs no more tokens, and
    minus what a second derivation of one greedy answer gives: refining it, or one ignore string."""
    votes, selects = _plain(test, "majority"), _plain(test, "select")

    def minus(other: str, select: Measured) -> Difference | None:
        return _difference(test[other], select, seed_for(seed, other, select.setting.n)) if other in test else None

    found = []
    for n, select in sorted(selects.items()):
        affordable = [vote for vote in votes.values() if vote.cost <= select.cost]
        vote = max(affordable, key=lambda m: m.cost, default=None)
        record = records.SelectAgainstVote(
            n=n,
            equal_n=_difference(votes[n], select, seed_for(seed, "equal n", n)) if n in votes else None,
            equal_tokens=_difference(vote, select, seed_for(seed, "equal tokens", n)) if vote is not None else None,
            more_votes_untried=vote is not None and vote.setting.n == max(votes),
            consistent=minus(f"consistent vote@{n}", select),
            refined=minus("refine x1", select),
            waited=minus("greedy +1", select),
        )
        found.append(record)
    return found


def _plain(test: Mapping[str, Measured], strategy: str) -> dict[int, Measured]:
    """A strategy's settings without budget, condition or variant, by N."""
    return {
        m.setting.n: m
        for m in test.values()
        if m.setting.strategy == strategy
        and not m.setting.forced
        and m.setting.plan.condition is None
        and not m.setting.plan.distinct
        and m.setting.plan.texts is None
    }


def _audit(m: Measured, test: Mapping[str, Measured]) -> records.SelectorAudit:
    calls, n = m.calls, m.setting.n
    best, mean = test.get(f"pass@{n}"), test["mean@1"]
    return records.SelectorAudit(
        n=n, calls=len(calls), sources=dict(audit.sources(calls)), by_position=audit.by_position(calls),
        given_right=audit.given_right(calls), places=audit.position_bias(calls),
        left_out=sum(call.left_out for call in calls) / len(calls),
        efficiency=audit.efficiency(m.accuracy, mean.accuracy, best.accuracy) if best else None,
        agreement=audit.agreement(m.outcomes) if m.setting.strategy == "permuted" else None,
    )  # fmt: skip


def _scaling(test: Sequence[Measured]) -> dict[str, LengthControl]:
    """s1's Scaling, Performance and Control of every way to set the length, forced and unforced ones apart.

    A way is a curve of runs: ignore counts, limits, or a condition with its limits.
    """
    greedy = [m for m in test if m.setting.strategy == "greedy"]
    default = next(m for m in greedy if m.setting.name == "greedy").thinking.mean
    ways: dict[str, list[tuple[Measured, Bounds | None]]] = {}
    for m in greedy:
        condition, limit = m.setting.plan.condition, m.setting.limit
        if condition is not None:
            name = "class" if condition.name in ("short", "long") else condition.name
            way = f"asked: {name}" + (", forced" if m.setting.forced else "")
            ways.setdefault(way, []).append((m, length_control.bounds(condition, default)))
        elif m.setting.family == "think":
            least = m.setting.least
            way = "limits" if limit is not None else "least lengths" if least is not None else "ignores"
            bounded = None if (limit, least) == (None, None) else (_float(least), _float(limit))
            ways.setdefault(way, []).append((m, bounded))
    for m in test:
        if m.setting.strategy == "reject" and m.setting.limit is not None:
            way = "reject, forced" if m.setting.forced else "reject"
            ways.setdefault(way, []).append((m, (None, float(m.setting.limit))))
    return {way: _way(runs) for way, runs in ways.items()}


def _float(tokens: int | None) -> float | None:
    return None if tokens is None else float(tokens)


def _way(runs: Sequence[tuple[Measured, Bounds | None]]) -> LengthControl:
    bounded = [(m, bound) for m, bound in runs if bound is not None]
    lengths = [_kept_lengths(m) for m, _ in bounded]
    means = [sum(several) / len(several) if several else 0.0 for several in lengths]
    everything = [(_kept_lengths(m), m.accuracy) for m, _ in runs]
    points = [(max(sum(several) / len(several), 1e-9), accuracy) for several, accuracy in everything if several]
    limits = [(m, m.setting.limit) for m, _ in runs if m.setting.strategy == "reject"]
    rejecting = [(m, limit) for m, limit in limits if limit is not None]
    asked = [bound for _, bound in bounded]
    tokens = [x for x, _ in points]
    return LengthControl(
        runs=len(runs),
        tokens=(min(tokens, default=0.0), max(tokens, default=0.0)),
        **asdict(stats.scaling(points)),
        performance=stats.performance([m.accuracy for m, _ in runs]),
        control=stats.control(means, asked) if bounded else None,
        sample_control=stats.sample_control(lengths, asked) if any(lengths) else None,
        tries={m.setting.name: length_control.tries(m.outcomes, limit) for m, limit in rejecting},
    )


def _kept_lengths(m: Measured) -> list[int]:
    """Thinking tokens of the samples that answered: of rejection sampling the accepted ones alone."""
    if m.setting.strategy != "reject" or m.setting.limit is None:
        return list(m.lengths)
    kept = [outcome.texts for outcome in m.outcomes if length_control.accepted(outcome.texts, m.setting.limit)]
    return [thinking_tokens(path[-1].completion) for path in kept]


def _power(test: Mapping[str, Measured]) -> records.Power | None:
    """What this many problems can resolve, from how often the plain vote and a greedy answer disagree."""
    votes = [m for m in test.values() if m.setting.strategy == "majority" and not m.setting.forced]
    if not votes:
        return None
    vote, greedy = max(votes, key=lambda m: m.setting.n), test["greedy"]
    a, b = greedy.credits, vote.credits
    discordance = sum(abs(a[key] - b[key]) for key in a) / len(a)
    if not discordance:
        return None
    return records.Power(
        n=len(a),
        discordance=discordance,
        detectable=stats.detectable_difference(len(a), discordance),
        needed={str(d): stats.questions_needed(d, discordance) for d in POWER_POINTS if d < discordance},
    )
