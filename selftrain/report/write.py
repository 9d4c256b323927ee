"""Writing a report: every file is whole or absent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from selftrain.files import write_whole
from selftrain.report import tokens_figure
from selftrain.report.html_page import html_page
from selftrain.report.plots import draw
from selftrain.report.tables import report_markdown
from selftrain.report.traces import Trace, choose_traces
from selftrain.runs.metrics import Metrics
from selftrain.runs.run_dir import run_config
from selftrain.runs.timing import Timing, timing


def write_report(m: Metrics, folder: Path, traces: Sequence[Trace] = (), time: Timing | None = None) -> list[Path]:
    """Write report.md, the figures and report.html into `folder` and return their paths.

    The same metrics, traces and times give the same bytes.
    """
    time = time or Timing()
    figures = [*draw(m, folder), *tokens_figure.draw(m, folder)]  # before the files that show them
    page = html_page(m, folder, traces, time)
    return [write_whole(folder / "report.md", report_markdown(m, time)), *figures, page]


def write_run_report(path: Path) -> list[Path]:
    """The report of a finished run folder, from what lies in it. RunError names the file that cannot be used."""
    m = Metrics.read(path / "metrics.json")
    return write_report(m, path, choose_traces(path, m.accepted or 0, run_config(path)), timing(path))
