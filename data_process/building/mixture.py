"""Builds training examples from judged candidates: answers, chains of thought, refinements, selections, reflections.

`RULES` holds the two published rules of R3V. Records are joined by id and "newest" means the largest (iteration,
sample), so the order of the input does not change the result.

Counts add up at three places, which `build` checks:
    candidates:  seen   == usable + dropped["candidate:*"]
    each part:   slots  == made + dropped["<part>:<reason>"] without its weight
    the mixture: final  == made - dropped["<part>:weight"] + repeated, over the parts, + extra
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter
from random import Random
from typing import Literal

from data_process import prompts as wording
from data_process.building.census import Census, problems_by_id
from data_process.building.mixed_select import reason_of
from data_process.building.pool import DEFAULT, choose
from data_process.building.rationale import DEFAULT_SETS, SetSizes, material, rationale_rows
from data_process.building.reflect import reflect_rows
from data_process.building.second_thoughts import NONE, SecondThoughts, responses
from data_process.building.weights import KINDS, part_weights, weigh
from data_process.io import paused_garbage_collection
from data_process.judging.consistency import contradiction
from data_process.prompts import PromptSet, SelectFormat
from data_process.schema import Candidate, DataError, Example, Judged, Kind, Problem
from data_process.seeds import seed_for

SHOWN = 2  # at most so many correct and so many wrong candidates of a problem appear in refinements and selections
RuleName = Literal["a-orig", "a-q2"]


@dataclass(frozen=True)
class Rule:
    """What a text must satisfy to be a target or an attempt."""

    min_chars: int  # the text must have more characters than this
    answer_prefix: str  # a text that starts with this is only an answer and is dropped; "" keeps such texts


RULES: dict[RuleName, Rule] = {
    "a-orig": Rule(min_chars=0, answer_prefix=""),  # njucckevin/MM-Self-Improve: no filter
    "a-q2": Rule(min_chars=50, answer_prefix="Answer"),  # Liac-li/MM-self-improve-qwen2vl, merge_data.py
}


@dataclass(frozen=True)
class BuildResult:
    """The mixture, and counts of everything that did not reach it."""

    examples: tuple[Example, ...]  # the shuffled mixture
    by_kind: Mapping[Kind, tuple[Example, ...]]  # what was made, before weights, ordered by problem id
    slots: Counter[str]  # per part: examples that were possible; "candidate": candidates seen
    dropped: Counter[str]  # "<part>:<reason>"
    repeated: Counter[str]  # per part: copies added by a weight above 1
    pools: Counter[str]  # `Census.pools` of the input
    verdicts: Counter[str]  # of the input, by status
    n_usable: int  # candidates left after the filters
    n_extra: int = 0
    select_characters: int | None = None  # of the candidates in the longest prompt of the rationale form

    def check(self) -> None:
        """AssertionError if the counts do not add up, which would be a fault of this module, not of the data."""
        total: Counter[str] = Counter()
        for key, n in self.dropped.items():
            part, reason = key.split(":", 1)
            total["mixture" if reason == "weight" else part] += n
        assert self.slots["candidate"] == self.n_usable + total["candidate"], "candidates do not add up"
        for kind in KINDS:
            assert self.slots[kind] == len(self.by_kind[kind]) + total[kind], f"{kind} does not add up"
        made = sum(map(len, self.by_kind.values()))
        expected = made - total["mixture"] + self.repeated.total() + self.n_extra
        assert len(self.examples) == expected, "the mixture does not add up"


@dataclass(slots=True)
class _Pool:
    """Usable candidates of one problem. Only the wrong ones that a row can show are kept."""

    positives: list[Candidate] = field(default_factory=list)
    negatives: list[Candidate] = field(default_factory=list)
    n_negatives: int = 0
    everything: list[Judged] = field(default_factory=list)  # unusable ones too; for the rationale form alone

    def add(self, candidate: Candidate, correct: bool) -> None:
        if correct:
            self.positives.append(candidate)
            return
        self.n_negatives += 1
        self.negatives.append(candidate)
        if len(self.negatives) > SHOWN:
            self.negatives.remove(min(self.negatives, key=attrgetter("preference")))

    def sort(self) -> None:
        """Newest first."""
        for candidates in (self.positives, self.negatives):
            candidates.sort(key=attrgetter("preference"), reverse=True)
        self.everything.sort(key=lambda item: item.candidate.age_key, reverse=True)

    @property
    def lacks(self) -> str | None:
        """Why a row with a correct and a wrong text cannot be made; None if it can."""
        if not self.positives and not self.negatives:
            return "no_candidate"
        return "no_positive" if not self.positives else "no_negative" if not self.negatives else None


@dataclass(frozen=True)
class _Material:
    """What the rows of the cot, refine and select parts are made from, and the counts that making them adds to."""

    by_id: Mapping[str, Problem]
    pools: Mapping[str, _Pool]
    prompts: PromptSet
    cot_prompts: Mapping[str, str]  # of the problems that have a correct text
    slots: Counter[str]
    dropped: Counter[str]


@paused_garbage_collection()
def build(
    problems: Sequence[Problem],
    judged: Iterable[Judged],
    *,
    rule: RuleName,
    prompts: PromptSet,
    seed: int,
    parts: Mapping[Kind, float] | None = None,
    qa_problems: Sequence[Problem] | None = None,
    extra: Sequence[Example] = (),
    min_chars: int | None = None,
    answer_prefix: str | None = None,
    max_cot_per_problem: int = 1,
    balance_positions: bool = True,
    select_target: Literal["gold", "own"] = "gold",
    select_format: SelectFormat = "answer",
    sets: SetSizes = DEFAULT_SETS,
    thoughts: SecondThoughts = NONE,
    abstain_is_negative: bool = True,
    allow_truncated_negatives: bool = False,
    require_consistent: bool = False,
    sampled_only: bool = False,
    policies: Sequence[str] = DEFAULT,
    rewards: Mapping[str, float] | None = None,
) -> BuildResult:
    """Build one iteration's training mixture. `judged` is read once, and only what the rows need of it is kept.

    `parts`: weight per kind, by default 1. A weight below 1 keeps a seeded subset of that share, one above 1 adds whole
      copies and a seeded subset (their ids end in "#2", "#3" ...), and 0 removes the part.
    `qa_problems`: the problems that get a question–answer row, by default all of `problems`.
    `extra`: rows made elsewhere (warm-up rows of a teacher), all taken and shuffled in.
    `min_chars`, `answer_prefix`: replace the rule's own filter, which applies to correct and wrong texts. Leading and
      trailing white space does not count.
    `max_cot_per_problem`: newest first; a text that the problem already has is dropped.
    `balance_positions`: the odd candidate of each selection (the one correct of three, or the one wrong of three) is
      equally often in each place, so that its place reveals nothing; otherwise the order is a seeded shuffle.
    `select_target`: "gold" is the gold answer, "own" the newest correct text of the model itself; for the answer form.
    `select_format`: the form of the selections. For the rationale form, `sets` says which candidates are shown.
    `thoughts`: what the model wrote when it thought again. It makes the reflections, and its right texts are the
      targets of refinements and of selections in the rationale form.
    `abstain_is_negative`: a candidate on which the judge abstains counts as wrong, as in R3V; otherwise it is dropped.
    `allow_truncated_negatives`: a truncated text is never a target; this admits it as a wrong attempt.
    `require_consistent`: a correct text that contradicts itself ("47 is (C)" where (C) is 45) is not used at all.
    `sampled_only`: problems without candidates are left out, as if they had not been given.
    `policies`: which right candidates are kept (pool.py). Those about iterations are for who reads `judged`.
    `rewards`: candidate id -> score, for a policy that needs it.

    Raises DataError for a weight that is negative or not a number, for an unknown part, problem or rule, and for an id
    that occurs twice. Having no positive or no negative is not an error; `dropped` counts the reasons.
    """
    if rule not in RULES:
        raise DataError(f"unknown rule {rule!r}; known: {', '.join(RULES)}")
    if select_target not in ("gold", "own"):
        raise DataError(f"unknown select target {select_target!r}; known: gold, own")
    if max_cot_per_problem < 1:
        raise DataError(
            f"max_cot_per_problem is {max_cot_per_problem}; it must be at least 1 (weight 0 leaves cot out)"
        )
    weights = part_weights(parts or {})
    text_rule = RULES[rule]
    if min_chars is not None:
        text_rule = replace(text_rule, min_chars=min_chars)
    if answer_prefix is not None:
        text_rule = replace(text_rule, answer_prefix=answer_prefix)

    by_id, census = problems_by_id(problems), Census()
    dropped: Counter[str] = Counter()
    found: dict[str, _Pool] = defaultdict(_Pool)
    for item in judged:
        census.add(item)
        candidate, correct = item.candidate, item.verdict.correct
        problem = by_id.get(candidate.problem_id)
        if problem is None:
            break  # `check` says which
        if select_format == "rationale":
            found[problem.id].everything.append(item)
        reason = rejection_reason(item, text_rule, abstain_is_negative, allow_truncated_negatives)
        if require_consistent and not reason and correct:
            reason = "contradicts_itself" if contradiction(candidate.text, problem) else None
        if reason:
            dropped[f"candidate:{reason}"] += 1
        else:
            found[problem.id].add(candidate, correct)
    census.check(by_id)
    if sampled_only:
        problems = [problem for problem in problems if problem.id in census]
        by_id = problems_by_id(problems)
    pools = {problem_id: found.get(problem_id) or _Pool() for problem_id in sorted(by_id)}
    for pool in pools.values():
        pool.sort()
        pool.positives = choose(pool.positives, policies, seed, dropped, rewards)
    slots: Counter[str] = Counter(candidate=census.verdicts.total())

    cot_prompts = {
        problem_id: wording.cot(by_id[problem_id], prompts) for problem_id, pool in pools.items() if pool.positives
    }
    ready = _Material(by_id, pools, prompts, cot_prompts, slots, dropped)
    qa = tuple(_qa_rows(problems if qa_problems is None else qa_problems, prompts, slots))
    cot = tuple(_cot_rows(ready, max_cot_per_problem))
    n_usable = sum(len(pool.positives) + pool.n_negatives for pool in pools.values())
    right = {problem_id: pool.positives for problem_id, pool in pools.items()}
    reflect = tuple(reflect_rows(by_id, thoughts, right, prompts, slots, dropped, require_consistent))
    longest = None
    if select_format == "rationale":
        select, longest = _rationale_rows(ready, thoughts, sets, seed, require_consistent)
    for pool in pools.values():
        del pool.positives[SHOWN:]  # frees memory for the long prompts of the other parts
        pool.everything.clear()
    if select_format != "rationale":
        select = _select_rows(ready, seed, balance_positions, select_target, select_format)
    by_kind: dict[Kind, tuple[Example, ...]] = {
        "qa": qa,
        "cot": cot,
        "refine": tuple(_refine_rows(ready, thoughts, require_consistent)),
        "select": tuple(select),
        "reflect": reflect,
    }
    repeated: Counter[str] = Counter()
    mixture = [
        example for kind in KINDS for example in weigh(by_kind[kind], kind, weights[kind], seed, dropped, repeated)
    ]
    # Sorted by id before the shuffle, so that the order of the extra rows does not matter either.
    mixture += sorted(extra, key=lambda example: example.id)
    (example_id, n), *_ = Counter(example.id for example in mixture).most_common(1) or [("", 0)]
    if n > 1:
        raise DataError(f"example id {example_id!r} occurs twice; give the extra rows other ids")
    Random(seed_for(seed, "mixture", "shuffle")).shuffle(mixture)
    result = BuildResult(
        tuple(mixture),
        by_kind,
        slots,
        dropped,
        repeated,
        census.pools(by_id),
        census.verdicts,
        n_usable,
        len(extra),
        longest,
    )
    result.check()
    return result


def rejection_reason(
    item: Judged, rule: Rule, abstain_is_negative: bool, allow_truncated_negatives: bool
) -> str | None:
    """Why a candidate can be neither a target nor an attempt in a prompt; None when it can."""
    text, verdict = item.candidate.text.strip(), item.verdict
    if item.candidate.guide is not None and not verdict.correct:
        return "guided_wrong"
    if item.candidate.finish == "length" and (verdict.correct or not allow_truncated_negatives):
        return "truncated"
    if not text:
        return "empty"
    if verdict.status == "abstain" and not abstain_is_negative:
        return "abstained"
    if len(text) <= rule.min_chars:
        return "too_short"
    if rule.answer_prefix and text.startswith(rule.answer_prefix):
        return "answer_only"
    return None


def _qa_rows(problems: Sequence[Problem], prompts: PromptSet, slots: Counter[str]) -> list[Example]:
    by_id = problems_by_id(problems)
    slots["qa"] += len(by_id)
    rows = []
    for problem_id, problem in sorted(by_id.items()):
        prompt, target = wording.qa(problem, prompts), wording.qa_target(problem, prompts)
        rows.append(Example(f"qa/{problem_id}", "qa", problem_id, prompt, target, wording.images(problem)))
    return rows


def _cot_rows(ready: _Material, most: int) -> list[Example]:
    """One slot per correct text, or one for a problem that has none."""
    rows = []
    for problem_id, pool in ready.pools.items():
        ready.slots["cot"] += max(1, len(pool.positives))
        if not pool.positives:
            ready.dropped[f"cot:{pool.lacks}"] += 1
            continue
        problem, prompt = ready.by_id[problem_id], ready.cot_prompts[problem_id]
        texts: set[str] = set()
        for candidate in pool.positives:
            if candidate.text in texts:
                ready.dropped["cot:duplicate_text"] += 1
            elif len(texts) == most:
                ready.dropped["cot:over_cap"] += 1
            else:
                texts.add(candidate.text)
                rows.append(
                    Example(
                        f"cot/{candidate.id}",
                        "cot",
                        problem_id,
                        prompt,
                        candidate.text,
                        wording.images(problem),
                        (candidate.id,),
                    )
                )
    return rows


def _refine_rows(ready: _Material, thoughts: SecondThoughts, require_consistent: bool) -> list[Example]:
    """One slot per problem: the newest wrong text in the prompt, the newest correct text as the target.

    A right second thought comes before a right sample: it was written to check an attempt.
    """
    rows = []
    for problem_id, pool in ready.pools.items():
        ready.slots["refine"] += 1
        if pool.lacks:
            ready.dropped[f"refine:{pool.lacks}"] += 1
            continue
        problem, wrong, right = ready.by_id[problem_id], pool.negatives[0], pool.positives[0]
        prompt = wording.refine(problem, wrong.text, ready.prompts, ready.cot_prompts[problem_id])
        second = responses(problem, thoughts, require_consistent)
        if thoughts.alone and not second:
            ready.dropped["refine:no_second_thought"] += 1
            continue
        source, text = (second[0].source, second[0].text) if second else (right.id, right.text)
        sources = (wrong.id, source)
        rows.append(
            Example(f"refine/{problem_id}", "refine", problem_id, prompt, text, wording.images(problem), sources)
        )
    return rows


def _rationale_rows(
    ready: _Material, thoughts: SecondThoughts, sets: SetSizes, seed: int, require_consistent: bool
) -> tuple[list[Example], int]:
    materials = [
        material(
            ready.by_id[problem_id], pool.everything, pool.positives, thoughts, ready.prompts, require_consistent,
            sets.largest,
        )
        for problem_id, pool in ready.pools.items()
    ]  # fmt: skip
    by_id = {
        problem_id: {item.candidate.id: item.candidate for item in pool.everything}
        for problem_id, pool in ready.pools.items()
    }
    return rationale_rows(materials, thoughts, by_id, ready.prompts, sets, seed, ready.slots, ready.dropped)


def _select_rows(
    ready: _Material, seed: int, balance_positions: bool, target: Literal["gold", "own"], form: SelectFormat
) -> list[Example]:
    """Two slots per problem: two correct and one wrong, one correct and two wrong; the newest of each."""
    rows = []
    # (name, correct ones, wrong ones): three candidates, of which one is the odd one.
    for name, n_right, n_wrong in (("2+1", 2, 1), ("1+2", 1, 2)):
        items: list[tuple[str, Candidate, list[Candidate]]] = []
        for problem_id, pool in ready.pools.items():
            ready.slots["select"] += 1
            if pool.lacks:
                ready.dropped[f"select:{pool.lacks}"] += 1
            elif len(pool.positives) < n_right:
                ready.dropped["select:one_positive"] += 1
            elif len(pool.negatives) < n_wrong:
                ready.dropped["select:one_negative"] += 1
            else:
                right, wrong = pool.positives[:n_right], pool.negatives[:n_wrong]
                items.append((problem_id, wrong[0], right) if n_wrong == 1 else (problem_id, right[0], wrong))
        places = _places(len(items), seed_for(seed, "select", name, "places")) if balance_positions else None
        for k, (problem_id, odd, others) in enumerate(items):
            problem = ready.by_id[problem_id]
            shown = [odd, *others] if places is None else list(others)
            Random(seed_for(seed, problem_id, "select", name)).shuffle(shown)
            if places is not None:
                shown.insert(places[k], odd)
            positives, cot_prompt = ready.pools[problem_id].positives, ready.cot_prompts[problem_id]
            if form == "answer" and target == "own":
                text = positives[0].text
            else:
                number = next(k for k, candidate in enumerate(shown, start=1) if candidate in positives)
                reason = reason_of(shown[number - 1].text)
                text = wording.select_target(problem, ready.prompts, form, number, reason)
            row = Example(
                id=f"select/{name}/{problem_id}", kind="select", problem_id=problem_id, images=wording.images(problem),
                prompt=wording.select(problem, [c.text for c in shown], ready.prompts, form, cot_prompt),
                target=text,
                sources=tuple(candidate.id for candidate in shown),
            )  # fmt: skip
            rows.append(row)
    return rows


def _places(n: int, seed: int) -> list[int]:
    """Places 0, 1, 2 for n items, in a seeded order, each equally often up to a difference of one."""
    places = [k % 3 for k in range(n)]
    random = Random(seed)
    random.shuffle(places)
    names = random.sample(range(3), 3)  # which places get one item more is random as well
    return [names[place] for place in places]
