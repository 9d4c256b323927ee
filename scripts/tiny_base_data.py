"""Rows of the tiny base model as tensors: images, token ids, and the weight of every token in the loss."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from data_process.schema import Problem
from data_process.seeds import seed_for
from scripts.tiny_base_rows import Mixture, Row, draw, untagged
from selftrain.training import row_lengths

GROUP = 256  # rows drawn together and sorted by length: half of a batch of random lengths would be padding
BATCH_TOKENS = 8192  # padding included: longer rows come in smaller batches


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

    def tokens(self, index: int) -> int:
        _, height, width = self.grid(index)
        return height * width // 4

    def patches(self, index: int) -> np.ndarray:
        """[n_patches, 3 * 2 * 14 * 14], 2 x 2 neighbouring patches in a row, as the image processor orders them."""
        array = (self.arrays[index].astype(np.float32)[:, :, None] / 255 - self.mean) / self.std
        _, rows, columns = self.grid(index)
        x = array.transpose(2, 0, 1).reshape(3, rows // 2, 2, 14, columns // 2, 2, 14)
        x = x.transpose(1, 4, 2, 5, 0, 3, 6)  # row block, column block, row, column, channel, y, x
        x = np.repeat(x[:, :, :, :, :, None], 2, axis=5)  # the one frame stands for two
        return x.reshape(rows * columns, -1)


@dataclass(frozen=True)
class Batch:
    """Right-padded ids [rows, longest], the weight of each as a target, and the images in order."""

    ids: torch.Tensor
    mask: torch.Tensor
    weights: torch.Tensor
    shown: list[int]
    grids: torch.Tensor  # [images, 3]


class Collator:
    """Rows to batches."""

    def __init__(self, processor: Any, images: Images, *, tags: bool = True) -> None:
        self.tokenizer, self.images, self.tags = processor.tokenizer, images, tags
        self.image_id = processor.image_token_id
        self.frame = row_lengths.frame_of(processor)

    def encode(self, row: Row) -> tuple[list[int], list[float]]:
        """Token ids of the whole row, and the weight of each in the loss: 0 for the prompt."""
        row = row if self.tags else untagged(row)
        frame, image = self.frame, "" if row.image is None else self.frame.image
        ids = self.tokenizer(frame.before + image + row.prompt + frame.between)["input_ids"]
        if row.image is not None:
            at = ids.index(self.image_id)
            ids = ids[:at] + [self.image_id] * self.images.tokens(row.image) + ids[at + 1 :]
        target = (*row.target, ("<|im_end|>", 1.0)) if row.target[-1][0].endswith(")") else row.target
        encoded = self.tokenizer("".join(text for text, _ in target), return_offsets_mapping=True)
        by_character = [weight for text, weight in target for _ in text]
        weights = [by_character[start] for start, _ in encoded["offset_mapping"]]
        return ids + encoded["input_ids"], [0.0] * len(ids) + weights

    def words(self, index: int, problem: Problem) -> torch.Tensor:
        """What an image says, a token for each of its cells in reading order: a label, or <|vision_pad|> for none."""
        _, height, width = self.images.grid(index)
        grid = torch.full((height // 2, width // 2), self.tokenizer.convert_tokens_to_ids("<|vision_pad|>"))
        for cell in problem.meta["cells"]:
            (grid[cell["row"], cell["column"]],) = self.tokenizer(cell["label"])["input_ids"]
        return grid.flatten()

    def __call__(self, rows: Sequence[Row]) -> Batch:
        encoded = [self.encode(row) for row in rows]
        longest = max(len(ids) for ids, _ in encoded)
        ids = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        weights = torch.zeros((len(rows), longest))
        mask = torch.zeros((len(rows), longest), dtype=torch.long)
        for i, (tokens, weight) in enumerate(encoded):
            ids[i, : len(tokens)] = torch.tensor(tokens)
            weights[i, : len(tokens)] = torch.tensor(weight)
            mask[i, : len(tokens)] = 1
        shown = [row.image for row in rows if row.image is not None]
        grids = torch.tensor([self.images.grid(image) for image in shown]).reshape(-1, 3)
        return Batch(ids, mask, weights, shown, grids)


def batches(
    collator: Collator, problems: Sequence[Problem], mixture: Mixture, rows: int, seed: int, stage: str
) -> Iterator[Batch]:
    """Batches of `rows` rows of like length, fewer where they are long, without end."""
    group = 0
    while True:
        rng = random.Random(seed_for(seed, stage, group))
        drawn = [draw(problems[i], i, mixture, rng) for i in (rng.randrange(len(problems)) for _ in range(GROUP))]
        lengths = {id(row): len(collator.encode(row)[0]) for row in drawn}
        drawn.sort(key=lambda row: lengths[id(row)])
        cut: list[list[Row]] = [[]]
        for row in drawn:
            if len(cut[-1]) == rows or (len(cut[-1]) + 1) * lengths[id(row)] > BATCH_TOKENS:
                cut.append([])
            cut[-1].append(row)
        rng.shuffle(cut)
        yield from map(collator, cut)
        group += 1
