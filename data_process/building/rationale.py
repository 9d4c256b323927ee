"""Selections whose target is a whole right derivation: the model may choose, join candidates or overrule all of them.

A prompt shows a random draw of a problem's candidates, so right ones are as frequent as at test time, and there are
prompts with none. `prompts.shown_texts` says how equal texts are shown, and what is left out of a long prompt.

Counts add up: slots == rows + the sum of `dropped`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from data_process import prompts as wording
from data_process.building.census import group_by_problem
from data_process.building.mixed_select import PER_SIZE, SIZES, TRIES, MixedSelect, check_sizes
from data_process.building.second_thoughts import NONE, Response, SecondThoughts, responses, sound
from data_process.prompts import SHOW_ALL, PromptSet, ShowLimit
from data_process.schema import Candidate, Example, Judged, Problem
from data_process.seeds import seed_for


@dataclass(frozen=True)
class SetSizes:
    """Which candidates a prompt of the mixture shows."""

    largest: int = 5  # candidates drawn for one prompt; every number from 2 up to it occurs equally often
    per_problem: int = 2
    limit: ShowLimit = SHOW_ALL


DEFAULT_SETS = SetSizes()


@dataclass(frozen=True)
class Material:
    """What the rows of one problem are made from."""

    problem: Problem
    candidates: Sequence[Candidate]  # to be shown, in a fixed order
    targets: Sequence[Response]  # right second thoughts if there are any, else right samples; newest first
    cot_prompt: str


def material(
    problem: Problem,
    judged: Sequence[Judged],
    right: Sequence[Candidate],
    thoughts: SecondThoughts,
    prompts: PromptSet,
    require_consistent: bool,
    least: int,
) -> Material:
    """`judged`: every candidate, newest first; `right`: those that may be a target, newest first.

    Shown are the candidates of the newest iterations that together have `least`: whole iterations, so that right ones
    keep their share.
    """
    shown: list[Candidate] = []
    for item in judged:
        if item.candidate.guide is not None:
            continue  # it is no natural draw
        if len(shown) >= least and item.candidate.iteration != shown[-1].iteration:
            break
        shown.append(item.candidate)
    status = {item.candidate.id: item for item in judged}
    targets = responses(problem, thoughts, require_consistent)
    if not targets and not thoughts.alone:
        own = [c for c in right if sound(status[c.id], c.text, problem, require_consistent)]
        targets = [Response(candidate.id, candidate.text) for candidate in own]
    return Material(problem, shown, targets, wording.cot(problem, prompts))


def rationale_rows(
    materials: Sequence[Material],
    thoughts: SecondThoughts,
    by_id: Mapping[str, Mapping[str, Candidate]],
    prompts: PromptSet,
    sizes: SetSizes,
    seed: int,
    slots: Counter[str],
    dropped: Counter[str],
) -> tuple[list[Example], int]:
    """Rows of natural draws, `sizes.per_problem` slots for each problem, and of the selector's own choices.

    A past selection that was right where the vote was wrong, or wrong where it was right, is a slot: the same prompt
    with its own text as the target, or with a right one. `by_id`: each problem's candidates by id.
    Also returns the length of the longest prompt's candidates in characters, which no prompt should exceed later.
    """
    rows: list[Example] = []
    longest = 0

    def add(name: str, ready: Material, shown: Sequence[Candidate], own: Response | None = None) -> None:
        nonlocal longest
        longest = max(longest, wording.shown_characters([candidate.text for candidate in shown], sizes.limit))
        rows.append(_row(name, ready, shown, prompts, sizes.limit, seed, own))

    for ready in materials:
        problem_id = ready.problem.id
        slots["select"] += sizes.per_problem
        reason = lacking(ready)
        reason = "no_second_thought" if reason == "no_right" and thoughts.alone else reason
        drawn = [] if reason else _natural_draws(ready.candidates, sizes, seed, problem_id)
        for k, shown in enumerate(drawn):
            add(f"select/natural/{problem_id}/{k}", ready, shown)
        if len(drawn) < sizes.per_problem:
            dropped[f"select:{reason or 'no_new_set'}"] += sizes.per_problem - len(drawn)
        for selection in thoughts.selections.get(problem_id, ()):
            right = selection.judged.verdict.correct
            if right == selection.vote_right:
                continue
            slots["select"] += 1
            if not ready.targets:
                dropped[f"select:{'no_second_thought' if thoughts.alone else 'no_right'}"] += 1
                continue
            shown = tuple(by_id[problem_id][name] for name in selection.shown)
            own = next((target for target in ready.targets if right and target.source == selection.id), None)
            add(f"select/own/{selection.judged.candidate.id}", ready, shown, own)
    return rows, longest


def lacking(ready: Material) -> str | None:
    """Why a problem gives no natural draw; None if it does."""
    if not ready.candidates:
        return "no_candidate"
    if not ready.targets:
        return "no_right"
    return "too_few_candidates" if len(ready.candidates) < 2 else None


def _natural_draws(
    candidates: Sequence[Candidate], sizes: SetSizes, seed: int, problem_id: str
) -> list[tuple[Candidate, ...]]:
    """Different sets; their sizes go through 2 to the largest possible one, from a seeded beginning."""
    random = Random(seed_for(seed, "rationale", problem_id))
    possible = range(2, min(sizes.largest, len(candidates)) + 1)
    start = random.randrange(len(possible))
    found: list[tuple[Candidate, ...]] = []
    seen: set[frozenset[str]] = set()
    for k in range(sizes.per_problem):
        found += _draws(candidates, possible[(start + k) % len(possible)], 1, random, seen)
    return found


def _draws(
    candidates: Sequence[Candidate], size: int, most: int, random: Random, seen: set[frozenset[str]]
) -> list[tuple[Candidate, ...]]:
    """Up to `most` random sets of `size` candidates that are not in `seen`, in random order."""
    found: list[tuple[Candidate, ...]] = []
    for _ in range(most * TRIES):
        if len(found) == most:
            break
        drawn = tuple(random.sample(candidates, size))
        names = frozenset(candidate.id for candidate in drawn)
        if names not in seen:
            seen.add(names)
            found.append(drawn)
    return found


def _row(
    name: str,
    ready: Material,
    shown: Sequence[Candidate],
    prompts: PromptSet,
    limit: ShowLimit,
    seed: int,
    own: Response | None = None,
) -> Example:
    target = own or Random(seed_for(seed, "rationale", name, "target")).choice(ready.targets)
    problem, texts = ready.problem, [candidate.text for candidate in shown]
    prompt = wording.select(problem, texts, prompts, "rationale", ready.cot_prompt, limit)
    text = wording.select_target(problem, prompts, "rationale", reason=target.text)
    sources = (*(candidate.id for candidate in shown), target.source)
    return Example(name, "select", problem.id, prompt, text, wording.images(problem), sources)


def build_rationale_select(
    problems: Sequence[Problem],
    judged: Iterable[Judged],
    *,
    prompts: PromptSet,
    seed: int,
    sizes: Sequence[int] = SIZES,
    per_size: int = PER_SIZE,
    limit: ShowLimit = SHOW_ALL,
    thoughts: SecondThoughts = NONE,
    require_consistent: bool = False,
) -> MixedSelect:
    """As `build_mixed_select`, in the rationale form: natural draws of every size, at most `per_size` for each problem.

    Raises DataError as it does.
    """
    check_sizes(sizes, per_size)
    by_id = {problem.id: problem for problem in problems}
    groups = group_by_problem(problems, judged)
    dropped: Counter[str] = Counter()
    examples: list[Example] = []
    by_size: Counter[int] = Counter()
    places = {n: [0] * n for n in sizes}
    for problem_id, problem in sorted(by_id.items()):
        items = groups.get(problem_id, [])
        correct = {item.candidate.id for item in items if item.verdict.correct}
        right = [item.candidate for item in items if item.candidate.id in correct]
        ready = material(problem, items, right, thoughts, prompts, require_consistent, len(items))
        random = Random(seed_for(seed, "rationale", problem_id))
        for n in sizes:
            reason = lacking(ready) or ("too_few_candidates" if len(items) < n else None)
            drawn = [] if reason else _draws(ready.candidates, n, per_size, random, set())
            if len(drawn) < per_size:
                dropped[reason or "no_new_set"] += per_size - len(drawn)
            by_size[n] += len(drawn)
            for k, shown in enumerate(drawn):
                examples.append(_row(f"select/n{n}/{problem_id}/{k}", ready, shown, prompts, limit, seed))
                for place, candidate in enumerate(shown):
                    places[n][place] += candidate.id in correct
    slots = len(by_id) * len(sizes) * per_size
    assert slots == len(examples) + dropped.total(), "slots do not add up"
    ordered = tuple(sorted(examples, key=lambda example: example.id))
    right_places = {n: tuple(places[n]) for n in sizes}
    return MixedSelect(ordered, slots, dropped, {n: by_size[n] for n in sizes}, right_places)
