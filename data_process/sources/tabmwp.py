"""TabMWP: word problems about a table, which the image shows (lupantech/PromptPG).

`problems_train.json`, `problems_dev.json` and `problems_test.json` are objects of problems by number: `question`,
`choices` (null for a free answer), `answer` (the text of the right choice), `unit`, `table_title`, `table`, `solution`,
`ques_type`, `ans_type`, `grade`. The images are `tables/NUMBER.png`. The 1,000 problems that papers often test on are
read with `--split test1k=test`.

The table's text goes to `meta`: a model is to read it from the image.
"""

from __future__ import annotations

from data_process.schema import shown, wrong
from data_process.sources.base import Item, PrepareRequest, Row, Source, is_missing
from data_process.sources.columns import TableForm, number_or_text, read_row

FORM = TableForm(answer_is="text", infer=number_or_text)
KINDS = {
    "ques_type": ("free_text", "multi_choice"),
    "ans_type": ("integer_number", "decimal_number", "extractive_text", "boolean_text", "other_text"),
}


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem; its solution becomes `meta.rationale`."""
    for column, known in KINDS.items():
        if not is_missing(row.get(column)) and row[column] not in known:
            wrong(where, f"unknown {column} {shown(row[column])}; known: {', '.join(known)}")
    if row.get("ques_type") == "multi_choice" and is_missing(row.get("choices")):
        wrong(where, "'ques_type' is multi_choice, but 'choices' is empty")
    row = {**row, "rationale": row.get("solution")}
    row.pop("solution", None)
    if row.get("image") is None and "pid" in row:
        row["image"] = f"tables/{row['pid']}.png"
    return read_row(FORM, request, split, where, row)


SOURCE = Source(
    name="tabmwp",
    origin="TabMWP",
    licence="CC BY-NC-SA 4.0",
    citation="Lu et al., Dynamic Prompt Learning via Policy Gradient for Semi-structured Mathematical Reasoning, "
    "ICLR 2023 (arXiv 2209.14610)",
    item=item,
    files="Download data/tabmwp of lupantech/PromptPG (problems_*.json and tables/) into a folder DIR and pass "
    "--raw DIR",
    language="english",
    prompts="tabmwp",
    judge="legacy:tabmwp",
)
