"""What a server says about the model it serves."""

from __future__ import annotations

from dataclasses import dataclass

from selftrain.engines.base import EngineError
from selftrain.engines.openai_api.chat_completions import DIALECTS, Dialect
from selftrain.engines.openai_api.client import HttpFault, JsonClient


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
            return Served(model, **{key: card.get(key) for key in ("owned_by", "root", "parent", "max_model_len")})
    known = ", ".join(sorted(str(card.get("id")) for card in cards[:20])) or "none"
    raise EngineError(f"{name} is not served at {client.url}; set engine.model_name to one that is: {known}")


def dialect_of(client: JsonClient, served: Served) -> Dialect:
    """How to talk to it, by what it says it is."""
    if served.owned_by in DIALECTS:
        return DIALECTS[served.owned_by]
    raise EngineError(
        f"{client.url} does not say what kind of server it is (owned_by is {served.owned_by!r}); "
        f"set engine.dialect to one of {', '.join(DIALECTS)}"
    )
