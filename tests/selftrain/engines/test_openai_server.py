"""The server engine against a server that errs, stalls, refuses and lies. What all promise is in test_contract.py."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import logging
import re
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_process.http import Retry
from selftrain.engine_settings import ServerSettings
from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.budget import TINY, Budget
from selftrain.engines.openai_api import chat_completions
from selftrain.engines.openai_api.client import Window, check_url, read_key
from selftrain.engines.openai_server import GIVE_UP_AFTER, ServerEngine
from selftrain.sampling.bank import rejection_reason
from tests.selftrain.engines.chat_server import ChatServer, Reply

SAMPLE = SamplingParams(temperature=1.0, max_tokens=50)
GREEDY = SamplingParams(temperature=0, max_tokens=50)


def say(request: Request, seed: int) -> str:
    return f"{request.prompt} {seed} is so."


def ask(n: int, seeds=(1,)) -> list[Request]:
    return [Request(f"r{i}", f"question {i}", (), tuple(seeds)) for i in range(n)]


def open_(server: ChatServer, **options) -> ServerEngine:
    """With back-offs that a test can wait for."""
    waits = {name: options.pop(name, seconds) for name, seconds in {"backoff_s": 0.002, "max_wait_s": 0.3}.items()}
    return ServerEngine("m", ServerSettings(url=server.url, **{"timeout_s": 5, **options}), **waits)


def good(server_call) -> dict:
    """A proper answer to take apart."""
    with ChatServer(say) as server:
        return server.answer(server_call)


def once(reply: Reply):
    """Misbehave on the first call only."""
    return lambda call, number: reply if number == 0 else None


def always(reply: Reply):
    return lambda call, number: reply if number >= 0 else None


def changed(**fields):
    """Every answer with fields of its choice (or, for `usage` and `choices`, of its own) replaced; None: left out."""

    def misbehave(call, number):
        if number < 0:
            return None
        body = server_of[0].answer(call)
        for key, value in fields.items():
            place = body if key in ("usage", "choices") else body["choices"][0]
            place.pop(key) if value is None else place.__setitem__(key, value)
        return Reply(body=body)

    server_of: list[ChatServer] = []
    misbehave.server_of = server_of
    return misbehave


def served_with(misbehave) -> ChatServer:
    server = ChatServer(say, misbehave=misbehave)
    getattr(misbehave, "server_of", []).append(server)
    return server


# ---- what is sent ----------------------------------------------------------------------------------------------------


def test_the_picture_travels_as_it_is_and_first(problems_and_pictures):
    prompt, (path,) = problems_and_pictures[0]
    with ChatServer(say) as server, open_(server) as engine:
        [[c]] = engine.generate([Request("a", prompt, (path,), (5,))], SAMPLE)
    [call] = server.calls
    assert [part["type"] for part in call.body["messages"][0]["content"]] == ["image_url", "text"]
    assert call.images == (hashlib.sha256(path.read_bytes()).hexdigest(),)
    assert c.n_prompt_tokens > 16
    assert call.body["seed"] == 5


def test_pictures_stand_where_the_prompt_has_them(several):
    prompt, paths = several[1]
    with ChatServer(say) as server, open_(server) as engine:
        engine.generate([Request("a", prompt, paths, (5,))], SAMPLE)
    [call] = server.calls
    parts = call.body["messages"][0]["content"]
    assert [part.get("text") for part in parts] == [
        None, "is it so ", None, " step a circle line ", None, " which answer"
    ]  # fmt: skip
    assert call.images == tuple(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)


@pytest.mark.parametrize(
    ("dialect", "params", "expected"),
    [
        ("vllm", SAMPLE, {"top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "max_tokens": 50, "n": 1}),
        ("vllm", dataclasses.replace(SAMPLE, top_k=7, top_p=0.5), {"top_k": 7, "top_p": 0.5, "temperature": 1.0}),
        ("sglang", SAMPLE, {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}),
        (
            "llamacpp",
            dataclasses.replace(SAMPLE, repetition_penalty=1.1),
            {"top_k": 0, "min_p": 0.0, "repeat_penalty": 1.1},
        ),
        ("openai", SAMPLE, {"max_completion_tokens": 50, "top_k": None, "min_p": None, "repetition_penalty": None}),
    ],
)
def test_every_setting_is_sent_by_its_name(dialect, params, expected):
    with ChatServer(say, owned_by="someone") as server, open_(server, dialect=dialect) as engine:
        engine.generate(ask(1), params)
    assert {key: server.calls[0].body.get(key) for key in expected} == expected


@pytest.mark.parametrize(
    ("dialect", "change", "named"),
    [
        ("openai", {"top_k": 50}, "top_k"),
        ("openai", {"repetition_penalty": 1.1}, "repetition_penalty"),
        ("openai", {"budget": TINY}, "partial answer"),
        ("llamacpp", {"budget": TINY}, "partial answer"),
    ],
)
def test_what_a_server_cannot_do_is_refused_before_any_call(dialect, change, named):
    with ChatServer(say, owned_by=dialect) as server, open_(server) as engine, pytest.raises(EngineError, match=named):
        engine.generate(ask(1), dataclasses.replace(SAMPLE, **change))
    assert server.calls == []


@pytest.mark.parametrize("known", [True, False])
def test_an_answer_that_a_server_cannot_continue(known):
    """Found out without a call where its kind says so, else after probes of one token."""
    begun = [dataclasses.replace(r, prefix="It is") for r in ask(1)]
    with (
        ChatServer(say, owned_by="vllm" if known else "llamacpp", resumes=False) as server,
        open_(server) as engine,
        pytest.raises(EngineError, match=r"does not continue a partial answer.* beginning of an answer"),
    ):
        engine.generate(begun, SAMPLE)
    assert len(server.calls) == 3 * known


@given(st.integers(-(2**70), 2**70))
def test_every_server_takes_the_seed(seed):
    assert 0 <= chat_completions.wire_seed(seed) < 2**32 - 1
    assert chat_completions.wire_seed(seed) == seed or not 0 <= seed < 2**32 - 1


def test_a_greedy_answer_is_asked_for_once():
    with ChatServer(say) as server, open_(server) as engine:
        [[a, b, c]] = engine.generate(ask(1, seeds=(1, 2, 3)), GREEDY)
    assert a == b == c
    assert len(server.calls) == 1


# ---- faults of the moment --------------------------------------------------------------------------------------------

PROPER = [["question 0 1 is so."], ["question 1 1 is so."]]


@pytest.mark.parametrize(
    ("fault", "counted"),
    [
        (Reply(500, b"oh"), "busy"),
        (Reply(503, {"error": {"message": "loading"}}), "busy"),
        (Reply(429, b"", {"Retry-After": "0.05"}), "busy"),
        (Reply(429, b"", {"Retry-After": "Fri, 01 Jan 1999 00:00:00 GMT"}), "busy"),
        (Reply(429, b"", {"Retry-After": "soon"}), "busy"),
        (Reply(hang_up=True), "transport"),
        (Reply(body=b'{"choices": [{"mess', length=400), "transport"),
        (Reply(body=b'{"choices": [{"mess'), "transport"),
        (Reply(body=b"[]"), "transport"),
        (Reply(body=b'{"a": 1}' + b" " * 99, pause=0.6), "time-out"),
        (Reply(delay=0.6), "time-out"),
    ],
)
def test_a_fault_of_the_moment_is_tried_again(fault, counted):
    patience = 0.3 if counted == "time-out" else 30.0
    with ChatServer(say, misbehave=once(fault)) as server, open_(server, timeout_s=patience) as engine:
        got = engine.generate(ask(2), SAMPLE)
        assert [[c.text for c in of_one] for of_one in got] == PROPER
        assert engine.counts[counted] == 1
        assert engine.counts["tries"] == 4  # the list of models, two calls and one again


def test_retry_after_is_kept_to_by_every_call():
    with (
        ChatServer(say, misbehave=once(Reply(429, b"", {"Retry-After": "0.25"}))) as server,
        open_(server, max_concurrency=1) as engine,
    ):
        engine.generate(ask(3), SAMPLE)
    times = [call.at for call in server.calls]
    assert len(times) == 4
    assert times[1] - times[0] >= 0.24


def test_a_wait_that_is_too_long_ends_at_once():
    with (
        ChatServer(say, misbehave=always(Reply(429, b"", {"Retry-After": "3600"}))) as server,
        open_(server) as engine,
        pytest.raises(EngineError, match=r"'r0'.*3600 s.*run the same command again"),
    ):
        engine.generate(ask(50), SAMPLE)
    assert len(server.calls) <= 32


@pytest.mark.parametrize(
    ("fault", "told"),
    [
        (Reply(500, {"error": {"message": "engine is dead"}}), "500.*engine is dead.*max_concurrency"),
        (Reply(hang_up=True), "no answer in 3 tries.*server's log"),
        (Reply(delay=0.3), "within 0.1 s.*timeout_s"),
    ],
)
def test_a_fault_that_stays_is_an_error(fault, told):
    with (
        ChatServer(say, misbehave=always(fault)) as server,
        open_(server, retries=2, timeout_s=0.1) as engine,
        pytest.raises(EngineError, match=f"request 'r0'.*{told}"),
    ):
        engine.generate(ask(1), SAMPLE)
    assert len(server.calls) == 3


def test_delays_grow_are_bounded_and_drawn_from_the_name():
    retry = Retry(retries=9, first_s=1, longest_s=20)
    for attempt in range(1, 12):
        whole = min(2 ** (attempt - 1), 20)
        assert whole / 2 <= retry.delay(attempt, "a") <= whole
    assert retry.delay(3, "a") == retry.delay(3, "a") != retry.delay(3, "b")


def test_nobody_there():
    with ChatServer(say) as server:
        url = server.url
    start = time.monotonic()
    with pytest.raises(EngineError, match=r"no server answers at http://127.0.0.1:\d+/v1.*selftrain serve"):
        ServerEngine("m", ServerSettings(url=url, retries=2), backoff_s=0.01)
    assert time.monotonic() - start < 2


def test_a_server_that_dies_stops_the_rest_and_keeps_what_is_done():
    kept = []
    server = ChatServer(say)

    def die(call, number):
        if number < 3:
            return None
        server._http.server_close()  # nobody new gets in; who is in is hung up on
        return Reply(hang_up=True)

    server.misbehave = die
    with server, open_(server, max_concurrency=1, retries=1) as engine:
        engine.on_result = lambda request, sample, completion: kept.append((request.id, sample, completion.text))
        with pytest.raises(EngineError, match=r"'r[34]'.*\(3 of 100 completions were finished and handed on, "):
            engine.generate(ask(100), SAMPLE)
    assert kept == [(f"r{i}", 0, f"question {i} 1 is so.") for i in range(3)]


# ---- answers that are none -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told", "step"),
    [
        (400, "This model's maximum context length is 8", "see what the server says"),
        (422, "bad field", "see what the server says"),
        (401, "no key", "engine.api_key_env"),
        (403, "not yours", "engine.api_key_env"),
        (404, "The model `m` does not exist", "engine.model_name"),
    ],
)
def test_a_refusal_is_told_and_not_tried_again(status, told, step):
    reply = Reply(status, {"error": {"message": told, "code": status}})
    with (
        ChatServer(say, misbehave=always(reply)) as server,
        open_(server) as engine,
        pytest.raises(EngineError, match=f"request 'r0'.*{status}.*{told}.*{step}"),
    ):
        engine.generate(ask(1), SAMPLE)
    assert len(server.calls) == 1


def test_one_bad_request_among_good_ones():
    def refuse(call, number):
        return Reply(400, b"too long") if number >= 0 and "question 3" in call.body["messages"][0]["content"] else None

    kept = []
    with ChatServer(say, misbehave=refuse) as server, open_(server, max_concurrency=4) as engine:
        engine.on_result = lambda request, sample, completion: kept.append((request.id, sample, completion.text))
        with pytest.raises(EngineError, match=r"request 'r3'.*too long.*\(18 of 20 completions .* 2 calls failed\)"):
            engine.generate(ask(10, seeds=(1, 2)), SAMPLE)
        assert len(engine.generate(ask(2), SAMPLE)) == 2  # and it goes on
    wanted = {(f"r{i}", s, f"question {i} {s + 1} is so.") for i in range(10) if i != 3 for s in (0, 1)}
    assert set(kept[:18]) == wanted


@pytest.mark.parametrize("status", [401, 404])
def test_what_every_request_would_meet_stops_at_once(status):
    with (
        ChatServer(say, misbehave=always(Reply(status, b"no"))) as server,
        open_(server, max_concurrency=2) as engine,
        pytest.raises(EngineError, match="'r0'"),
    ):
        engine.generate(ask(200), SAMPLE)
    assert len(server.calls) <= 4


def test_failure_after_failure_stops_too():
    with (
        ChatServer(say, misbehave=always(Reply(400, b"no"))) as server,
        open_(server, max_concurrency=2) as engine,
        pytest.raises(EngineError, match=r"0 of 200 completions were finished, \d+ calls failed"),
    ):
        engine.generate(ask(200), SAMPLE)
    assert GIVE_UP_AFTER <= len(server.calls) <= GIVE_UP_AFTER + 2


TWO = [{"message": {"content": "a"}, "finish_reason": "stop"}] * 2


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"choices": TWO}, "2 choices where 1"),
        ({"choices": []}, "0 choices where 1"),
        ({"choices": None}, "0 choices where 1"),
        ({"usage": None}, "no token counts"),
        ({"usage": {"prompt_tokens": 3}}, "no token counts"),
        ({"usage": {"prompt_tokens": 3, "completion_tokens": 0}}, "0 generated tokens"),
        ({"finish_reason": "content_filter"}, "'content_filter'.*filter"),
        ({"finish_reason": "tool_calls"}, "tool parser"),
        ({"finish_reason": None}, "finish_reason None"),
        ({"finish_reason": "abort"}, "finish_reason 'abort'"),
        ({"message": {"content": None}}, "no text"),
        ({"message": {"content": "", "refusal": "I cannot"}}, "refused: I cannot"),
        ({"message": {"content": "so", "reasoning": "hm"}}, "reasoning parser"),
        ({"logprobs": None}, r"log-probabilities for 0 of \d tokens; set engine.logprobs"),
        ({"logprobs": {"content": [{"logprob": None}] * 6}}, "log-probabilities for 0"),
    ],
)
def test_half_an_answer_is_an_error_and_never_a_text(fields, told):
    with (
        served_with(changed(**fields)) as server,
        open_(server) as engine,
        pytest.raises(EngineError, match=f"request 'r0'.*{told}"),
    ):
        engine.generate(ask(1), SAMPLE)
    assert len(server.calls) == 1


def test_an_empty_text_of_one_token_is_an_answer():
    with ChatServer(lambda r, s: "") as server, open_(server) as engine:
        [[c]] = engine.generate(ask(1), SAMPLE)
    assert (c.text, len(c.token_ids), c.finish) == ("", 1, "stop")


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (Reply(307, b"", {"Location": "https://elsewhere/v1/x"}), "307.*https://elsewhere/v1/x"),
        (Reply(body=b"x" * 3000), "more than 2,000 bytes"),
    ],
)
def test_neither_followed_nor_swallowed(reply, told):
    with ChatServer(say, misbehave=always(reply)) as server, open_(server) as engine:
        engine._client._max_body = 2000
        with pytest.raises(EngineError, match=f"'r0'.*{told}"):
            engine.generate(ask(1), SAMPLE)
    assert len(server.calls) == 1


# ---- what servers do not tell ----------------------------------------------------------------------------------------


def test_without_ids_their_number_is_right():
    with ChatServer(say, tells_tokens=False) as server, open_(server, logprobs=False) as engine:
        [[c]] = engine.generate(ask(1), SAMPLE)
    assert c.token_ids == (chat_completions.UNKNOWN_TOKEN,) * 7  # "question", 0, 1, "is", "so", "." and the end
    assert c.mean_logprob is None
    assert rejection_reason(c) is None  # a bank takes it


def test_log_probabilities_are_averaged_over_what_was_generated():
    with ChatServer({"question 0": ["a b"]}) as server, open_(server) as engine:
        [[c]] = engine.generate(ask(1), SAMPLE)
    assert c.mean_logprob == pytest.approx(-(0.25 + 1.25 + 2.25) / 3)


def test_a_server_may_leave_the_end_of_the_turn_out_of_them():
    listed = {"content": [{"token": "a", "logprob": -1.0}, {"token": " b", "logprob": -3.0}]}
    with ChatServer({"question 0": ["a b"]}, misbehave=(m := changed(logprobs=listed))) as server:
        m.server_of.append(server)
        with open_(server) as engine:
            [[c]] = engine.generate(ask(1), SAMPLE)
    assert (len(c.token_ids), c.mean_logprob) == (3, -2.0)


# ---- opening ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"model": "other"}, r"model 'm' is not served.*: other"),
        ({"owned_by": None}, r"what kind of server.*engine.dialect"),
        ({"misbehave": lambda c, n: Reply(401, b"who?") if n < 0 else None}, "api_key_env"),
        ({"misbehave": lambda c, n: Reply(body={"data": 3}) if n < 0 else None}, "no list of models"),
    ],
)
def test_a_server_that_cannot_be_used_is_told_when_it_is_opened(options, told):
    before = threading.active_count()
    with ChatServer(say, **options) as server, pytest.raises(EngineError, match=told):
        open_(server)
    assert threading.active_count() <= before


def test_a_server_without_a_list_needs_its_kind():
    gone = {"misbehave": lambda c, n: Reply(404, b"nope") if n < 0 else None}
    with ChatServer(say, **gone) as server:
        with pytest.raises(EngineError, match="404"):
            open_(server)
        with open_(server, dialect="openai", logprobs=False) as engine:
            assert engine.generate(ask(1), SAMPLE)


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("https://h/api/v2/", "https://h/api/v2"),
        ("http://[::1]:8/v1", "http://[::1]:8/v1"),
    ],
)
def test_urls(url, checked):
    assert check_url(url) == checked


@pytest.mark.parametrize(
    "url", ["", "h:1", "ftp://h", "http://", "http://u:sesame@h", "http://h?key=sesame", "http://h:x"]
)
def test_what_is_no_url(url):
    with pytest.raises(EngineError) as caught:
        check_url(url)
    assert "u:sesame" not in str(caught.value)


def test_the_key_is_sent_and_never_shown(monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("A_KEY", " sk-sesame\n")
    echo = {"error": {"message": "wrong key sk-sesame", "code": "invalid_api_key"}}
    with ChatServer(say) as server, open_(server, api_key_env="A_KEY") as engine:
        engine.generate(ask(1), SAMPLE)
        assert server.calls[0].headers["Authorization"] == "Bearer sk-sesame"
        server.misbehave = always(Reply(401, echo))
        with pytest.raises(EngineError, match=r"wrong key \*\*\*") as caught:
            engine.generate(ask(1), SAMPLE)
        shown = f"{engine!r} {engine._client!r} {engine._client._clients!r} {caught.value}"
    assert "sesame" not in shown + caplog.text


def test_no_key_is_sent_unless_one_is_named(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-sesame")
    with ChatServer(say) as server, open_(server) as engine:
        engine.generate(ask(1), SAMPLE)
    assert "Authorization" not in server.calls[0].headers


@pytest.mark.parametrize("value", [None, "", "  ", "two words", "schl\u00fcssel"])
def test_a_variable_without_a_key(monkeypatch, value):
    monkeypatch.delenv("A_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("A_KEY", value)
    with pytest.raises(EngineError, match="A_KEY") as caught:
        read_key("A_KEY")
    assert value is None or not value.strip() or value not in str(caught.value)


def test_a_quota_is_no_fault_of_the_moment():
    spent = Reply(429, {"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}})
    with (
        ChatServer(say, misbehave=always(spent)) as server,
        open_(server) as engine,
        pytest.raises(EngineError, match=r"quota.*pay"),
    ):
        engine.generate(ask(1), SAMPLE)
    assert len(server.calls) == 1


# ---- how many at once ------------------------------------------------------------------------------------------------


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.integers(1, 6), st.lists(st.sampled_from([None, 429, 500, "slow", "reset"]), max_size=25), st.integers(0, 20))
def test_bound_and_order(bound, script, n):
    """Never more calls at once than allowed, and results in the order of the requests, whatever happens."""

    def misbehave(call, number):
        what = script[number] if 0 <= number < len(script) else None
        if what == "slow":
            time.sleep(0.01)
            return None
        return None if what is None else Reply(hang_up=True) if what == "reset" else Reply(what, b"busy")

    with (
        ChatServer(say, misbehave=misbehave) as server,
        open_(server, max_concurrency=bound, retries=30, backoff_s=0.0005, max_wait_s=0.002) as engine,
    ):
        got = engine.generate(ask(n, seeds=(1, 2)), SAMPLE)
        assert engine.most_at_once <= bound
    assert server.most_at_once <= bound
    assert [[c.text for c in of_one] for of_one in got] == [
        [f"question {i} {seed} is so." for seed in (1, 2)] for i in range(n)
    ]


def test_all_of_the_bound_is_used():
    with ChatServer(say, latency=0.05) as server, open_(server, max_concurrency=8) as engine:
        engine.generate(ask(16), SAMPLE)
        assert engine.most_at_once == 8


def test_the_window_halves_once_per_loss_and_grows_by_one_per_window():
    async def main():
        window = Window(16)
        started = time.monotonic()
        for _ in range(16):
            window.lost(started)  # all of them were under way when the first one failed
        assert window.limit == 8
        window.lost(time.monotonic() + 1)
        assert window.limit == 4
        for _ in range(4):
            window.good()
        assert 5.5 < window.limit <= 6  # an eighth of 16 more
        for _ in range(1000):
            window.good()
        assert window.limit == 16
        for i in range(20):
            window.lost(time.monotonic() + 2 + i)
        assert window.limit == 1

    asyncio.run(main())


def test_a_cancelled_wait_gives_its_place_back():
    async def main():
        window = Window(1)

        async def hold(seconds):
            async with window.slot():
                await asyncio.sleep(seconds)

        first = asyncio.create_task(hold(0.01))
        await asyncio.sleep(0)
        waiting = [asyncio.create_task(hold(0)) for _ in range(5)]
        await asyncio.sleep(0)
        for task in waiting[:3]:
            task.cancel()
        await asyncio.wait_for(asyncio.gather(first, *waiting, return_exceptions=True), 1)
        assert (window.active, window.most) == (0, 1)

    asyncio.run(main())


# ---- stopping --------------------------------------------------------------------------------------------------------


def test_an_error_while_storing_ends_the_call():
    def full(*_):
        raise OSError("no space left")

    with ChatServer(say, latency=0.02) as server, open_(server, max_concurrency=2, retries=0) as engine:
        engine.on_result = full
        with pytest.raises(OSError, match="no space"):
            engine.generate(ask(200), SAMPLE)
        assert len(server.calls) < 200
        engine.on_result = None
        for _ in range(3):  # no connection is left behind as taken
            assert len(engine.generate(ask(2), SAMPLE)) == 2


def test_results_come_in_the_thread_that_asked():
    threads = set()
    with ChatServer(say) as server, open_(server) as engine:
        engine.on_result = lambda *_: threads.add(threading.get_ident())
        engine.generate(ask(5), SAMPLE)
    assert threads == {threading.get_ident()}


def test_closing_ends_a_call_of_another_thread():
    with ChatServer(say, latency=30) as server:
        engine = open_(server, timeout_s=60)
        caught = []

        def call():
            try:
                engine.generate(ask(3), SAMPLE)
            except EngineError as error:
                caught.append(str(error))

        thread = threading.Thread(target=call)
        thread.start()
        time.sleep(0.1)
        engine.close()
        thread.join(5)
        assert caught == ["the engine was closed; open a new one"]


def test_inside_another_event_loop():
    async def main():
        with ChatServer(say) as server, open_(server) as engine:
            return engine.generate(ask(1), SAMPLE)

    assert asyncio.run(main())[0][0].text == PROPER[0][0]


# ---- thinking budgets ------------------------------------------------------------------------------------------------

THOUGHT = "It may be 3 or 4.</think>\nAnswer: (B)"
BUDGET = Budget(end="</think>", ignore=(" Wait,",), answer_cue="\nAnswer: (", answer_tokens=4)
LONG = SamplingParams(temperature=1.0, max_tokens=100)


def mulling(request: Request, seed: int) -> str:
    """Thinks anew after `Wait,`, and knows the answer once it is asked for."""
    said = request.prompt.partition("\n")[2]
    if said.endswith("\nAnswer: ("):
        return "B)"
    if said.endswith(("(A", "(B")):
        return " fine"
    if said.endswith("</think>"):
        return "\nAnswer: (B)"
    return THOUGHT if not said else f" no, 5 or {seed % 10}.</think>\nAnswer: (C)"


def think(budget: Budget, params: SamplingParams = LONG, **options):
    with ChatServer(mulling, **options) as server, open_(server, logprobs=options.get("tells_tokens", True)) as engine:
        [[c]] = engine.generate([Request("q", "What?", (), (3,))], dataclasses.replace(params, budget=budget))
    return c, server


@pytest.mark.parametrize("tells_tokens", [True, False])
@pytest.mark.parametrize(
    ("change", "text", "ignores", "closed_by", "told", "untold"),
    [
        # ".</" is one token: with it the end begins, and where it goes the full stop is spelt anew
        ({}, r"It may be 3 or 4\.</think>\nAnswer: \(B\)", 0, "model", 6, 6),
        ({"num_ignore": 1}, r"It may be 3 or 4\. Wait, no, 5 or \d\.</think>\nAnswer: \(B\)", 1, "model", 14, 13),
        ({"max_tokens": 5}, r"It may be 3 or</think>\nAnswer: \(B\)", 0, "budget", 5, 5),
        ({"cue": "always"}, r"It may be 3 or 4\.</think>\nAnswer: \(B\)", 0, "model", 7, 6),
        ({"opener": "<think>", "num_ignore": 2}, r"It may be 3 or 4\.</think>\nAnswer: \(B\)", 0, "model", 6, 6),
        ({"start": "<think>Now"}, r"<think>Now no, 5 or \d\.</think>\nAnswer: \(B\)", 0, "model", 5, 5),
        ({"max_tokens": 5, "answers": ("A", "B")}, r"It may be 3 or</think>\nAnswer: \([AB] fine", 0, "budget", 5, 5),
    ],
)
def test_rounds(change, text, ignores, closed_by, told, untold, tells_tokens):
    c, server = think(dataclasses.replace(BUDGET, **change), tells_tokens=tells_tokens)
    assert re.fullmatch(text, c.text)
    done = c.forcing
    assert (done.ignores, done.closed_by) == (ignores, closed_by)
    assert done.thinking_tokens == (told if tells_tokens else untold)
    assert done.closed_at == done.thinking_tokens + 4 * ("start" in change)  # "<", "think", ">" and "Now"
    assert c.finish == "stop"
    assert rejection_reason(c) is None
    probes = [call for call in server.calls if call.body["messages"][0]["content"] != "What?"]
    assert {call.body["max_tokens"] for call in probes} == {1}


def test_a_server_that_begins_a_new_turn_is_refused_after_free_probes():
    with (
        ChatServer(mulling, resumes=False) as server,
        open_(server) as engine,
        pytest.raises(EngineError, match="does not continue a partial answer"),
    ):
        engine.generate(ask(20), dataclasses.replace(LONG, budget=BUDGET))
    assert len(server.calls) == 3
    assert all(call.body["max_tokens"] == 1 for call in server.calls)


def test_a_round_goes_on_from_what_was_said():
    _, server = think(dataclasses.replace(BUDGET, num_ignore=1))
    rounds = [call.body for call in server.calls if call.body["messages"][0]["content"] == "What?"]
    said = [body["messages"][1]["content"] if len(body["messages"]) > 1 else None for body in rounds]
    assert said[:2] == [None, "It may be 3 or 4. Wait,"]
    assert said[2].startswith("It may be 3 or 4. Wait, no, 5 or ")
    assert said[2].endswith("</think>")
    assert [body.get("stop") for body in rounds] == [["</think>"], ["</think>"], None]
    assert [body["continue_final_message"] for body in rounds] == [False, True, True]
    assert [body["add_generation_prompt"] for body in rounds] == [True, False, False]
    assert len({body["seed"] for body in rounds}) == 3
    # what is left of 100 tokens: 4 for the answer, 6 for the closing text, the rest to think
    assert rounds[0]["max_tokens"] == 100 - 4 - 6
    assert rounds[1]["max_tokens"] == rounds[0]["max_tokens"] - 6 - 3


def test_the_ledger_adds_up_and_leaves_forced_tokens_out_of_the_mean():
    c, _ = think(dataclasses.replace(BUDGET, num_ignore=1))
    done = c.forcing
    assert done.thinking_tokens + 3 + done.answer_tokens == len(c.token_ids)  # 3: "</", "think", ">"
    assert done.forced == ((6, 9),)  # the full stop, " Wait" and ","
    assert done.ignored_at == (7,)
    assert done.discarded == 3  # the end that was taken out
    # the fake's i-th token of a round has log-probability -0.25 - i
    drawn = [*range(6), *range(5 + 3), *range(done.answer_tokens)]
    assert c.mean_logprob == pytest.approx(-0.25 - sum(drawn) / len(drawn))


def test_a_loop_is_closed_after_the_round():
    looping = dataclasses.replace(BUDGET, loop_repeats=4, answer_cue="\nAnswer: (")
    words = {"What?": ["Hm. " + "so it is, " * 40]}
    with ChatServer(lambda r, s: words.get(r.prompt, ["B)"])[0]) as server, open_(server) as engine:
        [[c]] = engine.generate([Request("q", "What?", (), (3,))], dataclasses.replace(LONG, budget=looping))
    assert c.forcing.closed_by == "loop"
    assert c.text.count("so it is") == 4
    assert c.text.endswith("</think>\nAnswer: (B)")
    assert c.forcing.discarded == 90 - c.forcing.thinking_tokens


def test_no_text_with_special_tokens():
    chatml = Budget(start="<|im_start|>think", end="<|im_start|>answer", max_tokens=4, answer_tokens=9)
    c, server = think(chatml)
    assert "<|" not in c.text
    assert c.text.startswith("think")
    assert any("<|im_start|>think" in str(call.body["messages"][1:]) for call in server.calls)
    assert all(call.body["skip_special_tokens"] is False for call in server.calls)
