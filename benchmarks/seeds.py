"""What the tokens buy on test, over several runs that differ in their seed, as three Markdown tables.

    python -m benchmarks.seeds outputs/demo-0 outputs/demo-1 outputs/demo-2

The first table has each strategy's accuracy with the base model and the accepted iteration, a column for each run. The
second has paired differences between strategies with the accepted iteration's weights: what a selection or an ignore
string gains over the cheaper strategy, in points, with 95% intervals. The third has the same of the base model.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.report.formatting import markdown_table
from selftrain.runs.metrics import Metrics

SHOWN = (
    "greedy", "greedy+1", "greedy+2", "greedy+4", "refine@1", "majority", "vote_consistent", "select", "majority@5",
    "vote_consistent@5", "select@5", "majority@10", "vote_consistent@10", "select@10", "tournament@10/5",
    "majority@3+1", "vote_consistent@3+1", "vote_consistent@5+1",
)  # fmt: skip


def accuracies(runs: list[Metrics]) -> list[list[str]]:
    """Rows of a strategy, then "base → accepted (tokens per problem)" for each run."""
    tables = [{row.iteration: split.strategies for row, split in run.splits("test")} for run in runs]
    rows = []
    for name in SHOWN:
        cells = []
        for run, table in zip(runs, tables, strict=True):
            scores = [table[k][name] for k in (run.base, run.accepted) if k in table and name in table[k]]
            arrow = " → ".join(f"{100 * score.accuracy:.1f}" for score in scores)
            cells.append(f"{arrow} ({scores[-1].tokens_per_problem.total:.0f})" if scores else "–")
        if any(cell != "–" for cell in cells):
            rows.append([name, *cells])
    return rows


def differences(runs: list[Metrics], *, base: bool = False) -> list[list[str]]:
    """Rows of two strategies, then the difference with its interval for each run, of the accepted iteration or base."""
    found: dict[tuple[str, str], list[str]] = {}
    for at, run in enumerate(runs):
        for c in run.contrasts:
            if c.iteration == (run.base if base else run.accepted) and c.low is not None and c.high is not None:
                cells = found.setdefault((c.b, c.a), ["–"] * len(runs))
                cells[at] = f"{100 * c.difference:+.1f} [{100 * c.low:+.1f}, {100 * c.high:+.1f}]"
    return [[b, a, *cells] for (b, a), cells in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders")
    runs = [Metrics.read(folder / "metrics.json") for folder in parser.parse_args().runs]
    seeds = [f"seed {run.run.seed}" for run in runs]
    print(markdown_table(["strategy", *seeds], accuracies(runs)), end="\n\n")
    print(markdown_table(["strategy", "against", *seeds], differences(runs)), end="\n\n")
    print(markdown_table(["strategy, base", "against", *seeds], differences(runs, base=True)))


if __name__ == "__main__":
    main()
