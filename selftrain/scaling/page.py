"""scale.html: what scale.md says, with the curves, as a page for a phone or a mail."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from selftrain.report.charts import Axis, Curve, Point, chart
from selftrain.report.panels import Section, sections_of, write_page
from selftrain.scaling import report
from selftrain.scaling.plots import plain_settings
from selftrain.scaling.records import ModelResult, ScaleResult, SettingResult

# Variables of the page's style sheet and markers, by family.
LOOK = {
    "single": ("ink", "*"), "think": ("majority", "s"), "vote": ("greedy", "o"), "select": ("select", "D"),
    "refine": ("other0", "P"), "combined": ("other1", "X"), "control": ("pass", "v"), "oracle": ("pass", "^"),
}  # fmt: skip
ACCURACY = Axis("Accuracy on test, %")


def write(result: ScaleResult, file: Path) -> Path:
    """Write the page; returns its path."""
    lead, sections = sections_of(report.markdown(result))
    for subject in result.subjects:
        at = next((k for k, section in enumerate(sections) if section.title == subject.name), 0)
        sections[at].charts += _charts(subject)
    about = Section("What was measured", parts=[*lead])
    name = f"Test-time compute: {result.name}"
    return write_page(file, name, report.headline(result), [*sections, about])


def _charts(subject: ModelResult) -> list[Markup]:
    settings = {s.name: s for s in subject.settings["test"]}
    return [_tokens(subject, settings), *_candidates(settings), *_ignores(settings)]


def _point(x: float, s: SettingResult) -> Point:
    return Point(x, 100 * s.totals.accuracy, 100 * s.totals.low, 100 * s.totals.high)


def _tokens(subject: ModelResult, settings: Mapping[str, SettingResult]) -> Markup:
    """Every setting; the frontier as a line."""
    best = sorted((settings[name] for name in subject.findings.frontier), key=lambda s: s.cost)
    frontier = Curve("frontier", [Point(s.cost, 100 * s.totals.accuracy) for s in best], "muted", "", dashed=True)
    curves = [
        Curve(family, some, *look, joined=False)
        for family, look in LOOK.items()
        if family != "oracle"
        and (some := [Point(s.cost, 100 * s.totals.accuracy) for s in settings.values() if s.family == family])
    ]
    return chart("Every setting", [frontier, *curves], Axis("Tokens per problem (log scale)", log=True), ACCURACY)


def _candidates(settings: Mapping[str, SettingResult]) -> list[Markup]:
    """Selection against vote against oracle."""
    names = {"pass": ("oracle", "pass@N (oracle)"), "majority": ("vote", "vote@N"), "select": ("select", "select@N")}
    curves = []
    for strategy, (family, label) in names.items():
        if some := plain_settings(settings, strategy):
            points = [_point(s.n, s) for s in [settings["mean@1"], *some]]
            curves.append(Curve(label, points, *LOOK[family], dashed=family == "oracle"))
    greedy = [("greedy", 100 * settings["greedy"].totals.accuracy)]
    axis = Axis("N, candidates per problem", whole=True)
    return [chart("Candidates", curves, axis, ACCURACY, rules=greedy)] if curves else []


def _ignores(settings: Mapping[str, SettingResult]) -> list[Markup]:
    """Budget forcing against the number of ignore strings."""
    forced = [
        s for s in settings.values() if (s.family, s.strategy, s.limit, s.least) == ("think", "greedy", None, None)
    ]
    points = [_point(s.num_ignore, s) for s in forced if s.num_ignore is not None]
    greedy = [("greedy", 100 * settings["greedy"].totals.accuracy)]
    curves = [Curve("greedy, forced", points, *LOOK["think"])]
    return (
        [chart("Ignore strings", curves, Axis("Ends of thinking replaced", whole=True), ACCURACY, rules=greedy)]
        if points
        else []
    )
