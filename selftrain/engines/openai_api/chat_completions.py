"""The chat-completions format: what is asked of a server and what its answer holds.

Servers call the same things by different names and take different things for granted (llama.cpp samples with top-k 40
and min-p 0.05 by default, vLLM and SGLang with what the checkpoint ships), so every decoding setting is
sent, under the name that the server knows. A setting that it has no name for is refused, never left out.
"""

from __future__ import annotations

import base64
import re
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from data_process.images.marks import segments
from data_process.schema import Finish, shown
from data_process.seeds import seed_for
from selftrain.engines.base import EngineError, SamplingParams
from selftrain.engines.openai_api.client import HttpFault, JsonClient

UNKNOWN_TOKEN = 2**32 - 1  # stands for a token whose id the server does not tell; no vocabulary is so large
MAX_COUNT = 2**20  # tokens of a prompt or of an answer that are believed; no context is so large
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class Dialect:
    """What one kind of server calls things. None: it has no such thing."""

    name: str
    max_tokens: str = "max_tokens"
    top_k: str | None = "top_k"
    no_top_k: int = 0  # what says "no limit"
    repetition_penalty: str | None = "repetition_penalty"
    always: Mapping[str, Any] | None = None  # sent with every request
    keep_stop: Mapping[str, Any] | None = None  # leaves the stop string in the text; None: cannot say what stopped it
    resume: Mapping[str, Any] | None = None  # continues the last message; None: cannot
    choose: str | None = None  # restricts the text to one of several: "structured_outputs" or "regex"


_RESUME = {"continue_final_message": True, "add_generation_prompt": False, "skip_special_tokens": False}
DIALECTS = {
    "vllm": Dialect(
        "vllm",
        always={"min_p": 0.0, "return_token_ids": True},
        keep_stop={"include_stop_str_in_output": True},
        resume=_RESUME,
        choose="structured_outputs",
    ),
    "sglang": Dialect(
        "sglang",
        no_top_k=-1,
        always={"min_p": 0.0, "return_token_ids": True, "separate_reasoning": False},
        keep_stop={"no_stop_trim": True},
        resume=_RESUME,
        choose="regex",
    ),
    "llamacpp": Dialect(
        "llamacpp",
        repetition_penalty="repeat_penalty",
        # repeat_last_n -1: over the whole context, as elsewhere, and not over the last 64 tokens
        always={"min_p": 0.0, "typical_p": 1.0, "repeat_last_n": -1},
    ),
    "openai": Dialect("openai", max_tokens="max_completion_tokens", top_k=None, repetition_penalty=None),
}


@dataclass(frozen=True)
class Token:
    """One generated token, as far as the server reports it."""

    text: str | None
    id: int  # UNKNOWN_TOKEN where it does not say
    logprob: float | None


@dataclass(frozen=True)
class Answer:
    """One choice of a chat completion."""

    text: str
    finish: Finish
    n_prompt_tokens: int
    tokens: tuple[Token, ...]  # as many as the server's usage counts
    stop: str | None  # the stop string that ended it; None: the end of the turn, or a limit
    prompt_ids: tuple[int, ...] | None  # the input of the model, where the server reports it


def wire_seed(seed: int) -> int:
    """A seed that every server takes: 32 bits, and not the one that means "random" to llama.cpp (2^32 - 1)."""
    return seed if 0 <= seed < 2**32 - 1 else seed_for("wire", seed) >> 1


def data_url(name: str, path: Path) -> str:
    """A canonical PNG's own bytes as a data URL. EngineError, beginning with `name`, if the file is no whole PNG.

    Nothing is decoded or encoded again: the server sees the pixels that training sees.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EngineError(f"{name}: cannot read the image {path}: {error}; store it again") from error
    if reason := _png_fault(data):
        raise EngineError(f"{name}: the image {path} {reason}; store it again")
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")


def _png_fault(data: bytes) -> str | None:
    if not data.startswith(_PNG_SIGNATURE):
        return "is not a PNG"
    at = len(_PNG_SIGNATURE)
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            break
        if zlib.crc32(data[at + 4 : end - 4]) != int.from_bytes(data[end - 4 : end], "big"):
            return "is damaged (a checksum does not fit)"
        if kind == b"IEND":
            return None
        at = end
    return "is cut off"


def user_turn(prompt: str, image_urls: Sequence[str]) -> dict[str, Any]:
    """Images and text in the order in which they stand in the prompt. DataError for a place without an image."""
    first, *others = segments(prompt, len(image_urls))
    if not image_urls:
        return {"role": "user", "content": prompt}
    content: list[dict[str, Any]] = [{"type": "text", "text": first}] if first else []
    for url, text in zip(image_urls, others, strict=True):
        content.append({"type": "image_url", "image_url": {"url": url}})
        content += [{"type": "text", "text": text}] if text else []
    return {"role": "user", "content": content}


def why_unsupported(params: SamplingParams, dialect: Dialect) -> str | None:
    """Why a server of this kind cannot sample as asked, or None."""
    if params.top_k and dialect.top_k is None:
        return f"a server of kind {dialect.name!r} has no top_k; set top_k to 0 (it is {params.top_k})"
    if params.repetition_penalty != 1 and dialect.repetition_penalty is None:
        return f"a server of kind {dialect.name!r} has no repetition_penalty; set it to 1.0"
    if params.budget is not None and (dialect.resume is None or dialect.keep_stop is None):
        return (
            f"a server of kind {dialect.name!r} cannot continue a partial answer, so it cannot keep a thinking budget; "
            "use vLLM or SGLang, or leave the budget out"
        )
    return None


def body(
    model: str,
    turn: Mapping[str, Any],
    params: SamplingParams,
    seed: int,
    dialect: Dialect,
    *,
    logprobs: bool,
    max_tokens: int | None = None,
    prefix: str | None = None,
    stop: Sequence[str] = (),
    choices: Sequence[str] = (),
) -> dict[str, Any]:
    """The request for one completion. `prefix` is what the assistant has said so far; None: nothing, and no budget.

    `choices`: what is to be said is one of these.
    """
    found: dict[str, Any] = {
        "model": model,
        "messages": [turn],
        "temperature": params.temperature,
        "top_p": params.top_p,
        dialect.max_tokens: params.max_tokens if max_tokens is None else max_tokens,
        "seed": seed,
        "n": 1,
        "stream": False,
        **(dialect.always or {}),
    }
    if dialect.top_k is not None:
        found[dialect.top_k] = params.top_k or dialect.no_top_k
    if dialect.repetition_penalty is not None:
        found[dialect.repetition_penalty] = params.repetition_penalty
    if logprobs:
        found["logprobs"] = True
    if prefix is not None:
        found |= dialect.resume or {}
        if prefix:
            found["messages"].append({"role": "assistant", "content": prefix})
        else:  # some templates cannot continue an empty message, and none need
            found |= {"continue_final_message": False, "add_generation_prompt": True}
    if stop:
        found |= {"stop": list(stop), **(dialect.keep_stop or {})}
    if choices and dialect.choose == "regex":
        found["regex"] = "|".join(f"({re.escape(choice)})" for choice in choices)
    elif choices:
        found["structured_outputs"] = {"choice": list(choices)}
    return found


def read_answer(answer: Mapping[str, Any], *, name: str, url: str, logprobs: bool, stop: Sequence[str] = ()) -> Answer:
    """The one choice of an answer, or EngineError, beginning with `name`, if there is not exactly one whole text."""

    def wrong(what: str) -> EngineError:
        return EngineError(f"{name}: {url} {what}")

    choices = answer.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        count = len(choices) if isinstance(choices, list) else 0
        raise wrong(f"sent {count} choices where 1 was asked for: {_short(answer)}")
    [choice] = choices
    message = choice.get("message") if isinstance(choice.get("message"), dict) else {}
    if message.get("refusal"):
        raise wrong(f"refused: {_short(message['refusal'])}; leave the problem out, or use another model")
    finish = choice.get("finish_reason")
    if finish not in ("stop", "length"):
        why = {
            "content_filter": "its filter took the answer away; leave the problem out, or use another model",
            "tool_calls": "it called a tool; start the server without a tool parser",
        }.get(str(finish), "only 'stop' and 'length' end an answer; see the server's log")
        raise wrong(f"ended with finish_reason {shown(finish)}: {why}")
    if message.get("reasoning") or message.get("reasoning_content"):
        raise wrong("keeps the reasoning apart from the answer; start it without a reasoning parser")
    text = message.get("content")
    if not isinstance(text, str):
        raise wrong(f"sent no text: {_short(message)}")
    usage = answer.get("usage")
    counts = [usage.get(key) if isinstance(usage, dict) else None for key in ("prompt_tokens", "completion_tokens")]
    n_prompt, n = counts
    if not (_is_count(n_prompt) and _is_count(n)):
        raise wrong(f"sent no token counts ({_short(usage)}); switch `usage` on in the server or its gateway")
    if n < 1:
        raise wrong("counted 0 generated tokens, which is no answer; see the server's log")
    reason = choice.get("stop_reason", choice.get("matched_stop"))
    if not (isinstance(reason, str) and reason in stop):
        reason = None
    sent_ids = answer.get("prompt_token_ids", choice.get("prompt_token_ids"))
    prompt_ids = tuple(sent_ids) if _are_ids(sent_ids) and len(sent_ids) == n_prompt else None
    tokens = _tokens(choice, n)
    known = sum(token.logprob is not None for token in tokens)
    if logprobs and (known < n - 1 or known == 0):  # some servers leave the end of the turn out
        raise wrong(f"sent log-probabilities for {known} of {n} tokens; set engine.logprobs to false if it has none")
    return Answer(text, finish, n_prompt, tokens, reason, prompt_ids)


def _tokens(choice: Mapping[str, Any], n: int) -> tuple[Token, ...]:
    """`n` tokens with what is said about them. A list of another length says nothing about any one token."""
    sent_ids = choice.get("token_ids")
    ids = sent_ids if _are_ids(sent_ids) and len(sent_ids) == n else [UNKNOWN_TOKEN] * n
    listed = choice.get("logprobs")
    entries = listed.get("content") if isinstance(listed, dict) else None
    if not (isinstance(entries, list) and len(entries) in (n - 1, n) and all(isinstance(e, dict) for e in entries)):
        return tuple(Token(None, id_, None) for id_ in ids)
    entries = entries + [{}] * (n - len(entries))
    return tuple(
        Token(_token_text(entry), id_, _finite(entry.get("logprob"))) for id_, entry in zip(ids, entries, strict=True)
    )


def _token_text(entry: Mapping[str, Any]) -> str | None:
    raw, text = entry.get("bytes"), entry.get("token")
    with suppress(ValueError):  # part of a character
        if _are_ids(raw):
            return bytes(raw).decode()
    return text if isinstance(text, str) else None


def _is_count(value: object) -> TypeGuard[int]:
    return type(value) is int and 0 <= value <= MAX_COUNT


def _are_ids(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int and 0 <= item < UNKNOWN_TOKEN for item in value)


def _finite(value: object) -> float | None:
    # A whole number may be too large for a float.
    return float(value) if isinstance(value, int | float) and -1e300 < value <= 0 else None


def _short(value: object) -> str:
    if isinstance(value, str):
        return value if len(value) <= 300 else f"{value[:300]} ..."
    return shown(value, 300)


_CARD_TEXTS = ("owned_by", "root", "parent")


@dataclass(frozen=True)
class Served:
    """One entry of a server's list of models."""

    model: str
    owned_by: str | None = None  # "vllm", "sglang", "llamacpp": which server this is
    root: str | None = None  # where the weights lie, on the server
    parent: str | None = None  # the base model of an adapter
    max_model_len: int | None = None  # tokens, prompt and answer together


async def look_up(client: JsonClient, model: str, *, optional: bool) -> Served:
    """The entry of `model`; EngineError if the server has other models only.

    `optional`: a server that keeps no list is taken as it is.
    """
    name = f"model {model!r}"
    try:
        listed = await client.call("/models", name=name)
    except HttpFault as fault:
        if optional and fault.status == 404:
            return Served(model)
        raise
    cards = listed.get("data")
    if not isinstance(cards, list) or not all(isinstance(card, dict) for card in cards):
        raise EngineError(f"{name}: {client.url}/models is no list of models; check engine.url")
    for card in cards:
        if card.get("id") == model:
            texts = {key: said if isinstance(said := card.get(key), str) else None for key in _CARD_TEXTS}
            length = card.get("max_model_len")
            return Served(model, **texts, max_model_len=length if _is_count(length) else None)
    known = ", ".join(sorted(_short(card.get("id")) for card in cards[:20])) or "none"
    raise EngineError(f"{name} is not served at {client.url}; set engine.model_name to one that is: {known}")


def dialect_of(client: JsonClient, served: Served) -> Dialect:
    """How to talk to it, by what it says it is."""
    if served.owned_by in DIALECTS:
        return DIALECTS[served.owned_by]
    raise EngineError(
        f"{client.url} does not say what kind of server it is (owned_by is {shown(served.owned_by)}); "
        f"set engine.dialect to one of {', '.join(DIALECTS)}"
    )
