"""One grammar, two evaluations: what each reads, where they agree, and where they differ on purpose."""

from __future__ import annotations

import ast
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.judging.maths.numeric import letters_of, values_at
from data_process.judging.maths.parser import tokenize
from data_process.judging.maths.surds import approximate, read_exact

NONE: frozenset[str] = frozenset()

# (text, exact value as a float or None, value at every point or None)
READINGS = [
    ("2\\sqrt{3}", 3.4641016151377544, 3.4641016151377544),
    ("2√3", 3.4641016151377544, 3.4641016151377544),
    ("sqrt[2]{9}", 3, 3),
    ("-2^2", -4, -4),
    ("2^{-1}", 0.5, 0.5),
    ("6 \\div 2 \\times 3", 9, 9),
    ("2(3)[4]{5}", 120, 120),
    ("((1+2)*3)", 9, 9),
    ("9\\pi/9", 3.141592653589793, 3.141592653589793),
    # Only exact: words, thousands, mixed numbers, braces left out
    ("2 root 9", 6, None),
    ("square root of 16", 4, None),
    ("1,234", 1234, None),
    ("\\frac12", 0.5, None),
    ("2\\frac{1}{2}", 2.5, 1),
    ("-2\\frac{1}{2}", -2.5, -1),
    ("2\\frac{4}{3}", 2.6666666666666665, 2.6666666666666665),
    # Only at points: functions, absolute values, higher roots, nested roots, a number behind a value
    ("\\sin(0)", None, 0),
    ("\\cos^2 0", None, 1),
    ("\\log_{2}{8}", None, 3),
    ("\\log 100", None, 2),
    ("|1-3|", None, 2),
    ("|1|2|3|", None, 6),
    ("\\sqrt[3]{8}", None, 2),
    ("√(√16)", 2, 2),
    ("√(1+√9)", 2, 2),
    ("√(√2+√2)", None, 1.6817928305074292),
    ("2 3", None, 6),
    ("e^0", None, 1),
    # Neither
    ("", None, None),
    ("+", None, None),
    (")", None, None),
    ("(1", None, None),
    ("(1]", None, None),
    ("1)", None, None),
    ("2^3^2", None, None),
    ("2^", None, None),
    ("1/0", None, None),
    ("\\frac{1}", None, None),
    ("\\frac{1}{2", None, None),
    ("√", None, None),
    ("|1+|2||", None, None),
    ("9" * 31, None, None),
    ("(" * 13 + "1" + ")" * 13, None, None),
    ("1 = 1", None, None),
    ("5!", None, None),
]


@pytest.mark.parametrize(("text", "exact", "at_points"), READINGS)
def test_readings(text, exact, at_points):
    value = read_exact(text)
    assert (value is None) == (exact is None)
    assert value is None or approximate(value) == pytest.approx(exact)
    values = values_at(text, letters_of(text) or NONE)
    if at_points is None and values is not None:  # read as letters: "2 root 9" is 2·r·o²·t·9
        assert letters_of(text)
    else:
        assert values is None if at_points is None else values == pytest.approx([at_points] * 5)


def test_letters():
    assert letters_of("x_1+\\alpha\\sin(y)-e\\pi") == {"x_1", "alpha", "y"}
    assert letters_of("x = 1") is None
    assert tokenize("2\\times x") == (("number", "2"), ("op", "*"), ("letter", "x"))


_LEAVES = st.sampled_from(["1", "2", "12", "0.5", "\\pi", "√2", "√{12}", "\\sqrt{5}"])
_EXPRESSIONS = st.recursive(
    _LEAVES,
    lambda parts: st.one_of(
        st.tuples(parts, st.sampled_from("+-*/"), parts).map("({0[0]}{0[1]}{0[2]})".format),
        st.tuples(parts, parts).map("\\frac{{{0[0]}}}{{{0[1]}}}".format),
        st.tuples(parts, parts).map("({0[0]})({0[1]})".format),
        parts.map("-({})".format),
        parts.map("({})^2".format),
        parts.map("{{{}}}^{{-1}}".format),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=None)
@given(_EXPRESSIONS)
def test_both_evaluations_agree(text):
    exact, values = read_exact(text), values_at(text, NONE)
    if exact is not None and values is not None:
        assert values == pytest.approx([approximate(exact)] * 5, rel=1e-9, abs=1e-9)


@settings(max_examples=200, deadline=None)
@given(st.text(st.sampled_from("12x.,+-*/^(){}[]|_√π \\"), max_size=40) | st.text(max_size=40))
def test_any_text_is_read_or_refused(text):
    read_exact(text)
    values_at(text, letters_of(text) or NONE)


@pytest.mark.parametrize("part", ["√", "(", "-", "\\frac{1}{", "|", "2^", "\\sin", "(1+√2)", "9", "x", "(√2+√3+√5)*"])
def test_long_expressions_take_no_time(part):
    started = time.process_time()
    for text in (part * 2000, part * (120 // len(part)), part * (200 // len(part)), part * (120 // len(part)) + "1"):
        read_exact(text)
        values_at(text, letters_of(text) or NONE)
    assert time.process_time() - started < 1


# Which rooms of the judge a room may import.
ROOMS = {
    "maths": {"maths"},
    "locate": {"locate", "maths"},
    "types": {"types", "locate", "maths"},
    "published": {"published", "maths", "judging"},
}


def test_rooms_import_in_one_direction():
    judging = Path(__file__).parents[3] / "data_process" / "judging"
    for room, allowed in ROOMS.items():
        for path in (judging / room).glob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("data_process.judging"):
                    imported = node.module.split(".")[2:3] or ["judging"]
                    assert imported[0] in allowed, f"{path}: {node.module}"
                    assert not any(alias.name.startswith("_") for alias in node.names), f"{path}: {node.module}"
