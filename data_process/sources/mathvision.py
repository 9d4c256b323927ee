"""MathVision (MATH-V): 3,040 problems of mathematics competitions, each with one image; 304 of them are testmini.

JSON Lines with an image folder (mathllm/MATH-V) or Parquet (MathLLMs/MathVision): `id`, `question`, `options` (five
texts, or none for a free answer), `answer` (a letter, or the value), `image` (a path), `decoded_image` (the file),
`level` (1 to 5), `subject` (16 of them), `solution` (mostly empty).

Where the options are the letters A to E themselves, or blank, they are drawn in the image, and no prompt lists them;
the same holds for the few problems whose answer is a letter and that have no options. The marks `<image1>`,
`<image2>` ... name parts of the one image: a single mark is left out, and several become "image 1", "image 2" ...
"""

from __future__ import annotations

import re
from dataclasses import replace

from data_process.schema import LETTERS, shown, wrong
from data_process.sources.base import Item, PrepareRequest, Row, Source, is_missing, text_of
from data_process.sources.columns import TableForm, read_row
from data_process.sources.golds import gold_letter_alone

FORM = TableForm(answer_is="letter")
IN_IMAGE = "The question is shown in the image."  # where it is nothing but a mark
OPTIONS = 5  # of every problem that has options
_MARK = re.compile(r"<image(\d+)>")


def without_marks(texts: list[str], where: str) -> list[str]:
    """A question and its options with marks that are no places of images: there is one image for all of them.

    DataError for a mark with a higher number than there are marks.
    """
    numbers = [int(number) for text in texts for number in _MARK.findall(text)]
    if max(numbers, default=0) > len(numbers):
        what = f"the text marks <image{max(numbers)}>, but has only {len(numbers)} marks"
        wrong(where, f"{what}; number the parts of the image from 1, or leave the mark out")
    if sum(len(_MARK.findall(text)) for text in texts) == 1 and _MARK.search(texts[0]):
        return [re.sub(r"\n\s*\n", "\n", _MARK.sub("", texts[0])).strip(), *texts[1:]]
    return [_MARK.sub(r"image \1", text) for text in texts]


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem."""
    options = row.get("options")
    if is_missing(options):
        options = []
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        wrong(where, f"'options' must be a list of texts, empty for a free answer; found {shown(options)}")
    question, *options = without_marks([text_of(row, "question", where), *options], where)
    answer = text_of(row, "answer", where)
    notes: tuple[str, ...] = ()
    if not options and gold_letter_alone(answer):
        options, notes = list(LETTERS[:OPTIONS]), ("no options; the answer is the letter of one in the image",)
    if options and not any(option.strip() for option in options):
        options = list(LETTERS[: len(options)])
    drawn = options == list(LETTERS[: len(options)]) and bool(options)
    # A broken escape in the published file: "\f" of "\frac" was read as a form feed.
    row = {**row, "question": question or IN_IMAGE, "options": options, "answer": answer.replace("\f", "\\f")}
    if not is_missing(row.get("decoded_image")):
        row["image"] = row["decoded_image"]
    found = read_row(FORM, request, split, where, row)
    if drawn:
        found = replace(found, fields={**found.fields, "choices_in_image": True})
    return replace(found, notes=(*found.notes, *notes))


SOURCE = Source(
    name="mathvision",
    origin="MathVision",
    licence="MIT as uploaded (MathLLMs/MathVision); the problems are from 19 competitions, such as AMC",
    citation="Wang et al., Measuring Multimodal Mathematical Reasoning with MATH-Vision Dataset, NeurIPS 2024 "
    "(arXiv 2402.14804)",
    splits={"test": "test"},
    item=item,
    pictured=True,
    hub="MathLLMs/MathVision",
    hub_files={"test": "data/test-*", "testmini": "data/testmini-*"},
    files="Download data/*.parquet of MathLLMs/MathVision, or data/ and images/ of mathllm/MATH-V, into a folder DIR "
    "and pass --raw DIR",
    language="english",
    prompts="mathvision",
)
