"""We-Math testmini: 525 problems of two or three steps, each with the one-step problems into which it is decomposed.

JSON with an image folder (We-Math/We-Math) or Parquet: `ID` (the same for a problem and its steps, such as "2steps_1"),
`key` ("2steps_1", "2steps_2" for the steps, "2steps_multi" for the whole), `question`, `option` ("A. ...; B. ..."),
`answer` (a letter), `image_path`, `knowledge concept`, `knowledge concept description`, `question number`.

Its four measures need whole decompositions: `selftrain score` counts the incomplete ones. The description of the
concept goes to `meta`; the published prompt without it is the one used here.
"""

from __future__ import annotations

import re

from data_process.schema import shown, wrong
from data_process.sources.base import Item, PrepareRequest, Row, Source, text_of
from data_process.sources.columns import TableForm, read_row

FORM = TableForm(columns={"id": "_id", "choices": "option"}, answer_type="choice", answer_is="letter")
_KEY = re.compile(r"([23])steps_([123]|multi)")
_STEPS = {"2": "two-step", "3": "three-step"}


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem: a whole one or a step. `meta.steps` and `meta.concepts` are what accuracies are published by."""
    group, key = text_of(row, "ID", where), text_of(row, "key", where)
    found = _KEY.fullmatch(key)
    if found is None or (found[2] != "multi" and found[2] > found[1]):
        wrong(where, f"'key' must name a step or the whole, such as 2steps_1 or 2steps_multi, found {shown(key)}")
    whole = found[2] == "multi"
    steps = _STEPS[found[1]] if whole else "one-step"
    concepts = [] if whole else [text_of(row, "knowledge concept", where)]
    more = {"_id": f"{group}-{found[2]}", "steps": steps, "concepts": concepts}
    return read_row(FORM, request, split, where, {**row, **more})


SOURCE = Source(
    name="wemath",
    origin="We-Math",
    licence="CC BY-NC 4.0",
    citation="Qiao et al., We-Math: Does Your Large Multimodal Model Achieve Human-like Mathematical Reasoning?, "
    "ACL 2025 (arXiv 2407.01284)",
    splits={"testmini": "test"},
    item=item,
    pictured=True,
    hub="We-Math/We-Math",
    files="Download the data folder of We-Math/We-Math (testmini.json, 2steps/ and 3steps/) as DIR and pass --raw DIR",
    language="english",
    prompts="wemath",
    judge="legacy:wemath",
)
