"""What tests of whole loops share: a rehearsal on a small data set, and what is compared after it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from data_process.images.store import ImageStore
from selftrain.config import Config
from selftrain.progress import Progress
from selftrain.runs.run_dir import folder_digests
from selftrain.runs.splits import load_splits

ROOT = Path(__file__).parents[2]
REHEARSAL = ROOT / "configs/rehearsal.yaml"
QUIET = Progress(quiet=True)


def settings(data: Path, run: Path, bank: Path, *more: str) -> list[str]:
    """Overrides of the rehearsal, with the published mixture (test_rethinking.py has the other parts).

    48 rows a unit, so that a stage has several units to be killed between.
    """
    parts = ("select_format=answer", "build.parts={qa: 0, cot: 1, refine: 0.5, select: 0.5, reflect: 0}")
    fixed = ("data.leakage=ignore", "engine.batch_size=48", *parts)
    return [f"data.folder={data}", f"output={run}", f"bank={bank}", *fixed, *more]


def artefacts(run: Path) -> dict[str, Any]:
    """Everything a run leaves that does not depend on the clock."""
    stages = {str(f.parent.relative_to(run)): folder_digests(f.parent) for f in sorted(run.glob("iter*/*/stage.json"))}
    return {"stages": stages, **{name: (run / name).read_bytes() for name in ("metrics.json", "data.json")}}


KILLED = """
import os, signal, sys
from pathlib import Path
from selftrain import loop
from selftrain.stages import building, evaluating, sampling
from selftrain.training import fake_trainer
from selftrain.sampling.bank import Bank
from selftrain.config import load_config
from selftrain.progress import Progress

where, config, *overrides = sys.argv[1:]


def killed_after(function, call, wanted=lambda *args: True):
    calls = 0

    def wrapped(*args, **kwargs):
        nonlocal calls
        result = function(*args, **kwargs)
        if wanted(*args):
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
        return result

    return wrapped


if where == "sample":  # the evaluation of the base commits four units
    Bank.write = killed_after(Bank.write, 6)
elif where == "judge":
    sampling.judge = killed_after(sampling.judge, 77)
elif where == "build":  # the rows are there, their counts are not; in the second iteration
    building.write_jsonl = killed_after(building.write_jsonl, 2, lambda path, rows: path.name == "examples.jsonl")
elif where == "train":
    fake_trainer.rehearse = killed_after(fake_trainer.rehearse, 1)
elif where == "dev":  # of iteration 1
    evaluating.write_jsonl = killed_after(evaluating.write_jsonl, 2, lambda path, rows: path.name == "rows.jsonl")
elif where == "test":  # of the base, after the last iteration
    evaluating.write_jsonl = killed_after(evaluating.write_jsonl, 5, lambda path, rows: path.name == "rows.jsonl")
elif where == "metrics":
    loop.write_json = killed_after(loop.write_json, 1, lambda path, value: path.name == "metrics.json")
loop.run_loop(load_config(Path(config), overrides), Progress(quiet=True))
"""


class Interrupted(BaseException):
    """Stands for Ctrl-C at a given call."""


def splits_of(config: Config):
    store = ImageStore(
        config.bank.parent / "images", config.data.folder,
        min_pixels=config.model.min_pixels, max_pixels=config.model.max_pixels,
    )  # fmt: skip
    return load_splits(config, store, QUIET)
