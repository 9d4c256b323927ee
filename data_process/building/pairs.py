"""Preference pairs for DPO: one prompt, a target that is right and a rejected one that is wrong, both the model's own.

A `cot` pair is two solutions of a problem. A `select` pair shows several candidates, right and wrong ones, and its two
targets are the selection of a right one and of a wrong one.

Counts add up at two places, which `build_pairs` checks:
    candidates: seen == usable + dropped["candidate:*"]
    each kind:  problems == problems with a pair + dropped["<kind>:*"]
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal, get_args

from data_process import prompts as wording
from data_process.building.census import Census, problems_by_id
from data_process.building.mixed_select import draws, patterns, reason_of
from data_process.building.mixture import RULES, Rule, RuleName, rejection_reason
from data_process.building.second_thoughts import derives
from data_process.io import paused_garbage_collection
from data_process.judging.consistency import contradiction
from data_process.prompts import SHOW_ALL, PromptSet, SelectFormat, ShowLimit
from data_process.schema import Candidate, DataError, Example, Judged, Problem
from data_process.seeds import seed_for

PairKind = Literal["cot", "select"]
PAIR_KINDS: tuple[PairKind, ...] = get_args(PairKind)


@dataclass(frozen=True)
class PairResult:
    """The pairs, and counts of everything that did not become one."""

    examples: tuple[Example, ...]  # shuffled; each has a `rejected` target
    problems: int  # that have a candidate
    paired: Mapping[PairKind, int]  # problems with at least one pair
    dropped: Counter[str]  # "candidate:<reason>" counts candidates, "<kind>:<reason>" problems without a pair
    pools: Counter[str]  # `Census.pools` of the input
    verdicts: Counter[str]  # of the input, by status
    n_usable: int  # candidates left after the filters
    select_characters: int | None  # of the candidates in the longest prompt of the rationale form

    def check(self, per_problem: Mapping[PairKind, int]) -> None:
        """AssertionError if the counts do not add up, which would be a fault of this module, not of the data."""
        total: Counter[str] = Counter()
        for key, n in self.dropped.items():
            total[key.split(":", 1)[0]] += n
        assert self.verdicts.total() == self.n_usable + total["candidate"], "candidates do not add up"
        for kind in PAIR_KINDS:
            if per_problem.get(kind, 0):
                assert self.problems == self.paired[kind] + total[kind], f"problems of {kind} pairs do not add up"


@dataclass(frozen=True)
class _Set:
    """Candidates of one problem that a selection shows."""

    id: str
    problem: Problem
    right: tuple[Candidate, ...]
    wrong: tuple[Candidate, ...]


@paused_garbage_collection()
def build_pairs(
    problems: Sequence[Problem],
    judged: Iterable[Judged],
    *,
    rule: RuleName,
    prompts: PromptSet,
    seed: int,
    per_problem: Mapping[PairKind, int],
    min_chars: int | None = None,
    require_consistent: bool = False,
    select_format: SelectFormat = "answer",
    sizes: Sequence[int] = (3,),
    limit: ShowLimit = SHOW_ALL,
) -> PairResult:
    """Pairs of the problems that have candidates. `judged` is read once.

    `per_problem`: at most so many pairs of a kind for each problem; 0 leaves the kind out. The pairs of a problem are
      different and drawn with a seed. No text is used again while another one of its problem is unused.
    `rule`, `min_chars`, `require_consistent`: which texts are usable, as in `mixture.build`. A truncated text is never
      a target, so it is no rejected one either. A candidate on which the judge abstains counts as wrong, but not in
      selections: it names no answer that could be rejected.
    `sizes`: numbers of candidates that selections show; each is equally frequent. The places of the right ones are
      balanced: among the prompts of one size with equally many right candidates, every pattern of places is equally
      frequent up to one.
    `select_format`: in the answer form the targets are the answers that a right and a wrong candidate give, as the
      judge reads them; in the reasoning form these with number and reasoning; in the rationale form whole solutions.
      `limit` is for the last alone.

    Raises DataError for an unknown kind or rule, a negative number, a problem or a candidate that occurs twice, and for
    a candidate of an unknown problem. A problem without a pair is no error; `dropped` counts the reasons.
    """
    if rule not in RULES:
        raise DataError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    for kind, n in per_problem.items():
        if kind not in PAIR_KINDS or n < 0:
            raise DataError(f"{n} pairs of kind {kind!r}: kinds are {', '.join(PAIR_KINDS)}, numbers at least 0")
    if min(sizes, default=0) < 2:
        raise DataError(f"sizes {list(sizes)}: a selection shows at least 2 candidates")
    text_rule = RULES[rule] if min_chars is None else replace(RULES[rule], min_chars=min_chars)

    by_id, census = problems_by_id(problems), Census()
    dropped: Counter[str] = Counter()
    usable: dict[str, list[Judged]] = defaultdict(list)
    for item in judged:
        census.add(item)
        problem = by_id.get(item.candidate.problem_id)
        if problem is None:
            break  # `check` says which
        if reason := _unusable(item, problem, text_rule, require_consistent):
            dropped[f"candidate:{reason}"] += 1
        else:
            usable[problem.id].append(item)
    census.check(by_id)
    sampled = {problem_id: by_id[problem_id] for problem_id in sorted(by_id) if problem_id in census}
    groups = {
        problem_id: sorted(usable.get(problem_id, ()), key=lambda item: item.candidate.age_key, reverse=True)
        for problem_id in sampled
    }
    examples: list[Example] = []
    longest = None
    if per_problem.get("cot", 0):
        examples += _cot_pairs(sampled, groups, prompts, per_problem["cot"], seed, dropped)
    if per_problem.get("select", 0):
        shown = {
            problem_id: [item for item in group if _selectable(item, select_format)]
            for problem_id, group in groups.items()
        }
        sets = _sets(sampled, shown, sizes, per_problem["select"], seed, dropped)
        selects = _select_pairs(sets, groups, prompts, select_format, limit, seed)
        examples += [example for example, _ in selects]
        if select_format == "rationale":
            longest = max((characters for _, characters in selects), default=0)
    paired = {kind: len({example.problem_id for example in examples if example.kind == kind}) for kind in PAIR_KINDS}
    Random(seed_for(seed, "pairs", "shuffle")).shuffle(examples)
    n_usable = sum(map(len, groups.values()))
    result = PairResult(
        tuple(examples), len(sampled), paired, dropped, census.pools(sampled), census.verdicts, n_usable, longest
    )
    result.check(per_problem)
    return result


def _unusable(item: Judged, problem: Problem, rule: Rule, require_consistent: bool) -> str | None:
    """Why a candidate can be no target of a pair; None if it can."""
    reason = rejection_reason(item, rule, abstain_is_negative=True, allow_truncated_negatives=False)
    if not reason and require_consistent and item.verdict.correct and contradiction(item.candidate.text, problem):
        return "contradicts_itself"
    return reason


def _selectable(item: Judged, form: SelectFormat) -> bool:
    """Whether a candidate may stand in a selection pair.

    It gives an answer, and where the targets hold reasoning it has some: a bare answer could be told by its form.
    """
    text = item.candidate.text
    reasons = {"answer": True, "reasoning": bool(reason_of(text)), "rationale": derives(text)}
    return item.verdict.extracted is not None and reasons[form]


def _lacking(right: Sequence[object], wrong: Sequence[object]) -> str | None:
    """Why there is no pair; None if there is one."""
    if not right and not wrong:
        return "no_candidate"
    return "no_right" if not right else None if wrong else "no_wrong"


def _cot_pairs(
    problems: Mapping[str, Problem],
    groups: Mapping[str, Sequence[Judged]],
    prompts: PromptSet,
    most: int,
    seed: int,
    dropped: Counter[str],
) -> list[Example]:
    rows = []
    for problem_id, problem in problems.items():
        texts: tuple[dict[str, Candidate], dict[str, Candidate]] = (
            {},
            {},
        )  # wrong and right ones; of equals the newest
        for item in groups[problem_id]:
            texts[item.verdict.correct].setdefault(item.candidate.text, item.candidate)
        wrong, right = (list(found.values()) for found in texts)
        if reason := _lacking(right, wrong):
            dropped[f"cot:{reason}"] += 1
            continue
        random = Random(seed_for(seed, "pairs", "cot", problem_id))
        random.shuffle(right)
        random.shuffle(wrong)
        prompt, images = wording.cot(problem, prompts), wording.images(problem)
        for k, (i, j) in enumerate(_spread(len(right), len(wrong), most)):
            a, b = right[i], wrong[j]
            rows.append(
                Example(
                    f"pair/cot/{problem_id}/{k}", "cot", problem_id, prompt, a.text, images, (a.id, b.id), (), b.text
                )
            )
    return rows


def _spread(n: int, m: int, most: int) -> list[tuple[int, int]]:
    """Up to `most` different pairs of one of n and one of m, which use every index before any a second time.

    Both indices go round; after lcm(n, m) pairs, when the first pair would return, the second one skips a place.
    """
    turn = math.lcm(n, m)
    return [(k % n, (k + k // turn) % m) for k in range(min(most, n * m))]


def _sets(
    problems: Mapping[str, Problem],
    groups: Mapping[str, Sequence[Judged]],
    sizes: Sequence[int],
    most: int,
    seed: int,
    dropped: Counter[str],
) -> dict[tuple[int, int], list[_Set]]:
    """What the selections show, by size and number of right candidates; the sizes go round from a seeded beginning."""
    sets: dict[tuple[int, int], list[_Set]] = defaultdict(list)
    for problem_id, problem in problems.items():
        right = [item.candidate for item in groups[problem_id] if item.verdict.correct]
        wrong = [item.candidate for item in groups[problem_id] if not item.verdict.correct]
        possible = [n for n in sizes if n <= len(right) + len(wrong)]
        if reason := _lacking(right, wrong) or (None if possible else "too_few_candidates"):
            dropped[f"select:{reason}"] += 1
            continue
        start = Random(seed_for(seed, "pairs", "select", problem_id)).randrange(len(possible))
        wanted = Counter(possible[(start + k) % len(possible)] for k in range(most))
        for n, count in sorted(wanted.items()):
            for k, (rights, wrongs) in enumerate(draws(problem, right, wrong, n, count, seed)):
                sets[n, len(rights)].append(_Set(f"pair/select/{problem_id}/n{n}/{k}", problem, rights, wrongs))
    return sets


def _select_pairs(
    sets: Mapping[tuple[int, int], Sequence[_Set]],
    groups: Mapping[str, Sequence[Judged]],
    prompts: PromptSet,
    form: SelectFormat,
    limit: ShowLimit,
    seed: int,
) -> list[tuple[Example, int]]:
    """Each with the characters of the candidates that its prompt shows."""
    rows = []
    for (n, n_right), group in sorted(sets.items()):
        for item, pattern in zip(group, patterns(n, n_right, len(group), seed), strict=True):
            rights, wrongs = iter(item.right), iter(item.wrong)  # both were drawn in random order
            shown = [next(rights) if place in pattern else next(wrongs) for place in range(n)]
            answers = {one.candidate.id: one.verdict.extracted for one in groups[item.problem.id]}
            random = Random(seed_for(seed, "pairs", item.id, "named"))
            named = [random.choice(pattern), random.choice([place for place in range(n) if place not in pattern])]
            chosen, rejected = (
                _target(item.problem, shown[place], answers[shown[place].id], place + 1, prompts, form)
                for place in named
            )
            texts = [candidate.text for candidate in shown]
            prompt = wording.select(item.problem, texts, prompts, form, limit=limit)
            sources = tuple(candidate.id for candidate in (*shown, *(shown[place] for place in named)))
            images = wording.images(item.problem)
            row = Example(item.id, "select", item.problem.id, prompt, chosen, images, sources, (), rejected)
            rows.append((row, wording.shown_characters(texts, limit)))
    return rows


def _target(
    problem: Problem, candidate: Candidate, answer: str | None, number: int, prompts: PromptSet, form: SelectFormat
) -> str:
    """The selection of a candidate. Right and wrong answers are both written as the judge reads them: the gold answer's
    own spelling would tell them apart."""
    assert answer is not None, "candidates without an answer are no part of a selection pair"
    reason = candidate.text if form == "rationale" else reason_of(candidate.text)
    return wording.select_target(replace(problem, answer=answer), prompts, form, number, reason)
