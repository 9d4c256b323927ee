"""The optional extractor against a server that behaves, and against one that does not: blind, cached, bounded."""

from __future__ import annotations

import inspect
import json
import sqlite3
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import pytest

from data_process.judging import extractor as module
from data_process.judging.extractor import (
    KEY_VARIABLE,
    MAX_RESPONSE,
    Extractor,
    ExtractorError,
    ReplyCache,
    extraction_prompt,
    read_by_extractor,
)
from data_process.schema import DataError, Problem

PROBLEM = Problem("q1", "How many degrees?", "B", choices=("30.0", "40.0", "45.0", "60.0"))
NUMBER = Problem("q2", "How many?", "98765.4321", answer_type="number", unit="cm", tolerance=0.5)


def completion(text) -> bytes:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


class Server(ThreadingHTTPServer):
    """Answers each request with the next scripted step; the last step repeats. Keeps what it was sent."""

    daemon_threads = True

    def __init__(self, *steps):
        super().__init__(("127.0.0.1", 0), Handler)
        self.steps, self.received = list(steps), []
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.received.append((self.path, dict(self.headers), body))
        step = self.server.steps.pop(0) if len(self.server.steps) > 1 else self.server.steps[0]
        if callable(step):
            step(self)
            return
        status, data = step if isinstance(step, tuple) else (200, step)
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


def hang_up(handler):
    handler.connection.close()


def half(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b'{"choices": [')
    handler.connection.close()


def drip(handler):
    """One byte at a time: no single read is late, the whole reply never ends."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(200):
        try:
            handler.wfile.write(b" ")
            handler.wfile.flush()
        except OSError:
            return
        time.sleep(0.02)


def flood(handler):
    handler.send_response(200)
    handler.end_headers()
    try:
        for _ in range(64):
            handler.wfile.write(b" " * 65536)
    except OSError:
        pass


@pytest.fixture
def serve(monkeypatch) -> Iterator:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers = []

    def start(*steps):
        servers.append(Server(*steps))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def connect(url, path, **more) -> Extractor:
    return Extractor(url, "reader", ReplyCache(path / "replies.sqlite"), **{"pause": 0.001, "timeout": 5.0, **more})


def read(server, path, problem=PROBLEM, text="forty, I would say", **more):
    with connect(server.url, path, **more) as extractor:
        return read_by_extractor(problem, text, extractor)


@pytest.mark.parametrize(
    ("reply", "problem", "status", "extracted"),
    [
        ("B", PROBLEM, "correct", "B"),
        ("(b)", PROBLEM, "correct", "B"),
        ("40.0", PROBLEM, "correct", "B"),
        ("C", PROBLEM, "wrong", "C"),
        ("<think>It says forty. (C)?</think>\n\nB", PROBLEM, "correct", "B"),
        ("NONE", PROBLEM, "abstain", None),
        (" none. ", PROBLEM, "abstain", None),
        ("", PROBLEM, "abstain", None),
        ("I cannot tell what it means", PROBLEM, "abstain", None),
        ("Z", PROBLEM, "abstain", None),
        ("98765.4321", NUMBER, "correct", "98765.4321"),
        ("12 cm", NUMBER, "wrong", "12"),
    ],
)
def test_replies_are_judged_by_the_rules(serve, tmp_path, reply, problem, status, extracted):
    verdict, said = read(serve(completion(reply)), tmp_path, problem)
    assert (verdict.status, verdict.extracted) == (status, extracted)
    assert verdict.rule.startswith("extractor/")
    assert verdict.span is None
    assert said.text == reply


def test_what_is_sent(serve, tmp_path, monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, "very-secret")
    server = serve(completion("B"))
    read(server, tmp_path)
    [(path, headers, body)] = server.received
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer very-secret"
    assert body["temperature"] == 0
    assert body["model"] == "reader"
    [message] = body["messages"]
    for part in ("How many degrees?", "(B) 40.0", "one of A, B, C, D", "forty, I would say", "NONE"):
        assert part in message["content"]
    assert b"very-secret" not in (tmp_path / "replies.sqlite").read_bytes()


def test_without_a_key_no_authorization_is_sent(serve, tmp_path):
    server = serve(completion("B"))
    read(server, tmp_path)
    assert "Authorization" not in server.received[0][1]


def test_blind_to_the_gold_answer(serve, tmp_path):
    for function in (extraction_prompt, Extractor.extract):
        assert set(inspect.signature(function).parameters) <= {
            "self", "response", "question", "choices", "answer_type", "unit",
        }  # fmt: skip
    server = serve(completion("NONE"))
    with connect(server.url, tmp_path) as extractor:
        read_by_extractor(NUMBER, "a lot", extractor)
        for gold in "ABCD":  # the same request, whichever choice is the gold one
            read_by_extractor(Problem("q", PROBLEM.question, gold, choices=PROBLEM.choices), "well", extractor)
    assert len(server.received) == 2, "another gold answer was another question"
    assert all("98765" not in json.dumps(body) for _, _, body in server.received)


def test_the_prompt_takes_braces_and_the_end_of_a_long_response():
    prompt = extraction_prompt("{question} {x} \\frac{1}{2}", question="What is {response}?", answer_type="number")
    assert "{question} {x} \\frac{1}{2}" in prompt
    assert "What is {response}?" in prompt
    long = extraction_prompt("a" * MAX_RESPONSE + "THE END", question="?", answer_type="integer")
    assert "THE END" in long
    assert len(long) < MAX_RESPONSE + 1000


def test_asked_once(serve, tmp_path):
    server = serve(completion("B"))
    first, reply = read(server, tmp_path)
    assert not reply.from_cache
    again, reply = read(server, tmp_path)
    assert reply.from_cache
    assert again == first
    assert len(server.received) == 1
    read(server, tmp_path, text="another text")
    with Extractor(server.url, "another model", ReplyCache(tmp_path / "replies.sqlite")) as extractor:
        read_by_extractor(PROBLEM, "forty, I would say", extractor)
    assert len(server.received) == 3


@pytest.mark.parametrize(
    "steps",
    [
        [hang_up, completion("B")],
        [half, completion("B")],
        [(500, b"oops"), (503, b""), completion("B")],
        [(429, b"slow down"), completion("B")],
    ],
)
def test_faults_that_pass_are_tried_again(serve, tmp_path, steps):
    server = serve(*steps)
    verdict, _ = read(server, tmp_path)
    assert verdict.extracted == "B"
    assert len(server.received) == len(steps)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (b"<html>hello</html>", "not a chat completion"),
        (b"", "not a chat completion"),
        (b"\xff\xfe", "not a chat completion"),
        (b"[" * 100_000, "not a chat completion"),
        (b'{"choices": []}', "not a chat completion"),
        (b'{"choices": [{"text": "B"}]}', "not a chat completion"),
        (b'["B"]', "not a chat completion"),
        (completion(None), "without text (NoneType)"),
        (completion(["B"]), "without text (list)"),
        (b'{"choices": [{"message": {"content": "\\ud800"}}]}', "not Unicode"),
        (flood, "more than"),
    ],
)
def test_a_malformed_reply_abstains_and_is_not_kept(serve, tmp_path, step, reason):
    server = serve(step, completion("B"))
    verdict, reply = read(server, tmp_path)
    assert (verdict.status, verdict.rule) == ("abstain", "extractor/malformed_reply")
    assert reason in verdict.note
    assert reply.text is None
    assert len(server.received) == 1, "a malformed reply is no transport fault"
    assert read(server, tmp_path)[0].extracted == "B", "and the next run may ask again"


@pytest.mark.parametrize("status", [301, 400, 401, 404])
def test_a_refusal_is_an_error_at_once(serve, tmp_path, monkeypatch, status):
    monkeypatch.setenv(KEY_VARIABLE, "very-secret")
    server = serve((status, b"no such model; key very-secret"))
    with pytest.raises(ExtractorError, match=rf"status {status}: no such model; .*model name 'reader'") as raised:
        read(server, tmp_path)
    assert "very-secret" not in str(raised.value)
    assert len(server.received) == 1


def test_a_dead_server_is_an_error_after_all_attempts_and_keeps_what_was_read(serve, tmp_path):
    server = serve(completion("B"), (500, b""))
    with connect(server.url, tmp_path, attempts=3) as extractor:
        read_by_extractor(PROBLEM, "one", extractor)
        with pytest.raises(
            ExtractorError, match=r"no reply in 3 attempts \(the last: status 500 .*\).*1 replies are kept"
        ):
            read_by_extractor(PROBLEM, "two", extractor)
    assert len(server.received) == 4
    server.shutdown()
    server.server_close()
    with connect(server.url, tmp_path, attempts=2) as extractor:
        assert read_by_extractor(PROBLEM, "one", extractor)[1].from_cache
        with pytest.raises(ExtractorError, match=r"no reply in 2 attempts \(the last: ConnectError"):
            read_by_extractor(PROBLEM, "two", extractor)


def test_a_reply_that_never_ends_is_stopped_by_the_clock(serve, tmp_path):
    started = time.monotonic()
    with pytest.raises(ExtractorError, match=r"no whole reply within 0\.2 s"):
        read(serve(drip), tmp_path, timeout=0.2, attempts=2)
    assert time.monotonic() - started < 20


def test_pauses_grow_between_attempts(serve, tmp_path, monkeypatch):
    slept = []
    monkeypatch.setattr(module, "time", SimpleNamespace(sleep=slept.append, monotonic=time.monotonic))
    with pytest.raises(ExtractorError):
        read(serve((503, b"")), tmp_path, attempts=4, pause=1.0)
    assert len(slept) == 3
    for seconds, longest in zip(slept, (1.0, 2.0, 4.0), strict=True):  # half of it is jitter
        assert longest / 2 <= seconds <= longest


def test_addresses_and_caches_that_cannot_be_used(tmp_path, monkeypatch):
    with pytest.raises(DataError, match="is not http:"):
        connect("localhost:8000", tmp_path)
    with pytest.raises(DataError, match="is not a URL"):
        connect("http://[::1", tmp_path)
    with pytest.raises(DataError, match="of h holds a key") as raised:
        connect("http://me:sesame@h/v1", tmp_path)
    assert "sesame" not in str(raised.value)
    (tmp_path / "torn.sqlite").write_bytes(b"SQLite format 3\0 and then nothing" * 40)
    with pytest.raises(DataError, match=r"torn.sqlite: cannot be used as the extractor's cache"):
        ReplyCache(tmp_path / "torn.sqlite")
    with pytest.raises(DataError, match="cannot be used"):
        ReplyCache(tmp_path)
    monkeypatch.setenv(KEY_VARIABLE, "two\nlines")
    with pytest.raises(DataError, match=f"{KEY_VARIABLE} cannot be sent") as raised, connect("http://x", tmp_path):
        pass
    assert "lines" not in str(raised.value)


def test_the_cache_survives_a_process_that_dies(tmp_path):
    cache = ReplyCache(tmp_path / "replies.sqlite")
    cache.put("m", "p", "B")
    other = sqlite3.connect(tmp_path / "replies.sqlite")  # nothing was closed
    assert other.execute("SELECT model, prompt, reply FROM replies").fetchall() == [("m", "p", "B")]
    other.close()
    cache.close()
