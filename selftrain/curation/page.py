"""The data card of a curated folder as a page: counts of every step, lengths as figures, domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from selftrain.curation.figures import inline, length_figures
from selftrain.files import write_whole
from selftrain.report.formatting import number
from selftrain.report.html_page import page_environment

REASONS = 6  # of each step
PAGE = "card.html"


def write_page(folder: Path, title: str, card: Mapping[str, Any], lengths: Mapping[str, Sequence[float]]) -> None:
    """Writes card.html, and a file lengths_NAME.svg for each data set that has lengths."""
    about = card["curated"]
    drawn = length_figures(lengths, about["length"])
    for name, content in drawn.items():
        write_whole(folder / f"lengths_{name}.svg", content)
    items = {name: split["items"] for name, split in card["splits"].items()}
    pool = about["steps"][0]["offered"]
    domains = about["domains"]
    different = " and ".join(f"{n:,} in {side}" for side, n in domains["different"].items())
    page = page_environment().get_template(PAGE).render(
        title=title, headline=f"{items['train']:,} of {pool:,} problems, chosen by the policy {about['policy']}",
        provenance=f"From {card['raw']}, seed {card['seed']}, digest {card['digest']}.",
        steps=_steps(about["steps"]), length=about["length"],
        figures=[Markup(inline(name, drawn[name], lengths[name], about["length"])) for name in drawn],
        lengths=[[name, *map(_short, values.values())] for name, values in about["lengths"].items() if len(values) > 1],
        domains=[[name, *(f"{n:,}" for n in counts.values())] for name, counts in domains["most"].items()],
        domains_caption=f"Different domains: {different}. The most frequent of the pool:",
        splits=[_split(name, split) for name, split in card["splits"].items()],
        remarks=[remark for remark in card["remarks"] if not remark.startswith("train has")][len(about["steps"]) :],
        licence=card["licence"], citation=card["citation"],
    )  # fmt: skip
    write_whole(folder / PAGE, page.encode())


def _steps(steps: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    rows = [["pool", "", f"{steps[0]['offered']:,}"]]
    for step in steps:
        reasons = list(step["reasons"].items())
        rows += [[step["step"], why, f"−{n:,}"] for why, n in reasons[:REASONS]]
        if len(reasons) > REASONS:
            rest = sum(n for _, n in reasons[REASONS:])
            rows.append([step["step"], f"{len(reasons) - REASONS} other reasons", f"−{rest:,}"])
        rows.append([step["step"], "kept", f"{step['kept']:,}"])
    return rows


def _short(value: float) -> str:
    return f"{value:,.1f}" if value % 1 else f"{value:,.0f}"


def _split(name: str, split: Mapping[str, Any]) -> list[str]:
    chance = "–" if "chance" not in split else f"{100 * split['chance']:.1f}"
    return [name, number(split["items"]), number(split["images"]["with_image"]), chance]
