"""Filters in their order, then a draw. Every problem gets a decision, and the counts of all steps add up."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from data_process.curate.draws import TargetMix, at_random, longest, over_domains
from data_process.curate.pool import Item
from data_process.prepare.data_card import without_details
from data_process.schema import DataError

Filter = Literal["quality", "duplicates", "contamination", "difficulty"]
Draw = Literal["ranked", "diverse", "longest", "random", "all"]
DIRECT = "direct"  # decides for problems that are taken without difficulty and draw
DRAW = "draw"


@dataclass(frozen=True)
class Policy:
    """A named way to choose."""

    difficulty: bool  # whether the difficulty filter counts
    draw: Draw
    about: str

    @property
    def needs_domains(self) -> bool:
        return self.draw in ("ranked", "diverse")

    @property
    def needs_lengths(self) -> bool:
        return self.draw in ("ranked", "longest")


# s1's recipe and the ablations of its paper (1K-random, 1K-diverse, 1K-longest, 59K-full), and difficulty alone.
POLICIES: Mapping[str, Policy] = {
    "s1": Policy(True, "ranked", "difficulty, then domains uniformly, in each with weight 2^-rank by length"),
    "random": Policy(False, "random", "a random sample"),
    "diverse": Policy(False, "diverse", "domains uniformly, in each a random problem"),
    "longest": Policy(False, "longest", "the longest"),
    "difficulty": Policy(True, "random", "difficulty, then a random sample"),
    "all": Policy(False, "all", "all that the filters leave"),
}


@dataclass(frozen=True)
class DirectRule:
    """Problems of these data sets whose trace is right, and at least so long, are taken directly."""

    origins: frozenset[str]
    min_length: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What is decided, by value."""

    seed: int
    policy: Policy
    filters: Sequence[Filter]
    size: int | None  # problems; None: by share, or all
    share: float | None  # of the pool's rows
    contradicting: Literal["drop", "first"]  # copies with different gold answers
    models: Sequence[str]  # whose pass rates the items have, in order
    easy: float  # a pass rate above it is too easy
    hard: float | None  # a problem that every model solves more rarely is too hard; None: none is
    unsampled: Literal["drop", "keep"]
    direct: Sequence[DirectRule] = ()
    target_share: float = 0.0  # of the problems that are drawn last, by the target mix
    target_origins: Mapping[str, float] = field(default_factory=dict)  # weight of each origin's mix of domains


@dataclass(frozen=True)
class Measures:
    """What has to be measured or looked up; each is asked for the problems that are still open, when they are needed.

    The first three fill in a field of the items. `leaks` gives the reasons of those that leak, by id.
    """

    rates: Callable[[Sequence[Item]], None]
    lengths: Callable[[Sequence[Item]], None]
    domains: Callable[[Sequence[Item]], None]
    leaks: Callable[[Sequence[Item]], Mapping[str, str]]


@dataclass
class Step:
    """One filter or draw: offered = kept + the sum of the reasons."""

    name: str
    offered: int
    kept: int
    reasons: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        ordered = sorted(self.reasons.items(), key=lambda pair: (-pair[1], pair[0]))
        return {"step": self.name, "offered": self.offered, "kept": self.kept, "reasons": dict(ordered)}

    def __str__(self) -> str:
        reasons = ", ".join(f"{why} {n:,}" for why, n in self.reasons.most_common(5))
        return f"{self.name} kept {self.kept:,} of {self.offered:,}" + (f" ({reasons})" if reasons else "")


@dataclass
class Chosen:
    """What came of it; the decisions stand in the items."""

    steps: list[Step]
    remarks: list[str]


def choose(items: Sequence[Item], plan: Plan, measures: Measures) -> Chosen:
    """Decides about every item. DataError if a filter leaves none, or fewer are left than are wanted."""
    done = Chosen([], [])
    _leave(items, "rows", {item.place: str(item.fault) for item in items if not item.usable}, done)
    for name in plan.filters:
        if name != "difficulty" or plan.policy.difficulty:
            _filter(name, items, plan, measures, done)
    _measure(items, plan, measures, done)
    size = _size(items, plan, done)
    while True:
        offered = [item for item in items if item.open]
        drawn = _draw(offered, min(size, len(offered)) if plan.policy.draw == "all" else size, plan, done)
        # A question can become the only one with its words once its likes are gone, and then it leaks.
        late = measures.leaks([item for item, _ in drawn]) if "contamination" in plan.filters else {}
        if not late:
            break
        _leave(items, "contamination", {item.place: late[item.id] for item in offered if item.id in late}, done)
    for item, why in drawn:
        item.kept, item.by, item.why = True, DIRECT if why == DIRECT else DRAW, why
    if direct := sum(item.by == DIRECT for item in items):
        done.remarks.append(f"{direct:,} of them are taken directly, without difficulty and draw")
    _leave(items, DRAW, {item.place: "not drawn" for item in items if item.open}, done)
    done.steps[-1].offered, done.steps[-1].kept = len(offered), len(drawn)
    return done


def _leave(items: Sequence[Item], name: str, reasons: Mapping[int, str], done: Chosen) -> None:
    """Makes a step of the open items: those with a reason, by place, leave. DataError if none is left."""
    step = Step(name, 0, 0)
    for item in items:
        if item.open:
            step.offered += 1
            if item.place in reasons:
                item.leave(name, reasons[item.place])
                step.reasons[without_details(item.why)] += 1
    step.kept = step.offered - step.reasons.total()
    done.steps.append(step)
    if not step.kept and name != DRAW:
        raise DataError("; ".join(["the filters leave no problem", *map(str, done.steps), *done.remarks]))


def _filter(name: Filter, items: Sequence[Item], plan: Plan, measures: Measures, done: Chosen) -> None:
    offered = [item for item in items if item.open]
    reasons: Mapping[int, str | None]
    if name == "quality":
        reasons = {item.place: item.fault for item in offered}
    elif name == "duplicates":
        reasons = copies(offered, plan.contradicting)
    elif name == "contamination":
        found = measures.leaks(offered)
        reasons = {item.place: found.get(item.id) for item in offered}
    else:
        measures.rates(offered)
        if plan.direct:
            measures.lengths(offered)
        done.remarks += equal_rates(offered, plan.models)
        tested = [item for item in offered if not _is_direct(item, plan)]
        reasons = {item.place: difficulty_fault(item.rates, plan) for item in tested}
    _leave(items, name, {place: why for place, why in reasons.items() if why}, done)


def _measure(items: Sequence[Item], plan: Plan, measures: Measures, done: Chosen) -> None:
    """What the draw needs of the problems that are not taken directly; those without it leave."""
    for name, needed, measure in (
        ("length", plan.policy.needs_lengths, measures.lengths),
        ("domain", plan.policy.needs_domains, measures.domains),
    ):
        if needed:
            rest = [item for item in items if item.open and not _is_direct(item, plan)]
            measure(rest)
            if rest and all(getattr(item, name) is None for item in rest):
                raise DataError(f"no problem has a {name}; name another field with {name}.of")
            lacking = {item.place: f"no {name}" for item in rest if getattr(item, name) is None}
            if lacking:
                _leave(items, name, lacking, done)


def copies(items: Sequence[Item], contradicting: Literal["drop", "first"]) -> dict[int, str]:
    """The reasons of copies, by place: of problems with the same question, choices and image the first stays.

    If their answers differ, none stays, or still the first, as `contradicting` says.
    """
    groups: dict[bytes, list[Item]] = defaultdict(list)
    for item in items:
        if item.usable:
            groups[item.same].append(item)
    found: dict[int, str] = {}
    for first, *others in groups.values():
        if contradicting == "drop" and any(other.gold != first.gold for other in others):
            found |= {item.place: "copies with different answers" for item in (first, *others)}
        else:
            found |= {other.place: f"a copy of {first.id!r}" for other in others}
    return found


def difficulty_fault(rates: Sequence[float | None], plan: Plan) -> str | None:
    """Why pass rates keep a problem out, or None. s1: any model solves it (`easy` 0, one sample each)."""
    for name, rate in zip(plan.models, rates, strict=True):
        if rate is not None and rate > plan.easy:
            return f"too easy for {name}"
    if None in rates and plan.unsampled == "drop":
        return f"no samples of {plan.models[list(rates).index(None)]}"
    known = [rate for rate in rates if rate is not None]
    if plan.hard is not None and known and max(known) < plan.hard:
        return "too hard"
    return None


def equal_rates(items: Sequence[Item], models: Sequence[str]) -> list[str]:
    """A remark for each model whose pass rates are all the same, and tell no problem from another."""
    found = []
    for k, name in enumerate(models):
        rates = {item.rates[k] for item in items if item.rates[k] is not None}
        if len(items) > 1 and len(rates) == 1:
            rate = rates.pop()
            found.append(f"all pass rates of {name} are {rate:g}: they tell no problem from another")
    return found


def _is_direct(item: Item, plan: Plan) -> bool:
    return plan.policy.difficulty and any(
        item.origin in rule.origins and bool(item.trace_right) and (item.length or 0.0) >= rule.min_length
        for rule in plan.direct
    )


def _size(items: Sequence[Item], plan: Plan, done: Chosen) -> int:
    left = sum(item.open for item in items)
    if plan.policy.draw == "all":
        return left
    if plan.size is None and plan.share is None:
        raise DataError("say how many problems are wanted, with size or share")
    size = plan.size if plan.size is not None else round((plan.share or 0) * len(items))
    if not 1 <= size <= left:
        raise DataError(_too_few(size, left, done))
    return size


def _draw(items: Sequence[Item], size: int, plan: Plan, done: Chosen) -> list[tuple[Item, str]]:
    """(item, why) of `size` open items. DataError where there are fewer."""
    if size > len(items):
        raise DataError(_too_few(size, len(items), done))
    if plan.policy.draw == "all":
        return [(item, "all") for item in items]
    direct = [(item, DIRECT) for item in items if _is_direct(item, plan)]
    rest = [item for item in items if not _is_direct(item, plan)]
    wanted = size - len(direct)
    if wanted < 0:
        raise DataError(f"the direct rules take {len(direct):,} problems, more than the {size:,} wanted; narrow them")
    if plan.policy.draw == "random":
        return direct + at_random(rest, wanted, plan.seed)
    if plan.policy.draw == "longest":
        return direct + longest(rest, wanted, plan.seed)
    ranked = plan.policy.draw == "ranked"
    target = _target(items, plan, wanted, size) if ranked else None
    return direct + over_domains(rest, wanted, plan.seed, by_length=ranked, target=target)


def _too_few(size: int, left: int, done: Chosen) -> str:
    steps = "; ".join(map(str, done.steps))
    return f"{size:,} problems are wanted, and the filters leave {left:,}: {steps}; lower size or share"


def _target(items: Sequence[Item], plan: Plan, drawn: int, size: int) -> TargetMix | None:
    """The target's mix of domains: that of each origin, by its weight. `drawn` of `size` problems come by draw."""
    if not plan.target_share:
        return None
    weights: dict[str, float] = defaultdict(float)
    for origin, weight in plan.target_origins.items():
        mix = Counter(item.domain for item in items if item.origin == origin and item.domain is not None)
        if not mix:
            raise DataError(f"target.origins: no problem from {origin!r} with a domain is left; name another data set")
        for domain, n in mix.items():
            weights[domain] += weight * n / mix.total()
    last = round(plan.target_share * size)
    return TargetMix(max(0, drawn - last), dict(weights))
