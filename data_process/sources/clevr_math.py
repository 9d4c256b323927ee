"""CLEVR-Math: counting after adding and removing objects, in rendered scenes; every answer is a number from 0 to 10.

* Parquet of the hub (dali-does/clevr-math): `template`, `id` (of the image), `question`, `image`, `label`.
* The published JSON, `clevr-math-train.json` and so on: an object with the rows under "questions", or a list of
  rows, of `question`, `answer`, `image_filename`, `template_filename`; the images lie in `images/train` and so on.

Several questions share an image, so a problem's id is the number of its row.
"""

from __future__ import annotations

import re

from data_process.sources.base import Item, PrepareRequest, Row, Source, find_image, row_id
from data_process.sources.columns import TableForm, read_row

FORM = TableForm(columns={"id": "_id", "answer": "label", "precision": ""}, answer_type="integer")


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem of either form."""
    row = {**row, "_id": row_id(split, where)}
    if "id" in row:
        row["image_id"] = row.pop("id")
    if "template_filename" in row:
        row["template"] = str(row.pop("template_filename")).removesuffix(".json")
    if "label" not in row and "answer" in row:
        row["label"] = row.pop("answer")
    name = row.get("image_filename", row.get("image"))
    if isinstance(name, str) and (of_clevr := re.match(r"CLEVR_([a-z]+)_", name)):
        flat = any(path.is_file() for path in find_image(name, request, where).candidates)
        row["image"] = name if flat else f"{of_clevr[1]}/{name}"
    return read_row(FORM, request, split, where, row)


SOURCE = Source(
    name="clevr_math",
    origin="CLEVR-Math",
    licence="CC BY 4.0 by its page on the hub, CC BY-SA 4.0 by its files",
    citation="Lindström and Abraham, CLEVR-Math: A Dataset for Compositional Language, Visual and Mathematical "
    "Reasoning, NeSy 2022 (arXiv 2208.05358)",
    splits={"train": "train", "val": "dev", "test": "test"},
    item=item,
    pictured=True,
    hub="dali-does/clevr-math",
    files="Download the Parquet files of dali-does/clevr-math, or clevr-math-*.json and the images of CLEVR v1.0, into "
    "a folder DIR and pass --raw DIR (--images DIR/images)",
    language="english",
    prompts="clevr-math",
    judge="legacy:clevr",
)
