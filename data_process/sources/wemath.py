"""We-Math testmini: 525 problems of two or three steps, each with the one-step problems into which it is decomposed.

JSON with an image folder (We-Math/We-Math) or Parquet: `ID` (the same for a problem and its steps, such as "2steps_1"),
`key` ("2steps_1", "2steps_2" for the steps, "2steps_multi" for the whole), `question`, `option` ("A. ...; B. ..."),
`answer` (a letter), `image_path`, `knowledge concept`, `knowledge concept description`, `question number`.

Its four measures need whole decompositions: `selftrain score` counts the incomplete ones. With the published
`knowledge_structure_nodes.json` beside the table, steps name the group of their concept, one of 12 by which accuracies
are published. The description of the concept goes to `meta`; the published prompt without it is the one used here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from data_process.json_files import read_json
from data_process.schema import shown, wrong
from data_process.sources.base import Item, PrepareRequest, Row, Source, SplitRows, text_of
from data_process.sources.columns import TableForm, read_row
from data_process.sources.tables import table_rows

FORM = TableForm(columns={"id": "_id", "choices": "option"}, answer_type="choice", answer_is="letter")
_KEY = re.compile(r"([23])steps_([123]|multi)")
_STEPS = {"2": "two-step", "3": "three-step"}
NODES = "knowledge_structure_nodes.json"


def rows(request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[SplitRows]:
    """The rows of each split, with the group of their concept where the file of the groups lies beside the table."""
    groups = _groups(request.raw)
    for split, located in table_rows(SOURCE, request, splits):
        yield (
            split,
            ((where, {**row, "concept_group": groups.get(str(row.get("knowledge concept")))}) for where, row in located)
            if groups
            else located,
        )


def _groups(raw: Path | None) -> dict[str, str]:
    """Concept -> its group. A node is named by the path to it, whose last part is the concept."""
    folders = [] if raw is None else [raw, raw / "data"] if raw.is_dir() else [raw.parent]
    path = next((folder / NODES for folder in folders if (folder / NODES).is_file()), None)
    if path is None:
        return {}
    nodes = read_json(path, "fetch it again, or remove it")
    groups = {}
    for node in nodes if isinstance(nodes, list) else [None]:
        name, group = (node.get("full node"), node.get("root2")) if isinstance(node, dict) else (None, None)
        if not isinstance(name, str) or not isinstance(group, str):
            wrong(str(path), "expected a list of objects with 'full node' and 'root2'; fetch it again, or remove it")
        groups[name.rpartition("_")[2]] = group
    return groups


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem: a whole one or a step. `meta.steps` and `meta.concepts` are what accuracies are published by."""
    group, key = text_of(row, "ID", where), text_of(row, "key", where)
    found = _KEY.fullmatch(key)
    if found is None or (found[2] != "multi" and found[2] > found[1]):
        wrong(where, f"'key' must name a step or the whole, such as 2steps_1 or 2steps_multi, found {shown(key)}")
    whole = found[2] == "multi"
    steps = _STEPS[found[1]] if whole else "one-step"
    concepts = [] if whole else [text_of(row, "knowledge concept", where)]
    if whole:
        row = {name: value for name, value in row.items() if name != "concept_group"}
    more = {"_id": f"{group}-{found[2]}", "steps": steps, "concepts": concepts}
    return read_row(FORM, request, split, where, {**row, **more})


SOURCE = Source(
    name="wemath",
    origin="We-Math",
    licence="CC BY-NC 4.0",
    citation="Qiao et al., We-Math: Does Your Large Multimodal Model Achieve Human-like Mathematical Reasoning?, "
    "ACL 2025 (arXiv 2407.01284)",
    splits={"testmini": "test"},
    rows=rows,
    item=item,
    pictured=True,
    hub="We-Math/We-Math",
    files="Download the data folder of We-Math/We-Math (its JSON files, 2steps/ and 3steps/) as DIR and pass --raw DIR",
    language="english",
    prompts="wemath",
    judge="legacy:wemath",
)
