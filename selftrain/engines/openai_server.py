"""A model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, or a hosted one.

One call for each seed, so that a completion depends on its own seed alone (`n` samples of one call share a seed, and
vLLM gives the i-th of them seed + i); a server with a prefix cache reads the prompt once all the same. A failed request
ends in an error and never in a text. What was finished before is handed to `on_result` and is not lost.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections import Counter, deque
from collections.abc import Coroutine, Sequence
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from data_process.http import Retry
from data_process.schema import DataError, shown
from selftrain.engine_settings import EngineJob, ServerSettings
from selftrain.engines.base import (
    Completion,
    EngineError,
    Request,
    RequestsFailed,
    SamplingParams,
    StreamsResults,
    mean_logprob,
)
from selftrain.engines.budget import Budget
from selftrain.engines.budget_forcing.http_rounds import END, SPECIAL, WireVocabulary, texts_of, think
from selftrain.engines.budget_forcing.state_machine import resolve
from selftrain.engines.decoding.inputs import known_family
from selftrain.engines.openai_api import chat_completions
from selftrain.engines.openai_api.chat_completions import DIALECTS, Answer, dialect_of, look_up
from selftrain.engines.openai_api.client import HttpFault, JsonClient, check_url, read_key

GIVE_UP_AFTER = 8  # failed completions without a good one between them: what comes next would fail too
_T = TypeVar("_T")
_Job = tuple[int, tuple[int, ...]]  # a request's place, and the places of the seeds that one call answers


class ServerEngine(StreamsResults):
    """Completions from a chat server. May be used from several threads.

    `counts` sums up the calls: "tries", and of those "busy" (429 or 5xx), "time-out", "connect", "transport";
    "prompt_tokens" and "completion_tokens" as the server counted them for all calls, paid ones that led to nothing
    included; "rounds" of thinking budgets, and "reencoded" ones (see rounds.py).
    """

    def __init__(
        self,
        model: str,
        settings: ServerSettings | None = None,
        *,
        connect_s: float = 10.0,
        backoff_s: float = 1.0,
        max_wait_s: float = 60.0,
    ) -> None:
        """Look up the model on the server.

        `model`: as the server calls it. Connecting may take `connect_s` seconds. A call that failed for a reason that
        may pass is tried again after `backoff_s`, then twice that, and so on, at most `max_wait_s`. `token_ids` of
        completions hold chat_completions.UNKNOWN_TOKEN where a server does not give ids, so that their number is right.
        `on_batch` is called with 1 for each completion.

        Raises EngineError if the server does not answer, does not know the model or wants a key.
        """
        settings = settings or ServerSettings()
        self.url = check_url(settings.url)
        self.model = model
        self._named = False  # whether it was said that replies name another model
        self._logprobs = settings.logprobs
        client = JsonClient(
            self.url,
            read_key(settings.api_key_env),
            max_concurrency=settings.max_concurrency,
            timeout_s=settings.timeout_s,
            connect_s=connect_s,
            retry=Retry(settings.retries, backoff_s, max_wait_s),
        )
        self._client = client
        self._tokens: Counter[str] = Counter()
        self._lengths: dict[str, int] = {}  # of texts that budgets write, in tokens
        self._resumes: bool | None = None  # whether the server was seen to continue a partial answer
        # A loop and a thread of its own: a caller may have another loop, and connections outlive one `generate`.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="server-engine", daemon=True)
        self._thread.start()
        try:
            known = None if settings.dialect == "auto" else DIALECTS[settings.dialect]
            self.served = self._wait(look_up(client, model, optional=known is not None))
            self.dialect = known or dialect_of(client, self.served)
        except BaseException:
            self.close()
            raise

    def __repr__(self) -> str:
        return f"ServerEngine({self.url!r}, {self.model!r})"

    def close(self) -> None:
        """Give up what is under way and close the connections. May be called twice."""
        if self.closed:
            return
        self.closed = True

        async def end() -> None:
            others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await self._client.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @property
    def counts(self) -> Counter[str]:
        return self._client.counts + self._tokens

    @property
    def most_at_once(self) -> int:
        """The largest number of calls that were under way at the same time."""
        return self._client.window.most

    def _submit(self, work: Coroutine[Any, Any, _T]) -> Future[_T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def _wait(self, work: Coroutine[Any, Any, _T]) -> _T:
        future = self._submit(work)
        try:
            return future.result()
        except BaseException:  # also Ctrl-C: nobody will read the answer
            future.cancel()
            raise

    def count_prompt_tokens(self, prompt: str, images: Sequence[Path]) -> int:
        """How long a prompt is, by the server's count. Costs one call and one generated token."""
        self._check_open()
        name = "count_prompt_tokens"
        turn = self._turn(name, prompt, [chat_completions.data_url(name, image) for image in images])
        params = SamplingParams(temperature=0, max_tokens=1)
        return self._wait(self._ask(name, turn, params, 0)).n_prompt_tokens

    def _turn(self, name: str, prompt: str, urls: Sequence[str]) -> dict[str, Any]:
        try:
            return chat_completions.user_turn(prompt, urls)
        except DataError as error:
            raise EngineError(f"{name}: {error}") from error

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        """Completions in the order of `requests`, one per seed. See `Engine`.

        A request that the server refuses does not stop the others: they are finished, and then RequestsFailed names the
        first that failed. Faults that every request would meet (no server, no key, no such model) stop at once.
        """
        self._check_open()
        answers = self._answers(requests)
        if reason := chat_completions.why_unsupported(params, self.dialect):
            raise EngineError(f"{self.url}: {reason}")
        urls: dict[Any, str] = {}
        for request in requests:  # all of them before the first call: a bad image costs nothing
            for path in request.images:
                if path not in urls:
                    urls[path] = chat_completions.data_url(f"request {request.id!r}", path)
        if any(request.prefix for request in requests):
            self._wait(self._check_resumes("the beginning of an answer that a request gives"))
        turns = [self._turn(f"request {r.id!r}", r.prompt, [urls[path] for path in r.images]) for r in requests]
        if params.budget is not None:
            self._wait(self._prepare(params.budget))
            resolve(params.budget, WireVocabulary(self._lengths), {END}, params.max_tokens)  # whether there is room
        jobs = [(place, part) for place, r in enumerate(requests) for part in r.groups(params)]

        failed: list[tuple[_Job, EngineError]] = []
        inbox: queue.SimpleQueue[tuple[_Job, Completion | EngineError] | None] = queue.SimpleQueue()
        work = self._submit(self._work(jobs, requests, turns, params, inbox))
        try:
            while (news := inbox.get()) is not None:
                job, what = news
                if isinstance(what, EngineError):
                    failed.append((job, what))
                    continue
                place, samples = job
                for sample in samples:
                    answers.add(place, sample, what)
                if self.on_batch is not None:
                    self.on_batch(len(samples))
            work.result()
        except CancelledError:
            raise EngineError("the engine was closed; open a new one") from None
        except BaseException:
            work.cancel()
            with suppress(CancelledError, Exception):
                work.result()
            raise
        if failed:
            n_wanted = sum(len(r.seeds) for r in requests)
            raise self._summary(failed, requests, n_wanted - answers.missing, n_wanted)
        return answers.whole()

    def _summary(
        self, failed: list[tuple[_Job, EngineError]], requests: Sequence[Request], n_done: int, n_wanted: int
    ) -> EngineError:
        # a fault that ended the call matters most, then the first request
        failed.sort(key=lambda item: (not _is_fatal(item[1]), item[0]))
        message = str(failed[0][1])
        if n_wanted > 1:
            kept = " and handed on" if self.on_result is not None and n_done else ""
            message += f" ({n_done} of {n_wanted} completions were finished{kept}, {len(failed)} calls failed)"
        all_tried = n_done + sum(len(samples) for (_, samples), _ in failed) == n_wanted
        if all_tried and self.on_result is not None:
            return RequestsFailed(message, {requests[place].id: str(error) for (place, _), error in reversed(failed)})
        return EngineError(message)

    async def _work(
        self,
        jobs: Sequence[_Job],
        requests: Sequence[Request],
        turns: Sequence[dict[str, Any]],
        params: SamplingParams,
        inbox: queue.SimpleQueue[Any],
    ) -> None:
        waiting = deque(jobs)
        in_a_row = 0

        async def serve() -> None:
            nonlocal in_a_row
            while waiting:
                job = waiting.popleft()
                place, samples = job
                request = requests[place]
                try:
                    answer = await self._complete(request, turns[place], params, request.seeds[samples[0]])
                except EngineError as error:
                    in_a_row += 1
                    if _is_fatal(error) or in_a_row >= GIVE_UP_AFTER:
                        waiting.clear()
                    inbox.put((job, error))
                else:
                    in_a_row = 0
                    inbox.put((job, answer))

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._client.window.bound, len(jobs))):
                    group.create_task(serve())
        finally:
            inbox.put(None)

    async def _complete(self, request: Request, turn: dict[str, Any], params: SamplingParams, seed: int) -> Completion:
        name, begun = f"request {request.id!r}", request.prefix
        if params.budget is None:
            more = {"prefix": begun} if begun else {}
            answer = await self._ask(name, turn, params, chat_completions.wire_seed(seed), **more)
            return Completion(
                text=SPECIAL.sub("", answer.text) if begun else answer.text,
                token_ids=tuple(token.id for token in answer.tokens),
                n_prompt_tokens=answer.n_prompt_tokens,
                finish=answer.finish,
                mean_logprob=mean_logprob(token.logprob for token in answer.tokens),
            )

        async def ask(prefix: str, seed: int, max_tokens: int, stop: Sequence[str], choices: Sequence[str]) -> Answer:
            self._tokens["rounds"] += 1
            more = {"prefix": begun + prefix, "max_tokens": max_tokens, "stop": stop, "choices": choices}
            return await self._ask(name, turn, params, chat_completions.wire_seed(seed), **more)

        completion, reencoded = await think(ask, name, params.budget, self._lengths, params.max_tokens, seed)
        self._tokens["reencoded"] += reencoded
        return completion

    async def _ask(self, name: str, turn: dict[str, Any], params: SamplingParams, seed: int, **more: Any) -> Answer:
        sent = chat_completions.body(self.model, turn, params, seed, self.dialect, logprobs=self._logprobs, **more)
        found = await self._client.call("/chat/completions", sent, name=name)
        stop = more.get("stop", ())
        answer = chat_completions.read_answer(found, name=name, url=self.url, logprobs=self._logprobs, stop=stop)
        if not self._named and isinstance(replied := found.get("model"), str) and replied != self.model:
            self._named = True
            what = f"{self.url} was asked for the model {self.model!r} and replies as {shown(replied)}"
            print(f"note: {what}; see that it serves what you mean", file=sys.stderr, flush=True)
        self._tokens["prompt_tokens"] += answer.n_prompt_tokens
        self._tokens["completion_tokens"] += len(answer.tokens)
        return answer

    async def _prepare(self, policy: Budget) -> None:
        """See that the server continues partial answers, and count what the budget may write. One token a call."""
        await self._check_resumes("a thinking budget")
        missing = [text for text in texts_of(policy) if text not in self._lengths]
        if missing:
            # after a digit: no tokenizer merges one with a word, a sign or a line break
            start, *lengths = await asyncio.gather(*(self._length("0" + text) for text in ("", *missing)))
            for text, length in zip(missing, lengths, strict=True):
                if length <= start:
                    raise EngineError(f"budget: the server has no tokens for {text!r}; choose another text")
                self._lengths[text] = length - start

    async def _check_resumes(self, what: str) -> None:
        """EngineError if the server was not seen to continue a partial answer."""
        if self._resumes is None:
            self._resumes = self.dialect.resume is not None and await self._continues()
        if not self._resumes:
            raise EngineError(
                f"{self.url} does not continue a partial answer: it begins a new turn after it. It cannot keep {what}; "
                "use a server that takes continue_final_message (vLLM, SGLang), or leave it out"
            )

    async def _continues(self) -> bool:
        """Whether what a partial answer adds to the prompt is its own length, or that and the marks of a new turn."""
        none, short, long = await asyncio.gather(*(self._length("0," * n) for n in (0, 8, 16)))
        return none < short < long and short - none == long - short

    async def _length(self, prefix: str) -> int:
        params = SamplingParams(temperature=0, max_tokens=1)
        answer = await self._ask("budget probe", chat_completions.user_turn("Go on.", ()), params, 0, prefix=prefix)
        return answer.n_prompt_tokens


def _is_fatal(error: EngineError) -> bool:
    """Whether every other call would fail in the same way."""
    return isinstance(error, HttpFault) and error.fatal


def open_server(settings: ServerSettings, job: EngineJob) -> ServerEngine:
    """EngineError for trained weights: a server keeps the weights it was started with."""
    if job.weights is not None:
        raise EngineError(
            f"a server answers with the weights it was started with, not with {job.weights}; serve those "
            "(`python -m selftrain serve`, an adapter with --adapter NAME=FOLDER), set engine.model_name to NAME and "
            "measure it with `python -m selftrain scale --problems`, or set engine.kind to hf"
        )
    if (job.model / "config.json").is_file():  # image sizes and prompt lengths are then taken from that folder
        known_family(job.model, None)
    return ServerEngine(settings.served_name(job.model), settings)
