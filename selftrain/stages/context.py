"""What the stages of a run share."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from data_process.images.store import ImageStore
from data_process.schema import Problem
from data_process.seeds import seed_for
from selftrain.config import Config
from selftrain.files import read_json
from selftrain.progress import Progress
from selftrain.reward.model import RewardModel
from selftrain.reward.rater import Rater
from selftrain.runs.run_dir import BASE, RunDir, decision_file, folder_of, weights_of
from selftrain.runs.splits import canonical_images
from selftrain.runs.temperature import choice_of, decision_iteration
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, open_engine
from selftrain.sampling.sampler import Picture, Sampler
from selftrain.sampling.weights import sampler_of
from selftrain.test_time.strategy_config import SelectionForm, trained_limit

T = TypeVar("T")


class LoopStopped(Exception):
    """There is nothing to learn from; the message says why. What was measured so far is reported."""


@dataclass
class RunContext:
    """What the stages share: settings, folder, bank, data, and the engine of the weights in use."""

    config: Config
    folder: RunDir
    bank: Bank
    store: ImageStore
    splits: dict[str, list[Problem]]
    progress: Progress
    open_engine: Opener = open_engine
    reward: RewardModel | None = None  # None: there are no rewards
    _sampler: tuple[tuple[int, int], Sampler] | None = field(default=None, repr=False)
    picture: Callable[[str], Picture] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.picture = canonical_images(self.store)

    def __enter__(self) -> RunContext:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_engine()

    @property
    def base(self) -> int:
        """The number of the base model: 0, or BASE where a warm-up makes iteration 0."""
        return BASE if self.config.warmup else 0

    def weights(self, iteration: int) -> Path | None:
        """What an iteration trained, the folder of an adapter or of a checkpoint; None for the base model.

        RunError if it was removed, see `training.keep_weights`.
        """
        return weights_of(self.folder.path, iteration, self.config) if iteration > self.base else None

    def weights_stage(self, iteration: int) -> list[str]:
        """The stage that made an iteration's weights; none for the base model, which `inputs` watches."""
        return [f"iter{iteration}/train"] if iteration > self.base else []

    def predecessor(self, iteration: int) -> int:
        """The iteration whose weights write the samples of this one, and are trained on where training goes on.

        It is the one before, or the accepted one if that was rolled back.
        """
        before = iteration - 1
        if not self.config.acceptance.rollback or before <= self.base:
            return before
        return int(read_json(decision_file(self.folder.path, before))["goes_on_from"])

    def predecessor_stages(self, iteration: int) -> list[str]:
        """The stages behind `predecessor`: a training, and the decision about the iteration before."""
        decided = self.config.acceptance.rollback and iteration - 1 > self.base
        decision = [f"{folder_of(iteration - 1)}/accept"] if decided else []
        return [*self.weights_stage(self.predecessor(iteration)), *decision]

    def drawing(self, iteration: int) -> Config:
        """The settings with which an iteration samples on train: with the temperature that was chosen last."""
        sampling = self.config.sampling
        if sampling.adaptive is None:
            return self.config
        chosen = choice_of(self.folder.path, iteration, sampling.adaptive.every).chosen
        return self.config.model_copy(update={"sampling": sampling.model_copy(update={"temperature": chosen})})

    def drawing_stages(self, iteration: int) -> list[str]:
        """The stages behind an iteration's samples on train, besides those that choose the problems."""
        adaptive = self.config.sampling.adaptive
        chosen = [] if adaptive is None else [f"iter{decision_iteration(iteration, adaptive.every)}/temperature"]
        return [*self.predecessor_stages(iteration), *chosen]

    def sampler(self, iteration: int, seed: int | None = None) -> Sampler:
        """The sampler of an iteration's weights; the engine behind it stays open until other weights are wanted.

        `seed`: of its draws; None is the run's own.
        """
        wanted = (iteration, self.config.seed if seed is None else seed)
        if self._sampler is None or self._sampler[0] != wanted:
            self.close_engine()
            everything = [problem for split in self.splits.values() for problem in split]
            weights = self.weights(iteration)
            sampler = sampler_of(
                self.config, self.bank, self.picture, everything, weights, iteration, self.open_engine, seed=seed
            )
            self._sampler = (wanted, sampler)
        return self._sampler[1]

    def train_sampler(self, iteration: int) -> Sampler:
        """The sampler of the weights that write an iteration's samples on train.

        After a rollback the same weights sample once more. The seed is then another one, because the run's own would
        give the same samples again.
        """
        writer = self.predecessor(iteration)
        seed = None if writer == iteration - 1 else seed_for(self.config.seed, "rolled back", iteration)
        return self.sampler(writer, seed)

    def rater(self) -> Rater | None:
        """Rates responses with the run's reward model, whose engine takes the place of the open one; None without one.

        The sampler of the weights in use stays usable: its engine opens again when a sample is missing.
        """
        if self.reward is None:
            return None

        def make_room() -> None:
            if self._sampler is not None:
                self._sampler[1].release()

        everything = [problem for split in self.splits.values() for problem in split]
        return Rater(
            self.config, self.reward, self.bank, self.picture, everything, opener=self.open_engine, make_room=make_room
        )

    def selecting(self, iteration: int) -> SelectionForm:
        """How an iteration's weights select: with prompts no longer than those that they were trained on."""
        limit = self.config.show_limit
        if iteration > 0 and self.config.select_format == "rationale":
            limit = trained_limit(self.folder.path, limit, [iteration])
        return SelectionForm(self.config.select_format, limit)

    def close_engine(self) -> None:
        """Free the engine's memory; training needs it."""
        if self._sampler is not None:
            self._sampler[1].__exit__(None, None, None)
            self._sampler = None


def problems_for(problems: Sequence[Problem], n: int | None, seed: int, iteration: int) -> list[Problem]:
    """The problems an iteration samples: all, or a seeded draw of `n`, in their own order."""
    return list(problems) if n is None or n >= len(problems) else drawn(problems, n, seed, "problems", iteration)


def share_for(problems: Sequence[Problem], n: int, seed: int, iteration: int) -> list[Problem]:
    """At most `n` problems for an iteration, in their own order, that are disjoint from those of other iterations.

    One pass over all problems takes ceil(problems / n) iterations with equal shares, and each pass deals them anew.
    """
    shares = math.ceil(len(problems) / n)
    passes, place = divmod(iteration - 1, shares)
    order = random.Random(seed_for(seed, "share", passes)).sample(range(len(problems)), len(problems))
    return [problems[k] for k in sorted(order[place::shares])]


def drawn(items: Sequence[T], n: int, *seeds: int | str) -> list[T]:
    """`n` of the items, drawn with a seed, in their own order."""
    return [items[k] for k in sorted(random.Random(seed_for(*seeds)).sample(range(len(items)), n))]
