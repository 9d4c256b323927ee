"""Holds problems out of a split so that no problem, and where possible no image or question, is on both sides."""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_process.schema import Problem
from data_process.seeds import seed_for

# Hundreds of diagrams ask "Find x."; a question of this many words or more identifies its problem.
SPECIFIC_WORDS = 8


def question_key(problem: Problem) -> str:
    """Context and question with case and spacing levelled, so that copies of a question are equal."""
    return re.sub(r"\s+", " ", problem.full_question).strip().casefold()


# What the problems of a group share. The first is the safest; the others are for data with one question for all images
# (counting), or many questions about a few images, which the first leaves in one piece.
LEVELS = ("share an image or a question", "share an image", "share both question and image")


def groups(problems: Sequence[Problem], images: Sequence[Sequence[str]], level: int = 0) -> list[list[int]]:
    """Groups of positions of problems that belong together. `images`: content digests.

    At level 0 problems belong together if they share an image, a question of at least `SPECIFIC_WORDS` words, or a
    question and its choices; at level 1, if they share an image; at level 2, if they share image and question.
    Problems without an image belong together if they share the question.
    """
    parent = list(range(len(problems)))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    first: dict[tuple[object, ...], int] = {}
    for i, (problem, contents) in enumerate(zip(problems, images, strict=True)):
        question = question_key(problem)
        keys: list[tuple[object, ...]] = []
        if level == 0:
            keys.append(("question", question, tuple(sorted(problem.choices))))
        keys += [("image", image, question if level == 2 else None) for image in contents]
        if not contents and level == 2:  # "Which is true?": the choices make the problem
            keys.append(("question", question, problem.choices))
        elif not contents or (level == 0 and len(question.split()) >= SPECIFIC_WORDS):
            keys.append(("question", question))
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    found: dict[int, list[int]] = {}
    for i in range(len(problems)):
        found.setdefault(root(i), []).append(i)
    return list(found.values())


def hold_out(
    problems: Sequence[Problem], images: Sequence[Sequence[str]], share: float, seed: int, name: str, level: int = 0
) -> set[str]:
    """Ids of at most `share` of the problems, in whole groups, drawn by (seed, name, first id of the group).

    There are fewer where the remaining groups are too large. The order of `problems` does not matter.
    """
    wanted = round(share * len(problems))
    turns = []
    for group in groups(problems, images, level):
        ids = sorted(problems[i].id for i in group)
        turns.append((seed_for(seed, name, ids[0]), ids))
    held: set[str] = set()
    for _, ids in sorted(turns):
        if len(held) + len(ids) <= wanted:
            held.update(ids)
    return held
