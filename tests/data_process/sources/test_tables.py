"""Raw tables: every container, what is refused and in which words, and the hub."""

from __future__ import annotations

import base64
import gzip
import json
import subprocess
import sys
import types
from pathlib import Path

import pytest

from data_process.prepare.command import main
from data_process.schema import DataError
from data_process.sources.base import UNREADABLE, PrepareRequest, refuse_unreadable
from data_process.sources.tables import find_tables, read_table, split_of
from tests.data_process.raw_files import load, png, prepared, write_json, write_lines

ROWS = [{"pid": "a"}, {"pid": "b"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
READ = {
    "x.jsonl": LINES,
    "x.json": json.dumps(ROWS, indent=1).encode(),
    "bom.json": b"\xef\xbb\xbf" + json.dumps(ROWS).encode(),
    "dict.json": json.dumps({row["pid"]: {} for row in ROWS}).encode(),
    "lines.json": LINES,
    "array.jsonl": json.dumps(ROWS).encode(),
    "x.jsonl.gz": gzip.compress(LINES),
}


@pytest.mark.parametrize("name", READ)
def test_read(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(READ[name])
    assert [(where, row) for where, row in read_table(path)] == [
        (f"{path}, row {n}", row) for n, row in enumerate(ROWS, start=1)
    ]


FRAME = [{"question": "x?", "answer": 1}, {"question": "y?", "answer": None}]
FRAMES = {
    "columns": {"question": {"0": "x?", "1": "y?"}, "answer": {"0": 1, "1": float("nan")}},
    "split": {"columns": ["question", "answer"], "index": [0, 1], "data": [["x?", 1], ["y?", None]]},
    "list": {"question": ["x?", "y?"], "answer": [1, None]},
    "table": {"schema": {"fields": []}, "data": FRAME},
    "records": FRAME,
}


@pytest.mark.parametrize("orient", FRAMES)
def test_json_as_pandas_writes_it(tmp_path, orient):
    path = write_json(tmp_path / "x.json", FRAMES[orient])
    assert [row for _, row in read_table(path)] == FRAME


def test_read_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist(ROWS * 100), tmp_path / "x.parquet")
    found = list(read_table(tmp_path / "x.parquet"))
    assert [row for _, row in found] == ROWS * 100
    assert found[-1][0].endswith("x.parquet, row 200")


REFUSED = {
    "torn.jsonl": (LINES + b'{"pid": "', r"torn\.jsonl, row 3: line 3: not complete JSON"),
    "torn.json": (b'{\n "a": {},\n "b"', r"torn\.json: not complete JSON .*line 3"),
    "torn.jsonl.gz": (gzip.compress(LINES)[:-9], r"damaged gzip"),
    "lfs.jsonl": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", r"LFS pointer.*git lfs pull"),
    "lfs.json": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
    "rows.json": (b"[1, 2]", "holds a list that is no table"),
    "flat.json": (b'{"a": 1}', "holds a dict that is no table"),
    "torn columns.json": (b'{"columns": ["question", "answer"], "index": [0], "data": [["x?"]]}', "that is no table"),
    "uneven columns.json": (b'{"question": ["x?", "y?"], "answer": [1]}', "that is no table"),
    "empty.json": (b"", "not complete JSON .*line 1"),
    "latin.json": (b'{"a": "\xe9"}', "not UTF-8 at byte 7"),
    "not.parquet": (b"PAR1 nothing", "not a complete Parquet file"),
    "number.jsonl": (b"7\n", "line 1: a row must be a JSON object"),
}  # fmt: skip


def read_all(path: Path) -> None:
    """As `prepare` does it: a row that stands for a bad one is refused where it is used."""
    for where, row in read_table(path):
        refuse_unreadable(row, where)


@pytest.mark.parametrize("name", REFUSED)
def test_refused(tmp_path, name):
    data, message = REFUSED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_all(tmp_path / name)


def test_a_folder_is_no_table(tmp_path):
    with pytest.raises(DataError, match="cannot be read"):
        list(read_table(tmp_path))


FOLDERS = {
    "exact": (["train.jsonl", "geoqa_train.json", "test.json"], {"train": ["train.jsonl"], "test": ["test.json"]}),
    "other names": (["training.jsonl", "val.json"], {"train": ["training.jsonl"], "dev": ["val.json"]}),
    "in a name": (["geoqa_train_base.json"], {"train": ["geoqa_train_base.json"]}),
    "shards": (
        ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"],
        {"train": ["train-00000-of-00002.parquet", "train-00001-of-00002.parquet"]},
    ),
    "data folder": (["data/train.jsonl"], {"train": ["train.jsonl"]}),
    "nothing": (["README.md", "query.json"], {}),
}


@pytest.mark.parametrize("name", FOLDERS)
def test_tables_of_a_folder(tmp_path, name):
    files, expected = FOLDERS[name]
    for file in files:
        write_json(tmp_path / file, [])
    found = find_tables(tmp_path, ["train", "dev", "test"])
    assert {split: [path.name for path in paths] for split, paths in found.items()} == expected


def test_two_tables_of_one_split(tmp_path):
    for name in ("geoqa_train_base.json", "geoqa_train_cot.json"):
        write_json(tmp_path / name, [])
    with pytest.raises(DataError, match=r"several files could be 'train' \(geoqa_train_base\.json, geoqa_train_cot"):
        find_tables(tmp_path, ["train"])


def test_split_of(tmp_path):
    names = ["train", "dev", "test"]
    found = [split_of(tmp_path / name, names) for name in ("a_train.jsonl", "val.json", "x.json", "train_test.json")]
    assert found == ["train", "dev", None, None]


# ---- the hub ------------------------------------------------------------------------------------------------------


def _hub(monkeypatch, load_dataset):
    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


def test_hub_unreachable(monkeypatch, tmp_path):
    def load_dataset(*args, **settings):
        raise ConnectionError("no route to the hub\nand a long story")

    _hub(monkeypatch, load_dataset)
    said = r"AI4Math/MathVista cannot be read from the hub \(ConnectionError: no route to the hub\)\. Download"
    with pytest.raises(DataError, match=said + r".*--raw DIR"):
        prepared("mathvista", None, tmp_path / "out")
    with pytest.raises(DataError, match=r"a/b cannot be read.*Download its Parquet or JSON files.*--raw DIR"):
        prepared("table", None, tmp_path / "out", hub="a/b")
    with pytest.raises(DataError, match="no hub repository is known for this source; name it"):
        prepared("table", None, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_asking_for_testmini_downloads_testmini(monkeypatch, tmp_path):
    """The test split has 744 MB of images; and a revision is passed on."""
    asked = []

    def load_dataset(*args, **settings):
        asked.append((args, settings))
        raise OSError("enough")

    _hub(monkeypatch, load_dataset)
    with pytest.raises(DataError):
        prepared("mathvista", None, tmp_path / "out")
    settings = {"revision": None, "data_files": {"testmini": "data/testmini-*"}}
    assert asked == [(("AI4Math/MathVista", None), settings)]


@pytest.mark.slow
def test_a_hub_data_set_keeps_the_bytes(monkeypatch, tmp_path):
    """Through the real library, with image columns as the hub has them; a JPEG is not decoded on the way."""
    import datasets

    image = png(form="JPEG")
    rows = {"images": [[{"bytes": image, "path": None}]], "problem": ["<image>Find x."], "answer": ["3"]}
    features = datasets.Features(
        {
            "images": datasets.Sequence(datasets.Image()),
            **dict.fromkeys(("problem", "answer"), datasets.Value("string")),
        }
    )
    made = datasets.Dataset.from_dict(rows, features=features)
    monkeypatch.setattr(datasets, "load_dataset", lambda *a, **k: datasets.DatasetDict(train=made, validation=made))
    card = prepared("geometry3k", None, tmp_path / "out")
    assert {name: split["items"] for name, split in card["splits"].items()} == {"train": 1, "dev": 1}
    assert card["raw"] == "hub:hiyouga/geometry3k@main"
    problem = load(tmp_path / "out", "train")[0]
    assert problem.images[0] == "images/train-row1.jpg"
    assert (tmp_path / "out" / problem.images[0]).read_bytes() == image


def test_splits_the_hub_does_not_have(monkeypatch, tmp_path):
    _hub(monkeypatch, lambda *a, **k: {"testmini": None})
    with pytest.raises(
        DataError, match=r"a/b has the splits testmini, none of train, dev, test.*--split testmini=train"
    ):
        prepared("table", None, tmp_path / "out", hub="a/b")


@pytest.mark.slow
def test_importing_a_source_imports_nothing_heavy():
    code = (
        "import sys; import data_process.prepare.command\n"
        "from data_process.prepare.command import SOURCES, source_named\n"
        "[source_named(name) for name in SOURCES]\n"
        "print([m for m in ('datasets', 'pyarrow', 'PIL', 'numpy', 'torch') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_path_in_place_of_bytes_is_looked_up_by_name(tmp_path):
    """In a file of one's own a path of another machine must not lead anywhere else."""
    from data_process.sources.base import embedded_image

    raw = write_lines(tmp_path / "x.jsonl", [])
    value = {"bytes": None, "path": "/etc/passwd"}
    image = embedded_image(value, "1", PrepareRequest(raw=raw), "row 1")
    assert set(image.candidates) == {tmp_path / "images/passwd", tmp_path / "passwd"}


# ---- CSV, TSV, NaN, base64 ------------------------------------------------------------------------------------------

SEPARATED = {
    "x.tsv": b"index\tq\tA\n0\tone, two\tnan\n1\t\"a\nb\"\t\n",
    "x.csv": b'\xef\xbb\xbfindex,q,A\r\n0,"one, two",\r\n1,"a\nb",NaN\r\n',
    "semicolons.csv": b'index;q;A\n0;one, two;\n1;"a\nb";\n',
    "x.tsv.gz": gzip.compress(b"index\tq\tA\n0\tone, two\t\n1\t\"a\nb\"\t\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", SEPARATED)
def test_separated(tmp_path, name):
    (tmp_path / name).write_bytes(SEPARATED[name])
    rows = [row for _, row in read_table(tmp_path / name)]
    assert rows == [{"index": "0", "q": "one, two", "A": None}, {"index": "1", "q": "a\nb", "A": None}]


BAD_SEPARATED = {
    "cells.tsv": (b"a\tb\n1\t2\n1\t2\t3\n", r"cells\.tsv, row 2: 3 cells under 2 columns"),
    "header.csv": (b"a,a\n1,2\n", "must name the columns, each once"),
    "empty.csv": (b"", "must name the columns"),
    "latin.csv": (b"a,b\n\xe9,1\n", "not UTF-8 at byte"),
    "quote.csv": (b'a,b\n"x"y,1\n', r"quote\.csv, row 1: not a row of ','-separated text"),
    "torn.tsv.gz": (gzip.compress(b"a\tb\n" * 999)[:-9], "damaged gzip"),
}


@pytest.mark.parametrize("name", BAD_SEPARATED)
def test_refused_separated(tmp_path, name):
    data, message = BAD_SEPARATED[name]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=message):
        read_all(tmp_path / name)


def test_the_rows_after_a_bad_one_are_read(tmp_path):
    """Half a line in the middle, another kind of value and a line cut off at the end: each is one bad row."""
    data = b'{"a": 1}\n{"a": \n{"a": 2}\n7\n\n{"a": 3}\n{"a": "\xff"}\n{"a": 4}\n{"a'
    (tmp_path / "x.jsonl").write_bytes(data)
    rows = [row for _, row in read_table(tmp_path / "x.jsonl")]
    assert [row.get("a") for row in rows] == [1, None, 2, None, 3, None, 4, None]
    said = [row[UNREADABLE] for row in rows if UNREADABLE in row]
    assert [text.partition(":")[0] for text in said] == ["line 2", "line 4", "line 7", "line 9"]
    (tmp_path / "x.csv").write_bytes(b"a,b\n1,2\n1\n3,4\n")
    assert [row.get("a") for _, row in read_table(tmp_path / "x.csv")] == ["1", None, "3"]


def test_bad_lines_count_under_the_share(tmp_path, capsys):
    lines = [json.dumps({"question": f"What is {n} + 1?", "answer": str(n + 1)}) for n in range(40)]
    lines[20] = lines[20][:15]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    words = ["table", "--raw", str(tmp_path / "x.jsonl"), "--split", "test", "--out"]
    assert main([*words, str(tmp_path / "out")]) == 0
    said = capsys.readouterr().out
    assert "1 of 40 rows left out" in said
    assert "x.jsonl, row 21: line 21: not complete JSON" in said
    assert main([*words, str(tmp_path / "none"), "--bad-share", "0.01"]) == 2
    assert "more than the limit of 1%" in capsys.readouterr().err


def test_rows_that_share_an_image(tmp_path):
    """VLMEvalKit's TSV files: the image cell of a row may be the index of the row that has the image."""
    picture = base64.b64encode(png()).decode()
    other = picture[:-4] + "AAAA"
    cells = [("1", picture, "Q1"), ("2", "1", "Q2"), ("3", "4", "Q3"), ("4", other, "Q4"), ("5", "9", "Q5")]
    text = "index\timage\tquestion\n" + "".join("\t".join(row) + "\n" for row in cells)
    (tmp_path / "x.tsv").write_text(text)
    images = [row["image"] for _, row in read_table(tmp_path / "x.tsv")]
    assert images == [picture, picture, other, other, "9"]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_nan_is_missing(tmp_path, suffix):
    text = '{"a": NaN, "b": [1, NaN], "c": {"d": NaN}}'
    (tmp_path / f"x.{suffix}").write_text(f"[{text}]" if suffix == "json" else text)
    assert [row for _, row in read_table(tmp_path / f"x.{suffix}")] == [{"a": None, "b": [1, None], "c": {"d": None}}]


def test_base64_images():
    import base64

    from tests.data_process.raw_files import item_of

    data = png()
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    jpeg = base64.b64encode(png(form="JPEG")).decode()  # begins like a path: /9j/
    for value in (
        text,
        lines,
        text.rstrip("="),
        f"data:image/png;base64,{text}",
        {"bytes": text, "path": None},
        [text],
    ):
        image = item_of("table", {"question": "q?", "answer": "1", "image": value}).images[0]
        assert (image.data, image.name) == (data, "train-row1.png")
    assert item_of("table", {"question": "q?", "answer": "1", "image": jpeg}).images[0].name == "train-row1.jpg"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("x" * 20_000, r"\(20,000 characters\) is neither the name of a file nor a base64 image; .*--map image=COLUMN"),
        ("data:image/png;base64,@@@@", "not complete base64"),
        ({"bytes": "@" * 9000}, "no base64"),
        (".", "neither the name of a file"),
    ],
)
def test_what_is_no_image(value, message):
    from tests.data_process.raw_files import item_of

    with pytest.raises(DataError, match=message) as error:
        item_of("table", {"question": "q?", "answer": "1", "image": value})
    assert len(str(error.value)) < 300


def test_rows_of_shards_have_ids_of_their_own(tmp_path):
    for shard in (0, 1):
        write_lines(tmp_path / f"train-0000{shard}-of-00002.jsonl", [{"question": f"{shard}?", "answer": shard}] * 1)
    prepared("table", tmp_path, tmp_path / "out", dev_share=0)
    assert [problem.id for problem in load(tmp_path / "out", "train")] == ["train-row1", "train-1-row1"]
