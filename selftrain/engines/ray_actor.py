"""What runs in a Ray actor: one copy of the inner engine, and the images that it needs."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from selftrain.engines.base import (
    CountsPromptTokens,
    Engine,
    EngineError,
    GivesPromptIds,
    Request,
    SamplingParams,
    StatesFacts,
)

Method = Literal["generate", "prompt_ids", "count_prompt_tokens", "facts"]


class EngineActor:
    """The actor: one copy of the inner engine.

    The constructor opens nothing: what goes wrong with a model then goes wrong in a call, as an error that keeps its
    type or as a death that is counted, and a process that Ray started again opens its copy in the next call.
    """

    def __init__(self, open_inner: Callable[[], Engine], threads: int) -> None:
        os.environ["OMP_NUM_THREADS"] = str(threads)  # read when torch is loaded, which is later
        self._open_inner = open_inner
        self._inner: Engine | None = None

    def place(self) -> None:
        """Done as soon as the actor runs somewhere."""

    def open(self) -> None:
        if self._inner is None:
            self._inner = self._open_inner()

    def run(
        self,
        method: Method,
        requests: tuple[Request, ...],
        params: SamplingParams | None,
        digests: dict[Path, str],
        content: list[Any],
    ) -> Any:
        """What `method` gives: for "generate" the (id, seeds) of the requests and their completions."""
        self.open()
        inner = self._inner
        assert inner is not None
        with at_hand(requests, digests, lambda: _fetch(content)) as here:
            if method == "generate":
                assert params is not None
                return [(r.id, r.seeds) for r in here], inner.generate(here, params)
            [asked] = here
            if method == "prompt_ids" and isinstance(inner, GivesPromptIds):
                return inner.prompt_ids(asked.prompt, asked.images)
            if method == "count_prompt_tokens" and isinstance(inner, CountsPromptTokens):
                return inner.count_prompt_tokens(asked.prompt, asked.images)
            if method == "facts" and isinstance(inner, StatesFacts):
                return inner.facts()
            raise EngineError(f"{inner!r}, which the actors run, has no {method}")

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()


def _fetch(content: list[Any]) -> dict[Path, bytes]:
    import ray

    found: dict[Path, bytes] = ray.get(content[0])
    return found


@contextmanager
def at_hand(
    requests: Sequence[Request], digests: dict[Path, str], fetch: Callable[[], dict[Path, bytes]]
) -> Iterator[tuple[Request, ...]]:
    """The requests with images that are on this machine: the file itself where it can be seen, else a copy of it.

    `digests` are SHA-256 of what the driver sees under each path, and `fetch` gives the bytes: a cluster need not have
    a shared file system, and a file of the same name may be another one. Copies are gone afterwards.
    """
    absent = [path for path, digest in digests.items() if _digest_here(path) != digest]
    if not absent:
        yield tuple(requests)
        return
    content = fetch()
    with TemporaryDirectory(prefix="selftrain-images-") as folder:
        copies = {path: Path(folder) / f"{number}-{path.name}" for number, path in enumerate(absent)}
        for path, copy in copies.items():
            copy.write_bytes(content[path])
        yield tuple(replace(r, images=tuple(copies.get(path, path) for path in r.images)) for r in requests)


def _digest_here(path: Path) -> str | None:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError:
        return None
