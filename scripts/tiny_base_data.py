"""The training data of the tiny base model: rows of generated problems, and their tensors.

All problems come from MiniGeo's `base` split. Part of the rationales make a slip, say `Wait,` and correct it.
"""

from __future__ import annotations

import argparse
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from data_process import prompts as wording
from data_process.prompts import SHORT
from data_process.schema import Problem
from data_process.seeds import seed_for
from data_process.sources import minigeo
from selftrain.training import row_lengths

WAIT_SHARE = 0.2  # of the rationales contain a slip and its correction, or a needless second look
SELECT_SHARE = 0.12  # of the image batches show the refine and select prompts
BUCKET = 8  # batches drawn together and sorted by length
TEXT_SHARE = 0.4  # of the batches are text alone


@dataclass(frozen=True)
class Row:
    """One training sequence."""

    prompt: str
    target: str
    image: int | None  # index into the cached images


def _slip(value: int, rng: random.Random) -> int:
    wrong = value + rng.choice((-20, -10, -10, -1, 1, 10, 10, 20))
    return wrong if wrong > 1 else value + 10


def joined(labels: Sequence[str]) -> str:
    return " and ".join(labels)


def _verdict(value: int, choices: Sequence[str]) -> str:
    """How the text speaks of a result: the choice it is, or that it is none of them."""
    text = str(value)
    return f"{text} is ({'ABCD'[list(choices).index(text)]})." if text in choices else f"{text} is none."


def with_wait(problem: Problem, labels: Sequence[str], steps: Sequence[str], rng: random.Random) -> str:
    """A response that slips, says `Wait,` and does the sum again; or looks a second time for nothing."""
    full = ". ".join(steps)
    result = f"{problem.meta['value']} is ({problem.answer})."
    kind = rng.random()
    index = rng.randrange(len(steps))
    left, right = steps[index].split("=")
    slipped = ". ".join([*steps[:index], f"{left}={_slip(int(right), rng)}"])
    if kind < 0.35:  # noticed at once
        thought = f"{slipped}. Wait, {'. '.join(steps[index:])}. {result}"
    elif kind < 0.75:  # noticed at the end: the last step is wrong, so the result is no choice, or a wrong one
        left, right = steps[-1].split("=")
        wrong = _slip(int(right), rng)
        slipped = ". ".join([*steps[:-1], f"{left}={wrong}"])
        thought = f"{slipped}. {_verdict(wrong, problem.choices)} Wait, {full}. {result}"
    else:
        thought = f"{full}. {result} Wait, {full}. {result}"
    return f"<think>I see {joined(labels)}. {thought}</think>\nAnswer: ({problem.answer})"


def response(problem: Problem, labels: Sequence[str], steps: Sequence[str], rng: random.Random) -> str:
    if rng.random() < WAIT_SHARE:
        return with_wait(problem, labels, steps, rng)
    return minigeo.rationale(labels, steps, int(problem.meta["value"]), problem.answer)


def wrong_response(problem: Problem, rng: random.Random) -> str:
    """An attempt that ends in a wrong choice, for the refine and select prompts."""
    steps = list(problem.meta["steps"])
    letter = rng.choice([c for c in "ABCD" if c != problem.answer])
    value = problem.choices["ABCD".index(letter)]
    steps[-1] = f"{steps[-1].split('=')[0]}={value}"
    return minigeo.rationale(problem.meta["labels"], steps, int(value), letter)


def text_row(pool: Sequence[tuple[minigeo.Variant, minigeo.Params]], rng: random.Random) -> Row:
    """The labels are in the question, or only the value is to be looked up."""
    variant, params = rng.choice(pool)
    steps, value = variant.solve(params)
    right, *wrong = minigeo.choose(variant, value, rng)
    letter = rng.choice("ABCD")
    rng.shuffle(wrong)
    wrong.insert("ABCD".index(letter), right)
    in_order = tuple(sorted(params, reverse=True))
    labels = list(map(str, in_order))
    shuffled = rng.sample(labels, len(labels))
    ordered_steps, same = variant.solve(in_order)
    steps = ordered_steps if same == value else steps
    problem = Problem("t", "", letter, tuple(map(str, wrong)), meta={"value": value})
    if rng.random() < 0.15:
        question = f"x is {value}. Find x."
        target = f"<think>{value} is ({letter}).</think>\nAnswer: ({letter})"
    else:
        question = f"{variant.question} The labels are {joined(shuffled)}."
        target = response(problem, labels, steps, rng)
    return Row(wording.cot(replace(problem, question=question), SHORT), target, None)


def image_row(problem: Problem, image: int, rng: random.Random) -> Row:
    return Row(
        wording.cot(problem, SHORT), response(problem, problem.meta["labels"], problem.meta["steps"], rng), image
    )


def reflection_row(problem: Problem, image: int, rng: random.Random) -> Row:
    """Refine or select, so that the base model knows the form of these prompts."""
    good = str(problem.meta["rationale"])
    if rng.random() < 0.5:
        attempt = good if rng.random() < 0.5 else wrong_response(problem, rng)
        return Row(wording.refine(problem, attempt, SHORT), good, image)
    attempts = [good, wrong_response(problem, rng), good if rng.random() < 0.5 else wrong_response(problem, rng)]
    rng.shuffle(attempts)
    target = wording.fill(SHORT.select_target, answer=problem.answer)
    return Row(wording.select(problem, attempts, SHORT), target, image)


class Images:
    """Images as uint8 arrays, turned into Qwen2-VL's patches on demand; the image processor runs as a check."""

    def __init__(self, images: Sequence[Any], processor: Any) -> None:
        self.arrays = [np.asarray(image.convert("L"), dtype=np.uint8) for image in images]  # ink is grey
        self.mean = np.array(processor.image_processor.image_mean, dtype=np.float32)
        self.std = np.array(processor.image_processor.image_std, dtype=np.float32)
        for index in (0, len(images) - 1):
            expected = processor.image_processor(images=[images[index]], return_tensors="np")["pixel_values"]
            if np.abs(self.patches(index) - expected).max() > 1e-4:
                raise RuntimeError("the cached patches differ from the image processor's")

    def grid(self, index: int) -> tuple[int, int, int]:
        height, width = self.arrays[index].shape
        return 1, height // 14, width // 14

    def patches(self, index: int) -> np.ndarray:
        """[n_patches, 3 * 2 * 14 * 14], 2 x 2 neighbouring patches in a row, as the image processor orders them."""
        array = (self.arrays[index].astype(np.float32)[:, :, None] / 255 - self.mean) / self.std
        _, rows, columns = self.grid(index)
        x = array.transpose(2, 0, 1).reshape(3, rows // 2, 2, 14, columns // 2, 2, 14)
        x = x.transpose(1, 4, 2, 5, 0, 3, 6)  # row block, column block, row, column, channel, y, x
        x = np.repeat(x[:, :, :, :, :, None], 2, axis=5)  # the one frame stands for two
        return x.reshape(rows * columns, -1)


class Collator:
    """Rows to model inputs: right-padded ids, labels on the target and the end of the turn only."""

    def __init__(self, processor: Any, images: Images) -> None:
        self.tokenizer, self.images = processor.tokenizer, images
        self.image_id = processor.image_token_id
        self.frame = row_lengths.frame_of(processor)

    def encode(self, row: Row) -> tuple[list[int], list[int]]:
        frame, image = self.frame, "" if row.image is None else self.frame.image
        ids = self.tokenizer(frame.before + image + row.prompt + frame.between)["input_ids"]
        if row.image is not None:
            _, height, width = self.images.grid(row.image)
            at = ids.index(self.image_id)
            ids = ids[:at] + [self.image_id] * (height * width // 4) + ids[at + 1 :]
        return ids, self.tokenizer(row.target + "<|im_end|>")["input_ids"]

    def words(self, index: int, problem: Problem) -> torch.Tensor:
        """What an image says, a token for each of its cells in reading order: a label, or <|vision_pad|> for none."""
        _, height, width = self.images.grid(index)
        grid = torch.full((height // 2, width // 2), self.tokenizer.convert_tokens_to_ids("<|vision_pad|>"))
        for row, column, label in problem.meta["cells"]:
            (grid[row, column],) = self.tokenizer(label)["input_ids"]
        return grid.flatten()

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        encoded = [self.encode(row) for row in rows]
        longest = max(len(p) + len(t) for p, t in encoded)
        pad = self.tokenizer.pad_token_id
        ids = torch.full((len(rows), longest), pad)
        labels = torch.full((len(rows), longest), -100)
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, (prompt, target) in enumerate(encoded):
            n, m = len(prompt), len(prompt) + len(target)
            ids[i, :m] = torch.tensor(prompt + target)
            labels[i, n:m] = torch.tensor(target)
            mask[i, :m] = 1
        batch = {"input_ids": ids, "labels": labels, "attention_mask": mask}
        batch["mm_token_type_ids"] = (ids == self.image_id).long()
        batch["shown"] = shown = [row.image for row in rows if row.image is not None]
        if shown:
            batch["pixel_values"] = torch.from_numpy(np.concatenate([self.images.patches(p) for p in shown]))
            batch["image_grid_thw"] = torch.tensor([self.images.grid(p) for p in shown])
        return batch


def batches(
    collator: Collator, problems: Sequence[Problem], args: argparse.Namespace
) -> Iterator[dict[str, torch.Tensor]]:
    """Batches of rows of like length (half of a batch of random lengths would be padding), eight drawn at a time."""
    tuples = minigeo.deal(args.data_seed)["base"]
    pool = [(minigeo.BY_NAME[name], params) for name, part in tuples.items() for params in part[:2000]]
    for group in range(math.ceil(args.steps / BUCKET)):
        rng = random.Random(seed_for(args.seed, "rows", group))
        text = sum(rng.random() < TEXT_SHARE for _ in range(BUCKET))  # batches of text alone
        text_rows = [text_row(pool, rng) for _ in range(text * args.batch)]
        picks = (rng.randrange(len(problems)) for _ in range((BUCKET - text) * args.batch))
        drawn = []
        for rows in (text_rows, [image_row(problems[i], i, rng) for i in picks]):
            rows.sort(key=lambda row: len(row.prompt) + len(row.target))
            drawn += [rows[i : i + args.batch] for i in range(0, len(rows), args.batch)]
        if text < BUCKET and rng.random() < SELECT_SHARE * BUCKET:
            picks = [rng.randrange(len(problems)) for _ in range(args.batch // 2)]
            drawn[-1] = [reflection_row(problems[i], i, rng) for i in picks]
        rng.shuffle(drawn)
        yield from map(collator, drawn)
