"""What keeps a problem out by itself."""

from __future__ import annotations

import re

import pytest
from PIL import Image

from data_process.curate.quality import (
    QualityRules,
    StringRule,
    broken_text,
    read_images,
    text_fault,
    trace_is_right,
)
from data_process.schema import Problem

S1 = [
    StringRule("asymptote", re.compile(r"\[asy\]"), frozenset({"AIME"})),
    StringRule("image_link", re.compile(r"!\[Image\]")),
    StringRule("numbered_parts", re.compile(r"\bp\d{1,3}\.")),
    StringRule("bold_numbers", re.compile(r"\*\*[^*]*\d[^*]*\*\*")),
]
RULES = QualityRules(5, 60, True, "trace", True, True, S1)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Find x in 2x = 6.", None),
        ("Caf\u00e9 \u00c2ge 20\u00b0 \u2019 \u03b1 \u4e2d", None),
        ("a set \\{1, 2\\} and \\frac{1}{2}\nnext\tcolumn", None),
        ("{ without TeX", None),
        ("a \ufffd b", "replacement characters"),
        ("a \x00 b", "control characters"),
        ("a \x85 b", "control characters"),
        ("Caf\u00c3\u00a9", "text encoded twice"),
        ("it\u00e2\u20ac\u2122s", "text encoded twice"),
        ("20\u00c2\u00b0", "text encoded twice"),
        ("\\frac{1}{2", "unbalanced braces"),
    ],
)
def test_broken_text(text, fault):
    assert broken_text(text) == fault


def problem(question="Find x now.", answer="7", trace="So 3 + 4 = 7. Answer: 7", **fields):
    fields.setdefault("answer_type", "number")
    return Problem("p", question, answer, meta={"trace": trace}, **fields)


@pytest.mark.parametrize(
    ("item", "origin", "fault"),
    [
        (problem(), None, None),
        (problem("x?"), None, "question shorter than 5 characters"),
        (problem("x" * 61), None, "question longer than 60 characters"),
        (problem("draw [asy] it"), "MATH", "string rule asymptote"),
        (problem("draw [asy] it"), "AIME", None),
        (problem("see ![Image](1)"), None, "string rule image_link"),
        (problem("p12. Find x."), None, "string rule numbered_parts"),
        (problem("step12. Find x."), None, None),
        (problem("**Example 3** Find x."), None, "string rule bold_numbers"),
        (problem("**Example** Find 3x."), None, None),
        (problem(trace=""), None, "no trace in 'trace'"),
        (problem(trace=None), None, "no trace in 'trace'"),
        (problem(trace="Answer: 8"), None, "the trace does not reach the gold answer"),
        (problem(choices=("7", "7 "), answer="A", answer_type="choice"), None, "two equal choices"),
        (problem(choices=("7", "\ufffd"), answer="A", answer_type="choice"), None, "replacement characters"),
    ],
)
def test_faults_of_a_problem(item, origin, fault):
    assert text_fault(item, origin, RULES) == fault


@pytest.mark.parametrize(
    ("trace", "right"),
    [("Answer: 7", True), ("Answer: 8", False), (True, True), (False, False), (None, False), (7, False)],
)
def test_trace_is_right(trace, right):
    assert trace_is_right(problem(trace=trace), "trace") is right


def test_images(tmp_path):
    Image.new("RGB", (8, 6), "red").save(tmp_path / "a.png")
    Image.new("RGB", (8, 6), "red").save(tmp_path / "b.bmp")
    Image.new("RGB", (6, 8), "red").save(tmp_path / "c.png")
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "torn.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    known: dict = {}
    (a,), (b,), (c,) = (read_images(tmp_path, [name], known) for name in ("a.png", "b.bmp", "c.png"))
    assert a == b != c, "digests are of pixels and their shape"
    assert read_images(tmp_path, ["a.png", "c.png"], known) == (a, c)
    assert read_images(tmp_path, [], known) == ()
    for name, why in (("torn.png", "image corrupt"), ("empty.png", "image empty"), ("no.png", "image missing")):
        assert read_images(tmp_path, ["a.png", name], known) == why
    (tmp_path / "a.png").unlink()
    assert read_images(tmp_path, ["a.png"], known) == (a,), "an image is decoded once"
