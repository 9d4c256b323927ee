"""The hyper-parameters of a training, and the `train.yaml` that they resolve to.

The hyper-parameter file is read, resolved and saved beside the result; it is never written to. Works with LLaMA-Factory
0.9.5; the remarks on it below were read in, or measured on, that version.
"""

from __future__ import annotations

import ast
import difflib
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from data_process.errors import FailedError
from data_process.json_files import read_object
from data_process.schema import DataError
from selftrain.config import ConfigError, TrainingConfig, read_yaml
from selftrain.config.overrides import holds_secret
from selftrain.engine_settings import Positive
from selftrain.environment import ask
from selftrain.families import QWEN2_VL, Family
from selftrain.training import open_turns
from selftrain.training.adapter import shape_of

DATASET = "train"

# Set here, from arguments that the rest of the loop shares. A hyper-parameter file may not set them as well: the two
# values could disagree.
OWNED = {
    *("stage", "do_train", "do_eval", "do_predict", "finetuning_type", "template"),
    *("freeze_vision_tower", "freeze_multi_modal_projector"),
    *("mask_history", "train_on_prompt"),
    *("model_name_or_path", "adapter_name_or_path", "create_new_adapter", "trust_remote_code"),
    *("dataset", "dataset_dir", "media_dir", "eval_dataset", "val_size", "tokenized_path", "overwrite_cache"),
    *("cutoff_len", "image_min_pixels", "image_max_pixels", "seed", "data_seed"),
    *("output_dir", "overwrite_output_dir", "resume_from_checkpoint", "ignore_data_skip"),
    *("save_strategy", "save_steps", "save_total_limit", "save_only_model"),
    *("per_device_train_batch_size", "gradient_accumulation_steps"),
    *("ref_model", "ref_model_adapters", "ref_model_quantization_bit"),
}

# What LLaMA-Factory reads in DPO alone.
PREFERENCE = {
    *("pref_beta", "pref_loss", "pref_ftx", "pref_bco_weight"),
    *("dpo_label_smoothing", "simpo_gamma", "ld_alpha"),
}
# What is trained: LLaMA-Factory's stages. dpo and rm (a reward head, on differences of its values) read pairs.
Stage = Literal["sft", "dpo", "rm"]
# Losses that it computes, and whether they compare with a reference model. It also has names for hinge, ipo and
# kto_pair, but its trainer leaves the choice to TRL's `dpo_loss`, whose `loss_type` it does not pass on: with TRL 0.24
# all of them come out as sigmoid.
LOSSES = {"sigmoid": True, "orpo": False, "simpo": False}


# Beginnings of the names of settings that only an adapter has.
ADAPTERS_OWN = ("lora_", "loraplus_", "pissa_", "oft_", "use_rslora", "use_dora", "additional_target", "module_dropout")


class TrainingError(FailedError, RuntimeError):
    """Training left no valid weights. The message says why, or shows the end of the log."""

    heading = "training failed"


class HyperparameterError(DataError):
    """A hyper-parameter file or an override cannot be used. The message names the key and what would work."""


class TrainingSettings(TrainingConfig):
    """What one training run depends on besides its data and its base model: a configuration with nothing left open."""

    dtype: Literal["base", "float32", "bfloat16"] = "base"  # see precision.choose
    interpreter: Path = Path(sys.executable)
    threads: Positive = 1  # spinning threads on shared cores are many times slower
    seed: int = 0
    environment: dict[str, str] = Field(default_factory=dict)  # added last to the child's environment

    @property
    def ranks(self) -> int:
        """Processes that share one training, over all machines."""
        return self.processes * self.nodes


def read_hyperparameters(path: Path, overrides: Mapping[str, Any], interpreter: Path) -> dict[str, Any]:
    """The file's values (its `extends:` resolved) with the overrides on top.

    HyperparameterError for a key that nothing would read.
    """
    try:
        content = read_yaml(path)
    except ConfigError as error:
        raise HyperparameterError(f"cannot read hyper-parameters: {error}") from error
    known = known_fields(interpreter) | {"global_batch_size"}
    for origin, values in ((str(path), content), ("overrides", overrides)):
        for key in values:
            if reason := holds_secret(key):
                raise HyperparameterError(f"{key} ({origin}) {reason}")
            if key in OWNED:
                raise HyperparameterError(f"{key} ({origin}) is set by the loop itself; remove it there")
            if key not in known:
                near = difflib.get_close_matches(str(key), known - OWNED, n=1)
                hint = f"; did you mean {near[0]}?" if near else ""
                raise HyperparameterError(f"{key} ({origin}) is not a setting of LLaMA-Factory{hint}")
    merged = {**content, **overrides}
    batch = merged.get("global_batch_size")
    if type(batch) is not int or batch < 1:  # True is an int, too
        raise HyperparameterError(f"global_batch_size ({path}) must be a whole number of rows >= 1, not {batch!r}")
    if isinstance(deepspeed := merged.get("deepspeed"), str):  # relative to the file, not to the working directory
        merged["deepspeed"] = str((path.parent / deepspeed).resolve())
    zero_settings(merged.get("deepspeed"))
    return merged


def zero_settings(deepspeed: Any, folder: Path = Path()) -> Mapping[str, Any]:
    """`zero_optimization` of a DeepSpeed configuration, a mapping or the path of a file from `folder`; {} without one.

    HyperparameterError if it cannot be read, or its numbers are none.
    """
    if not deepspeed:
        return {}
    remedy = "correct deepspeed in the hyper-parameter file"
    try:
        content = deepspeed if isinstance(deepspeed, Mapping) else read_object(folder / str(deepspeed), remedy)
    except DataError as error:
        raise HyperparameterError(str(error)) from error
    zero = content.get("zero_optimization", {})
    numbers = ("stage", "stage3_max_live_parameters")
    if not isinstance(zero, Mapping) or not all(isinstance(zero.get(key, 0), int | float) for key in numbers):
        name = "the DeepSpeed configuration" if content is deepspeed else folder / str(deepspeed)
        raise HyperparameterError(f"{name}: zero_optimization is no mapping with numbers for {' and '.join(numbers)}")
    return zero


def known_fields(interpreter: Path) -> set[str]:
    """Names of every training setting of the LLaMA-Factory that `interpreter` has.

    Its generation settings are left out: they do nothing here, and `max_length` among them looks like the row limit.
    Read from its sources without importing them: an import takes seconds and torch. TrainingError if it has none,
    DeviceError if the interpreter cannot be run.
    """
    return {*_fields(*_packages(interpreter))}


def documented_fields(interpreter: Path) -> dict[str, tuple[str, str]]:
    """(help, type) of every setting of `known_fields`. Raises as it does."""
    return _fields(*_packages(interpreter))


def _packages(interpreter: Path) -> tuple[str, str]:
    """The folders of LLaMA-Factory and transformers."""
    script = (
        "import importlib.util, json\n"
        "found = map(importlib.util.find_spec, ('llamafactory', 'transformers'))\n"
        "print(json.dumps([s and s.submodule_search_locations[0] for s in found]))"
    )
    factory, transformers = ask(interpreter, script, "set training.interpreter to a Python 3.11+")
    if not factory or not transformers:
        raise TrainingError(
            f"{interpreter} has no LLaMA-Factory; `pip install llamafactory==0.9.5` there, or set training.interpreter"
        )
    return factory, transformers


def _fields(factory: str, transformers: str) -> dict[str, tuple[str, str]]:
    hparams = Path(factory) / "hparams"
    found: dict[str, tuple[str, str]] = {}
    for source in (
        *(hparams / f"{name}_args.py" for name in ("model", "data", "training", "finetuning")),
        *(Path(transformers) / f"training_args{suffix}.py" for suffix in ("", "_seq2seq")),
    ):
        for node in ast.parse(source.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                for item in node.body:
                    if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name) and _is_init(item.value):
                        found[item.target.id] = (_help(item.value), ast.unparse(item.annotation))
    return found


def _help(default: ast.expr | None) -> str:
    """The help text of `field(metadata={"help": ...})`; "" where there is none."""
    for keyword in default.keywords if isinstance(default, ast.Call) else ():
        if keyword.arg == "metadata" and isinstance(keyword.value, ast.Dict):
            for key, value in zip(keyword.value.keys, keyword.value.values, strict=True):
                if isinstance(key, ast.Constant) and key.value == "help" and isinstance(value, ast.Constant):
                    return str(value.value)
    return ""


def _is_init(default: ast.expr | None) -> bool:
    """False for a dataclass field that no one can set: `field(init=False, ...)`."""
    return not (
        isinstance(default, ast.Call)
        and any(k.arg == "init" and isinstance(k.value, ast.Constant) and not k.value.value for k in default.keywords)
    )


def _adapter_name(start: Path, out: Path) -> str:
    """As LLaMA-Factory, which runs in `out`, is told of an adapter: it takes a comma for the end of one's name."""
    name = str(start) if "," not in str(start) else os.path.relpath(start, out)
    if "," in name:
        raise HyperparameterError(f"LLaMA-Factory cannot read {start}: the path has a comma; move or rename the folder")
    return name


def divide_batch(global_batch: int, per_device: int, processes: int) -> int:
    """Steps of gradient accumulation that make the global batch exact; else HyperparameterError with what would."""
    steps, rest = divmod(global_batch, per_device * processes)
    if steps and not rest:
        return steps
    message = f"global_batch_size {global_batch} is not a multiple of {per_device} rows x {processes} processes"
    if global_batch % processes:
        fitting = " or ".join(str(n) for n in range(1, processes) if global_batch % n == 0)
        multiple = math.lcm(per_device, processes)
        lower = global_batch // multiple * multiple
        batches = " or ".join(str(n) for n in (lower, lower + multiple) if n)
        raise HyperparameterError(f"{message}; it needs {fitting} processes, or a global_batch_size of {batches}")
    share = global_batch // processes
    fitting = ", ".join(str(n) for n in range(1, share + 1) if share % n == 0)
    raise HyperparameterError(f"{message}; per_device_batch can be {fitting}")


def accumulation_steps(hyperparameters: Mapping[str, Any], settings: TrainingSettings) -> int:
    """Steps of gradient accumulation. HyperparameterError if the file and the settings exclude each other."""
    useless = sorted(name for name in hyperparameters if name.startswith(ADAPTERS_OWN))
    if settings.full and useless:
        raise HyperparameterError(
            f"{', '.join(useless)} in {settings.hyperparameters} or training.overrides: only adapters have that, and "
            "training.finetuning_type is full; name a file without, such as configs/llamafactory/qwen2vl_7b_full.yaml"
        )
    if settings.save_steps and hyperparameters.get("fsdp"):
        raise HyperparameterError(
            "training.save_steps cannot be used with fsdp: from an adapter's FSDP checkpoint, accelerate 1.11 restores "
            "other weights than it saved; use deepspeed, or leave save_steps out"
        )
    return divide_batch(hyperparameters["global_batch_size"], settings.per_device_batch, settings.ranks)


def check_method(hyperparameters: Mapping[str, Any], stage: Stage) -> None:
    """HyperparameterError for a setting that would change nothing in a stage."""
    if stage != "dpo" and (found := sorted(PREFERENCE & hyperparameters.keys())):
        if stage == "rm":
            raise HyperparameterError(f"the training of a reward head does not read {found[0]}; remove it")
        raise HyperparameterError(f"an SFT does not read {found[0]}; put it under training.dpo.overrides")
    if (loss := hyperparameters.get("pref_loss", "sigmoid")) not in LOSSES:
        raise HyperparameterError(f"pref_loss {loss!r} cannot be used; LLaMA-Factory computes {', '.join(LOSSES)}")
    packing = [name for name in ("packing", "neat_packing") if hyperparameters.get(name)]
    if packing and stage != "sft":
        name, place = ("DPO", "dpo.overrides") if stage == "dpo" else ("A reward head's training", "reward.overrides")
        raise HyperparameterError(f"{name} does not read {packing[0]}; remove it, or set it to false in {place}")


def resolve(
    hyperparameters: Mapping[str, Any],
    settings: TrainingSettings,
    base_model: Path,
    out: Path,
    longest: int,
    image_limits: tuple[int, int],
    start: Path | None = None,
    output: Path | None = None,
    history: bool = False,
    family: Family = QWEN2_VL,
    stage: Stage = "sft",
) -> dict[str, Any]:
    """Everything in train.yaml: paths are absolute, and no setting that matters is left to a default.

    `longest` is the length in tokens of the longest row, image tokens included. If a hyper-parameter file turns on
    packing, the global batch counts packs of up to that length instead of rows. `start`: the adapter that is trained
    on, which a full fine-tuning has none of. `output` is where LLaMA-Factory writes, `out`/adapter if it is None.
    `history`: there are rows whose turns begin with attempts that carry no loss.
    The rows of the `stage` dpo or rm are preference pairs. The reference model of a DPO is what it starts from.
    """
    check_method(hyperparameters, stage)
    if stage != "sft" and settings.full:
        raise HyperparameterError("preference pairs train adapters alone; set training.finetuning_type to lora")
    if stage == "rm" and settings.save_steps:
        raise HyperparameterError(
            "training.save_steps cannot be used for a reward head: LLaMA-Factory looks for a whole model's weights in "
            "the checkpoint of one; leave it out"
        )
    chosen = {name: value for name, value in hyperparameters.items() if name != "global_batch_size"}
    resolved: dict[str, Any] = {
        "stage": stage,
        "do_train": True,
        "finetuning_type": settings.finetuning_type,
        "model_name_or_path": str(base_model.resolve()),
        "trust_remote_code": False,
        "template": family.template,
        "freeze_vision_tower": settings.freeze_vision_tower,
        # Canonical images lie within the limits already, so LLaMA-Factory's own resizing rule never applies.
        "image_min_pixels": image_limits[0],
        "image_max_pixels": image_limits[1],
        "dataset": DATASET,
        "dataset_dir": str((out / "data").resolve()),
        # Above the longest row: truncation would shorten prompt and target in proportion, or crash on an image.
        # A multiple of 8, because neat_packing crashes when its packs are padded further ("position_ids shape ...").
        "cutoff_len": (longest // 8 + 2) * 8,
        "overwrite_cache": True,
        "preprocessing_num_workers": 1,
        "dataloader_num_workers": 0,
        "packing": False,
        "output_dir": str((output or out / "adapter").resolve()),
        "overwrite_output_dir": False,
        "save_strategy": "steps" if settings.save_steps else "no",  # the final weights are written in any case
        "report_to": "none",
        "plot_loss": False,
        "disable_tqdm": True,
        "logging_steps": 1,
        "seed": settings.seed,
        "data_seed": settings.seed,
        "per_device_train_batch_size": settings.per_device_batch,
        "gradient_accumulation_steps": accumulation_steps(hyperparameters, settings),
    }
    if settings.full:
        resolved["freeze_multi_modal_projector"] = settings.freeze_multi_modal_projector
    if history:
        resolved |= {"template": open_turns.opened(family.template), "mask_history": True}
    if stage == "dpo":
        resolved |= {"pref_beta": 0.1, "pref_loss": "sigmoid"}
    if settings.ranks > 1:
        resolved["ddp_timeout"] = 1800  # seconds
    if settings.save_steps:
        resolved |= {"save_steps": settings.save_steps, "save_total_limit": 1, "save_only_model": False}
    if start is not None:
        for key, value in shape_of(start).items():
            if key in chosen and chosen[key] != value:  # LLaMA-Factory would silently keep the adapter's
                raise HyperparameterError(
                    f"{key} is {chosen[key]}, but {start} was trained with {value}; set it to {value}"
                )
        resolved |= {"adapter_name_or_path": _adapter_name(start.resolve(), out.resolve()), "create_new_adapter": False}
        if stage == "dpo" and LOSSES[chosen.get("pref_loss", "sigmoid")]:
            # Without these the reference would be the model without any adapter, which is another one. The adapter is
            # folded into its weights, and so rounded to their dtype.
            resolved |= {"ref_model": resolved["model_name_or_path"]}
            resolved |= {"ref_model_adapters": resolved["adapter_name_or_path"]}
    if settings.dtype == "float32":
        # Mixed precision would bring the bfloat16 products back.
        chosen |= {"bf16": False} | ({"pure_bf16": False} if "pure_bf16" in chosen else {})
    return resolved | chosen
