"""Every engine that can be opened here, for the tests of what they all promise.

To add one: a name in KINDS and how to open it in `opener`. The tests are in test_contract.py.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from data_process.seeds import seed_for
from selftrain.engine_settings import HFSettings, RaySettings, ServerSettings, VLLMSettings
from selftrain.engines.base import Request
from selftrain.engines.scripted import ScriptedEngine
from tests.selftrain.engines.chat_server import ChatServer

# A Python that has vLLM; `make test` makes one.
VLLM_PYTHON = os.environ.get("SELFTRAIN_VLLM_PYTHON")
needs_vllm = pytest.mark.skipif(VLLM_PYTHON is None, reason="SELFTRAIN_VLLM_PYTHON names no Python that has vLLM")
KINDS = ("scripted", "hf", "server", "ray", pytest.param("vllm", marks=needs_vllm))
Open = Callable[..., Any]  # open(batch_size=...): a fresh engine


def babble(request: Request, seed: int) -> str:
    """Between 1 and 24 words that follow from prompt and seed."""
    words = (seed_for(request.prompt, seed, i) % 1000 for i in range(seed_for(request.prompt, seed) % 24 + 1))
    return " ".join("w" + "".join(chr(ord("a") + int(digit)) for digit in str(word)) for word in words)


@contextmanager
def opener(kind: str, model: Callable[[], Path]) -> Iterator[Open]:
    """How to open engines of a kind; `model` gives a model folder to those that need one."""
    if kind == "scripted":
        yield lambda **_: ScriptedEngine(babble)
    elif kind == "hf":
        from selftrain.engines.hf import HFEngine

        folder = model()
        yield lambda **options: HFEngine(folder, settings=HFSettings(device="cpu", **options))
    elif kind == "ray":
        from selftrain.engines.hf import HFEngine
        from selftrain.engines.ray_pool import RayEngine

        folder = model()

        def open_ray(*, batch_size: int = 16) -> RayEngine:
            inner = HFSettings(device="cpu", batch_size=batch_size)
            return RayEngine(
                functools.partial(HFEngine, folder, settings=inner), RaySettings(engine=inner, actors=2, cpus=0.1)
            )

        with RayEngine(
            functools.partial(ScriptedEngine, babble), RaySettings(actors=1, cpus=0.1)
        ):  # Ray stays between the tests
            yield open_ray
    elif kind == "server":
        from selftrain.engines.openai_server import ServerEngine

        with ChatServer(babble) as server:
            yield lambda *, batch_size=16: ServerEngine(
                "m", ServerSettings(url=server.url, max_concurrency=batch_size), backoff_s=0.01
            )
    elif kind == "vllm":
        from selftrain.engines.vllm_offline import VLLMEngine

        folder = model()
        python = Path(VLLM_PYTHON or "")
        yield lambda *, batch_size=16: VLLMEngine(
            folder, settings=VLLMSettings(interpreter=python, batch_size=batch_size, max_model_len=1024)
        )
    else:
        raise ValueError(f"no engine of kind {kind!r}")
