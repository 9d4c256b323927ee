"""Budgets and ledgers as data."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest

from selftrain.engines.base import SamplingParams
from selftrain.engines.budget import (
    PRESETS,
    S1,
    S1_M,
    TINY,
    Budget,
    ForcingRecord,
    forcing_from_json,
    preset,
)

PLAIN = Budget(end="</think>")
FULL = Budget(end="</think>", ignore=("Wait",), num_ignore=2, min_tokens=4, max_tokens=9, answer_tokens=3)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"end": ""}, "`end`"),
        ({"until": ("</think>", "")}, "`until`"),
        ({"num_ignore": -1}, "num_ignore must be >= 0, not -1"),
        ({"min_tokens": -2}, "min_tokens must be >= 0, not -2"),
        ({"answer_tokens": -2}, "answer_tokens must be >= 0, not -2"),
        ({"ignore": ()}, "need `ignore`"),
        ({"ignore": ("Wait", "")}, "ignore string is empty"),
        ({"answers": ("",)}, "`answers` is empty"),
        ({"max_tokens": 3}, "max_tokens 3 of thinking < min_tokens 4"),
        ({"max_tokens": -1, "min_tokens": 0}, "max_tokens -1 of thinking < min_tokens 0"),
        ({"loop_repeats": 1}, "loop_repeats 1"),
        ({"loop_span": 0}, "loop_span 0"),
        ({"answer_tokens": 0}, "set answer_tokens"),
    ],
)
def test_impossible_budgets(change, why):
    with pytest.raises(ValueError, match=why):
        dataclasses.replace(FULL, **change)


@pytest.mark.parametrize(
    "change",
    [{"max_tokens": 5}, {"loop_repeats": 2}, {"cue": "always"}, {"end_of_turn": "close"}, {"until": ("x",)}],
)
def test_whatever_changes_texts_keeps_room_for_the_answer(change):
    assert not PLAIN.acts
    with pytest.raises(ValueError, match="set answer_tokens"):
        dataclasses.replace(PLAIN, **change)
    assert dataclasses.replace(PLAIN, answer_tokens=1, **change).acts


def test_presets_are_the_published_ones():
    assert {name: preset(name) for name in PRESETS} == {"s1": S1, "s1-m": S1_M, "tiny": TINY}
    assert (S1.start, S1.ends, S1.end + S1.answer_cue, S1.ignore) == (
        "<|im_start|>think", ("<|im_start|>",), "<|im_start|>answer\nFinal Answer:", ("Wait",),
    )  # fmt: skip
    assert (len(set(S1_M.ignore)), S1_M.max_tokens, S1_M.end + S1_M.answer_cue) == (
        7, 30_000, "</think>\nFinal answer: ",
    )  # fmt: skip
    with pytest.raises(KeyError, match="known: s1, s1-m, tiny"):
        preset("s2")


def test_part_of_the_parameters():
    params = SamplingParams(0.9, 100, budget=FULL)
    assert hash(params) == hash(SamplingParams(0.9, 100, budget=dataclasses.replace(FULL)))
    assert "budget" not in SamplingParams(0.9, 100).to_json()
    assert json.loads(json.dumps(params.to_json()))["budget"]["ignore"] == ["Wait"]


def ledger(**fields) -> ForcingRecord:
    plain = ForcingRecord(5, 3, 0, (), "model", 5, (), 0)
    return dataclasses.replace(plain, **fields)


@pytest.mark.parametrize(
    ("forcing", "status", "stops"),
    [
        (ledger(), "unforced", 1),
        (ledger(ignores=2, ignored_at=(1, 3), forced=((1, 2), (3, 4))), "forced", 3),
        (ledger(closed_by="budget", forced=((5, 9),)), "forced", 0),
        (ledger(closed_by="loop", forced=((5, 9),)), "forced", 0),
        (ledger(closed_by="end_of_turn", forced=((5, 9),)), "forced", 1),
        (ledger(closed_by="end_of_turn", answer_tokens=0), "no_delimiter", 1),
        (ledger(closed_by="end_of_turn", answer_tokens=0, forced=((0, 2),)), "no_delimiter", 1),  # `start` alone
        (ledger(closed_by=None, closed_at=None, answer_tokens=0), "no_delimiter", 0),
    ],
)
def test_status(forcing, status, stops):
    assert (forcing.status, forcing.ends_of_thinking) == (status, stops)
    assert Counter([forcing.status])[status] == 1
    assert forcing.n_forced == sum(b - a for a, b in forcing.forced)
    assert forcing_from_json(json.loads(json.dumps(dataclasses.asdict(forcing)))) == forcing
