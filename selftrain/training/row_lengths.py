"""The length in tokens of each training row, image tokens included, measured before training.

LLaMA-Factory truncates a row that is too long, prompt and target in proportion, or crashes on an image. So rows are
measured here with the checkpoint's own tokenizer and chat template; rows that are too long are dropped and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from data_process.building.sharegpt import rejection_reason
from data_process.images.marks import segments
from data_process.images.opening import ImageError
from data_process.images.store import png_size, smart_resize
from data_process.schema import DataError, Example
from selftrain.families import Family, FamilyError, Frame, family_of, thinking_untrained, thought_is_open

BATCH = 4096  # rows tokenised at a time: bounds the memory, and keeps the tokenizer's threads busy

# Cannot occur in a prompt, and no template trims or escapes them.
_PROMPT, _TARGET = "\ue000prompt\ue001", "\ue000target\ue001"


class PreflightReport(NamedTuple):
    """`lengths[i]` belongs to `kept[i]`; kept rows and `dropped` add up to what was given."""

    # Tokens of a whole row: chat template, image, prompt, history, target and end of turn. Of a preference pair, those
    # of the longer of its two texts.
    lengths: list[int]
    kept: list[Example]
    dropped: Counter[str]  # reason -> rows
    masked: Sequence[int] = ()  # of `lengths`, tokens of the history, which carry no loss; 0 for rows without one


def preflight(
    examples: Sequence[Example],
    base_model: Path,
    image_path: Callable[[str], Path],
    max_length: int,
    max_dropped_share: float = 0.05,
) -> PreflightReport:
    """Measure every row; drop those above `max_length` tokens (`too_long`) and those with a `rejection_reason`.

    DataError if no row is left, if more than `max_dropped_share` of the rows would be dropped, if the checkpoint's
    processor would resize an image, or if LLaMA-Factory's template of the family is not the checkpoint's.
    """
    from transformers import AutoProcessor

    if not examples:
        raise DataError("there are no examples to train on; see what the build stage dropped, and why")
    family = family_of(base_model)
    processor = AutoProcessor.from_pretrained(base_model, local_files_only=True)
    check_frame(base_model, family, processor)
    images = {image for example in examples for image in example.images}
    image_tokens = count_image_tokens(images, image_path, processor.image_processor)
    dropped: Counter[str] = Counter()
    whole = []
    for example in examples:
        if reason := rejection_reason(example):
            dropped[reason] += 1
        else:
            whole.append(example)
    masked = history_lengths(whole, processor.tokenizer)
    lengths = [n + m for n, m in zip(row_lengths(whole, processor, image_tokens), masked, strict=True)]
    pairs = [i for i, example in enumerate(whole) if example.rejected]
    rejected = [replace(whole[i], target=whole[i].rejected) for i in pairs]
    for i, length in zip(pairs, row_lengths(rejected, processor, image_tokens), strict=True):
        lengths[i] = max(lengths[i], length)
    kept = [i for i, length in enumerate(lengths) if length <= max_length]
    if len(kept) < len(whole):
        dropped["too_long"] = len(whole) - len(kept)
    if dropped.total() > max_dropped_share * len(examples) or not kept:
        longest = max(zip(lengths, whole, strict=True), key=lambda pair: pair[0], default=None)
        said = f"The longest, {longest[1].id}, has {longest[0]} tokens of {max_length}. " if longest else ""
        raise DataError(
            f"{dropped.total()} of {len(examples)} rows cannot be trained on {dict(dropped)}; allowed share: "
            f"{max_dropped_share:g}. {said}"
            "Against too_long raise max_length, or lower max_tokens, the candidates per select prompt or max_pixels; "
            "data_process/building/sharegpt.py explains the other reasons"
        )
    return PreflightReport([lengths[i] for i in kept], [whole[i] for i in kept], dropped, [masked[i] for i in kept])


def history_lengths(examples: Sequence[Example], tokenizer: Any) -> list[int]:
    """Tokens of each row's history. Attempts and ignore strings are tokenised apart, as a budget writes them."""
    found = [0] * len(examples)
    places = [(i, text) for i, example in enumerate(examples) for pair in example.history for text in pair]
    for start in range(0, len(places), BATCH):
        batch = places[start : start + BATCH]
        ids = tokenizer([text for _, text in batch], add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for (i, _), tokens in zip(batch, ids, strict=True):
            found[i] += len(tokens)
    return found


def row_lengths(examples: Sequence[Example], processor: Any, image_tokens: dict[str, int]) -> list[int]:
    """Tokens of each row without its history.

    Prompt and target are tokenised separately, as in sampling and in LLaMA-Factory.
    `image_tokens`: the tokens that each image becomes. `processor` needs `tokenizer` and `apply_chat_template`.
    """
    frame = frame_of(processor)
    lengths: list[int] = []
    for start in range(0, len(examples), BATCH):
        batch = examples[start : start + BATCH]
        texts = []
        for example in batch:
            shown = (
                frame.image.join(segments(example.prompt, len(example.images))) if example.images else example.prompt
            )
            texts += [frame.before + shown + frame.between, example.target + frame.after]
        ids = processor.tokenizer(texts, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        for example, prompt, target in zip(batch, ids[::2], ids[1::2], strict=True):
            placeholders = sum(image_tokens[image] - 1 for image in example.images)
            lengths.append(len(prompt) + len(target) + placeholders)
    return lengths


def frame_of(processor: Any) -> Frame:
    """Render the chat template once and split it, so that no row needs the template engine.

    DataError if it shows a finished answer differently from the prompt for one.
    """
    before, shown, between = prompt_frame(processor)
    image, text = {"type": "image"}, {"type": "text", "text": _PROMPT}
    assistant = {"role": "assistant", "content": [{"type": "text", "text": _TARGET}]}
    whole = processor.apply_chat_template([{"role": "user", "content": [text, image, text]}, assistant], tokenize=False)
    answered, after = whole.split(_TARGET)
    if answered != before + _PROMPT + shown + _PROMPT + between:
        raise DataError(
            "the checkpoint's chat template shows a finished answer differently from the prompt for one, so training "
            "and sampling would disagree; use a checkpoint with its family's original chat template"
        )
    return Frame(before, shown, between, after)


def prompt_frame(processor: Any) -> tuple[str, str, str]:
    """What the chat template puts before a prompt, for an image, and from the prompt to the start of an answer.

    DataError for a template that places images or texts in another way than one after the other.
    """
    image, text = {"type": "image"}, {"type": "text", "text": _PROMPT}
    plain, mixed = (
        processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        for content in ([text], [text, image, text])
    )
    before, between = plain.split(_PROMPT)
    shown = mixed.split(_PROMPT)[1]
    if mixed != before + _PROMPT + shown + _PROMPT + between:
        raise DataError("the checkpoint's chat template moves images; use one with its family's original template")
    return before, shown, between


def check_frame(base_model: Path, family: Family, processor: Any) -> None:
    """FamilyError unless a row looks the same in the checkpoint's chat template and in LLaMA-Factory's."""
    if thought_is_open(family, prompt_frame(processor)[2]):
        raise FamilyError(thinking_untrained(base_model, family))
    found, wanted = frame_of(processor), family.frame
    if found != wanted:
        part = next(name for name in Frame._fields if getattr(found, name) != getattr(wanted, name))
        raise FamilyError(
            f"the chat template of {base_model} and LLaMA-Factory's {family.template}, with which rows are trained, "
            f"disagree ({part}: {getattr(found, part)!r}, {getattr(wanted, part)!r}); copy the original chat template "
            f"of a {family.name} checkpoint into the folder"
        )


def count_image_tokens(images: set[str], image_path: Callable[[str], Path], image_processor: Any) -> dict[str, int]:
    """Image tokens of each image. DataError if the processor would resize one: then token counts would not agree."""
    low, high = image_processor.size["shortest_edge"], image_processor.size["longest_edge"]
    factor = image_processor.patch_size * image_processor.merge_size
    counts = {}
    for image in images:
        path = image_path(image)
        try:
            width, height = png_size(path)
        except OSError as error:
            message = f"there is no canonical image {path} for {image}; add it to the image store"
            raise ImageError("missing", message) from error
        if smart_resize(height, width, factor, low, high) != (height, width):
            raise ImageError(
                "not_canonical",
                f"{path} ({width} x {height}) would be resized by this checkpoint, which takes {low} to {high} pixels; "
                "give the image store limits within those",
            )
        counts[image] = (width // factor) * (height // factor)
    return counts
