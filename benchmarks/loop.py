"""What finished runs cost: wall time by kind of work, the controller's share, and memory.

    python -m benchmarks.loop outputs/demo [outputs/demo-1 ...]

Reads the run folders, prints a Markdown table. The controller is all wall time outside sampling, training, evaluation.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.run_dir import read_json
from selftrain.timing import timing

KINDS = ("sampling", "training", "evaluation", "controller")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    args = parser.parse_args()
    print(f"| run | wall | {' | '.join(KINDS)} | controller share | peak memory |")
    print("|---|---:|" + "---:|" * (len(KINDS) + 2))
    for run in args.runs:
        spent = timing(run)
        wall = spent["wall_seconds"]
        parts = [spent["stage_seconds"].get(kind, 0.0) for kind in KINDS]
        sessions = read_json(run / "sessions.json")
        # The largest child runs while the controller waits, so both are resident at once.
        peak = max(session["peak_mib"] + session["peak_child_mib"] for session in sessions)
        cells = [f"{wall / 60:.1f} min", *(f"{part:.0f} s" for part in parts), f"{100 * parts[-1] / wall:.1f}%"]
        print(f"| {run} | {' | '.join(cells)} | {peak / 1024:.1f} GiB |")


if __name__ == "__main__":
    main()
