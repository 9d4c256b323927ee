"""The report in a real browser: nothing overflows, is cut or too small to read, and the trace browser works."""

from __future__ import annotations

from pathlib import Path

import pytest

from selftrain.report import write_report
from selftrain.report.browser import browse
from selftrain.runs.metrics import Metrics
from selftrain.runs.stored import StoredRun
from selftrain.runs.timing import Timing
from selftrain.scoring import compare_page
from selftrain.scoring.compare import compare_runs
from selftrain.test_time.results import Calibration
from tests.chromium import Chromium, chromium, needs_chromium
from tests.selftrain.report import test_browser
from tests.selftrain.report.test_browser import N
from tests.selftrain.scaling import test_run

pytestmark = [needs_chromium, pytest.mark.slow]
finished = test_browser.run  # the fixture: a run folder with six photos
run, result = test_run.run, test_run.result  # the fixtures: a rehearsal, measured by `scale`
WIDTHS = (360, 768, 1440)
# Elements that are wider than what they stand in, unless that scrolls, and letters that are too small.
CUT = """[...document.querySelectorAll('main *')].filter(e => {
  const box = e.getBoundingClientRect();
  if (!box.width || e.closest('pre, .scroll, svg') || getComputedStyle(e).position === 'absolute') return false;
  return box.right > innerWidth + 0.5 || box.left < -0.5;
}).map(e => e.outerHTML.slice(0, 120))"""
OVERFLOWING = """[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth + 1)
  .map(e => e.getAttribute('aria-label'))"""
SMALL = """(() => {
  const found = [], walker = document.createTreeWalker(document.querySelector('main'), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const text = walker.currentNode.textContent.trim(), e = walker.currentNode.parentElement;
    if (!text || !e.getBoundingClientRect().width) continue;
    const svg = e.closest('svg'), scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
    if (parseFloat(getComputedStyle(e).fontSize) * scale < 12) found.push(text.slice(0, 40));
  }
  return found;
})()"""
# Texts of a chart that stick out of it.
OUTSIDE = """[...document.querySelectorAll('.chart > svg')].flatMap(svg => {
  const all = svg.getBoundingClientRect();
  return [...svg.querySelectorAll('text')].filter(t => {
    const box = t.getBoundingClientRect();
    return box.width && (box.left < all.left - 2 || box.right > all.right + 2 || box.bottom > all.bottom + 3);
  }).map(t => t.textContent);
})"""
CONTRAST = """(() => {
  const rgb = (c) => c.match(/[\\d.]+/g).map(Number), back = (e) => {
    for (; e; e = e.parentElement) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3]) return c;
    }
    return [255, 255, 255];
  };
  const light = (c) => {  // relative luminance of WCAG
    const [r, g, b] = c.slice(0, 3).map(v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const words = (e) => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  return [...document.querySelectorAll('main *')].filter(e => words(e)
    && e.getBoundingClientRect().width && !e.closest('button:disabled, option, mark')).filter(e => {
    const style = getComputedStyle(e), a = light(rgb(e.closest('svg') ? style.fill : style.color)), b = light(back(e));
    return (Math.max(a, b) + .05) / (Math.min(a, b) + .05) < 4.5;
  }).map(e => e.outerHTML.slice(0, 100));
})()"""


def score(correct: int, n: int, tokens: float) -> dict:
    share = correct / n
    return {
        "accuracy": share, "low": max(share - 0.1, 0), "high": min(share + 0.1, 1), "correct": correct, "n": n,
        "abstain": 1, "tokens_per_problem": {"generated": tokens, "prompt": 40.0},
    }  # fmt: skip


def metrics() -> Metrics:
    """A run with every panel that a report can have, and names as long as real ones."""
    names = ("greedy", "mean", "majority", "select", "pass")
    more = ("greedy+1", "greedy+2", "majority@10", "select@5", "select@10", "vote_consistent@5+1", "tournament@10/5")
    rows = []
    for k in range(3):
        dev = {name: score(20 + 6 * k + 3 * i, 60, 60.0 * (i + 1)) for i, name in enumerate(names)}
        evaluation = {"dev": {"n": 60, "n_samples": 3, "strategies": dev}}
        judged = [[(0.05 + 0.1 * i, i > 4) for i in range(10)]]
        evaluation["dev"]["calibration"] = Calibration.of(judged).to_json()
        if k != 1:
            test = {name: score(18 + 5 * k + 2 * i, 60, 60.0 * (i + 1)) for i, name in enumerate((*names, *more))}
            evaluation["test"] = {"n": 60, "n_samples": 3, "strategies": test}
        dynamics = {
            "problems": 200, "solved": 120 + 30 * k, "newly_solved": 30, "forgotten": 4, "never_solved": 70 - 30 * k,
            "pass_rates": [20, 30, 50, 40, 30, 30], "distinct": 0.9, "tokens": 41.0, "rows_by_iteration": {"0": 300},
            "behaviours": dict.fromkeys(("verify", "backtrack", "subgoal", "backward"), 0.25),
        }  # fmt: skip
        train = {
            "sampled_problems": 200, "candidates": 600, "correct": 300, "wrong": 290, "abstain": 10, "truncated": 3,
            "pool": {"all_right": 50, "mixed": 120, "all_wrong": 30}, "steps": 40, "train_loss": 0.4,
            "examples": {"cot": 300, "refine": 100, "select": 80},
            "dropped": {f"a reason of several words, number {i}": 40 + i for i in range(8)},
        }  # fmt: skip
        rows.append({"iteration": k, "eval": evaluation, **({"dynamics": dynamics, "train": train} if k else {})})
    pairs = [
        {"split": "test", "strategy": name, "a": 0, "b": 2, "difference": 0.1, "low": -0.02, "high": 0.2, "p": 0.04,
         "gained": 9, "lost": 3, "n": 60} for name in (*names, *more)
    ]  # fmt: skip
    contrasts = [
        {
            "split": "test",
            "iteration": 2,
            "a": "greedy+1",
            "b": name,
            "difference": 0.05,
            "low": 0.0,
            "high": 0.1,
            "p": 0.2,
        }
        for name in ("select", "select@5", "select@10")
    ]
    run = {"name": "a-run-with-a-name-of-some-length", "n_samples": 3, "chance": 0.25, "config_digest": "c" * 64}
    values = {"run": run, "iterations": rows, "accepted": 2, "comparisons": pairs, "contrasts": contrasts}
    return Metrics.model_validate(values)


STAGES = {"sampling": 300.0, "training": 400.0, "evaluation": 100.0, "controller": 100.0}
TIME = Timing("2025-01-01T12:00:00", 900.0, STAGES, {1: {"sampling": 100.0, "training": 200.0}})


@pytest.fixture(scope="module")
def page(finished, tmp_path_factory) -> Path:
    losses = {k: [(step, 1.0 / (step + k)) for step in range(1, 40)] for k in (1, 2)}
    folder = tmp_path_factory.mktemp("report")
    return write_report(metrics(), folder, browse(StoredRun(finished)), TIME, losses)[-1]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as found:
        yield found


def ready(browser: Chromium) -> None:
    browser.wait("!document.getElementById('browser').hidden")


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
def test_everything_fits_and_can_be_read(page, browser, width, dark):
    browser.open(page, width=width, dark=dark)
    ready(browser)
    browser.value("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    browser.value("location.hash = 'p1'")
    browser.wait("!document.getElementById('browse-problem').hidden")
    check(browser, width, dark)


def check(browser: Chromium, width: int, dark: bool) -> None:
    """Nothing of the open page overflows, is cut, too small or too pale, or was fetched."""
    assert browser.value("innerWidth") == width
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value(CUT) == []
    assert browser.value(SMALL) == []
    assert browser.value(OUTSIDE) == []
    assert browser.value(CONTRAST) == []
    assert browser.value(OVERFLOWING) == []
    assert (browser.errors, browser.requests) == ([], [])
    paper = browser.value("getComputedStyle(document.body).backgroundColor")
    assert (paper == "rgb(245, 246, 248)") != dark


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["scale", "compare"])
def test_pages_of_scale_and_compare(run, result, browser, tmp_path, name, width, dark):
    file = run / "scale/scale.html"
    if name == "compare":
        found = compare_runs(run, run, "test")
        long = [one.model_copy(update={"run_a": f"outputs/{'a_long_name/' * 5}run-0"}) for one in found]
        file = compare_page.write([*found, *long], tmp_path / "compare.html")
    browser.open(file, width=width, dark=dark)
    browser.value("document.querySelectorAll('details').forEach(one => { one.open = true; })")
    check(browser, width, dark)


def test_section_links_lead_to_sections(page, browser):
    browser.open(page, width=360)
    anchors = browser.value("[...document.querySelectorAll('.contents a')].map(a => a.hash)")
    assert len(anchors) >= 9
    for anchor in anchors:
        browser.value(f"document.querySelector('.contents a[href=\"{anchor}\"]').click()")
        top = f"document.getElementById('{anchor[1:]}').getBoundingClientRect().top"
        bottom = "Math.abs(scrollY + innerHeight - document.documentElement.scrollHeight) < 2"
        browser.wait(f"Math.abs({top}) < 100 || {bottom}")
    assert browser.errors == []


FILTERED = [
    ("all", "", [f"p{k}" for k in range(N)]),
    ("changed", "", ["p0", "p1", "p2"]),
    ("gained", "", ["p0"]),
    ("lost", "", ["p1", "p2"]),
    ("unread", "", ["p2"]),
    ("wrong", "", ["p1", "p2", "p5"]),
    ("select", "", ["p3"]),
    ("against", "", ["p4"]),
    ("all", "question P3", ["p3"]),
    ("wrong", "p5", ["p5"]),
    ("all", "nothing has this", []),
]


@pytest.mark.parametrize(("name", "query", "ids"), FILTERED)
def test_filters_and_search(page, browser, name, query, ids):
    browser.open(page, width=360)
    ready(browser)
    for field, value, event in (("filter", name, "change"), ("query", query, "input")):
        browser.value(
            f"(() => {{ const f = document.getElementById('browse-{field}'); f.value = {value!r};"
            f" f.dispatchEvent(new Event('{event}')); }})()"
        )
    assert browser.value("[...document.querySelectorAll('#browse-list tbody th')].map(t => t.textContent)") == ids
    assert browser.value("document.getElementById('browse-count').textContent").startswith(
        f"{len(ids)} of {N} problems"
    )
    assert browser.errors == []


@pytest.mark.parametrize(
    ("anchor", "title"), [("#p4", "p4 (dev)"), ("#test0", "test0 (test)"), ("#dev/p5", "p5 (dev)"), ("#nobody", None)]
)
def test_a_link_opens_its_problem(page, browser, anchor, title):
    browser.open(page, width=768, anchor=anchor)
    ready(browser)
    if title is None:
        assert browser.value("document.getElementById('browse-problem').hidden")
        return
    browser.wait("!document.getElementById('browse-problem').hidden")
    assert browser.value("document.getElementById('browse-title').textContent") == title
    assert browser.value("document.querySelectorAll('#browse-problem article').length") >= 6
    if title.startswith("p4"):
        marked = "[...document.querySelectorAll('#browse-problem mark')].map(m => m.textContent)"
        assert set(browser.value(marked)) == {"(A)", "(B)"}
        assert "Against its own reasoning" in browser.value("document.getElementById('browse-problem').textContent")
        assert browser.value("document.querySelector('#browse-problem img').naturalWidth") > 0
    if title.startswith("p5"):  # its text tries to run and to leave its place
        assert browser.value("document.title") == "a-run-with-a-name-of-some-length: selftrain report"
        assert "<script>" in browser.value("document.getElementById('browse-problem').textContent")
        assert browser.value("document.querySelectorAll('#browse-problem script').length") == 0
    assert browser.errors == []


def test_a_selector_shows_what_it_was_asked_and_what_a_budget_did(page, browser):
    browser.open(page, width=360, anchor="#p0")
    ready(browser)
    browser.wait("!document.getElementById('browse-problem').hidden")
    cards = "[...document.querySelectorAll('#browse-problem article')].filter(a => a.textContent.includes('select, '))"
    assert browser.value(f"{cards}.length") == 2
    shown = browser.value(f"{cards}[1].textContent")
    assert "calls prediction 1 correct" in shown
    assert "1 ignore string put in after 4 tokens; 9 tokens of thinking; the model closed its thinking" in shown
    asked = browser.value(f"{cards}[1].querySelector('details pre').textContent")
    assert asked == "Which is correct? 1. I look. Answer: (B) 2. \U0001f600 I say (A)"


def test_where_a_training_row_came_from_is_shown_when_it_is_opened(page, browser):
    browser.open(page, width=360)
    ready(browser)
    browser.value("document.querySelector('#rows-list details').open = true")
    browser.wait("document.querySelectorAll('#rows-list article').length === 1")
    assert "train0/0/3" in browser.value("document.querySelector('#rows-list article').textContent")


def test_without_a_script_there_are_tables_and_examples(page, browser):
    browser.open(page, width=360, script=False)
    assert browser.value("document.getElementById('browser').hidden")
    assert not browser.value("document.getElementById('without-script').hidden")
    assert browser.value("document.querySelectorAll('#without-script tbody tr').length") == 2 * N
    assert browser.value("document.querySelectorAll('details.trace article').length") > N
    assert browser.value("document.documentElement.scrollWidth") <= 360
