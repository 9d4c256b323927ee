"""How long a run still needs: the stages that are left, each as long as the last one of its kind took."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from data_process.building.pool import by_reward
from data_process.schema import Problem
from selftrain.config import Config
from selftrain.files import read_json
from selftrain.runs.readings import HELD_OUT
from selftrain.runs.run_dir import BASE, RunDir, folder_of, iteration_files
from selftrain.runs.temperature import decision_iteration

QUICK = ("judge", "pair", "build", "dynamics", "parity")  # without a model's work: nothing until one was timed


class Forecast:
    """Seconds that the stages after the present one will take."""

    def __init__(self, config: Config, folder: RunDir, splits: Mapping[str, Sequence[Problem]]) -> None:
        self._config, self._folder = config, folder
        self._problems = {split: len(problems) for split, problems in splits.items()}

    def after(self) -> float | None:
        """None until one stage of every kind that is left has been timed."""
        total = 0.0
        for name in self._left():
            seconds = self._expected(name.rpartition("/")[2])
            if seconds is None:
                return None
            total += seconds
        return total

    def _left(self) -> Iterator[str]:
        for name in self._planned():
            if not self._folder.done(name) and name != self._folder.current:
                yield name

    def _planned(self) -> Iterator[str]:
        config = self._config
        base = BASE if config.warmup else 0
        yield f"{folder_of(base)}/dev"
        if config.warmup:
            yield from ("iter0/build", "iter0/train", "iter0/dev")
        second_thoughts = config.build.parts.reflect or config.selects_on_policy
        for k in range(1, config.iters + 1):
            pairs = config.training.prefers(k)
            adaptive = config.sampling.adaptive
            chooses = adaptive is not None and decision_iteration(k, adaptive.every) == k
            stages = [*(["temperature"] if chooses else []), "sample", "judge"]
            stages += ["rethink"] if second_thoughts and not pairs else []
            stages += ["rationalise"] if config.rationalise and not pairs else []
            stages += ["reward"] if by_reward(config.build.pool) and not pairs else []
            for stage in [*stages, "build", "dynamics", "train", "dev"]:
                yield f"iter{k}/{stage}"
        if config.evaluation.test != "none":
            # Which iteration will be accepted is not known: as long as none is, the last one stands for it.
            every = range(base, config.iters + 1) if config.evaluation.test == "all" else range(base, 1)
            for split in (one for one in HELD_OUT if one in self._problems):
                yield from (f"{folder_of(k)}/{split}" for k in every)
                if config.evaluation.test == "accepted" and not self._read_later(split):
                    yield f"iter{config.iters}/{split}"

    def _read_later(self, split: str) -> bool:
        return any(k > 0 for k, _ in iteration_files(self._folder.path, f"{split}/stage.json"))

    def _expected(self, kind: str) -> float | None:
        """Seconds of the latest stage of a kind; of a test split, by its number of problems, as long as dev's."""
        if timed := iteration_files(self._folder.path, f"{kind}/timing.json"):
            seconds: float = read_json(timed[-1][1])["seconds"]
            return seconds
        if kind in HELD_OUT and (dev := self._expected("dev")) is not None:
            settings = self._config.evaluation
            strategies = len(settings.on(kind).strategies) / len(settings.on("dev").strategies)
            return dev * strategies * self._problems[kind] / self._problems["dev"]
        return 0.0 if kind in QUICK else None
