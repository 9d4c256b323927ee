"""`selftrain doctor`: check that this machine can run a configuration, before anything is computed."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data_process.errors import UserError
from data_process.schema import DataError
from selftrain.config.hub_ids import hub_id
from selftrain.engine_settings import Requirement
from selftrain.environment import DeviceError, ask
from selftrain.families import FamilyError, family_of, opens_thinking, pixel_limits, thinking_untrained
from selftrain.training.weight_files import INDEX, weights_files

if TYPE_CHECKING:
    from selftrain.config import Config

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
LEAST_OF_NAMED = 0.9  # of gpu.memory_gib: drivers keep some of what a data sheet says
LOW_DISK = 5  # GiB: an adapter, its checkpoints and the bank of a small run


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    state: Literal["ok", "note", "fail"]
    what: str
    found: str
    advice: str = ""


def quick(config: Config) -> Iterator[Finding]:
    """The checks that take a second or two, of what would end a run hours after its start.

    A run whose last training is done needs no trainer any more.
    """
    if config.engine.has_model:
        yield from _model(config)
        yield from _chat_template(config)
        if not (config.output / f"iter{config.iters}" / "train" / "stage.json").is_file():
            yield from _training(config)
            yield from _gpu_memory(config, [])
    yield from map(_installed, config.engine.requirements())
    yield from _trackers(config)


def check_before_run(config: Config) -> None:
    """ConfigError that lists what `quick` finds to fail."""
    from selftrain.config import ConfigError

    if lines := not_ready(config):
        raise ConfigError("\n  ".join(["this run would fail, so it was not started:", *lines]))


def not_ready(config: Config) -> list[str]:
    """What `quick` finds to fail, a line each, with what to do."""
    return [f"{one.what}: {one.found}; {one.advice}" for one in quick(config) if one.state == "fail"]


def examine(config: Config, rows_given: bool = False) -> Iterator[Finding]:
    """Check everything that a run of `config` needs, in the order in which the run needs it.

    With `rows_given`, what `selftrain train` needs: it samples nothing and reads no problems.
    """
    yield Finding("ok", "Python", f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})")
    if config.engine.has_model:
        gpus: list[float] = []
        yield from _packages()
        yield from _torch(gpus)
        yield from _model(config)
        yield from _chat_template(config)
        yield from _training(config)
        yield from _precision(config)
        yield from _gpu_memory(config, gpus, rows_given)
    if not rows_given:
        yield from _engine(config)
        yield from _data(config)
    yield from _traces(config)
    yield from _trackers(config)
    yield from _room(config)
    yield from _full_weights(config)


def pins(path: Path = REQUIREMENTS) -> dict[str, str]:
    """package -> version of the tested set; empty if there is no such file."""
    if not path.is_file():
        return {}
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    return dict(line.split("==") for line in lines if "==" in line)


def _packages() -> Iterator[Finding]:
    missing, other = [], []
    # An installed package has no requirements.txt; its metadata says the same.
    known = pins() or dict(line.split("==") for line in metadata.requires("selftrain") or () if ";" not in line)
    for name, version in known.items():
        try:
            installed = metadata.version(name)
            if installed.split("+")[0] != version:
                other.append(f"{name} {installed} (tested: {version})")
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        advice = "`make .venv/.runtime`, or `uv pip install -r requirements.txt`"
        yield Finding("fail", "packages", f"not installed: {', '.join(missing)}", advice)
    elif other:
        yield Finding("note", "packages", ", ".join(other), "other versions than the tested ones")
    elif known:
        yield Finding("ok", "packages", f"{len(known)} in the tested versions")


def _torch(gpus: list[float]) -> Iterator[Finding]:
    """In a process of its own: importing the wrong pair of builds fails in many ways. `gpus` takes GiB of each."""
    script = (
        "import json, torch\n"
        "found = {'torch': torch.__version__, 'gpus': [[torch.cuda.get_device_name(i), "
        "torch.cuda.get_device_properties(i).total_memory] for i in range(torch.cuda.device_count())]}\n"
        "try:\n    import torchvision\n    found['torchvision'] = torchvision.__version__\n"
        "except Exception as error:\n    found['error'] = f'{type(error).__name__}: {error}'\n"
        "print(json.dumps(found))"
    )
    try:
        answer = ask(Path(sys.executable), script)
    except DeviceError as error:
        yield Finding("fail", "torch", str(error), "`uv pip install -r requirements.txt`")
        return
    if "error" in answer:
        advice = "`uv pip install -r requirements.txt`"
        if "+cpu" in answer["torch"]:
            advice += " installs the ordinary torch, which runs on a CPU too; the CPU-only one has no torchvision"
        yield Finding("fail", "torch", f"{answer['torch']}, but torchvision: {answer['error']}", advice)
        return
    yield Finding("ok", "torch", f"{answer['torch']}, torchvision {answer['torchvision']}")
    gpus += [memory / 2**30 for _, memory in answer["gpus"]]
    if names := ", ".join(f"{name} with {memory / 2**30:.0f} GiB" for name, memory in answer["gpus"]):
        yield Finding("ok", "GPUs", names)
    else:
        yield Finding("note", "GPUs", "torch finds none", "a CPU is enough for the tiny model, not for a 7B one")


def _model(config: Config) -> Iterator[Finding]:
    path = config.model.path
    if not config.engine.reads_checkpoint(path):
        return
    if not (path / "config.json").is_file():
        yield Finding("fail", "model", *no_checkpoint(path))
        return
    weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
    if (path / INDEX).is_file():
        try:
            wanted = weights_files(path)
        except DataError as error:
            yield Finding("fail", "model", str(error), "the download is damaged")
            return
        if lacking := [file.name for file in wanted if file not in weights]:
            advice = "the download is incomplete; download the missing files"
            yield Finding("fail", "model", f"{path} lacks {len(lacking)} of {len(wanted)} shards: {lacking[0]}", advice)
            return
    if not weights:
        yield Finding("fail", "model", f"{path} holds no weights", "set model.path to a complete checkpoint folder")
        return
    size = sum(file.stat().st_size for file in weights)
    try:
        family = family_of(path)
    except FamilyError as error:
        yield Finding("fail", "model", str(error), "docs/models.md says what each family can do")
        return
    yield Finding("ok", "model", f"{path}, {family.model_type}, {size / 2**30:.2f} GiB of weights")


def no_checkpoint(path: Path) -> tuple[str, str]:
    """(what is wrong with a model's path that is no checkpoint folder, what to do)."""
    if (name := hub_id(path)) is None:
        return f"{path} holds no config.json", "set model.path to a checkpoint folder"
    folder = f"models/{name.rpartition('/')[2]}"
    return (
        f"{name} is neither a checkpoint folder here nor in the Hugging Face cache",
        f"nothing is downloaded during a run: `hf download {name} --local-dir {folder}`, then --model {folder}",
    )


def _chat_template(config: Config) -> Iterator[Finding]:
    """Whether prompts can be rendered and trained on, and images keep their size in training."""
    path = config.model.path
    try:
        family = family_of(path)
    except FamilyError:
        return  # `_model` has said it
    try:
        opens = opens_thinking(path)
    except FamilyError as error:
        yield Finding("fail", "chat template", str(error), "set model.path to an original checkpoint")
        return
    if opens:
        why = thinking_untrained(path, family)
        yield Finding("note" if config.engine.why_no_loop else "fail", "chat template", why, "see docs/models.md")
    limits, own = pixel_limits(path), (config.model.min_pixels, config.model.max_pixels)
    if limits and not limits[0] <= own[0] <= own[1] <= limits[1] and config.engine.why_no_loop is None:
        what = f"the checkpoint takes {limits[0]} to {limits[1]} pixels, the configuration {own[0]} to {own[1]}"
        advice = "a run stops before sampling if an image lies outside; set model.min_pixels and model.max_pixels"
        yield Finding("note", "image sizes", what, advice)


def _training(config: Config) -> Iterator[Finding]:
    if config.engine.why_no_loop is not None:
        return
    interpreter = config.training.interpreter
    advice = "`uv pip install llamafactory==0.9.5` there, or set training.interpreter to a Python that has it"
    yield _installed(Requirement("LLaMA-Factory", ("llamafactory",), interpreter, advice))
    path = config.training.hyperparameters
    if not path.is_file():
        yield Finding("fail", "hyper-parameters", f"there is no {path}", "set training.hyperparameters")
        return
    asked = path.read_text("utf-8")
    for line, name, package in (
        ("deepspeed:", "DeepSpeed", "deepspeed"),
        ("enable_liger_kernel: true", "Liger", "liger-kernel"),
    ):
        if f"\n{line}" in asked:
            advice = f"`uv pip install {package}` there; {path} asks for it"
            yield _installed(Requirement(name, (package,), interpreter, advice))


def _trackers(config: Config) -> Iterator[Finding]:
    """Whether the loop and the trainer have what `report_to` names, and a key where they would be asked for one."""
    own = config.training.overrides.get("report_to") or []  # of LLaMA-Factory alone: mlflow, comet_ml
    names = dict.fromkeys([*config.report_to, *([own] if isinstance(own, str) else own)])
    trains = config.engine.has_model and config.engine.why_no_loop is None
    for name in names:
        if name in ("none", "all"):
            continue
        pythons: list[Path | None] = [None] if name in config.report_to else []
        pythons += [config.training.interpreter] if trains and config.training.interpreter not in pythons else []
        for interpreter in pythons:
            advice = f"`uv pip install {name}` there, or leave it out of report_to"
            yield _installed(Requirement(f"tracker {name}", (name,), interpreter, advice))
        if pythons and name == "wandb" and not _knows_wandb():
            advice = "`wandb login`, or set WANDB_API_KEY, or WANDB_MODE=offline"
            yield Finding("fail", "tracker wandb", "it has no key, and would ask for one while the run waits", advice)


def _knows_wandb() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun"):
        return True
    netrc = Path(os.environ.get("NETRC", Path.home() / ".netrc"))
    return netrc.is_file() and "api.wandb.ai" in netrc.read_text("utf-8", "replace")


def _precision(config: Config) -> Iterator[Finding]:
    """What the base model is trained in, and why."""
    from selftrain.training.precision import settle

    if config.engine.why_no_loop is not None or not config.training.hyperparameters.is_file():
        return
    try:
        _, precision = settle(config)
    except DeviceError as error:
        yield Finding("fail", "precision", str(error))
        return
    converted = config.training.dtype == "auto" and precision.dtype != "base"
    yield Finding("note" if converted else "ok", "precision", str(precision))


def _gpu_memory(config: Config, gpus: Sequence[float], rows_given: bool = False) -> Iterator[Finding]:
    """The estimate of memory and hours, against the GPUs that the configuration names, or else those of `gpus` (GiB).

    Without any there is nothing to compare with, and a tiny model is not worth a line.
    """
    from selftrain.config import ConfigError
    from selftrain.estimate.fit import estimate, fits, hours_line
    from selftrain.estimate.memory import training_memory

    named = config.gpu
    if named is None and not gpus:
        return
    try:
        found = estimate(config, rows_given)
    except (FamilyError, ConfigError, OSError, ValueError) as error:
        yield Finding("note", "GPU memory", f"not estimated: {error}", "the other checks say what is wrong")
        return
    gib, count = (named.memory_gib, named.count) if named else (min(gpus), len(gpus))
    memories = [*found.memories.items()]
    if found.training is not None and not rows_given:  # what `selftrain train` may be given
        memories.append(("training", training_memory(config, found.model, found.work, given=True)))
    for name, memory in dict.fromkeys(memories):
        state, advice = fits(name, memory, gib, count)
        yield Finding(state, "GPU memory", f"{memory}", advice)
    if found.hours is not None:
        yield Finding("ok", "hours", hours_line(found, found.hours))
    if named and gpus and min(gpus) < LEAST_OF_NAMED * named.memory_gib:
        what = f"the configuration is for {named.memory_gib:g} GiB, and a GPU of this machine has {min(gpus):.0f}"
        yield Finding("note", "GPU memory", what, "add a layer for it, such as --layer configs/gpu/24gb_7b.yaml")


def _installed(need: Requirement) -> Finding:
    """Whether the interpreter has one of the packages of a requirement, and in which version."""
    interpreter = need.interpreter or Path(sys.executable)
    script = (
        "import json\nfrom importlib import metadata\n"
        "def version(name):\n    try:\n        return metadata.version(name)\n"
        "    except metadata.PackageNotFoundError:\n        return None\n"
        f"print(json.dumps({{name: version(name) for name in {need.packages!r}}}))"
    )
    try:
        answer = ask(interpreter, script)
    except DeviceError as error:
        return Finding("fail", need.name, str(error), need.advice)
    if version := next(filter(None, map(answer.get, need.packages)), None):
        return Finding("ok", need.name, f"{version} ({interpreter})")
    return Finding("fail", need.name, f"{interpreter} has none", need.advice)


def _engine(config: Config) -> Iterator[Finding]:
    yield from map(_installed, config.engine.requirements())
    if config.engine.checked_by_opening:
        yield _server(config)


def _server(config: Config) -> Finding:
    from selftrain.engines.base import EngineError
    from selftrain.sampling.engine_factory import open_engine

    try:
        with open_engine(config, None, 0, []) as engine:
            return Finding("ok", "server", repr(engine))
    except EngineError as error:
        advice = "start it, for instance `python -m selftrain serve`"
        return Finding("fail", "server", str(error).splitlines()[0], advice)


def _data(config: Config) -> Iterator[Finding]:
    folder, data = config.data.folder, config.data
    lacking = [name for name in (data.train, data.dev, data.test) if not (folder / name).is_file()]
    if not lacking:
        yield Finding("ok", "data", f"{folder}")
    elif data.source == "minigeo":
        yield Finding("ok", "data", f"{folder} will be generated")
    else:
        advice = "`selftrain prepare` writes them"
        yield Finding("fail", "data", f"{folder} lacks {', '.join(lacking)}", advice)


def _traces(config: Config) -> Iterator[Finding]:
    for file in (one.file for one in config.traces):
        made = config.data.source == "minigeo" and file.parent == config.data.folder  # by the run itself
        if not (file.is_file() or made):
            advice = "correct `file` under traces, or make it first, for instance with `selftrain distill`"
            yield Finding("fail", "traces", f"there is no {file}", advice)


def _full_weights(config: Config) -> Iterator[Finding]:
    """Whether the weights of a full fine-tuning find room."""
    from selftrain.training.disk import check_room, disk_plan

    try:
        if (plan := disk_plan(config)) is not None:
            check_room(plan)
            yield Finding("ok", "weights", str(plan))
    except UserError as error:
        yield Finding("fail", "weights", str(error))


def _room(config: Config) -> Iterator[Finding]:
    place = config.output
    while not place.exists():
        place = place.parent
    if not os.access(place, os.W_OK):
        yield Finding("fail", "run folder", f"{place} cannot be written", "set output to another folder")
        return
    free = shutil.disk_usage(place).free / 2**30
    state: Literal["ok", "note"] = "ok" if free >= LOW_DISK else "note"
    yield Finding(state, "disk", f"{free:.0f} GiB free at {place}", "" if state == "ok" else "a run may fill it")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    yield Finding("ok", "machine", f"{os.cpu_count()} cores, {memory:.0f} GiB of memory")
