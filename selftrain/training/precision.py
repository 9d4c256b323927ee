"""The number format that a training loads the base model in and computes with.

LLaMA-Factory 0.9.5 loads the base in the dtype that its config.json names and has no setting for another
(`llamafactory/model/loader.py`, `torch_dtype = "auto"`; `infer_dtype` is read for inference only). So another dtype is
a folder of links to the base's files beside a config.json that names it: the weights are converted as they are read,
and the disk holds them once.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.json_files import read_object
from selftrain.config import Config, TrainingConfig, TrainingDtype, read_yaml
from selftrain.environment import training_device
from selftrain.files import write_json
from selftrain.runs.run_dir import claimed_inputs

CONFIG = "config.json"
COPY = "copy the checkpoint again"


@dataclass(frozen=True)
class Precision:
    """What `training.dtype` comes to: "base" is the base's own dtype and the hyper-parameter file's mixed precision."""

    dtype: TrainingDtype
    reason: str
    stored: str | None  # the base's own dtype; None if its config does not say

    def __str__(self) -> str:
        name = (self.stored or "the base's own dtype") if self.dtype == "base" else self.dtype
        return f"training in {name}: {self.reason}"


def stored_dtype(base_model: Path) -> str | None:
    """The dtype that a checkpoint's config.json names, such as "bfloat16"; None if it names none or is not there."""
    config = read_object(base_model / CONFIG, COPY) if (base_model / CONFIG).is_file() else {}
    return config.get("dtype") or config.get("torch_dtype")


def interpreter_of(training: TrainingConfig) -> Path:
    """The Python that has LLaMA-Factory.

    Absolute, because LLaMA-Factory runs in another folder; links stay, or a virtual environment would be left.
    """
    return Path(os.path.abspath(training.interpreter or sys.executable))


def choose(training: TrainingConfig, base_model: Path) -> Precision:
    """The precision of a training that starts on this machine. DeviceError if its GPU cannot be asked."""
    stored = stored_dtype(base_model)
    if training.dtype != "auto":
        return Precision(training.dtype, f"training.dtype is {training.dtype}", stored)
    hyperparameters = {**read_yaml(training.hyperparameters), **training.overrides}
    if training.full and stored != "float32" and not any(map(hyperparameters.get, ("bf16", "fp16", "pure_bf16"))):
        # LLaMA-Factory turns what is trained into float32, and nothing between it and the frozen parts.
        return Precision("float32", "full fine-tuning without mixed precision (bf16)", stored)
    if training.launcher:
        return Precision("base", "as the base is stored, because training.launcher starts it elsewhere", stored)
    if stored == "float32" and not hyperparameters.get("bf16"):
        return Precision("base", "as the base is stored", stored)
    device = training_device(interpreter_of(training), use_cpu=bool(hyperparameters.get("use_cpu")))
    fast, kind = (device.name == "GPU", "fp16") if stored == "float16" else (device.bf16, "bf16")
    reason = f"this {device.name} has {'' if fast else 'no '}{kind} kernels"
    return Precision("base" if fast else "float32", reason, stored)


def settle(config: Config) -> tuple[Config, Precision]:
    """The settings with `training.dtype` decided: the dtype that the run in `config.output` started with, if any.

    DeviceError if the GPU cannot be asked.
    """
    precision = choose(config.training, config.model.path)
    inputs = claimed_inputs(config.output)
    if config.training.dtype == "auto" and inputs is not None:
        started_with = inputs.get("training_dtype", "base")
        if started_with != precision.dtype:
            precision = Precision(started_with, f"the run started with it ({precision.reason})", precision.stored)
    training = config.training.model_copy(update={"dtype": precision.dtype})
    return config.model_copy(update={"training": training}), precision


def link_base(base_model: Path, dtype: str, folder: Path) -> Path:
    """Make `folder` stand for the base in another dtype: links to its files, and a config.json that names the dtype."""
    folder.mkdir()
    for path in base_model.resolve().iterdir():
        if path.name != CONFIG:
            (folder / path.name).symlink_to(path)
    write_json(folder / CONFIG, _with_dtype({**read_object(base_model / CONFIG, COPY), "dtype": dtype}, dtype))
    return folder


def unlink_base(folder: Path, base_model: Path, adapter: Path | None) -> None:
    """Remove the links, and let the adapter, if one was trained, name the base itself."""
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    if adapter is None:
        return
    path = adapter / "adapter_config.json"
    write_json(path, {**read_object(path, COPY), "base_model_name_or_path": str(base_model.resolve())})


def _with_dtype(config: dict[str, Any], dtype: str) -> dict[str, Any]:
    """A model's configuration with the dtype in place of its own, in the configurations of its parts as well."""
    own = {name: _with_dtype(value, dtype) for name, value in config.items() if isinstance(value, dict)}
    return config | own | dict.fromkeys(config.keys() & {"dtype", "torch_dtype"}, dtype)
