"""Recipes compared at equal compute: each variant of a table is a run per seed, and differences are paired by problem.

    python -m benchmarks.policies ablations --output outputs/policies
    python -m benchmarks.policies ablations --seeds 0 1 --set iters=2

Tables are in `benchmarks/policies.yaml`: a configuration, settings that all variants share, and the settings of each
variant. The first variant is the reference. Runs of a seed share one bank, so what two variants would sample alike is
sampled once; the command resumes where it stopped.

A row has a variant's tokens, its accuracy on the split with the weights that dev chose, and its difference from the
reference in points: the mean over the seeds for each problem, with a 95% percentile bootstrap over the problems. The
seeds' own differences follow in parentheses.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from data_process.io import each_row
from selftrain.config import load_config
from selftrain.files import read_json
from selftrain.loop import run_loop
from selftrain.report.formatting import markdown_table
from selftrain.runs.metrics import Metrics, rows_of
from selftrain.runs.temperature import choices_in
from selftrain.stats import paired_bootstrap
from selftrain.test_time.results import EvaluatedProblem

TABLES = Path(__file__).with_suffix(".yaml")
HONEST = "honest "  # before a strategy's name: answers count if every step is right


@dataclass(frozen=True)
class Table:
    """A comparison: `shared` and `variants` hold overrides by dotted key."""

    config: Path
    shared: Mapping[str, Any]
    strategies: Sequence[str]  # shown, "honest greedy" among them
    variants: Mapping[str, Mapping[str, Any]]


def read_tables(path: Path = TABLES) -> dict[str, Table]:
    root = path.parents[1]
    found = {}
    for name, table in yaml.safe_load(path.read_text(encoding="utf-8")).items():
        variants = {variant: settings or {} for variant, settings in table["variants"].items()}
        found[name] = Table(root / table["config"], table.get("set", {}), table["strategies"], variants)
    return found


def run_variant(table: Table, variant: str, seed: int, output: Path, extra: Sequence[str]) -> Path:
    """Run, or resume, one variant with one seed; returns its folder."""
    folder = output / f"{re.sub('[^a-z0-9@-]+', '_', variant.lower())}-{seed}"
    settings = {**table.shared, **table.variants[variant]}
    overrides = [f"{key}={json.dumps(value)}".replace("{seed}", str(seed)) for key, value in settings.items()]
    flags = {"seed": seed, "output": folder, "bank": output / f"bank-{seed}.sqlite", "name": folder.name}
    run_loop(load_config(table.config, [*overrides, *extra], flags))
    return folder


def credits(rows: Sequence[EvaluatedProblem], strategy: str) -> dict[str, float]:
    """Credit by problem id."""
    name = strategy.removeprefix(HONEST)
    if strategy.startswith(HONEST):
        return {row.id: row.strategies[name].honest or 0.0 for row in rows}
    return {row.id: row.strategies[name].credit for row in rows}


def mean_credits(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The mean over the seeds for each problem."""
    return {problem: sum(run[problem] for run in runs) / len(runs) for problem in runs[0]}


def compute(folder: Path, iterations: int) -> tuple[int, int]:
    """Tokens that a run sampled as candidates for training and to choose their temperature, and its optimizer steps."""
    tokens, steps = round(sum(choice.tokens for choice in choices_in(folder))), 0
    for k in range(1, iterations + 1):
        sampled = folder / f"iter{k}/sample/candidates.jsonl"
        if sampled.is_file():
            tokens += sum(row["n_tokens"] for row in each_row(sampled))
        trained = folder / f"iter{k}/train/result.json"
        if trained.is_file():
            steps += read_json(trained)["steps"]
    return tokens, steps


def difference(reference: Sequence[Mapping[str, float]], other: Sequence[Mapping[str, float]]) -> str:
    """`other` minus `reference` in points, pooled over the seeds, and each seed's own."""
    value, low, high, _ = paired_bootstrap(mean_credits(reference), mean_credits(other), seed=0)
    each = ", ".join(
        f"{100 * (sum(b.values()) / len(b) - sum(a.values()) / len(a)):+.1f}"
        for a, b in zip(reference, other, strict=True)
    )
    return f"{100 * value:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}] ({each})"


def rows_for(table: Table, runs: Mapping[str, Sequence[Path]], split: str) -> list[list[str]]:
    """The printed rows: two for each variant after the reference, accuracies and differences."""
    found: list[list[str]] = []
    reference: dict[str, list[dict[str, float]]] = {}
    for variant, folders in runs.items():
        metrics = [Metrics.read(folder / "metrics.json") for folder in folders]
        accepted = [one.accepted or 0 for one in metrics]
        evaluated = [rows_of(folder, k, split) for folder, k in zip(folders, accepted, strict=True)]
        spent = [compute(folder, len(one.iterations) - 1) for folder, one in zip(folders, metrics, strict=True)]
        by = {name: [credits(rows, name) for rows in evaluated] for name in table.strategies}
        cells = [f"{100 * sum(mean_credits(c).values()) / len(c[0]):.1f}" for c in by.values()]
        tokens = f"{sum(t for t, _ in spent) / len(spent) / 1e6:.2f} M"
        chosen = ", ".join(map(str, accepted))
        found.append([variant, tokens, f"{sum(s for _, s in spent) / len(spent):.0f}", chosen, *cells])
        if reference:
            found.append(["", "", "", "", *(difference(reference[name], by[name]) for name in table.strategies)])
        else:
            reference = by
    return found


def main(argv: Sequence[str] | None = None) -> int:
    tables = read_tables()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=sorted(tables))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--variants", nargs="+", help="only these, the first as the reference")
    parser.add_argument("--split", choices=("dev", "test", "hard"), default="test")
    parser.add_argument("--output", type=Path, default=Path("outputs/policies"))
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="settings of all variants")
    args = parser.parse_args(argv)
    table = tables[args.table]
    variants = args.variants or list(table.variants)
    if unknown := set(variants) - set(table.variants):
        parser.error(f"no variant {sorted(unknown)}; {args.table} has {list(table.variants)}")
    output = args.output / args.table
    runs = {
        variant: [run_variant(table, variant, seed, output, args.set) for seed in args.seeds] for variant in variants
    }
    header = ["variant", "sampled tokens", "steps", "accepted", *table.strategies]
    print(markdown_table(header, rows_for(table, runs, args.split)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
