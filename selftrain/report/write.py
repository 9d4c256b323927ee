"""Writing a report: every file is whole or absent."""

from __future__ import annotations

from pathlib import Path

from selftrain.files import write_whole
from selftrain.report import tokens_figure
from selftrain.report.browser import Browser, browse
from selftrain.report.html_page import html_page
from selftrain.report.plots import draw
from selftrain.report.tables import report_markdown
from selftrain.runs.losses import Losses, losses_of
from selftrain.runs.metrics import Metrics
from selftrain.runs.readings import readings_of
from selftrain.runs.stored import StoredRun
from selftrain.runs.timing import Timing, timing


def write_report(
    m: Metrics, folder: Path, browser: Browser | None = None, time: Timing | None = None, losses: Losses | None = None
) -> list[Path]:
    """Write report.md, the figures and report.html into `folder` and return their paths.

    The same metrics, problems, times and losses give the same bytes.
    """
    time = time or Timing()
    figures = [*draw(m, folder), *tokens_figure.draw(m, folder)]  # before the files that show them
    page = html_page(m, folder, browser, time, losses)
    return [write_whole(folder / "report.md", report_markdown(m, time)), *figures, page]


def write_run_report(path: Path) -> list[Path]:
    """The report of a finished run folder, from what lies in it. RunError names the file that cannot be used."""
    m = Metrics.read(path / "metrics.json")
    m = m.model_copy(update={"readings": readings_of(path) or m.readings})  # `scale` may have read test since
    return write_report(m, path, browse(StoredRun(path)), timing(path), losses_of(path))
