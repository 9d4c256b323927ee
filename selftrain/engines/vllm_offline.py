"""vLLM without a server: in a process of its own, under an interpreter of its own.

The process is what makes the GPU's memory free again when the engine closes, and lets vLLM's pins differ from those of
everything else here. It gets requests and sends back each completion when it is finished; see `vllm_worker`.
"""

from __future__ import annotations

import os
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import selftrain
from selftrain.engine_settings import EngineJob, VLLMSettings
from selftrain.engines.base import Completion, EngineError, EngineFacts, ReloadsWeights, Request, SamplingParams
from selftrain.engines.decoding.inputs import known_family
from selftrain.engines.vllm_config import VLLMWorkerConfig
from selftrain.processes.child import Child, ending, log_end

STOP_GRACE = 20.0  # seconds between SIGTERM and SIGKILL
POLL = 1.0  # seconds between two looks at whether the process lives
# What vLLM says when memory is short at the start -> what to do about it.
_HINTS = (
    ("less than desired GPU memory utilization", "lower engine.memory_share, or end what else runs on this GPU"),
    ("No available memory for the cache blocks", "raise engine.memory_share, or lower model.max_pixels"),
    ("larger than the maximum number of tokens that can be stored", "lower engine.max_model_len"),
    ("larger than the available KV cache memory", "lower engine.max_model_len, or raise engine.memory_share"),
    ("out of memory", "lower engine.batch_size or engine.memory_share, or set engine.tensor_parallel to more GPUs"),
    ("OutOfMemoryError", "lower engine.batch_size or engine.memory_share, or set engine.tensor_parallel to more GPUs"),
)


class VLLMEngine(ReloadsWeights):
    """Completions from a model folder through vLLM. Not safe for use from several threads.

    A completion depends on weights, prompt, image, parameters and its seed; on its neighbours only through
    floating-point rounding. The text of a seed is not the one that the hf engine gives for it: the random streams
    differ, the distribution does not.
    """

    def __init__(
        self,
        model_path: Path,
        weights: Path | None = None,
        settings: VLLMSettings | None = None,
        *,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        log: Path | None = None,
        wait_s: float = 1800.0,
    ) -> None:
        """Start vLLM and load the weights. `weights`: trained ones, the folder of an adapter or of a whole checkpoint.

        `min_pixels`, `max_pixels` replace the processor's limits. `log` takes what vLLM prints (None: a temporary file,
        removed when all went well). `on_batch` is called with 1 for each completion. Raises EngineError, with the end
        of the log, if vLLM does not start within `wait_s` seconds.
        """
        settings = settings or VLLMSettings()
        self._model = Path(model_path)
        known_family(self._model, settings.kind, weights)  # before vLLM is imported
        interpreter = settings.interpreter or Path(sys.executable)
        if shutil.which(interpreter) is None:
            raise EngineError(f"{interpreter} is no program; set engine.interpreter to a Python that has vLLM")
        self._keep_log = log is not None
        if log is None:
            handle, name = tempfile.mkstemp(prefix="selftrain-vllm-", suffix=".log")
            os.close(handle)
            log = Path(name)
        self.log = log
        weights = None if weights is None else Path(weights).resolve()
        self._child = self._start(interpreter)
        try:
            config = VLLMWorkerConfig(self._model.resolve(), weights, settings, min_pixels, max_pixels)
            self._facts: EngineFacts = self._ask("open", config, within=wait_s)
        except BaseException:
            self.close()
            raise

    def _start(self, interpreter: Path) -> Child:
        ours, theirs = socket.socketpair()
        # This project comes last in the path: its own environment must not shadow vLLM's.
        root = str(Path(selftrain.__file__).resolve().parents[1])
        code = f"import sys; sys.path.append({root!r}); from selftrain.engines.vllm_worker import main; main()"
        command = [str(interpreter), "-P", "-c", code, str(theirs.fileno())]
        environment = dict(os.environ)
        environment.pop("PYTHONDONTWRITEBYTECODE", None)  # vLLM's thousands of files would be compiled at each start
        child = Child(command, self.log, grace=STOP_GRACE, env=environment, pass_fds=[theirs.fileno()], append=True)
        theirs.close()
        self._pipe = Connection(ours.detach())
        return child

    def __repr__(self) -> str:
        return f"VLLMEngine({self._facts})"

    def close(self) -> None:
        """End the process; its memory is free afterwards. May be called twice."""
        if self.closed:
            return
        self.closed = True
        self._pipe.close()
        self._child.close()
        if not self._keep_log:
            self.log.unlink(missing_ok=True)

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        """Completions in the order of `requests`, one per seed. See `Engine`.

        Raises ValueError for two requests of one id or a budget without room, EngineError for anything that cannot be
        served. Completions that were finished before an error have been given to `on_result`.
        """
        answers = self._answers(requests)

        def keep(place: int, sample: int, completion: Completion) -> None:
            answers.add(place, sample, completion)
            if self.on_batch is not None:
                self.on_batch(1)

        # The other process runs in another folder.
        whole = [replace(r, images=_absolute(r.images)) for r in requests]
        self._ask("generate", whole, params, tell=keep)
        return answers.whole()

    def prompt_ids(self, prompt: str, images: Sequence[Path]) -> list[int]:
        """The token ids the model is given for a user turn, image tokens included."""
        found: list[int] = self._ask("prompt_ids", prompt, _absolute(images))
        return found

    def facts(self) -> EngineFacts:
        return self._facts

    def load(self, weights: Path | None) -> None:
        """Other weights, without a new start: trained ones, or for None those of the base model.

        Raises EngineError if they do not fit; the engine is closed then, since nobody knows what it holds.
        """
        try:
            known_family(self._model, VLLMSettings().kind, weights)
            self._ask("load", None if weights is None else Path(weights).resolve())
        except BaseException:
            self.close()
            raise

    def rest(self) -> None:
        """Give the GPU's memory back, but stay: `load` is next. Needs `keep_open`."""
        self._ask("sleep")

    def _ask(self, *what: Any, tell: Callable[..., None] | None = None, within: float | None = None) -> Any:
        """Send one message and wait for its end; each "done" on the way goes to `tell`."""
        self._check_open()
        until = None if within is None else time.monotonic() + within
        try:
            self._pipe.send(what)
            while True:
                if not self._pipe.poll(POLL):
                    if until is not None and time.monotonic() > until:
                        raise EngineError(f"vLLM was not ready after {within:g} s\n{log_end(self.log)}")
                    continue
                word, *values = self._pipe.recv()
                if word == "done":
                    assert tell is not None
                    for finished in values[0]:
                        tell(*finished)
                elif word == "end":
                    return values[0]
                elif word == "error":
                    kind, message = values
                    raise (EngineError if kind == "EngineError" else ValueError)(message)
                else:
                    raise self._failure(values[0])
        except (EOFError, BrokenPipeError, ConnectionResetError):
            raise self._failure("its process ended") from None
        except (EngineError, ValueError):
            raise
        except BaseException:
            # Ctrl-C, or an error of `tell`: answers to this call are still on their way, and nobody will read them.
            self.close()
            raise

    def _failure(self, what: str) -> EngineError:
        """vLLM is gone: what it said last, and what may help."""
        self.closed = True
        self._pipe.close()
        status = self._child.close()
        end = log_end(self.log)
        hint = next((f"; {advice}" for sign, advice in _HINTS if sign in end or sign in what), "")
        how = f" {ending(status)}" if status else ""
        self._keep_log = True
        return EngineError(f"vLLM failed ({what}{how}){hint}\n{end}")


def _absolute(images: Sequence[Path]) -> tuple[Path, ...]:
    return tuple(image.absolute() for image in images)


def open_vllm(settings: VLLMSettings, job: EngineJob) -> VLLMEngine:
    limits = {"min_pixels": job.min_pixels, "max_pixels": job.max_pixels}
    return VLLMEngine(job.model, job.weights, settings, **limits, log=job.output / "vllm.log")
