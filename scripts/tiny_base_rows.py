"""The training rows of the tiny base model, made from generated problems of MiniGeo's `base` split.

The rows teach two ways to do a sum. A *draft* does it in one go (`80+38=118`), a *check* in tens and then units
(`80+30=110+8=118`). Most results of drafts stay out of the loss, so drafts are half learned and checks are reliable.
Three kinds of problems are also drafted by a wrong rule, in half of their rows. A draft whose value is none of the
choices names the farthest, so a correct letter seldom follows a wrong sum.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from data_process import prompts as wording
from data_process.prompts import SHORT
from data_process.schema import Problem
from data_process.sources import minigeo
from data_process.sources.minigeo.traces import in_small_steps

WAIT = " Wait,"  # the ignore string of the budget `tiny`, token for token
MISTAKEN = ("triangle2", "linear3", "point2")  # kinds whose drafts forget the last subtraction in half of the rows
MISREAD, SLIP, CARELESS = 0.1, 0.25, 0.1  # shares of attempts, of their sums, and of the checks within a trace
READING_WEIGHT = 3.0  # of the tokens that name the labels, against 1 of the others
GUESS_WEIGHT = 2.0  # of the letter after a value that is no choice: there are few of them

Piece = tuple[str, float]  # a part of the target, and its weight in the loss
_STEP = re.compile(r"(\d+)([-+/])(\d+)=(\d+)")
_PIECES = re.compile(r"(I see [^.]*\.)|(?<==)(\d+)")


@dataclass(frozen=True)
class Row:
    """One training sequence."""

    prompt: str
    target: tuple[Piece, ...]
    image: int | None  # index into the cached images


@dataclass(frozen=True)
class Draft:
    """A derivation: the labels as they are read, the steps, and which of them have a wrong result."""

    labels: tuple[str, ...]
    steps: tuple[str, ...]
    slipped: tuple[bool, ...]
    letter: str
    guessed: bool = False  # the value is none of the choices

    def text(self, *, check: bool = False) -> str:
        steps = [in_small_steps(step) for step in self.steps] if check else self.steps
        value = self.steps[-1].split("=")[1] if self.steps else self.labels[0]
        return f"I see {joined(self.labels)}. {'. '.join([*steps, f'{value} is ({self.letter}).'])}"


def untagged(row: Row) -> Row:
    """The same row for a base that never writes thinking tags."""

    def bare(text: str) -> str:
        return text.replace("<think>", "").replace("</think>", "")

    return replace(row, prompt=bare(row.prompt), target=tuple((bare(text), weight) for text, weight in row.target))


def joined(labels: Sequence[str]) -> str:
    return " and ".join(labels)


def _parts(step: str) -> tuple[int, str, int, int]:
    found = _STEP.fullmatch(step)
    if found is None:
        raise ValueError(f"not a step: {step!r}")
    return int(found[1]), found[2], int(found[3]), int(found[4])


def _off(value: int, rng: random.Random) -> int:
    wrong = value + rng.choice((-20, -10, -10, -2, -1, 1, 2, 10, 10, 20))
    return wrong if wrong > 1 else value + 10


def right_draft(problem: Problem) -> Draft:
    steps = tuple(problem.meta["steps"])
    return Draft(tuple(problem.meta["labels"]), steps, (False,) * len(steps), problem.answer)


def attempt(problem: Problem, rng: random.Random, misread: float = MISREAD, slip: float = SLIP) -> Draft:
    """A draft with the mistakes that the base makes; later steps go on from a wrong result."""
    variant, labels = minigeo.BY_NAME[problem.meta["variant"]], tuple(problem.meta["labels"])
    steps = list(problem.meta["steps"])
    if rng.random() < misread:
        labels, steps = _misread(variant, problem, rng) or (labels, steps)
    if variant.name in MISTAKEN and rng.random() < 0.5:
        steps = steps[:-1]
    made, slipped, instead = [], [], dict[int, int]()
    for step in steps:
        a, sign, b, result = _parts(step)
        a, b = instead.get(a, a), b if sign == "/" else instead.get(b, b)
        value = a + b if sign == "+" else a - b if sign == "-" else a // b
        slips = rng.random() < slip or value < 0
        value = _off(abs(value), rng) if slips else value
        instead[result] = value
        made.append(f"{a}{sign}{b}={value}")
        slipped.append(slips)
    value = made[-1].split("=")[1]
    letter, guessed = _named(value, problem)
    return Draft(labels, tuple(made), tuple(slipped), letter, guessed)


def _misread(
    variant: minigeo.Variant, problem: Problem, rng: random.Random
) -> tuple[tuple[str, ...], list[str]] | None:
    """Labels with one misread, and the steps that follow from them; None where they make no sense."""
    labels = tuple(map(int, problem.meta["labels"]))
    params = labels if variant.solve(labels)[1] == problem.meta["value"] else tuple(problem.meta["params"])
    old = rng.choice(labels)
    new = _off(old, rng)
    steps = variant.solve(tuple(new if value == old else value for value in params))[0]
    read = tuple(str(new if value == old else value) for value in labels)
    return (read, steps) if all(map(_STEP.fullmatch, steps)) else None


def _named(value: str, problem: Problem) -> tuple[str, bool]:
    """The letter of the choice that a value is; that of the farthest, and True, for a value that is no choice."""
    if value in problem.choices:
        return problem.letters[problem.choices.index(value)], False
    return max(problem.letters, key=lambda c: abs(int(problem.choices[problem.letters.index(c)]) - int(value))), True


def pieces(draft: Draft, *, sums: bool) -> list[Piece]:
    """A draft's text with its weights: labels count more, slips nothing, other results only with `sums`."""
    found: list[Piece] = []
    slips = iter(draft.slipped)
    at = 0
    text = draft.text()
    for match in _PIECES.finditer(text):
        weight = READING_WEIGHT if match[1] else float(sums and not next(slips))
        found += [(text[at : match.start()], 1.0), (match[0], weight)]
        at = match.end()
    return [*found, (text[at:], GUESS_WEIGHT if draft.guessed else 1.0)]


def spoken(draft: Draft) -> str:
    """A whole response, as a prompt shows it."""
    return f"<think>{draft.text()}</think>\nAnswer: ({draft.letter})"


def checked(problem: Problem) -> tuple[Piece, ...]:
    """The response that derives the answer in small steps."""
    draft = right_draft(problem)
    seen, rest = draft.text(check=True).split(".", 1)
    return ("<think>", 1.0), (f"{seen}.", READING_WEIGHT), (rest, 1.0), _end(problem.answer)


def _end(letter: str) -> Piece:
    return f"</think>\nAnswer: ({letter})", 1.0


@dataclass(frozen=True)
class Mixture:
    """Shares of the rows by what they ask for, and the share of drafts whose results are in the loss."""

    lookup: float
    caption: float
    draft: float
    wait: float
    refine: float
    sums: float
    mistakes: bool  # whether drafts slip and follow wrong rules, or are all right
    in_text: float  # of drafts and what follows, whose labels are in the question instead of an image


def caption(problem: Problem, image: int | None) -> Row:
    """The labels alone; where the target breaks off, nothing is learned."""
    seen = (f"I see {joined(problem.meta['labels'])}.", READING_WEIGHT)
    return Row(wording.cot(problem, SHORT), (("<think>", 1.0), seen), image)


def lookup(problem: Problem) -> Row:
    """The value is in the question; its letter is asked for."""
    value = problem.meta["value"]
    target = (f"<think>{value} is ({problem.answer}).", 1.0), _end(problem.answer)
    return Row(wording.cot(replace(problem, question=f"x is {value}. Find x."), SHORT), target, None)


def draft_row(problem: Problem, image: int | None, mixture: Mixture, rng: random.Random) -> Row:
    """A draft: right, or with `mistakes` also by a wrong rule, or with a slip from which the rest follows."""
    in_loss = rng.random() < mixture.sums
    slip = 0.5 if rng.random() < 0.55 else 0.0
    draft = attempt(problem, rng, misread=0.0, slip=slip) if mixture.mistakes else right_draft(problem)
    target = (("<think>", 1.0), *pieces(draft, sums=in_loss), _end(draft.letter))
    return Row(wording.cot(problem, SHORT), target, image)


def wait_row(problem: Problem, image: int | None, rng: random.Random) -> Row:
    """An attempt, `Wait,` and a check, one to three times; the attempts and the `Wait,` are not in the loss."""
    last = checked(problem)
    before = attempt(problem, rng).text() + WAIT
    for _ in range(rng.choice((0, 0, 0, 1, 1, 2))):
        careless = rng.random() < CARELESS
        draft = attempt(problem, rng, slip=0.3) if careless else right_draft(problem)
        before += f" {draft.text(check=True)}{WAIT}"
    target = (("<think>", 1.0), (before, 0.0), (f" {last[1][0]}", READING_WEIGHT), *last[2:])
    return Row(wording.cot(problem, SHORT), target, image)


def candidate(problem: Problem, rng: random.Random) -> str:
    """An attempt as a prompt shows it: a draft, a check, or a draft with a check after `Wait,`."""
    kind = rng.random()
    draft = attempt(problem, rng)
    if kind < 0.75:
        return spoken(draft)
    checks = right_draft(problem) if rng.random() > CARELESS else attempt(problem, rng)
    thought = checks.text(check=True)
    thought = thought if kind < 0.9 else f"{draft.text()}{WAIT} {thought}"
    return f"<think>{thought}</think>\nAnswer: ({checks.letter})"


def refine_row(problem: Problem, image: int | None, rng: random.Random) -> Row:
    return Row(wording.refine(problem, candidate(problem, rng), SHORT), checked(problem), image)


def in_text(problem: Problem, rng: random.Random) -> Problem:
    """The same problem with its labels in the question, in any order."""
    labels = rng.sample(problem.meta["labels"], len(problem.meta["labels"]))
    return replace(problem, question=f"{problem.question} The labels are {joined(labels)}.", images=())


def draw(problem: Problem, image: int, mixture: Mixture, rng: random.Random) -> Row:
    """One row about a problem, of a kind drawn by the mixture's shares."""
    m = mixture
    kinds = ("lookup", "caption", "draft", "wait", "refine")
    (kind,) = rng.choices(kinds, [m.lookup, m.caption, m.draft, m.wait, m.refine])
    if kind == "lookup":
        return lookup(problem)
    if kind == "caption":
        return caption(problem, image)
    shown: int | None = image
    if rng.random() < mixture.in_text:
        problem, shown = in_text(problem, rng), None
    if kind == "draft":
        return draft_row(problem, shown, mixture, rng)
    return (wait_row if kind == "wait" else refine_row)(problem, shown, rng)
