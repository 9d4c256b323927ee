"""A batch is steered as its rows would be one by one, whatever order they are in and whenever they leave."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.engines.budget_forcing.batched import Steering
from selftrain.engines.budget_forcing.state_machine import Forcer
from tests.selftrain.engines.budget_forcing.test_state_machine import policies, streams
from tests.selftrain.engines.toy import PIECES, POLICY, run, toy

SIZE = len(PIECES)


def decode(budget, tapes, shuffle: random.Random):
    """Row r draws the tokens of tapes[r] in turn, one a step, used or not; ended rows leave now and then.

    Returns the steering, its masks, and what a model would have been shown of each row: (step, token), less what it
    was told to forget.
    """
    steering = Steering(budget, budget.triggers(SIZE), len(tapes))
    order = np.arange(len(tapes))
    written: list[list[tuple[int, int]]] = [[] for _ in tapes]
    for step in range(2000):
        tokens = np.array([tapes[row][step % len(tapes[row])] for row in order], dtype=np.int64)
        for place, allowed in steering.choices(step, order):
            if tokens[place] not in allowed:
                tokens[place] = allowed[tokens[place] % len(allowed)]
        taken, ended = steering.steer(step, order, tokens)
        for back in taken:
            row = order[back.row]
            gone = [entry for entry in written[row] if back.first <= entry[0] < back.last]
            assert len(gone) == back.last - back.first > 0
            assert back.last == step  # they are the last ones
            written[row] = [entry for entry in written[row] if entry not in gone]
        for place, row in enumerate(order):
            written[row].append((step, int(tokens[place])))
        if ended.all():
            break
        if shuffle.random() < 0.3:
            order = order[~ended]
            shuffle.shuffle(order)
    else:
        pytest.fail("never ends")
    kept, drawn = steering.masks()
    return steering, kept, drawn, written


@pytest.mark.slow
@settings(deadline=None, max_examples=150)
@given(policy=policies, tapes=st.lists(streams, min_size=1, max_size=5), seed=st.integers(0, 99))
def test_a_batch_equals_its_rows(policy, tapes, seed):
    budget = toy(policy, 60)
    steering, kept, drawn, written = decode(budget, tapes, random.Random(seed))
    for row, tape in enumerate(tapes):
        alone = run_in_steps(budget, tape)
        assert steering[row].ids == alone.ids
        assert steering[row].record() == alone.record()
        shown = [token for _, token in written[row]][: len(alone.ids)]
        assert shown == alone.ids
        assert int(kept[row].sum()) == len(alone.ids)
        assert int((kept[row] & ~drawn[row]).sum()) == alone.record().n_forced


def run_in_steps(budget, tape):
    """The same sample alone: one step a token, whether drawn, forced or taken back."""
    forcer = Forcer(budget)
    step = len(forcer.begin().forced)
    while not forcer.ended:
        token = tape[step % len(tape)]
        if forcer.allowed and token not in forcer.allowed:
            token = forcer.allowed[token % len(forcer.allowed)]
        move = forcer.advance([token])
        step += len(move.forced) if move.back else 1 + len(move.forced)
    return forcer


def test_tokens_taken_back_do_not_count():
    """A row that keeps stopping needs more steps than it has tokens."""
    budget = toy(replace(POLICY, num_ignore=8, answer_tokens=3), 40)
    tape = [PIECES.index(p) for p in ("</", "think", ">")]
    steering, kept, _, _ = decode(budget, [tape, [PIECES.index("a")]], random.Random(0))
    assert steering[0].record().discarded == 3 * 8
    assert kept.shape[1] > 40
    assert [len(steering[row].ids) for row in range(2)] == kept.sum(axis=1).tolist()
    assert len(steering[1].ids) == 40


def test_alone_is_what_the_machine_says():
    """`run_in_steps` against the plain feeding of one token after another, where no step is passed over."""
    budget = toy(POLICY, 30)
    tape = [PIECES.index(p) for p in ("a", "b", "</", "think", ">", "B", "<eos>")]
    assert run_in_steps(budget, tape).ids == run(budget, chain(tape)).ids
