"""One way to call an HTTP server that may be slow, busy or away, built on httpx.

A fault that may pass is tried again: no connection, a broken or late body, 429, 5xx. Everything else that a server says
is an answer. Keys leave in a header only, to the address that was named: redirects are not followed. Whatever a server
sends, `masking.masked` takes the key out of it before anything is read, kept or shown.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from data_process.masking import masked
from data_process.schema import shown
from data_process.seeds import seed_for

if TYPE_CHECKING:
    import httpx

KEEP_ALIVE_S = 4.0  # uvicorn, which vLLM and SGLang run on, closes an idle connection after 5 s
MESSAGE_BYTES = 1 << 16  # of a body that may be an error's
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
    """What a server said, without the key. `message` is its text in one line, for errors."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    message: str

    def json(self) -> Any:
        """The value of the body. ValueError for anything but JSON, and for nesting that no reply needs."""
        try:
            return json.loads(self.body)
        except RecursionError:
            raise ValueError("nested too deeply") from None

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


def base_url(url: str) -> str:
    """A base URL without a slash at its end; a bare host gets "/v1", as OpenAI's clients have it. Or ValueError.

    A URL that may hold a key is refused, and not repeated.
    """
    try:
        parts = urlsplit(url.strip())
        port = parts.port
    except ValueError:
        raise ValueError(f"{url[:200]!r} is not a URL; write http://HOST:PORT/v1") from None
    if parts.username is not None or parts.password is not None:
        raise ValueError(f"of {parts.hostname} holds a key; keep it in a variable and name that one")
    if parts.query or parts.fragment:
        raise ValueError(f"of {parts.hostname} has a query, which may hold a key; write http://HOST:PORT/v1")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url[:200]!r} is not http://HOST:PORT/v1 or https://HOST/v1")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{parts.scheme}://{host}{'' if port is None else f':{port}'}{parts.path.rstrip('/') or '/v1'}"


def _host(url: str) -> str | None:
    try:
        return urlsplit(url).hostname
    except ValueError:  # not a URL, which the first call will say
        return None


async def exchange(
    client: httpx.AsyncClient, url: str, content: bytes | None, *, key: str | None, timeout_s: float, max_body: int
) -> Answer:
    """GET, or POST of JSON `content`. `timeout_s` bounds the whole call, from its start up to the last byte.

    Raises PassingFault; TooLarge for more than `max_body` bytes, also after decompression; httpx.InvalidURL.
    """
    import httpx

    method, headers = ("GET", None) if content is None else ("POST", {"Content-Type": "application/json"})
    request = client.build_request(method, url, content=content, headers=headers)
    try:
        async with asyncio.timeout(timeout_s):
            response = await client.send(request, stream=True)
            try:
                body = await _body(response, max_body)
            finally:
                await response.aclose()
    except (TimeoutError, httpx.ReadTimeout, httpx.WriteTimeout):
        raise PassingFault(f"no whole reply within {timeout_s:g} s", "time-out") from None
    except httpx.TransportError as error:
        away = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        reason = f"{type(error).__name__}: {without_key(str(error), key)}".removesuffix(": ")
        raise PassingFault(reason, "connect" if away else "transport") from None
    body = masked(body.decode("latin-1"), key).encode("latin-1") if key else body
    said = {name: masked(value, key) for name, value in response.headers.items()}
    answer = Answer(response.status_code, said, body, without_key(_message(body), key))
    spent = "insufficient_quota" in answer.message  # nothing that passes
    if answer.status >= 500 or (answer.status == HTTPStatus.TOO_MANY_REQUESTS and not spent):
        asked_s = retry_after(said.get("retry-after"))
        raise PassingFault(f"status {answer.phrase}: {answer.message or 'nothing said'}", "busy", asked_s)
    return answer


async def _body(response: httpx.Response, limit: int) -> bytes:
    """At most `limit` bytes. A compressed body, which nobody asked for, is decompressed up to there and no further."""
    encoding = response.headers.get("content-encoding", "").strip().lower() or "identity"
    if encoding not in ("identity", "gzip", "x-gzip", "deflate"):
        raise PassingFault(f"a body in the encoding {encoding[:40]!r}, which was not asked for", "transport")
    unpack = None if encoding == "identity" else zlib.decompressobj(wbits=47)  # gzip or zlib, by its header
    body = bytearray()
    async for part in response.aiter_raw():
        try:
            body += part if unpack is None else unpack.decompress(part, limit + 1 - len(body))
        except zlib.error as error:
            raise PassingFault(f"a damaged {encoding} body ({error})", "transport") from None
        if len(body) > limit:
            raise TooLarge(f"more than {limit:,} bytes")
    if unpack is not None and not unpack.eof:
        raise PassingFault(f"a {encoding} body that is cut off", "transport")
    return bytes(body)


def without_key(text: str, key: str | None) -> str:
    """`text` in one line and not too long, without our key should the server have repeated it."""
    text = " ".join(masked(text, key, short=True).split())  # masked first: half a key is a secret too
    return text if len(text) <= SHOWN else f"{text[:SHOWN]} ..."


def _message(body: bytes) -> str:
    """What a server's error says: the parts of OpenAI's format, or the whole."""
    text = body[:MESSAGE_BYTES].decode("utf-8", "replace")  # a longer one is no error of OpenAI's format
    try:
        found = json.loads(text)
        found = found.get("error", found)
        if isinstance(found, dict):
            code = f" ({found['code']})" if isinstance(found.get("code"), str) else ""
            found = f"{found.get('message') or found.get('detail') or found}{code}"
        return found if isinstance(found, str) else shown(found, SHOWN)
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
