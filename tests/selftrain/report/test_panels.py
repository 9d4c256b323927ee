"""Pages of scale and compare: what they take from Markdown, and what they write."""

import pytest

from selftrain.report.charts import Axis, Curve, Point, bars, chart
from selftrain.report.formatting import markdown_table, text
from selftrain.report.html_page import Table
from selftrain.report.panels import plain, sections_of, write_page

HOSTILE = "<b>&amp; a|b *c* `d` [x](y) \\ _e_"
TABLE = markdown_table(["name", "n"], [[text(HOSTILE), "1"]])
MARKDOWN = "\n\n".join(["# A title", "Before.", "## One", "Words *there*.", TABLE, "## Empty", "### Two", "More."])


@pytest.mark.parametrize("value", [HOSTILE, "plain", "", "a\\|b"])
def test_plain_undoes_what_markdown_needs(value):
    assert plain(text(value)) == value


def test_sections():
    lead, sections = sections_of(MARKDOWN)
    assert lead == ["Before."]
    assert [section.title for section in sections] == ["One", "Empty: Two"]
    words, table = sections[0].parts
    assert words == "Words *there*."
    assert table == Table("One", ["name", "n"], [[HOSTILE, "1"]], {0})


def test_page(tmp_path):
    _, sections = sections_of(MARKDOWN)
    hostile = "</svg><script>alert(1)</script>"
    sections[0].charts += [
        chart(hostile, [Curve(hostile, [Point(1, 2, 1, 3, hostile)], "greedy")], Axis(hostile), Axis(hostile)),
        bars(hostile, [(hostile, 2.0, hostile)], "greedy", hostile),
    ]
    page = write_page(tmp_path / "page.html", hostile, hostile, sections).read_text()
    assert "<script" not in page
    assert page.count("</svg>") == 3  # two charts and the mark of a legend
    assert "&lt;b&gt;" in page
    assert 'href="#empty:-two"' in page
    assert "http" not in page.replace("http-equiv", "")
