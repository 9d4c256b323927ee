"""MMMU: college-level questions of 30 subjects with up to seven images: 150 dev, 900 validation, 10,500 test.

Parquet, with a folder for each subject (MMMU/MMMU) or merged (lmms-lab/MMMU): `id` ("validation_Art_Theory_3"),
`question` and `options` (a Python list as text), both with the marks `<image 1>` ... `<image 7>`, `image_1` ...
`image_7`, `question_type` ("multiple-choice", "open"), `answer` (a letter, a text, or a Python list of accepted texts),
`explanation`, `subfield`, `topic_difficulty`, `img_type`.

Scores are published on validation, which becomes test here. The answers of the test split are not public.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace

from data_process.schema import DataError, shown, wrong
from data_process.sources.base import Item, PrepareRequest, Row, Source, SplitRows, is_missing, text_of
from data_process.sources.choices import question_type, read_choices
from data_process.sources.columns import TableForm, read_row
from data_process.sources.tables import find_tables, read_table, table_rows

DISCIPLINES = {
    "Art and Design": ("Art", "Art_Theory", "Design", "Music"),
    "Business": ("Accounting", "Economics", "Finance", "Manage", "Marketing"),
    "Science": ("Biology", "Chemistry", "Geography", "Math", "Physics"),
    "Health and Medicine": (
        "Basic_Medical_Science", "Clinical_Medicine", "Diagnostics_and_Laboratory_Medicine", "Pharmacy",
        "Public_Health",
    ),
    "Humanities and Social Science": ("History", "Literature", "Psychology", "Sociology"),
    "Tech and Engineering": (
        "Agriculture", "Architecture_and_Engineering", "Computer_Science", "Electronics", "Energy_and_Power",
        "Materials", "Mechanical_Engineering",
    ),
}  # fmt: skip
SUBJECTS = {subject: discipline for discipline, subjects in DISCIPLINES.items() for subject in subjects}
CHOICE, FREE = TableForm(answer_type="choice", answer_is="letter"), TableForm()
_ID = re.compile(r"(?:dev|validation|test)_(\w+)_\d+")


def rows(request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[SplitRows]:
    """The rows of every subject: its folder, or its configuration on the hub; or those of merged tables."""
    if request.raw is None:
        subjects = [request.hub_config] if request.hub_config or request.hub else sorted(SUBJECTS)
        for subject in subjects:
            yield from table_rows(SOURCE, replace(request, hub_config=subject), splits)
        return
    folders = [request.raw / subject for subject in sorted(SUBJECTS) if (request.raw / subject).is_dir()]
    if not folders:
        yield from table_rows(SOURCE, request, splits)
        return
    found = [(folder, find_tables(folder, splits)) for folder in folders]
    if empty := [folder.name for folder, tables in found if not tables]:
        raise DataError(f"{request.raw / empty[0]} holds no table of {', '.join(splits)}. {SOURCE.files}")
    for _, tables in found:
        for split, paths in tables.items():
            yield split, (located for path in paths for located in read_table(path))


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem; without an answer where the split's answers are not public."""
    identifier = text_of(row, "id", where)
    named = _ID.fullmatch(identifier)
    subject = named[1] if named else None
    if subject not in SUBJECTS:
        wrong(where, f"'id' must name a subject, such as validation_Math_1, found {shown(identifier)}")
    if (kind := question_type(row)) not in ("multi_choice", "free_form"):
        wrong(where, f"'question_type' must be multiple-choice or open, found {shown(row.get('question_type'))}")
    multiple = kind == "multi_choice"
    secret = is_missing(row.get("answer")) or row["answer"] == "?"
    row = {**row, "subject": subject, "discipline": SUBJECTS[subject]}
    if multiple:
        row["options"] = list(read_choices(row.get("options"), where))
    else:
        row.pop("options", None)
    if secret:
        row["answer"] = "A" if multiple else "0"  # stands in while the row is read
    found = read_row(CHOICE if multiple else FREE, request, split, where, row)
    if not secret:
        return found
    return Item({key: value for key, value in found.fields.items() if key != "answer"}, found.images)


SOURCE = Source(
    name="mmmu",
    origin="MMMU",
    licence="Apache-2.0 (MMMU/MMMU); the images keep the licences of their sources",
    citation="Yue et al., MMMU: A Massive Multi-discipline Multimodal Understanding and Reasoning Benchmark for Expert "
    "AGI, CVPR 2024 (arXiv 2311.16502)",
    splits={"dev": "dev", "validation": "test"},
    rows=rows,
    item=item,
    hub="MMMU/MMMU",
    hub_files={},
    files="Download the subject folders of MMMU/MMMU, or data/*.parquet of lmms-lab/MMMU, into a folder DIR and pass "
    "--raw DIR",
    unlabelled=("test",),
    language="english",
    prompts="mmmu",
    judge="legacy:mmmu",
)
