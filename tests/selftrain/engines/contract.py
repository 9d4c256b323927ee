"""Every engine that can be opened here, for the tests of what they all promise.

To add one: a name in KINDS and how to open it in `opener`. The tests are in test_contract.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data_process.seeds import seed_for
from selftrain.engines.base import Request
from selftrain.engines.scripted import ScriptedEngine
from tests.selftrain.engines.chat_server import ChatServer

KINDS = ("scripted", "hf", "server")
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
        yield lambda **options: HFEngine(folder, device="cpu", **options)
    elif kind == "server":
        from selftrain.engines.openai_server import ServerEngine

        with ChatServer(babble) as server:
            yield lambda *, batch_size=16: ServerEngine(server.url, "m", max_concurrency=batch_size, backoff_s=0.01)
    else:
        raise ValueError(f"no engine of kind {kind!r}")
