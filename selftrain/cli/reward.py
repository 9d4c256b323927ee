"""`selftrain reward`: make a process reward model."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from selftrain.cli.commands import Commands, add_command, add_config, add_json, add_quiet

if TYPE_CHECKING:
    from selftrain.config import Config
    from selftrain.reward.train import MadeReward


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "reward", reward_command, "train a process reward model, for `reward.model`",
        "Train a process reward model: label the steps of sampled solutions by roll-outs, train a verifier or a reward "
        "head (reward.form) on them, and measure it on dev. Runs, scale and compare use it where `reward.model` names "
        "its folder. The same command resumes.",
        "selftrain reward --config demo_reward",
    )  # fmt: skip
    add_config(parser)
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the model (default: reward.model)")
    parser.add_argument(
        "--weights", type=Path, metavar="DIR",
        help="adapter or checkpoint that writes the solutions and roll-outs (default: the base model)",
    )  # fmt: skip
    parser.add_argument("--dry-run", action="store_true", help="print the plan and the settings, and do nothing")
    add_json(parser)
    add_quiet(parser)


def reward_command(args: argparse.Namespace) -> int:
    """Make a reward model, or print what would be done; returns the exit status."""
    from data_process.outputs import check_outputs
    from selftrain.config import load_config
    from selftrain.reward.train import for_reward, make_reward

    config = for_reward(load_config(args.config, args.set), args.output)
    check_outputs({"--output": config.output}, [config.model.path, args.weights, config.data.folder], resumes=True)
    if args.dry_run:
        print(plan(config))
        return 0
    from selftrain.environment import prepare_environment

    prepare_environment(config.engine.threads)
    from selftrain.progress import Progress

    made = make_reward(config, args.weights, Progress(quiet=args.quiet or args.json))
    if args.json:
        print(json.dumps({"labels": made.labels, "dev": made.dev.to_json()}, indent=1))
    else:
        print(answer(config, made))
    return 0


def answer(config: Config, made: MadeReward) -> str:
    """What the reward model is worth, in words."""
    found = made.dev.calibration
    assert found is not None
    accuracies = ", ".join(f"{name} {100 * score.accuracy:.1f}" for name, score in made.dev.strategies.items())
    auc, within = ("unknown" if area is None else f"{area:.3f}" for area in (found.auc, found.auc_within))
    return (
        f"dev, base model, {config.evaluation.n} samples: {accuracies}\n"
        f"rewards of {found.n} samples: AUC {auc}, within problems {within}, Brier {found.brier:.3f}, calibration "
        f"error {found.ece:.3f}, mean {found.mean:.3f} where {found.right:.3f} are correct\n"
        f"Reward model: {config.output}"
    )


def plan(config: Config) -> str:
    """What would be done, as comments, and the settings that it depends on as YAML."""
    import yaml

    from selftrain.reward.train import identity
    from selftrain.training.dry_run import training_plan

    settings, head = config.reward, config.reward.form == "head"
    problems = "all problems" if settings.problems is None else f"at most {settings.problems} problems"
    lines = [
        f"# Label the steps of {settings.traces} solutions for {problems} of train, by {settings.rollouts} roll-outs.",
        f"# Train a {'reward head' if head else 'verifier'} on {config.model.path} and measure it on dev.",
        f"# Folder: {config.output}.",
        "#",
        *(f"# {line}" for line in training_plan(config, "train", 1, head=head)),
        "",
    ]
    return "\n".join(lines) + yaml.safe_dump(identity(config), sort_keys=False)
