"""A sample decoded in segments is the one that the state machine makes token by token."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.engines.base import EngineError
from selftrain.engines.budget import Budget
from selftrain.engines.budget_forcing.segments import LOOK_EVERY, Sample, loops
from selftrain.engines.budget_forcing.state_machine import loop_size
from tests.selftrain.engines.budget_forcing.test_state_machine import policies, streams
from tests.selftrain.engines.toy import EOS, PIECES, POLICY, run, toy

SIZE = len(PIECES)


def decode(budget, tape, *, stops=True, max_tokens=60):
    """What an engine would do: the n-th token that it draws is tape[n], those that were dropped are drawn again.

    `stops`: whether it ends a segment where it is told to, or runs to the segment's length. Returns the sample and the
    segments it took.
    """
    triggers = None if budget is None else budget.triggers(SIZE)
    sample, drawn, segments = Sample(7, max_tokens, {EOS}, budget, triggers), 0, []
    while not sample.ended:
        segment = sample.segment()
        assert segment.written == sample.token_ids
        segments.append(segment)
        tokens: list[int] = []
        while len(tokens) < segment.max_tokens:
            token = tape[(drawn + len(tokens)) % len(tape)]
            if segment.allowed and token not in segment.allowed:
                token = segment.allowed[token % len(segment.allowed)]
            tokens.append(token)
            if token == EOS:
                break
            if stops and any(end in "".join(PIECES[t] for t in tokens) for end in segment.stop):
                break
            if stops and segment.watch_loops and sample.looping(tokens):
                break
        drawn += sample.take(tokens, [-float(t + 1) for t in tokens])
    return sample, segments


def tape_of(tape):
    while True:
        yield from tape


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(policy=policies, tape=streams, stops=st.booleans())
def test_segments_equal_single_tokens(policy, tape, stops):
    budget = toy(policy, 60)
    forcer = run(budget, tape_of(tape))
    sample, segments = decode(budget, tape, stops=stops)
    assert sample.token_ids == tuple(forcer.ids)
    assert sample.record() == forcer.record()
    assert len({segment.seed for segment in segments}) == len(segments)
    assert segments[0].seed == 7
    drawn = np.ones(len(sample.token_ids), dtype=bool)
    for first, last in sample.record().forced:
        drawn[first:last] = False
    known = [-float(t + 1) for t, own in zip(sample.token_ids, drawn, strict=True) if own]
    assert sample.mean_logprob == (pytest.approx(sum(known) / len(known)) if known else None)


def test_a_budget_that_lets_the_model_end_by_itself_takes_one_segment():
    text = [PIECES.index(p) for p in ("a", "b", "</", "think", ">", "A", "<eos>")]
    sample, segments = decode(toy(replace(POLICY, max_tokens=20), 60), text)
    assert [PIECES[t] for t in sample.token_ids] == ["a", "b", "</", "think", ">", "A", "<eos>"]
    assert len(segments) == 1
    assert segments[0].stop == ()
    assert sample.record().closed_by == "model"


def test_an_ignored_end_takes_one_more():
    text = [PIECES.index(p) for p in ("a", "</", "think", ">", "b", "</", "think", ">", "A", "<eos>")]
    sample, segments = decode(toy(replace(POLICY, num_ignore=1), 60), text)
    assert "".join(PIECES[t] for t in sample.token_ids) == "a Wait,b</think>A<eos>"
    assert [segment.stop for segment in segments] == [("</think>",), ()]
    assert sample.record().discarded == 3
    assert sample.finish == "stop"


def test_plain():
    text = [PIECES.index(p) for p in ("a", "b", "<eos>")]
    sample, segments = decode(None, text)
    assert (sample.token_ids, sample.finish, sample.record()) == (tuple(text), "stop", None)
    assert len(segments) == 1
    cut, _ = decode(None, [PIECES.index("a")], max_tokens=5)
    assert (len(cut.token_ids), cut.finish) == (5, "length")


def test_what_an_engine_must_not_give():
    sample = Sample(1, 5, {EOS})
    with pytest.raises(EngineError, match="no token"):
        sample.take([], [])
    with pytest.raises(EngineError, match="not numbers"):
        sample.take([1], [math.nan])
    sample.take([EOS], [-1.0])
    with pytest.raises(ValueError, match="has ended"):
        sample.segment()


@pytest.mark.slow
@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 2), max_size=120), st.integers(2, 4), st.integers(1, 12))
def test_loops_are_those_of_the_definition(tokens, repeats, longest):
    expected = [
        at
        for at in range(len(tokens))
        if any(
            (size := loop_size(span, repeats)) <= at + 1
            and all(tokens[i] == tokens[i - span] for i in range(at - size + 1 + span, at + 1))
            for span in range(1, longest + 1)
        )
    ]
    assert loops(tokens, repeats, longest) == expected


def test_a_loop_is_seen_by_the_next_look():
    budget = toy(Budget(end="</think>", loop_repeats=4, answer_tokens=3), 2000)
    sample = Sample(1, 2000, {EOS}, budget, budget.triggers(SIZE))
    assert sample.segment().watch_loops
    text = [PIECES.index(p) for p in "abct" * 50]  # repeats at once
    assert sample.looping(text[:LOOK_EVERY])
    assert not sample.looping([9 + i % 5 * (i % 7) for i in range(30)])
    assert sample.take(text[:LOOK_EVERY], None) == 16
    assert sample.record().closed_by == "loop"
