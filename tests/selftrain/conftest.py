"""A tiny random Qwen2-VL for tests that train, built once per session (about a second)."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory) -> Path:
    import torch

    from data_process import prompts
    from data_process.sources import minigeo
    from selftrain import tiny_model
    from selftrain.environment import training_device

    torch.set_num_threads(1)
    texts = [prompts.cot(problem, prompts.SHORT) for problem, _ in minigeo.generate("base", 12)]
    tokenizer = tiny_model.build_tokenizer(texts * 3, vocab_size=384)
    model = tiny_model.build_model(tokenizer, hidden=64, layers=3, vision_hidden=32, vision_depth=1)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    # Tests train this base as it is stored: bfloat16, like published ones, where that is not emulated.
    dtype = "bfloat16" if training_device(Path(sys.executable), use_cpu=True).bf16 else "float32"
    tiny_model.save(model, tiny_model.build_processor(tokenizer), folder, dtype)
    return folder
