r"""GeoQA: geometry questions from Chinese schools, in the processed forms that self-training work uses.

* Rows (MM-self-improve's `train.jsonl` and `test.jsonl`, each one JSON array): `id`, `question`, `choices`, `answer` (a
  letter), `image` (a name in `images/`).
* ShareGPT rows (its `geoqa_train_base.json`): one user turn `<image>question\nChoices:\n(A) ...`, one assistant turn
  `Answer: \nB`, and the image's path on the authors' machine, of which only the file's name counts. The image's name
  is the id.
* Conversations of the same kind in other words (Geo170K, MathV360K): choices `A. ...`, and a worked solution that ends
  in `Answer:B`.
* Free answers (R1-V's `geoqa_test_prompts.jsonl` and outputs on it): `question`, `gold` or `ground_truth` such as
  `10√{2}`, `140°`, `5cm^2^`, no choices; `id`, or the image's name in its place. Judged as expressions.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath

from data_process.images.marks import without_leading_marks
from data_process.schema import LETTERS, DataError, shown, wrong
from data_process.sources.base import (
    Item,
    PrepareRequest,
    Row,
    Source,
    SplitRows,
    choices_of,
    find_image,
    images_of,
    letter_of,
    plain_value,
    repeated_choices,
    text_of,
)
from data_process.sources.choices import choices_in_question
from data_process.sources.golds import final_answer, gold_letter_alone
from data_process.sources.tables import read_table, split_of, table_rows

FILES = (
    "The processed GeoQA (train.jsonl, test.jsonl, images/) is linked from the README of MM-self-improve-qwen2vl on "
    "GitHub; extract it into a folder DIR and pass --raw DIR"
)
MAX_STATEMENT = 40  # characters: "The answer is B."
_CHOICE = re.compile(r"\(([A-J])\) ?(.*)")


def rows(request: PrepareRequest, splits: Mapping[str, str]) -> Iterable[SplitRows]:
    """The tables of a folder, or one table, whose split follows from its name or its ids."""
    if request.raw is None:
        raise DataError(f"GeoQA is read from files. {FILES}")
    if request.raw.is_file() and len(splits) > 1 and split_of(request.raw, list(splits)) is None:
        named = {str(row.get("id")).partition("-")[0] for _, row in read_table(request.raw)}
        if len(named) == 1 and named <= set(splits):
            return [(named.pop(), read_table(request.raw))]
    return table_rows(SOURCE, request, splits)


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem of any of the three forms."""
    if "messages" in row or "conversations" in row:
        row = _from_turns(row, where)
    name = row.get("image", row.get("image_path"))
    of_other_machine = "image_path" in row or bool(row.get("_other_machine"))
    identifier = row.get("id")
    if name is not None and (of_other_machine or not isinstance(name, str | Mapping | list)):
        paths = name if isinstance(name, list) else [name]
        images = tuple(find_image(path, request, where, basename=of_other_machine) for path in paths)
    else:
        images = images_of(name, str(identifier), request, where)
    if identifier is None and images:
        identifier = PurePosixPath(images[0].name).stem
        identifier = identifier if identifier.startswith(split) else f"{split}-{identifier}"
    if not isinstance(identifier, str) or not identifier:
        wrong(where, f"'id' must be text, found {identifier!r}")
    question = text_of(row, "question", where)
    choices: tuple[str, ...] = ()
    if row.get("choices") is not None:
        choices = choices_of(row["choices"], where)
        answer = plain_value(row.get("answer"))
        if answer is None:
            wrong(where, f"'answer' must be a letter, found {row.get('answer')!r}")
        letter = letter_of(answer, choices, where, "letter")
        fields = {"choices": list(choices), "answer": letter, "answer_type": "choice"}
        notes = repeated_choices(choices, letter)
    else:
        given = next((row[name] for name in ("gold", "ground_truth", "answer") if row.get(name) is not None), None)
        answer = plain_value(given)
        if answer is None or not answer.strip():
            wrong(where, f"neither choices nor a gold answer (gold, ground_truth or answer), found {given!r}")
        fields = {"answer": answer.strip(), "answer_type": "expression"}
        notes = ()
    if images:
        question = without_leading_marks(question, choices)
    else:
        notes += ("the row names no image",)
    return Item({"id": identifier, "question": question, **fields}, images, notes)


def _from_turns(row: Row, where: str) -> Row:
    """The row that a ShareGPT row was made from. DataError if it lacks question, choices or letter."""
    turns = row.get("messages") or row.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2 or not all(isinstance(turn, dict) for turn in turns):
        wrong(where, "expected one user turn and one assistant turn")
    asked, said = (turn.get("content", turn.get("value")) for turn in turns)
    if not isinstance(asked, str) or not isinstance(said, str):
        wrong(where, "the turns must hold text in 'content' or 'value'")
    question, header, listed = asked.partition("\nChoices:\n")
    found = [_CHOICE.fullmatch(line) for line in listed.split("\n")]
    choices = [m[2] for m in found if m]
    published = bool(header) and [m and m[1] for m in found] == list(LETTERS[: len(found)])
    if not published:
        parts = choices_in_question(asked)  # as Geo170K and MathV360K write them
        if parts is None:
            wrong(
                where, "the user turn must end in 'Choices:' and lines (A) ..., (B) ...; is this self-training output?"
            )
        question, choices = parts[0], list(parts[1])
    stated = re.fullmatch(r"\s*Answer:\s*\(?([A-J])\)?\s*", said)
    short = not published or len(said) <= MAX_STATEMENT  # a longer answer to the published wording was sampled
    letter = stated[1] if stated else gold_letter_alone(final_answer(said) or said) if short else None
    if letter is None:
        wrong(where, f"the assistant turn must be 'Answer: ' and a letter, found {shown(said[-60:])}")
    images = row.get("images", [row["image"]] if row.get("image") else [])
    if not isinstance(images, list):
        wrong(where, f"'images' must be a list, found {shown(images)}")
    return {
        "question": re.sub(r"^((?:<image>\s*)*)Question:\s*", r"\1", question),
        "choices": choices,
        "answer": letter,
        "image": images or None,
        "_other_machine": published,
        **({"id": row["id"]} if "id" in row else {}),
    }


SOURCE = Source(
    name="geoqa",
    origin="GeoQA",
    licence="not stated by the authors of GeoQA; the processed files come with MM-self-improve-qwen2vl (Apache-2.0)",
    citation="Chen et al., GeoQA: A Geometric Question Answering Benchmark Towards Multimodal Numerical Reasoning, "
    "Findings of ACL 2021 (arXiv 2105.14517); processed by Cheng et al., arXiv 2411.00855",
    splits={"train": "train", "dev": "dev", "test": "test"},
    rows=rows,
    item=item,
    files=FILES,
    language="english",  # translated
    judge="geoqa",
)
