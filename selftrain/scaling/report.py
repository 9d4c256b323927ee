"""What `selftrain scale` found, as Markdown: the answer first, then every setting, then what lies behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selftrain.report.formatting import (
    NONE,
    estimate,
    markdown_table,
    number,
    p_value,
    percent,
    points,
    rate,
    text,
    with_interval,
)
from selftrain.scaling.grid import FAMILIES, Family
from selftrain.scaling.records import (
    BudgetRow,
    ChosenSetting,
    Difference,
    LengthControl,
    ModelResult,
    Power,
    ScaleResult,
    SelectAgainstVote,
    SelectorAudit,
    SettingResult,
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return markdown_table(head, rows, left=1)


def difference(pair: Difference) -> str:
    return estimate(points(pair.difference), points(pair.low), points(pair.high))


def _on_test(c: ChosenSetting) -> str:
    return estimate(percent(c.test_accuracy), percent(c.low), percent(c.high))


def markdown(result: ScaleResult) -> str:
    """The whole report of scale.json."""
    parts = [
        f"# Test-time compute: {text(result.name)}",
        f"Settings are chosen on {result.n_dev} dev questions and reported on {result.n_test} test questions "
        f"({text(result.questions)}). Tokens are per question, generated and prompt together, the selector's own "
        "prompts and image tokens included. Intervals are 95%. Unreadable answers earn nothing and never vote.",
    ]
    for subject in result.subjects:
        parts += _subject(subject, result.n_test)
    return "\n\n".join(parts) + "\n"


def answer(subject: ModelResult) -> str:
    """One paragraph: what is best here, by how much, and whether the test can tell."""
    chosen = subject.findings.chosen
    if not chosen:
        return "No setting was measured."
    best = max(chosen, key=lambda family: (chosen[family].dev_accuracy, -chosen[family].tokens_per_problem.total))
    record = chosen[best]
    sentences = [
        f"Of {sum(c.n_settings for c in chosen.values())} settings dev chooses {text(record.setting)} "
        f"({FAMILIES[best]}): {_on_test(record)} on test at "
        f"{number(record.tokens_per_problem.total)} tokens per question."
    ]
    for pair in subject.findings.comparisons:
        if best in (pair.family_a, pair.family_b):
            other = pair.family_b if best == pair.family_a else pair.family_a
            sign = -1 if best == pair.family_a else 1
            gain = sign * pair.difference
            sure = "" if pair.p_holm < 0.05 else ", which is within chance"
            sentences.append(
                f"Against the best of “{FAMILIES[other]}” that is {points(gain)} points "
                f"(p = {p_value(pair.p_holm)}, corrected){sure}."
            )
    return " ".join(sentences)


def _subject(subject: ModelResult, n_test: int) -> list[str]:
    found = subject.findings
    parts = [f"## {text(subject.name)}", answer(subject)]
    parts += ["### The best of each family", _chosen(found.chosen)]
    parts += ["### At equal tokens", _budgets(found.budgets)]
    if found.select_against_vote:
        parts += ["### Choosing against voting", _against(found.select_against_vote)]
    parts += ["### Every setting, on test", _settings(subject.settings["test"], found.frontier)]
    parts += ["### Lengths, and what the budget did", _thinking(subject.settings["test"])]
    if found.audits:
        parts += ["### What is behind a selection", _audits(found.audits)]
    if found.scaling:
        parts += ["### Control, Scaling and Performance (s1)", _scaling(found.scaling)]
    if found.power:
        parts.append(_power(found.power, n_test))
    return parts


def _chosen(chosen: Mapping[Family, ChosenSetting]) -> str:
    rows = [
        [
            FAMILIES[family],
            text(c.setting),
            str(c.n_settings),
            percent(c.dev_accuracy),
            _on_test(c),
            number(c.tokens_per_problem.total),
            f"{100 * c.abstain:.1f}%",
        ]
        for family, c in chosen.items()
    ]
    return table(["family", "chosen on dev", "tried", "dev", "test", "tokens", "unreadable"], rows)


def _budgets(budgets: Sequence[BudgetRow]) -> str:
    families = [f for f in FAMILIES if any(f in row.families for row in budgets)]
    rows = []
    for row in budgets:
        cells = [f"≤ {number(row.tokens)}"]
        for family in families:
            c = row.families.get(family)
            if c is None:
                cells.append(NONE)
                continue
            against = c.against_vote
            mark = "" if against is None or against.p >= 0.05 else " ▲" if against.difference > 0 else " ▼"
            cells.append(f"{percent(c.test_accuracy)}{mark}")
        rows.append(cells)
    note = (
        "Accuracy on test of the setting that dev chooses within the budget. ▲ ▼: better or worse than the vote at the "
        "same budget, paired p < 0.05, not corrected for the number of cells."
    )
    return table(["tokens", *(f.replace("single", "one answer") for f in families)], rows) + "\n\n" + note


def _against(records: Sequence[SelectAgainstVote]) -> str:
    rows = []
    for record in records:
        equal, tokens = record.equal_n, record.equal_tokens
        rows.append(
            [
                str(record.n),
                difference(equal) if equal else NONE,
                p_value(equal.p) if equal else NONE,
                text(tokens.a) + (" *" if record.more_votes_untried else "") if tokens else NONE,
                difference(tokens) if tokens else NONE,
                p_value(tokens.p) if tokens else NONE,
            ]
        )
    note = "\\* the largest vote that was tried; more votes would also have been affordable."
    head = ["N", "select@N − vote@N", "p", "vote at equal tokens", "select@N − that vote", "p"]
    return table(head, rows) + "\n\n" + note


def _settings(settings: Sequence[SettingResult], frontier: Sequence[str]) -> str:
    rows = [
        [
            text(s.name) + (" ●" if s.name in frontier else ""),
            s.family,
            with_interval(s.totals),
            rate(s.totals.abstain, s.totals.n),
            number(s.totals.tokens_per_problem.generated),
            number(s.totals.tokens_per_problem.prompt),
            number(s.totals.tokens_per_problem.total),
            NONE if not s.totals.drawing_error else f"{100 * s.totals.drawing_error:.1f}",
        ]
        for s in settings
    ]
    note = "● nothing is both cheaper and better. Drawing: standard error in points that drawn subsets leave."
    head = ["setting", "family", "accuracy", "unreadable", "generated", "prompt", "total", "drawing"]
    return table(head, rows) + "\n\n" + note


def _thinking(settings: Sequence[SettingResult]) -> str:
    rows = []
    for s in settings:
        t = s.thinking
        status = t.status
        if "plain" in status or s.strategy not in ("greedy", "mean", "reject"):
            continue
        rows.append(
            [
                text(s.name),
                f"{t.mean:.1f}",
                number(t.median),
                number(t.p95),
                number(t.max),
                f"{t.ignores / t.completions:.2f}",
                *(str(t.closed_by.get(how, 0)) for how in ("model", "budget", "loop", "end_of_turn", "truncated")),
                str(status.get("no_delimiter", 0)),
                str(t.completions),
            ]
        )
    if not rows:
        return "No setting recorded its thinking."
    head = [
        "setting",
        "mean",
        "median",
        "p95",
        "max",
        "ignores each",
        "closed by the model",
        "by the budget",
        "by a loop",
    ]
    return table([*head, "by its end of turn", "cut", "not forced", "texts"], rows)


def _audits(audits: Mapping[str, SelectorAudit]) -> str:
    rows = []
    for name, a in audits.items():
        places, agreement = a.places, a.agreement
        by_place = [100 * place.accuracy for place in a.by_position.values() if place.n]
        rows.append(
            [
                text(name),
                NONE if a.efficiency is None else f"{a.efficiency:.2f}".replace("-", "−"),
                rate(a.sources.get("novel", 0), a.calls),
                rate(a.sources.get("abstain", 0), a.calls),
                f"{min(by_place):.0f}–{max(by_place):.0f}" if by_place else NONE,
                p_value(places.p),
                NONE if not agreement or agreement.pairs is None else f"{100 * agreement.pairs:.0f}%",
            ]
        )
    note = (
        "Efficiency: (select − mean@1) / (pass@N − mean@1). By place: accuracy in percent, lowest and highest, by the "
        "place of the only right candidate. Bias p: chi-square test that every place is chosen equally often. "
        "Agreement: pairs of orders with the same answer."
    )
    head = ["selection", "efficiency", "answer of no candidate", "unreadable", "by place", "bias p", "agreement"]
    return table(head, rows) + "\n\n" + note


def _scaling(scaling: Mapping[str, LengthControl]) -> str:
    rows = [
        [
            way,
            str(s.runs),
            f"{s.tokens[0]:.0f}–{s.tokens[1]:.0f}",
            NONE if s.control is None else f"{100 * s.control:.0f}%",
            NONE if s.sample_control is None else f"{100 * s.sample_control:.1f}%",
            NONE if s.per_doubling is None else f"{s.per_doubling:+.1f}".replace("-", "−"),
            percent(s.performance),
        ]
        for way, s in scaling.items()
    ]
    head = [
        "way",
        "runs",
        "mean thinking tokens",
        "Control",
        "of single samples",
        "Scaling, points per doubling",
        "Performance",
    ]
    lines = [
        f"{text(name)}: {tries.mean:.1f} tries a question, {tries.most} at most, "
        + (
            f"the last one closed by force for {tries.forced} of {tries.n} questions."
            if tries.forced
            else f"{tries.exhausted} of {tries.n} questions without a sample that short."
        )
        for s in scaling.values()
        for name, tries in s.tries.items()
    ]
    note = (
        "A Scaling over runs of nearly equal tokens divides by almost nothing: look at the tokens first. Thinking is "
        "what was generated before the end of thinking, with forcing and without; of rejection, in the texts it kept."
    )
    return "\n\n".join([table(head, rows), note, *lines])


def _power(power: Power, n_test: int) -> str:
    detectable = power.detectable
    sentences = [
        f"With {n_test} questions, of which the largest vote and a greedy answer differ on "
        f"{percent(power.discordance)}%, a difference of "
        + (f"{percent(detectable)} points is found with 80% power." if detectable else "any size is missed too often.")
    ]
    sentences += [f"{100 * float(d):.0f} points would need {n:,} questions." for d, n in power.needed.items()]
    return " ".join(sentences)
