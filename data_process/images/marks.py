"""Marks in texts: where the images of a problem stand in its prompt, and marks that must stay text.

A context, a question or a choice may say where an image belongs: `<image 1>`, `<image1>`, `<image_1>`, or `<image>` for
the next image that no number names. A prompt carries its images in one canonical form, which the engines and the rows
of LLaMA-Factory share: the first mark of each image is the placeholder `<image>`, the images that no mark names come
first, and the list of images is in the order of the placeholders. Placeholders at the beginning of the first text are
left out, so the prompt of a single image before the text is the text alone.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data_process.schema import DataError, wrong

PLACEHOLDER = "<image>"
_IMAGE = re.compile(r"<image(?:[ _]?(\d{1,4}))?>")
_LEADING = re.compile(r"(?:<image(?:[ _]?\d{1,4})?>\s*)+")

# LLaMA-Factory and the chat template would take a literal mark in a question for the place of an image. The other names
# are Qwen2-VL's special tokens, which the tokenizer would read as tokens.
_MARKS = re.compile(
    r"<(\|?)(image|video|audio|vision_start|vision_end|vision_pad|image_pad|video_pad|im_start|im_end|endoftext"
    r"|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end)(\|?)>"
)


def neutralise(text: str) -> str:
    """Break up marks such as `<image>` or `<|im_end|>` in text from data or from a model, so that they stay text."""
    if "<" not in text:
        return text
    return _MARKS.sub(lambda m: f"< {m.group(1)}{m.group(2)}{m.group(3)} >", text)


def place(texts: Sequence[str], n_images: int, where: str) -> tuple[list[str], list[int]]:
    """The texts of a prompt in order, the first of which opens it, with placeholders; the images in their order.

    Images are counted from 0. A later mention of an image becomes the text "image 1", with the number that its mark
    names. All other marks are neutralised; without images, `<image>` is one of them. Raises DataError, which begins
    with `where`, for a mark of an image that does not exist.
    """
    if not n_images or not any("<image" in text for text in texts):
        return [neutralise(text) for text in texts], list(range(n_images))
    marks = [mark for text in texts for mark in _IMAGE.finditer(text)]
    named = {int(mark[1]) for mark in marks if mark[1]}
    unnamed = iter([number for number in range(1, n_images + 1) if number not in named])
    order: list[int] = []

    def placed(text: str) -> str:
        pieces, end = [""], 0
        for mark in _IMAGE.finditer(text):
            number = int(mark[1]) if mark[1] else next(unnamed, 0)
            if not 1 <= number <= n_images:
                count = "one image" if n_images == 1 else f"{n_images} images"
                wrong(
                    where, f"the text marks {mark[0]}, but the problem has {count}; correct the mark, or add the image"
                )
            pieces[-1] += text[end : mark.start()]
            if number in order:
                pieces[-1] += f"image {number}"
            else:
                order.append(number)
                pieces.append("")
            end = mark.end()
        pieces[-1] += text[end:]
        return PLACEHOLDER.join(map(neutralise, pieces))

    made = [placed(text) for text in texts]
    while made[0].startswith(PLACEHOLDER):
        made[0] = made[0].removeprefix(PLACEHOLDER)
    unmarked = [number for number in range(1, n_images + 1) if number not in order]
    return made, [number - 1 for number in unmarked + order]


def check_marks(texts: Sequence[str], n_images: int, where: str) -> None:
    """DataError if a mark names an image that does not exist. Without any image, `<image>` is text."""
    if n_images:
        place(texts, n_images, where)
        return
    for text in texts if any("<image" in text for text in texts) else ():
        if found := next((mark for mark in _IMAGE.finditer(text) if mark[1]), None):
            wrong(where, f"the text marks {found[0]}, but the problem has no image; name the column of the images")


def without_leading_marks(text: str, others: Sequence[str] = ()) -> str:
    """The text without the image marks in front of it, which say only that the images come first.

    It stays as it is if the marks are not in order, or if the rest or one of `others` marks an image too.
    """
    leading = _LEADING.match(text.lstrip()) if "<image" in text else None
    if leading is None or any(_IMAGE.search(part) for part in (text.lstrip()[leading.end() :], *others)):
        return text
    numbers = [mark[1] for mark in _IMAGE.finditer(leading[0])]
    in_order = all(number is None or int(number) == position for position, number in enumerate(numbers, start=1))
    return text.lstrip()[leading.end() :].strip() if in_order else text


def without_marks(text: str) -> str:
    """The text without any mark of an image, for comparing what is asked."""
    return _IMAGE.sub(" ", text) if "<image" in text else text


def segments(prompt: str, n_images: int) -> list[str]:
    """A prompt's text before the first image, between the images and after the last: `n_images` + 1 texts.

    DataError if the prompt has more placeholders than images.
    """
    texts = prompt.split(PLACEHOLDER)
    missing = n_images - (len(texts) - 1)
    if missing < 0:
        raise DataError(f"the prompt has {len(texts) - 1} {PLACEHOLDER} placeholders but {n_images} images")
    return [""] * missing + texts
