"""`selftrain export`: weights with a card, training rows, or the judge as a reward function."""

from __future__ import annotations

import argparse
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_quiet


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "export", export, "export a run's weights, its training rows, or the judge as a reward function",
        "Export the accepted iteration of a run: adapter or merged weights, processor, model card (--out), and its "
        "training rows (--data). Or export the judge as a reward function of GRPO trainers (--reward).",
        "selftrain export outputs/demo --out export/demo --merged",
    )  # fmt: skip
    parser.add_argument("run", type=Path, nargs="?", help="run folder; not needed for --reward alone")
    parser.add_argument("--out", type=Path, required=True, help="folder to write; with --reward, the Python file")
    parser.add_argument("--merged", action="store_true", help="merge the adapter into the weights of the base")
    parser.add_argument("--iteration", type=int, metavar="K", help="iteration to export (default: the accepted one)")
    parser.add_argument("--base", type=Path, metavar="DIR", help="where the base model is now (default: as in the run)")
    parser.add_argument(
        "--base-name", metavar="NAME",
        help="how the card calls the base model, such as Qwen/Qwen2-VL-7B-Instruct (default: its folder)",
    )  # fmt: skip
    parser.add_argument("--data", type=Path, metavar="DIR", help="write the training rows as a data set into DIR")
    parser.add_argument(
        "--push", metavar="OWNER/NAME",
        help="upload to this repository, private where it is new, and the data set to OWNER/NAME-data; the token is "
        "read from the environment variable HF_TOKEN",
    )  # fmt: skip
    parser.add_argument("--overwrite", action="store_true", help="replace what is there")
    parser.add_argument("--reward", action="store_true", help="export the judge as a reward function")
    parser.add_argument("--prompts", type=Path, metavar="DIR", help="with --reward: write the run's prompts into DIR")
    parser.add_argument(
        "--trainer", choices=("trl", "easyr1", "verl"), help="whose columns the prompts have (default trl)"
    )
    add_quiet(parser)


def export(args: argparse.Namespace) -> int:
    """Write what is asked for, and say where it is."""
    from selftrain.export.source import ExportError

    wrong = {
        "--reward": ("merged", "iteration", "base", "base_name", "data", "push"),
        "weights": ("prompts", "trainer"),
    }["--reward" if args.reward else "weights"]
    if given := [name for name in wrong if getattr(args, name)]:
        flag = f"--{given[0].replace('_', '-')}"
        raise ExportError(f"{flag} does not go with --reward" if args.reward else f"{flag} needs --reward")
    return _reward(args) if args.reward else _weights(args)


def _weights(args: argparse.Namespace) -> int:
    from selftrain.export.export import Request, export_run
    from selftrain.export.source import ExportError
    from selftrain.progress import Progress

    if args.run is None:
        raise ExportError("name the run folder to export, or use --reward for the judge alone")
    request = Request(
        run=args.run, out=args.out, merged=args.merged, iteration=args.iteration, base=args.base,
        base_name=args.base_name, data=args.data, push=args.push, overwrite=args.overwrite,
    )  # fmt: skip
    for line in export_run(request, Progress(quiet=args.quiet)):
        print(line)
    return 0


def _reward(args: argparse.Namespace) -> int:
    from data_process.outputs import check_outputs
    from selftrain.export.prompts import Trainer, write_prompts
    from selftrain.export.reward import write_reward
    from selftrain.export.source import ExportError, check_free, whole_folder
    from selftrain.progress import Progress

    if (args.run is None) != (args.prompts is None):
        raise ExportError("--prompts DIR and a run folder belong together: the prompts are those of the run")
    if args.trainer is not None and args.prompts is None:
        raise ExportError("--trainer needs --prompts DIR")
    check_outputs({"--out": args.out, "--prompts": args.prompts}, runs=[args.run])
    check_free(args.out, args.overwrite)
    if args.out.is_dir():
        raise ExportError(f"{args.out} is a folder; with --reward, --out is the Python file to write")
    if args.prompts is not None:
        check_free(args.prompts, args.overwrite)
        trainer: Trainer = args.trainer or "trl"
        with whole_folder(args.prompts, {"run": str(args.run), "trainer": trainer}) as folder:
            counts = write_prompts(args.run, folder, trainer, Progress(quiet=args.quiet))
        print(f"{args.prompts}: " + ", ".join(f"{rows} prompts in {file}" for file, rows in counts.items()))
    print(f"{write_reward(args.out)}: judge_reward for TRL, main for EasyR1, compute_score for verl")
    return 0
