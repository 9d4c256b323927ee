"""ChartQA: questions about charts, written by people ("human") or generated from captions ("augmented").

* The published folders (vis-nlp/ChartQA): `train/ val/ test/`, each with `SPLIT_human.json`, `SPLIT_augmented.json`
  (lists of `imgname`, `query`, `label`) and the images in `png/`. The two files may also lie side by side.
* Parquet of the hub (HuggingFaceM4/ChartQA): `image`, `query`, `label` (a list of one text), `human_or_machine` (0, 1);
  or lmms-lab/ChartQA, whose columns are `question`, `answer` and `type`.

`--part human` reads one part. A number is right within 5%, which is the published score; a year must be exact.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from data_process.sources.base import Item, PrepareRequest, Row, Source, SplitRows, row_id
from data_process.sources.columns import TableForm, number_or_text, read_row
from data_process.sources.tables import ALIASES, read_table, table_rows

PARTS = ("human", "augmented")
FORM = TableForm(columns={"id": "_id"}, infer=number_or_text, tolerance="5%")


def rows(request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[SplitRows]:
    """The rows of each split's two files, or those of a table; of the part that `--part` names, if it does."""
    files = {split: _files(request.raw, split) for split in splits} if request.raw and request.raw.is_dir() else {}
    if any(files.values()):
        found: Iterable[SplitRows] = [
            (split, (row for path in paths for row in read_table(path))) for split, paths in files.items() if paths
        ]
    else:
        found = table_rows(SOURCE, request, splits)
    wanted = request.options.get("part")
    for split, located in found:
        yield split, ((where, row) for where, row in located if wanted in (None, part_of(row, where)))


def _files(raw: Path, split: str) -> list[Path]:
    names = [f"{name}_{part}.json" for part in PARTS for name in ALIASES.get(split, (split,))]
    return [path for name in names for path in (raw / split / name, raw / name) if path.is_file()]


def part_of(row: Row, where: str) -> str | None:
    """Whether a row is "human" or "augmented": by its column, or else by the name of its file; None if unknown."""
    said = row.get("type", row.get("human_or_machine"))
    text = {0: "human", 1: "augmented"}.get(said, "") if isinstance(said, int) else str(said or Path(where).name)
    return next((part for part in PARTS if part in text), None)


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem. Questions share images, so its id is the number of its row."""
    part = part_of(row, where)
    row = {**row, "part": part, "_id": row_id(f"{split}-{part}" if "imgname" in row and part else split, where)}
    for published, name in (("query", "question"), ("label", "answer")):
        if name not in row and published in row:
            row[name] = row.pop(published)
    if "imgname" in row:
        inside = request.images is None and request.raw is not None and (request.raw / split / "png").is_dir()
        folder = f"{split}/png/" if inside else "png/" if request.images is None else ""
        row["image"] = f"{folder}{row['imgname']}"
    return read_row(FORM, request, split, where, row)


SOURCE = Source(
    name="chartqa",
    origin="ChartQA",
    licence="GPL-3.0; the charts keep the licences of Statista, Pew Research, Our World in Data and OECD",
    citation="Masry et al., ChartQA: A Benchmark for Question Answering about Charts with Visual and Logical "
    "Reasoning, Findings of ACL 2022 (arXiv 2203.10244)",
    splits={"train": "train", "val": "dev", "test": "test"},
    rows=rows,
    item=item,
    pictured=True,
    hub="HuggingFaceM4/ChartQA",
    hub_files={"train": "data/train-*", "val": "data/val-*", "test": "data/test-*"},
    files="Download the ChartQA Dataset folder of vis-nlp/ChartQA, or data/*.parquet of HuggingFaceM4/ChartQA, into a "
    "folder DIR and pass --raw DIR",
    language="english",
    prompts="chartqa",
    judge="chartqa",
    options=("part",),
)
