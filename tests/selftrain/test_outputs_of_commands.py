"""Every command that writes a file refuses to write it onto one that it reads: exit status 2, and nothing changed."""

from __future__ import annotations

import json

import pytest

from data_process.io import write_jsonl
from data_process.sources.minigeo import traces
from selftrain.cli.main import main

SCORE = "score --problems p.jsonl --outputs a.jsonl"
EXTRACTOR = "--extractor-url http://127.0.0.1:9 --extractor-model m"
# fmt: off
CASES = [
    *(f"{SCORE} --per-item {name}" for name in ("p.jsonl", "a.jsonl", "./p.jsonl", "link.jsonl", "data/test.jsonl")),
    f"{SCORE} --judge mathvista --official-out a.jsonl",
    f"{SCORE} --judge mathvista --official-scores p.jsonl",
    f"{SCORE} --judge mathvista --per-item new.json --official-out new.json",
    f"{SCORE} {EXTRACTOR} --extractor-cache a.jsonl",
    "check-leakage --train data --test data --write-clean data/train.jsonl",
    "check-leakage --train p.jsonl --test data --write-clean p.jsonl",
    "prepare table --raw data/train.jsonl --split train --out data --replace",
    "prepare table --raw p.jsonl --split train --borrow test=data --out data --replace",
    "curate --pool data --policy all --out data --replace",
    "distill --problems p.jsonl --out p.jsonl --config rehearsal",
    "distill --problems p.jsonl --out bank.sqlite --config rehearsal --set bank=bank.sqlite",
    "train --rows p.jsonl --config rehearsal --output data --set data.folder=data",
    "run --config rehearsal --output data --set data.folder=data --set data.source=jsonl",
    "scale --problems p.jsonl --model folder --output folder",
    "serve folder --log folder/config.json",
]
# fmt: on


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"id": f"q{k}", "question": f"How many degrees, {k}?", "answer": str(k)} for k in range(9)]
    for name in ("p.jsonl", "data/train.jsonl", "data/dev.jsonl", "data/test.jsonl"):
        write_jsonl(tmp_path / name, rows)
    write_jsonl(tmp_path / "a.jsonl", [{"id": row["id"], "response": "Answer: 1"} for row in rows])
    (tmp_path / "data/card.json").write_text("{}")
    (tmp_path / "link.jsonl").symlink_to("a.jsonl")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder/config.json").write_text(json.dumps({"model_type": "qwen2_vl"}))
    (tmp_path / "bank.sqlite").write_bytes(b"mine")
    return tmp_path


@pytest.mark.parametrize("line", CASES)
def test_inputs_stay(here, capsys, line):
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    assert main(line.split()) == 2
    assert "error: " in (error := capsys.readouterr().err)
    assert "name another place" in error
    assert {path: path.read_bytes() for path in here.rglob("*") if path.is_file()} == before


def test_traces_of_minigeo(here):
    with pytest.raises(SystemExit, match="2"):
        traces.main(["--problems", "p.jsonl", "--out", "p.jsonl"])
    assert (here / "p.jsonl").read_bytes().startswith(b'{"id": "q0"')
