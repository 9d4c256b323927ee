"""A tiny random Qwen2-VL for tests that train, built once per session (about a second)."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def tiny_model_path(tmp_path_factory) -> Path:
    import torch

    from data_process import prompts
    from data_process.sources import minigeo
    from selftrain import tiny_model

    torch.set_num_threads(1)
    texts = [prompts.cot(problem, prompts.SHORT) for problem, _ in minigeo.generate("base", 12)]
    tokenizer = tiny_model.build_tokenizer(texts * 3, vocab_size=384)
    model = tiny_model.build_model(tokenizer, hidden=64, layers=3, vision_hidden=32, vision_depth=1)
    folder = tmp_path_factory.mktemp("tiny") / "model"
    tiny_model.save(model, tiny_model.build_processor(tokenizer), folder)
    return folder
