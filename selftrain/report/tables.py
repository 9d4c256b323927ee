"""The numbers of a run as Markdown.

No accuracy is printed without its n, its interval and an abstain rate.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from data_process.derivations import meanings
from selftrain.report import decisions, dynamics, rewards
from selftrain.report import formatting as fmt
from selftrain.report.formatting import NONE, SPLITS, Columns, number, p_value, percent, points, rate, strategies, text
from selftrain.report.prices import time_per_point
from selftrain.report.readings import test_readings
from selftrain.runs.metrics import Iteration, Metrics, TrainCounts
from selftrain.runs.timing import Timing
from selftrain.test_time.results import Comparison, Contrast, PairedDifference, Score, SplitResult
from selftrain.test_time.variants import strategy_of

POOL = {"all_right": "all right", "mixed": "mixed", "all_wrong": "all wrong", "unreadable": "unreadable"}
DETAILS_NOTE = "Tokens are means per problem. Abstain: no readable answer. Truncated: completions at the token limit."
TOKENS_NOTE = (
    "Test, tokens per problem, generated and prompt together, the selector's own prompts included; 95% intervals. "
    "Nothing was chosen on test."
)
CONTRASTS = "What the tokens buy"
KINDS = {"qa": "QA", "cot": "CoT", "refine": "refine", "select": "select", "reflect": "reflect"}
APART = {"outside": "outside traces", "rationalised": "rationalised"}


def abstain_rate(split: SplitResult) -> str:
    """Of the greedy answer where there is one, otherwise of the first strategy."""
    score = split.strategies[abstain_strategy(split)]
    return rate(score.abstain, score.n)


def abstain_strategy(split: SplitResult) -> str:
    return "greedy" if "greedy" in split.strategies else next(iter(split.strategies))


def provenance(m: Metrics) -> str:
    """Which split was used for what, and how often test was read, in a few sentences."""
    chosen = "No iteration has been chosen yet."
    if m.accepted is not None:
        chosen = f"Dev chose iteration {fmt.iteration_name(m, m.accepted)}."
        chosen = chosen if m.accepted >= 0 else "Dev chose the base model."
    return f"{chosen} {test_readings(m)}"


def headline(m: Metrics) -> str:
    """The result in one sentence, and what would make it be misread: budgets without effect, and untrained ones."""
    return " ".join([_result(m), *_taught(m), *_idle(m), *_untrained(m)])


def _taught(m: Metrics) -> list[str]:
    """A sentence on how often ignore strings act before and after a warm-up; none where nothing is forced."""
    for name in ("test", "dev"):
        splits = {row.iteration: split.strategies for row, split in m.splits(name)}
        if m.base == 0 or not {m.base, 0} <= {*splits}:
            continue
        for strategy, before in splits[m.base].items():
            after = splits[0].get(strategy)
            if after is not None and before.idle is not None and after.idle is not None:
                shares = f"{acted(before)} of the base model's samples and in {acted(after)} after the warm-up"
                return [f"Forced ignore strings act in {shares} ({fmt.strategy_name(m, strategy)}, {name})."]
    return []


def acted(score: Score) -> str:
    """Share of the forced samples that an ignore string was put into."""
    return NONE if score.idle is None else f"{percent(1 - score.idle)}%"


def _idle(m: Metrics) -> list[str]:
    """A sentence on forced strategies that changed fewer than half of their samples; none if there are none."""
    last = m.accepted if m.accepted is not None else max(row.iteration for row in m.iterations)
    for name in ("test", "dev"):
        scores = next((split.strategies for row, split in m.splits(name) if row.iteration == last), {})
        idle = {s: score.idle for s, score in scores.items() if score.idle is not None and score.idle > 0.5}
        if idle:
            named = ", ".join(f"{fmt.strategy_name(m, s)} ({percent(share, 0)}%)" for s, share in idle.items())
            return [f"In more than half of their samples these changed nothing: {named}."]
    return []


def _untrained(m: Metrics) -> list[str]:
    shown = ", ".join(f"“{ignore.strip()}”" for ignore in m.untrained)
    return [f"No training row of this run holds the ignore strings that are forced here: {shown}."] if shown else []


def _result(m: Metrics) -> str:
    """Greedy accuracy, base against accepted, on test where it was read."""
    for name in ("test", "dev"):
        rows = {row.iteration: split for row, split in m.splits(name)}
        shown = [s for s in strategies(m, name) if s != "pass"]
        if not shown or (m.accepted is not None and m.accepted not in rows):
            continue
        strategy = shown[0]
        label = f"{fmt.strategy_name(m, strategy)} accuracy on {name}"
        last = m.accepted if m.accepted is not None else max(rows)
        base, chosen = (rows[i].strategies.get(strategy) if i in rows else None for i in (m.base, last))
        if chosen is None:
            continue
        now = f"{percent(chosen.accuracy)}% [{percent(chosen.low)}, {percent(chosen.high)}] of {chosen.n} problems"
        if last == m.base:
            verdict = "; no later iteration was accepted" if m.accepted == m.base and len(m.iterations) > 1 else ""
            return f"{label}: {now} for the base model{verdict}.{_honest(m, name, strategy, None, chosen)}"
        if base is None:
            return f"{label}: {now} after {fmt.weights_name(m, last)}.{_honest(m, name, strategy, None, chosen)}"
        return (
            f"{label}: {percent(base.accuracy)}% → {_warmed(m, rows, strategy, last)}{now} after "
            f"{fmt.weights_name(m, last)} "
            f"({_change(m, name, strategy, last, chosen.accuracy - base.accuracy)})."
            f"{_honest(m, name, strategy, base, chosen)}"
        )
    return "No accuracy has been measured yet."


def _warmed(m: Metrics, rows: Mapping[int, SplitResult], strategy: str, last: int) -> str:
    """`41.0% after the warm-up → `, so that what outside traces brought is not taken for self-improvement."""
    if m.base == 0 or last < 1 or 0 not in rows or strategy not in rows[0].strategies:
        return ""
    return f"{percent(rows[0].strategies[strategy].accuracy)}% after the warm-up → "


def _honest(m: Metrics, split: str, strategy: str, base: Score | None, chosen: Score) -> str:
    """A sentence on honest accuracy; nothing where the data set cannot tell."""
    if chosen.honest is None:
        return ""
    if base is None or base.honest is None:
        return f" With every step right: {percent(chosen.honest)}%."
    accepted = m.base if m.accepted is None else m.accepted
    gain = _change(m, split, strategy, accepted, chosen.honest - base.honest, honest=True)
    return f" With every step right: {percent(base.honest)}% → {percent(chosen.honest)}% ({gain})."


def _change(m: Metrics, split: str, strategy: str, b: int, plain: float, *, honest: bool = False) -> str:
    for c in m.comparisons:
        if (c.split, c.strategy, c.a, c.b, c.honest) == (split, strategy, m.base, b, honest):
            return f"{change(c, ' points')}{p_sentence(c.p)}"
    return f"{points(plain)} points, not tested"


def change(c: PairedDifference, unit: str = "") -> str:
    """`+7.0 [+4.0, +10.0]`; without the interval where it is not known."""
    value = points(c.difference) + unit
    return value if c.low is None or c.high is None else fmt.estimate(value, points(c.low), points(c.high))


def p_sentence(p: float | None) -> str:
    return "" if p is None else f", p {p_value(p)}" if p < 0.0001 else f", p = {p_value(p)}"


def score_rows(m: Metrics, name: str) -> tuple[list[str], list[tuple[bool, list[str]]]]:
    """Header and rows (is this the accepted iteration?, cells) of the accuracy table of one split."""
    shown = strategies(m, name)
    splits = list(m.splits(name))
    whose = {abstain_strategy(split) for _, split in splits}
    abstain = f"Abstain ({fmt.strategy_name(m, whose.pop()).lower()})" if len(whose) == 1 else "Abstain"
    checked = [s for s in shown if any(has_honest(split, s) for _, split in splits)][:1]
    honest = [f"Honest ({fmt.strategy_name(m, s).lower()})" for s in checked]
    header = ["Iteration", "n", *(fmt.strategy_name(m, s) for s in shown), *honest, abstain]
    rows = []
    for row, split in splits:
        scores = [fmt.with_interval(split.strategies.get(s)) for s in shown]
        scores += [percent(split.strategies[s].honest) if s in split.strategies else NONE for s in checked]
        cells = [fmt.iteration_name(m, row.iteration), number(split.n), *scores, abstain_rate(split)]
        rows.append((row.iteration == m.accepted, cells))
    return header, rows


def has_honest(split: SplitResult, strategy: str) -> bool:
    """Whether the data set could tell which of a strategy's right answers are derived rightly."""
    return strategy in split.strategies and split.strategies[strategy].honest is not None


def detail_rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    """Every split, iteration and strategy with what it cost and how often it gave no readable or no complete answer."""
    columns: Columns[tuple[str, int, str, Score]] = {
        "Split": lambda row: row[0],
        "Iteration": lambda row: fmt.iteration_name(m, row[1]),
        "Strategy": lambda row: fmt.strategy_name(m, row[2]),
        "Accuracy": lambda row: fmt.with_interval(row[3]),
        "Correct": lambda row: number(row[3].correct),
        "n": lambda row: number(row[3].n),
        "Abstain": lambda row: rate(row[3].abstain, row[3].n),
        "Truncated": lambda row: rate(row[3].truncated, row[3].completions or row[3].n),
        "Generated tokens": lambda row: number(row[3].tokens_per_problem.generated),
        "Prompt tokens": lambda row: number(row[3].tokens_per_problem.prompt),
    }
    checked: Columns[tuple[str, int, str, Score]] = {
        "Honest": lambda row: percent(row[3].honest),
        "Wrong answers by fault": lambda row: faults(row[3]),
    }
    forced: Columns[tuple[str, int, str, Score]] = {"Ignore strings act": lambda row: acted(row[3])}
    scores = [
        (label, row.iteration, strategy, split.strategies[strategy])
        for name, label in SPLITS.items()
        for row, split in m.splits(name)
        for strategy in [*strategies(m, name), *(fmt.extras(m) if name == "test" else [])]
        if strategy in split.strategies
    ]
    if any(score.honest is not None for *_, score in scores):
        columns = {**columns, **checked}
    if any(score.idle is not None for *_, score in scores):
        columns = {**columns, **forced}
    return fmt.tabulate(columns, scores)


def token_rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    """On test, accuracy and tokens of every way to answer, base beside accepted; no rows where no extras were measured.

    The cheapest of the accepted model comes first.
    """
    tested = {row.iteration: split.strategies for row, split in m.splits("test")}
    last = None if m.accepted is None else tested.get(m.accepted)
    if last is None or not fmt.extras(m):
        return [], []
    base = tested.get(m.base, {}) if m.accepted != m.base else {}
    changes = {
        c.strategy: c for c in m.comparisons if (c.split, c.a, c.b, c.honest) == ("test", m.base, m.accepted, False)
    }
    ways = [*strategies(m, "test"), *fmt.extras(m)]
    ways = [s for s in ways if s in last and ((found := strategy_of(s)) is None or found.answers)]
    columns: Columns[str] = {
        "Strategy": lambda s: fmt.strategy_name(m, s),
        "Tokens": lambda s: number(round(last[s].tokens_per_problem.total)),
        "Accuracy": lambda s: fmt.with_interval(last[s]),
    }
    if base:
        columns = {
            **columns,
            "Tokens of the base": lambda s: number(round(base[s].tokens_per_problem.total)) if s in base else NONE,
            "Accuracy of the base": lambda s: fmt.with_interval(base.get(s)),
            "Change (points)": lambda s: change(changes[s]) if s in changes else NONE,
        }
    return fmt.tabulate(columns, sorted(ways, key=lambda s: last[s].tokens_per_problem.total))


def contrast_rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    """What each use of tokens gains over a cheaper one, with the tokens of both."""
    scores = {row.iteration: split.strategies for row, split in m.splits("test")}

    def tokens(c: Contrast) -> str:
        pair = (scores[c.iteration][name].tokens_per_problem.total for name in (c.a, c.b))
        return " → ".join(number(round(total)) for total in pair)

    columns: Columns[Contrast] = {
        "Iteration": lambda c: fmt.iteration_name(m, c.iteration),
        "Strategy": lambda c: fmt.strategy_name(m, c.b),
        "Against": lambda c: fmt.strategy_name(m, c.a),
        "Difference (points)": change,
        "p": lambda c: p_value(c.p),
        "Tokens": tokens,
    }
    return fmt.tabulate(columns, m.contrasts)


def faults(score: Score) -> str:
    """`22.0% slip, 11.5% wrong rule`: shares of all problems, in the order in which faults are looked for."""
    order = [name for name in meanings() if name in score.faults]
    return ", ".join(f"{percent(score.faults[name])}% {name.replace('_', ' ')}" for name in order) or NONE


def details_note(m: Metrics) -> str:
    """What the columns of the table of details mean."""
    names = {
        name for s in fmt.SPLITS for _, split in m.splits(s) for one in split.strategies.values() for name in one.faults
    }
    about = "; ".join(f"{name.replace('_', ' ')}: {what}" for name, what in meanings().items() if name in names)
    honest = " Honest: the answer is right and so is every step to it, in percent." if about else ""
    return f"{DETAILS_NOTE}{honest}{f' Faults: {about}.' if about else ''}"


def comparison_rows(m: Metrics) -> tuple[list[str], list[list[str]]]:
    columns: Columns[Comparison] = {
        "Split": lambda c: SPLITS.get(c.split, c.split),
        "Strategy": lambda c: f"{fmt.strategy_name(m, c.strategy)}{', honest' if c.honest else ''}",
        "From → to": lambda c: " → ".join("base" if k < 0 else str(k) for k in (c.a, c.b)),
        "Difference (points)": change,
        "p": lambda c: p_value(c.p),
        "Gained / lost": lambda c: f"{number(c.gained)} / {number(c.lost)}",
        "n": lambda c: number(c.n),
    }
    return fmt.tabulate(columns, m.comparisons)


def training_rows(m: Metrics, time: Timing) -> tuple[list[str], list[list[str]]]:
    """What each iteration was trained on; the base model has no row."""
    columns: Columns[tuple[Iteration, TrainCounts]] = {
        "Iteration": lambda row: str(row[0].iteration),
        "Accepted": lambda row: NONE if row[0].accepted is None else "yes" if row[0].accepted else "no",
        "Problems": lambda row: number(row[1].sampled_problems),
        "Candidates": lambda row: number(row[1].candidates),
        "Correct": lambda row: rate(row[1].correct, row[1].candidates),
        "Wrong": lambda row: rate(row[1].wrong, row[1].candidates),
        "Abstain": lambda row: rate(row[1].abstain, row[1].candidates),
        "Truncated": lambda row: rate(row[1].truncated, row[1].candidates),
        "Pool": lambda row: listed(row[1].pool, POOL),
        "Rationalised": lambda row: rationalised(row[1]),
        "Examples": lambda row: listed(row[1].examples, KINDS | APART),
        "Dropped": lambda row: listed(row[1].dropped),
        "Steps": lambda row: number(row[1].steps),
        "Loss": lambda row: NONE if row[1].train_loss is None else f"{row[1].train_loss:.3f}",
        "Time": lambda row: _durations(time.by_iteration.get(row[0].iteration, {})),
    }
    trained = [(row, row.train) for row in m.iterations if row.train is not None]
    if not any(train.rationalised for _, train in trained):
        columns = {name: cell for name, cell in columns.items() if name != "Rationalised"}
    return fmt.tabulate(columns, trained)


def rationalised(train: TrainCounts) -> str:
    """`12 of 40 samples on 40 unsolved problems`."""
    if (found := train.rationalised) is None:
        return NONE
    return f"{number(found.kept)} of {number(found.samples)} samples on {number(found.unsolved)} unsolved problems"


def _durations(seconds: Mapping[str, float]) -> str:
    return ", ".join(f"{kind} {fmt.duration(spent)}" for kind, spent in seconds.items()) or NONE


def listed(counts: Mapping[str, int], names: Mapping[str, str] = {}) -> str:
    """`10 all right, 30 mixed`: known names first and in their order, zeros of known names included."""
    return ", ".join(f"{number(count)} {label}" for label, count in named(counts, names)) or NONE


def named(counts: Mapping[str, int], names: Mapping[str, str]) -> list[tuple[str, int]]:
    order = [key for key in names if key in counts] + [key for key in counts if key not in names]
    return [(names.get(key, key.replace("_", " ")), counts[key]) for key in order]


def stage_rows(time: Timing) -> list[tuple[str, float, float]]:
    """(stage, seconds, share of the whole), with the unaccounted rest last. Shares are 0 where nothing took time."""
    stages = list(time.stage_seconds.items())
    spent = sum(seconds for _, seconds in stages)
    whole = max(time.wall_seconds or 0.0, spent)  # overlapping stages may add up to more than the wall clock
    if stages and whole - spent > 0.05:
        stages.append(("other", whole - spent))
    return [(name, seconds, seconds / whole if whole else 0.0) for name, seconds in stages]


def run_facts(m: Metrics, time: Timing) -> list[tuple[str, str]]:
    run = m.run
    facts = {
        "Model": run.model, "Recipe": run.recipe, "Samples per problem": number(run.n_samples),
        "Seed": NONE if run.seed is None else str(run.seed), "Config digest": run.config_digest,
        "Started": time.started, "Wall clock": fmt.duration(time.wall_seconds), **time_per_point(m, time),
    }  # fmt: skip
    return [(name, value or NONE) for name, value in facts.items()]


def summary_table(m: Metrics) -> str:
    """Accuracy by iteration and strategy as Markdown, dev and then test, the accepted iteration in bold."""
    parts = []
    for name, label in SPLITS.items():
        header, rows = score_rows(m, name)
        if not rows:
            continue
        marked = [
            [f"**{text(c)}**" for c in (f"{cells[0]}, accepted", *cells[1:])] if accepted else map(text, cells)
            for accepted, cells in rows
        ]
        parts.append(f"### {label}\n\n{fmt.markdown_table(map(text, header), marked)}")
    parts.append(f"Accuracy in percent with 95% intervals. {provenance(m)}")
    return "\n\n".join(parts) + "\n"


def report_markdown(m: Metrics, time: Timing) -> str:
    """The whole report as Markdown; it shows `curve.svg`, which `draw` writes beside it."""
    parts = [f"# {text(m.run.name)}", text(headline(m)), summary_table(m).rstrip()]
    parts.append("![Accuracy by iteration and strategy](curve.svg)")
    if (against := token_rows(m))[1]:
        parts += ["## Accuracy against tokens", "![Accuracy against tokens](tokens.svg)", TOKENS_NOTE]
        parts.append(_plain_table(*against, left=1))
    sections: list[tuple[str, tuple[list[str], list[list[str]]], int]] = [
        (CONTRASTS, contrast_rows(m), 3),
        (decisions.TITLE, decisions.rows(m), 3),
        (decisions.TEMPERATURE, decisions.temperature_rows(m), 2),
        ("Paired comparisons", comparison_rows(m), 3),
        ("Training data", training_rows(m, time), 2),
        (dynamics.TITLE, dynamics.rows(m), 1),
        (rewards.TITLE, rewards.rows(m), 2),
        ("Cost and unreadable answers", detail_rows(m), 3),
    ]
    notes = {dynamics.TITLE: dynamics.NOTE, decisions.TITLE: decisions.NOTE, rewards.TITLE: rewards.NOTE}
    notes[decisions.TEMPERATURE] = decisions.TEMPERATURE_NOTE
    for title, (header, rows), left in sections:
        if rows:
            note = f"{notes[title]}\n\n" if title in notes else ""
            parts.append(f"## {title}\n\n{note}{_plain_table(header, rows, left)}")
    parts.append(text(details_note(m)))
    facts = run_facts(m, time)
    facts += [(f"Time: {name}", f"{fmt.duration(s)} ({percent(share, 0)}%)") for name, s, share in stage_rows(time)]
    parts.append("## Run\n\n" + _plain_table(["", ""], facts, left=2))
    return "\n\n".join(parts) + "\n"


def _plain_table(header: Iterable[str], rows: Iterable[Iterable[str]], left: int) -> str:
    return fmt.markdown_table(map(text, header), (map(text, row) for row in rows), left)
