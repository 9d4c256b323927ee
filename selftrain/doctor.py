"""`selftrain doctor`: check that this machine can run a configuration, before anything is computed."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from selftrain.engine_settings import Requirement
from selftrain.environment import DeviceError, ask

if TYPE_CHECKING:
    from selftrain.config import Config

REQUIREMENTS = Path(__file__).resolve().parents[1] / "requirements.txt"
LOW_DISK = 5  # GiB: an adapter, its checkpoints and the bank of a small run


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    state: Literal["ok", "note", "fail"]
    what: str
    found: str
    advice: str = ""


def examine(config: Config) -> Iterator[Finding]:
    """Check everything that a run of `config` needs, in the order in which the run needs it."""
    yield Finding("ok", "Python", f"{'.'.join(map(str, sys.version_info[:3]))} ({sys.executable})")
    if config.engine.has_model:
        yield from _packages()
        yield from _torch()
        yield from _model(config)
        yield from _training(config)
        yield from _precision(config)
    yield from _engine(config)
    yield from _data(config)
    yield from _room(config)


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


def _torch() -> Iterator[Finding]:
    """In a process of its own: importing the wrong pair of builds fails in many ways."""
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
    if gpus := ", ".join(f"{name} with {memory / 2**30:.0f} GiB" for name, memory in answer["gpus"]):
        yield Finding("ok", "GPUs", gpus)
    else:
        yield Finding("note", "GPUs", "torch finds none", "a CPU is enough for the tiny model, not for a 7B one")


def _model(config: Config) -> Iterator[Finding]:
    path = config.model.path
    if not config.engine.reads_checkpoint(path):
        return
    if not (path / "config.json").is_file():
        yield Finding("fail", "model", f"{path} holds no config.json", "set model.path to a checkpoint folder")
        return
    weights = [*path.glob("*.safetensors"), *path.glob("pytorch_model*.bin")]
    index = path / "model.safetensors.index.json"
    if index.is_file():
        wanted = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        if lacking := sorted(wanted - {file.name for file in weights}):
            advice = "the download is incomplete; download the missing files"
            yield Finding("fail", "model", f"{path} lacks {len(lacking)} of {len(wanted)} shards: {lacking[0]}", advice)
            return
    if not weights:
        yield Finding("fail", "model", f"{path} holds no weights", "set model.path to a complete checkpoint folder")
        return
    size = sum(file.stat().st_size for file in weights)
    kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in ("qwen2_vl", "qwen2_5_vl"):
        yield Finding("fail", "model", f"{path} is a {kind} model", "Qwen2-VL and Qwen2.5-VL are supported")
        return
    yield Finding("ok", "model", f"{path}, {kind}, {size / 2**30:.2f} GiB of weights")


def _training(config: Config) -> Iterator[Finding]:
    if config.engine.why_no_loop is not None:
        return
    interpreter = config.training.interpreter
    advice = "`uv pip install llamafactory==0.9.5` there, or set training.interpreter to a Python that has it"
    yield _installed(Requirement("LLaMA-Factory", ("llamafactory",), interpreter, advice))
    path = config.training.hyperparameters
    if not path.is_file():
        yield Finding("fail", "hyper-parameters", f"there is no {path}", "set training.hyperparameters")
    elif "\ndeepspeed:" in path.read_text("utf-8"):
        advice = f"`uv pip install deepspeed` there; {path} asks for it"
        yield _installed(Requirement("DeepSpeed", ("deepspeed",), interpreter, advice))


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
        advice = "`python -m data_process.prepare` writes them"
        yield Finding("fail", "data", f"{folder} lacks {', '.join(lacking)}", advice)


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
