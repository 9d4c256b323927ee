"""Whether a curated tenth of the MiniGeo pool trains a better model than a random tenth.

    python -m benchmarks.curated_share --seeds 0 1 2

For each seed and policy: curate (configs/curate/s1_demo.yaml), one iteration of configs/s1_demo.yaml with the same
number of training steps, greedy answers on test. The table has the accuracies, and the differences over the problems
that both answered, with 95% intervals: one for each seed, and one for all seeds together, in which a problem's answers
under all seeds are one unit. Samples of the base model are drawn once, for all runs. Folders that are there are reused.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from benchmarks.measuring import machine, show, table
from selftrain.config import load_config
from selftrain.curation.run import curate
from selftrain.curation.settings import load_recipe
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.runs.metrics import rows_of
from selftrain.runs.splits import generate_data
from selftrain.stats.paired import paired_bootstrap

RECIPE, CONFIG = Path("configs/curate/s1_demo.yaml"), Path("configs/s1_demo.yaml")
RANDOM = "random"


def train(policy: str, seed: int, share: float, folder: Path, overrides: Sequence[str]) -> dict[str, float]:
    """1.0 or 0.0 for the greedy answer of the trained model to each test problem."""
    out, run = folder / f"data-{policy}-{seed}", folder / f"run-{policy}-{seed}"
    pool = load_config(Path("configs/demo.yaml"), pool_overrides(folder, overrides))
    generate_data(pool, Progress())
    bank = f"bank={folder / 'bank.sqlite'}"
    if not (out / "card.json").is_file():
        settings = [f"difficulty.models.base.set=[{bank}]"]
        recipe = load_recipe(RECIPE, settings, {"policy": policy, "seed": seed, "share": share})
        curate(pool.data.folder, recipe, out, link=True)
    given = [f"data.folder={out}", f"seed={seed}", f"output={run}", bank]
    given += ["evaluation.strategies=[greedy]", "evaluation.test_strategies=[]", "evaluation.test=all", *overrides]
    run_loop(load_config(CONFIG, given))
    return {row.id: float(row.strategies["greedy"].credit) for row in rows_of(run, 1, "test")}


def pool_overrides(folder: Path, overrides: Sequence[str]) -> list[str]:
    return [f"data.folder={folder / 'pool'}", *(one for one in overrides if one.startswith("data."))]


def average(answers: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each problem."""
    return {name: mean(one[name] for one in answers) for name in answers[0]}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--policies", nargs="+", default=["s1"], help="compared with random")
    parser.add_argument("--share", type=float, default=0.1, help="of the pool (default 0.1)")
    parser.add_argument("--folder", type=Path, default=Path("outputs/curated-share"))
    parser.add_argument("--set", action="append", default=[], help="override a setting of the runs")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)
    policies = [RANDOM, *(policy for policy in args.policies if policy != RANDOM)]
    found = {(p, s): train(p, s, args.share, args.folder, args.set) for s in args.seeds for p in policies}
    groups = [[seed] for seed in args.seeds] + ([args.seeds] if len(args.seeds) > 1 else [])
    rows, numbers = [], []
    for policy in policies:
        for seeds in groups:
            name = f"{policy}, " + (f"seed {seeds[0]}" if len(seeds) == 1 else f"{len(seeds)} seeds")
            ours, theirs = (average([found[p, seed] for seed in seeds]) for p in (policy, RANDOM))
            accuracy = mean(ours.values())
            difference, low, high, p = paired_bootstrap(theirs, ours, seed=0)
            values = (f"{100 * difference:+.1f} [{100 * low:+.1f}, {100 * high:+.1f}]", f"{p:.3f}")
            rows.append([name, f"{100 * accuracy:.1f}", *(values if policy != RANDOM else ("", ""))])
            numbers.append({"name": name, "accuracy": accuracy, "difference": difference, "low": low, "high": high})
    header = ["policy", "test, %", "minus random, points", "p"]
    show(machine(share=args.share), [table(header, rows)], {"curated_share": numbers}, args.json)


if __name__ == "__main__":
    main()
