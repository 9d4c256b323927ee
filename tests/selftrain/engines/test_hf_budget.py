"""Budget forcing inside the decode of the transformers engine, against doing it the slow way by hand."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from itertools import chain

import pytest
import torch

from selftrain.engines.base import EngineError, SamplingParams
from selftrain.engines.budget import Budget
from selftrain.engines.budget_forcing.state_machine import Forcer, resolve
from selftrain.engines.budget_forcing.tokenizer import TokenizerVocabulary
from selftrain.engines.hf import HFEngine
from tests.selftrain.engines.test_hf import processed, teacher_forced

pytestmark = pytest.mark.slow

PLAIN = SamplingParams(temperature=1.0, max_tokens=40)


@pytest.fixture(scope="module")
def cue(engine, mixed, ask) -> str:
    """Two tokens that the random model often writes one after the other: what ends its thinking in these tests."""
    tokenizer = engine._processor.tokenizer
    pairs: Counter[str] = Counter()
    for c in chain(*engine.generate(ask(mixed, seeds=range(40)), PLAIN)):
        for pair in zip(c.token_ids, c.token_ids[1:], strict=False):
            text = tokenizer.decode(pair)
            if (
                re.fullmatch(r"[ -~]+", text)
                and tokenizer(text)["input_ids"] == list(pair)
                and not any(engine._is_eos[list(pair)])
            ):
                pairs[text] += 1
    text, count = pairs.most_common(1)[0]
    assert count > 10
    return text


@pytest.fixture(scope="module")
def safe(engine) -> list[str]:
    """Texts without a token that ends the turn: the random model has many of those."""
    tokenizer = engine._processor.tokenizer
    texts = [f"{a}{b}" for a in (" so", " step", " is", "and", "line") for b in (" of", " the", "!", "?", "")]
    return [text for text in texts if not any(engine._is_eos[tokenizer(text)["input_ids"]])]


@pytest.fixture(scope="module")
def forcing(engine, cue, safe) -> Budget:
    return Budget(
        end=cue,
        ignore=(safe[0], safe[4]),
        num_ignore=3,
        max_tokens=24,
        answer_cue=safe[1],
        answers=(safe[2], safe[3], safe[5]),
        answer_tokens=8,
        end_of_turn="close",
        loop_repeats=4,
        loop_span=6,
    )


def drawn_logprob(engine: HFEngine, pair, completion) -> float:
    """Mean over the tokens that were not forced, from one plain forward pass over the text that was returned."""
    forced = set(chain(*(range(*span) for span in completion.forcing.forced)))
    drawn = [i for i in range(len(completion.token_ids)) if i not in forced]
    logprobs = teacher_forced(engine, pair, completion.token_ids).log_softmax(-1)
    return float(logprobs[drawn, [completion.token_ids[i] for i in drawn]].mean())


def by_hand(engine: HFEngine, pair, params: SamplingParams) -> Forcer:
    """Greedy decoding of one sample, every token from a whole forward pass over prompt, picture and text so far."""
    forcer = Forcer(engine._budget(params)[0])
    forcer.begin()
    while not forcer.ended:
        logits = teacher_forced(engine, pair, (*forcer.ids, 0))[-1]
        if params.repetition_penalty != 1:
            seen = [*processed(engine, [pair])["input_ids"][0].tolist(), *forcer.ids]
            known = torch.zeros_like(logits, dtype=torch.bool)
            known[seen] = True
            changed = torch.where(logits < 0, logits * params.repetition_penalty, logits / params.repetition_penalty)
            logits = torch.where(known, changed, logits)
        if allowed := forcer.allowed:
            forcer.advance([allowed[int(logits[allowed].argmax())]])
        else:
            forcer.advance([int(logits.argmax())])
    return forcer


@pytest.mark.parametrize("penalty", [1.0, 1.4])
def test_greedy_equals_doing_it_by_hand(engine, mixed, ask, forcing, penalty, monkeypatch):
    """Tokens taken back leave no trace: rows at different stages get what each would get alone from scratch."""
    monkeypatch.setattr("selftrain.engines.hf.DROP_SHARE", 0.01)
    params = SamplingParams(temperature=0, max_tokens=32, repetition_penalty=penalty, budget=forcing)
    answers = engine.generate(ask(mixed), params)
    assert (
        sum(found.forcing.discarded > found.forcing.ignores for [found] in answers) > 0
    )  # more than one token at once
    for pair, [found] in list(zip(mixed, answers, strict=True))[:4]:
        expected = by_hand(engine, pair, params)
        assert list(found.token_ids) == expected.ids
        assert found.forcing == expected.record()


def test_sampled_text_is_seen_by_the_model_as_it_stands(engine, mixed, ask, forcing, monkeypatch):
    """The probability of every drawn token is that of a plain forward pass over the text that was returned."""
    monkeypatch.setattr("selftrain.engines.hf.DROP_SHARE", 0.01)
    params = SamplingParams(temperature=1.0, max_tokens=60, budget=dataclasses.replace(forcing, num_ignore=1))
    taken_back, closed = 0, Counter()
    for pair, found in zip(mixed, engine.generate(ask(mixed, seeds=range(40)), params), strict=True):
        for c in found:
            ledger = c.forcing
            if engine._image_id not in c.token_ids:  # the plain pass would look for one more picture
                assert c.mean_logprob == pytest.approx(drawn_logprob(engine, pair, c), abs=1e-4)
            assert c.text == engine._processor.tokenizer.decode(c.token_ids, skip_special_tokens=True)
            taken_back += ledger.discarded
            closed[ledger.closed_by] += 1
            assert ledger.thinking_tokens <= 24
            assert ledger.closed_by is not None
            assert c.finish == ("stop" if engine._is_eos[c.token_ids[-1]] else "length")
            if ledger.closed_by != "model":
                answer = engine._processor.tokenizer.decode(c.token_ids[len(c.token_ids) - ledger.answer_tokens :])
                assert answer.startswith(forcing.answers)
    assert taken_back > 20
    assert min(closed["model"], closed["budget"], closed["end_of_turn"]) > 0


def test_a_budget_that_does_nothing_changes_nothing(engine, mixed, ask, cue):
    plain = engine.generate(ask(mixed, seeds=range(8)), PLAIN)
    watched = engine.generate(
        ask(mixed, seeds=range(8)), dataclasses.replace(PLAIN, budget=Budget(end=cue, answer_cue=" step ("))
    )
    for a, b in zip(chain(*plain), chain(*watched), strict=True):
        assert dataclasses.replace(b, forcing=None) == a
        assert (b.forcing.n_forced, b.forcing.discarded) == (0, 0)
    stops = Counter(c.forcing.status for c in chain(*watched))
    assert stops["no_delimiter"] > 0  # counted, not silently plain
    assert stops["unforced"] > 0


def test_the_same_alone_and_together(engine, mixed, ask, forcing):
    params = dataclasses.replace(PLAIN, max_tokens=60, budget=forcing)
    together = engine.generate(ask(mixed, seeds=(5, 6, 7)), params)
    for request, found in zip(ask(mixed, seeds=(7,)), together, strict=True):
        [[alone]] = engine.generate([request], params)
        assert (alone.token_ids, alone.forcing) == (found[2].token_ids, found[2].forcing)


def test_the_picture_is_seen_once(engine, mixed, ask, forcing, monkeypatch):
    seen, read = [], []
    tower, prefill = engine._model.model.get_image_features, engine._prefill
    monkeypatch.setattr(
        engine._model.model, "get_image_features", lambda pixels, grid: seen.append(len(grid)) or tower(pixels, grid)
    )
    monkeypatch.setattr(engine, "_prefill", lambda prompts, *rest: read.append(len(prompts)) or prefill(prompts, *rest))
    engine._encoded.clear()
    found = engine.generate(ask(mixed, seeds=range(8)), dataclasses.replace(PLAIN, max_tokens=60, budget=forcing))
    assert sum(c.forcing.ignores for c in chain(*found)) > 8
    assert (sum(seen), sum(read)) == (2, len(mixed))


def test_more_tokens_taken_back_than_there_was_memory_for(engine, mixed, ask, cue, safe, monkeypatch):
    monkeypatch.setattr("selftrain.engines.hf.WIDER_BY", 1)
    monkeypatch.setattr("selftrain.engines.decoding.kv_cache.GROWTH", 1)
    budget = Budget(end=cue, until=(cue, cue[-1:]), ignore=(safe[0],), num_ignore=30, answer_tokens=1)
    params = SamplingParams(temperature=1.0, max_tokens=30, budget=budget)
    found = engine.generate(ask(mixed, seeds=range(10)), params)
    steps = [len(c.token_ids) + c.forcing.discarded for c in chain(*found)]
    assert max(steps) > 30
    for pair, of_one in zip(mixed, found, strict=True):
        for c in of_one:
            if engine._image_id not in c.token_ids:
                assert c.mean_logprob == pytest.approx(drawn_logprob(engine, pair, c), abs=1e-4)


def test_what_this_tokenizer_cannot_keep_to(engine, mixed, ask, monkeypatch):
    monkeypatch.setattr(engine, "_decode", None)  # refused before any work
    room = SamplingParams(1.0, 10, budget=Budget(end="</think>", answer_tokens=8))
    with pytest.raises(ValueError, match=r"max_tokens 10 has no room.*\+ answer 8 = \d+ tokens"):
        engine.generate(ask(mixed), room)
    turn = SamplingParams(1.0, 10, budget=Budget(end="<|im_end|>"))
    with pytest.raises(EngineError, match=r"`end` '<\|im_end\|>' holds the token that ends the turn"):
        engine.generate(ask(mixed), turn)


def test_special_tokens_are_found_as_tokens(engine, safe):
    tokenizer = engine._processor.tokenizer
    mark = next(
        t for t in tokenizer.all_special_tokens if t not in (tokenizer.eos_token, engine._processor.image_token)
    )
    [token] = tokenizer(mark)["input_ids"]
    spelled = list(chain(*tokenizer([mark[:2], mark[2:-2], mark[-2:]])["input_ids"]))
    assert tokenizer.decode(spelled) == mark
    budget = Budget(end=f"{mark}{safe[0]}", until=(mark,), answer_tokens=4)
    for ids, closes in (([token], True), (spelled, False)):
        forcer = Forcer(resolve(budget, TokenizerVocabulary(tokenizer), {tokenizer.eos_token_id}, 60))
        forcer.begin()
        for one in ids:
            forcer.advance([one])
        assert forcer.thinking != closes
