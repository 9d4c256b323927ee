"""Calls to an OpenAI-compatible server: how many at once, how often again, and what an error says to do next."""

from __future__ import annotations

import asyncio
import json
import os
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from data_process.http import Answer, PassingFault, Retry, TooLarge, base_url, exchange, open_client, without_key
from selftrain.engines.base import EngineError

if TYPE_CHECKING:
    import httpx

# Bytes of one answer: 32,768 tokens with log-probabilities and bytes are about 6 MB, and Python needs up to 25 times as
# much for what they hold.
MAX_BODY = 16 * 2**20


class HttpFault(EngineError):
    """A call that came to nothing. `fatal`: every other call would fare the same, so none need be tried."""

    def __init__(self, message: str, *, fatal: bool = False, status: int | None = None) -> None:
        super().__init__(message)
        self.fatal = fatal
        self.status = status  # of HTTP, where it came to an answer


class Window:
    """How many calls are under way: at most `bound`, fewer while the server is losing them. For one event loop.

    Additive increase, multiplicative decrease (Chiu and Jain 1989): an eighth of the bound more per window of good
    answers, half after a loss, and one cut for all the calls under way when it happened. Slots are given in order.
    """

    def __init__(self, bound: int) -> None:
        if bound < 1:
            raise ValueError(f"max_concurrency must be >= 1, not {bound}")
        self.bound = bound
        self.limit = float(bound)
        self.active = 0
        self.most = 0  # the largest number ever under way
        self._step = max(1.0, bound / 8)  # so that a cut is made good within four windows, whatever the bound
        self._cut_at = float("-inf")
        self._waiting: deque[asyncio.Future[None]] = deque()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._give()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():  # given in the moment of being cancelled
                self.active -= 1
            self._give()
            raise
        try:
            yield
        finally:
            self.active -= 1
            self._give()

    def good(self) -> None:
        self.limit = min(self.bound, self.limit + self._step / self.limit)
        self._give()

    def lost(self, started: float) -> None:
        """A call that began at `started` (monotonic seconds) met a server that could not keep up."""
        if started > self._cut_at:
            self.limit = max(1.0, self.limit / 2)
            self._cut_at = time.monotonic()

    def _give(self) -> None:
        while self._waiting and self.active < int(self.limit):
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                self.active += 1
                self.most = max(self.most, self.active)


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None for no variable. EngineError, without the key, if it is none."""
    if variable is None:
        return None
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", variable):  # not repeated: it may be the key itself
        raise EngineError(
            "engine.api_key_env names the environment variable that holds the key, such as MY_API_KEY; what it is set "
            "to is no such name, and is not shown, because it may be the key"
        )
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EngineError(f"the environment variable {variable} holds no key; set it, or engine.api_key_env to null")
    if not re.fullmatch(r"[!-~]+", key):
        raise EngineError(f"the environment variable {variable} holds characters that no key has; set it again")
    return key


def check_url(url: str) -> str:
    """A base URL as `data_process.http.base_url` gives it, or EngineError."""
    try:
        return base_url(url)
    except ValueError as error:
        raise EngineError(f"engine.url {error}") from None


class JsonClient:
    """JSON over HTTP with retries. All calls belong to the event loop of the first one."""

    def __init__(
        self,
        url: str,
        key: str | None,
        *,
        max_concurrency: int,
        timeout_s: float,
        connect_s: float,
        retry: Retry,
        max_body: int = MAX_BODY,
    ) -> None:
        """`timeout_s` bounds a whole call, the wait in the server's queue included."""
        self.url = url
        self.window = Window(max_concurrency)
        self.retry = retry
        self.counts: Counter[str] = Counter()  # tries, and what went wrong with them
        self._key = key
        self._timeout_s, self._connect_s = timeout_s, connect_s
        self._max_body = max_body
        self._hold_until = 0.0  # a server that says when to come back is left alone until then, by every call
        # A client for each connection: the pool of httpcore 1.0 looks at every connection for every other one at each
        # call, and with 32 of them that was most of the client's work (4 ms a call, and 1.5 ms in this way).
        self._clients: list[httpx.AsyncClient] = []
        self._idle: list[httpx.AsyncClient] = []
        self._closing: set[asyncio.Future[None]] = set()

    def __repr__(self) -> str:
        return f"JsonClient({self.url!r})"

    async def close(self) -> None:
        for client in self._clients:
            await client.aclose()

    async def call(self, path: str, body: Any = None, *, name: str) -> dict[str, Any]:
        """GET `path`, or POST `body` to it. `name` begins every error; raises HttpFault."""
        content = None if body is None else json.dumps(body).encode()
        attempt = 0
        while True:
            attempt += 1
            async with self.window.slot():
                while (wait := self._hold_until - time.monotonic()) > 0:
                    await asyncio.sleep(wait)
                started = time.monotonic()
                self.counts["tries"] += 1
                try:
                    answer = self._read(await self._exchange(path, content, name), path, name)
                except PassingFault as fault:
                    last = fault
                    self.counts[fault.kind] += 1
                    if fault.kind in ("busy", "time-out"):
                        self.window.lost(started)
                else:
                    self.window.good()
                    return answer
            delay = self.retry.delay(attempt, name)
            if last.asked_s is not None:
                if last.asked_s > self.retry.longest_s:
                    raise HttpFault(
                        f"{name}: {self.url} asks to wait {last.asked_s:.0f} s ({last}), longer than "
                        f"{self.retry.longest_s:.0f} s; run the same command again then",
                        fatal=True,
                    )
                delay = max(delay, last.asked_s)
                self._hold_until = max(self._hold_until, time.monotonic() + last.asked_s)
            if attempt > self.retry.retries:
                raise self._given_up(name, last, attempt)
            await asyncio.sleep(delay)

    def _given_up(self, name: str, last: PassingFault, attempts: int) -> HttpFault:
        tried = f"{attempts} tries" if attempts > 1 else "one try"
        if last.kind == "connect":
            return HttpFault(
                f"{name}: no server answers at {self.url} ({last}; {tried}); start one with "
                "`python -m selftrain serve`, or correct engine.url",
                fatal=True,
            )
        step = {
            "busy": "lower engine.max_concurrency, or wait and run the same command again",
            "time-out": "raise engine.timeout_s, or lower engine.max_concurrency or max_tokens",
        }.get(last.kind, "see the server's log, then run the same command again")
        return HttpFault(f"{name}: {self.url} gave no answer in {tried}; the last: {last}; {step}")

    def _read(self, answer: Answer, path: str, name: str) -> dict[str, Any]:
        """The JSON object of a good answer; PassingFault for a torn one, HttpFault for a refusal."""
        if 200 <= answer.status < 300:
            try:
                found = answer.json()
            except ValueError:
                found = None
            if not isinstance(found, dict):
                raise PassingFault(f"{len(answer.body)} bytes that are no JSON object: {answer.message}", "transport")
            return found
        if 300 <= answer.status < 400:
            to = without_key(answer.headers.get("location", "nowhere"), self._key)
            raise HttpFault(
                f"{name}: {self.url} redirects ({answer.phrase}) to {to}; set engine.url to that", fatal=True
            )
        step, fatal = {
            401: ("set engine.api_key_env to the variable that holds this server's key, and the variable", True),
            402: ("the account cannot pay for more", True),
            404: ("check engine.url (it usually ends in /v1) and engine.model_name", True),
        }.get({403: 401, 429: 402}.get(answer.status, answer.status), ("see what the server says", False))
        said = f"{answer.phrase}: {answer.message or 'nothing said'}"
        raise HttpFault(f"{name}: {self.url}{path} answers {said}; {step}", fatal=fatal, status=answer.status)

    async def _exchange(self, path: str, content: bytes | None, name: str) -> Answer:
        if self._idle:
            client = self._idle.pop()
        else:
            client = open_client(self.url, self._key, timeout_s=self._timeout_s, connect_s=self._connect_s)
            self._clients.append(client)
        reusable = False
        try:
            answer = await exchange(
                client, self.url + path, content, key=self._key, timeout_s=self._timeout_s, max_body=self._max_body
            )
            reusable = True
            return answer
        except PassingFault as fault:
            reusable = fault.kind == "busy"  # a whole answer: the connection is good
            raise
        except TooLarge as error:
            raise HttpFault(f"{name}: {self.url} sends {error}; check engine.url") from None
        finally:
            if reusable:
                self._idle.append(client)
            else:  # also after a cancelled call: httpcore may count its connection as taken for ever
                self._clients.remove(client)
                closing = asyncio.ensure_future(client.aclose())
                self._closing.add(closing)
                closing.add_done_callback(self._closing.discard)
