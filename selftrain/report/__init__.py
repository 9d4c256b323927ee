"""From the metrics of a run to something a person reads: Markdown, a figure, one self-contained HTML page.

`schema.py` says what metrics.json must hold; every function here checks it first. matplotlib and rich are imported
only by the functions that draw with them.
"""

from selftrain.report.html_page import html_page
from selftrain.report.plots import draw
from selftrain.report.schema import Metrics, ReportError, check
from selftrain.report.tables import headline, report_markdown, summary_table, terminal_table
from selftrain.report.write import write_report

__all__ = [
    "Metrics",
    "ReportError",
    "check",
    "draw",
    "headline",
    "html_page",
    "report_markdown",
    "summary_table",
    "terminal_table",
    "write_report",
]
