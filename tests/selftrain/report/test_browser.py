"""The problems inside the report: what the page holds of them, what it leaves out and says so, and what runs in it."""

from __future__ import annotations

import base64
import gzip
import hashlib
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from data_process.io import write_jsonl
from selftrain.config import load_config
from selftrain.files import write_json
from selftrain.report.browser import Browser, Limits, browse
from selftrain.report.browser.images import SIDE
from selftrain.report.html_page import html_page
from selftrain.runs.metrics import Metrics
from selftrain.runs.stored import StoredRun

HOSTILE = (
    '</script><script>document.title="owned"</script><img src=x onerror=alert(1)> "\' javascript:alert(1) \u202eabc'
)
N = 6
# What a selector was asked, with a budget in its second thought.
ASKED = {
    "prompt": ["Which is correct? 1. ", "0", " 2. ", "1", ""], "named": 1,
    "budget": {"thinking": 9, "ignored_at": [4], "closed_by": "model"},
}  # fmt: skip


def photo(k: int) -> Image.Image:
    """A picture with as much detail as a photo has: wide, with a red left edge."""
    noise = Image.effect_noise((1600, 1000), 40 + k)
    image = Image.merge("RGB", [noise, Image.radial_gradient("L").resize(noise.size), noise.rotate(90 * k)])
    image.paste("red", (0, 0, 200, 1000))
    return image


def text(words: str, answer: str | None, gold: str, **more: Any) -> dict[str, Any]:
    at = words.rfind(f"({answer})")
    status = "abstain" if answer is None else "correct" if answer == gold else "wrong"
    verdict = {"status": status, "extracted": answer, "rule": "cue", "span": [at, at + 3] if at >= 0 else None}
    return {"text": words, "tokens": 7, "prompt_tokens": 9, "finish": "stop", "verdict": verdict, **more}


def evaluated(identifier: str, gold: str, answer: str | None, vote: str, select: str, words: str) -> dict[str, Any]:
    one = text(f"{words} Answer: ({answer})" if answer else words, answer, gold)
    return {
        "id": identifier, "question": f"Question {identifier}?", "choices": ["45", "47"], "gold": gold,
        "samples": [one, text("\U0001f600 I say (A)", "A", gold)],
        "strategies": {
            "greedy": {"credit": float(answer == gold), "abstain": float(answer is None), "texts": [one],
                       "answers": [answer] if answer else []},
            "majority": {"credit": float(vote == gold), "abstain": 0.0, "answers": [vote]},
            "select": {"credit": float(select == gold), "abstain": 0.0, "answers": [select], "texts": [one | ASKED]},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run folder with six photos. p0 is gained, p1 lost, p2 unread, p3 has vote ≠ select, p4 contradicts itself."""
    folder = tmp_path_factory.mktemp("browser")
    data, run = folder / "data", folder / "run"
    (data / "images").mkdir(parents=True)
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned a quarter clockwise
    problems = []
    for k in range(N):
        name = ("images/a.jpg", "images/b.png", "images/c.webp", "images/d.tif", "images/e.jpg", "images/f.jpg")[k]
        image = photo(k).convert("CMYK") if k == 3 else photo(k)
        image.save(data / name, **({"exif": turned} if k == 0 else {}))
        problems.append(
            {"id": f"p{k}", "question": f"Question p{k}?", "answer": "B", "choices": ["45", "47"], "image": name}
        )
    (data / "images/f.jpg").write_bytes(b"no image")
    for split in ("train", "dev", "test"):
        write_jsonl(
            data / f"{split}.jsonl",
            [{**p, "id": p["id"].replace("p", split)} if split != "dev" else p for p in problems],
        )
    given = ["data.source=jsonl", f"data.folder={data}", f"output={run}"]
    write_json(run / "config.json", load_config(None, given).model_dump(mode="json"))
    plain = [("A", "B"), ("B", "A"), ("B", None), ("B", "B"), ("B", "B"), ("A", "A")]
    for k in (0, 1):
        rows = []
        for i, answers in enumerate(plain):
            words = "x = 45. So 45 is (B)." if i == 4 and k else HOSTILE if i == 5 else "I look."
            rows.append(evaluated(f"p{i}", "B", answers[k], "A" if i == 3 else "B", "B", words) | {"iteration": k})
        write_jsonl(run / f"iter{k}/dev/rows.jsonl", rows)
        write_jsonl(run / f"iter{k}/test/rows.jsonl", [{**row, "id": row["id"].replace("p", "test")} for row in rows])
    judged = [
        {"candidate": {"problem_id": "train0", "iteration": 0, "sample": 3, "text": "So (B)", "n_tokens": 2,
                       "n_prompt_tokens": 3, "finish": "stop"}, "verdict": text("So (B)", "B", "B")["verdict"]}
    ]  # fmt: skip
    write_jsonl(run / "iter1/judge/judged.jsonl", judged)
    row = {"id": "cot/train0/0/3", "kind": "cot", "problem_id": "train0", "prompt": HOSTILE, "target": "So (B)"}
    write_jsonl(run / "iter1/build/examples.jsonl", [{**row, "sources": ["train0/0/3"]}])
    return run


@pytest.fixture(scope="module")
def browser(run) -> Browser:
    return browse(StoredRun(run))


def unpacked(page: str) -> Any:
    return json.loads(gzip.decompress(base64.b64decode(page)))


@pytest.mark.slow
def test_every_problem_is_there_with_every_iteration(browser):
    index = unpacked(browser.index)
    assert [split["name"] for split in index["splits"]] == ["dev", "test"]
    dev = index["splits"][0]
    assert [problem[0] for problem in dev["problems"]] == [f"p{k}" for k in range(N)]
    assert {name: len(pages) for name, pages in browser.pages.items()} == dict.fromkeys(
        ["dev/problems", "dev/0", "dev/1", "test/problems", "test/0", "test/1", "rows"], 1
    )
    for name in ("problems", "0", "1"):
        assert len(unpacked(browser.pages[f"dev/{name}"][0])) == N
    assert dev["order"] == [0, 1, 2, 3, 4, 5]  # the changed ones happen to be the first
    [first, *_] = unpacked(browser.pages["dev/1"][0])
    greedy = next(one for one in first["texts"] if one["name"] == "greedy")
    assert greedy["text"][slice(*greedy["span"])] == "(B)"
    [asked] = [one for one in first["texts"] if one["name"] == "select"]
    assert {key: asked[key] for key in ASKED} == ASKED
    assert not ASKED.keys() & greedy.keys()
    assert browser.notes == ["1 image could not be read."]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("problem", "before", "after", "flags"),
    [(0, "0", "1", 0), (1, "1", "0", 0), (2, "1", "a", 0), (3, "1", "1", 1), (4, "1", "1", 2), (5, "0", "0", 0)],
)
def test_what_filters_go_by(browser, problem, before, after, flags):
    summaries = unpacked(browser.index)["splits"][0]["problems"][problem][3]
    assert [summaries["0"][0][0], summaries["1"][0][0]] == [before, after]
    assert summaries["1"][2] == flags


@pytest.mark.slow
def test_where_a_training_row_came_from(browser):
    assert unpacked(browser.index)["rows"] == [[1, "cot/train0/0/3", "cot", "train0"]]
    [row] = unpacked(browser.pages["rows"][0])
    [source] = row["sources"]
    assert (source["name"], source["status"], source["text"], source["span"]) == (
        "train0/0/3",
        "correct",
        "So (B)",
        [3, 6],
    )


@pytest.mark.slow
def test_images_of_any_format_are_small_turned_and_there_once(browser):
    """dev and test show the same files, and the page holds each of them once."""
    assert len(browser.images) == N - 1
    first, *others = [Image.open(io.BytesIO(base64.b64decode(one.base64))) for one in browser.images]
    assert first.size == (320, SIDE)  # 1600 x 1000, turned a quarter
    red, _, blue = first.convert("RGB").getpixel((160, 10))  # what was left is now on top
    assert red > 200 > 80 > blue
    assert {image.size for image in others} == {(SIDE, 320)}
    assert not any(image.getexif() for image in (first, *others))
    problems = unpacked(browser.pages["dev/problems"][0])
    assert problems[5]["images"] == ["The image cannot be shown (corrupt)."]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("limits", "note"),
    [
        (Limits(problem_bytes=1), "This file holds a part of the run. There was no room for the texts of 24 evaluated"),
        (Limits(images=2), "There was no room for"),
        (Limits(row_bytes=0), "There was no room for 1 of 1 training row."),
        (Limits(checked=1), "The reasoning of"),
    ],
)
def test_a_page_says_what_it_does_not_hold(run, limits, note):
    found = browse(StoredRun(run), limits)
    assert any(one.startswith(note) for one in found.notes), found.notes
    assert len(unpacked(found.index)["splits"][0]["problems"]) == N  # the list itself is whole


def report(browser: Browser, folder: Path) -> str:
    scores = {"greedy": {"accuracy": 0.5, "low": 0.4, "high": 0.6, "n": N}}
    rows = [{"iteration": k, "eval": {"dev": {"n": N, "strategies": scores}}} for k in (0, 1)]
    m = Metrics.model_validate({"run": {"name": "demo"}, "iterations": rows, "accepted": 1})
    return html_page(m, folder, browser).read_text(encoding="utf-8")


@pytest.mark.slow
def test_one_script_and_no_other_can_run(browser, tmp_path):
    page = report(browser, tmp_path)
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    [ours] = [body for attributes, body in scripts if not attributes]
    digest = base64.b64encode(hashlib.sha256(ours.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.replace("&#39;", "'")
    assert "default-src 'none'" in page
    for attributes, body in scripts:
        assert not attributes or re.fullmatch(r"[A-Za-z0-9+/=]*", body)
    assert "owned" in page
    assert "<script>document.title" not in page
    assert "<img src=x" not in page
    assert "\u202e" not in page
    assert "⟨U+202E⟩" in page
    assert len(page) < 500_000  # six photos


@pytest.mark.slow
def test_without_a_script_problems_and_examples_can_be_read(browser, tmp_path):
    page = report(browser, tmp_path)
    for shown in (
        "6 of 6 problems, changed ones first",
        "<mark>(B)</mark>",
        "Against its own reasoning: 45 is (B), but",
    ):
        assert shown in page
    assert page.count("<img id=") == N - 1


@pytest.mark.slow
def test_the_same_run_gives_the_same_page(run, browser, tmp_path):
    again = browse(StoredRun(run))
    assert report(again, tmp_path / "a") == report(browser, tmp_path / "b")


@pytest.mark.slow
def test_every_section_has_a_link(browser, tmp_path):
    page = report(browser, tmp_path)
    contents = page[page.index("<nav") : page.index("</nav>")]
    anchors = re.findall(r'href="#([^"]+)"', contents)
    assert anchors == re.findall(r'<h2 id="([^"]+)"', page)
    assert {"problems", "examples", "the-run"} <= {*anchors}
