"""From requests to the token ids a model is given: chat template, images, image tokens.

Shared by the engines that tokenize themselves. transformers is imported inside the functions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.images.marks import segments
from data_process.images.opening import ImageError, decoded
from data_process.schema import DataError
from selftrain.engines.base import EngineError, Request
from selftrain.families import Family, FamilyError, check_weights_family, engine_family, family_of


@dataclass(frozen=True)
class Picture:
    """A canonical PNG: where it lies, what is in it, and how the language model sees it."""

    path: Path
    digest: str  # of the file's bytes
    height: int  # image tokens from top to bottom
    width: int

    @property
    def n_tokens(self) -> int:
        return self.height * self.width


@dataclass(frozen=True)
class Prompt:
    """A request after the chat template and the tokenizer."""

    request: Request
    ids: tuple[int, ...]
    pictures: tuple[Picture, ...]  # in the order of their tokens
    starts: tuple[int, ...]  # index of the first token of each


def known_family(model: Path, kind: str | None, weights: Path | None = None) -> Family:
    """The family of the model folder that an engine of this kind is to load, perhaps with trained weights.

    `kind` is None where the weights are on a server, and the folder is read for its tokenizer and image sizes. Only
    small files are read. EngineError for a family that is not supported or not that of the weights.
    """
    if not (model / "config.json").is_file():
        what = "holds no model (no config.json)" if model.is_dir() else "does not exist"
        raise EngineError(f"model folder {model} {what}; set model.path to a checkpoint folder")
    try:
        family = family_of(model) if kind is None else engine_family(model, kind)
        if weights is not None:
            check_weights_family(family, weights)
    except FamilyError as error:
        raise EngineError(str(error)) from error
    return family


def load_processor(path: Path, family: Family, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The processor of a model folder with these pixel limits (None: its own).

    EngineError if there is none, or it is one of another family.
    """
    from transformers import AutoProcessor

    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except Exception as error:  # of a damaged tokenizer or template, libraries raise what they like
        said = f"{type(error).__name__}: {str(error)[:500]}"
        raise EngineError(f"{path} holds no usable processor ({said}); copy the base model's into it") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
        raise EngineError(f"{path}: its processor takes no images; copy that of a {family.name} checkpoint into it")
    _check_processor(path, family, processor)
    size = dict(processor.image_processor.size)
    low = size["shortest_edge"] if min_pixels is None else min_pixels
    high = size["longest_edge"] if max_pixels is None else max_pixels
    processor.image_processor.size = type(processor.image_processor.size)(shortest_edge=low, longest_edge=high)
    return processor


def _check_processor(path: Path, family: Family, processor: Any) -> None:
    """EngineError unless the processor cuts images and marks them as the family's models read them."""
    scale = processor.image_processor
    found = f"{scale.patch_size} pixels, {scale.merge_size}"
    wanted = f"{family.patch} pixels, {family.merge}"
    lacking = [mark for mark in family.marks if mark not in processor.tokenizer.get_vocab()]
    if found != wanted:
        what = f"its processor cuts images into patches of {found} along a token's side; {family.name} has {wanted}"
    elif lacking:
        what = f"its tokenizer does not know {', '.join(lacking)}"
    elif processor.image_token != family.image:
        what = f"its processor marks images with {processor.image_token}, not {family.image}"
    else:
        return
    raise EngineError(f"{path}: {what}; copy the processor and tokenizer of a {family.name} checkpoint into it")


def prepare(processor: Any, requests: Sequence[Request], after: str | None = None) -> list[Prompt]:
    """Every request as the model is given it. EngineError names the first one that cannot be.

    `after`: what follows the prefix of each, for a reward head, which reads whole turns. Such a turn is tokenized apart
    from its prompt, as it was in training.
    """
    pictures: dict[Path, Picture] = {}
    texts = []
    for request in requests:
        for path in request.images:
            if path not in pictures:
                pictures[path] = read_picture(processor, request.id, path)
        try:
            first, *others = segments(request.prompt, len(request.images))
        except DataError as error:
            raise EngineError(f"request {request.id!r}: {error}") from error
        content = [{"type": "text", "text": first}] if first or not others else []
        for text in others:
            content += [{"type": "image"}, {"type": "text", "text": text}]
        text = processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        if (text + request.prefix).count(processor.image_token) != len(request.images):
            raise EngineError(
                f"request {request.id!r}: its text holds the mark {processor.image_token!r}, which stands "
                "for an image; break it up first (data_process.images.marks.neutralise)"
            )
        first, *others = (text + request.prefix if after is None else text).split(processor.image_token)
        shown = zip((processor.image_token * pictures[path].n_tokens for path in request.images), others, strict=True)
        texts.append(first + "".join(image + text for image, text in shown))
    all_ids = processor.tokenizer(texts)["input_ids"] if texts else []
    image_id = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    prompts = []
    for request, ids in zip(requests, all_ids, strict=True):
        starts, end = [], 0
        for path in request.images:
            starts.append(ids.index(image_id, end))
            end = starts[-1] + pictures[path].n_tokens
        if after is not None:
            ids = [*ids, *processor.tokenizer(request.prefix + after)["input_ids"]]
        prompts.append(Prompt(request, tuple(ids), tuple(pictures[path] for path in request.images), tuple(starts)))
    return prompts


def check_lengths(prompts: Sequence[Prompt], max_tokens: int, positions: int, advice: str = "") -> None:
    """EngineError for a prompt that leaves no room for `max_tokens` new tokens in a context of `positions` tokens."""
    for prompt in prompts:
        if len(prompt.ids) + max_tokens > positions:
            raise EngineError(
                f"request {prompt.request.id!r}: {len(prompt.ids)} prompt tokens and {max_tokens} new ones exceed the "
                f"engine's {positions} positions; shorten the prompt or max_tokens{', ' * bool(advice)}{advice}"
            )


def read_picture(processor: Any, request_id: str, path: Path) -> Picture:
    """Read an image of a request and check that the processor would leave its size alone."""
    try:
        data = path.read_bytes()
        width, height = decoded(path, data).size
    except (OSError, ImageError) as error:
        where = f"request {request_id!r}: cannot read the image {path}"
        raise EngineError(f"{where}: {error}; store it again") from error
    scale = processor.image_processor
    side = scale.patch_size * scale.merge_size  # pixels of what becomes one image token
    try:
        patches = scale.get_number_of_image_patches(height, width, {})
    except ValueError as error:  # e.g. an aspect ratio beyond 200
        raise EngineError(f"request {request_id!r}: image {path}: {error}") from error
    if height % side or width % side or patches * scale.patch_size**2 != height * width:
        raise EngineError(
            f"request {request_id!r}: the processor would resize {path} ({width} x {height} pixels), so "
            "training and sampling would see different pixels; pass it through the image store first"
        )
    return Picture(path, hashlib.sha256(data).hexdigest(), height // side, width // side)
