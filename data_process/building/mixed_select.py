"""Self-select data with mixed numbers of candidates, so that one model learns to choose among two to six.

It follows Liac-li/MM-self-improve-qwen2vl (`gen_select_data_n`): for each problem and each n it draws random sets of n
candidates of all iterations, with at least one correct and one wrong. Here the draws are seeded, each set occurs at
most once, every pattern of correct and wrong places occurs equally often, and the prompt is the one used at test time.

Counts add up: slots == len(examples) + the sum of `dropped`.
"""

from __future__ import annotations

import itertools
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from random import Random

from data_process import prompts as wording
from data_process.building.census import group_by_problem
from data_process.judging.consistency import contradiction
from data_process.prompts import PromptSet, SelectFormat
from data_process.schema import Candidate, DataError, Example, Judged, Problem
from data_process.seeds import seed_for

SIZES = (2, 3, 4, 5, 6)  # candidates in one prompt: the published round has 2 to 6
PER_SIZE = 3  # items per problem and size, as the published code makes (its `>` where `>=` was meant included)
TRIES = 10  # draws per item in search of a new set, as published
MAX_REASON = 300  # characters of a reason


@dataclass(frozen=True)
class MixedSelect:
    """The rows, and what became of every slot (problem, size, item)."""

    examples: tuple[Example, ...]  # ordered by id
    slots: int
    dropped: Counter[str]  # reason -> slots
    by_size: dict[int, int]  # n -> rows
    right_places: dict[int, tuple[int, ...]]  # n -> how often a correct candidate is at each place


@dataclass(frozen=True)
class _Item:
    id: str
    problem: Problem
    right: tuple[Candidate, ...]
    wrong: tuple[Candidate, ...]


def build_mixed_select(
    problems: Sequence[Problem],
    judged: Iterable[Judged],
    *,
    prompts: PromptSet,
    seed: int,
    sizes: Sequence[int] = SIZES,
    per_size: int = PER_SIZE,
    form: SelectFormat = "answer",
    require_consistent: bool = False,
) -> MixedSelect:
    """Rows of kind "select" for every size in `sizes`, at most `per_size` for each problem and size.

    The number of correct ones among n is distributed as in a random draw of n of the problem's candidates that has both
    kinds, so prompts have the same share of correct candidates as at test time. A candidate that is truncated, or on
    which the judge abstains, counts as wrong, because test prompts show it too. `form` "reasoning" names a correct
    candidate and gives its text as the reason. `require_consistent` leaves out correct candidates that contradict
    themselves.

    Raises DataError for sizes below 2 or given twice, for per_size below 1, and for candidates of unknown problems.
    """
    check_sizes(sizes, per_size)
    by_id = {problem.id: problem for problem in problems}
    groups = group_by_problem(problems, judged)
    dropped: Counter[str] = Counter()
    items: dict[tuple[int, int], list[_Item]] = defaultdict(list)  # (n, how many are right) -> items
    for problem_id, problem in sorted(by_id.items()):
        right, wrong = [], []
        for one in groups.get(problem_id, ()):
            complete = one.candidate.finish == "stop"
            if not one.verdict.correct:
                wrong.append(one.candidate)
            elif complete and not (require_consistent and contradiction(one.candidate.text, problem)):
                right.append(one.candidate)
        for n in sizes:
            reason = _rejection_reason(right, wrong, n)
            drawn = [] if reason else draws(problem, right, wrong, n, per_size, seed)
            if len(drawn) < per_size:
                dropped[reason or "no_new_set"] += per_size - len(drawn)
            for k, (rights, wrongs) in enumerate(drawn):
                items[n, len(rights)].append(_Item(f"select/n{n}/{problem_id}/{k}", problem, rights, wrongs))
    examples: list[Example] = []
    places = {n: [0] * n for n in sizes}
    for (n, n_right), group in sorted(items.items()):
        for item, pattern in zip(group, patterns(n, n_right, len(group), seed), strict=True):
            for place in pattern:
                places[n][place] += 1
            examples.append(_example(item, pattern, n, prompts, form, seed))
    slots = len(by_id) * len(sizes) * per_size
    assert slots == len(examples) + dropped.total(), "slots do not add up"
    sizes_made = Counter(len(example.sources) for example in examples)
    return MixedSelect(
        tuple(sorted(examples, key=lambda example: example.id)),
        slots,
        dropped,
        {n: sizes_made[n] for n in sizes},
        {n: tuple(places[n]) for n in sizes},
    )


def check_sizes(sizes: Sequence[int], per_size: int) -> None:
    """DataError for sizes below 2 or given twice, and for per_size below 1."""
    if not sizes or min(sizes) < 2 or len(set(sizes)) < len(sizes):
        raise DataError(f"sizes {list(sizes)}: each must be at least 2 and occur once; for instance 2,3,4,5,6")
    if per_size < 1:
        raise DataError(f"per_size is {per_size}; it must be at least 1")


def _rejection_reason(right: Sequence[Candidate], wrong: Sequence[Candidate], n: int) -> str | None:
    """Why a problem gives no item with n candidates; None if it does."""
    if not right or not wrong:
        return "no_candidate" if not right and not wrong else "no_right" if not right else "no_wrong"
    return "too_few_candidates" if len(right) + len(wrong) < n else None


def draws(
    problem: Problem, right: Sequence[Candidate], wrong: Sequence[Candidate], n: int, most: int, seed: int
) -> list[tuple[tuple[Candidate, ...], tuple[Candidate, ...]]]:
    """Up to `most` different sets of n candidates with both kinds, each as (correct ones, wrong ones)."""
    random = Random(seed_for(seed, "mixed-select", problem.id, n))
    counts = range(max(1, n - len(wrong)), min(n - 1, len(right)) + 1)
    weights = [math.comb(len(right), r) * math.comb(len(wrong), n - r) for r in counts]
    seen: set[frozenset[str]] = set()
    found: list[tuple[tuple[Candidate, ...], tuple[Candidate, ...]]] = []
    for _ in range(most * TRIES):
        if len(found) == most:
            break
        r = random.choices(counts, weights)[0]
        rights, wrongs = tuple(random.sample(right, r)), tuple(random.sample(wrong, n - r))
        names = frozenset(candidate.id for candidate in (*rights, *wrongs))
        if names not in seen:
            seen.add(names)
            found.append((rights, wrongs))
    return found


def patterns(n: int, n_right: int, count: int, seed: int) -> list[tuple[int, ...]]:
    """The places of the correct ones in `count` items: every pattern equally often up to one, in a seeded order."""
    patterns = list(itertools.combinations(range(n), n_right))
    random = Random(seed_for(seed, "mixed-select", "places", n, n_right))
    random.shuffle(patterns)
    chosen = [patterns[k % len(patterns)] for k in range(count)]
    random.shuffle(chosen)
    return chosen


def _example(item: _Item, pattern: Sequence[int], n: int, prompts: PromptSet, form: SelectFormat, seed: int) -> Example:
    rights, wrongs = iter(item.right), iter(item.wrong)  # both were drawn in random order
    shown = [next(rights) if place in pattern else next(wrongs) for place in range(n)]
    number = Random(seed_for(seed, "mixed-select", item.id, "named")).choice(list(pattern)) + 1
    target = (
        wording.select_target(item.problem, prompts)
        if form == "answer"
        else wording.select_target(item.problem, prompts, form, number, reason_of(shown[number - 1].text))
    )
    prompt = wording.select(item.problem, [candidate.text for candidate in shown], prompts, form)
    sources = tuple(candidate.id for candidate in shown)
    return Example(item.id, "select", item.problem.id, prompt, target, wording.images(item.problem), sources)


_THOUGHT = re.compile(r"<think>(.*?)</think>", re.DOTALL)


def reason_of(text: str) -> str:
    """The reasoning of a response in one line: its last MAX_REASON characters, as the result is at the end.

    The reasoning is the part in `<think>` if there is one, and otherwise everything before the last line, the answer.
    """
    thought = _THOUGHT.search(text)
    lines = (thought[1] if thought else text.strip().rpartition("\n")[0] or text).split()
    while len(lines) > 1 and sum(map(len, lines)) + len(lines) - 1 > MAX_REASON:
        lines.pop(0)
    return " ".join(lines)[-MAX_REASON:]
