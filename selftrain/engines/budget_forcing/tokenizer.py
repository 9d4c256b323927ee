"""What forcing needs to know of a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

SPACE = "\u2581"  # how SentencePiece writes a space, also the one that it puts before a text by itself
_MARK = "\ue000"  # around special tokens: a text that spells one out is not the token


class Vocabulary(Protocol):
    """Text to ids and back. A piece is a token as a string; joined pieces stand for the text one to one."""

    def encode(self, text: str) -> list[int]:
        """Ids of a text that is continued, special tokens read as such."""

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens written out; whatever cannot be written differs from what was encoded."""

    def piece(self, token: int) -> str: ...

    def spell(self, piece: str) -> list[int]:
        """Ids whose pieces join to `piece`; [] if there are none."""


class TokenizerVocabulary:
    """A tokenizer of transformers."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        special = set(tokenizer.all_special_ids)
        names = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
        self.pieces = [
            "" if name is None else f"{_MARK}{name}{_MARK}" if token in special else name
            for token, name in enumerate(names)
        ]
        self._ids = {piece: token for token, piece in enumerate(self.pieces) if piece}
        self._longest = max(map(len, self._ids))

    def encode(self, text: str) -> list[int]:
        return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        text = self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return str(text)

    def piece(self, token: int) -> str:
        return self.pieces[token] if token < len(self.pieces) else ""  # weights may have rows without a token

    def spell(self, piece: str) -> list[int]:
        ids: list[int] = []
        while piece:
            for size in range(min(len(piece), self._longest), 0, -1):
                if (token := self._ids.get(piece[:size])) is not None:
                    break
            else:
                return []
            ids.append(token)
            piece = piece[size:]
        return ids
