"""From the metrics of a run to something a person reads: Markdown, a figure, one self-contained HTML page.

matplotlib and rich are imported only by the functions that draw with them.
"""

from selftrain.report.html_page import html_page
from selftrain.report.plots import draw
from selftrain.report.tables import headline, report_markdown, summary_table
from selftrain.report.terminal import terminal_table
from selftrain.report.write import write_report, write_run_report

__all__ = [
    "draw", "headline", "html_page", "report_markdown", "summary_table", "terminal_table", "write_report",
    "write_run_report",
]  # fmt: skip
