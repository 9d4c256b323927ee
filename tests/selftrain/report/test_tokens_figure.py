"""Accuracy against tokens: what is drawn, where, and beside which numbers."""

from __future__ import annotations

import itertools

import pytest

from selftrain.report import tokens_figure
from selftrain.report.formatting import extras, strategies, strategy_name
from selftrain.report.html_page import html_page
from selftrain.report.tables import contrast_rows, provenance, report_markdown, token_rows
from selftrain.report.tokens_figure import AXES, Point, beside, points, shown
from selftrain.report.write import write_report
from selftrain.runs.metrics import Metrics, contrasted
from selftrain.runs.timing import Timing
from selftrain.test_time.results import Score

BASIC = ("greedy", "mean", "majority", "select", "pass")
EXTRA = (
    "greedy+1", "greedy+2", "majority@5", "vote_consistent@5", "adaptive@10", "select@5", "tournament@10/5",
    "majority@3+1", "select@3+1", "refine@1",
)  # fmt: skip


def scores(names, shift=0.0):
    found = {}
    for k, name in enumerate(names):
        accuracy = 0.4 + 0.02 * k + shift
        tokens = {"generated": 40.0 * (k + 1), "prompt": 20.0}
        interval = {"low": accuracy - 0.05, "high": accuracy + 0.05}
        found[name] = {"accuracy": accuracy, "n": 100, "tokens_per_problem": tokens, **interval}
    return found


@pytest.fixture
def metrics() -> Metrics:
    def row(k):
        evaluation = {"dev": {"n": 50, "n_samples": 3, "strategies": scores(BASIC, 0.1 * k)}}
        evaluation["test"] = {"n": 100, "n_samples": 3, "strategies": scores((*BASIC, *EXTRA), 0.1 * k)}
        return {"iteration": k, "eval": evaluation, "accepted": k == 1}

    change = {"split": "test", "strategy": "greedy+1", "a": 0, "b": 1, "difference": 0.1, "low": 0.02, "high": 0.18}
    honest = {**change, "honest": True, "difference": 0.3}  # listed after, and not what the table of accuracies shows
    contrast = {"split": "test", "iteration": 1, "a": "greedy+1", "b": "select@5", "difference": 0.05, "p": 0.2}
    run = {"name": "demo", "n_samples": 3}
    return Metrics.model_validate(
        {
            "run": run,
            "iterations": [row(0), row(1)],
            "accepted": 1,
            "comparisons": [change, honest],
            "contrasts": [contrast],
            "readings": [{"by": "run", "weights": [0, 1], "splits": ["test"], "settings": "a", "strategies": []}],
        }
    )


def without_extras(metrics: Metrics) -> Metrics:
    values = metrics.to_json()
    for row in values["iterations"]:
        row["eval"]["test"]["strategies"] = {name: row["eval"]["test"]["strategies"][name] for name in BASIC}
    return Metrics.model_validate({**values, "contrasts": []})


def test_names(metrics):
    assert extras(metrics) == list(EXTRA)
    assert strategies(metrics, "test") == list(BASIC)
    assert [strategy_name(metrics, name) for name in EXTRA] == [
        "Greedy +1 Wait", "Greedy +2 Waits", "Majority@5", "Consistent vote@5", "Adaptive vote@10", "Self-select@5",
        "Tournament@10 in groups of 5", "Majority@3 +1 Wait", "Self-select@3 +1 Wait", "Refined ×1",
    ]  # fmt: skip
    assert strategy_name(metrics, "from outside") == "from outside"


def test_every_way_to_answer_is_a_point(metrics):
    panels = shown(metrics)
    assert [*panels] == ["Base model, test, n = 100", "Iteration 1, accepted, test, n = 100"]
    found = points(metrics, panels["Base model, test, n = 100"])
    assert [(p.way, p.label) for p in found] == [
        ("Greedy, with Waits", "greedy"), ("Vote", "@3"), ("Selection", "@3"), ("Greedy, with Waits", "+1"),
        ("Greedy, with Waits", "+2"), ("Vote", "@5"), ("Other votes", "@5"), ("Other votes", "@10"),
        ("Selection", "@5"), ("Tournament", "@10"), ("Combination", "vote@3+1"), ("Combination", "select@3+1"),
        ("Refinement", "×1"),
    ]  # fmt: skip


def test_labels_stay_apart():
    several = [
        Point(
            "Vote", "@10", Score.model_validate({**scores(["x"])["x"], "tokens_per_problem": {"generated": 100.0 + k}})
        )
        for k in range(5)
    ]
    places = beside(several, (0, 100, 50, 200))
    lifts = [(AXES[0] * 0, x, y) for x, y in places]
    assert len(set(lifts)) == 5
    for (_, x, y), (_, other_x, other_y) in itertools.combinations(lifts, 2):
        assert x * other_x < 0 or abs(y - other_y) >= 8


def test_tables(metrics):
    header, rows = token_rows(metrics)
    assert header == ["Strategy", "Tokens", "Accuracy", "Tokens of the base", "Accuracy of the base", "Change (points)"]
    assert [row[0] for row in rows][:4] == ["Greedy", "Majority@3", "Self-select@3", "Greedy +1 Wait"]
    assert rows[3] == ["Greedy +1 Wait", "260", "60.0 [55.0, 65.0]", "260", "50.0 [45.0, 55.0]", "+10.0 [+2.0, +18.0]"]
    assert len(rows) == len(BASIC) + len(EXTRA) - 2  # without the mean and the oracle
    assert contrast_rows(metrics)[1] == [["1", "Self-select@5", "Greedy +1 Wait", "+5.0", "0.200", "260 → 460"]]
    assert provenance(metrics).endswith("for iterations 0 and 1, with 15 strategies each, and chose nothing.")


def test_nothing_of_it_without_extras(metrics, tmp_path):
    plain = without_extras(metrics)
    assert extras(plain) == []
    assert "contrasts" not in plain.to_json()
    assert token_rows(plain) == ([], [])
    assert tokens_figure.draw(plain, tmp_path) == []
    assert "tokens.svg" not in report_markdown(plain, Timing())
    assert "Accuracy against tokens" not in html_page(plain, tmp_path).read_text()
    assert provenance(plain).endswith("for iterations 0 and 1, and chose nothing.")


@pytest.mark.slow
def test_the_files(metrics, tmp_path):
    first, second = (write_report(metrics, tmp_path / name) for name in "ab")
    assert {path.name for path in first} >= {"tokens.svg", "tokens.pdf", "tokens.png", "curve.svg", "report.html"}
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name
    text = (tmp_path / "a/report.md").read_text()
    assert text.index("![Accuracy against tokens](tokens.svg)") < text.index("## What the tokens buy")
    page = (tmp_path / "a/report.html").read_text()
    assert page.count("n = 100. Accuracy, % by Tokens per problem") == 2
    assert "Greedy, with Waits: 40 at greedy, 50 at +1" in page
    assert "var(--select)" in page


CONTRASTED = [
    (("greedy", "majority", "select"), [("majority", "select")]),
    (("greedy", "greedy+2"), [("greedy", "greedy+2")]),
    (
        ("greedy", "majority", "select", "vote_consistent@3", "greedy+1", "refine@1"),
        [("majority", "select"), ("vote_consistent@3", "select"), ("greedy+1", "select"), ("refine@1", "select"),
         ("greedy", "greedy+1")],
    ),
    (
        ("majority@5", "majority@3+1", "select@3+1", "greedy+1"),
        [("greedy+1", "majority@3+1"), ("majority@3+1", "select@3+1"), ("greedy+1", "select@3+1")],
    ),
    (
        ("greedy+1", "greedy+2", "refine@1", "vote_consistent@3+1"),
        [(one, "vote_consistent@3+1") for one in ("greedy+1", "greedy+2", "refine@1")],
    ),
    (("tournament@10/5", "majority@10", "majority@5"), [("majority@10", "tournament@10/5")]),
    (("mean", "pass", "from outside"), []),
]  # fmt: skip


@pytest.mark.parametrize(("names", "pairs"), CONTRASTED)
def test_what_is_compared_with_what(names, pairs):
    assert contrasted(names, 3) == pairs
