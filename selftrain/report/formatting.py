"""How one number or name is written in a report. A missing one is "–"; fractions become percent only here."""

from __future__ import annotations

from selftrain.report.schema import Score

NONE = "–"


def percent(share: float | None, digits: int = 1) -> str:
    return NONE if share is None else f"{100 * share:.{digits}f}"


def with_interval(score: Score | None) -> str:
    """`51.0 [46.1, 55.9]`, in percent."""
    return NONE if score is None else f"{percent(score.accuracy)} [{percent(score.low)}, {percent(score.high)}]"


def rate(part: float | None, whole: int | None) -> str:
    """`0.8%`, or – when either is unknown or the whole is empty."""
    return NONE if part is None or not whole else f"{100 * part / whole:.1f}%"


def number(value: float | None) -> str:
    """A count with thousands apart, a fraction with one decimal."""
    if value is None:
        return NONE
    return (
        f"{value:,.0f}" if abs(value - round(value)) < 1e-6 else f"{value:,.1f}"
    )  # sums of thirds are not quite whole


def points(share: float | None) -> str:
    """A difference in percentage points, with its sign."""
    return NONE if share is None else f"{100 * share:+.1f}".replace("-", "−")


def p_value(p: float | None) -> str:
    if p is None:
        return NONE
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.001 else f"{p:.3f}"


def duration(seconds: float | None) -> str:
    """`2 h 05 min`, `15 min 00 s`, `3.2 s`."""
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60:02d} min"


def iteration_name(iteration: int) -> str:
    return "0 (base)" if iteration == 0 else str(iteration)


def text(value: str) -> str:
    """Plain text inside Markdown: a name cannot end a table cell, open a tag or become a link."""
    value = " ".join(value.split()).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\|`*_":
        value = value.replace(mark, f"\\{mark}")
    return value.replace("](", "]\\(")
