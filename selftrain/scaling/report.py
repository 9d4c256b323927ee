"""What `selftrain scale` found, as Markdown: the answer first, then every setting, then what lies behind it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from selftrain.report import formatting as fmt
from selftrain.report.formatting import NONE, Columns, number, p_value, percent, points, text
from selftrain.report.tables import faults
from selftrain.scaling import records
from selftrain.scaling.grid import FAMILIES, Family
from selftrain.scaling.records import (
    ChosenSetting,
    LengthControl,
    ModelResult,
    ScaleResult,
    SelectorAudit,
    SettingResult,
)


def difference(pair: records.Difference | None) -> str:
    return NONE if pair is None else fmt.estimate(points(pair.difference), points(pair.low), points(pair.high))


def _on_test(c: ChosenSetting) -> str:
    return fmt.estimate(percent(c.test_accuracy), percent(c.low), percent(c.high))


def markdown(result: records.ScaleResult) -> str:
    """The whole report of scale.json."""
    untrained = ", ".join(f"“{text(ignore.strip())}”" for ignore in result.untrained)
    parts = [
        f"# Test-time compute: {text(result.name)}",
        *(
            [f"No training row of this run holds the ignore strings that are forced here: {untrained}."]
            * bool(untrained)
        ),
        f"Settings are chosen on {result.n_dev} dev problems and reported on {result.n_test} test problems "
        f"({text(result.questions)}). Tokens are per problem, generated and prompt together, the selector's own "
        "prompts and image tokens included. Intervals are 95%. Unreadable answers earn nothing and never vote.",
        _readings(result),
        *([f"The grid was made from {text(result.fitted)}."] if result.fitted is not None else []),
    ]
    if result.trained_prompt is not None:
        parts.append(
            f"The longest selection prompt in training had {number(result.trained_prompt)} tokens. A longer one is cut "
            "to the most frequent different texts that fit, and shows at least one. A candidate with ignore strings is "
            "shown by its last derivation."
        )
    for subject in result.subjects:
        parts += _subject(subject, result.n_test)
    return "\n\n".join(parts) + "\n"


def _readings(result: records.ScaleResult) -> str:
    return (
        f"This command read test {number(result.readings)} times: once for every setting of {len(result.subjects)} "
        "models. Dev chose the rows of the first three tables. Nothing may be chosen from the table of every setting."
    )


def answer(subject: ModelResult) -> str:
    """One paragraph: what is best here, by how much, and whether the test can tell."""
    chosen = subject.findings.chosen
    if not chosen:
        return "No setting was measured."
    best = _best(subject)
    record = chosen[best]
    sentences = [
        f"Of {sum(c.n_settings for c in chosen.values())} settings dev chooses {text(record.setting)} "
        f"({FAMILIES[best]}): {_on_test(record)} on test at "
        f"{number(record.tokens_per_problem.total)} tokens per problem."
    ]
    for pair in subject.findings.comparisons:
        if best in (pair.family_a, pair.family_b):
            other, sign = (pair.family_b, -1) if best == pair.family_a else (pair.family_a, 1)
            sure = "" if pair.p_holm < 0.05 else ", which is within chance"
            sentences.append(
                f"Against the best of “{FAMILIES[other]}” that is {points(sign * pair.difference)} points "
                f"(p = {p_value(pair.p_holm)}, corrected){sure}."
            )
    return " ".join([*sentences, *_idle(subject.settings["test"])])


def headline(result: ScaleResult) -> str:
    """A sentence for each model: what dev chooses, and how good that is."""
    return " ".join(_headline(subject) for subject in result.subjects)


def _headline(subject: ModelResult) -> str:
    chosen = subject.findings.chosen
    if not chosen:
        return f"{subject.name}: no setting was measured."
    record = chosen[_best(subject)]
    tokens = record.tokens_per_problem.total
    return f"{subject.name}: {record.setting}, {100 * record.test_accuracy:.1f}% on test at {tokens:,.0f} tokens."


def _best(subject: ModelResult) -> Family:
    """The family whose setting dev finds best; the cheapest of equals."""
    chosen = subject.findings.chosen
    return max(chosen, key=lambda family: (chosen[family].dev_accuracy, -chosen[family].tokens_per_problem.total))


def _idle(settings: Sequence[SettingResult]) -> list[str]:
    """A sentence on the settings that changed fewer than half of their samples; none if there are none."""
    shares = {
        s.name: s.thinking.idle / s.thinking.completions
        for s in settings
        if s.thinking.idle is not None and s.strategy in ("greedy", "mean")
    }
    idle = [f"{text(name)} ({100 * share:.0f}%)" for name, share in shares.items() if share > 0.5]
    return [f"In more than half of their samples these settings changed nothing: {', '.join(idle)}."] if idle else []


def _subject(subject: ModelResult, n_test: int) -> list[str]:
    found, on_test = subject.findings, subject.settings["test"]
    parts = [f"## {text(subject.name)}", answer(subject)]
    parts += ["### The best of each family", _chosen(found.chosen)]
    parts += ["### At equal tokens", _budgets(found.budgets)]
    parts += ["### The frontier that dev chooses", _frontier(found)]
    if found.select_against_vote:
        parts += ["### Choosing against voting", _against(found.select_against_vote)]
    parts += ["### Every setting, on test", _settings(on_test, found.frontier)]
    parts += ["### Lengths, and what the budget did", _thinking(on_test)]
    if found.audits:
        parts += ["### What is behind a selection", _audits(found.audits)]
    if found.scaling:
        parts += ["### Control, Scaling and Performance (s1)", _scaling(found.scaling)]
    if found.power:
        parts.append(_power(found.power, n_test))
    return parts


def _chosen(chosen: Mapping[Family, ChosenSetting]) -> str:
    columns: Columns[tuple[Family, ChosenSetting]] = {
        "family": lambda row: FAMILIES[row[0]],
        "chosen on dev": lambda row: text(row[1].setting),
        "tried": lambda row: str(row[1].n_settings),
        "dev": lambda row: percent(row[1].dev_accuracy),
        "test": lambda row: _on_test(row[1]),
        **(
            {"honest": lambda row: percent(row[1].test_honest)}
            if any(c.test_honest is not None for c in chosen.values())
            else {}
        ),
        "tokens": lambda row: number(row[1].tokens_per_problem.total),
        "unreadable": lambda row: fmt.rate(row[1].abstain, 1),
    }
    return fmt.markdown_table(*fmt.tabulate(columns, chosen.items()), left=2)


def _budgets(budgets: Sequence[records.BudgetRow]) -> str:
    families = [f for f in FAMILIES if any(f in row.families for row in budgets)]
    rows = [[f"≤ {number(row.tokens)}", *(_within_budget(row.families.get(f)) for f in families)] for row in budgets]
    note = (
        "Accuracy on test of the setting that dev chooses within the budget. ▲ ▼: better or worse than the vote at the "
        "same budget, paired p < 0.05, not corrected for the number of cells."
    )
    head = ["tokens", *(f.replace("single", "one answer") for f in families)]
    return fmt.markdown_table(head, rows) + "\n\n" + note


def _frontier(found: records.Findings) -> str:
    columns: Columns[records.FrontierPoint] = {
        "setting": lambda p: text(p.setting),
        "family": lambda p: p.family,
        "tokens on dev": lambda p: number(round(p.dev_tokens)),
        "dev": lambda p: percent(p.dev_accuracy),
        "tokens on test": lambda p: number(round(p.test_tokens)),
        "test": lambda p: fmt.estimate(percent(p.test_accuracy), percent(p.low), percent(p.high)),
    }
    parts = [fmt.markdown_table(*fmt.tabulate(columns, found.dev_frontier), left=2)]
    if found.combination is not None:
        pair = found.combination.difference
        parts.append(
            f"The best combination on dev is {text(pair.b)}. Within its tokens the best single method is "
            f"{text(pair.a)}. On test the combination gains {difference(pair)} points (p = {p_value(pair.p)}), with "
            f"{number(round(pair.tokens_b))} against {number(round(pair.tokens_a))} tokens."
        )
    return "\n\n".join(parts)


def _within_budget(c: ChosenSetting | None) -> str:
    if c is None:
        return NONE
    against = c.against_vote
    mark = "" if against is None or against.p >= 0.05 else " ▲" if against.difference > 0 else " ▼"
    return percent(c.test_accuracy) + mark


def _against(found: Sequence[records.SelectAgainstVote]) -> str:
    rows = []
    for record in found:
        equal, tokens = record.equal_n, record.equal_tokens
        vote = NONE if tokens is None else text(tokens.a) + (" *" if record.more_votes_untried else "")
        p = [p_value(pair.p if pair else None) for pair in (equal, tokens)]
        others = [difference(pair) for pair in (record.consistent, record.refined, record.waited)]
        rows.append([str(record.n), difference(equal), p[0], *others, vote, difference(tokens), p[1]])
    note = (
        "\\* the largest vote that was tried; more votes would also have been affordable. Refining a greedy answer "
        f"once and a greedy answer with one ignore string are second derivations without candidates{_cheaper(found)}."
    )
    head = [
        "N", "select@N − vote@N", "p", "− consistent vote@N", "− refine x1", "− greedy +1", "vote at equal tokens",
        "select@N − that vote", "p",
    ]  # fmt: skip
    return fmt.markdown_table(head, rows) + "\n\n" + note


def _cheaper(found: Sequence[records.SelectAgainstVote]) -> str:
    """ " (212 and 140 tokens; select@3 takes 310)" """
    first = found[0]
    if first.refined is None or first.waited is None:
        return ""
    tokens = [number(round(t)) for t in (first.refined.tokens_a, first.waited.tokens_a, first.refined.tokens_b)]
    return f" ({tokens[0]} and {tokens[1]} tokens; select@{first.n} takes {tokens[2]})"


def _settings(settings: Sequence[SettingResult], frontier: Sequence[str]) -> str:
    columns: Columns[SettingResult] = {
        "setting": lambda s: text(s.name) + (" ●" if s.name in frontier else ""),
        "family": lambda s: s.family,
        "accuracy": lambda s: fmt.with_interval(s.totals),
        "unreadable": lambda s: fmt.rate(s.totals.abstain, s.totals.n),
        "texts": lambda s: NONE if s.totals.completions is None else f"{s.totals.completions / s.totals.n:.1f}",
        "generated": lambda s: number(s.totals.tokens_per_problem.generated),
        "prompt": lambda s: number(s.totals.tokens_per_problem.prompt),
        "total": lambda s: number(s.cost),
        "drawing": lambda s: percent(s.totals.drawing_error or None),
    }
    note = (
        "● nothing is both cheaper and better. Texts: drawn per problem, the selector's included; of an "
        "adaptive vote the expected number of samples. Drawing: standard error in points that drawn subsets leave."
    )
    if any(s.totals.honest is not None for s in settings):
        columns = {
            **columns,
            "honest": lambda s: percent(s.totals.honest),
            "wrong answers by fault": lambda s: faults(s.totals),
        }
        note += " Honest: the answer is right and so is every step to it, in percent."
    return fmt.markdown_table(*fmt.tabulate(columns, settings)) + "\n\n" + note


def _thinking(settings: Sequence[SettingResult]) -> str:
    recorded = [s for s in settings if "plain" not in s.thinking.status and s.strategy in ("greedy", "mean", "reject")]
    if not recorded:
        return "No setting recorded its thinking."
    columns: Columns[SettingResult] = {
        "setting": lambda s: text(s.name),
        "mean": lambda s: f"{s.thinking.mean:.1f}",
        "median": lambda s: number(s.thinking.median),
        "p95": lambda s: number(s.thinking.p95),
        "max": lambda s: number(s.thinking.max),
        "ignores each": lambda s: f"{s.thinking.ignores / s.thinking.completions:.2f}",
        "closed by the model": lambda s: str(s.thinking.closed_by.get("model", 0)),
        "by the budget": lambda s: str(s.thinking.closed_by.get("budget", 0)),
        "by a loop": lambda s: str(s.thinking.closed_by.get("loop", 0)),
        "by its end of turn": lambda s: str(s.thinking.closed_by.get("end_of_turn", 0)),
        "truncated": lambda s: str(s.thinking.closed_by.get("truncated", 0)),
        "not forced": lambda s: str(s.thinking.status.get("no_delimiter", 0)),
        "texts": lambda s: str(s.thinking.completions),
    }
    return fmt.markdown_table(*fmt.tabulate(columns, recorded))


def _audits(audits: Mapping[str, SelectorAudit]) -> str:
    columns: Columns[tuple[str, SelectorAudit]] = {
        "selection": lambda row: text(row[0]),
        "efficiency": lambda row: fmt.signed(row[1].efficiency, ".2f"),
        "answer of no candidate": lambda row: fmt.rate(row[1].sources.get("novel", 0), row[1].calls),
        "unreadable": lambda row: fmt.rate(row[1].sources.get("abstain", 0), row[1].calls),
        "left out": lambda row: f"{row[1].left_out:.1f}",
        "by place": lambda row: _by_place(row[1]),
        "bias p": lambda row: p_value(row[1].places.p),
        "agreement": lambda row: fmt.rate(row[1].agreement.pairs if row[1].agreement else None, 1, 0),
    }
    note = (
        "Efficiency: (select − mean@1) / (pass@N − mean@1). By place: accuracy in percent, lowest and highest, by the "
        "place of the only right candidate. Bias p: chi-square test that every place is chosen equally often. "
        "Agreement: pairs of orders with the same answer. Left out: candidates per prompt that it had no room for."
    )
    return fmt.markdown_table(*fmt.tabulate(columns, audits.items())) + "\n\n" + note


def _by_place(audit: SelectorAudit) -> str:
    rates = [100 * place.accuracy for place in audit.by_position.values() if place.n]
    return f"{min(rates):.0f}–{max(rates):.0f}" if rates else NONE


def _scaling(scaling: Mapping[str, LengthControl]) -> str:
    columns: Columns[tuple[str, LengthControl]] = {
        "way": lambda row: row[0],
        "runs": lambda row: str(row[1].runs),
        "mean thinking tokens": lambda row: f"{row[1].tokens[0]:.0f}–{row[1].tokens[1]:.0f}",
        "Control": lambda row: fmt.rate(row[1].control, 1, 0),
        "of single samples": lambda row: fmt.rate(row[1].sample_control, 1),
        "Scaling, points per doubling": lambda row: fmt.signed(row[1].per_doubling, "+.1f"),
        "Performance": lambda row: percent(row[1].performance),
    }
    lines = [
        f"{text(name)}: {tries.mean:.1f} tries per problem, {tries.most} at most, "
        + (
            f"the last one closed by force for {tries.forced} of {tries.n} problems."
            if tries.forced
            else f"{tries.exhausted} of {tries.n} problems without a sample that short."
        )
        for s in scaling.values()
        for name, tries in s.tries.items()
    ]
    note = (
        "A Scaling over runs of nearly equal tokens divides by almost nothing: look at the tokens first. Thinking is "
        "what was generated before the end of thinking, with forcing and without; of rejection, in the texts it kept."
    )
    return "\n\n".join([fmt.markdown_table(*fmt.tabulate(columns, scaling.items())), note, *lines])


def _power(power: records.Power, n_test: int) -> str:
    detectable = power.detectable
    sentences = [
        f"With {n_test} problems, of which the largest vote and a greedy answer differ on "
        f"{percent(power.discordance)}%, a difference of "
        + (f"{percent(detectable)} points is found with 80% power." if detectable else "any size is missed too often.")
    ]
    sentences += [f"{100 * float(d):.0f} points would need {n:,} problems." for d, n in power.needed.items()]
    return " ".join(sentences)
