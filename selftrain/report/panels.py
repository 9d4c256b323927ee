"""A page of sections in the style of the run's report: for `selftrain scale` and `selftrain compare`."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from markupsafe import Markup

from selftrain.files import write_whole
from selftrain.report.html_page import Table, page_environment

_ESCAPE = re.compile(r"\\([\\|`*_(])")


@dataclass
class Section:
    """Charts, then paragraphs and tables in order."""

    title: str
    charts: list[Markup] = field(default_factory=list)
    parts: list[str | Table] = field(default_factory=list)


def write_page(file: Path, title: str, headline: str, sections: Sequence[Section]) -> Path:
    """Write a page that needs no network, no script and no other file; returns its path."""
    template = page_environment().get_template("panels.html")
    return write_whole(file, template.render(title=title, headline=headline, sections=sections))


def sections_of(markdown: str) -> tuple[list[str], list[Section]]:
    """What `formatting` wrote as Markdown, for a page: the paragraphs before the first heading, and the sections.

    "###" below "##" becomes a section of both names.
    """
    first = Section("")
    found, above = [first], ""
    for block in markdown.strip().split("\n\n"):
        marks, _, rest = block.partition(" ")
        if marks == "##":
            above = plain(rest)
            found.append(Section(above))
        elif marks == "###":
            found.append(Section(f"{above}: {plain(rest)}" if above else plain(rest)))
        elif block.startswith("|"):
            header, rule, *rows = [_cells(line) for line in block.splitlines()]
            words = {k for k, cell in enumerate(rule) if not cell.endswith(":")}
            found[-1].parts.append(Table(found[-1].title or "Table", header, rows, words))
        elif marks != "#":
            found[-1].parts.append(plain(block))
    lead = [part for part in first.parts if isinstance(part, str)]
    return lead, [section for section in found[1:] if section.parts]


def _cells(line: str) -> list[str]:
    return [plain(cell.strip()) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def plain(text: str) -> str:
    """The text that `formatting.text` escaped."""
    return html.unescape(_ESCAPE.sub(r"\1", text.strip().removeprefix("**").removesuffix("**")))
