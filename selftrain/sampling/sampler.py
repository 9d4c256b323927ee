"""Problems x prompt x engine -> completions, through the bank: what is there is never drawn again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from selftrain.engines.base import Completion, Engine, EngineError, Request, SamplingParams, StreamsResults
from selftrain.sampling.bank import Bank, PromptKey, rejection_reason, sample_seed

READ_AT_ONCE = 100  # asks whose samples are read from the bank together


@dataclass(frozen=True)
class Ask:
    """One prompt to be answered; its images are relative to the data folder, in the order of their places."""

    id: str
    prompt: str
    images: tuple[str, ...]
    prefix: str = ""  # what the assistant's turn begins with; completions are what follows it


@dataclass(frozen=True)
class Picture:
    """A canonical image: its file and its content id (pixel limits included)."""

    path: Path
    id: str


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

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Close the engine, for another one to have the memory; it opens again when a sample is missing."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    @property
    def engine(self) -> Engine:
        """The engine behind it, opened if need be."""
        if self._engine is None:
            self._engine = self._open()
        return self._engine

    def draw(self, asks: Sequence[Ask], params: SamplingParams, n: int) -> dict[str, list[Completion]]:
        """`n` completions for each ask, by its id, sample 0 first.

        Work goes to the engine in units whose make-up depends on the asks alone, and each unit is committed whole: a
        run that was killed puts the same rows into the same batches as one that was not, so that not even rounding
        differs. Raises EngineError from the engine; units committed before it stay in the bank.
        """
        return dict(self._found(self._complete(asks, params, n), n, keep=True))

    def stream(self, asks: Sequence[Ask], params: SamplingParams, n: int) -> Iterator[tuple[str, list[Completion]]]:
        """As `draw`, for more samples than fit into memory: (id, completions) in the order of `asks`.

        All that is missing is drawn and stored before this returns; iterating only reads.
        """
        return self._found(self._complete(asks, params, n), n, keep=False)

    def _complete(self, asks: Sequence[Ask], params: SamplingParams, n: int) -> dict[str, str]:
        """Draw and store what the bank lacks of the asks; returns the key of each ask's prompt, by its id."""
        if len({ask.id for ask in asks}) != len(asks):
            raise ValueError("ids of asks must be unique")
        keys: dict[str, str] = {}
        wanted: dict[str, tuple[PromptKey, tuple[Picture, ...]]] = {}
        names: dict[str, str] = {}  # key -> the first ask that has it, for errors
        for ask in asks:
            pictures = tuple(map(self._picture, ask.images))
            prompt = PromptKey(self._weights, ask.prompt, tuple(p.id for p in pictures), params, self._seed, ask.prefix)
            key = keys[ask.id] = prompt.digest()
            wanted[key] = (prompt, pictures)
            names.setdefault(key, ask.id)
        lacking = self._bank.missing(list(wanted), n)
        total = len(wanted) * n
        have = total - sum(map(len, lacking.values()))
        self.on_progress(have, total)
        order = sorted(wanted, key=lambda key: (wanted[key][0].size, key)) if lacking else []
        per_unit = max(1, self._unit_rows // n)
        for start in range(0, len(order), per_unit):
            missing = {key: lacking[key] for key in order[start : start + per_unit] if key in lacking}
            if not missing:
                continue
            engine = self.engine
            requests = [
                Request(
                    id=names[key],
                    prompt=wanted[key][0].prompt,
                    images=tuple(picture.path for picture in wanted[key][1]),
                    seeds=tuple(sample_seed(key, index) for index in indices),
                    prefix=wanted[key][0].prefix,
                )
                for key, indices in missing.items()
            ]
            places = {names[key]: (wanted[key][0], key, indices) for key, indices in missing.items()}
            stored = self._store_each(engine, places, params, have, total)
            answers = engine.generate(requests, params)
            if [len(a) for a in answers] != [len(r.seeds) for r in requests]:
                raise EngineError(f"engine {self._engine_name} returned other numbers of completions than asked for")
            rows = []
            for request, completions in zip(requests, answers, strict=True):
                prompt, key, indices = places[request.id]
                for sample, (index, completion) in enumerate(zip(indices, completions, strict=True)):
                    if (request.id, sample) not in stored:
                        self._refuse(request, completion, params)
                        rows.append((prompt, key, index, completion))
            if rows:
                self._bank.write(rows, self._engine_name)
            drawn = sum(map(len, missing.values()))
            self.drawn += drawn
            have += drawn
            self.on_progress(have, total)
        return keys

    def _found(self, keys: dict[str, str], n: int, *, keep: bool) -> Iterator[tuple[str, list[Completion]]]:
        ids = list(keys)
        for start in range(0, len(ids), READ_AT_ONCE):
            part = ids[start : start + READ_AT_ONCE]
            found = self._bank.read(list({keys[ask_id] for ask_id in part}), n, keep=keep)
            for ask_id in part:
                yield ask_id, found[keys[ask_id]]

    def _refuse(self, request: Request, completion: Completion, params: SamplingParams) -> None:
        """EngineError for what must not be stored as an answer."""
        if reason := rejection_reason(completion):
            raise EngineError(f"engine {self._engine_name} gave no answer to request {request.id!r}: {reason}")
        if (completion.forcing is None) != (params.budget is None):
            raise EngineError(
                f"engine {self._engine_name} does not keep to budgets: its completion of {request.id!r} has "
                f"{'no' if completion.forcing is None else 'a'} record of budget forcing, and "
                f"{'a' if params.budget else 'no'} budget was asked for; every engine that ships keeps them, so the "
                "engine is broken or must learn to"
            )

    def _store_each(
        self,
        engine: Engine,
        places: dict[str, tuple[PromptKey, str, Sequence[int]]],
        params: SamplingParams,
        have: int,
        total: int,
    ) -> set[tuple[str, int]]:
        """Have an engine that streams results store each of them at once: a call that fails then loses none.

        Each is stored in a transaction of its own, and not a few at a time, so that a process that is killed loses none
        either. A core stores thousands a second in this way. `places`: request id -> what its completions are stored
        under, and their sample indices. Returns a set that grows with what was stored: (request id, index into seeds).
        """
        stored: set[tuple[str, int]] = set()
        if isinstance(engine, StreamsResults):

            def store(request: Request, sample: int, completion: Completion) -> None:
                self._refuse(request, completion, params)
                prompt, key, indices = places[request.id]
                self._bank.write([(prompt, key, indices[sample], completion)], self._engine_name)
                stored.add((request.id, sample))
                self.on_progress(have + len(stored), total)

            engine.on_result = store
        return stored
