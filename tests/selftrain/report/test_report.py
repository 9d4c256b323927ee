"""The report from one set of metrics: what it says and refuses, that it is safe to open and the same every time."""

import copy
import io
import itertools
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from PIL import Image
from rich.console import Console

from selftrain.config import load_config
from selftrain.files import RunError, write_json
from selftrain.report import draw, headline, html_page, summary_table, terminal_table, write_report, write_run_report
from selftrain.report.formatting import duration, number, p_value, points, rate
from selftrain.report.plots import spread
from selftrain.runs.metrics import Metrics, untrained_ignores
from selftrain.runs.timing import Timing
from selftrain.stats import wilson
from selftrain.test_time.results import Calibration

HOSTILE = '<script>alert("x")</script><img src=x onerror=alert(1)> $a^$ | `b` "\' \x00 \ud800'
GREEDY = ("iterations", 0, "eval", "dev", "strategies", "greedy")


def score(correct, n, **more):
    low, high = wilson(correct, n)
    return {"accuracy": correct / n if n else 0.0, "low": low, "high": high, "correct": correct, "n": n, **more}


def split(n, *correct):
    more = {"abstain": 3, "truncated": 2, "tokens_per_problem": {"generated": 41.2, "prompt": 90.0}}
    names = ("greedy", "mean", "majority", "select", "pass")
    scores = {name: score(c, n, **more) for name, c in zip(names, correct, strict=True)}
    return {"n": n, "n_samples": 8, "strategies": scores}


def train():
    return {
        "sampled_problems": 1500,
        "candidates": 4500,
        "correct": 2000,
        "wrong": 2300,
        "abstain": 200,
        "truncated": 12,
        "pool": {"all_right": 10, "all_wrong": 20, "mixed": 30, "unreadable": 1},
        "examples": {"qa": 0, "cot": 900, "refine": 500, "select": 400},
        "dropped": {"no_positive": 10},
        "steps": 100,
        "train_loss": 0.31,
    }


@pytest.fixture
def metrics():
    dev = [
        split(400, 204, 200, 220, 212, 300),
        split(400, 228, 220, 236.5, 240, 330),
        split(400, 220, 210, 230, 236, 328),
    ]
    iterations = [
        {"iteration": i, "accepted": i == 1, "train": train() if i else None, "eval": {"dev": dev[i]}} for i in range(3)
    ]
    iterations[0]["eval"]["test"] = split(800, 400, 390, 430, 420, 600)
    iterations[1]["eval"]["test"] = split(800, 456, 440, 470, 480, 650)
    test = {"split": "test", "strategy": "greedy", "a": 0, "b": 1, "difference": 0.07, "low": 0.04, "high": 0.1}
    return {
        "run": {
            "name": "demo",
            "config_digest": "3f9a",
            "seed": 0,
            "model": "tiny",
            "recipe": "r3v",
            "n_samples": 8,
            "chance": 0.25,
        },
        "iterations": iterations,
        "accepted": 1,
        "readings": [read(0, 1)],
        "comparisons": [{**test, "p": 1e-5, "gained": 90, "lost": 34, "n": 800}],
    }


def read(*weights, **more):
    common = {"by": "run", "iters": 2, "splits": ["test"], "settings": "3f9a", "strategies": ["greedy"]}
    return {**common, "weights": weights, **more}


TIME = Timing(
    "2025-01-01T12:00:00",
    900.0,
    {"sampling": 300.0, "training": 400.0},
    {1: {"sampling": 100.0, "training": 200.0}, 2: {"sampling": 200.0, "training": 200.0}},
)


def record(metrics) -> Metrics:
    return Metrics.model_validate(metrics)


def bare(metrics):
    """Only what the contract requires, for a run that has evaluated nothing but its base model."""
    dev = {"n": 0, "strategies": {"greedy": {"accuracy": 0, "low": 0, "high": 1, "n": 0}}}
    return {"run": {"name": "bare"}, "iterations": [{"iteration": 0, "eval": {"dev": dev}}], "accepted": None}


class Tags(HTMLParser):
    """Every tag with its attributes, as a browser would find them."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


# ---------------------------------------------------------------------------------------------- tables


def test_summary_table(metrics):
    table = summary_table(record(metrics))
    assert "| 0 (base) | 400 | 51.0 [46.1, 55.9] | 50.0 [45.1, 54.9] |" in table
    assert "| **1, accepted** | **400** | **57.0 [" in table
    assert table.count("accepted") == 2  # once in dev, once in test
    assert "Pass@8 (oracle) | Abstain (greedy) |" in table
    assert "0.8% |" in table  # 3 of 400
    assert "Dev chose iteration 1. Test was read once, for iterations 0 and 1, and chose nothing." in table
    widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
    assert widths == {9}


@pytest.mark.parametrize(
    ("readings", "said"),
    [
        ([read(0, 1)], "Test was read once, for iterations 0 and 1, and chose nothing."),
        ([read(0, 1, splits=["test", "hard"])], "Test was read once, for iterations 0 and 1, and chose nothing."),
        ([], "Test was read for iterations 0 and 1; nothing records how often."),
        (
            [read(0, 1), read(3, iters=3), read("base", "accepted", by="scale", iters=None)],
            "Test was read 3 times: for iterations 0 and 1 when the run had 2 iterations; for iteration 3 when the run "
            "had 3 iterations; by selftrain scale for base and accepted, in 1 setting. No rule chose by it, but "
            "whoever went on could have seen the earlier readings.",
        ),
        (
            [read(-1, 0, 1, settings=None, iters=None)],
            "Test was read at least once: for iterations base, 0 and 1 before readings were recorded.",
        ),
    ],
)
def test_how_often_test_was_read(metrics, readings, said, tmp_path):
    known = record({**metrics, "readings": readings})
    assert said in summary_table(known)
    assert said in html_page(known, tmp_path).read_text()


def test_without_test_split(metrics):
    metrics["readings"] = []
    for row in metrics["iterations"]:
        row["eval"].pop("test", None)
    assert "### Test" not in summary_table(record(metrics))
    assert "The test split has not been read." in summary_table(record(metrics))
    assert headline(record(metrics)).startswith("Greedy accuracy on dev: 51.0% → 57.0% [")
    assert "+6.0 points, not tested" in headline(record(metrics))


def test_headline(metrics):
    assert headline(record(metrics)) == (
        "Greedy accuracy on test: 50.0% → 57.0% [53.5, 60.4] of 800 problems after iteration 1 "
        "(+7.0 points [+4.0, +10.0], p < 0.0001)."
    )
    metrics["accepted"] = 0
    assert "no later iteration was accepted" in headline(record(metrics))


@pytest.mark.parametrize(
    ("idle", "said"),
    [
        (None, ""),
        (0.5, ""),
        (0.97, " In more than half of their samples these changed nothing: Greedy +1 Wait (97%)."),
    ],
)
def test_a_budget_that_does_nothing_is_in_the_headline(metrics, idle, said):
    before = headline(record(metrics))
    test = metrics["iterations"][1]["eval"]["test"]["strategies"]
    test["greedy+1"] = {**test["greedy"], "idle": idle}
    metrics["iterations"][0]["eval"]["test"]["strategies"]["greedy+1"] = {**test["greedy"], "idle": 1.0}
    assert headline(record(metrics)) == before + said
    untrained = headline(record({**metrics, "untrained": [" Wait,", "Hm"]}))
    assert untrained.endswith(
        " No training row of this run holds the ignore strings that are forced here: “Wait,”, “Hm”."
    )


@pytest.mark.parametrize(
    ("overrides", "untrained"),
    [
        ([], ()),  # nothing is forced
        (["build.parts.reflect=1"], ()),
        (["evaluation.test_strategies=[greedy+1]"], (" Wait,",)),
        (["evaluation.test_strategies=[greedy+1]", "build.parts.reflect=1"], ()),
        (
            ["evaluation.test_strategies=[greedy+1]", "build.parts.reflect=1",
             'evaluation.budget={preset: tiny, ignore: ["Hm", " Wait,"]}'],
            ("Hm",),
        ),
    ],
)  # fmt: skip
def test_ignore_strings_that_no_row_holds(overrides, untrained):
    assert untrained_ignores(load_config(None, overrides)) == untrained


def test_order_of_iterations_is_by_number(metrics):
    turned = {**metrics, "iterations": metrics["iterations"][::-1]}
    assert summary_table(record(turned)) == summary_table(record(metrics))


@pytest.mark.slow
def test_mean_counts_abstentions_among_responses(metrics, tmp_path):
    metrics["iterations"][0]["eval"]["dev"]["strategies"]["mean"]["abstain"] = 320  # as earlier versions counted
    write_report(record(metrics), tmp_path)
    row = next(r for r in (tmp_path / "report.md").read_text().splitlines() if "| Dev | 0 (base) | Mean@8" in r)
    assert "| 10.0% |" in row  # of 400 problems with 8 samples each


def test_terminal_table(metrics):
    metrics["run"]["name"] = "[bold]demo[/bold]"
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(terminal_table(record(metrics), 200))
    shown = console.export_text()
    assert "[bold]demo[/bold]" in shown
    assert "57.0 [52.1, 61.8]" in shown
    assert "1 ★" in shown


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_narrow_terminal_cuts_no_number(metrics, width):
    """As many tables as it takes; every strategy is in one of them, and nothing is abbreviated."""
    dev = metrics["iterations"][0]["eval"]["dev"]["strategies"]
    for k in range(2, 10):
        dev[f"majority@{k}"] = dev["greedy"]
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(terminal_table(record(metrics), console.width))
    shown = console.export_text()
    assert "…" not in shown
    assert max(map(len, shown.splitlines())) <= width
    for k in range(2, 10):
        assert f"@{k}" in shown
    assert shown.count(metrics["run"]["name"]) == 1
    assert shown.count("Abst.") == 1
    assert "57.0" in shown


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        (rate(1, 0), "–"),
        (rate(None, 5), "–"),
        (number(236.5), "236.5"),
        (number(228.00000000000003), "228"),
        (number(None), "–"),
        (points(-0.05), "−5.0"),
        (p_value(1e-9), "< 0.0001"),
        (p_value(None), "–"),
        (duration(59.99), "1 min 00 s"),
        (duration(7199), "2 h 00 min"),
    ],
)
def test_cells(cell, expected):
    assert cell == expected


# ---------------------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("where", "named"),
    [
        (("run", "name"), "run.name is missing"),
        (("iterations",), "iterations is missing"),
        (("accepted",), "accepted is missing"),
        (("iterations", 1, "eval", "dev", "n"), "iterations[1].eval.dev.n is missing"),
        (("iterations", 0, "eval", "test", "strategies", "pass", "low"), "eval.test.strategies.pass.low is missing"),
        (("comparisons", 0, "difference"), "comparisons[0].difference is missing"),
    ],
)
def test_missing_field_is_named(metrics, tmp_path, where, named):
    *path, last = where
    part = metrics
    for step in path:
        part = part[step]
    del part[last]
    write_json(tmp_path / "metrics.json", metrics)
    with pytest.raises(RunError) as error:
        write_run_report(tmp_path)
    assert f"{tmp_path / 'metrics.json'}: " in str(error.value)
    assert named in str(error.value)
    assert "restore the file, or delete it and run the command that wrote it again" in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.json"]


@pytest.mark.parametrize(
    ("where", "field", "value", "named"),
    [
        ((), "accepted", 7, "accepted is 7"),
        (("iterations", 2), "iteration", 1, "listed twice"),
        (("iterations", 1, "train"), "wrong", 0, "there are 4500 candidates"),
        (GREEDY, "accuracy", 51.0, "strategies.greedy.accuracy is wrong"),
        (GREEDY, "correct", 100, "is not correct / n"),
        (GREEDY, "low", 0.6, "outside its interval"),
    ],
)
def test_impossible_metrics_are_refused(metrics, tmp_path, where, field, value, named):
    part = metrics
    for step in where:
        part = part[step]
    part[field] = value
    write_json(tmp_path / "metrics.json", metrics)
    with pytest.raises(RunError, match=re.escape(named)):
        Metrics.read(tmp_path / "metrics.json")


# ---------------------------------------------------------------------------------------------- files


@pytest.mark.slow
def test_write_report_twice_gives_the_same_bytes(metrics, tmp_path):
    first = write_report(record(metrics), tmp_path / "a", None, TIME)
    second = write_report(record(copy.deepcopy(metrics)), tmp_path / "b", None, TIME)
    assert [path.name for path in first] == ["report.md", "curve.svg", "curve.pdf", "curve.png", "report.html"]
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == sorted(path.name for path in first)  # no .partial
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


@pytest.mark.slow
def test_figure_shows_something(metrics, tmp_path):
    svg, pdf, png = draw(record(metrics), tmp_path)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert svg.read_text().count("<path") > 20
    image = Image.open(png).convert("RGB")
    colours = {colour for _, colour in image.getcolors(maxcolors=1 << 20)}
    assert {(0x00, 0x67, 0xA6), (0xB5, 0x47, 0x08), (0x00, 0x79, 0x5B)} <= colours  # greedy, majority, self-select


@pytest.mark.slow
def test_bare_metrics(metrics, tmp_path):
    write_report(record(bare(metrics)), tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "No iteration has been chosen yet. The test split has not been read." in text
    assert "| Model | – |" in text
    metrics["iterations"][1]["train"].update(pool={"mixed": 0}, candidates=0, correct=0, wrong=0, abstain=0)
    write_report(record(metrics), tmp_path, None, Timing("", 0.0, {"sampling": 0.0}))


@pytest.mark.parametrize("values", [[50, 50, 50, 50], [0, 1, 2, 99], [100, 99, 98, 97], [40, 60, 41, 61], [5], []])
def test_labels_are_kept_apart(values):
    places = spread(values, gap=5, low=0, high=100)
    ordered = sorted(places)
    assert all(b - a >= 5 - 1e-9 for a, b in itertools.pairwise(ordered))
    assert all(-1e-9 <= place <= 100 + 1e-9 for place in places)
    assert [places[i] for i in sorted(range(len(values)), key=lambda i: values[i])] == ordered


# ---------------------------------------------------------------------------------------------- the page


@pytest.mark.slow
def test_hostile_text_stays_text(metrics, tmp_path):
    metrics["run"].update(dict.fromkeys(("name", "model", "recipe", "config_digest"), HOSTILE))
    time = Timing(HOSTILE, 1.0, {HOSTILE: 1.0}, {1: {HOSTILE: 1.0}})
    for row in metrics["iterations"]:
        row["eval"]["dev"]["strategies"][HOSTILE] = score(5, 10)
    metrics["iterations"][1]["train"]["dropped"] = {HOSTILE: 1}
    metrics["iterations"][1]["train"]["pool"] = {HOSTILE: 1}
    metrics["comparisons"][0].update(strategy=HOSTILE, split=HOSTILE)
    *_, path = write_report(record(metrics), tmp_path, None, time)
    page = path.read_text()
    tags = Tags(page).found
    assert "script" not in {tag for tag, _ in tags}
    assert not [name for _, attributes in tags for name in attributes if name.startswith("on")]
    assert "&lt;script&gt;alert(&#34;x&#34;)" in page
    assert "\x00" not in page
    assert "default-src 'none'" in page
    summary = summary_table(record(metrics))
    assert "<script" not in summary


def test_page_is_self_contained_and_tells_all(metrics, tmp_path):
    page = html_page(record(metrics), tmp_path, None, TIME).read_text()
    for tag, attributes in Tags(page).found:
        assert tag not in ("link", "iframe", "object")
        assert all(
            not str(attributes.get(name, "")).startswith(("http", "//")) for name in ("src", "href", "xlink:href")
        ), tag
    for words in ("Paired comparisons", "&lt; 0.0001", "all right", "sampling", "Self-select@8", "90 / 34"):
        assert words in page
    svg = page[page.index("<svg") : page.index("</svg>")]
    assert 'role="img"' in svg
    assert "var(--greedy)" in svg
    assert "#0067a6" not in svg  # every colour follows the theme
    ids = [attributes["id"] for _, attributes in Tags(page).found if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_time_is_shown_where_it_is_known(metrics, tmp_path):
    """By stage for the run, and beside what each iteration was trained on."""
    page = html_page(record(metrics), tmp_path, None, TIME).read_text()
    assert "sampling 1 min 40 s, training 3 min 20 s" in page
    assert "Wall clock, 15 min 00 s in all" in page
    assert "Where the time went" not in html_page(record(metrics), tmp_path).read_text()


@pytest.mark.slow
def test_strategies_that_were_added_are_drawn(metrics, tmp_path):
    """Under their own names, in colours that no other has, while there are enough."""
    for row in metrics["iterations"]:
        row["eval"]["dev"]["strategies"] |= {"refine": score(210, 400), "my vote": score(215.5, 400)}
    _, _, png = draw(record(metrics), tmp_path)
    colours = {colour for _, colour in Image.open(png).convert("RGB").getcolors(maxcolors=1 << 20)}
    assert {(0x8A, 0x3F, 0x7E), (0xA1, 0x76, 0x0A)} <= colours
    page = html_page(record(metrics), tmp_path).read_text()
    assert "my vote: 53.875 at 0" in page
    assert "var(--other0)" in page
    assert '"#8a3f7e"' not in page
    assert "| my vote |" in summary_table(record(metrics))


@pytest.mark.slow
def test_importing_draws_nothing_in():
    heavy = ("matplotlib", "numpy", "rich", "torch")
    code = f"import sys, selftrain.report; sys.exit(sum(m in sys.modules for m in {heavy}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def with_honest(metrics):
    """The same metrics, of a data set that can tell which right answers are derived rightly."""
    for row, honest in zip(metrics["iterations"], (0.4, 0.5, 0.45), strict=True):
        for measured in row["eval"].values():
            measured["strategies"]["greedy"] |= {"honest": honest, "faults": {"slip": 0.3, "wrong_rule": 0.12}}
    test = metrics["comparisons"][0]
    metrics["comparisons"].append({**test, "difference": 0.1, "low": 0.06, "high": 0.14, "honest": True})
    return metrics


@pytest.mark.slow
def test_honest_accuracy_stands_beside_accuracy(metrics, tmp_path):
    m = record(with_honest(metrics))
    assert headline(m).endswith("With every step right: 40.0% → 50.0% (+10.0 points [+6.0, +14.0], p < 0.0001).")
    page = html_page(m, tmp_path).read_text()
    for shown in (summary_table(m), page):
        assert "Honest (greedy)" in shown
    write_report(m, tmp_path)
    report = (tmp_path / "report.md").read_text()
    assert "30.0% slip, 12.0% wrong rule" in report
    assert "wrong rule: labels and sums are right, the value is not" in report
    assert "Greedy, honest" in report


@pytest.mark.slow
def test_nothing_is_said_of_honest_accuracy_where_it_is_unknown(metrics, tmp_path):
    write_report(record(metrics), tmp_path)
    for name in ("report.md", "report.html"):
        assert "onest" not in (tmp_path / name).read_text()


@pytest.mark.slow
def test_rewards_against_verdicts(metrics, tmp_path):
    """A table where a reward model rated samples, and none elsewhere."""
    write_report(record(metrics), tmp_path)
    assert "Rewards against verdicts" not in (tmp_path / "report.md").read_text()
    assert "Rewards against verdicts" not in (tmp_path / "report.html").read_text()
    judged = [[(0.9, True), (0.9, True), (0.9, False)], [(0.1, False)]]
    metrics["iterations"][1]["eval"]["dev"]["calibration"] = Calibration.of(judged).to_json()
    write_report(record(metrics), tmp_path)
    for name, row in (
        (
            "report.md",
            "| Dev | 1 | 4 | 50.0 | 70.0 | 0.210 | 0.750 | 0.500 | 20.0 | 0.1–0.2: 0 of 1, 0.9–1.0: 67 of 3 |",
        ),
        ("report.html", "0.1–0.2: 0 of 1, 0.9–1.0: 67 of 3"),
    ):
        text = (tmp_path / name).read_text()
        assert "Rewards against verdicts" in text
        assert row in text
    del metrics["iterations"][1]["eval"]["dev"]["calibration"]["auc_within"]  # as before it was measured
    write_report(record(metrics), tmp_path)
    assert "| 0.210 | 0.750 | 20.0 |" in (tmp_path / "report.md").read_text()
