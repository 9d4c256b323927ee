r"""M3CoT: multiple choice with reasoning over several steps, in science, common sense and mathematics.

JSON Lines (LightChen233/M3CoT) or Parquet (LightChen2333/M3CoT): `id`, `question`, `choices`, `context` (often empty),
`answer` (a letter), `rationale`, `image` (the file itself, or a path of Windows such as `data\images\ID.png`, of which
only the file's name counts; may be missing), `domain`, `topic`.

The context is part of the prompt; the rationale goes to `meta`.
"""

from __future__ import annotations

from dataclasses import replace

from data_process.sources.base import Item, PrepareRequest, Row, Source
from data_process.sources.columns import TableForm, read_row

FORM = TableForm(columns={"context": "context"}, answer_is="letter", answer_type="choice")


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem."""
    row = {"context": None, **row}
    if isinstance(row.get("image"), str):
        row["image"] = row["image"].replace("\\", "/").rpartition("/")[2]
    found = read_row(FORM, request, split, where, row)
    return found if found.images else replace(found, notes=(*found.notes, "the row has no image"))


SOURCE = Source(
    name="m3cot",
    origin="M3CoT",
    licence="CC BY-SA 4.0 (part of it is from ScienceQA, CC BY-NC-SA 4.0)",
    citation="Chen et al., M3CoT: A Novel Benchmark for Multi-Domain Multi-step Multi-modal Chain-of-Thought, "
    "ACL 2024 (arXiv 2405.16473)",
    splits={"train": "train", "validation": "dev", "test": "test"},
    item=item,
    hub="LightChen2333/M3CoT",
    files="Download data/*.parquet of LightChen2333/M3CoT, or its JSON Lines and images, into a folder DIR and pass "
    "--raw DIR",
    language="english",
    prompts="m3cot",
)
