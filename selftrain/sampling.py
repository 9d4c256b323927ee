"""Problems x prompt x engine -> completions, through the bank: what is there is never drawn again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from selftrain.bank import Bank, PromptKey, sample_seed, why_not
from selftrain.engines.base import Completion, Engine, EngineError, Request, SamplingParams

# Files of a model folder that decide what it answers: weights, their shape, tokenizer, template and image processor.
_MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "processor_config.json",
)


@dataclass(frozen=True)
class Ask:
    """One prompt to be answered; `image` is relative to the data folder."""

    id: str
    prompt: str
    image: str | None


@dataclass(frozen=True)
class Picture:
    """A canonical picture: its file and its content id (pixel limits included)."""

    path: Path
    id: str


def weights_digest(bank: Bank, base: Path, adapter: Path | None) -> str:
    """Digest of everything in the base model's folder that determines answers, and of the adapter's weights.

    Raises EngineError if the base folder holds no weights, or the adapter's folder no adapter.
    """
    parts: list[tuple[str, str]] = []
    weights = sorted([*base.glob("*.safetensors"), *base.glob("pytorch_model*.bin")])
    if not weights:
        raise EngineError(f"{base} holds no model weights (*.safetensors); set model.path to a checkpoint folder")
    for path in [*(base / name for name in _MODEL_FILES), *weights]:
        if path.is_file():
            parts.append((path.name, bank.known_digest(path)))
    if adapter is not None:
        found = sorted(adapter.glob("adapter_model*"))
        try:
            scale = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise EngineError(
                f"{adapter} holds no adapter ({error}); delete {adapter.parent} to train it again"
            ) from error
        if not found:
            raise EngineError(f"{adapter} holds no adapter_model file; delete {adapter.parent} to train it again")
        parts += [(f"adapter/{path.name}", bank.known_digest(path)) for path in found]
        parts.append(("adapter/scale", str([scale.get("r"), scale.get("lora_alpha"), scale.get("use_rslora")])))
        patterns = {key: scale[key] for key in ("rank_pattern", "alpha_pattern") if scale.get(key)}
        if patterns:
            parts.append(("adapter/patterns", json.dumps(patterns, sort_keys=True)))
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


class Sampler:
    """Answers for one set of weights. The engine is opened when the first missing sample is asked for, and kept."""

    def __init__(
        self,
        *,
        bank: Bank,
        open_engine: Callable[[], Engine],
        engine_name: str,
        weights: str,
        picture: Callable[[str], Picture],
        seed: int,
        unit_rows: int,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> None:
        self._bank, self._open, self._engine_name = bank, open_engine, engine_name
        self._weights, self._picture, self._seed, self._unit_rows = weights, picture, seed, unit_rows
        self._engine: Engine | None = None
        self.on_progress = on_progress  # samples present, samples wanted
        self.drawn = 0  # samples the engine has generated, as opposed to found in the bank

    def __enter__(self) -> Sampler:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def draw(self, asks: Sequence[Ask], params: SamplingParams, n: int) -> dict[str, list[Completion]]:
        """`n` completions for each ask, by its id, sample 0 first.

        Work goes to the engine in units whose make-up depends on the asks alone, and each unit is committed whole: a
        run that was killed puts the same rows into the same batches as one that was not, so that not even rounding
        differs. Raises EngineError from the engine; units committed before it stay in the bank.
        """
        if len({ask.id for ask in asks}) != len(asks):
            raise ValueError("ids of asks must be unique")
        keys: dict[str, str] = {}
        wanted: dict[str, tuple[PromptKey, Picture | None]] = {}
        names: dict[str, str] = {}  # key -> the first ask that has it, for errors
        for ask in asks:
            picture = self._picture(ask.image) if ask.image is not None else None
            prompt = PromptKey(self._weights, ask.prompt, picture.id if picture else None, params, self._seed)
            keys[ask.id] = prompt.digest()
            wanted[keys[ask.id]] = (prompt, picture)
            names.setdefault(keys[ask.id], ask.id)
        present = self._bank.indices(list(wanted))
        have = sum(len(indices & set(range(n))) for indices in present.values())
        total = len(wanted) * n
        self.on_progress(have, total)
        order = sorted(wanted, key=lambda key: (len(wanted[key][0].prompt), key))
        per_unit = max(1, self._unit_rows // n)
        for start in range(0, len(order), per_unit):
            unit = order[start : start + per_unit]
            missing = {key: [i for i in range(n) if i not in present.get(key, ())] for key in unit}
            missing = {key: indices for key, indices in missing.items() if indices}
            if not missing:
                continue
            if self._engine is None:
                self._engine = self._open()
            requests = [
                Request(
                    id=names[key],
                    prompt=wanted[key][0].prompt,
                    image=picture.path if (picture := wanted[key][1]) else None,
                    seeds=tuple(sample_seed(key, index) for index in indices),
                )
                for key, indices in missing.items()
            ]
            self._keep_each(requests, {names[key]: (wanted[key][0], key, at) for key, at in missing.items()}, params)
            answers = self._engine.generate(requests, params)
            if [len(a) for a in answers] != [len(r.seeds) for r in requests]:
                raise EngineError(f"engine {self._engine_name} returned other numbers of completions than asked for")
            for request, completions in zip(requests, answers, strict=True):
                for completion in completions:
                    self._refuse(request, completion, params)
            rows = [
                (wanted[key][0], key, index, completion)
                for (key, indices), completions in zip(missing.items(), answers, strict=True)
                for index, completion in zip(indices, completions, strict=True)
            ]
            self._bank.write(rows, self._engine_name)
            self.drawn += len(rows)
            have += len(rows)
            self.on_progress(have, total)
        found = self._bank.read(list(wanted), n)
        return {ask_id: found[key] for ask_id, key in keys.items()}

    def _refuse(self, request: Request, completion: Completion, params: SamplingParams) -> None:
        """EngineError for what must not be stored as an answer."""
        if reason := why_not(completion):
            raise EngineError(f"engine {self._engine_name} gave no answer to request {request.id!r}: {reason}")
        if (completion.forcing is None) != (params.budget is None):
            raise EngineError(
                f"engine {self._engine_name} does not keep to budgets: its answer to {request.id!r} has "
                f"{'no ledger' if completion.forcing is None else 'a ledger without a budget'}; for budget "
                "forcing set engine.kind to hf or server"
            )

    def _keep_each(
        self, requests: Sequence[Request], places: dict[str, tuple[PromptKey, str, list[int]]], params: SamplingParams
    ) -> None:
        """An engine that tells each answer as it comes has it stored at once: a failing call then loses none of them.

        `places`: request id -> what its answers are stored under, and their sample indices.
        """
        if not hasattr(self._engine, "on_result"):
            return

        def keep(request: Request, sample: int, completion: Completion) -> None:
            self._refuse(request, completion, params)
            prompt, key, indices = places[request.id]
            self._bank.write([(prompt, key, indices[sample], completion)], self._engine_name)

        self._engine.on_result = keep
