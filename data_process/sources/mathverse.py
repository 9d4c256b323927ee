"""MathVerse testmini: 788 problems, each in several versions with more or less of its text moved into the image.

JSON with an image folder, or Parquet (AI4Math/MathVerse): `sample_index`, `problem_index`, `problem_version`,
`question` (empty in the version "Vision Only"), `image` (empty in "Text Only"), `answer`, `question_type`
("multi-choice", "free-form"), `metadata` (`source`, `subject`, `subfield`), `query_wo`, `query_cot` and in newer files
`question_for_eval`, the question with its text. The five versions with images are one file and "Text Only" is another,
which is read with `--split testmini_text_only=test`.

The choices stand in the question, and in "Vision Only" in the image. No prompt lists those; their texts are read from
`question_for_eval` for the judge. A problem is named by its number and its version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from data_process.schema import LETTERS, shown, wrong
from data_process.sources.base import Item, PrepareRequest, Row, Source, is_missing, plain_value, text_of
from data_process.sources.choices import choices_in_question, question_type
from data_process.sources.columns import TableForm, read_row
from data_process.sources.golds import gold_letter_alone

VISION_ONLY = "Vision Only"
IN_IMAGE = "The question is shown in the image."
FORM = TableForm(columns={"id": "_id"})


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One version of a problem."""
    version = text_of(row, "problem_version", where)
    number = plain_value(row.get("problem_index"))
    metadata = row.get("metadata")
    if not number or not isinstance(metadata, Mapping):
        seen = f"{shown(row.get('problem_index'), 40)} and {shown(metadata, 40)}"
        wrong(where, f"'problem_index' must be a number, and 'metadata' an object; found {seen}")
    kind = question_type(row)
    if kind not in ("multi_choice", "free_form"):
        wrong(where, f"'question_type' must be multi-choice or free-form, found {shown(row.get('question_type'))}")
    # The file has a degree sign that was once read as Chinese text.
    row = {**row, "answer": text_of(row, "answer", where).replace("\u63b3", "°"), **metadata}
    row["_id"] = f"{number}-{version.lower().replace(' ', '-')}"
    row["origin"] = [metadata.get("source") or "MathVerse", "MathVerse"]
    notes: tuple[str, ...] = ()
    drawn = version == VISION_ONLY and kind == "multi_choice"
    if version == VISION_ONLY and is_missing(row.get("question")):
        row["question"] = IN_IMAGE
    if drawn:
        full = row.get("question_for_eval")
        found = choices_in_question(full) if isinstance(full, str) else None
        letter = gold_letter_alone(row["answer"])
        if found is None and letter is None:
            wrong(where, "no choices: 'question_for_eval' must hold them, or the answer must be a letter")
        if found is None:
            notes = ("the texts of the choices in the image are unknown",)
        row["choices"] = list(found[1]) if found else list(LETTERS[: max(4, LETTERS.index(letter or "A") + 1)])
    for name in ("metadata", "query_wo", "query_cot"):
        row.pop(name, None)
    read = read_row(FORM, request, split, where, row)
    fields = {**read.fields, "choices_in_image": True} if drawn else read.fields
    if kind == "multi_choice" and fields["answer_type"] != "choice":
        wrong(where, "no choices were found in the question of a multi-choice problem")
    return replace(read, fields=fields, notes=(*read.notes, *notes))


SOURCE = Source(
    name="mathverse",
    origin="MathVerse",
    licence="MIT (AI4Math/MathVerse); the diagrams keep the licences of their sources, such as GeoQA and Geometry3K",
    citation="Zhang et al., MathVerse: Does Your Multi-modal LLM Truly See the Diagrams in Visual Math Problems?, "
    "ECCV 2024 (arXiv 2403.14624)",
    splits={"testmini": "test"},
    item=item,
    hub="AI4Math/MathVerse",
    hub_files={"testmini": "testmini.parquet", "testmini_text_only": "testmini_text_only.parquet"},
    files="Download testmini.parquet, or testmini.json and images.zip, unpacked, of AI4Math/MathVerse into a folder "
    "DIR and pass --raw DIR/testmini.parquet, or --raw DIR/testmini.json --images DIR/images",
    language="english",
    prompts="mathverse",
)
