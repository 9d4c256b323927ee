"""Train one LoRA adapter on one set of examples, by running LLaMA-Factory as a child program.

This module owns `train.yaml` and the dataset folder of one iteration. Nothing outside the stage folder is written:
the hyper-parameter file is read, resolved and saved beside the result. The adapter is checked before it is returned.
Works with LLaMA-Factory 0.9.5; what is said of it below was read in, or measured on, that version.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from data_process.schema import DataError, Example
from data_process.sharegpt import write_dataset
from selftrain import supervise
from selftrain.adapter import AdapterError, check_adapter, shape_of
from selftrain.preflight import PreflightReport, preflight

DATASET = "train"

# Set here, from arguments that the rest of the loop shares; a hyper-parameter file that also set them would be a second
# truth, so it may not.
OWNED = frozenset(
    {
        *("stage", "do_train", "do_eval", "do_predict", "finetuning_type", "freeze_vision_tower", "template"),
        *("model_name_or_path", "adapter_name_or_path", "create_new_adapter", "trust_remote_code"),
        *("dataset", "dataset_dir", "media_dir", "eval_dataset", "val_size", "tokenized_path", "overwrite_cache"),
        *("cutoff_len", "image_min_pixels", "image_max_pixels", "seed", "data_seed"),
        *("output_dir", "overwrite_output_dir", "resume_from_checkpoint"),
        *("per_device_train_batch_size", "gradient_accumulation_steps"),
    }
)

# A child must not take over the parent's ranks or LLaMA-Factory's switches: with a stale WORLD_SIZE it waits for
# processes that never come, with USE_MODELSCOPE_HUB it looks models up on a network.
DROPPED_ENVIRONMENT = re.compile(
    r"^(RANK|LOCAL_RANK|WORLD_SIZE|LOCAL_WORLD_SIZE|GROUP_RANK|ROLE_\w+|MASTER_ADDR|MASTER_PORT|TORCHELASTIC_\w+|"
    r"NNODES|NODE_RANK|NPROC_PER_NODE|RDZV_ID|MIN_NNODES|MAX_NNODES|MAX_RESTARTS|FORCE_TORCHRUN|ACCELERATE_\w+|"
    r"USE_(V1|MCA|RAY|KT|MODELSCOPE_HUB|OPENMIND_HUB)|ALLOW_EXTRA_ARGS|DISABLE_VERSION_CHECK|RECORD_VRAM|LLAMABOARD_\w+|"
    r"LLAMAFACTORY_VERBOSITY|PYTHONHOME|PYTHONDONTWRITEBYTECODE)$"
)

STOP_GRACE = 10.0  # seconds between asking the child to stop and ending it; torchrun needs some to end its workers
POLL = 0.1  # seconds between looks at the child and its log
LOG_END = 30  # lines of the log shown in an error


class TrainingError(RuntimeError):
    """Training gave no adapter that can be trusted. The message says why, or shows the end of the log."""


class HyperparameterError(DataError):
    """A hyper-parameter file or an override cannot be used. The message names the key and what would work."""


@dataclass(frozen=True)
class TrainingSettings:
    """What one training run depends on besides its data and its base model."""

    hyperparameters: Path  # YAML with LLaMA-Factory's names, plus global_batch_size; never written to
    overrides: Mapping[str, Any] = field(default_factory=dict)  # on top of the file, checked the same way
    per_device_batch: int = 4  # rows that one process holds at a time; more only adds padding on a CPU
    processes: int = 1  # on this machine: one per GPU, or CPU ranks over gloo
    interpreter: Path = Path(sys.executable)  # Python that has LLaMA-Factory; may be another environment
    seed: int = 0
    max_length: int = 2048  # tokens of a whole row, image tokens included; longer rows are dropped, never cut
    max_dropped_share: float = 0.05  # of the rows; if more would go, that is an error
    threads: int = 1  # OpenMP threads per process; spinning threads on shared cores are many times slower
    environment: Mapping[str, str] = field(default_factory=dict)  # added last to the child's environment

    def __post_init__(self) -> None:
        for name in ("per_device_batch", "processes", "max_length", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if not 0 <= self.max_dropped_share <= 1:
            raise ValueError(f"max_dropped_share must be in [0, 1], not {self.max_dropped_share}")


@dataclass(frozen=True)
class TrainingResult:
    """A checked adapter and how it came about."""

    adapter: Path
    steps: int  # optimizer steps
    train_loss: float  # mean over the run
    seconds: float  # wall time of the child, start-up included
    rows: int  # trained on
    dropped: Counter[str]  # reason -> rows; rows + dropped is what was given
    resolved: dict[str, Any]  # what stands in train.yaml


def train(
    examples: Sequence[Example],
    *,
    settings: TrainingSettings,
    base_model: Path,
    image_path: Callable[[str], Path],
    out: Path,
    init_adapter: Path | None = None,
    image_limits: tuple[int, int],
    on_progress: Callable[[dict[str, Any]], None] = lambda _: None,
) -> TrainingResult:
    """Train a LoRA adapter on `examples` into `out`, an empty or absent folder, and check it.

    `image_path` maps an example's image to its canonical file, `image_limits` is the image store's (min, max) pixels.
    With `init_adapter` its weights are the start (same rank and alpha), the optimizer is new. `on_progress` gets each
    line of LLaMA-Factory's progress log: current_steps, total_steps, loss, lr, epoch, percentage.

    Leaves `data/`, `train.yaml`, `train.log` and `adapter/` in `out`. Raises HyperparameterError, DataError or (for
    `init_adapter`) AdapterError before anything is started, TrainingError when training itself goes wrong; an interrupt
    ends the child and travels on.
    """
    if out.exists() and any(out.iterdir()):
        # LLaMA-Factory would silently resume from a checkpoint it finds.
        raise TrainingError(f"{out} is not empty; training starts in a folder of its own, so remove it or name another")
    hyperparameters = read_hyperparameters(settings.hyperparameters, settings.overrides, settings.interpreter)
    report = preflight(examples, base_model, image_path, settings.max_length, settings.max_dropped_share)
    resolved = resolve(
        hyperparameters, settings, base_model, out, max(report.lengths), image_limits, init_adapter=init_adapter
    )
    out.mkdir(parents=True, exist_ok=True)
    written = write_dataset(out / "data", DATASET, report.kept, lambda image: image_path(image).resolve())
    if written["written"] != len(report.kept):  # the pre-flight asks the same question, so this is a bug
        raise TrainingError(f"{len(report.kept)} rows passed the pre-flight, but the dataset has {dict(written)}")
    (out / "train.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False, allow_unicode=True), encoding="utf-8")

    started = time.monotonic()
    run_child(settings, resolved, out, on_progress)
    seconds = time.monotonic() - started

    adapter, log = out / "adapter", out / "train.log"
    try:
        check_adapter(adapter)
    except AdapterError as error:
        raise TrainingError(f"{error}\n{log_end(log)}") from error
    steps, loss = read_results(adapter, log)
    check_rows(report, resolved, log)
    return TrainingResult(adapter, steps, loss, seconds, len(report.kept), report.dropped, resolved)


# --- hyper-parameters ---------------------------------------------------------------------------------------------


def read_hyperparameters(path: Path, overrides: Mapping[str, Any], interpreter: Path) -> dict[str, Any]:
    """The file's values with the overrides on top. HyperparameterError for a key that nothing would read."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise HyperparameterError(f"cannot read hyper-parameters from {path}: {error}") from error
    if not isinstance(content, dict):
        raise HyperparameterError(f"{path} should hold `name: value` lines, one hyper-parameter each")
    known = known_fields(interpreter) | {"global_batch_size"}
    for origin, values in ((str(path), content), ("overrides", overrides)):
        for key in values:
            if key in OWNED:
                raise HyperparameterError(f"{key} ({origin}) is set by the loop itself; remove it there")
            if key not in known:
                near = difflib.get_close_matches(str(key), known - OWNED, n=1)
                raise HyperparameterError(
                    f"{key} ({origin}) is not a setting of LLaMA-Factory"
                    + (f"; did you mean {near[0]}?" if near else "")
                )
    merged = {**content, **overrides}
    batch = merged.get("global_batch_size")
    if not isinstance(batch, int) or isinstance(batch, bool) or batch < 1:
        raise HyperparameterError(f"global_batch_size ({path}) must be a whole number of rows >= 1, not {batch!r}")
    if isinstance(merged.get("deepspeed"), str):  # relative to the file that names it, not to wherever we run
        merged["deepspeed"] = str((path.parent / merged["deepspeed"]).resolve())
    return merged


def known_fields(interpreter: Path) -> set[str]:
    """Names of every training setting of the LLaMA-Factory that `interpreter` has.

    Its generation settings are left out: they do nothing here, and `max_length` among them looks like the row limit.
    Read from its sources without importing them: an import takes seconds and torch. TrainingError if it has none.
    """
    ask = (
        "import importlib.util as u\n"
        "for n in ('llamafactory', 'transformers'):\n"
        "    s = u.find_spec(n)\n"
        "    print(s.submodule_search_locations[0] if s else '')"
    )
    try:
        answer = subprocess.run([interpreter, "-c", ask], capture_output=True, text=True, timeout=60, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise TrainingError(f"cannot run {interpreter}: {error}; set training.interpreter to a Python 3.11+") from error
    factory, transformers = ([*answer.stdout.splitlines(), "", ""])[:2]
    if not factory or not transformers:
        raise TrainingError(
            f"{interpreter} has no LLaMA-Factory; `pip install llamafactory==0.9.5` there, or set training.interpreter"
        )
    hparams = Path(factory) / "hparams"
    names: set[str] = set()
    for source in (
        *(hparams / f"{name}_args.py" for name in ("model", "data", "training", "finetuning")),
        *(Path(transformers) / f"training_args{suffix}.py" for suffix in ("", "_seq2seq")),
    ):
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                names |= {
                    item.target.id
                    for item in node.body
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _is_init(item.value)
                }
    return names


def _is_init(default: ast.expr | None) -> bool:
    """False for a dataclass field that no one can set: `field(init=False, ...)`."""
    return not (
        isinstance(default, ast.Call)
        and any(k.arg == "init" and isinstance(k.value, ast.Constant) and not k.value.value for k in default.keywords)
    )


def accumulation(global_batch: int, per_device: int, processes: int) -> int:
    """Steps of gradient accumulation that make the global batch exact; else HyperparameterError with what would."""
    steps, rest = divmod(global_batch, per_device * processes)
    if steps and not rest:
        return steps
    message = f"global_batch_size {global_batch} is not a multiple of {per_device} rows x {processes} processes"
    if global_batch % processes:
        fitting = [n for n in range(1, processes) if global_batch % n == 0]
        multiple = math.lcm(per_device, processes)
        lower = global_batch // multiple * multiple
        batches = [n for n in (lower, lower + multiple) if n]
        raise HyperparameterError(
            f"{message}; it needs {' or '.join(map(str, fitting))} processes, "
            f"or a global_batch_size of {' or '.join(map(str, batches))}"
        )
    share = global_batch // processes
    fitting = [n for n in range(1, share + 1) if share % n == 0]
    raise HyperparameterError(f"{message}; per_device_batch can be {', '.join(map(str, fitting))}")


def resolve(
    hyperparameters: Mapping[str, Any],
    settings: TrainingSettings,
    base_model: Path,
    out: Path,
    longest: int,
    image_limits: tuple[int, int],
    init_adapter: Path | None = None,
) -> dict[str, Any]:
    """The whole of train.yaml: every path absolute, nothing that matters left to a default.

    `longest` is the length in tokens of the longest row, image tokens included. If a hyper-parameter file turns on
    packing, the global batch counts packs of up to that length instead of rows.
    """
    chosen = dict(hyperparameters)
    global_batch = chosen.pop("global_batch_size")
    resolved: dict[str, Any] = {
        "stage": "sft",
        "do_train": True,
        "finetuning_type": "lora",
        "model_name_or_path": str(base_model.resolve()),
        "trust_remote_code": False,
        "template": "qwen2_vl",
        "freeze_vision_tower": True,
        # Canonical pictures lie within the limits already, so LLaMA-Factory's own resizing rule never applies.
        "image_min_pixels": image_limits[0],
        "image_max_pixels": image_limits[1],
        "dataset": DATASET,
        "dataset_dir": str((out / "data").resolve()),
        # Above the longest row: cutting would shorten prompt and target in proportion, or crash on an image.
        # A multiple of 8, because neat_packing crashes when its packs are padded further ("position_ids shape ...").
        "cutoff_len": (longest // 8 + 2) * 8,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0,
        "packing": False,
        "output_dir": str((out / "adapter").resolve()),
        "overwrite_output_dir": False,
        "save_strategy": "no",  # the final weights are written at the end in any case
        "report_to": "none",
        "plot_loss": False,
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "per_device_train_batch_size": settings.per_device_batch,
        "gradient_accumulation_steps": accumulation(global_batch, settings.per_device_batch, settings.processes),
    }
    if settings.processes > 1:
        resolved["ddp_timeout"] = 1800  # seconds
    if init_adapter is not None:
        for key, value in shape_of(init_adapter).items():
            if key in chosen and chosen[key] != value:  # LLaMA-Factory would keep the adapter's without a word
                raise HyperparameterError(
                    f"{key} is {chosen[key]}, but {init_adapter} was made with {value}; make them equal"
                )
        resolved["adapter_name_or_path"] = str(init_adapter.resolve())
        resolved["create_new_adapter"] = False
    return resolved | chosen


# --- the child ----------------------------------------------------------------------------------------------------


def child_environment(settings: TrainingSettings, resolved: Mapping[str, Any], out: Path) -> dict[str, str]:
    """The parent's environment without what would change training, and with what pins it down."""
    environment = {name: value for name, value in os.environ.items() if not DROPPED_ENVIRONMENT.match(name)}
    # LLaMA-Factory starts `torchrun` by name: the one beside the interpreter, not whichever comes first.
    environment["PATH"] = os.pathsep.join([str(settings.interpreter.parent), environment.get("PATH", os.defpath)])
    threads = str(settings.threads)
    environment |= {
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
    if settings.processes > 1 or resolved.get("deepspeed"):
        environment["FORCE_TORCHRUN"] = "1"
    return environment | dict(settings.environment)


def run_child(
    settings: TrainingSettings,
    resolved: Mapping[str, Any],
    out: Path,
    on_progress: Callable[[dict[str, Any]], None],
) -> None:
    """Run LLaMA-Factory on `out/train.yaml` to its end. TrainingError if it fails; whatever we die of, it dies too."""
    log = out / "train.log"
    # The file is named relative to the working folder: LLaMA-Factory splits torchrun's command line at blanks.
    command = [str(settings.interpreter), "-m", "llamafactory.cli", "train", "train.yaml"]
    supervised = [sys.executable, "-I", "-S", supervise.__file__, str(STOP_GRACE), *command]
    with log.open("wb") as sink:
        child = subprocess.Popen(
            supervised,
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            cwd=out,
            env=child_environment(settings, resolved, out),
        )
    lines = follow(out / "adapter" / "trainer_log.jsonl")
    try:
        while child.poll() is None:
            for line in next(lines):
                on_progress(line)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
        for line in next(lines):
            on_progress(line)
    finally:
        child.stdin.close()  # the supervisor takes it as the order to stop; after a normal end there is nobody to stop
        child.wait()
        shutil.rmtree(out / "cache", ignore_errors=True)
    if child.returncode:
        status = child.returncode
        how = f"was ended by signal {status - 128}" if status > 128 else f"failed with status {status}"
        raise TrainingError(f"LLaMA-Factory {how}\n{log_end(log)}")


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
            fresh = [json.loads(line) for line in whole if line.strip()]
        yield fresh


def log_end(log: Path) -> str:
    """The last lines of the log, headed by its path."""
    text = log.read_text(encoding="utf-8", errors="replace") if log.is_file() else ""
    return f"end of {log}:\n" + ("\n".join(text.splitlines()[-LOG_END:]) or "(empty)")


# --- afterwards ---------------------------------------------------------------------------------------------------


def read_results(adapter: Path, log: Path) -> tuple[int, float]:
    """Optimizer steps and mean loss. TrainingError if they are missing, or the loss is not a finite number."""
    try:
        loss = float(json.loads((adapter / "train_results.json").read_text(encoding="utf-8"))["train_loss"])
        steps = int(json.loads((adapter / "trainer_state.json").read_text(encoding="utf-8"))["global_step"])
    except (OSError, ValueError, KeyError) as error:
        raise TrainingError(f"LLaMA-Factory left no results in {adapter} ({error!r})\n{log_end(log)}") from error
    if not math.isfinite(loss) or steps < 1:
        raise TrainingError(f"training did not converge: loss {loss} after {steps} steps\n{log_end(log)}")
    return steps, loss


def check_rows(report: PreflightReport, resolved: Mapping[str, Any], log: Path) -> None:
    """TrainingError if LLaMA-Factory trained on fewer rows than it was given: it drops some with a warning."""
    if resolved["packing"] or resolved.get("neat_packing"):
        return  # then its count is of packs
    found = re.findall(r"Num examples = ([\d,]+)", log.read_text(encoding="utf-8", errors="replace"))
    if found and int(found[-1].replace(",", "")) != len(report.kept):
        raise TrainingError(f"LLaMA-Factory trained on {found[-1]} rows of {len(report.kept)}\n{log_end(log)}")
