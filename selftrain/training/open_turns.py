"""LLaMA-Factory with three things that it lacks. A script; it stands alone.

`python open_turns.py train train.yaml` takes the place of `llamafactory-cli train train.yaml`.

A chat template whose assistant may speak several times in one turn. It is that of a family, but adds nothing to what
the assistant says or to observations. So a row can begin the assistant's turn with an attempt, put an ignore string
after it as an observation, and continue. With `mask_history` only the last part, the target, is in the loss. Rows end
their targets with the end-of-turn mark (data_process/building/sharegpt.py).

Resuming a full fine-tuning (see `find_renamed`).

A learning-rate schedule that is longer than the training, which is then an interval of a longer one (continuous.py):
of so many steps as the variable says that `SCHEDULE` names.

The interpreter that runs it needs LLaMA-Factory (0.9.5), not selftrain. Under torchrun every rank runs this file again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

TEMPLATES_OF_FAMILIES = ("qwen2_vl", "qwen3_vl_nothink")
SUFFIX = "_open_turns"
SCHEDULE = "SELFTRAIN_SCHEDULE_STEPS"


def opened(template: str) -> str:
    """The name of a family's template with open turns."""
    return template + SUFFIX


def register() -> None:
    """Add the templates to LLaMA-Factory's table; a second call changes nothing."""
    from dataclasses import replace

    from llamafactory.data.formatter import StringFormatter
    from llamafactory.data.template import TEMPLATES

    bare = StringFormatter(slots=["{{content}}"])
    for name in TEMPLATES_OF_FAMILIES:
        changed = replace(TEMPLATES[name], format_assistant=bare, format_observation=bare)
        TEMPLATES.setdefault(opened(name), changed)


def find_renamed() -> None:
    """Let the trainer find the weights of a full fine-tuning in its checkpoint.

    transformers (5.6) saves them under the names that the family was published with. Its trainer looks for the names of
    today, finds few of them, and goes on with the base's weights and the checkpoint's optimizer without an error.
    """
    from transformers import Trainer

    theirs = Trainer._load_from_checkpoint

    def load(self: Any, resume_from_checkpoint: str, model: Any = None) -> None:
        model = self.model if model is None else model
        if hasattr(model, "peft_config"):
            theirs(self, resume_from_checkpoint, model)
        else:
            load_by_core_name(model, Path(resume_from_checkpoint))

    setattr(Trainer, "_load_from_checkpoint", load)  # noqa: B010 - not an assignment to a method for mypy


def load_by_core_name(model: Any, checkpoint: Path) -> None:
    """Copy a checkpoint's tensors into a model's. ValueError if one is missing."""
    from safetensors import safe_open

    def core(name: str) -> str:
        return ".".join(part for part in name.split(".") if part not in ("model", "language_model"))

    places: dict[str, tuple[Path, str]] = {}
    for file in sorted(checkpoint.glob("*.safetensors")):
        with safe_open(file, "pt") as held:
            places |= {core(name): (file, name) for name in held.keys()}  # noqa: SIM118 - no mapping
    filled = set()
    for name, tensor in model.state_dict().items():
        if core(name) in places:
            file, saved = places[core(name)]
            with safe_open(file, "pt") as held:
                tensor.copy_(held.get_tensor(saved))
            filled.add(tensor.data_ptr())
        elif tensor.data_ptr() not in filled:  # a tied one is saved under one of its names
            raise ValueError(f"{checkpoint} holds no {name}")


def lengthen_schedule(steps: int) -> None:
    """Make the trainer's schedule, its warm-up included, one of `steps` steps instead of the training's own number."""
    from llamafactory.train.sft.trainer import CustomSeq2SeqTrainer

    made = CustomSeq2SeqTrainer.create_scheduler

    def create_scheduler(self: Any, num_training_steps: int, optimizer: Any = None) -> Any:
        return made(self, steps, optimizer)

    CustomSeq2SeqTrainer.create_scheduler = create_scheduler


def main() -> None:
    """Train: as the command, or as one of torchrun's ranks, which get no `train`."""
    register()
    if SCHEDULE in os.environ:
        lengthen_schedule(int(os.environ[SCHEDULE]))
    find_renamed()
    if sys.argv[1:2] != ["train"]:
        from llamafactory.train.tuner import run_exp

        run_exp()
        return
    from llamafactory import launcher

    launcher.__file__ = sys.argv[0]  # the file that torchrun starts as each rank
    launcher.launch()


if __name__ == "__main__":
    main()
