"""From requests to the token ids a Qwen-VL model is given: chat template, images, image tokens.

Shared by the engines that tokenize themselves. transformers is imported inside the functions.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.images.marks import segments
from data_process.schema import DataError
from selftrain.engines.base import EngineError, Request


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


def load_processor(path: Path, min_pixels: int | None, max_pixels: int | None) -> Any:
    """The processor of a model folder with these pixel limits (None: its own); EngineError if there is none."""
    from transformers import AutoProcessor

    if not (path / "config.json").is_file():
        what = "does not hold a model (no config.json)" if path.is_dir() else "does not exist"
        raise EngineError(f"model folder {path} {what}; give the folder that save_pretrained or a download wrote")
    try:
        processor = AutoProcessor.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise EngineError(f"{path} holds no usable processor ({error}); copy the base model's into it") from error
    if not hasattr(processor, "image_processor") or not hasattr(processor, "image_token"):
        raise EngineError(f"{path}: its processor takes no images; give a Qwen2-VL or Qwen2.5-VL model")
    size = dict(processor.image_processor.size)
    low = size["shortest_edge"] if min_pixels is None else min_pixels
    high = size["longest_edge"] if max_pixels is None else max_pixels
    processor.image_processor.size = type(processor.image_processor.size)(shortest_edge=low, longest_edge=high)
    return processor


def prepare(processor: Any, requests: Sequence[Request]) -> list[Prompt]:
    """Every request as the model is given it. EngineError names the first one that cannot be."""
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
        first, *others = text.split(processor.image_token)
        if len(others) != len(request.images):
            raise EngineError(
                f"request {request.id!r}: its text holds the mark {processor.image_token!r}, which stands "
                "for an image; break it up first (data_process.images.marks.neutralise)"
            )
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
    from PIL import Image

    try:
        data = path.read_bytes()
        with Image.open(io.BytesIO(data)) as image:
            image.load()
            width, height = image.size
    except (OSError, SyntaxError, ValueError) as error:  # PIL raises SyntaxError for some broken PNGs
        where = f"request {request_id!r}: cannot read the image {path}"
        raise EngineError(f"{where}: {error}; store it again") from error
    scale = processor.image_processor
    side = scale.patch_size * scale.merge_size  # 28 pixels: what becomes one image token
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
