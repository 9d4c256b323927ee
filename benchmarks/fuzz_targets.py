"""The readers that `benchmarks.fuzz` feeds, and the real files that it starts from."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import io
import json
import random
import shutil
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.fuzz import ROOT, Target, quiet


def all_targets(work: Path) -> list[Target]:
    """Every reader; seeds are made in the folder `work`."""
    run = _run(work)
    return [
        *_rows(work, run), _tables(work), *_images(work), _configs(), _overrides(), _bank(run), *_run_files(run),
        _logs(work), *_texts(), _replies(), _model_lists(), _predictions(work), _traces(run), _adapters(work),
    ]  # fmt: skip


def _run(work: Path) -> Path:
    """A finished rehearsal of one iteration."""
    from data_process.sources import minigeo
    from selftrain.cli.run import run_main

    minigeo.write(work / "data", {"train": 24, "dev": 12, "test": 12}, seed=0)
    arguments = [
        *("--config", str(ROOT / "configs/rehearsal.yaml"), "--output", str(work / "run"), "--iters", "1", "--quiet"),
        *("--set", f"data.folder={work / 'data'}", "--set", f"bank={work / 'bank.sqlite'}"),
    ]
    with quiet():
        if run_main(arguments):
            raise RuntimeError("the rehearsal that makes the seeds failed")
    return work / "run"


PROBLEMS: list[dict[str, Any]] = [
    {"id": "a", "question": "How many?", "answer": "12.5", "answer_type": "float", "precision": 1, "unit": "cm"},
    {"id": "b", "question": "Which?", "answer": "B", "choices": ["1", "2", "3"], "image": "x.png", "meta": {"k": [1]}},
    {"id": "c", "question": "What is x?", "answer": "2\\sqrt{3}", "answer_type": "expression", "alternatives": ["√12"]},
    {"id": "d", "question": "List?", "answer": "[1, 2]", "answer_type": "list", "origin": ["GeoQA", None]},
    {"id": "e", "question": "Big?", "answer": "1e5", "answer_type": "number", "absolute_tolerance": 0.5},
]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return b"".join(json.dumps(row).encode() + b"\n" for row in rows)


def _rows(work: Path, run: Path) -> list[Target]:
    from data_process.building.given import read_given
    from data_process.io import load_problems, read_examples, read_jsonl
    from data_process.judging import judge
    from data_process.schema import judged_from_json
    from selftrain.scoring.answer_file import score_files

    problems = _lines(PROBLEMS)
    answers = _lines([{"id": row["id"], "response": f"The answer is {row['answer']}."} for row in PROBLEMS])
    (work / "problems.jsonl").write_bytes(problems)
    (work / "answers.jsonl").write_bytes(answers)
    shared = [{"messages": [{"role": "user", "content": "<image>a"}, {"role": "assistant", "content": "b"}],
               "images": ["x.png"]}]  # fmt: skip

    def judged(path: Path) -> None:
        for problem in load_problems(path, path.parent):
            judge("The answer is 12.5 cm.", problem)

    def score(path: Path) -> None:
        files = {"problems.jsonl": work / "problems.jsonl", "answers.jsonl": work / "answers.jsonl", path.name: path}
        score_files(files["problems.jsonl"], files["answers.jsonl"], "auto", per_item=work / "scored.jsonl")

    def judged_rows(path: Path) -> None:
        for row in read_jsonl(path):
            judged_from_json(row)

    examples = next(run.glob("iter1/build/examples.jsonl")).read_bytes()
    samples = next(run.glob("*/judge/judged.jsonl")).read_bytes()
    return [
        Target("problems", (("p.jsonl", problems), ("p.jsonl.gz", gzip.compress(problems))), judged),
        Target("scored answers", (("answers.jsonl", answers), ("problems.jsonl", problems)), score),
        Target("training rows", (("e.jsonl", examples[:20_000].rpartition(b"\n")[0] + b"\n"),), read_examples),
        Target("given rows", (("g.json", json.dumps(shared).encode()), ("g.jsonl", _lines(shared))),
               lambda path: read_given([path], path.parent)),
        Target("judged samples", (("j.jsonl", samples[:20_000].rpartition(b"\n")[0] + b"\n"),), judged_rows),
    ]  # fmt: skip


def _tables(work: Path) -> Target:
    import pyarrow as pa
    import pyarrow.parquet as pq

    from data_process.prepare.command import source_named
    from data_process.prepare.folder import FolderPlan, prepare
    from data_process.sources.base import PrepareRequest

    rows = [{"question": f"How many apples, {k}?", "answer": str(k), "choices": None if k % 2 else ["1", "2", str(k)]}
            for k in range(3, 12)]  # fmt: skip
    plain = [{"question": row["question"], "answer": row["answer"]} for row in rows]
    csv = "question,answer\n" + "".join(f'"{row["question"]}",{row["answer"]}\n' for row in plain)
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(plain), parquet)
    seeds = (
        ("t.jsonl", _lines(rows)), ("t.json", json.dumps(rows).encode()), ("t.csv", csv.encode()),
        ("t.tsv", csv.replace(",", "\t").encode()), ("t.csv.gz", gzip.compress(csv.encode())),
        ("t.parquet", parquet.getvalue()),
    )  # fmt: skip
    source = source_named("table")

    def read(path: Path) -> None:
        out = work / "prepared"
        shutil.rmtree(out, ignore_errors=True)
        request = PrepareRequest(raw=path, splits={"train": "train"}, options={"map": {}})
        prepare(source, request, FolderPlan(out=out, dev_share=0.0, missing="count"))

    return Target("tables", seeds, read)


def _images(work: Path) -> list[Target]:
    from PIL import Image

    from data_process.decontamination.near_image import fingerprint
    from data_process.images.store import ImageStore

    noise = Image.frombytes("L", (80, 60), random.Random(1).randbytes(4800))
    saved = []
    forms = [("PNG", "RGB"), ("PNG", "RGBA"), ("PNG", "I;16"), ("PNG", "P"), ("PNG", "1"), ("JPEG", "RGB"),
             ("JPEG", "CMYK"), ("WEBP", "RGB"), ("GIF", "P"), ("BMP", "RGB"), ("TIFF", "RGB"), ("PPM", "RGB"),
             ("AVIF", "RGB"), ("JPEG2000", "RGB"), ("TGA", "RGB"), ("PCX", "RGB"), ("TIFF", "CMYK"), ("TIFF", "I;16"),
             ("TIFF", "F"), ("DDS", "RGB"), ("ICO", "RGB"), ("ICNS", "RGB"), ("EPS", "RGB")]  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = 6
    for form, mode in forms:
        out = io.BytesIO()
        noise.convert(mode).save(out, form, **({"exif": exif} if form in ("JPEG", "PNG", "WEBP") else {}))
        saved.append((f"a.{'png' if form == 'EPS' else form.lower()}", out.getvalue()))
    for form in ("GIF", "WEBP", "PNG", "TIFF"):  # animated, or of several pages
        out = io.BytesIO()
        noise.save(out, form, save_all=True, append_images=[noise.rotate(angle) for angle in (90, 180)])
        saved.append((f"several.{form.lower()}", out.getvalue()))
    huge = []  # headers of 12,000 x 12,000 pixels
    for mode in ("1", "P", "RGBA", "I;16"):
        out = io.BytesIO()
        Image.new(mode, (12_000, 1)).save(out, "PNG", transparency=b"\0" if mode == "P" else None)
        raw = out.getvalue()
        header = b"IHDR" + struct.pack(">II", 12_000, 12_000) + raw[24:29]
        huge.append((f"huge-{mode[0]}.png", raw[:12] + header + struct.pack(">I", zlib.crc32(header)) + raw[33:]))
    store = work / "store"

    def add(path: Path) -> None:
        ImageStore(store, path.parent, min_pixels=3136, max_pixels=100_000).add(path.name)
        shutil.rmtree(store, ignore_errors=True)

    return [
        Target("images", tuple(saved), add), Target("image bombs", tuple(huge), add, share=0.5),
        Target("image prints", tuple(saved[:10]), fingerprint),
    ]  # fmt: skip


def _configs() -> Target:
    from selftrain.config import load_config

    seeds = tuple(("c.yaml", file.read_bytes()) for file in sorted((ROOT / "configs").glob("*.yaml")))
    return Target("configs", tuple((name, text.replace(b"extends:", b"#")) for name, text in seeds), load_config)


def _overrides() -> Target:
    from selftrain.config import load_config

    lines = ("sampling.n=4", "training.overrides.learning_rate=1e-4", "evaluation.strategies=[greedy, majority]",
             "engine={kind: scripted}", "seed=3", "name=x", "data.train=a.jsonl")  # fmt: skip

    def read(path: Path) -> None:
        load_config(None, [path.read_bytes().decode("utf-8", "surrogateescape")])

    return Target("overrides", tuple(("o.txt", line.encode()) for line in lines), read)


def _bank(run: Path) -> Target:
    import sqlite3

    from selftrain.sampling.bank import Bank
    from selftrain.sampling.rescue import examine

    content = (run.parent / "bank.sqlite").read_bytes()
    with sqlite3.connect(run.parent / "bank.sqlite") as database:
        keys = [key for (key,) in database.execute("SELECT DISTINCT key FROM samples ORDER BY key LIMIT 30")]
    database.close()
    with Bank(run.parent / "bank.sqlite") as bank:
        whole = {key: bank.read([key], 1)[key] for key in keys if not bank.missing([key], 1)}

    def read(path: Path) -> None:
        for rest in path.parent.glob(f"{path.name}-*"):
            rest.unlink()
        examine(path)
        with Bank(path) as bank:
            for key in whole:
                if not bank.missing([key], 1) and bank.read([key], 1)[key] != whole[key]:
                    raise AssertionError("another answer than the one that was written")
            bank.count()
            bank.known_digest(run / "config.json")

    return Target("bank", (("b.sqlite", content),), read, folder=_empty(run.parent / "banks"), share=0.3)


def _empty(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _run_files(run: Path) -> list[Target]:
    """The commands that read a run folder, each with one file of it changed."""
    from data_process.errors import UserError
    from selftrain.cli.main import main

    def command(*words: object) -> None:
        if (status := main([str(word) for word in words])) not in (0, 1):
            raise UserError(f"exit status {status}")

    names = [str(path.relative_to(run)) for path in sorted(run.rglob("*")) if path.is_file()]
    names = [name for name in names if name.endswith((".json", ".jsonl")) and not name.endswith("sessions.json")]
    seeds = tuple((name, (run / name).read_bytes()) for name in names)
    measured = tuple(seed for seed in seeds if "/dev/" in seed[0] or "/test/" in seed[0] or "/" not in seed[0])

    def at(path: Path) -> Path:
        """The run folder that a file lies in."""
        return next(folder for folder in path.parents if folder.name == "in")

    commands: dict[str, tuple[tuple[tuple[str, bytes], ...], Callable[[Path], object]]] = {
        "report": (seeds, lambda path: command("report", at(path))),
        "compare": (measured, lambda path: command("compare", at(path), run)),
        "rejudge": (seeds, lambda path: command("rejudge", at(path), "--flips", run.parent / "flips.jsonl")),
        "score a run": (measured, lambda path: command("score", at(path))),
        "show": (seeds, lambda path: command("show", at(path), "--wrong")),
        "list": (seeds, lambda path: command("list", at(path).parent)),
    }
    share = {"report": 0.02, "rejudge": 0.3, "score a run": 0.3, "show": 0.5, "compare": 0.5, "list": 0.5}
    return [Target(name, some, read, folder=run, share=share.get(name, 1.0)) for name, (some, read) in commands.items()]


def _logs(work: Path) -> Target:
    from selftrain.training.checkpoints import corruption_reason
    from selftrain.training.launcher import follow
    from selftrain.training.llamafactory import mean_rewards, read_results

    folder = _empty(work / "logs")
    history = [{"loss": 0.5, "step": k, "rewards/accuracies": 0.5, "rewards/margins": 0.1} for k in range(1, 9)]
    state = json.dumps({"global_step": 8, "max_steps": 8, "log_history": history}).encode()
    log = _lines([{"current_steps": k, "total_steps": 8, "loss": 0.5} for k in range(8)])
    results = json.dumps({"train_loss": 0.4}).encode()
    seeds = (("trainer_state.json", state), ("trainer_log.jsonl", log), ("train_results.json", results))
    for name, content in seeds:
        (folder / name).write_bytes(content)

    def read(path: Path) -> None:
        next(follow(path.parent / "trainer_log.jsonl"))
        read_results(path.parent)
        mean_rewards(path.parent)
        corruption_reason(path.parent.parent / "checkpoint-8", 1)

    return Target("trainer logs", seeds, read, folder=folder)


def _texts() -> list[Target]:
    """The judges, on responses of any kind."""
    from data_process.io import problem_from_row
    from data_process.judging import judge

    problems = [problem_from_row(row, "row", Path().resolve()) for row in PROBLEMS]
    texts = ("The answer is (B).", "So $x = \\frac{2\\sqrt{3}}{5}$, thus \\boxed{2\\sqrt{3}}.",
             "<answer>12.5 cm</answer>", "1. First, 3 + 4 = 7.\n2. Then 10**10**10.\nAnswer: [1, 2]",
             "答案是 B。")  # fmt: skip

    def read(path: Path) -> None:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        for problem in problems:
            judge(text, problem)

    return [Target("responses", tuple(("r.txt", text.encode()) for text in texts), read, share=0.5)]


def _replies() -> Target:
    """What a server may answer to a request for a completion: of the engine, and of the extractor."""
    from data_process.http import Answer, _message
    from data_process.judging.extractor import MalformedReply, _content
    from selftrain.engines.openai_api.chat_completions import read_answer

    reply = {
        "model": "m", "usage": {"prompt_tokens": 3, "completion_tokens": 2},
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": "so."}, "token_ids": [1, 2],
                     "logprobs": {"content": [{"token": "a", "bytes": [97], "logprob": -0.5}] * 2}}],
    }  # fmt: skip

    def read(path: Path) -> None:
        body = path.read_bytes()
        answer = Answer(200, {}, body, _message(body))
        with contextlib.suppress(MalformedReply):
            _content(answer)
        try:
            found = answer.json()
        except ValueError:
            return
        if isinstance(found, dict):
            read_answer(found, name="r", url="http://h/v1", logprobs=True)

    return Target("server replies", (("r.json", json.dumps(reply).encode()),), read)


def _model_lists() -> Target:
    """What a server may answer when it is asked for its models."""
    from data_process.errors import UserError
    from selftrain.engines.openai_api.chat_completions import dialect_of, look_up

    card = {"id": "m", "object": "model", "owned_by": "vllm", "root": "/m", "parent": None, "max_model_len": 4096}

    class Client:
        url = "http://h/v1"

        def __init__(self, found: Any) -> None:
            self.found = found

        async def call(self, path: str, *, name: str) -> Any:
            return self.found

    def read(path: Path) -> None:
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise UserError("no JSON") from error
        if isinstance(found, dict):
            client: Any = Client(found)
            dialect_of(client, asyncio.run(look_up(client, "m", optional=False)))

    return Target("model lists", (("m.json", json.dumps({"object": "list", "data": [card] * 2}).encode()),), read)


def _predictions(work: Path) -> Target:
    """Files of engines and logs of other evaluation programs."""
    from selftrain.scoring.answer_file import score_files

    said = [(row["id"], row["question"], f"The answer is {row['answer']}.") for row in PROBLEMS]
    batch = [{"custom_id": i, "response": {"status_code": 200, "body": {"choices": [{"message": {"content": text},
              "finish_reason": "stop"}]}}, "error": None} for i, _, text in said]  # fmt: skip
    lmms = [{"doc_id": k, "target": "x", "filtered_resps": text, "input": f"<image>\n{asked}"}
            for k, (_, asked, text) in enumerate(said)]  # fmt: skip
    vlm = [{"index": k, "id": i, "question": asked, "prediction": text} for k, (i, asked, text) in enumerate(said)]
    inspect = [{"id": i, "epoch": 1, "input": asked, "target": "x", "output": {"choices": [
                {"message": {"content": text}, "stop_reason": "stop"}]}} for i, asked, text in said]  # fmt: skip
    head = {"version": 2, "status": "success", "eval": {}}
    space = 'xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"'
    table = [list(vlm[0]), *(list(row.values()) for row in vlm)]
    cells = ""
    for n, line in enumerate(table, 1):
        values = zip("ABCD", line, strict=True)
        cells += f'<row r="{n}">'
        cells += "".join(f'<c r="{c}{n}" t="inlineStr"><is><t>{value}</t></is></c>' for c, value in values) + "</row>"
    files = {
        "batch.jsonl": _lines(batch), "20260801_101010_samples_t.jsonl": _lines(lmms),
        "v.json": json.dumps(vlm).encode(),
        "v.tsv": "\n".join("\t".join(map(str, row)) for row in table).encode(),
        "lists.jsonl": _lines([{"id": i, "responses": [text, "no"]} for i, _, text in said]),
        "generated_predictions.jsonl": _lines(
            [{"prompt": asked, "predict": text, "label": row["answer"]}
             for row, (_, asked, text) in zip(PROBLEMS, said, strict=True)]),
        "i.json": json.dumps({**head, "samples": inspect}).encode(),
        "i.eval": _zip({"header.json": head, **{f"samples/{s['id']}_epoch_1.json": s for s in inspect}}),
        "v.xlsx": _zip({"xl/worksheets/sheet1.xml": f"<worksheet {space}><sheetData>{cells}</sheetData></worksheet>"}),
    }  # fmt: skip
    for name, content in files.items():
        (work / name).write_bytes(content)

    def read(path: Path) -> None:
        score_files(work / "problems.jsonl", path, "auto", per_item=work / "scored.jsonl")

    for name in files:
        with quiet():
            read(work / name)  # every form is known
    return Target("prediction files", tuple(files.items()), read)


def _zip(members: dict[str, Any]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in members.items():
            archive.writestr(name, value if isinstance(value, str) else json.dumps(value))
    return out.getvalue()


def _traces(run: Path) -> Target:
    """Outside traces in every form."""
    from data_process.io import load_problems
    from data_process.prompts import prompt_set
    from data_process.traces.reader import TraceFile, read_traces

    data = run.parent / "data"
    train = {problem.id: problem for problem in load_problems(data / "train.jsonl", data)}
    problem, prompts = next(iter(train.values())), prompt_set("short")
    cot = [{"problem_id": problem.id, "response": f"So it is.\nAnswer: {problem.answer}"},
           {"question": "How many?", "answer": "5", "response": "2 + 3 = 5.\nAnswer: 5"}]  # fmt: skip
    thinking = [{**row, "thinking": "2 + 3 = 5"} for row in cot]
    shared = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b c d"}]}]
    examples = next(run.glob("iter1/build/examples.jsonl")).read_bytes()
    seeds = (("cot.jsonl", _lines(cot)), ("thinking.jsonl", _lines(thinking)), ("sharegpt.jsonl", _lines(shared)),
             ("rows.jsonl", examples[:9000].rpartition(b"\n")[0] + b"\n"))  # fmt: skip

    def read(path: Path) -> None:
        kind: Any = path.stem
        read_traces(TraceFile(path, kind, unjudged=True), train, prompts, data)

    return Target("traces", seeds, read)


def _adapters(work: Path) -> Target:
    from selftrain.training.adapter import CONFIG, WEIGHTS, check_adapter, shape_of
    from selftrain.training.weight_files import header_of

    folder = _empty(work / "adapter")
    header = {"__metadata__": {"format": "pt"}, "a.lora_B": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]},
              "a.lora_A": {"dtype": "BF16", "shape": [4], "data_offsets": [16, 24]}}  # fmt: skip
    text = json.dumps(header).encode()
    weights = struct.pack("<Q", len(text)) + text + struct.pack("<4f", 1, 2, 3, 4) + bytes(8)
    config = json.dumps({"r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "base_model_name_or_path": "m"}).encode()
    seeds = ((WEIGHTS, weights), (CONFIG, config))
    for name, content in seeds:
        (folder / name).write_bytes(content)

    def read(path: Path) -> None:
        shape_of(path.parent)
        header_of(path.parent / WEIGHTS)
        check_adapter(path.parent)

    return Target("adapters", seeds, read, folder=folder)
