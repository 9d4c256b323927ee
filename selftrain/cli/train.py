"""`selftrain train`: one SFT on given rows."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from selftrain.cli.commands import Commands, add_command, add_config, add_quiet

if TYPE_CHECKING:
    from selftrain.config import Config


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "train", train_command, "train once on given rows, without the loop",
        "Train once on given rows: examples of the loop, ShareGPT rows, outside traces. The same command resumes.",
        "selftrain train --config s1m_qwen2vl_7b --rows s1m.jsonl --output outputs/s1m",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument(
        "--rows", type=Path, action="append", default=[], metavar="FILE",
        help="JSON Lines of rows; may be given several times (default: those under `traces:` of the config)",
    )  # fmt: skip
    parser.add_argument("--images", type=Path, help="folder of the rows' images (default: data.folder of the config)")
    parser.add_argument("--output", type=Path, help="folder of the training (default: from the config)")
    parser.add_argument("--seed", type=int, help="seed of the order of rows and of dropout")
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the settings, and do nothing")
    add_quiet(parser)


def train_command(args: argparse.Namespace) -> int:
    """Train, or print what would be done; returns the exit status."""
    from selftrain.config import load_config

    flags = {"seed": args.seed, "output": str(args.output) if args.output else None}
    config = load_config(args.config, args.set, flags, layers=args.layer)
    images = args.images or config.data.folder
    if args.dry_run:
        print(plan(config, args.rows, images))
        return 0
    from selftrain.environment import prepare_environment

    prepare_environment(config.engine.threads)
    from selftrain.progress import Progress
    from selftrain.training.given_rows import train_given

    trained = train_given(config, args.rows, images, Progress(quiet=args.quiet))
    print(f"Trained: {trained}")
    return 0


def plan(config: Config, files: list[Path], images: Path) -> str:
    """What would be done, as comments, and the settings that it depends on as YAML."""
    import yaml

    from selftrain.training.dry_run import training_plan
    from selftrain.training.given_rows import check_method_fits, rows_of

    told: list[str] = []
    rows, dropped = rows_of(config, files, images, told.append)
    sources = [*files, *(one.file for one in config.traces)]
    check_method_fits(config, rows)
    left_out = f"; left out: {', '.join(f'{name} {n}' for name, n in dropped.items())}" if dropped else ""
    what = "all weights" if config.training.full else "a LoRA adapter"
    lines = [
        f"# Train {what} of {config.model.path} on {len(rows)} rows of {', '.join(map(str, sources))}{left_out}.",
        *(f"# {line}" for line in told),
        f"# {sum(bool(row.images) for row in rows)} of them show images of {images}. Folder: {config.output}.",
        "#",
        *(f"# {line}" for line in training_plan(config, "train", 1)),
        "",
    ]
    settings = config.model_dump(mode="json", include={"seed", "output", "bank", "model", "training"})
    return "\n".join(lines) + yaml.safe_dump(settings, sort_keys=False)
