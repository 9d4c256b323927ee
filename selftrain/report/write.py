"""Writing a report: every file is whole or absent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from selftrain.files import write_whole
from selftrain.report.html_page import html_page
from selftrain.report.plots import draw
from selftrain.report.schema import Metrics, check, check_traces
from selftrain.report.tables import report_markdown


def write_report(
    metrics: Mapping[str, Any] | Metrics, folder: str | Path, traces: Iterable[Mapping[str, Any]] = ()
) -> list[Path]:
    """Write report.md, curve.svg, curve.pdf, curve.png and report.html into `folder` and return their paths.

    Everything is checked before the first file is written. ReportError names a field that is missing or impossible.
    The same metrics and traces give the same bytes.
    """
    m, shown = check(metrics), check_traces(traces)
    figures = draw(m, folder)  # before the files that show them
    page = html_page(m, folder, shown)
    return [write_whole(Path(folder) / "report.md", report_markdown(m)), *figures, page]
