"""What `selftrain doctor` estimates for the work of the GPU profile, beside what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import profile_table as table
from benchmarks.profile_parts import HYPERPARAMETERS, Job, vllm_settings
from benchmarks.profile_table import Comparison, Row
from selftrain.config import Config
from selftrain.engine_settings import HFSettings
from selftrain.estimate.hours import seconds_of, speed_of, step_seconds
from selftrain.estimate.memory import CONTEXT, GIB, sampling_memory, training_memory
from selftrain.estimate.sizes import size_of
from selftrain.estimate.workload import ANSWER_SHARE, Call, Rows, Workload
from selftrain.families import FAMILIES

# Part of a GPU's name -> dense bfloat16 products, 10^12 a second, and bandwidth, 10^9 bytes a second; data sheets.
SHEETS = {
    "H200": (989, 4800),
    "H100": (989, 3350),
    "A100": (312, 2039),
    "L40S": (362, 864),
    "A10": (125, 600),
    "RTX 4090": (165, 1008),
    "RTX 3090": (71, 936),
}


def compare(
    job: Job, machine: Mapping[str, Any], rows: Sequence[Row], prompt_tokens: Sequence[int]
) -> list[Comparison]:
    """Estimates beside the rows of this machine, which has a GPU. `prompt_tokens`: of the prompts of each round.

    An unknown GPU has no data sheet here, so its times are not estimated.
    """
    prompt = round(sum(prompt_tokens) / (len(prompt_tokens) * job.problems))
    sheet = next((numbers for name, numbers in SHEETS.items() if name in machine["gpus"][0]), None)
    model = size_of(job.model)
    # No sample ends before its limit, so the mean length is the limit.
    call = Call("candidates", job.problems, job.n, prompt, job.new_tokens)
    timed = Call("candidates", job.problems, job.n, prompt, round(job.new_tokens / ANSWER_SHARE))
    image = job.max_pixels // FAMILIES[model.model_type].token_side ** 2
    found = []
    for way, engine in ((table.HF, HFSettings(batch_size=job.batch_size)), (table.VLLM, vllm_settings(job))):
        row = next((row for row in rows if row.way == way), None)
        config = config_of(job, machine, sheet, engine)
        memory = sampling_memory(config, model, Workload(image, job.problems, True, (call,), (), (), ()))
        if row is None or memory is None:
            continue
        # vLLM takes its share whatever it needs; of the hf engine torch counts what it allocated.
        if row.memory_gib and way == table.HF:
            found.append(Comparison(way, "peak memory, GiB", (memory.total - CONTEXT) / GIB, row.memory_gib))
        if row.seconds and (speed := speed_of(config)):
            seconds = seconds_of(call if way == table.HF else timed, config, model, image, speed)
            found.append(Comparison(way, "run, s", seconds, row.seconds))
    row = next((row for row in rows if row.way == table.LORA), None)
    if row is not None and row.tokens and row.samples:
        length = round(row.tokens / row.samples)
        config = config_of(job, machine, sheet, HFSettings())
        work = Workload(image, job.problems, True, (call,), (), (), (Rows("cot", 1, length, length),))
        if row.memory_gib:
            estimated = training_memory(config, model, work).total / GIB
            found.append(Comparison(table.LORA, "peak memory, GiB", estimated, row.memory_gib))
        if row.step_s and (speed := speed_of(config)):
            seconds = step_seconds(config, model, row.tokens, image * row.samples, length, speed)
            found.append(Comparison(table.LORA, "step, s", seconds, row.step_s))
    return found


def config_of(job: Job, machine: Mapping[str, Any], sheet: tuple[float, float] | None, engine: Any) -> Config:
    """The work of the profile as a configuration."""
    gpu = {"memory_gib": machine["gpu_memory_mib"][0] / 1024, "count": len(job.gpus)}
    if sheet is not None:
        gpu |= {"tflops": sheet[0], "bandwidth": sheet[1]}
    return Config.model_validate(
        {
            "model": {"path": job.model, "min_pixels": job.min_pixels, "max_pixels": job.max_pixels},
            "engine": engine,
            "sampling": {"n": job.n, "max_tokens": job.new_tokens, "top_k": job.top_k},
            "training": {
                "hyperparameters": HYPERPARAMETERS,
                "per_device_batch": job.per_device_batch,
                "max_length": job.max_model_len,
            },
            "gpu": gpu,
        }
    )
