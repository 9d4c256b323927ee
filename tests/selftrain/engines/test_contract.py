"""What every engine promises, tried on each of them."""

from __future__ import annotations

import dataclasses
from itertools import chain

import pytest

from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.budget import Budget
from selftrain.engines.scripted import ScriptedEngine
from tests.selftrain.engines.contract import KINDS, opener

pytestmark = pytest.mark.slow

SAMPLE = SamplingParams(temperature=1.0, max_tokens=16)
GREEDY = SamplingParams(temperature=0, max_tokens=16)
SHORT = Budget(end=" so", answer_cue=" is", max_tokens=6, answer_tokens=4)


@pytest.fixture(scope="module", params=KINDS)
def open_it(request):
    """open_it(batch_size=...): a fresh engine of each kind."""
    with opener(request.param, lambda: request.getfixturevalue("tiny_model")) as open_engine:
        yield open_engine


@pytest.fixture(scope="module")
def it(open_it):
    """An engine of each kind that stays open."""
    with open_it() as engine:
        yield engine


def texts(completions):
    return [[c.text for c in of_one] for of_one in completions]


def test_order_and_number(it, mixed, ask):
    requests = [dataclasses.replace(r, seeds=tuple(range(i))) for i, r in enumerate(ask(mixed))]
    got = it.generate(requests, SAMPLE)
    assert [len(of_one) for of_one in got] == [0, 1, 2, 3, 4]
    lengths = [it.count_prompt_tokens(r.prompt, r.images) for r in requests]
    assert [c.n_prompt_tokens for of_one in got for c in of_one] == [
        n for n, of_one in zip(lengths, got, strict=True) for _ in of_one
    ]
    turned = it.generate(requests[::-1], SAMPLE)
    assert texts(turned) == texts(got)[::-1]


def test_a_completion_depends_on_its_seed_alone(it, mixed, ask):
    together = it.generate(ask(mixed, seeds=(5, 6, 7, 8)), SAMPLE)
    for request, expected in zip(ask(mixed, seeds=(7, 5)), together, strict=True):
        alone = it.generate([request], SAMPLE)[0]
        assert [c.token_ids for c in alone] == [expected[2].token_ids, expected[0].token_ids]
    for of_one in together:
        assert len({c.token_ids for c in of_one}) == 4


def test_a_seed_twice_gives_the_same_twice(it, mixed, ask):
    for first, second in it.generate(ask(mixed, seeds=(3, 3)), SAMPLE):
        assert first == second


def test_huge_and_negative_seeds(it, mixed, ask):
    found = it.generate(ask(mixed[:1], seeds=(-1, 0, 2**31, 2**63 + 1)), SAMPLE)[0]
    assert len({c.token_ids for c in found}) == 4


def test_greedy_does_not_depend_on_the_seed(it, mixed, ask):
    for of_one in it.generate(ask(mixed, seeds=(1, 2, 3)), GREEDY):
        assert len({c.token_ids for c in of_one}) == 1


def test_n_split_over_batches(open_it, mixed, ask):
    requests = ask(mixed, seeds=range(5))
    with open_it() as whole, open_it(batch_size=3) as split:
        assert texts(split.generate(requests, SAMPLE)) == texts(whole.generate(requests, SAMPLE))


def test_finish_reasons_and_lengths(it, mixed, ask):
    seen = set()
    for of_one in it.generate(ask(mixed, seeds=range(20)), SAMPLE):
        for c in of_one:
            seen.add(c.finish)
            assert 1 <= len(c.token_ids) <= SAMPLE.max_tokens
            assert c.finish == "stop" or len(c.token_ids) == SAMPLE.max_tokens
            assert c.mean_logprob <= 0
    assert seen == {"stop", "length"}


def test_more_tokens_continue_the_same_text(it, mixed, ask):
    short = it.generate(ask(mixed, seeds=range(8)), SAMPLE)
    longer = it.generate(ask(mixed, seeds=range(8)), dataclasses.replace(SAMPLE, max_tokens=22))
    for a, b in zip(chain(*short), chain(*longer), strict=True):
        assert b.token_ids[: len(a.token_ids)] == a.token_ids
        assert a.finish == "length" or a == b


def test_a_budget_is_kept_to_and_accounted_for(it, mixed, ask):
    params = dataclasses.replace(SAMPLE, budget=SHORT)
    plain = it.generate(ask(mixed, seeds=range(20)), SAMPLE)
    for a, b in zip(chain(*it.generate(ask(mixed, seeds=range(20)), params)), chain(*plain), strict=True):
        assert b.forcing is None
        assert a.forcing.thinking_tokens <= 6
        assert len(a.token_ids) <= SAMPLE.max_tokens
        assert a.token_ids[: a.forcing.thinking_tokens] == b.token_ids[: a.forcing.thinking_tokens]
        if a.forcing.closed_by == "budget":
            assert " so is" in a.text
        elif a.forcing.closed_by == "end_of_turn":
            assert a.text == b.text
            assert a.forcing.status == "no_delimiter"


def test_a_budget_without_effect(it, mixed, ask):
    params = dataclasses.replace(SAMPLE, budget=Budget(end=" so"))
    plain = it.generate(ask(mixed, seeds=range(8)), SAMPLE)
    for a, b in zip(chain(*it.generate(ask(mixed, seeds=range(8)), params)), chain(*plain), strict=True):
        assert dataclasses.replace(a, forcing=None) == b


def test_a_forced_start_stands_first_and_is_in_the_ledger(it, mixed, ask):
    """It is no part of the thinking, and what follows it keeps to the same budget."""
    start = "<think>"
    params = dataclasses.replace(SAMPLE, budget=dataclasses.replace(SHORT, start=start), max_tokens=30)
    for c in chain(*it.generate(ask(mixed, seeds=range(12)), params)):
        assert c.text.startswith(start)
        first, size = c.forcing.forced[0]
        assert first == 0 < size
        assert c.forcing.thinking_tokens <= 6
        assert c.forcing.closed_at == size + c.forcing.thinking_tokens


def test_no_room_for_a_budget(it, mixed, ask):
    with pytest.raises(ValueError, match=r"max_tokens 16 has no room.*\+ answer 20 ="):
        it.generate(
            ask(mixed), dataclasses.replace(SAMPLE, budget=dataclasses.replace(SHORT, max_tokens=0, answer_tokens=20))
        )


def test_what_a_request_begins_is_continued(it, mixed, ask):
    """Beside requests that begin nothing, which it does not change."""
    plain = ask(mixed, seeds=(1, 2))
    begun = [dataclasses.replace(r, id=f"{r.id}b", prefix="find the angle so") for r in plain]
    found = it.generate([r for pair in zip(plain, begun, strict=True) for r in pair], SAMPLE)
    assert texts(found[::2]) == texts(it.generate(plain, SAMPLE))
    assert texts(found[1::2]) == texts(it.generate(begun[::-1], SAMPLE))[::-1]
    added = {b[0].n_prompt_tokens - a[0].n_prompt_tokens for a, b in zip(found[::2], found[1::2], strict=True)}
    assert len(added) == 1
    assert min(added) >= 4
    if not isinstance(it, ScriptedEngine):
        assert texts(found[::2]) != texts(found[1::2])


def test_empty_input(it, mixed, ask):
    assert it.generate([], SAMPLE) == []
    assert it.generate(ask(mixed, seeds=()), SAMPLE) == [[]] * len(mixed)


def test_duplicate_ids(it, mixed, ask):
    request = ask(mixed)[0]
    with pytest.raises(ValueError, match="'r0'"):
        it.generate([request, request], SAMPLE)


def test_a_bad_picture_is_named_and_nothing_is_returned(it, mixed, ask, tmp_path):
    whole = mixed[0][1][0].read_bytes()
    for name, content in {"cut.png": whole[: len(whole) // 2], "text.png": b"not a picture", "none.png": None}.items():
        if name == "cut.png" and isinstance(it, ScriptedEngine):
            continue  # it does not decode pictures
        bad = tmp_path / name
        if content is not None:
            bad.write_bytes(content)
        with pytest.raises(EngineError, match=f"'bad'.*{name}"):
            it.generate([*ask(mixed), Request("bad", "What is x?", (bad,), (1,))], SAMPLE)
    assert it.generate(ask(mixed), SAMPLE)  # and the engine goes on


def test_close_and_reopen(open_it, mixed, ask):
    with open_it() as first:
        before = first.generate(ask(mixed), SAMPLE)
    first.close()
    with pytest.raises(EngineError, match="closed"):
        first.generate(ask(mixed), SAMPLE)
    with open_it() as second:
        assert second.generate(ask(mixed), SAMPLE) == before


def test_progress(open_it, mixed, ask):
    done: list[int] = []
    with open_it(batch_size=4) as engine:
        engine.on_batch = done.append
        engine.generate(ask(mixed, seeds=(1, 2)), SAMPLE)
    assert sum(done) == 2 * len(mixed)


def test_several_pictures(it, several, ask):
    """Each has its place and its tokens, and an answer does not depend on the neighbours."""
    requests = ask(several, seeds=(1, 2))
    together = it.generate(requests, SAMPLE)
    assert texts(it.generate(requests[::-1], SAMPLE))[::-1] == texts(together)
    for request, found in zip(requests, together, strict=True):
        assert found[0].n_prompt_tokens == it.count_prompt_tokens(request.prompt, request.images)
        assert texts([found]) == texts(it.generate([request], SAMPLE))
        fewer = dataclasses.replace(request, prompt=request.prompt.replace("<image>", ""), images=request.images[:1])
        assert found[0].n_prompt_tokens > it.count_prompt_tokens(fewer.prompt, fewer.images)


def test_a_place_without_a_picture_is_an_error(it, several, ask):
    lacking = dataclasses.replace(ask(several)[0], images=several[0][1][:1])
    with pytest.raises(EngineError, match="2 <image> placeholders but 1 images"):
        it.generate([lacking], SAMPLE)


def test_two_picture_sizes(it, sizes, ask):
    requests = ask(list(sizes.values()), seeds=(1, 2))
    together = it.generate(requests, SAMPLE)
    bare = it.generate([dataclasses.replace(r, images=()) for r in requests], SAMPLE)
    for request, found, without in zip(requests, together, bare, strict=True):
        assert texts([found]) == texts(it.generate([request], SAMPLE))
        assert found[0].n_prompt_tokens > without[0].n_prompt_tokens
