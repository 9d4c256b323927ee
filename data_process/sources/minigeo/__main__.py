"""The command that writes MiniGeo: `python -m data_process.sources.minigeo --out data/minigeo`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from data_process.sources.minigeo.generation import DEFAULT_SIZES, write


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m data_process.sources.minigeo", description="Generate the MiniGeo splits."
    )
    parser.add_argument("--out", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other problems")
    for split, n in DEFAULT_SIZES.items():
        parser.add_argument(f"--{split}", type=int, default=n, help=f"problems in {split} (default {n})")
    args = parser.parse_args(argv)
    old = args.out / "card.json"
    if args.out.is_dir() and any(args.out.iterdir()) and not (old.is_file() and '"minigeo"' in old.read_text()):
        parser.error(f"--out {args.out} holds files that are not MiniGeo's; name an empty folder")
    card = write(args.out, {split: getattr(args, split) for split in DEFAULT_SIZES}, args.seed)
    print(json.dumps(card, indent=1))


if __name__ == "__main__":
    main()
