"""The state machine on scripted token streams: what is written, what is counted, and what never happens."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain, cycle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from selftrain.engines.base import EngineError
from selftrain.engines.budget import Budget
from selftrain.engines.budget_forcing.state_machine import LOOP_TOKENS, Forcer
from tests.selftrain.engines.toy import EOS, PIECES, POLICY, TOY, run, spelled, toy

END = ("</", "think", ">")
ANSWER = ("B", ")")
LINED = replace(POLICY, new_line=True)
SPECIAL = replace(POLICY, end="<|end|>A", until=("<|end|>",), cue="limit", end_of_turn="close")


# (policy, max_tokens, what the model writes, the text, thinking tokens, answer tokens, ignores, closed by, discarded)
CASES = {
    "the model's own end": (POLICY, 30, ("a", *END, *ANSWER), "a</think>B)<eos>", 1, 3, 0, "model", 0),
    "a merged end": (POLICY, 30, ("a", ".</", "think", ">\n", *ANSWER), "a.</think>\nB)<eos>", 1, 3, 0, "model", 0),
    "one token holds it all": (POLICY, 30, ("a", "</think>.", "B"), "a</think>.B<eos>", 1, 2, 0, "model", 0),
    "spelt out": (POLICY, 30, ("a", *"</think>", "B"), "a</think>B<eos>", 1, 2, 0, "model", 0),
    "ignored once": (
        replace(POLICY, num_ignore=1), 40, ("a", *END, "b", *END, *ANSWER),
        "a Wait,b</think>B)<eos>", 5, 3, 1, "model", 3,
    ),
    "ignore strings take turns": (
        replace(POLICY, num_ignore=3), 40, ("a", *END, "b", *END, "c", *END, *END, "B"),
        "a Wait,bhmc Wait,</think>B<eos>", 10, 2, 3, "model", 9,
    ),
    "what stood before a merged end stays": (
        replace(POLICY, num_ignore=1), 40, ("a", ".</", "think", ">\n", *END, "B"),
        "a. Wait,</think>B<eos>", 5, 2, 1, "model", 3,
    ),
    "until min_tokens": (
        replace(POLICY, min_tokens=6), 40, ("a", *END, "b", *END, "c", *END, "B"),
        "a Wait,bhmc</think>B<eos>", 7, 2, 2, "model", 6,
    ),
    "no room for an ignore string": (
        replace(POLICY, num_ignore=9, max_tokens=8, ignore=(" Wait,",)), 40, ("a", *END, "b", *END, "B"),
        "a Wait,b</think>B<eos>", 5, 2, 1, "model", 3,
    ),
    "closed at the limit": (
        replace(POLICY, max_tokens=3), 40, ("a", "b", "c", *ANSWER), "abc</think>\nA: (B)<eos>", 3, 3, 0, "budget", 0,
    ),
    "an end that was begun is not written twice": (
        replace(POLICY, max_tokens=3), 40, ("a", "</", "think", *ANSWER),
        "a</think>\nA: (B)<eos>", 1, 3, 0, "budget", 0,
    ),
    "begun in a merged token": (
        replace(POLICY, max_tokens=2), 40, ("a", "x</", *ANSWER), "a</think>\nA: (B)<eos>", 1, 3, 0, "budget", 1,
    ),
    "no thinking at all": (replace(POLICY, max_tokens=0), 40, ANSWER, "</think>\nA: (B)<eos>", 0, 3, 0, "budget", 0),
    "as much as the whole leaves": (POLICY, 12, "abcabc", "ab</think>\nA: (cab", 2, 3, 0, "budget", 0),
    "end of turn": (POLICY, 30, ("a", "b"), "ab<eos>", 2, 0, 0, "end_of_turn", 0),
    "end of turn, ignored": (
        replace(POLICY, num_ignore=1), 30, ("a", "<eos>", "b"), "a Wait,b<eos>", 5, 0, 1, "end_of_turn", 1,
    ),
    "end of turn, closed": (
        replace(POLICY, end_of_turn="close"), 30, ("a", "<eos>", *ANSWER),
        "a</think>\nA: (B)<eos>", 1, 3, 0, "end_of_turn", 1,
    ),
    "the cue always": (
        replace(POLICY, cue="always"), 30, ("a", *END, *ANSWER), "a</think>\nA: (B)<eos>", 1, 3, 0, "model", 1,
    ),
    "a new line for a limit": (
        replace(LINED, max_tokens=1), 30, ("a", "B"), "a\n</think>\nA: (B<eos>", 1, 2, 0, "budget", 0,
    ),
    "already on a new line": (
        replace(LINED, max_tokens=2), 30, ("a", "\n", "B"), "a\n</think>\nA: (B<eos>", 2, 2, 0, "budget", 0,
    ),
    "a special token, rewritten": (SPECIAL, 30, ("a", "<|end|>", "B"), "a<|end|>AB<eos>", 1, 2, 0, "model", 0),
    "a special token, at the limit": (
        replace(SPECIAL, max_tokens=1), 30, ("a", "B"), "a<|end|>A\nA: (B<eos>", 1, 2, 0, "budget", 0,
    ),
    "a special token, end of turn": (SPECIAL, 30, ("a", "<eos>", "B"), "a<|end|>AB<eos>", 1, 2, 0, "end_of_turn", 1),
    "a start": (
        replace(POLICY, start="no", max_tokens=2), 30, ("a", "b", "B"),
        "noab</think>\nA: (B<eos>", 2, 2, 0, "budget", 0,
    ),
    "has not thought": (
        replace(POLICY, opener="hm", num_ignore=2, end_of_turn="close"), 40, ("a",),
        "a<eos>", 1, 0, 0, "end_of_turn", 0,
    ),
    "has thought": (
        replace(POLICY, opener="hm", num_ignore=1), 40, ("hm", "<eos>", *END, "B"),
        "hm Wait,</think>B<eos>", 4, 2, 1, "model", 1,
    ),
    "one of a few answers": (
        replace(POLICY, max_tokens=1, answers=("A)", "B)")), 40, ("a", "x</", "c"),
        "a</think>\nA: (B)c<eos>", 1, 4, 0, "budget", 0,
    ),
    "a loop": (
        replace(POLICY, loop_repeats=4, loop_span=8), 80, ("c", *("a", "b", "hm", "\n", "A") * 4, "B"),
        "c" + "abhm\nA" * 4 + "</think>\nA: (B<eos>", 21, 2, 0, "loop", 0,
    ),
    "nearly a loop": (
        replace(POLICY, loop_repeats=4, loop_span=8), 80, ("c", *("a", "b", "hm", "\n", "A") * 3, "a", *END, "B"),
        "c" + "abhm\nA" * 3 + "a</think>B<eos>", 17, 2, 0, "model", 0,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_streams(name):
    policy, max_tokens, written, text, thinking, answer, ignores, closed_by, discarded = CASES[name]
    forcer = run(toy(policy, max_tokens), spelled(*written))
    ledger = forcer.record()
    assert TOY.decode(forcer.ids) == text
    assert (ledger.thinking_tokens, ledger.answer_tokens) == (thinking, answer)
    assert (ledger.ignores, ledger.closed_by, ledger.discarded) == (ignores, closed_by, discarded)


def test_a_loop_is_closed_as_soon_as_it_is_one():
    budget = toy(replace(POLICY, loop_repeats=3, loop_span=8), 80)
    for span in (1, 3, 8):
        looping = run(budget, chain([PIECES.index("no")], cycle(range(9, 9 + span)))).record()
        assert (looping.closed_by, looping.thinking_tokens) == ("loop", 1 + max(3 * span, LOOP_TOKENS))
    nine = run(budget, cycle(range(7, 16))).record()
    assert nine.closed_by == "budget"  # longer than loop_span


def test_forced_repeats_are_no_loop():
    policy = replace(POLICY, ignore=("a",), num_ignore=30, loop_repeats=2, loop_span=8)
    ledger = run(toy(policy, 100), cycle([PIECES.index("b"), EOS])).record()
    assert (ledger.ignores, ledger.closed_by) == (30, "end_of_turn")


# ---- what cannot be --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("policy", "error", "why"),
    [
        (Budget(end="</dénouement>"), EngineError, "cannot produce `end` '</dénouement>'"),
        (replace(POLICY, ignore=("Zut",)), EngineError, "cannot produce `ignore` 'Zut'"),
        (Budget(end="a<eos>"), EngineError, "ends the turn"),
        (replace(POLICY, ignore=("no</think>a",)), ValueError, "'no</think>a' holds or begins '</think>'"),
        (replace(POLICY, ignore=("no<",)), ValueError, "'no<' holds or begins '</think>'"),
        (replace(POLICY, start="a</think"), ValueError, "`start` 'a</think' holds or begins"),
        (replace(POLICY, answers=("B)B",)), ValueError, "answer_tokens 3 < 4"),
        (
            replace(POLICY, answer_tokens=14),
            ValueError,
            r"max_tokens 20 has no room.*start 0 \+ thinking 0 \+ closing 7 .*\+ answer 14 = 21 tokens",
        ),
        (
            replace(POLICY, answer_tokens=9, min_tokens=5, start="a"),
            ValueError,
            r"start 1 \+ thinking 5 \+ closing 7 .*\+ answer 9 = 22 tokens",
        ),
    ],
)
def test_budgets_that_cannot_be_kept(policy, error, why):
    with pytest.raises(error, match=why):
        toy(policy, 20)


def test_nothing_follows_the_end():
    forcer = run(toy(POLICY, 30), spelled("a"))
    with pytest.raises(ValueError, match="has ended"):
        forcer.advance([1])


# ---- whatever the model writes ---------------------------------------------------------------------------------------

policies = st.builds(
    Budget,
    end=st.sampled_from(["</think>", "<|end|>A"]),
    until=st.sampled_from([(), ("<|end|>",), ("</think>", "<|end|>")]),
    start=st.sampled_from(["", "no"]),
    opener=st.sampled_from(["", "", "hm"]),
    ignore=st.sampled_from([(" Wait,",), (" Wait,", "hm")]),
    num_ignore=st.integers(0, 4),
    min_tokens=st.integers(0, 12),
    max_tokens=st.none() | st.integers(12, 30),
    answer_cue=st.sampled_from(["", "\nA: ("]),
    cue=st.sampled_from(["always", "forced", "limit"]),
    answers=st.sampled_from([(), ("A)", "B)"), ("A)", "Aa", "hm")]),
    new_line=st.booleans(),
    end_of_turn=st.sampled_from(["stop", "close"]),
    answer_tokens=st.integers(4, 6),
    loop_repeats=st.sampled_from([0, 2, 3]),
    loop_span=st.integers(1, 9),
)
# Ends of thinking, whole and in parts, more often than by chance.
likely = ["</", "think", ">", ">\n", ".</", "</think>.", "<", "/", "x</", "<|end|>", "<eos>", "a", "b"]
whole = [
    [PIECES.index(p) for p in parts]
    for parts in (END, (".</", "think", ">\n"), ("x</", "think", ">"), ("<|end|>", "A"))
]
streams = st.lists(
    st.sampled_from(whole) | st.sampled_from([[PIECES.index(p)] for p in likely] + [[i] for i in range(len(PIECES))]),
    min_size=1,
    max_size=80,
).map(lambda parts: list(chain(*parts)))


@pytest.mark.slow
@settings(deadline=None, max_examples=400)
@given(policy=policies, stream=streams, max_tokens=st.integers(40, 70))
def test_the_ledger_always_adds_up(policy, stream, max_tokens):
    budget = toy(policy, max_tokens)
    forcer = run(budget, cycle(stream))
    ledger, ids = forcer.record(), forcer.ids
    assert len(ids) <= max_tokens
    assert ids[-1] == EOS or len(ids) == max_tokens
    assert EOS not in ids[:-1]
    assert ledger.closed_by is not None  # closed, one way or another: no sample is lost
    # thinking within its budget, and the answer's tokens kept free
    assert ledger.thinking_tokens <= (policy.max_tokens or max_tokens)
    assert ledger.thinking_tokens <= budget.limit
    assert ledger.closed_at == len(budget.start) + ledger.thinking_tokens
    answer_at = len(ids) - ledger.answer_tokens
    assert answer_at >= ledger.closed_at
    if ledger.closed_by != "end_of_turn" or policy.end_of_turn == "close":
        assert max_tokens - answer_at >= policy.answer_tokens or policy.opener
    # every forced token is where the ledger says, and nothing else is
    assert list(ledger.forced) == sorted(ledger.forced)
    assert tuple(ids[: len(budget.start)]) == budget.start
    assert len(ledger.ignored_at) == ledger.ignores
    for number, at in enumerate(ledger.ignored_at):
        text = budget.ignore[number % len(budget.ignore)]
        assert tuple(ids[at : at + len(text)]) == text
        assert any(first <= at and at + len(text) <= last for first, last in ledger.forced)
    # an end of thinking stands in the text once at most, and where the ledger says
    thought = "".join(map(TOY.piece, ids[len(budget.start) : ledger.closed_at]))
    assert not any(end in thought for end in budget.ends)
    # min(n, natural stops), as far as the budget goes
    assert ledger.ignores <= policy.num_ignore or policy.min_tokens
    stopped = ledger.closed_by in ("model", "end_of_turn")
    longest = max(map(len, budget.ignore))
    left_alone = policy.opener and policy.opener not in TOY.decode(ids[: ledger.closed_at])
    if stopped and not left_alone and ledger.thinking_tokens + longest + 3 < budget.limit:
        assert ledger.ignores >= policy.num_ignore
        assert ledger.thinking_tokens >= policy.min_tokens
    if budget.answers and any(first <= ledger.closed_at < last for first, last in ledger.forced):
        cue = budget.cued_close[len(budget.plain_close) :]
        if cue and tuple(ids[answer_at - len(cue) : answer_at]) == cue and policy.cue != "limit":
            assert any(tuple(ids[answer_at : answer_at + len(a)]) == a for a in budget.answers)


@given(stream=streams, max_tokens=st.integers(1, 60))
def test_a_budget_that_does_nothing_changes_nothing(stream, max_tokens):
    policy = Budget(end="</think>", answer_cue="\nA: (")
    forcer = run(toy(policy, max_tokens), cycle(stream))
    plain = []
    for token in cycle(stream):
        plain.append(token)
        if token == EOS or len(plain) == max_tokens:
            break
    assert forcer.ids == plain
    assert (forcer.record().forced, forcer.record().discarded) == ((), 0)


@pytest.mark.slow
@settings(deadline=None)
@given(policy=policies, stream=streams)
def test_triggers_miss_nothing(policy, stream):
    """Tokens that are no trigger may be handed over late, up to the deadline."""
    policy = replace(policy, loop_repeats=0)
    budget = toy(policy, 60)
    triggers = budget.triggers(len(PIECES) + 5)
    assert triggers.shape == (len(PIECES) + 5,)
    source = cycle(stream)
    lazy = Forcer(budget)
    lazy.begin()
    waiting = []
    while not lazy.ended:
        token = next(source)
        if lazy.allowed and token not in lazy.allowed:
            token = lazy.allowed[token % len(lazy.allowed)]
        waiting.append(token)
        if triggers[token] or len(lazy.ids) + len(waiting) == lazy.deadline:
            lazy.advance(waiting)
            waiting = []
    assert lazy.ids == run(budget, cycle(stream)).ids
