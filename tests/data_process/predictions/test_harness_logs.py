"""Logs of lmms-eval, VLMEvalKit and inspect-ai: their forms, how they are joined to problems, and what is refused."""

from __future__ import annotations

import csv
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from xml.sax.saxutils import escape

import pytest

from data_process.predictions.files import LeftOut, read_answer_rows, read_problem_rows
from data_process.schema import DataError

PROBLEMS = [
    {"id": f"geo-{k}", "question": f"How long is side {k}?", "choices": ["2", "4", "6"], "answer": "ABC"[k % 3]}
    for k in range(12)
]
SAID = [f"It is {2 * (k % 3) + 2}. Answer: ({'ABC'[k % 3]})" for k in range(12)]


def write_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# ---- writers of each form ------------------------------------------------------------------------------------------


def lmms(folder: Path, problems=PROBLEMS, said=SAID, **changes) -> Path:
    """As EvaluationTracker.save_results_samples writes it."""
    rows = []
    for k, (problem, text) in enumerate(zip(problems, said, strict=True)):
        row = {
            "doc_id": k, "target": problem["answer"], "filtered_resps": text, "token_counts": [None],
            "doc_hash": "0" * 64, "exact_match": 1.0, "input": f"<image>\n{problem['question']}\nAnswer:",
        }  # fmt: skip
        rows.append({**row, **{key: change(k) for key, change in changes.items()}})
    return write_lines(folder / "20260801_101010_samples_task.jsonl", rows)


def lmms_older(folder: Path) -> Path:
    """Before lists of one were taken apart; with the file of the first versions around it."""
    path = lmms(folder, filtered_resps=lambda k: ["B"], resps=lambda k: [[SAID[k]]])
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    older = folder / "samples_task.json"
    older.write_text(json.dumps({"args": {"tasks": "task"}, "model_configs": {}, "logs": rows}))
    return older


def predictions(said=SAID) -> list[dict]:
    """A data set's rows as VLMEvalKit keeps them, without the image."""
    return [
        {"index": 100 + k, "question": problem["question"], **dict(zip("ABC", problem["choices"], strict=True)),
         "answer": problem["answer"], "category": "geometry", "prediction": text}
        for k, (problem, text) in enumerate(zip(PROBLEMS, said, strict=True))
    ]  # fmt: skip


def vlmeval_json(folder: Path, said=SAID) -> Path:
    path = folder / "Model_Data.json"
    path.write_text(json.dumps(predictions(said), indent=4))
    return path


def vlmeval_tsv(folder: Path, said=SAID) -> Path:
    rows = predictions(said)
    path = folder / "Model_Data.tsv"
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter="\t", quoting=csv.QUOTE_ALL)
        writer.writeheader()
        writer.writerows(rows)
    return path


SPACE = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'


def vlmeval_xlsx(folder: Path, said=SAID, *, inline: bool = False) -> Path:
    """As XlsxWriter writes it: texts shared, numbers in the cells. `inline`: texts in the cells."""
    rows = predictions(said)
    texts: list[str] = []

    def cell(column: int, row: int, value: object) -> str:
        at = f"{'ABCDEFGHIJ'[column]}{row}"
        if isinstance(value, int):
            return f'<c r="{at}"><v>{value}</v></c>'
        written = f'<t xml:space="preserve">{escape(str(value))}</t>'
        if inline:
            return f'<c r="{at}" t="inlineStr"><is>{written}</is></c>'
        texts.append(f"<si>{written}</si>")
        return f'<c r="{at}" t="s"><v>{len(texts) - 1}</v></c>'

    table = [list(rows[0]), *(list(row.values()) for row in rows)]
    lines = "".join(
        f'<row r="{n}">{"".join(cell(c, n, v) for c, v in enumerate(row) if v is not None)}</row>'
        for n, row in enumerate(table, 1)
    )
    path = folder / "Model_Data.xlsx"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/worksheets/sheet1.xml", f"<worksheet {SPACE}><sheetData>{lines}</sheetData></worksheet>")
        if not inline:
            archive.writestr("xl/sharedStrings.xml", f"<sst {SPACE}>{''.join(texts)}</sst>")
    return path


def inspect_samples(said=SAID, *, epoch: int = 1, numbered: bool = False) -> list[dict]:
    return [
        {"id": k + 1 if numbered else problem["id"], "epoch": epoch, "target": problem["answer"],
         "input": [{"role": "user", "content": [{"type": "image", "image": "x"}, {"type": "text",
                    "text": problem["question"]}]}],
         "output": {"model": "m", "completion": text, "choices": [
             {"message": {"role": "assistant", "content": text}, "stop_reason": "stop"}]},
         "metadata": {}, "messages": []}
        for k, (problem, text) in enumerate(zip(PROBLEMS, said, strict=True))
    ]  # fmt: skip


def inspect_json(folder: Path, samples=None, version: int = 2) -> Path:
    path = folder / "log.json"
    log = {"version": version, "status": "success", "eval": {}, "samples": samples or inspect_samples()}
    path.write_text(json.dumps(log, indent=2))
    return path


def inspect_eval(folder: Path, samples=None, *, zstandard: bool = False) -> Path:
    members = {"header.json": {"version": 2, "status": "success", "eval": {}}}
    for sample in samples or inspect_samples():
        members[f"samples/{sample['id']}_epoch_{sample['epoch']}.json"] = sample
    path = folder / "log.eval"
    if zstandard:
        path.write_bytes(zipped_with_zstandard({name: json.dumps(value).encode() for name, value in members.items()}))
        return path
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, json.dumps(value))
    return path


def zipped_with_zstandard(members: dict[str, bytes]) -> bytes:
    """A zip with method 93, which Python cannot write yet: local headers, central directory, end (PKWARE's APPNOTE)."""
    import pyarrow as pa

    body, directory = b"", b""
    for name, data in members.items():
        packed = pa.Codec("zstd").compress(data, asbytes=True)
        facts = (20, 0, 93, 0, 0, zlib.crc32(data), len(packed), len(data), len(name), 0)
        directory += struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, *facts, 0, 0, 0, 0, len(body)) + name.encode()
        body += struct.pack("<4sHHHHHIIIHH", b"PK\3\4", *facts) + name.encode() + packed
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, len(members), len(members), len(directory), len(body), 0)
    return body + directory + end


# ---- reading -------------------------------------------------------------------------------------------------------


@pytest.fixture
def problems(tmp_path) -> Path:
    return write_lines(tmp_path / "problems.jsonl", PROBLEMS)


def read(problems: Path, answers: Path, left_out: LeftOut | None = None, sample: int | None = None):
    return read_answer_rows(answers, read_problem_rows(problems), problems, left_out, sample)


@pytest.mark.parametrize(
    "write",
    [
        lmms,
        lmms_older,
        lambda folder: lmms(folder, filtered_resps=lambda k: "B", resps=lambda k: [SAID[k]]),
        # ids of the data set in a metric, in another order than the problems
        lambda folder: lmms(
            folder,
            PROBLEMS[::-1],
            SAID[::-1],
            judged=lambda k: {"question_id": f"geo-{11 - k}", "score": 1},
        ),
        # nothing but the gold answer shows the problem
        lambda folder: lmms(folder, input=lambda k: "", target=lambda k: str(2 * (k % 3) + 2)),
        vlmeval_json,
        vlmeval_tsv,
        vlmeval_xlsx,
        lambda folder: vlmeval_xlsx(folder, inline=True),
        inspect_json,
        inspect_eval,
        lambda folder: inspect_eval(folder, zstandard=True),
        lambda folder: inspect_json(folder, inspect_samples(numbered=True)),
    ],
)
def test_a_log_is_read(tmp_path, write: Callable[[Path], Path]):
    path = write(tmp_path)
    by_index = path.name.startswith("Model_Data")  # VLMEvalKit's own number, for problems that go by it
    rows = [{**row, "id": str(100 + k)} for k, row in enumerate(PROBLEMS)] if by_index else PROBLEMS
    found = read(write_lines(tmp_path / "problems.jsonl", rows), path)
    assert {name: answer.response.text for name, answer in found.items()} == {
        row["id"]: text for row, text in zip(rows, SAID, strict=True)
    }
    assert not any(answer.response.truncated for answer in found.values())


def test_a_prediction_table_holds_its_own_problems(tmp_path):
    path = vlmeval_xlsx(tmp_path)
    questions = read_problem_rows(path)
    assert [question.problem.answer for question in questions.values()] == [row["answer"] for row in PROBLEMS]
    assert list(questions["103"].problem.choices) == ["2", "4", "6"]
    assert read(path, path)["103"].response.text == SAID[3]


def test_texts_in_a_workbook(tmp_path):
    """Markup, control characters, formatted runs; a text of the most characters that a cell holds was cut there."""
    said = ["a < b & c_x000D_d _x005F_x0041_", "x" * 32_767, *SAID[2:]]
    path = vlmeval_xlsx(tmp_path, said)
    rows = [{**row, "id": str(100 + k)} for k, row in enumerate(PROBLEMS)]
    found = read(write_lines(tmp_path / "problems.jsonl", rows), path)
    assert found["100"].response.text == "a < b & c\rd _x0041_"
    assert [answer.response.truncated for answer in found.values()] == [False, True, *[False] * 10]


def test_the_place_is_not_taken_for_an_id(tmp_path):
    """MathVista counts from 1 and lmms-eval from 0: most numbers of one are ids of the other."""
    rows = [{**row, "id": str(k + 1)} for k, row in enumerate(PROBLEMS)]
    found = read(write_lines(tmp_path / "problems.jsonl", rows), lmms(tmp_path))
    assert {name: answer.response.text for name, answer in found.items()} == {
        str(k + 1): text for k, text in enumerate(SAID)
    }


def test_several_filters_repeat_a_problem(tmp_path, problems):
    path = lmms(tmp_path, filtered_resps=lambda k: "B", resps=lambda k: SAID[k])
    path.write_text(path.read_text() + path.read_text().replace('"B"', '"C"'))
    assert {answer.response.text for answer in read(problems, path).values()} == set(SAID)
    other = lmms(tmp_path, filtered_resps=lambda k: "something else").read_text()
    path.write_text(lmms(tmp_path).read_text() + other)
    with pytest.raises(DataError, match=r"line 13: the same problem has another response there .*line 1\)"):
        read(problems, path)


@pytest.mark.parametrize("form", ["lmms", "inspect"])
def test_several_responses(tmp_path, problems, form):
    second = [f"{text} again" for text in SAID]
    if form == "lmms":
        path = lmms(tmp_path, filtered_resps=lambda k: [SAID[k], second[k]])
    else:
        path = inspect_json(tmp_path, inspect_samples(second, epoch=2) + inspect_samples(epoch=1))
    both = read(problems, path).values()
    assert [(answer.response.text, *(one.text for one in answer.more)) for answer in both] == [
        *zip(SAID, second, strict=True)
    ]
    for number, texts in enumerate((SAID, second)):
        assert [answer.response.text for answer in read(problems, path, sample=number).values()] == texts
    with pytest.raises(DataError, match="no response 2 to problem 'geo-0', which has 2"):
        read(problems, path, sample=2)


def test_a_response_that_failed_is_left_out(tmp_path):
    """Not a wrong answer: the program was never given one. The problem then counts as unanswered."""
    many = [{**row, "id": f"geo-{k}", "question": f"How long is side {k}?"} for k, row in enumerate(PROBLEMS * 4)]
    samples = []
    for k, row in enumerate(many):
        samples += [{**inspect_samples()[0], "id": row["id"], "target": row["answer"]}]
        samples[-1]["output"] = {"completion": "Answer: (A)", "choices": [{"stop_reason": "max_tokens", "message": {}}]}
        if k == 7:
            samples[-1] |= {"error": {"message": "CUDA out of memory"}, "output": {"choices": [], "completion": ""}}
    left_out = LeftOut()
    found = read(write_lines(tmp_path / "problems.jsonl", many), inspect_eval(tmp_path, samples), left_out)
    assert len(found) == 47
    assert "geo-7" not in found
    assert all(answer.response.truncated for answer in found.values())
    assert "'geo-7' has no response (an error stopped it: CUDA out of memory)" in left_out.messages[0]


def test_a_long_text_of_inspect_is_an_attachment(tmp_path, problems):
    samples = inspect_samples()
    parts = [{"type": "reasoning", "reasoning": "hm"}, {"type": "text", "text": "attachment://abc"}]
    samples[4]["output"] = {"choices": [{"message": {"content": parts}}]}
    samples[4]["attachments"] = {"abc": "long"}
    assert read(problems, inspect_json(tmp_path, samples))["geo-4"].response.text == "long"


def broken(write: Callable[[Path], Path], keep: float = 0.5) -> Callable[[Path], Path]:
    def cut(folder: Path) -> Path:
        path = write(folder)
        path.write_bytes(path.read_bytes()[: int(path.stat().st_size * keep)])
        return path

    return cut


def named(name: str, content: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_text(content)
        return folder / name

    return write


def zipped(path: Path, member: str, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, content)
    return path


@pytest.mark.slow
@pytest.mark.parametrize(
    ("write", "message"),
    [
        (broken(inspect_eval), "not a whole log of inspect-ai"),
        (broken(inspect_json), "not a whole log of inspect-ai"),
        (broken(vlmeval_xlsx), "not a whole Excel workbook"),
        (broken(vlmeval_json), "not complete JSON"),
        (broken(lmms, 0.98), r"line 12: not complete JSON"),
        (lambda folder: inspect_json(folder, version=3), "a log of version 3, and 2 is the newest"),
        (named("log.json", '{"version": 2, "status": "error", "eval": {}}'), "a log without samples"),
        (
            lambda folder: lmms(folder, filtered_resps=lambda k: [[-1.5, False]]),
            "compares likelihoods has no responses",
        ),
        (lambda folder: lmms(folder, PROBLEMS[::-1], SAID[::-1]), "cannot be joined to the problems: .*doc_id, place"),
        (lambda folder: lmms(folder, [{"question": "?", "answer": "D"}] * 12), "cannot be joined to the problems"),
        (lambda folder: vlmeval_json(folder), "names them by index, and neither"),
        (lambda folder: lmms(folder, doc_id=lambda k: None), "'doc_id' must be a number"),
        (named("x.xlsx", "no zip"), "not a whole Excel workbook"),
        (named("x.eval", "no zip"), "not a whole log of inspect-ai"),
        (lambda folder: zipped(folder / "x.eval", "header.json", b'{"version": Infinity}'), "not a whole log of"),
        (named("log.json", '{"version": 2, "status": "x", "samples": {"a": 1}}'), "a sample must be a JSON object"),
        (named("log.json", '{"version": 2, "status": "x", "samples": 3}'), "not a whole log of inspect-ai"),
        (named("log.json", '{"version": 2, "status": ' + "[" * 10**5), "not a whole log of inspect-ai"),
        (
            lambda folder: zipped(folder / "x.eval", "header.json", bytes(80 * 2**20)),
            "holds more than .* bytes; unpack the file",
        ),
        (lambda folder: zipped(folder / "x.xlsx", "xl/worksheets/sheet1.xml", bytes(80 * 2**20)), "holds more"),
        (
            named("x.jsonl", '{"id": "geo-0", "responses": ["A"]}\n' + '{"id": "geo-1", "rsponses": ["A"]}\n' * 9),
            "a response must be text, found None",
        ),
    ],
)
def test_a_log_that_cannot_be_used(tmp_path, problems, write, message):
    with pytest.raises(DataError, match=message):
        read(problems, write(tmp_path))


def test_zstandard_that_is_damaged(tmp_path, problems):
    path = inspect_eval(tmp_path, zstandard=True)
    raw = bytearray(path.read_bytes())
    raw[1200:1210] = bytes(10)
    path.write_bytes(bytes(raw))
    with pytest.raises(DataError, match=r"not a whole log of inspect-ai \(.*geo-"):
        read(problems, path)


def test_a_sample_of_a_file_that_is_no_log(tmp_path, problems):
    path = write_lines(tmp_path / "answers.jsonl", [{"id": "geo-1", "response": "B"}])
    with pytest.raises(DataError, match="--sample chooses among several responses, and this file has one"):
        read(problems, path, sample=0)
