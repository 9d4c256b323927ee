"""Geometry3K: 3,002 multiple-choice problems with diagrams (2,101 train, 300 val, 601 test).

* Inter-GPS folders (lupantech/InterGPS): `train/ val/ test/`, each with one folder per item that holds `data.json` and
  `img_diagram.png`, and `logic_form.json` where the annotations are unpacked too. The question is `annotat_text`, the
  text that the Parquet form has; `--text problem_text` reads the original one, `--text compact_text` the shortened one.
* Parquet, as used for reinforcement learning (hiyouga/geometry3k): `images` (one), `problem` (starts with `<image>`),
  `answer` (the text of the right choice) and in newer uploads `id`, `choices`, `ground_truth`. Without choices the
  problem asks for a free answer and is judged as an expression.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data_process.images.marks import without_leading_marks
from data_process.json_files import read_json
from data_process.schema import LETTERS, DataError, wrong
from data_process.sources.base import (
    Item,
    LocatedRow,
    PrepareRequest,
    Row,
    Source,
    SourceImage,
    SplitRows,
    choices_of,
    embedded_image,
    letter_of,
    plain_value,
    repeated_choices,
    text_of,
)
from data_process.sources.tables import ALIASES, table_rows

TEXTS = ("annotat_text", "problem_text", "compact_text")
FILES = (
    "Download data/*.parquet of hiyouga/geometry3k, or the train, val and test archives that the README of "
    "lupantech/InterGPS links, unpack them into a folder DIR and pass --raw DIR"
)


def rows(request: PrepareRequest, splits: Mapping[str, str]) -> Iterator[SplitRows]:
    """Items of the split folders, or the rows of Parquet files or the hub."""
    folders = _folders(request.raw, splits) if request.raw is not None else {}
    if folders:
        for split, folder in folders.items():
            yield split, _items(folder)
    else:
        yield from table_rows(SOURCE, request, splits)


def _folders(raw: Path, splits: Mapping[str, str]) -> dict[str, Path]:
    """split -> its folder of items. `raw` itself may be one, if its name or a single requested split says which."""
    found = {}
    for split in splits:
        names = ALIASES.get(split, (split,))
        folder = next((raw / name for name in names if any((raw / name).glob("*/data.json"))), None)
        if folder is not None:
            found[split] = folder
    if not found and any(raw.glob("*/data.json")):
        named = [s for s in splits if raw.name in ALIASES.get(s, (s,))] if len(splits) > 1 else list(splits)
        if len(named) != 1:
            raise DataError(f"{raw} holds items of one split; say which with --split {' or --split '.join(splits)}")
        found[named[0]] = raw
    return found


def _items(folder: Path) -> Iterator[LocatedRow]:
    """The items of a split folder, in the order of their numbers; every sub-folder must be an item."""
    for path in sorted((f for f in folder.iterdir() if f.is_dir()), key=lambda f: (len(f.name), f.name)):
        row = _read(path / "data.json")
        forms = path / "logic_form.json"
        yield str(path / "data.json"), {"_folder": path, "_forms": _read(forms) if forms.is_file() else None, **row}


def _read(path: Path) -> dict[str, Any]:
    value = read_json(path, "unpack the archive again")
    if not isinstance(value, dict):
        wrong(str(path), f"holds a {type(value).__name__}, not the fields of one item")
    return value


def item(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    """One problem of either form."""
    return _from_folder(request, split, where, row) if "_folder" in row else _from_row(request, split, where, row)


def _from_folder(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    folder: Path = row["_folder"]
    question = text_of(row, request.options.get("text") or TEXTS[0], where)
    choices = choices_of(row.get("choices"), where)
    letter = plain_value(row.get("answer"))
    if letter is None or len(letter) != 1 or letter not in LETTERS[: len(choices)]:
        wrong(where, f"gold {letter!r} is outside the choices: it must be one of {LETTERS[: len(choices)]}")
    meta = {key: row[key] for key in ("problem_type_graph", "problem_type_goal") if row.get(key)}
    forms = row["_forms"] or {}
    meta.update({key: forms[key] for key in ("text_logic_form", "diagram_logic_form") if forms.get(key)})
    name = f"{split}-{folder.name}"
    fields = {"id": name, "question": question, "choices": list(choices), "answer": letter, "meta": meta}
    return Item(
        {**fields, "answer_type": "choice"},
        (SourceImage(f"{name}.png", (folder / "img_diagram.png",)),),
        repeated_choices(choices, letter),
    )


def _from_row(request: PrepareRequest, split: str, where: str, row: Row) -> Item:
    number = row.get("id")
    # Uploads without ids keep their order, so the row's number in its split names the problem.
    name = f"{split}-{number if number is not None else 'row' + where.rpartition(' ')[2]}"
    question = without_leading_marks(text_of(row, "problem", where))
    answer = plain_value(row.get("answer"))
    if answer is None or not answer.strip():
        wrong(where, f"'answer' must be text, found {row.get('answer')!r}")
    images = row.get("images")
    if not isinstance(images, list) or len(images) != 1:
        wrong(where, f"'images' must hold one image, found {len(images) if isinstance(images, list) else images!r}")
    image = embedded_image(images[0], name, request, where)
    if not row.get("choices"):
        return Item({"id": name, "question": question, "answer": answer, "answer_type": "expression"}, (image,))
    choices = choices_of(row["choices"], where)
    truth = plain_value(row.get("ground_truth"))
    letter = letter_of(truth, choices, where, "letter") if truth else letter_of(answer, choices, where, "text")
    if answer not in (letter, choices[LETTERS.index(letter)]):
        wrong(where, f"answer {answer!r} and ground_truth {truth!r}, which is {letter}, contradict each other")
    fields = {"id": name, "question": question, "choices": list(choices), "answer": letter, "answer_type": "choice"}
    return Item(fields, (image,), repeated_choices(choices, letter))


SOURCE = Source(
    name="geometry3k",
    origin="Geometry3K",
    licence="MIT as uploaded (hiyouga/geometry3k); the problems come from textbooks by way of Inter-GPS",
    citation="Lu et al., Inter-GPS: Interpretable Geometry Problem Solving with Formal Language and Symbolic "
    "Reasoning, ACL 2021 (arXiv 2105.04165)",
    splits={"train": "train", "val": "dev", "test": "test"},
    rows=rows,
    item=item,
    hub="hiyouga/geometry3k",
    hub_files={"train": "data/train-*", "val": "data/validation-*", "test": "data/test-*"},
    files=FILES,
    language="english",
    options=("text",),
)
