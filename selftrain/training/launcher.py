"""Start LLaMA-Factory on one machine or on many, follow it, and end it when we end.

The command is the same everywhere; `training.launcher` (srun, mpirun, a script) stands before it where it has to be
started once on each of several nodes, and `node_launcher.py` then gives each node its place.
"""

from __future__ import annotations

import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from selftrain.files import write_json
from selftrain.processes import child, supervise
from selftrain.processes.child import Child, ending
from selftrain.training import node_launcher, open_turns
from selftrain.training.hyperparameters import DATASET, TrainingError, TrainingSettings

# A child must not take over the parent's ranks or LLaMA-Factory's switches: with a stale WORLD_SIZE it waits for
# processes that never come, with USE_MODELSCOPE_HUB it looks models up on a network.
DROPPED_ENVIRONMENT = (
    r"^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|ROLE_\w+|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_\w+|"
    r"NNODES|NODE_RANK|NPROC_PER_NODE|RDZV_ID|MIN_NNODES|MAX_NNODES|MAX_RESTARTS|FORCE_TORCHRUN|ACCELERATE_\w+|FSDP_\w+|"
    r"USE_(V1|MCA|RAY|KT|MODELSCOPE_HUB|OPENMIND_HUB)|ALLOW_EXTRA_ARGS|DISABLE_VERSION_CHECK|RECORD_VRAM|LLAMABOARD_\w+|"
    r"LLAMAFACTORY_VERBOSITY|PYTHONHOME|PYTHONDONTWRITEBYTECODE)$"
)

STOP_GRACE = 10.0  # seconds between asking the child to stop and ending it; torchrun needs some to end its workers
NODE_GRACE = 0.6  # of it, that each node gives what it started, so that it can still say so
POLL = 0.1  # seconds between looks at the child and its log
RANK_ERROR = re.compile(r"^\[rank\d+\]: [\w.]*(?:Error|Exception)\b.*", re.MULTILINE)  # the last line of a traceback
RANK_ERRORS = 5  # of those
SEEN_WITHIN = 60.0  # seconds until a node must see what we wrote: network file systems keep what they know for so long
ARRIVE_WITHIN = 300.0  # seconds until the last node must have come


def pinned_environment(settings: TrainingSettings, resolved: Mapping[str, Any], out: Path) -> dict[str, str]:
    """Variables that the child gets on every machine, over what that machine has."""
    threads = str(settings.threads)
    environment = {
        "OMP_NUM_THREADS": threads,
        "MKL_NUM_THREADS": threads,
        "TOKENIZERS_PARALLELISM": "false",
        # The base is a local folder, so nothing should ask a network (an offline machine would wait for time-outs).
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_DATASETS_CACHE": str((out / "cache").resolve()),  # private, removed afterwards
        "PYTHONSAFEPATH": "1",  # the working folder holds no modules
        "PYTHONUNBUFFERED": "1",  # the end of the log is there when a child is killed
        "MPLBACKEND": "Agg",
        # Also with one process: without it LLaMA-Factory starts one per visible GPU, and the global batch is another.
        "NPROC_PER_NODE": str(settings.processes),
    }
    if settings.ranks > 1 or resolved.get("deepspeed") or resolved.get("fsdp"):
        environment["FORCE_TORCHRUN"] = "1"
    if resolved.get("use_cpu"):
        # accelerate calls the device of one of several CPU ranks "cpu:0", which no checkpoint can be loaded to.
        environment["ACCELERATE_TORCH_DEVICE"] = "cpu"
    if resolved.get("fsdp"):
        environment |= {
            # Read when the model is loaded, long before the trainer reads `fsdp`.
            "ACCELERATE_USE_FSDP": "true",
            "FSDP_VERSION": str((resolved.get("fsdp_config") or {}).get("version", 1)),
            # Not a key of fsdp_config. Sharded, FSDP2's default, would leave no adapter at the end.
            "FSDP_STATE_DICT_TYPE": "FULL_STATE_DICT",
        }
    return environment | dict(settings.environment)


def child_environment(settings: TrainingSettings, resolved: Mapping[str, Any], out: Path) -> dict[str, str]:
    """The parent's environment without what would change training, and with what pins it down."""
    pinned = pinned_environment(settings, resolved, out)
    return node_launcher.cleaned_environment(DROPPED_ENVIRONMENT, str(settings.interpreter.parent), pinned)


def train_command(settings: TrainingSettings, resolved: Mapping[str, Any]) -> list[str]:
    """LLaMA-Factory's command, to be run in the folder of train.yaml: its own, or the script that adds to it.

    Files are named relative to the folder: LLaMA-Factory splits torchrun's command line at blanks.
    """
    own = [open_turns.__name__.rpartition(".")[2] + ".py"]
    own = own if _needs_script(settings, resolved) else ["-m", "llamafactory.cli"]
    return [str(settings.interpreter), *own, "train", "train.yaml"]


def _needs_script(settings: TrainingSettings, resolved: Mapping[str, Any]) -> bool:
    """Whether rows have open turns, the schedule is longer than the training, or a full fine-tuning is resumed."""
    resumed = bool(resolved.get("resume_from_checkpoint"))
    opens_turns = str(resolved.get("template")).endswith(open_turns.SUFFIX)
    longer = open_turns.SCHEDULE in settings.environment
    return opens_turns or longer or (resumed and resolved["finetuning_type"] == "full")


def launched_command(settings: TrainingSettings, resolved: Mapping[str, Any], launch: Path) -> list[str]:
    """The command that starts the training from this machine. `launch`: the file that nodes read."""
    if not settings.launcher:
        return train_command(settings, resolved)
    script = [str(settings.interpreter), "-I", "-S", node_launcher.__file__, str(launch), f"{SEEN_WITHIN:g}"]
    return [*settings.launcher, *script]


def write_launch(settings: TrainingSettings, resolved: Mapping[str, Any], out: Path) -> Path:
    """Write what every node needs to know into a folder of this launch alone: no node can take part in an older one."""
    folder = out.resolve() / f"nodes-{secrets.token_hex(4)}"
    folder.mkdir()
    model = Path(resolved["model_name_or_path"])
    needs = [out / "train.yaml", out / "data" / f"{DATASET}.jsonl", model / "config.json"]
    write_json(
        folder / "launch.json",
        {
            "nodes": settings.nodes,
            "command": train_command(settings, resolved),
            "folder": str(out.resolve()),
            "supervise": supervise.__file__,
            "grace": STOP_GRACE * NODE_GRACE,
            "path": str(settings.interpreter.parent),
            "drop": DROPPED_ENVIRONMENT,
            "environment": pinned_environment(settings, resolved, out),
            "cache": str((out / "cache").resolve()),
            "needs": [str(path.resolve()) for path in needs],
            "master": settings.master,
            "arrive": ARRIVE_WITHIN,
        },
    )
    return folder / "launch.json"


def run_child(
    settings: TrainingSettings,
    resolved: Mapping[str, Any],
    out: Path,
    on_progress: Callable[[dict[str, Any]], None],
    held: int | None = None,
) -> None:
    """Run LLaMA-Factory on `out/train.yaml` to its end. TrainingError if it fails; whatever we die of, it dies too.

    `held`: a file descriptor that stays open until everything that was started has ended.
    """
    log = out / "train.log"
    environment = child_environment(settings, resolved, out)
    if settings.launcher and shutil.which(settings.launcher[0], path=environment["PATH"]) is None:
        raise TrainingError(
            f"there is no {settings.launcher[0]} on this machine, which training.launcher names; start the run where "
            "there is one, for instance inside the job (examples/cluster)"
        )
    if _needs_script(settings, resolved):
        shutil.copy(open_turns.__file__, out)
    launch = write_launch(settings, resolved, out) if settings.launcher else out
    command = launched_command(settings, resolved, launch)
    lines = follow(Path(resolved["output_dir"]) / "trainer_log.jsonl")
    next(lines)  # what is there already is of an interrupted training
    trainer = Child(command, log, grace=STOP_GRACE, env=environment, cwd=out, pass_fds=() if held is None else (held,))
    try:
        running = True
        while running:
            running = trainer.wait(POLL) is None
            for line in next(lines):  # once more after the end
                on_progress(line)
    finally:
        status = trainer.close()  # after a normal end there is nobody to stop
        shutil.rmtree(out / "cache", ignore_errors=True)
        failures = failed_nodes(launch.parent) if settings.launcher else []
        if settings.launcher:
            shutil.rmtree(launch.parent, ignore_errors=True)
    if status:
        how = f"{'was ended' if status > 128 else 'failed'} {ending(status)}"
        who = "LLaMA-Factory" if not settings.launcher else f"LLaMA-Factory, started by {settings.launcher[0]},"
        raise TrainingError("\n".join([f"{who} {how}", *failures, log_end(log)]))


def failed_nodes(folder: Path) -> list[str]:
    """A line for each node that said why it is out, the first one first."""
    records = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("failed-*.json")]
    return [f"node {record['node']}: {record['why']}" for record in sorted(records, key=lambda r: r["time"])]


def follow(path: Path) -> Iterator[list[dict[str, Any]]]:
    """Each `next` gives the JSON lines that were completed since the last one; the file need not exist yet."""
    position = 0
    while True:
        fresh: list[dict[str, Any]] = []
        if path.is_file():
            with path.open("rb") as file:
                file.seek(position)
                *whole, _ = file.read().split(b"\n")
            position += sum(len(line) + 1 for line in whole)
            fresh = [entry for line in whole if line.strip() and (entry := _entry(line)) is not None]
        yield fresh


def _entry(line: bytes) -> dict[str, Any] | None:
    """A line of the trainer's log; None for one that is torn, which tells nothing about progress."""
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def log_end(log: Path) -> str:
    """The errors of single ranks, which torchrun's own bury, and the last lines of the log, headed by its path."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    errors = list(dict.fromkeys(match.group(0) for match in RANK_ERROR.finditer(text)))[:RANK_ERRORS]
    return "\n".join([*errors, child.log_end(log)])
