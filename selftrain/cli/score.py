"""`selftrain score`: score a file of answers, or judge the stored evaluations of a run again."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from selftrain.cli.commands import Commands, add_command, add_json


def add_parser(commands: Commands) -> None:
    parser = add_command(
        commands, "score", score_command, "score a file of answers, or judge the stored evaluations of a run again",
        "Score a file of answers (--problems, --outputs, --judge), or judge the stored evaluations of a run again. "
        "Judges: auto (by answer type), mathvista, geoqa, chartqa, mathvista-official; legacy:NAME are published ones.",
        "selftrain score --problems test.jsonl --outputs answers.jsonl",
    )  # fmt: skip
    parser.add_argument("run", type=Path, nargs="?", help="run folder, instead of the two files")
    parser.add_argument("--problems", type=Path, metavar="FILE", help="problems, JSONL, may be gzipped")
    parser.add_argument(
        "--outputs", type=Path, metavar="FILE",
        help="answers, JSONL, may be gzipped, joined by id or pid, one or a list of n to each problem; the output of "
        "vllm run-batch or of LLaMA-Factory; a log of lmms-eval, VLMEvalKit or inspect-ai; - for standard input",
    )  # fmt: skip
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="the one response that counts, from 0, where there are several (default: the mean, vote@n and pass@n)",
    )
    parser.add_argument("--judge", metavar="NAME", help="judge to use (default auto)")
    parser.add_argument(
        "--per-item", type=Path, metavar="FILE",
        help="where to write the verdict on every problem (default outputs/score/NAME.jsonl)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, help="seed of legacy judges that draw an answer (default 0)")
    parser.add_argument("--official-out", type=Path, metavar="FILE", help="write MathVista's official result file")
    parser.add_argument("--official-scores", type=Path, metavar="FILE", help="write MathVista's official score tables")
    parser.add_argument(
        "--extractor-url", metavar="URL",
        help="OpenAI-compatible server that extracts answers which the rules cannot read, such as "
        "http://localhost:8000/v1; its key, if it needs one, is read from the environment variable EXTRACTOR_API_KEY",
    )  # fmt: skip
    parser.add_argument("--extractor-model", metavar="NAME", help="model to ask at that server")
    parser.add_argument(
        "--extractor-cache", type=Path, metavar="FILE", help="cache of its replies (default outputs/extractor.sqlite)"
    )
    add_json(parser)


def score_command(args: argparse.Namespace) -> int:
    """A run folder's evaluations, or one file of answers; returns the exit status."""
    from data_process.schema import DataError

    given = [name for name, value in vars(args).items() if value is not None and name not in ("run", "json", "action")]
    if args.run is not None:
        if given:
            raise DataError(f"--{given[0].replace('_', '-')} belongs to a file of answers, not to the run {args.run}")
        return _score_run(args)
    if args.problems is None or args.outputs is None:
        raise DataError("score needs --problems FILE and --outputs FILE, or a run folder")
    return _score_files(args)


@contextlib.contextmanager
def _named(problems: Path, outputs: Path) -> Iterator[tuple[Path, Path]]:
    """The two files; standard input, where one of them is "-", as a file that is gone afterwards."""
    from data_process.schema import DataError

    if Path("-") not in (problems, outputs):
        yield problems, outputs
        return
    if problems == outputs:
        raise DataError("only one of --problems and --outputs can be standard input; name a file for the other")
    with tempfile.TemporaryDirectory(prefix="selftrain-") as folder:
        path = Path(folder) / "stdin.jsonl"
        with path.open("wb") as file:
            shutil.copyfileobj(sys.stdin.buffer, file)
        yield (path, outputs) if problems == Path("-") else (problems, path)


def _score_run(args: argparse.Namespace) -> int:
    from data_process.predictions.score_forms import form_lines
    from selftrain.runs.run_dir import called
    from selftrain.scoring.rejudge import rescore

    result = rescore(args.run)
    if args.json:
        print(json.dumps(result.to_json(), indent=1))
        return 0
    for one in result.evaluations:
        print(
            f"{called(one.iteration)} {one.split}: greedy {one.correct}/{one.n} = {100 * one.accuracy:.1f} "
            f"[{100 * one.low:.1f}, {100 * one.high:.1f}], abstain {one.abstain}, judged otherwise than stored: "
            f"{one.changed}"
        )
        for line in form_lines(one.benchmark):
            print(f"  {line}")
    return 0


def _score_files(args: argparse.Namespace) -> int:
    from data_process.schema import DataError
    from selftrain.scoring.answer_file import ExtractorSettings, as_text, score_files

    extractor = None
    if args.extractor_url is not None:
        if args.extractor_model is None:
            raise DataError("--extractor-url needs --extractor-model NAME, a model of that server")
        cache = {} if args.extractor_cache is None else {"cache": args.extractor_cache}
        extractor = ExtractorSettings(args.extractor_url, args.extractor_model, **cache)
    elif args.extractor_model is not None or args.extractor_cache is not None:
        raise DataError("--extractor-model and --extractor-cache need --extractor-url URL")
    with _named(args.problems, args.outputs) as (problems, outputs):
        result = score_files(
            problems, outputs, args.judge or "auto", seed=args.seed or 0, per_item=args.per_item, extractor=extractor,
            official_out=args.official_out, official_scores=args.official_scores, sample=args.sample,
        )  # fmt: skip
    print(json.dumps(result, indent=1) if args.json else as_text(result))
    return 0
