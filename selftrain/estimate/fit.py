"""Whether a configuration fits on the GPUs that it names: the estimate, and what to change where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from selftrain.config import Config
from selftrain.estimate.hours import Hours, hours
from selftrain.estimate.memory import GIB, Memory, sampling_memory, training_memory
from selftrain.estimate.sizes import Known, size_of
from selftrain.estimate.workload import TEXT_TOKENS, Workload, workload

TIGHT = 0.95  # of a GPU's memory: the rest goes to fragmentation

State = Literal["ok", "note", "fail"]
FEWER = {"sampling": "lower engine.tensor_parallel or engine.actors", "training": "lower training.processes"}
LESS = {
    "sampling": "lower engine.batch_size, engine.prefill_tokens or build.select_shown",
    "training": "lower training.per_device_batch or training.max_length, or share out the weights (ZeRO-3, FSDP)",
}


@dataclass(frozen=True)
class Estimate:
    """What a configuration needs, each for one GPU."""

    model: Known
    work: Workload
    sampling: Memory | None  # None: no weights are loaded for it here
    training: Memory | None  # None: nothing is trained
    hours: Hours | None  # None: the configuration names no GPU's speed, or only rows to train on are given

    @property
    def memories(self) -> dict[str, Memory]:
        found = {"sampling": self.sampling, "training": self.training}
        return {name: memory for name, memory in found.items() if memory is not None}

    @property
    def assumptions(self) -> str:
        """What the estimate rests on."""
        p = self.model.parameters.total
        return f"{p / 1e9:.2f} billion parameters ({self.model.source}); questions of {TEXT_TOKENS} tokens"


def estimate(config: Config, given: bool = False, *, pairs: bool = False) -> Estimate:
    """The estimate of a run, or of one training on given rows or `pairs`.

    FamilyError if the model's size is not known.
    """
    model = size_of(config.model.path)
    work = workload(config, model.model_type)
    trains = config.engine.why_no_loop is None
    return Estimate(
        model,
        work,
        None if given else sampling_memory(config, model, work),
        training_memory(config, model, work, given, pairs=pairs) if trains else None,
        None if given or not trains else hours(config, model, work),
    )


def fits(name: str, memory: Memory, gib: float, count: int) -> tuple[State, str]:
    """("ok", ""), or a state and what to do, for GPUs of `gib` GiB, `count` in a machine.

    It fails if what does not depend on the lengths of texts is too much already; the rest is a note.
    """
    room = gib * memory.share * GIB
    if memory.gpus > count:
        return "fail", f"{name} takes {memory.gpus} GPUs and gpu.count is {count}; {FEWER[name]}"
    if memory.certain > room:
        fixed = f"{memory.certain / GIB:.1f} GiB of it do not depend on lengths, and the GPU has {gib:g}"
        return "fail", f"{fixed}; use a smaller model, GPUs that share it, or LoRA instead of full fine-tuning"
    if memory.total > TIGHT * room:
        return "note", f"it may not fit in {gib:g} GiB; {LESS[name]}"
    return "ok", ""


def lines(config: Config, found: Estimate) -> Iterator[str]:
    """The estimate for a plan, a line each."""
    yield f"GPU memory at the most, of {found.assumptions}:"
    for name, memory in found.memories.items():
        advice = fits(name, memory, config.gpu.memory_gib, config.gpu.count)[1] if config.gpu else ""
        yield f"  {memory}" + (f"; {advice}" if advice else "")
    if found.hours is not None:
        yield f"  {hours_line(found, found.hours)}"


def hours_line(found: Estimate, time: Hours) -> str:
    """The hours with what they are for, and that they are not measured."""
    problems = f"{found.work.train:,} training problems"
    data = f"{problems}, assumed because the data are not there" if time.assumed else problems
    return f"{time} for {data}, at assumed shares of the GPU's speed (python -m benchmarks.gpu_profile measures them)"
