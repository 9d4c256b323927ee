"""What a reward model is asked about a step, and the rows that it is trained on, in both of its forms.

A verifier reads the image, the problem and the steps so far as one prompt, and writes + or -. A head reads the
chain-of-thought prompt and the turn that answers it, cut off after the step, and gives it a number.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence

from data_process import prompts as wording
from data_process.images.marks import neutralise
from data_process.prompts import PromptSet, prompt_set
from data_process.schema import DataError, Example, Problem
from data_process.seeds import seed_for
from selftrain.config import Config
from selftrain.engines.decoding.reward_head import BAD, GOOD
from selftrain.reward.labels import StepLabel
from selftrain.sampling.sampler import Ask

# Of the labelled problems, those whose steps calibrate a head and train nothing: one in so many.
HELD_OUT = 5
# What to do where labels do not suffice: other settings make another folder.
MORE = "raise reward.problems and name another --output or reward.model (samples in the bank are reused)"


def ask_about(name: str, problem: Problem, steps: str, prompts: PromptSet, head: bool) -> Ask:
    """The question whether the last of some steps is right, for a head or a verifier."""
    if head:
        return Ask(name, wording.cot(problem, prompts), wording.images(problem), neutralise(steps))
    return Ask(name, wording.verify(problem, steps, prompts), wording.images(problem))


def is_good(label: StepLabel, config: Config) -> bool:
    """What a step is trained as.

    A soft label is good with its share as the chance, a seeded draw, so that the trained probability is that share.
    """
    if config.reward.labels == "hard":
        return label.right > 0
    return seed_for(config.seed, "reward", label.id) / 2**32 < label.share


def examples(labels: Sequence[StepLabel], problems: Sequence[Problem], config: Config) -> list[Example]:
    """The rows of a verifier: image, problem and steps so far -> GOOD or BAD."""
    prompts, by_id = prompt_set(config.prompts), {problem.id: problem for problem in problems}
    rows = []
    for one in labels:
        ask = ask_about(f"reward/{one.id}", by_id[one.problem_id], one.steps, prompts, head=False)
        target = GOOD if is_good(one, config) else BAD
        rows.append(Example(ask.id, "cot", one.problem_id, ask.prompt, target, ask.images))
    return rows


def held_out(labels: Sequence[StepLabel], config: Config) -> set[str]:
    """The problems whose steps calibrate a head, a seeded draw.

    DataError if there are not enough labelled problems, or their steps are all good or all bad.
    """
    names = sorted({one.problem_id for one in labels})
    if len(names) < HELD_OUT:
        raise DataError(
            f"a reward head is calibrated on one labelled problem in {HELD_OUT}, and there are {len(names)}; {MORE}"
        )
    drawn = set(random.Random(seed_for(config.seed, "reward", "held out")).sample(names, len(names) // HELD_OUT))
    good = Counter(is_good(one, config) for one in labels if one.problem_id in drawn)
    if len(good) < 2:
        kind = "good" if good[True] else "bad"
        raise DataError(
            f"a reward head cannot be calibrated: the {good.total()} steps of the {len(drawn)} problems that are held "
            f"out for it are all {kind}; {MORE}"
        )
    return drawn


def pairs(
    labels: Sequence[StepLabel], problems: Sequence[Problem], config: Config, without: Collection[str] = ()
) -> tuple[list[Example], Counter[str]]:
    """The rows of a head: pairs of a good and a bad step of a problem, as many as it takes to have each step once.

    Of the fewer kind some stand in several pairs. Also returned: reason -> steps that are left out, those of problems
    that have only one kind and of the problems `without`. DataError if no pair is left.
    """
    prompts, by_id = prompt_set(config.prompts), {problem.id: problem for problem in problems}
    of: dict[str, tuple[list[StepLabel], list[StepLabel]]] = {}
    for one in labels:
        of.setdefault(one.problem_id, ([], []))[is_good(one, config)].append(one)
    rows, left_out = [], Counter[str]()
    for name, (bad, good) in of.items():
        if name in without:
            left_out["held out"] += len(bad) + len(good)
            continue
        if not bad or not good:
            left_out["only bad ones" if bad else "only good ones"] += len(bad) + len(good)
            continue
        shuffled = random.Random(seed_for(config.seed, "reward", "pairs", name))
        shuffled.shuffle(bad)
        shuffled.shuffle(good)
        for k in range(max(len(bad), len(good))):
            better, worse = good[k % len(good)], bad[k % len(bad)]
            ask = ask_about(f"reward/{better.id}/{worse.id}", by_id[name], "", prompts, head=True)
            rows.append(Example(ask.id, "cot", name, ask.prompt, better.steps, ask.images, rejected=worse.steps))
    if not rows:
        raise DataError(
            f"no problem has both good and bad steps (steps: {dict(left_out)}), so a reward head has nothing to "
            f"compare; {MORE}"
        )
    return rows, left_out
