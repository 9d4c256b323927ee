"""MiniGeo's problems: choices of which none stands out, splits that share no parameters, and the written folder."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_process.io import write_aside, write_jsonl
from data_process.schema import Problem, to_json
from data_process.seeds import seed_for
from data_process.sources.minigeo.figures import Params, render
from data_process.sources.minigeo.variants import BY_NAME, HARD, VARIANTS, Step, Variant

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

VERSION = 3  # changes whenever the same seed would give other problems or other images
SIZES = ((112, 112), (140, 112))  # width, height in pixels; the second for one image in WIDE_EVERY
WIDE_EVERY = 8
NEAR = 12  # the answer for misread labels is at most this far from the right one, so that a rough sum does not do
SPLIT_SHARES = {"base": 0.34, "train": 0.46, "dev": 0.06, "test": 0.14}  # of each variant's parameter tuples
HARD_SHARES = {"hard": 1.0}  # of the tuples of each kind in HARD, which no other split contains
DEFAULT_SIZES = {"train": 4000, "dev": 400, "test": 800, "hard": 400}


def choose(variant: Variant, right: int, rng: random.Random) -> list[int]:
    """Four distinct values, the correct one first; the package's docstring says why none stands out."""
    values = attainable(variant)
    if variant.mirror is None:
        return [right, *rng.sample([v for v in values if v != right], 3)]
    mirrored = variant.mirror - right
    if mirrored == right:  # the middle of the interval has no mirror image; any other pair hides it as well
        return [right, *rng.sample([v for v in values if v != right], 3)]
    near = [v for v in values if v not in (right, mirrored) and 2 * v != variant.mirror and abs(v - right) <= NEAR]
    misread = rng.choice(near)
    return [right, mirrored, misread, variant.mirror - misread]


def rationale(labels: Sequence[str], steps: Sequence[Step], answer: int, letter: str) -> str:
    """The reference response: what is read, each step, the choice, the answer."""
    return (
        f"<think>I see {' and '.join(labels)}. {'. '.join(steps)}. {answer} is ({letter}).</think>\nAnswer: ({letter})"
    )


def make_problem(
    variant: Variant, params: Params, *, identifier: str, letter: str, seed: int
) -> tuple[Problem, Image.Image]:
    """One problem and its image. Everything random comes from `seed`."""
    rng = random.Random(seed)
    steps, answer = variant.solve(params)
    size = SIZES[1] if rng.randrange(WIDE_EVERY) == 0 else SIZES[0]
    image, cells = render(variant.sketch(params, answer), size, rng)
    # Labels are named from the largest to the smallest: how the figure is turned then makes no difference.
    labels = sorted((label for _, _, label in cells if label != "x"), key=int, reverse=True)
    in_order = tuple(map(int, labels))
    if variant.solve(in_order)[1] == answer:  # sums are written in the order in which the labels are named
        steps, _ = variant.solve(in_order)
    right, *wrong = choose(variant, answer, rng)
    rng.shuffle(wrong)
    position = "ABCD".index(letter)
    values = [*wrong[:position], right, *wrong[position:]]
    problem = Problem(
        id=identifier,
        question=variant.question,
        answer=letter,
        choices=tuple(map(str, values)),
        images=(f"images/{identifier}.png",),
        meta={
            "family": variant.family, "variant": variant.name, "difficulty": variant.difficulty,
            "params": list(params), "labels": labels,
            "cells": [{"row": row, "column": column, "label": label} for row, column, label in cells],
            "steps": steps, "value": answer, "rationale": rationale(labels, steps, answer, letter),
        },
    )  # fmt: skip
    return problem, image


@cache
def _domain(name: str) -> tuple[tuple[Params, int], ...]:
    """The variant's parameter tuples whose answers lie in its interval, with the answers."""
    variant = BY_NAME[name]
    low, high = variant.answers
    solved = ((params, variant.solve(params)[1]) for params in sorted(set(variant.domain())))
    return tuple((params, answer) for params, answer in solved if low <= answer <= high)


@cache
def attainable(variant: Variant) -> tuple[int, ...]:
    """The answers this variant can have, in order; where it has a mirror, those whose mirror image is one too.

    Otherwise a choice that can never be right would give its mirror image away.
    """
    values = {answer for _, answer in _domain(variant.name)}
    return tuple(sorted(v for v in values if variant.mirror is None or variant.mirror - v in values))


def _halves_evenly(steps: Sequence[str]) -> bool:
    """Whether every halving comes out even: `55/2=27` would teach a falsehood."""
    halvings = (step.split("/2=") for step in steps if "/2=" in step)
    return all(int(whole) == 2 * int(half) for whole, half in halvings)


@cache
def deal(seed: int) -> dict[str, dict[str, list[Params]]]:
    """Every variant's parameter tuples, shuffled and dealt to the splits: split -> variant -> tuples.

    Within a split the tuples are ordered so that any first few have their answers spread evenly over the interval.
    """
    dealt: dict[str, dict[str, list[Params]]] = {split: {} for split in (*SPLIT_SHARES, *HARD_SHARES)}
    for variant in (*VARIANTS, *HARD):
        tuples = list(_domain(variant.name))
        random.Random(seed_for(seed, "deal", variant.name)).shuffle(tuples)
        possible = set(attainable(variant))
        halves = any("/2=" in step for step in variant.solve(tuples[0][0])[0])
        start = 0.0
        for split, share in (HARD_SHARES if variant in HARD else SPLIT_SHARES).items():
            part = tuples[round(start * len(tuples)) : round((start + share) * len(tuples))]
            start += share
            seen: Counter[int] = Counter()
            turns = []
            for params, answer in part:
                # Left out after the dealing, so that every other tuple stays in its split.
                if answer not in possible or (halves and not _halves_evenly(variant.solve(params)[0])):
                    continue
                turns.append((seen[answer], seed_for(seed, "turn", variant.name, params), params))
                seen[answer] += 1
            dealt[split][variant.name] = [params for _, _, params in sorted(turns)]
    return dealt


def generate(split: str, n: int, seed: int = 0) -> Iterator[tuple[Problem, Image.Image]]:
    """`n` problems of a split, variants taking turns until their parameters are used up; no tuple twice.

    Raises ValueError if the split's parameters do not suffice.
    """
    tuples = deal(seed)[split]
    available = sum(map(len, tuples.values()))
    if n > available:
        raise ValueError(f"MiniGeo has {available} parameter tuples for split {split!r}, not {n}")
    plan: list[tuple[Variant, Params]] = []
    for turn in itertools.count():
        for variant in HARD if split in HARD_SHARES else VARIANTS:
            if turn < len(tuples[variant.name]) and len(plan) < n:
                plan.append((variant, tuples[variant.name][turn]))
        if len(plan) >= n:
            break
    rng = random.Random(seed_for(seed, "order", split))
    rng.shuffle(plan)
    letters = ["ABCD"[i % 4] for i in range(n)]
    rng.shuffle(letters)
    for index, ((variant, params), letter) in enumerate(zip(plan, letters, strict=True)):
        drawn_by = seed_for(seed, "problem", split, variant.name, params)
        yield make_problem(variant, params, identifier=f"minigeo-{split}-{index:05d}", letter=letter, seed=drawn_by)


def _text_features(problem: Problem) -> list[list[float]]:
    """Per choice, what a guesser could use without the image: value, rank, and relations to the other choices."""
    values = [int(c) for c in problem.choices]
    ordered = sorted(values)
    rows = []
    for position, value in enumerate(values):
        others = [v for v in values if v != value]
        row = [1.0 if ordered.index(value) == r else 0.0 for r in range(4)]
        row += [1.0 if position == p else 0.0 for p in range(4)]
        row += [value / 180, abs(value - 90) / 90, float(value % 10 == 0), float(value % 2)]
        row += [float(any(abs(total - value) == o for o in others)) for total in (90, 180, 360)]
        row += [float(any(2 * value == o for o in others)), float(any(value == 2 * o for o in others))]
        row += [min(abs(value - o) for o in others) / 50, max(abs(value - o) for o in others) / 180]
        row += [float(value > 180), float(value < 20)]
        rows.append(row)
    return rows


def text_only_accuracy(train: Sequence[Problem], test: Sequence[Problem], epochs: int = 300) -> float:
    """Accuracy in [0, 1] on `test` of a conditional logit fitted on `train`, one weight vector per variant.

    It sees the question (hence the variant) and the choices but no image; chance is 1/4.
    """
    import numpy as np

    names = sorted({str(p.meta["variant"]) for p in (*train, *test)})

    def arrays(problems: Sequence[Problem]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        features = np.array([_text_features(p) for p in problems])
        variant = np.array([names.index(str(p.meta["variant"])) for p in problems])
        return features, variant, np.array(["ABCD".index(p.answer) for p in problems])

    x, v, y = arrays(train)
    centre, spread = x.mean((0, 1)), x.std((0, 1)) + 1e-9
    x = (x - centre) / spread
    shared, own = np.zeros(x.shape[2]), np.zeros((len(names), x.shape[2]))
    for _ in range(epochs):
        logits = (x * (shared + own[v])[:, None]).sum(2)
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        p[np.arange(len(y)), y] -= 1
        gradient = (p[:, :, None] * x).sum(1)
        shared -= 0.5 * gradient.mean(0)
        per_variant = np.zeros_like(own)
        np.add.at(per_variant, v, gradient)
        own -= 0.5 * (per_variant / np.maximum(np.bincount(v, minlength=len(names)), 1)[:, None] + 0.02 * own)
    x, v, y = arrays(test)
    x = (x - centre) / spread
    return float(((x * (shared + own[v])[:, None]).sum(2).argmax(1) == y).mean())


def write(
    out: Path,
    sizes: dict[str, int] | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Any]:
    """Write the splits, the images and `card.json` (last) under `out`; returns the card.

    `on_progress` gets the number of images drawn and their total.
    """
    sizes = dict(DEFAULT_SIZES) if sizes is None else sizes
    (out / "images").mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    splits: dict[str, list[Problem]] = {}
    for split, n in sizes.items():
        splits[split] = []
        for problem, image in generate(split, n, seed):
            path = out / problem.images[0]
            image.save(path, optimize=False)
            digest.update(path.read_bytes())
            splits[split].append(problem)
            on_progress(sum(map(len, splits.values())), sum(sizes.values()))
        rows = [to_json(p) for p in splits[split]]
        digest.update(json.dumps(rows, sort_keys=True).encode())
        write_jsonl(out / f"{split}.jsonl", rows)
    card: dict[str, Any] = {
        "source": "minigeo",
        "version": VERSION,
        "seed": seed,
        "digest": digest.hexdigest()[:16],
        "splits": {
            split: {
                "items": len(problems),
                "letters": dict(sorted(Counter(p.answer for p in problems).items())),
                "families": dict(sorted(Counter(str(p.meta["family"]) for p in problems).items())),
                "difficulty": dict(sorted(Counter(str(p.meta["difficulty"]) for p in problems).items())),
            }
            for split, problems in splits.items()
        },
        "chance": 0.25,
    }
    if len(splits.get("train", ())) >= 400 and len(splits.get("test", ())) >= 100:
        card["text_only_accuracy"] = round(text_only_accuracy(splits["train"], splits["test"]), 4)
    with write_aside(out / "card.json") as file:
        file.write(json.dumps(card, indent=1).encode() + b"\n")
    return card
