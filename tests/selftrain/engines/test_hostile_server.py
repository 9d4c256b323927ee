"""A server that lies, floods, stalls and repeats the key: typed errors, bounded time and memory, no key anywhere."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import time
import zlib

import pytest

from data_process.errors import printable
from data_process.judging.extractor import KEY_VARIABLE, Extractor, ReplyCache, read_by_extractor
from data_process.masking import masked
from data_process.schema import DataError, Problem
from selftrain.engines.base import EngineError
from tests.selftrain.engines.chat_server import ChatServer, Reply
from tests.selftrain.engines.test_openai_server import SAMPLE, always, ask, open_, say

KEY = "sk-proj-A1b2C3/d4E5f6G7h8"
BLANKS = 128 * 2**20


def bomb() -> bytes:
    packer = zlib.compressobj(1, wbits=31)
    return b"".join([packer.compress(b" " * 2**20) for _ in range(BLANKS // 2**20)] + [packer.flush()])


def answer(**fields) -> dict:
    """A proper answer with some fields replaced; `message` and `usage` are replaced field by field."""
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "so."}}
    choice["message"] |= fields.pop("message", {})
    choice |= {name: fields.pop(name) for name in ("finish_reason", "logprobs", "token_ids") if name in fields}
    usage = {"prompt_tokens": 3, "completion_tokens": 2} | fields.pop("usage", {})
    return {"model": "m", "choices": [choice], "usage": usage, **fields}


def deep(n: int = 900) -> object:
    value: object = 1
    for _ in range(n):
        value = [value]
    return value


ESCAPED = "".join(f"\\u{ord(c):04x}" for c in KEY)
ECHOES = {
    "no choices": {"choices": [], "echo": KEY},
    "refusal": answer(message={"refusal": f"not with {KEY}"}),
    "no text": answer(message={"content": None, "extra": KEY}),
    "finish": answer(finish_reason=KEY),
    "usage": answer(usage={"prompt_tokens": KEY}),
    "behind filler": {"choices": [], "echo": "x" * 273 + KEY},
    "all but its end": {"choices": [], "echo": KEY[:-1]},
    "all but its beginning": {"choices": [], "echo": KEY[4:]},
    "as escapes": b'{"choices": [], "echo": "' + ESCAPED.encode() + b'"}',
    "as a name": {"choices": [], KEY: 1},
    "no JSON": f"<html>Bearer {KEY}".encode(),
}
NUMBERS = [
    {"usage": {"completion_tokens": 10**12}},
    {"usage": {"completion_tokens": 2**70}},
    {"usage": {"prompt_tokens": 2**70}},
    {"usage": {"completion_tokens": True}},
    {"usage": {"completion_tokens": -1}},
    {"usage": {"completion_tokens": 1.5}},
    {"finish_reason": ["stop"]},
    {"finish_reason": {"a": deep()}},
    {"message": {"content": deep()}},
    {"message": {"refusal": deep()}},
    {"choices": deep()},
    {"choices": {"a": 1}},
    {"choices": [1]},
]


@pytest.fixture
def key(monkeypatch):
    monkeypatch.setenv("A_KEY", KEY)
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def no_key(text: str) -> None:
    """Neither the key nor half of it."""
    assert not any(KEY[at : at + len(KEY) // 2] in text for at in range(len(KEY) // 2 + 1)), text


@pytest.mark.parametrize("body", ECHOES.values(), ids=ECHOES)
def test_a_repeated_key_is_not_shown(key, body):
    with ChatServer(say) as server, open_(server, api_key_env="A_KEY", retries=0, logprobs=False) as engine:
        server.misbehave = always(Reply(200, body))
        with pytest.raises(EngineError) as caught:
            engine.generate(ask(1), SAMPLE)
    no_key(str(caught.value))
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("status", [200, 302, 401, 404, 429, 500])
def test_a_repeated_key_in_any_status_or_header(key, status):
    headers = {"Location": f"http://elsewhere/?key={KEY}", "Retry-After": "0"}
    with ChatServer(say) as server, open_(server, api_key_env="A_KEY", retries=1) as engine:
        server.misbehave = always(Reply(status, f"you sent {KEY}".encode(), headers))
        with pytest.raises(EngineError) as caught:
            engine.generate(ask(1), SAMPLE)
    no_key(str(caught.value))


@pytest.mark.parametrize(("replied", "notes"), [("another\x1b[2J", 1), (None, 0), (7, 0)])
def test_a_reply_that_names_another_model_is_said_once(replied, notes, capsys):
    with ChatServer(say) as server, open_(server, logprobs=False) as engine:
        server.misbehave = always(Reply(200, answer(model=replied)))
        engine.generate(ask(3), SAMPLE)
    said = capsys.readouterr().err
    assert said.count(f"replies as {replied!r}; see that it serves") == notes
    assert "\x1b" not in said


def test_a_key_in_an_answer_is_not_stored(key, tmp_path):
    with ChatServer(say) as server, open_(server, api_key_env="A_KEY", logprobs=False) as engine:
        server.misbehave = always(Reply(200, answer(message={"content": f"The key is {KEY}."})))
        [[completion]] = engine.generate(ask(1), SAMPLE)
        assert completion.text == "The key is ***."
        cache = ReplyCache(tmp_path / "cache.sqlite")
        with Extractor(server.url, "m", cache) as extractor:
            verdict, reply = read_by_extractor(Problem("q", "?", "B", choices=("1", "2")), "hm", extractor)
    no_key(f"{verdict} {reply}")
    no_key((tmp_path / "cache.sqlite").read_bytes().decode("latin-1"))


def test_a_list_of_models_with_the_key(key):
    listed = {"data": [{"id": KEY, "owned_by": KEY}]}
    with (
        ChatServer(say, misbehave=lambda c, n: Reply(body=listed) if n < 0 else None) as server,
        pytest.raises(EngineError, match="is not served") as caught,
    ):
        open_(server, api_key_env="A_KEY")
    no_key(str(caught.value))


def test_a_key_in_place_of_a_variable_is_not_shown(tmp_path, capsys):
    from selftrain.cli.main import main

    line = ["run", "--dry-run", "--set", "engine.kind=server", "--set", f"engine.api_key_env={KEY}"]
    hub = ["run", "--dry-run", "--config", "rehearsal", "--set", f"training.overrides.hub_token={KEY}"]
    for argv in (line, hub):
        assert main(argv) == 2
        said = capsys.readouterr()
        no_key(said.out + said.err)
        assert "environment" in said.err or "api_key_env" in said.err


@pytest.mark.parametrize("fields", NUMBERS, ids=lambda fields: str(fields)[:60])
def test_wrong_numbers_and_types(fields):
    with ChatServer(say) as server, open_(server, retries=0, logprobs=False) as engine:
        server.misbehave = always(Reply(200, answer(**fields)))
        with pytest.raises(EngineError) as caught:
            engine.generate(ask(1), SAMPLE)
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("logprob", [10**400, -(10**400), "x", None, float("nan"), [1]])
def test_wrong_log_probabilities(logprob):
    entries = [{"token": "a", "bytes": [999], "logprob": logprob}, {"token": ["b"], "bytes": "x", "logprob": -0.5}]
    with ChatServer(say) as server, open_(server) as engine:
        server.misbehave = always(Reply(200, json.dumps(answer(logprobs={"content": entries})).encode()))
        [[completion]] = engine.generate(ask(1), SAMPLE)
    assert completion.mean_logprob == -0.5


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Reply(200, bomb(), {"Content-Encoding": "gzip"}), "more than"),
        (Reply(200, b" " * (17 * 2**20)), "more than"),
        (Reply(200, gzip.compress(b"{}" * 500)[:-9], {"Content-Encoding": "gzip"}), "cut off"),
        (Reply(200, b"no gzip", {"Content-Encoding": "gzip"}), "damaged gzip"),
        (Reply(200, b"x", {"Content-Encoding": "br"}), "not asked for"),
        (Reply(200, b"[" * 200_000), "no JSON object"),
        (Reply(200, b'{"a":' * 200_000), "no JSON object"),
        (Reply(200, b'{"a": ' + b"9" * 5000 + b"}"), "no JSON object"),
        (Reply(200, b'{"choices": [{"mess'), "no JSON object"),
        (Reply(429, b"", {"Retry-After": "1e999"}), "asks to wait"),
        (Reply(429, b"", {"Retry-After": "999999"}), "asks to wait"),
        (Reply(429, b"", {"Retry-After": "-5"}), "busy|429"),
        (Reply(429, b"", {"Retry-After": "nan"}), "429"),
        (Reply(429, b"", {"Retry-After": "Fri, 99 Foo 99999 99:99:99 GMT"}), "429"),
        (Reply(302, b"", {"Location": "http://127.0.0.1:9/v1"}), "redirects"),
        (Reply(500, b"\x1b]0;title\x07" + b"x" * 10**6), "500"),
    ],
)
def test_floods_and_lies(reply, message):
    import tracemalloc

    with ChatServer(say) as server, open_(server, retries=1) as engine:
        server.misbehave = always(reply)
        tracemalloc.start()
        with pytest.raises(EngineError, match=message) as caught:
            engine.generate(ask(1), SAMPLE)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert most < 100 * 2**20
    assert len(str(caught.value)) < 2000


def test_a_burst_of_errors_passes():
    with ChatServer(say) as server, open_(server, retries=5) as engine:
        server.misbehave = lambda call, number: Reply(500 + number % 4, b"busy") if number < 4 else None
        [[completion]] = engine.generate(ask(1), SAMPLE)
    assert completion.text


def drip(parts: bytes):
    """A server that sends one byte every 20 ms, for ever."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=send, args=(connection,), daemon=True).start()

    def send(connection: socket.socket) -> None:
        try:
            for byte in parts * 10_000:
                connection.sendall(bytes([byte]))
                time.sleep(0.02)
        except OSError:
            connection.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener


@pytest.mark.slow
@pytest.mark.parametrize("parts", [b"HTTP/1.1 200 OK\r\nX-A: b\r\n", b"HTTP/1.1 100 Continue\r\n\r\n", b"x"])
def test_slow_headers_meet_the_deadline(parts, tmp_path, monkeypatch):
    """The deadline counts from the start of the call, headers included."""
    from selftrain.engine_settings import ServerSettings
    from selftrain.engines.openai_server import ServerEngine

    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with drip(parts) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        started = time.monotonic()
        with pytest.raises(EngineError):
            ServerEngine("m", ServerSettings(url=url, timeout_s=0.3, retries=0))
        cache = ReplyCache(tmp_path / "cache.sqlite")
        with Extractor(url, "m", cache, timeout=0.3, attempts=1) as extractor, pytest.raises(DataError):
            read_by_extractor(Problem("q", "?", "B", choices=("1", "2")), "hm", extractor)
    assert time.monotonic() - started < 20, "without a deadline it takes minutes"


@pytest.mark.parametrize(
    "card",
    [
        {"owned_by": ["a"]}, {"owned_by": {"a": 1}}, {"max_model_len": 2**70}, {"max_model_len": "x"}, {"root": 3},
        {"parent": deep()},
    ],
)  # fmt: skip
def test_wrong_types_in_the_list_of_models(card):
    listed = {"data": [{"id": "m", "owned_by": "vllm", **card}]}
    with ChatServer(say, misbehave=lambda c, n: Reply(body=listed) if n < 0 else None) as server:
        if "owned_by" in card:
            with pytest.raises(EngineError, match="does not say what kind of server"):
                open_(server)
        else:
            open_(server).close()


def test_nesting_in_the_list_of_models():
    body = b'{"data": ' + b"[" * 200_000
    with (
        ChatServer(say, misbehave=lambda c, n: Reply(body=body) if n < 0 else None) as server,
        pytest.raises(EngineError, match="no JSON object"),
    ):
        open_(server, retries=0)


@pytest.mark.parametrize(
    ("text", "key", "expected"),
    [
        (f"a {KEY} b", KEY, "a *** b"),
        (KEY * 2, KEY, "******"),
        (json.dumps(KEY).replace("/", "\\/"), KEY, '"***"'),
        (KEY.replace("/", "%2F"), KEY, "***"),
        (KEY[: len(KEY) // 3], KEY, KEY[: len(KEY) // 3]),
        ("the set is EMPTY", "EMPTY", "the set is EMPTY"),
        ("a" * 50, "a" * 40, "***" + "a" * 10),
        ("anything", None, "anything"),
    ],
)
def test_masked(text, key, expected):
    assert masked(text, key) == expected


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[2J\x1b]0;x\x07", r"\x1b[2J\x1b]0;x\x07"),
        ("a\u202eb\u2066c\x9b1m", r"a\u202eb\u2066c\x9b1m"),
        ("half \ud800", r"half \ud800"),
        ("two\nlines\tand [red]", "two\nlines\tand [red]"),
        ("\0\r\x7f", r"\x00\r\x7f"),
    ],
)
def test_printable(text, shown):
    assert printable(text) == shown
    assert len(printable("x" * 10**6)) < 50_000
