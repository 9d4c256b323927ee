"""Bounds on what files hold: numbers, texts, lines and what compressed files unpack to."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
import zlib

import pytest

from data_process.io import each_record, load_problems, read_jsonl, write_jsonl
from data_process.json_files import read_json
from data_process.judging import judge
from data_process.prepare.command import main as prepare
from data_process.schema import DataError, Problem, example_from_json, judged_from_json, shown

ROW = {"id": "a", "question": "How many?", "answer": "5"}
# fmt: off
REFUSED = [
    ({"answer_type": "float", "precision": 10**9}, "'precision' must be"),
    ({"answer_type": "float", "precision": 10**30}, "'precision' must be"),
    ({"answer_type": "float", "precision": 1e300}, "'precision' must be"),
    ({"answer_type": "float", "precision": True}, "'precision' must be"),
    ({"tolerance": 10**300}, "'tolerance' must be"),
    ({"tolerance": "0.1"}, "'tolerance' must be"),
    ({"absolute_tolerance": 10**400}, "'absolute_tolerance' must be"),
    ({"absolute_tolerance": -1}, "'absolute_tolerance' must be"),
    ({"answer": "1" * 5000}, "a number at most 400"),
    ({"answer": "1" * 100_000}, "'answer' has 100,000 characters"),
    ({"answer_type": "text", "answer": "a" * 100_000}, "'answer' has 100,000 characters"),
    ({"id": "a" * 2000}, "'id' has 2,000 characters"),
    ({"id": "a\0"}, "a null character"),
    ({"id": "\ud800"}, "half of a character"),
    ({"question": "a\0b"}, "a null character"),
    ({"question": "\udfff"}, "half of a character"),
    ({"unit": "\ud800"}, "half of a character"),
    ({"unit": "cm" * 500}, "'unit' has 1,000 characters"),
    ({"alternatives": ["\0"]}, "a null character"),
    ({"choices": ["1", "\ud800"], "answer": "A"}, "half of a character"),
    ({"image": "."}, "not the name of a file"),
    ({"image": "./"}, "not the name of a file"),
    ({"image": "a" * 300 + ".png"}, "at most 255 bytes"),
    ({"image": "é" * 200 + ".png"}, "at most 255 bytes"),
    ({"image": "\ud800.png"}, "half of a character"),
    ({"image": "a/" * 600 + "b.png"}, "'image' has"),
]
# fmt: on


@pytest.mark.parametrize(("fields", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_problems(tmp_path, fields, message):
    path = tmp_path / "p.jsonl"
    path.write_text(json.dumps({**ROW, **fields}) + "\n")
    with pytest.raises(DataError, match=message) as caught:
        load_problems(path, tmp_path)
    assert len(str(caught.value)) < 700
    str(caught.value).encode()  # can be printed


@pytest.mark.parametrize("precision", [30, 10**9])
def test_a_precision_that_was_not_checked_ends(precision):
    """A `Problem` made in Python: its decimals are bounded where it is judged."""
    started = time.monotonic()
    assert judge("5.0", Problem("a", "?", "5", answer_type="float", precision=precision)).correct
    assert time.monotonic() - started < 5


def test_a_number_of_5000_digits_in_a_file(tmp_path):
    for name in ("a.json", "a.jsonl"):
        (tmp_path / name).write_text('{"id": ' + "9" * 5000 + "}")
        with pytest.raises(DataError, match="not complete JSON") as caught:
            read_jsonl(tmp_path / name)
        assert len(str(caught.value)) < 500
    with pytest.raises(DataError):
        read_json(tmp_path / "a.json", "write it again")


def bomb(n: int, head: bytes, tail: bytes) -> bytes:
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(head)] + [packer.compress(b" " * 2**20) for _ in range(n)]
    return b"".join([*parts, packer.compress(tail), packer.flush()])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "head"), [("a.jsonl.gz", b'{"id": "'), ("b.jsonl.gz", b'[{"id": "'), ("c.json.gz", b'[{"id": "')]
)
def test_a_line_that_unpacks_to_gigabytes(tmp_path, name, head, monkeypatch):
    monkeypatch.setattr("data_process.limits.ALWAYS", 1 << 20)
    monkeypatch.setattr("data_process.limits.MAX_RATIO", 20)
    path = tmp_path / name
    path.write_bytes(bomb(60, head, b'"}'))
    tracemalloc.start()
    with pytest.raises(DataError, match="more than"):
        read_jsonl(path) if "jsonl" in name else read_json(path, "write it again")
    with pytest.raises(DataError, match="more than"):
        read_jsonl(path)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 20 * 2**20


def test_files_that_compress_well_are_read(tmp_path):
    rows = [{**ROW, "id": str(k), "question": "How many? " * 50} for k in range(3000)]
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in rows).encode()))
    assert len(read_jsonl(path)) == 3000


# fmt: off
ROWS = [
    {"choices": {"label": [{}, []], "text": ["a", "b"]}}, {"choices": {"label": 3, "text": ["a", "b"]}},
    {"choices": [{"a": 1}, []]}, {"image": "."}, {"image": "./"}, {"image": "\ud800.png"}, {"image": {"bytes": [300]}},
    {"image": "x" * 300}, {"id": "\ud800"}, {"id": {"a": []}}, {"answer": {"a": 1}}, {"answer": [[1], {}]},
    {"answer": 1e999}, {"answer": float("nan")}, {"answer": 10**400}, {"precision": 10**9}, {"unit": {"a": 1}},
    {"question": {"a": 1}}, {"question": "\0"}, {"tolerance": "x"}, {"alternatives": {"a": 1}}, {"meta": 3},
    {"answer_type": ["text"]}, {"answer_type": {}}, {"origin": {"a": 1}}, {"context": 3},
]
# fmt: on


@pytest.mark.parametrize("fields", ROWS, ids=lambda fields: str(fields)[:50])
def test_strange_rows_are_left_out_or_refused(tmp_path, fields, capsys):
    rows = [{**ROW, "id": f"q{k}", "question": f"How many, {k}?"} for k in range(5)]
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {**ROW, "id": "z", **fields}]))
    argv = ["table", "--raw", str(path), "--split", "train", "--dev-share", "0", "--out", str(tmp_path / "out")]
    assert prepare([*argv, "--missing", "count"]) in (0, 2)
    said = capsys.readouterr()
    assert len(said.err) < 2000
    if (tmp_path / "out").exists():
        assert len(load_problems(tmp_path / "out/train.jsonl", tmp_path / "out")) >= 5
        assert '"inf"' not in (tmp_path / "out/train.jsonl").read_text()


def test_a_damaged_parquet_file(tmp_path, capsys):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "train.parquet"
    rows = [{"question": f"How many, {k}?", "answer": str(k)} for k in range(9)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="none", use_dictionary=False)
    raw = path.read_bytes()
    for at in range(raw.index(b"How many, 4") - 4, raw.index(b"How many, 4") + 12):
        path.write_bytes(raw[:at] + b"\xff" + raw[at + 1 :])
        argv = ["table", "--raw", str(path), "--split", "train", "--dev-share", "0", "--replace"]
        assert prepare([*argv, "--out", str(tmp_path / "out")]) in (0, 2)


@pytest.mark.parametrize("read", [judged_from_json, example_from_json])
@pytest.mark.parametrize("row", [{}, {"candidate": 3}, {"candidate": {}, "verdict": {}}, {"id": "a", "kind": 3}])
def test_stored_rows_of_another_form(read, row):
    with pytest.raises(DataError, match="is not what was written"):
        read(row)


# fmt: off
CANDIDATE = {"problem_id": "a", "iteration": 0, "sample": 0, "text": "5", "n_tokens": 1, "n_prompt_tokens": 1,
             "finish": "stop"}
VERDICT = {"status": "correct", "extracted": "5", "rule": "last"}
EDITS = [
    ({"finish": "banana"}, {}), ({"text": 5}, {}), ({"n_tokens": "x"}, {}), ({"sample": 1.5}, {}),
    ({"iteration": True}, {}), ({"mean_logprob": "x"}, {}), ({"guide": []}, {}), ({"finish": []}, {}),
    ({}, {"status": "banana"}), ({}, {"status": None}), ({}, {"extracted": 5}), ({}, {"rule": None}),
    ({}, {"span": [0]}), ({}, {"span": ["a", "b"]}), ({}, {"span": 3}), ({}, {"note": {}}), ({}, {"status": ["wrong"]}),
]
# fmt: on


@pytest.mark.parametrize(("candidate", "verdict"), EDITS, ids=str)
def test_edited_fields_of_stored_rows(tmp_path, candidate, verdict):
    rows = [{"candidate": CANDIDATE, "verdict": VERDICT}] * 2
    write_jsonl(tmp_path / "j.jsonl", [*rows, {"candidate": CANDIDATE | candidate, "verdict": VERDICT | verdict}])
    with pytest.raises(DataError, match=r"j\.jsonl, line 3: .* is not what was written .*; restore the file, or"):
        list(each_record(tmp_path / "j.jsonl", judged_from_json))
    write_jsonl(tmp_path / "j.jsonl", rows)
    assert [one.verdict.span for one in each_record(tmp_path / "j.jsonl", judged_from_json)] == [None] * 2


@pytest.mark.parametrize(
    "value",
    ["a" * 10**7, [["a" * 10**6] * 80], {"a": "b" * 10**7}, 10**5000, [10**5000], None, {1: [2, (3,)]}],
    ids=lambda value: type(value).__name__,
)
def test_shown_is_short(value):
    assert len(shown(value)) < 200
