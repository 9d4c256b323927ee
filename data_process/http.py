"""One way to call an HTTP server that may be slow, busy or away, built on httpx.

A fault that may pass is tried again: no connection, a broken or late body, 429, 5xx. Everything else that a server says
is an answer. Keys leave in a header only; what a server says is repeated without them.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from data_process.seeds import seed_for

if TYPE_CHECKING:
    import httpx

KEEP_ALIVE_S = 4.0  # uvicorn, which vLLM and SGLang run on, closes an idle connection after 5 s
SHOWN = 600  # characters of a server's message that an error repeats
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class PassingFault(Exception):
    """One call failed for a reason that may pass; the message says which."""

    def __init__(
        self, reason: str, kind: Literal["connect", "transport", "time-out", "busy"], asked_s: float | None = None
    ) -> None:
        super().__init__(reason)
        self.kind = kind
        self.asked_s = asked_s  # seconds that the server asks to wait


class TooLarge(Exception):
    """The server sent more than was allowed."""


@dataclass(frozen=True)
class Retry:
    """How long one call is tried."""

    retries: int = 5  # after the first try
    first_s: float = 1.0  # before the second try; doubles each time
    longest_s: float = 60.0  # of one wait

    def delay(self, attempt: int, name: str) -> float:
        """Seconds after failed try number `attempt` (from 1): exponential, with jitter drawn from the call's name."""
        jitter = random.Random(seed_for("back-off", name, attempt)).uniform(0.5, 1.0)
        return min(self.first_s * 2.0 ** (attempt - 1), self.longest_s) * jitter


@dataclass(frozen=True)
class Answer:
    """What a server said. `message` is its text in one line, without the key, for errors."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    message: str

    @property
    def phrase(self) -> str:
        """Status with its name: "404 Not Found"."""
        return f"{self.status} {_PHRASES.get(self.status, '')}".rstrip()


def open_client(url: str, key: str | None, *, timeout_s: float, connect_s: float | None = None) -> httpx.AsyncClient:
    """A client with one connection."""
    import httpx

    return httpx.AsyncClient(
        headers={"Accept-Encoding": "identity"} | ({"Authorization": f"Bearer {key}"} if key else {}),
        timeout=httpx.Timeout(timeout_s, connect=connect_s or timeout_s),
        limits=httpx.Limits(max_connections=1, keepalive_expiry=KEEP_ALIVE_S),
        # a proxy for the outside world must not be asked for this machine
        trust_env=_host(url) not in LOOPBACK,
        verify=httpx.create_ssl_context() if url.startswith("https:") else False,
    )


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # not a URL, which the first call will say
        return None


async def exchange(
    client: httpx.AsyncClient, url: str, content: bytes | None, *, key: str | None, timeout_s: float, max_body: int
) -> Answer:
    """GET, or POST of JSON `content`. `timeout_s` bounds the whole call, up to the last byte.

    Raises PassingFault; TooLarge for more than `max_body` bytes; httpx.InvalidURL.
    """
    import httpx

    method, headers = ("GET", None) if content is None else ("POST", {"Content-Type": "application/json"})
    request = client.build_request(method, url, content=content, headers=headers)
    body = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            response = await client.send(request, stream=True)
            try:
                async for part in response.aiter_bytes():
                    body += part
                    if len(body) > max_body:
                        raise TooLarge(f"more than {max_body:,} bytes")
            finally:
                await response.aclose()
    except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
        raise PassingFault(f"no whole reply within {timeout_s:g} s", "time-out") from None
    except httpx.TransportError as error:
        away = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        reason = f"{type(error).__name__}: {error}".removesuffix(": ")
        raise PassingFault(reason, "connect" if away else "transport") from None
    answer = Answer(response.status_code, response.headers, bytes(body), without_key(_message(bytes(body)), key))
    spent = "insufficient_quota" in answer.message  # nothing that passes
    if answer.status >= 500 or (answer.status == HTTPStatus.TOO_MANY_REQUESTS and not spent):
        asked_s = retry_after(response.headers.get("retry-after"))
        raise PassingFault(f"status {answer.phrase}: {answer.message or 'nothing said'}", "busy", asked_s)
    return answer


def without_key(text: str, key: str | None) -> str:
    """`text` in one line and not too long, without our key should the server have repeated it."""
    text = " ".join((text.replace(key, "***") if key else text).split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _message(body: bytes) -> str:
    """What a server's error says: the parts of OpenAI's format, or the whole."""
    text = body.decode("utf-8", "replace")
    try:
        found = json.loads(text)
        found = found.get("error", found)
        if isinstance(found, dict):
            code = f" ({found['code']})" if isinstance(found.get("code"), str) else ""
            found = f"{found.get('message') or found.get('detail') or found}{code}"
        return str(found)
    except (ValueError, AttributeError, RecursionError):
        return text


def retry_after(value: str | None) -> float | None:
    """Seconds from now; None if absent or unreadable. RFC 9110, 10.2.3: a number of seconds or a date."""
    if value is None:
        return None
    with suppress(ValueError):
        return max(0.0, float(value))
    with suppress(ValueError, TypeError, OverflowError):
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    return None
