"""Calls to a server that may be slow, busy or away: how many at once, how often again, and what is said in the end.

What may be tried again is a fault of the moment: no connection, a broken or late body, 429, 5xx. Everything else a
server says is an answer, and an answer is told as it is. Keys come from the environment and leave only in a header.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import re
import time
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from data_process.seeds import seed_for
from selftrain.engines.base import EngineError

if TYPE_CHECKING:
    import httpx

MAX_BODY = 64 * 2**20  # bytes of one answer; 32,768 tokens with log-probabilities and bytes are about 6 MB
KEEP_ALIVE_S = 4.0  # uvicorn, which vLLM and SGLang run on, closes an idle connection after 5 s
SHOWN = 600  # characters of a server's message that an error repeats
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class HttpFault(EngineError):
    """A call that came to nothing. `fatal`: every other call would fare the same, so none need be tried."""

    def __init__(self, message: str, *, fatal: bool = False, status: int | None = None) -> None:
        super().__init__(message)
        self.fatal = fatal
        self.status = status  # of HTTP, where it came to an answer


@dataclass(frozen=True)
class Retry:
    """How long one call goes on trying."""

    retries: int = 5  # after the first try
    first_s: float = 1.0  # before the second try; doubles each time
    longest_s: float = 60.0  # of one wait; a server that asks for more is given up on

    def delay(self, attempt: int, name: str) -> float:
        """Seconds after failed try number `attempt` (from 1): exponential, with jitter drawn from the call's name."""
        jitter = random.Random(seed_for("back-off", name, attempt)).uniform(0.5, 1.0)
        return min(self.first_s * 2 ** (attempt - 1), self.longest_s) * jitter


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


class _Again(Exception):
    """One try failed for a reason of the moment."""

    def __init__(self, reason: str, *, kind: str, asked_s: float | None = None) -> None:
        super().__init__(reason)
        self.kind = kind  # "connect" | "transport" | "time-out" | "busy"
        self.asked_s = asked_s


def read_key(variable: str | None) -> str | None:
    """The key in an environment variable; None for no variable. EngineError, without the key, if it is none."""
    if variable is None:
        return None
    key = os.environ.get(variable, "").strip()
    if not key:
        raise EngineError(f"the environment variable {variable} holds no key; set it, or engine.api_key_env to null")
    if not re.fullmatch(r"[!-~]+", key):
        raise EngineError(f"the environment variable {variable} holds characters that no key has; set it again")
    return key


def check_url(url: str) -> str:
    """A base URL without a slash at its end; a bare host gets "/v1", as OpenAI's clients have it. Or EngineError."""
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise EngineError(f"engine.url {url!r} is not a URL; write http://HOST:PORT/v1") from None
    if parts.username is not None or parts.password is not None:
        raise EngineError(f"engine.url of {parts.hostname} holds a key; keep it in a variable and name that one")
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise EngineError(f"engine.url {url!r} is not http://HOST:PORT/v1 or https://HOST/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/') or '/v1'}"


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
        import httpx

        self.url = url
        self.window = Window(max_concurrency)
        self.retry = retry
        self.counts: Counter[str] = Counter()  # tries, and what went wrong with them
        self._key = key
        self._timeout_s = timeout_s
        self._max_body = max_body
        self._hold_until = 0.0  # a server that says when to come back is left alone until then, by every call
        headers = {"Accept-Encoding": "identity"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        self._options: dict[str, Any] = {
            "headers": headers,
            "timeout": httpx.Timeout(timeout_s, connect=connect_s),
            "limits": httpx.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE_S),
            # a proxy for the outside world must not be asked for this machine
            "trust_env": urlsplit(url).hostname not in LOOPBACK,
            "verify": httpx.create_ssl_context() if url.startswith("https:") else False,
        }
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

    def _new_client(self) -> httpx.AsyncClient:
        import httpx

        client = httpx.AsyncClient(**self._options)
        self._clients.append(client)
        return client

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
                    answer = await self._once(path, content, name)
                except _Again as fault:
                    again = fault
                    self.counts[fault.kind] += 1
                    if fault.kind in ("busy", "time-out"):
                        self.window.lost(started)
                else:
                    self.window.good()
                    return answer
            delay = self.retry.delay(attempt, name)
            if again.asked_s is not None:
                if again.asked_s > self.retry.longest_s:
                    raise HttpFault(
                        f"{name}: {self.url} asks to wait {again.asked_s:.0f} s ({again}), longer than "
                        f"{self.retry.longest_s:.0f} s; run the same command again then",
                        fatal=True,
                    )
                delay = max(delay, again.asked_s)
                self._hold_until = max(self._hold_until, time.monotonic() + again.asked_s)
            if attempt > self.retry.retries:
                raise self._given_up(name, again, attempt)
            await asyncio.sleep(delay)

    def _given_up(self, name: str, last: _Again, attempts: int) -> HttpFault:
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

    async def _once(self, path: str, content: bytes | None, name: str) -> dict[str, Any]:
        import httpx

        try:
            async with asyncio.timeout(self._timeout_s):
                status, headers, body = await self._exchange(path, content, name)
        except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
            raise _Again(f"no whole answer within {self._timeout_s:g} s", kind="time-out") from None
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise _Again(str(error) or type(error).__name__, kind="connect") from None
        except httpx.TransportError as error:
            raise _Again(f"{type(error).__name__}: {error}", kind="transport") from None
        if 200 <= status < 300:
            try:
                answer = json.loads(body)
            except ValueError:
                answer = None
            if not isinstance(answer, dict):
                raise _Again(f"{len(body)} bytes that are no JSON object: {self._told(body)}", kind="transport")
            return answer
        told = self._told(body)
        phrase = f"{status} {_phrase(status)}"
        if (status == HTTPStatus.TOO_MANY_REQUESTS and "insufficient_quota" not in told) or status >= 500:
            raise _Again(f"{phrase}: {told}", kind="busy", asked_s=_retry_after(headers.get("retry-after")))
        if 300 <= status < 400:
            to = self._clean(headers.get("location", "nowhere"))
            raise HttpFault(f"{name}: {self.url} redirects ({phrase}) to {to}; set engine.url to that", fatal=True)
        step, fatal = "see what the server says", False
        if status in (401, 403):
            step, fatal = "set engine.api_key_env to the variable that holds this server's key, and the variable", True
        elif status in (402, 429):
            step, fatal = "the account cannot pay for more", True
        elif status == 404:
            step, fatal = "check engine.url (it usually ends in /v1) and engine.model_name", True
        raise HttpFault(f"{name}: {self.url}{path} answers {phrase}: {told}; {step}", fatal=fatal, status=status)

    async def _exchange(self, path: str, content: bytes | None, name: str) -> tuple[int, httpx.Headers, bytes]:
        client = self._idle.pop() if self._idle else self._new_client()
        try:
            request = client.build_request(
                "GET" if content is None else "POST",
                self.url + path,
                content=content,
                headers=None if content is None else {"Content-Type": "application/json"},
            )
            response = await client.send(request, stream=True)
            try:
                body = bytearray()
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > self._max_body:
                        raise HttpFault(
                            f"{name}: {self.url} sends more than {self._max_body:,} bytes; check engine.url"
                        )
            finally:
                await response.aclose()
        except BaseException:
            # Also a call that was cancelled: httpcore may go on counting its connection as taken, for ever.
            self._clients.remove(client)
            closing = asyncio.ensure_future(client.aclose())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)
            raise
        self._idle.append(client)
        return response.status_code, response.headers, bytes(body)

    def _told(self, body: bytes) -> str:
        """What a server's error says, in one line, without our key."""
        text = body.decode("utf-8", "replace")
        try:
            found = json.loads(text)
            found = found.get("error", found)
            if isinstance(found, dict):
                code = f" ({found['code']})" if isinstance(found.get("code"), str) else ""
                found = f"{found.get('message') or found.get('detail') or found}{code}"
            text = str(found)
        except (ValueError, AttributeError):
            pass
        return self._clean(text) or "nothing said"

    def _clean(self, text: str) -> str:
        if self._key is not None:
            text = text.replace(self._key, "***")
        text = " ".join(text.split())
        return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""


def _retry_after(value: str | None) -> float | None:
    """Seconds from now; None if absent or unreadable. RFC 9110, 10.2.3: a number of seconds or a date."""
    if value is None:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
