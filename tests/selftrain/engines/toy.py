"""A vocabulary of a few pieces that merge as those of real tokenizers do."""

from __future__ import annotations

from collections.abc import Sequence

from selftrain.engines.budget import Budget
from selftrain.engines.budget_forcing.state_machine import Forcer, TokenBudget, resolve

PIECES = (
    "<eos>", "</", "think", ">", ">\n", ".</", "</think>.", "<", "/", "a", "b", "c", ".", "\n", " W", "ait", ",", "A",
    ":", "(", ")", "B", " ", "hm", "no", "x</", "<|end|>", "t", "h", "i", "n", "k",
)  # fmt: skip
EOS = 0
END_TOKEN = PIECES.index("<|end|>")  # stands for a special token: no text can spell it


class Toy:
    """Greedy longest match."""

    def encode(self, text: str) -> list[int]:
        ids = []
        while text:
            found = max((p for p in PIECES if text.startswith(p)), key=len, default=None)
            if found is None:
                return []
            ids.append(PIECES.index(found))
            text = text[len(found) :]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(PIECES[token] for token in ids)

    def piece(self, token: int) -> str:
        if token == END_TOKEN:
            return "\ue000end\ue000"
        return PIECES[token] if token < len(PIECES) else ""

    def spell(self, piece: str) -> list[int]:
        return self.encode(piece)


TOY = Toy()
POLICY = Budget(end="</think>", ignore=(" Wait,", "hm"), answer_cue="\nA: (", answer_tokens=3)


def toy(policy: Budget, max_tokens: int) -> TokenBudget:
    return resolve(policy, TOY, {EOS}, max_tokens)


def run(budget: TokenBudget, stream) -> Forcer:
    """Feed one sample from an iterator of token ids until it has ended."""
    forcer = Forcer(budget)
    forcer.begin()
    while not forcer.ended:
        token = next(stream)
        if forcer.allowed and token not in forcer.allowed:
            token = forcer.allowed[token % len(forcer.allowed)]
        forcer.advance([token])
    return forcer


def spelled(*pieces: str):
    """Ids of the pieces, then the end of the turn for ever."""
    yield from map(PIECES.index, pieces)
    while True:
        yield EOS
