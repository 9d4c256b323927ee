"""Copies of another engine as Ray actors, on this machine or on a cluster; each takes the next block of rows when free.

Actors that stay, and not `map_batches` of ray.data, which starts its actors (and loads the model) again in each of the
many calls of `generate`: 6.5 s a call without a model and 17 s with the tiny one, against 2 ms.

Ray places the actors, keeps them apart and starts them again when they die. Which block ran is decided here: it may run
more than once, and its rows are handed on once.
"""

from __future__ import annotations

import functools
import hashlib
import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from selftrain.engine_settings import EngineJob, RaySettings
from selftrain.engines.base import Completion, Engine, EngineError, EngineFacts, Request, SamplingParams, StreamsResults
from selftrain.engines.decoding.inputs import known_family
from selftrain.engines.opening import open_by_settings
from selftrain.engines.ray_actor import EngineActor, Method
from selftrain.engines.ray_cluster import in_words, join, room

if TYPE_CHECKING:
    from ray.exceptions import RayTaskError

TRIES = 3  # of a block whose process died, and of opening an engine: once may be bad luck, three times is a reason
CLOSE_S = 30.0  # seconds in which the copies may end by themselves
RUN_IN_COPIES = ("hf", "vllm")  # kinds that load the checkpoint
LOGS = "Ray's logs of that machine (/tmp/ray/session_latest/logs) say more"

_log = logging.getLogger(__name__)
_Block = tuple[tuple[int, int, int], ...]  # (a request's place in the call, its first sample, the one after the last)
_Answer = tuple[list[tuple[str, tuple[int, ...]]], list[list[Completion]]]  # (id, seeds) of requests, completions


def blocks(requests: Sequence[Request], most: int) -> list[_Block]:
    """The rows of a call in their order, cut into blocks of at most `most`.

    A request's seeds stay together unless there are more than `most` of them: prompt and image are read once.

    A block is one batch of a copy, and with another batch floating point rounds differently. So the cuts follow from
    the requests alone, never from the number of copies or from who is free. Blocks are filled up rather than made
    equal: what is left of an earlier call, less some of its blocks, is then cut at the same places again.
    """
    found: list[_Block] = []
    block: list[tuple[int, int, int]] = []
    free = most
    for place, request in enumerate(requests):
        for first in range(0, len(request.seeds), most):
            end = min(first + most, len(request.seeds))
            if end - first > free:
                found.append(tuple(block))
                block, free = [], most
            block.append((place, first, end))
            free -= end - first
    return [*found, tuple(block)] if block else found


@dataclass
class _Job:
    """Something an actor is to do with its copy."""

    number: int
    method: Method
    requests: tuple[Request, ...]
    params: SamplingParams | None
    block: _Block = ()
    deaths: int = 0
    # What the images are, by their digests, and where Ray has their bytes; made when the job is given out.
    shipment: tuple[dict[Path, str], list[Any]] | None = None

    def __str__(self) -> str:
        if self.method != "generate":
            return self.method
        ids = [self.requests[0].id, self.requests[-1].id]
        named = f"request {ids[0]!r}" if ids[0] == ids[1] else f"requests {ids[0]!r} to {ids[1]!r}"
        return f"{sum(len(r.seeds) for r in self.requests)} completions ({named})"


@dataclass(eq=False)
class _Copy:
    """The driver's end of an actor."""

    actor: Any
    deaths: int = 0  # while it opened its engine, in a row
    # place: waits for room in the cluster. open: loads the model. busy: with a job nobody waits for any more.
    step: Literal["place", "open", "busy", "ready"] = "place"


class RayEngine(StreamsResults):
    """Completions from copies of another engine, one in each of several Ray actors.

    A completion is what the inner engine gives for its block (see `blocks`), whatever the number of copies. Not safe
    for use from several threads. Ray ends with the thread that started it, so open it in one that stays.
    """

    def __init__(
        self, open_inner: Callable[[], Engine], settings: RaySettings | None = None, *, wait_s: float = 60.0
    ) -> None:
        """Start or join Ray, and wait until the first copy is open; others join as they are ready.

        `open_inner` opens a copy of the engine of `settings.engine` in the actor's process. It is pickled; files that
        it names must be there on every machine under the same absolute path. Images need not be.

        A program that has called `ray.init` keeps that connection, whatever `settings.address` is, and must see to it
        that selftrain can be imported there; else it goes to the cluster's machines from here. More copies than fit
        join when there is room. At most `settings.rows_at_once` completions are given to a copy at a time: a block is
        a batch of the inner engine.

        `on_batch` is called with the number of completions of each finished block. `on_result` is called once for each
        completion, in the thread that called `generate`.

        Raises EngineError if Ray is not installed, the address does not answer, no machine has room for a copy (or
        none became free in `wait_s` seconds), or a copy cannot be opened.
        """
        settings = settings or RaySettings()
        self.block_rows = settings.rows_at_once
        self._wait_s = wait_s
        self._copies: list[_Copy] = []
        self._ready: deque[_Copy] = deque()
        self._joining: dict[Any, _Copy] = {}  # what will be done when a copy has taken its next step -> that copy
        self._session = join(settings.address)
        try:
            self._start(open_inner, settings)
            while not self._ready:
                self._advance(self._next({}))
        except BaseException:
            self.close()
            raise

    def _start(self, open_inner: Callable[[], Engine], settings: RaySettings) -> None:
        import ray

        machines = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        cpus, gpus = settings.cpus, settings.gpus
        if gpus is None:
            gpus = settings.gpus_per_copy if any(machine.get("GPU", 0) for machine in machines) else 0
        self._needs = f"{cpus:g} CPUs and {gpus:g} GPUs on one machine"
        fit = sum(room(machine, cpus, gpus) for machine in machines)
        if not fit:
            raise EngineError(
                f"a copy of the engine takes {self._needs}, and {self._session.name} has {in_words(machines)}; lower "
                "engine.cpus or engine.gpus"
            )
        count = settings.actors or fit
        if count > fit:
            _log.warning(
                "%d of %d copies fit into %s now (%s; each takes %s); the others join when there is room",
                *(fit, count, self._session.name, in_words(machines), self._needs),
            )
        held = ray.remote(EngineActor).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_restarts=-1,
            max_task_retries=0,  # we see a death, and give the block to the next free copy
        )
        for _ in range(count):
            copy = _Copy(held.remote(open_inner, threads=max(1, int(cpus))))
            self._copies.append(copy)
            self._enter(copy)

    def __repr__(self) -> str:
        return f"RayEngine({len(self._copies)} copies on {self._session.name})"

    def close(self) -> None:
        """End the copies, and Ray if it was started here. May be called twice."""
        if self.closed:
            return
        self.closed = True
        import ray

        try:
            # Only those without work: a copy that is busy would come to it after its work.
            ends = [copy.actor.close.remote() for copy in self._ready]
            if ends:
                ray.wait(ends, num_returns=len(ends), timeout=CLOSE_S)
            for copy in self._copies:
                ray.kill(copy.actor)
        finally:
            self._session.leave()

    def prompt_ids(self, prompt: str, images: Sequence[Path]) -> list[int]:
        return list(self._ask("prompt_ids", prompt, images))

    def count_prompt_tokens(self, prompt: str, images: Sequence[Path]) -> int:
        return int(self._ask("count_prompt_tokens", prompt, images))

    def facts(self) -> EngineFacts:
        """What the inner engine states; EngineError if it states nothing."""
        found: EngineFacts = self._ask("facts", "", ())
        return found

    def _ask(self, method: Method, prompt: str, images: Sequence[Path]) -> Any:
        self._check_open()
        [(_, answer)] = self._run([_Job(0, method, (Request(method, prompt, tuple(images), ()),), None)])
        return answer

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        """Completions in the order of `requests`, one per seed. See `Engine`.

        After an error of one block no other is begun; those under way are finished, handed to `on_result`, and then
        the error is raised as the inner engine gave it. Nothing but the death of a process makes a block run again.
        """
        self._check_open()
        answers = self._answers(requests)
        jobs = []
        for number, block in enumerate(blocks(requests, self.block_rows)):
            parts = (replace(requests[place], seeds=requests[place].seeds[first:end]) for place, first, end in block)
            jobs.append(_Job(number, "generate", tuple(parts), params, block))
        with closing(self._run(jobs)) as news:
            for job, answer in news:
                _check(job, answer)
                for (place, first, _), completions in zip(job.block, answer[1], strict=True):
                    for sample, completion in enumerate(completions, first):
                        answers.add(place, sample, completion)
                if self.on_batch is not None:
                    self.on_batch(sum(map(len, answer[1])))
        return answers.whole()

    def _run(self, jobs: Sequence[_Job]) -> Generator[tuple[_Job, Any]]:
        """Each job with its result, once, as they are done; raises the error of the first job that had one."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        waiting = deque(jobs)
        running: dict[Any, tuple[_Copy, _Job]] = {}
        failed: list[tuple[int, Exception]] = []
        try:
            while running or (waiting and not failed):
                while waiting and self._ready and not failed:
                    try:
                        reference = self._give(self._ready[0], waiting[0])
                    except EngineError as error:  # an image cannot be read
                        failed.append((waiting[0].number, error))
                    else:
                        running[reference] = self._ready.popleft(), waiting.popleft()
                if not running and failed:
                    break
                reference = self._next(running)
                if reference in self._joining:
                    try:
                        self._advance(reference)
                    except Exception as error:  # the copy cannot be opened again: other blocks are finished first
                        failed.append((len(jobs), error))
                    continue
                copy, job = running.pop(reference)
                try:
                    answer = ray.get(reference)
                except RayTaskError as error:  # the inner engine's own: an answer, the same on every copy
                    self._ready.append(copy)
                    failed.append((job.number, _cause(error)))
                except RayError as error:  # the process or its machine died, or the result was lost with it
                    # A machine takes all its actors with it: the idle ones are asked first whether they are there.
                    for suspect in (copy, *self._ready):
                        self._enter(suspect)
                    self._ready.clear()
                    job.deaths += 1
                    if job.deaths == TRIES:
                        failed.append((job.number, _died(str(job), error)))
                    else:
                        _log.warning("an actor died; its %s run again (try %d of %d)", job, job.deaths + 1, TRIES)
                        waiting.appendleft(job)
                else:
                    self._ready.append(copy)
                    job.shipment = None  # the images may go
                    yield job, answer
        finally:
            for reference, (copy, _) in running.items():  # Ctrl-C, or the caller failed: nobody wants these results
                copy.step = "busy"
                self._joining[reference] = copy
        if failed:
            raise min(failed, key=lambda item: item[0])[1]

    def _give(self, copy: _Copy, job: _Job) -> Any:
        """Hand a job to an actor. EngineError if an image cannot be read."""
        import ray

        if job.shipment is None:
            content: dict[Path, bytes] = {}
            for request in job.requests:
                for image in set(request.images) - content.keys():
                    try:
                        content[image] = image.read_bytes()
                    except OSError as error:
                        raise EngineError(
                            f"request {request.id!r}: cannot read the image {image}: {error}; store it again"
                        ) from error
            digests = {path: hashlib.sha256(data).hexdigest() for path, data in content.items()}
            # In a list: the actor's machine gets the bytes if it asks for them, not with every call.
            job.shipment = digests, [ray.put(content)] if content else []
        return copy.actor.run.remote(job.method, job.requests, job.params, *job.shipment)

    def _enter(self, copy: _Copy) -> None:
        """An actor that is new or was started again, on its way to `_ready`."""
        copy.step = "place"
        # This call cannot hurt a process, and may wait for as long as Ray looks for a place.
        self._joining[copy.actor.place.options(max_task_retries=-1).remote()] = copy

    def _next(self, running: dict[Any, Any]) -> Any:
        """What is done next: one of `running`, or a step of an actor. EngineError if nothing can be done for long."""
        import ray

        # Work ends by itself, and so does loading a model; room in a cluster may never come.
        stuck = not running and all(copy.step == "place" for copy in self._joining.values())
        done, _ = ray.wait([*running, *self._joining], num_returns=1, timeout=self._wait_s if stuck else None)
        if not done:
            free = {key: value for key, value in ray.available_resources().items() if key in ("CPU", "GPU")}
            total = {key: value for key, value in ray.cluster_resources().items() if key in ("CPU", "GPU")}
            raise EngineError(
                f"no place for a copy of the engine on {self._session.name} within {self._wait_s:g} s: it takes "
                f"{self._needs}; of {in_words([total])} the cluster has {in_words([free])} free. Wait for what else "
                "runs there, or lower engine.cpus or engine.gpus"
            )
        return done[0]

    def _advance(self, reference: Any) -> None:
        """The next step of an actor that has taken one. Raises what the inner engine raised when it was opened."""
        import ray
        from ray.exceptions import RayError, RayTaskError

        copy = self._joining.pop(reference)
        if copy.step == "busy":
            self._enter(copy)
            return
        try:
            ray.get(reference)
        except RayTaskError as error:
            self._ready.append(copy)  # the next call tries again
            raise _cause(error) from error
        except RayError as error:
            if copy.step == "place":  # not a death at work: Ray has given it up
                self._ready.append(copy)
                raise EngineError(
                    f"an actor cannot be started: {str(error).strip().splitlines()[-1].strip()}. Every machine needs "
                    f"the same Python and the same requirements as this one. {LOGS}"
                ) from error
            self._enter(copy)
            copy.deaths += 1
            if copy.deaths >= TRIES:
                copy.deaths = 0
                raise _died("opening the engine", error) from error
            return
        if copy.step == "place":
            copy.step = "open"
            self._joining[copy.actor.open.remote()] = copy
        else:
            copy.step, copy.deaths = "ready", 0
            self._ready.append(copy)


def _check(job: _Job, answer: _Answer) -> None:
    """EngineError unless the answer has the rows of the job, in their order."""
    rows, completions = answer
    wanted = [(request.id, request.seeds) for request in job.requests]
    if rows != wanted or [len(of_one) for of_one in completions] != [len(seeds) for _, seeds in wanted]:
        raise EngineError(
            f"a copy of the engine gave {sum(map(len, completions))} completions for {job}, or not those that were "
            "asked for; nothing of them is kept"
        )


def _cause(error: RayTaskError) -> Exception:
    """What was raised in the actor, with its traceback as the cause."""
    from ray.exceptions import RayError

    cause: Exception = error.cause
    if isinstance(cause, RayError):  # it could not be pickled; the text is all there is
        cause = EngineError(f"a copy of the engine failed: {cause}")
    cause.__cause__ = error
    return cause


def _died(what: str, error: Exception) -> EngineError:
    words = " ".join(str(error).split())
    words = words if len(words) < 500 else f"{words[:240]} ... {words[-240:]}"
    found = EngineError(
        f"an actor died {TRIES} times over {what}. Mostly its memory does not suffice: lower engine.engine.batch_size "
        f"or engine.actors (each holds a copy of the model). Then run the same command again. {LOGS}. Ray: {words}"
    )
    found.__cause__ = error
    return found


def open_ray(settings: RaySettings, job: EngineJob) -> RayEngine:
    if settings.copies.kind in RUN_IN_COPIES:  # here, before Ray starts anything
        known_family(job.model, settings.copies.kind, job.weights)
    weights = job.weights and job.weights.absolute()
    job = replace(job, model=job.model.absolute(), weights=weights, output=job.output.absolute(), problems=())
    return RayEngine(functools.partial(open_by_settings, settings.copies, job), settings)
