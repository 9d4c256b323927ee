"""Whether an engine answers as transformers does, asked before an iteration trusts it.

A few prompts go through both. Their token ids must be equal: a template or an image that is read in another way makes
every later number another one. Greedy texts may part only where the two best tokens are so close that rounding decides.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol, runtime_checkable

from selftrain.engines.base import Completion, EngineError, GivesPromptIds, Request, SamplingParams

# How far behind the best token, in nats, another one may be and still come first elsewhere. Logits of about 20 are
# 0.125 apart in bfloat16 and 0.016 in float16; in float32 only the order of sums differs.
TOLERANCE = {"float32": 0.01, "float16": 0.1, "bfloat16": 0.5}
TEXT_TOKENS = 128  # compared of each answer


@runtime_checkable
class Comparable(GivesPromptIds, Protocol):
    """An engine that can be compared."""

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]: ...


@runtime_checkable
class Reference(Comparable, Protocol):
    """An engine that others can be compared with: transformers."""

    def runner_up(self, request: Request, token_ids: Sequence[int]) -> list[tuple[int, float]]:
        """For greedy `token_ids`: at each place the second best token, and how many nats it is behind the best."""


@dataclass(frozen=True)
class Expected:
    """What transformers makes of one request."""

    request: Request
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    second: tuple[tuple[int, float], ...]  # at each place, the second best token and how far behind it is, in nats


@dataclass(frozen=True)
class Parting:
    """Where one answer parts from transformers'."""

    id: str
    at: int  # index of the first other token
    expected: int | None  # token id; None: it ends there
    found: int | None
    nats: float | None  # how far behind transformers has the found token; None: further than its second best
    explained: bool  # by rounding


def expectations(reference: Reference, requests: Sequence[Request], max_tokens: int) -> list[Expected]:
    """Greedy answers of transformers, of at most `max_tokens` tokens."""
    params = SamplingParams(temperature=0, max_tokens=min(max_tokens, TEXT_TOKENS))
    found = []
    for request, (answer,) in zip(requests, reference.generate(requests, params), strict=True):
        prompt_ids = tuple(reference.prompt_ids(request.prompt, request.images))
        second = tuple(reference.runner_up(request, answer.token_ids))
        found.append(Expected(request, prompt_ids, answer.token_ids, second))
    return found


def compare(engine: Comparable, expected: Sequence[Expected], max_tokens: int, dtype: str) -> dict[str, Any]:
    """The engine's answers beside them: a report, JSON-able.

    `dtype` is what the engine computes in. Raises EngineError for a prompt that is read in another way, or texts that
    part further than rounding explains.
    """
    tolerance = TOLERANCE[dtype]
    for item in expected:
        got = engine.prompt_ids(item.request.prompt, item.request.images)
        if tuple(got) != item.prompt_ids:
            raise EngineError(_prompt_differs(item, got))
    params = SamplingParams(temperature=0, max_tokens=min(max_tokens, TEXT_TOKENS))
    answers = engine.generate([item.request for item in expected], params)
    pairs = zip(expected, answers, strict=True)
    partings = [parting for item, (a,) in pairs if (parting := _parting(item, a.token_ids, tolerance)) is not None]
    strange = [parting for parting in partings if not parting.explained]
    if strange:
        worst = strange[0]
        gap = "further behind than its second best" if worst.nats is None else f"{worst.nats:.3g} nats behind"
        raise EngineError(
            f"the engine does not answer as transformers does: {len(strange)} of {len(expected)} greedy texts part "
            f"where rounding in {dtype} (at most {tolerance} nats) cannot explain it. First: {worst.id!r}, token "
            f"{worst.at}: transformers has {worst.expected}, the engine {worst.found}, which transformers has {gap}. "
            "Check that both read the same weights and adapter; set engine.kind to hf, or engine.parity to 0 to skip "
            "this check"
        )
    return {
        "problems": len(expected),
        "same": len(expected) - len(partings),
        "dtype": dtype,
        "tolerance_nats": tolerance,
        "parted": [asdict(parting) for parting in partings],
    }


def _parting(item: Expected, found: Sequence[int], tolerance: float) -> Parting | None:
    if tuple(found) == item.token_ids:
        return None
    both = min(len(found), len(item.token_ids))
    at = next((i for i in range(both) if found[i] != item.token_ids[i]), both)
    ours = found[at] if at < len(found) else None
    theirs = item.token_ids[at] if at < len(item.token_ids) else None
    second = item.second[at] if at < len(item.second) else None
    nats = second[1] if second is not None and second[0] == ours else None
    return Parting(item.request.id, at, theirs, ours, nats, nats is not None and nats <= tolerance)


def _prompt_differs(item: Expected, got: Sequence[int]) -> str:
    wanted = item.prompt_ids
    at = next((i for i, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), min(len(wanted), len(got)))
    what, cause = f"token {at} is {got[at]} instead of {wanted[at]}" if at < len(got) else "", "the template"
    if len(got) != len(wanted):
        what = f"{len(got)} tokens instead of {len(wanted)}"
        cause = "an image is resized (pixel limits)" if item.request.images else cause
    return (
        f"the engine reads prompt {item.request.id!r} in another way than transformers: {what}, from token {at} on; "
        f"likely {cause}. Give it this model folder's own processor, or set engine.kind to hf"
    )
