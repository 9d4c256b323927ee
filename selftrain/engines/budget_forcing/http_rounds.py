"""A thinking budget on a server: in rounds, each of which continues the answer so far.

A server stops where it is asked to and continues a partial answer; it cannot be steered within a call. So a
round ends at the end of thinking, at a limit, or with the answer, and `state_machine.Forcer`, which every engine
obeys, says what the next one continues. The text travels, not the tokens: where the server cuts it into other
tokens than it generated, what the model sees differs from one decode. Such rounds are counted.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Protocol

from data_process.seeds import seed_for
from selftrain.engines.base import Completion, EngineError, mean_logprob
from selftrain.engines.budget import Budget
from selftrain.engines.budget_forcing.state_machine import Forcer, resolve
from selftrain.engines.openai_api.chat_completions import UNKNOWN_TOKEN, Answer

END = 0  # ends the turn; the other ids here are our own too, numbered as they are met
# Budgets may consist of special tokens, so a server is asked to write them out; the text of a completion is without
# them. ChatML, Qwen and Llama 3 write theirs in this way, and a server does not tell which tokens are special.
SPECIAL = re.compile(r"<\|\w+\|>")


class Ask(Protocol):
    """One call: what the model says after `prefix`."""

    async def __call__(
        self, prefix: str, seed: int, max_tokens: int, stop: Sequence[str], choices: Sequence[str]
    ) -> Answer: ...


class WireVocabulary:
    """The tokens of one sample as a server reports them: texts, and ids where it gives them. See `Vocabulary`."""

    def __init__(self, counts: Mapping[str, int]) -> None:
        """`counts`: tokens of every text that the budget may write, counted by the server."""
        self._counts = counts
        self._tokens: list[tuple[str, int]] = [("", UNKNOWN_TOKEN)]
        self._numbers: dict[tuple[str, int], int] = {}

    def number(self, text: str, token: int = UNKNOWN_TOKEN) -> int:
        known = self._numbers.setdefault((text, token), len(self._tokens))
        if known == len(self._tokens):
            self._tokens.append((text, token))
        return known

    def encode(self, text: str) -> list[int]:
        return [self.number(part) for part in split(text, self._counts[text])]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(map(self.piece, ids))

    def piece(self, token: int) -> str:
        return self._tokens[token][0]

    def spell(self, piece: str) -> list[int]:
        return [self.number(piece)] if piece else []

    def end(self, token: int) -> int:
        """The end of the turn, which the server calls `token`."""
        self._tokens[END] = ("", token)
        return END

    def server_id(self, number: int) -> int:
        return self._tokens[number][1]


def split(text: str, n: int) -> list[str]:
    """`text` in `n` parts as equal as can be; the right number of tokens where nobody says which."""
    return [text[len(text) * i // n : len(text) * (i + 1) // n] for i in range(n)]


def texts_of(policy: Budget) -> list[str]:
    """What a budget may write, and so what must be counted."""
    cued = policy.end + policy.answer_cue
    texts = [*policy.ends, policy.end, cued, *policy.ignore, *policy.answers]
    return list(dict.fromkeys(texts + [policy.start] * bool(policy.start) + ["\n" + cued] * policy.new_line))


async def think(
    ask: Ask, name: str, policy: Budget, counts: Mapping[str, int], max_tokens: int, seed: int
) -> tuple[Completion, int]:
    """One sample, and how many rounds the server began with another number of tokens than there had been.

    `name` begins errors; raises what `ask` and `resolve` raise.
    """
    vocabulary = WireVocabulary(counts)
    forcer = Forcer(resolve(policy, vocabulary, {END}, max_tokens))
    forcer.begin()
    logprobs: list[float | None] = [None] * len(forcer.ids)
    reported: dict[int, int] = {}  # place -> id of a forced token, where the server gives it
    base, unused, reencoded = -1, 0, 0
    for number in itertools.count():
        room = min(forcer.deadline, max_tokens) - len(forcer.ids)
        if room < 1:
            break
        choices = policy.answers if forcer.allowed else ()
        if choices:
            room = max(counts[choice] for choice in choices)
        stop = policy.ends if forcer.thinking else ()
        # another seed for each round: the same one would draw the same numbers again
        answer = await ask(
            vocabulary.decode(forcer.ids), seed if number == 0 else seed_for("round", seed, number), room, stop, choices
        )
        if base < 0:
            base = answer.n_prompt_tokens - len(forcer.ids)
        if answer.n_prompt_tokens - base != len(forcer.ids):
            reencoded += 1
        elif answer.prompt_ids is not None:
            reported |= dict(enumerate(answer.prompt_ids[base:]))
        if choices:
            text = SPECIAL.sub("", answer.text)
            if text not in choices:
                raise EngineError(f"{name}: asked for one of {choices}, the server said {text!r}; leave `answers` out")
            drawn: list[tuple[int, float | None]] = [(token, None) for token in vocabulary.encode(text)]
        else:
            drawn = _numbered(answer, stop, vocabulary, counts)
        unused += max(len(answer.tokens) - len(drawn), 0)
        moved = False
        for at, (token, logprob) in enumerate(drawn):
            if choices and not forcer.allowed:
                break  # what follows is certain and has been written
            logprobs.append(logprob)
            move = forcer.advance([token])
            moved = bool(move.back or move.forced)
            del logprobs[len(logprobs) - move.back :]
            logprobs += [None] * len(move.forced)
            if forcer.ended or (moved and not choices):
                unused += len(drawn) - at - 1  # after a loop: a server runs on to the end of the round
                break
        if forcer.ended or (answer.finish == "length" and not moved and not choices and len(drawn) < room):
            break  # or the server's context is full
    ids = [
        reported.get(at, UNKNOWN_TOKEN) if (id_ := vocabulary.server_id(token)) == UNKNOWN_TOKEN else id_
        for at, token in enumerate(forcer.ids)
    ]
    record = forcer.record()
    completion = Completion(
        text=SPECIAL.sub("", vocabulary.decode(forcer.ids)),
        token_ids=tuple(ids),
        n_prompt_tokens=base,
        finish="stop" if forcer.ids[-1] == END else "length",
        mean_logprob=mean_logprob(logprobs),
        forcing=replace(record, discarded=record.discarded + unused),
    )
    return completion, reencoded


def _numbered(
    answer: Answer, stop: Sequence[str], vocabulary: WireVocabulary, counts: Mapping[str, int]
) -> list[tuple[int, float | None]]:
    """The tokens of a round under our numbers, with their log-probabilities."""
    stopped = answer.stop
    if stopped is None and answer.finish == "stop":  # some servers do not say what stopped them
        stopped = next((end for end in stop if answer.text.endswith(end)), None)
    turn_ends = answer.finish == "stop" and stopped is None
    tokens = answer.tokens[:-1] if turn_ends else answer.tokens
    texts = _texts([token.text for token in tokens], answer, stopped, counts)
    drawn = [(vocabulary.number(text, t.id), t.logprob) for text, t in zip(texts, tokens, strict=True)]
    return [*drawn, (vocabulary.end(answer.tokens[-1].id), answer.tokens[-1].logprob)] if turn_ends else drawn


def _texts(
    texts: Sequence[str | None], answer: Answer, stopped: str | None, counts: Mapping[str, int]
) -> Sequence[str]:
    """What each token says. Where the server's tokens do not make up its text, the text in equal parts."""
    known = [text for text in texts if text is not None]
    joined = "".join(known)
    end = answer.tokens[-1].text or ""
    # a token may continue after the stop string, and some servers write the end of the turn out
    fits = joined == answer.text or joined + end == answer.text or (stopped and joined.startswith(answer.text))
    if len(known) == len(texts) and fits:
        return known
    if stopped is None:
        return split(answer.text, len(texts)) if texts else []
    last = min(counts[stopped], len(texts))
    body = answer.text.removesuffix(stopped)
    if last == len(texts):
        return split(body + stopped, last)
    return [*split(body, len(texts) - last), *split(stopped, last)]
