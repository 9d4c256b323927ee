"""One HTML file with everything in it: readable offline, in light and dark, by keyboard and by screen reader.

Nothing in it runs. Every text that comes from data is escaped, and a content policy forbids scripts and network even
if an escape were ever forgotten.
"""

from __future__ import annotations

import base64
import binascii
import html
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_process.schema import LETTERS
from selftrain.files import write_whole
from selftrain.report.formatting import NONE, duration, number, percent, points
from selftrain.report.html_template import PAGE, STYLE
from selftrain.report.plots import inline_svg
from selftrain.report.schema import Metrics, Trace, TraceRow, check, check_traces
from selftrain.report.tables import (
    KINDS,
    POOL,
    SPLITS,
    comparison_rows,
    detail_rows,
    headline,
    named,
    provenance,
    run_facts,
    score_rows,
    stage_rows,
    training_rows,
)

PNG = b"\x89PNG\r\n\x1a\n"
# C0 and C1 controls are not allowed in HTML; a model may write any of them.
CONTROLS = {code: "\ufffd" for code in (*range(0x20), *range(0x7F, 0xA0)) if chr(code) not in "\t\n\r"}


def html_page(
    metrics: Mapping[str, Any] | Metrics, folder: str | Path, traces: Iterable[Mapping[str, Any] | Trace] = ()
) -> Path:
    """Write report.html into `folder` and return its path.

    `traces` are example problems as in `contract.Trace`; their images are PNG files in base64, shown only if they are.
    ReportError when a required field of the metrics or of a trace is missing.
    """
    m, shown = check(metrics), check_traces(traces)
    sections = [
        _section("Accuracy by iteration", _figure(m) + _scores(m)),
        _section("Paired comparisons", _comparisons(m)),
        _section("What each iteration was trained on", _training(m)),
        _section("Where the time went", _time(m)),
        _section("Example traces", _traces(m, shown)),
        _section("Cost and unreadable answers", _details(m)),
        _section("The run", _facts(m)),
    ]
    page = PAGE.substitute(
        title=_esc(m.run.name),
        style=STYLE,
        headline=_esc(headline(m)),
        provenance=_esc(provenance(m)),
        tiles=_tiles(m),
        sections="\n".join(section for section in sections if section),
    )
    return write_whole(Path(folder) / "report.html", page)


def _esc(value: object) -> str:
    """Text for HTML, in content or in a quoted attribute."""
    plain = str(value).translate(CONTROLS).encode("utf-8", "replace").decode()  # "replace": lone surrogates
    return html.escape(plain, quote=True)


def _section(title: str, body: str) -> str:
    if not body:
        return ""
    anchor = title.lower().replace(" ", "-")
    return f'<section aria-labelledby="{anchor}">\n<h2 id="{anchor}">{title}</h2>\n{body}\n</section>'


def _table(
    caption: str,
    header: Sequence[str],
    rows: Iterable[Sequence[str]],
    words: Container[int],
    chosen: int | None = None,
) -> str:
    """A table of cells that are HTML already; columns in `words` are left-aligned and wrap, `chosen` marks a row."""
    head = "".join(f'<th scope="col"{_kind(i, words)}>{cell}</th>' for i, cell in enumerate(header))
    body = []
    for position, row in enumerate(rows):
        first, *rest = row
        cells = f'<th scope="row">{first}</th>'
        cells += "".join(f"<td{_kind(i, words)}>{cell}</td>" for i, cell in enumerate(rest, 1))
        body.append(f"<tr{' class=chosen' if position == chosen else ''}>{cells}</tr>")
    label = f"<caption>{caption}</caption>" if caption else ""
    return (
        f'<div class="scroll" tabindex="0" role="group" aria-label="{caption or "table"}"><table>{label}'
        f"<thead><tr>{head}</tr></thead>\n<tbody>{''.join(body)}</tbody></table></div>"
    )


def _kind(column: int, words: Container[int]) -> str:
    return "" if column in words else ' class="num"'


def _escaped(rows: Iterable[Sequence[str]]) -> list[list[str]]:
    return [[_esc(cell) for cell in row] for row in rows]


# ---------------------------------------------------------------------------------------------- sections


def _tiles(m: Metrics) -> str:
    """Accuracy of the base and the accepted model, one tile per strategy, on test where it was read."""
    for name in ("test", "dev"):
        rows = {row.iteration: split for row, split in m.splits(name)}
        if m.accepted not in rows:
            continue
        tiles = []
        for strategy in m.strategies(name):
            score = rows[m.accepted].strategies.get(strategy)
            if score is None:
                continue
            base = rows[0].strategies.get(strategy) if 0 in rows and m.accepted != 0 else None
            change = "" if base is None else f"<small>{points(score.accuracy - base.accuracy)} points from base</small>"
            tiles.append(
                f'<div class="tile {_css(strategy)}"><dt>{_esc(m.strategy_name(strategy))}, {name}</dt>'
                f"<dd><b>{percent(score.accuracy)}%</b> <span>[{percent(score.low)}, {percent(score.high)}]</span>"
                f"{change}</dd></div>"
            )
        return f'<dl class="tiles">{"".join(tiles)}</dl>'
    return ""


def _css(strategy: str) -> str:
    return f"s-{strategy}" if strategy in ("greedy", "majority", "select", "pass") else "s-other"


def _figure(m: Metrics) -> str:
    return f"<figure>{inline_svg(m)}</figure>"


def _scores(m: Metrics) -> str:
    tables = []
    for name, label in SPLITS.items():
        header, rows = score_rows(m, name)
        if not rows:
            continue
        chosen = next((i for i, (accepted, _) in enumerate(rows) if accepted), None)
        cells = _escaped(cells for _, cells in rows)
        if chosen is not None:
            cells[chosen][0] += ' <span class="badge">accepted</span>'
        cells = [[row[0], *(_two_tone(cell) for cell in row[1:])] for row in cells]
        tables.append(
            _table(f"{label}: accuracy in percent [95% interval]", [_esc(c) for c in header], cells, {0}, chosen)
        )
    return "\n".join(tables)


def _two_tone(cell: str) -> str:
    """The estimate stands out, its interval stays readable beside it."""
    value, bracket, interval = cell.partition(" [")
    return f'{value} <span class="soft">[{interval}</span>' if bracket else cell


def _comparisons(m: Metrics) -> str:
    header, rows = comparison_rows(m)
    if not rows:
        return ""
    cells = [[_two_tone(cell) for cell in row] for row in _escaped(rows)]
    note = "Same problems, later iteration minus earlier one, with 95% intervals; p is two-sided."
    return f"<p>{note}</p>" + _table("Paired comparisons", [_esc(c) for c in header], cells, range(3))


def _training(m: Metrics) -> str:
    rows = []
    for row in m.iterations:
        if row.train is not None:
            pool = _bar(f"Pool of iteration {row.iteration}", named(row.train.pool, POOL))
            mixture = _bar(f"Examples of iteration {row.iteration}", named(row.train.examples, KINDS))
            rows.append([str(row.iteration), pool, mixture])
    if not rows:
        return ""
    header, numbers = training_rows(m)
    keep = [i for i, name in enumerate(header) if name not in ("Pool", "Examples")]
    words = {place for place, i in enumerate(keep) if header[i] in ("Iteration", "Accepted", "Dropped", "Time")}
    bars = _table(
        "Pool and mixture", ["Iteration", "Problems in the pool", "Training examples by kind"], rows, range(3)
    )
    cells = [[row[i] for i in keep] for row in _escaped(numbers)]
    return bars + _table("Sampling and training", [_esc(header[i]) for i in keep], cells, words)


def _bar(label: str, parts: Sequence[tuple[str, int]]) -> str:
    """A stacked bar with its numbers written under it, so that no colour has to be told from another."""
    total = sum(count for _, count in parts)
    if not total:
        return NONE
    pieces = "".join(
        f'<i class="c{i % 4}" style="width:{100 * count / total:.2f}%"></i>'
        for i, (_, count) in enumerate(parts)
        if count
    )
    key = " ".join(
        f'<span><i class="dot c{i % 4}"></i>{_esc(name)} <b>{number(count)}</b></span>'
        for i, (name, count) in enumerate(parts)
    )
    return f'<div class="bar" aria-hidden="true" title="{_esc(label)}">{pieces}</div><div class="key">{key}</div>'


def _time(m: Metrics) -> str:
    stages = stage_rows(m)
    if not stages:
        return "" if m.run.wall_seconds is None else f"<p>{duration(m.run.wall_seconds)} in all.</p>"
    rows = [
        [
            _esc(name),
            duration(seconds),
            f"{100 * share:.0f}%",
            f'<div class="bar" aria-hidden="true"><i class="c0" style="width:{100 * share:.2f}%"></i></div>',
        ]
        for name, seconds, share in stages
    ]
    return _table(f"Wall clock, {duration(m.run.wall_seconds)} in all", ["Stage", "Time", "Share", ""], rows, {0, 3})


def _details(m: Metrics) -> str:
    header, rows = detail_rows(m)
    note = "Tokens are means per problem. Abstain: no readable answer. Cut off: stopped by the token limit."
    table = _table("All strategies", [_esc(c) for c in header], _escaped(rows), range(3))
    return f"<details><summary>All {len(rows)} rows</summary><p>{note}</p>{table}</details>"


def _facts(m: Metrics) -> str:
    return f'<dl class="facts">{"".join(f"<div><dt>{n}</dt><dd>{_esc(v)}</dd></div>" for n, v in run_facts(m))}</dl>'


# ---------------------------------------------------------------------------------------------- traces


def _traces(m: Metrics, traces: Sequence[Trace]) -> str:
    return "\n".join(_trace(m, trace, opened=position == 0) for position, trace in enumerate(traces))


def _trace(m: Metrics, trace: Trace, opened: bool) -> str:
    letters = [LETTERS[i : i + 1] or str(i + 1) for i in range(len(trace.choices))]
    choices = "".join(
        f"<li{' class=gold' if letter == trace.gold else ''}><b>{letter}</b> {_esc(choice)}"
        f"{' <span class=badge>gold</span>' if letter == trace.gold else ''}</li>"
        for letter, choice in zip(letters, trace.choices, strict=True)
    )
    gold = "" if trace.gold in letters else f"<p>Gold: <b>{NONE if trace.gold is None else _esc(trace.gold)}</b></p>"
    rows = "\n".join(_row(m, row) for row in trace.rows) or "<p>No answers were recorded.</p>"
    verdicts = " ".join(_verdict(row.verdict) for row in trace.rows)
    summary = f"<summary><b>{_esc(trace.problem_id)}</b> {verdicts}</summary>"
    return (
        f'<details class="trace"{" open" if opened else ""}>{summary}'
        f'<div class="problem">{_image(trace)}<div><p class="said">{_esc(trace.question)}</p>'
        f"{f'<ol class=choices>{choices}</ol>' if choices else ''}{gold}</div></div>{rows}</details>"
    )


def _row(m: Metrics, row: TraceRow) -> str:
    who = _esc(m.strategy_name(row.strategy))
    when = "" if row.iteration is None else f", iteration {row.iteration}"
    read = NONE if row.extracted is None else _esc(row.extracted)
    rule = "" if row.rule is None else f" by rule <code>{_esc(row.rule)}</code>"
    header = f'{_verdict(row.verdict)} <b>{who}</b>{when} <span class="soft">read {read}{rule}</span>'
    return f"<article><header>{header}</header><pre>{_esc(row.text) or '<i>(empty)</i>'}</pre></article>"


def _verdict(verdict: str | None) -> str:
    marks = {"correct": ("✓", "ok"), "wrong": ("✗", "bad"), "abstain": ("?", "none")}
    mark, css = marks.get(verdict or "", ("", "none"))
    return f'<span class="badge {css}">{mark} {NONE if verdict is None else _esc(verdict)}</span>'


def _image(trace: Trace) -> str:
    if trace.image_png_base64 is None:
        return ""
    try:
        content = base64.b64decode("".join(trace.image_png_base64.split()), validate=True)
    except (binascii.Error, ValueError):
        content = b""
    if not content.startswith(PNG):
        return '<p class="soft">The image is not a readable PNG.</p>'
    encoded = base64.b64encode(content).decode()
    return f'<img alt="Picture of problem {_esc(trace.problem_id)}" src="data:image/png;base64,{encoded}">'
