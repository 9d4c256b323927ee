"""What is measured: a model with or without an adapter, and the questions, from a run folder or from files."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any

from data_process.images.marks import segments
from data_process.images.store import ImageStore
from data_process.io import load_problems
from data_process.schema import DataError, Problem
from data_process.seeds import seed_for
from selftrain.config import Config, ConfigError
from selftrain.engines.base import EngineError
from selftrain.engines.budget_forcing.state_machine import resolve
from selftrain.engines.budget_forcing.tokenizer import TokenizerVocabulary
from selftrain.files import RunError, read_json
from selftrain.progress import Progress
from selftrain.runs.metrics import Metrics
from selftrain.runs.splits import inputs, load_splits, usable_problems
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Picture
from selftrain.scaling.grid import Setting
from selftrain.test_time import ContextLimit
from selftrain.training.row_lengths import frame_of

DEV_SHARE = 1 / 3  # of the problems, where no dev file is given: a seeded draw, so that nothing is chosen on the rest


@dataclass(frozen=True)
class ModelUnderTest:
    """Weights under a name."""

    name: str
    adapter: Path | None
    iteration: int  # matters to the scripted engine alone


@dataclass(frozen=True)
class Questions:
    """What settings are chosen on, and what they are reported on; no question is in both."""

    dev: Sequence[Problem]
    test: Sequence[Problem]
    about: str  # where they are from


def run_questions(run: Path, config: Config, store: ImageStore, bank: Bank, progress: Progress) -> Questions:
    """Dev and test of a run; RunError if the data are not the ones that it was made with."""
    splits, _ = load_splits(config, store, progress)
    stored = read_json(run / "identity.json")["inputs"]
    now = inputs(config, splits, store, bank)
    changed = [name for name in ("dev", "test", "model") if name in stored and stored[name] != now.get(name)]
    if changed:
        raise RunError(
            f"{', '.join(changed)} of {run} changed since it was run; restore them, or run the loop on the new ones"
        )
    return Questions(splits["dev"], splits["test"], f"dev and test of {run}")


def file_questions(test: Path, dev: Path | None, images: Path, store: ImageStore, config: Config) -> Questions:
    """Questions from files; without a dev file a seeded third of the questions is for choosing."""
    problems = _usable(test, images, store, config)
    if dev is not None:
        chosen = _usable(dev, images, store, config)
        both = {p.id for p in problems} & {p.id for p in chosen}
        if both:
            raise DataError(f"{len(both)} ids are in {dev} and in {test}, for instance {min(both)!r}; split them")
        return Questions(chosen, problems, f"dev {dev}, test {test}")
    if len(problems) < 2:
        raise DataError(f"{test} holds {len(problems)} usable question; choosing and reporting needs two at least")
    order = sorted(problems, key=lambda p: p.id)
    Random(seed_for(config.seed, "scale", "dev")).shuffle(order)
    k = max(1, round(DEV_SHARE * len(order)))
    for_choosing = {p.id for p in order[:k]}
    return Questions(
        [p for p in problems if p.id in for_choosing],
        [p for p in problems if p.id not in for_choosing],
        f"{test}, of which a seeded {k} questions are for choosing (give --dev FILE to use all of it)",
    )


def _usable(path: Path, images: Path, store: ImageStore, config: Config) -> list[Problem]:
    return usable_problems(load_problems(path, images), store, config, str(path))[0]


def models_of(run: Path, wanted: Sequence[str]) -> list[ModelUnderTest]:
    """`base`, `accepted`, `iterK`, or NAME=ADAPTER_FOLDER, in order; base and accepted that are one stand once."""
    found: dict[Path | None, ModelUnderTest] = {}
    for name in wanted:
        model = _model(run, name)
        found.setdefault(model.adapter, model)
    return list(found.values())


def _model(run: Path, name: str) -> ModelUnderTest:
    if name == "base":
        return ModelUnderTest("base", None, 0)
    if "=" in name:
        label, _, folder = name.partition("=")
        if not (Path(folder) / "adapter_config.json").is_file() and not list(Path(folder).glob("adapter_model*")):
            raise ConfigError(f"--weights {name}: {folder} holds no adapter; give the folder with adapter_config.json")
        return ModelUnderTest(label, Path(folder), 0)
    if name == "accepted":
        if not (run / "metrics.json").is_file():
            raise RunError(
                f"{run} is not finished, so no iteration is accepted; run the loop to its end, or name iterK"
            )
        iteration = Metrics.read(run / "metrics.json").accepted or 0
    elif name.startswith("iter") and name[4:].isdigit():
        iteration = int(name[4:])
    else:
        raise ConfigError(f"--weights {name!r}: write base, accepted, iter1 or NAME=ADAPTER_FOLDER")
    if iteration == 0:
        return ModelUnderTest("base", None, 0)
    adapter = run / f"iter{iteration}" / "train" / "adapter"
    if not adapter.is_dir():
        raise RunError(f"{run} has no adapter of iteration {iteration}; there is no {adapter}")
    return ModelUnderTest(f"iteration {iteration}", adapter, iteration)


def processor_of(config: Config) -> Any:
    """The checkpoint's processor; None where there is no checkpoint: scripted answers, a server's own model."""
    if not config.engine.reads_checkpoint(config.model.path):
        return None
    from transformers import AutoProcessor

    return AutoProcessor.from_pretrained(config.model.path)


def check_budgets(points: Sequence[Setting], processor: Any) -> None:
    """ConfigError, before anything is sampled, for a budget that the tokenizer or the token limit has no room for."""
    vocabulary = TokenizerVocabulary(processor.tokenizer)
    for params in {params for point in points for params in point.decodings}:
        if params.budget is not None:
            try:
                resolve(params.budget, vocabulary, [processor.tokenizer.eos_token_id], params.max_tokens)
            except (ValueError, EngineError) as error:
                raise ConfigError(f"the grid's budget cannot be kept by this model: {error}") from error


def context_limit_of(config: Config, picture: Callable[[str], Picture], processor: Any) -> ContextLimit:
    """The model's positions and a counter of prompt tokens, image tokens included."""
    from selftrain.training.row_lengths import count_image_tokens

    model = json.loads((config.model.path / "config.json").read_text(encoding="utf-8"))
    limit = (model.get("text_config") or model).get("max_position_embeddings")
    if not isinstance(limit, int):
        raise ConfigError(f"{config.model.path}/config.json has no max_position_embeddings")
    frame = frame_of(processor)

    @cache
    def image_tokens(image: str) -> int:
        return count_image_tokens({image}, lambda name: picture(name).path, processor.image_processor)[image]

    @lru_cache(maxsize=1 << 16)
    def count(prompt: str, images: tuple[str, ...]) -> int:
        text = frame.before + frame.image.join(segments(prompt, len(images))) + frame.between
        ids = processor.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return len(ids) + sum(image_tokens(image) - 1 for image in images)

    return ContextLimit(limit, count)
