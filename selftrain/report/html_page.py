"""One HTML file with everything in it: readable offline, in light and dark, by keyboard and by screen reader.

Templates escape every text that comes from data. A content policy allows one script, by its digest, and no network:
even if an escape were ever forgotten, nothing of the data would run. The script makes text nodes alone.
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Container, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from data_process.schema import LETTERS
from selftrain.files import write_whole
from selftrain.report import decisions, dynamics, figures, prices, rewards, tables
from selftrain.report.browser import Browser
from selftrain.report.formatting import SPLITS, duration, number, percent, points, strategies, strategy_name
from selftrain.report.plots import CURVES
from selftrain.runs.losses import Losses
from selftrain.runs.metrics import Metrics
from selftrain.runs.timing import Timing
from selftrain.test_time.results import Score

# C0 and C1 controls are not allowed in HTML; a model may write any of them. Marks that reorder the text around them are
# shown by their numbers, as `browser.js` does.
CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"}
CONTROLS |= {code: f"\u27e8U+{code:04X}\u27e9" for code in (*range(0x202A, 0x202F), *range(0x2066, 0x206A), 0xFEFF)}


@dataclass(frozen=True)
class Bar:
    """Counts as a stacked bar; with a label they are also written under it, so that no colour must be told apart."""

    label: str
    parts: Sequence[tuple[str, float]]  # () is drawn as "–"
    total: float


@dataclass(frozen=True)
class Table:
    """A table; columns in `words` are left-aligned and wrap, `chosen` is the accepted iteration's row."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Bar]]
    words: Container[int]
    chosen: int | None = None


@dataclass(frozen=True)
class Tile:
    """One strategy's accuracy in large letters."""

    css: str
    name: str
    value: str
    interval: str
    change: str | None


def html_page(
    m: Metrics, folder: Path, browser: Browser | None = None, time: Timing | None = None, losses: Losses | None = None
) -> Path:
    """Write report.html into `folder` and return its path."""
    time = time or Timing()
    environment = page_environment()
    environment.filters["strategy_name"] = partial(strategy_name, m)
    script = shipped_script(environment)
    header, rows = tables.comparison_rows(m)
    chosen = [
        (decisions.TITLE, decisions.NOTE, Table("Decisions", *decisions.rows(m), range(3))),
        (decisions.TEMPERATURE, decisions.TEMPERATURE_NOTE, Table("Choices", *decisions.temperature_rows(m), range(2))),
    ]
    details_header, details_rows = tables.detail_rows(m)
    page = environment.get_template("page.html").render(
        title=m.run.name, headline=tables.headline(m), provenance=tables.provenance(m), tiles=_tiles(m),
        accuracy=figures.accuracy(m), accuracy_note=figures.accuracy_note(m), token_figures=figures.tokens(m),
        token_tables=_tokens(m), losses=figures.loss(losses or {}), dynamics_figures=figures.dynamics(m),
        reward_figures=figures.calibration(rewards.measured(m), "Reward"),
        vote_figures=figures.calibration(browser.confidence if browser else (), "Share of the vote"),
        costs=figures.cost(prices.token_prices(m)),
        tokens_note=tables.TOKENS_NOTE, scores=_scores(m),
        comparisons=Table("Paired comparisons", header, rows, range(3)), decisions=chosen,
        training=_training(m, time),
        dynamics=_dynamics(m), dynamics_note=dynamics.NOTE, rewards=_rewards(m), rewards_note=rewards.NOTE,
        time=_time(time), browser=browser, letters=LETTERS,
        script=Markup(script), script_digest=_digest(script), shown_images=_shown(browser),
        details=Table("All strategies", details_header, details_rows, range(3)), notes=tables.details_note(m),
        facts=tables.run_facts(m, time),
    )  # fmt: skip
    return write_whole(folder / "report.html", page)


def page_environment() -> Environment:
    """The templates of pages, which escape and clean every value."""
    environment = Environment(
        loader=PackageLoader("selftrain.report"), autoescape=True, undefined=StrictUndefined, finalize=_clean,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"number": number, "sections": _sections}
    return environment


def _sections(body: str) -> list[tuple[str, str]]:
    """Anchor and title of every section in a rendered body, whose data are escaped and hold no tag."""
    return re.findall(r'<h2 id="([^"]+)"><a [^>]*>([^<]+)</a>', body)


def _clean(value: object) -> object:
    """What is put into the page: without control characters and lone surrogates."""
    if isinstance(value, Markup):  # made by this package
        return value
    return str(value).translate(CONTROLS).encode("utf-8", "replace").decode()


def shipped_script(environment: Environment) -> str:
    """The page's script as it is in this package: no value of data is ever put into it."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, "browser.js")[0]


def _digest(script: str) -> str:
    """As a content policy names a script."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _shown(browser: Browser | None) -> set[int]:
    """Images that the examples show; the script finds them there."""
    examples = browser.examples if browser else ()
    return {image for one in examples for image in one.problem["images"] if isinstance(image, int)}


def _tiles(m: Metrics) -> list[Tile]:
    """Accuracy of the base and the accepted model, one tile per strategy, on test where it was read."""
    for name in ("test", "dev"):
        rows = {row.iteration: split.strategies for row, split in m.splits(name)}
        if m.accepted is not None and m.accepted in rows:
            chosen, base = rows[m.accepted], rows.get(m.base, {}) if m.accepted != m.base else {}
            return [_tile(m, name, s, chosen[s], base.get(s)) for s in strategies(m, name) if s in chosen]
    return []


def _tile(m: Metrics, name: str, strategy: str, score: Score, base: Score | None) -> Tile:
    change = None if base is None else points(score.accuracy - base.accuracy)
    css = f"s-{strategy}" if strategy in CURVES else "s-other"
    interval = f"[{percent(score.low)}, {percent(score.high)}]"
    return Tile(css, f"{strategy_name(m, strategy)}, {name}", percent(score.accuracy), interval, change)


def _scores(m: Metrics) -> list[Table]:
    found = []
    for name, label in SPLITS.items():
        header, rows = tables.score_rows(m, name)
        if rows:
            chosen = next((i for i, (accepted, _) in enumerate(rows) if accepted), None)
            cells = [row for _, row in rows]
            found.append(Table(f"{label}: accuracy in percent [95% interval]", header, cells, {0}, chosen))
    return found


def _tokens(m: Metrics) -> list[Table]:
    """Accuracy against tokens, and what each use of tokens gains over a cheaper one."""
    found = []
    for caption, (header, rows), words in (
        ("Accuracy in percent [95% interval] and tokens per problem, cheapest first", tables.token_rows(m), range(1)),
        (tables.CONTRASTS, tables.contrast_rows(m), range(3)),
    ):
        if rows:
            found.append(Table(caption, header, rows, words))
    return found


def _training(m: Metrics, time: Timing) -> list[Table]:
    rows: list[list[str | Bar]] = []
    for row in m.iterations:
        if row.train is not None:
            pool = _bar(f"Pool of iteration {row.iteration}", tables.named(row.train.pool, tables.POOL))
            examples = _bar(
                f"Examples of iteration {row.iteration}", tables.named(row.train.examples, tables.KINDS | tables.APART)
            )
            rows.append([str(row.iteration), pool, examples])
    if not rows:
        return []
    header, numbers = tables.training_rows(m, time)
    keep = [i for i, name in enumerate(header) if name not in ("Pool", "Examples")]
    words = {
        place
        for place, i in enumerate(keep)
        if header[i] in ("Iteration", "Accepted", "Dropped", "Rationalised", "Time")
    }
    cells = [[row[i] for i in keep] for row in numbers]
    return [
        Table("Pool and mixture", ["Iteration", "Problems in the pool", "Training examples by kind"], rows, range(3)),
        Table("Sampling and training", [header[i] for i in keep], cells, words),
    ]


def _rewards(m: Metrics) -> Table:
    header, cells = rewards.rows(m)
    words = {place for place, name in enumerate(header) if name in rewards.IN_WORDS}
    return Table("Samples by split and iteration", header, cells, words)


def _dynamics(m: Metrics) -> Table:
    header, cells = dynamics.rows(m)
    words = {place for place, name in enumerate(header) if name in dynamics.IN_WORDS}
    return Table("Candidates by iteration", header, cells, words)


def _bar(label: str, parts: Sequence[tuple[str, int]]) -> Bar:
    total = sum(count for _, count in parts)
    return Bar(label, parts if total else (), total)


def _time(time: Timing) -> Table:
    rows: list[list[str | Bar]] = [
        [name, duration(seconds), f"{100 * share:.0f}%", Bar("", [(name, share)], 1.0)]
        for name, seconds, share in tables.stage_rows(time)
    ]
    caption = f"Wall clock, {duration(time.wall_seconds)} in all"
    return Table(caption, ["Stage", "Time", "Share", ""], rows, {0, 3})
