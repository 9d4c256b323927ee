"""What is measured: a model as it is or trained, and the questions, from a run folder or from files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from random import Random
from typing import Any

from data_process.images.marks import segments
from data_process.images.store import ImageStore
from data_process.io import load_problems, read_examples
from data_process.prompts import SelectFormat
from data_process.schema import DataError, Problem
from data_process.seeds import seed_for
from selftrain.config import Config, ConfigError
from selftrain.engines.budget_forcing.tags import refuse_letters
from selftrain.engines.decoding.lora_merge import is_checkpoint
from selftrain.families import read_model_config
from selftrain.files import RunError, read_json
from selftrain.progress import Progress
from selftrain.runs.metrics import Metrics
from selftrain.runs.run_dir import run_config, weights_of
from selftrain.runs.splits import inputs, load_splits, usable_problems
from selftrain.sampling import budgets
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Picture
from selftrain.sampling.weights import refuse_head
from selftrain.scaling.grid import Setting, ignores_of
from selftrain.test_time import ContextLimit
from selftrain.test_time.strategy_config import SelectionForm, trained_limit
from selftrain.training.row_lengths import prompt_frame

COUNTED = 64  # longest prompts by characters among which the longest in tokens is looked for
DEV_SHARE = 1 / 3  # of the problems, where no dev file is given: a seeded draw, so that nothing is chosen on the rest


@dataclass(frozen=True)
class ModelUnderTest:
    """Weights under a name."""

    name: str
    weights: Path | None  # trained: folder of an adapter or of a checkpoint; None: the base model
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
    """`base`, `accepted`, `iterK`, or NAME=FOLDER of weights, in order; base and accepted that are one stand once."""
    found: dict[Path | None, ModelUnderTest] = {}
    for name in wanted:
        model = _model(run, name)
        found.setdefault(model.weights, model)
    return list(found.values())


def _model(run: Path, name: str) -> ModelUnderTest:
    if name == "base":
        return ModelUnderTest("base", None, 0)
    if "=" in name:
        label, _, folder = name.partition("=")
        adapter = (Path(folder) / "adapter_config.json").is_file() or list(Path(folder).glob("adapter_model*"))
        if not adapter and not is_checkpoint(Path(folder)):
            raise ConfigError(
                f"--weights {name}: {folder} holds no adapter and no checkpoint; give the folder with "
                "adapter_config.json or config.json"
            )
        refuse_head(Path(folder))
        return ModelUnderTest(label, Path(folder), 0)
    if name == "accepted":
        if not (run / "metrics.json").is_file():
            raise RunError(
                f"{run} is not finished, so no iteration is accepted; run the loop to its end, or name iterK"
            )
        metrics = Metrics.read(run / "metrics.json")
        iteration = metrics.base if metrics.accepted is None else metrics.accepted
    elif name.startswith("iter") and name[4:].isdigit():
        iteration = int(name[4:])
    else:
        raise ConfigError(f"--weights {name!r}: write base, accepted, iter1 (iter0: a warm-up) or NAME=FOLDER")
    if iteration < 0 or (iteration == 0 and not (run / "iter0/train").is_dir()):  # weights of iteration 0: a warm-up's
        return ModelUnderTest("base", None, 0)
    weights = weights_of(run, iteration, run_config(run))
    if not weights.is_dir():
        raise RunError(f"{run} has no {weights.name} of iteration {iteration}; there is no {weights}")
    return ModelUnderTest(f"iteration {iteration}", weights, iteration)


def selection_of(config: Config, form: SelectFormat | None, run: Path | None) -> SelectionForm:
    """How all weights select: in the grid's form or the run's, with prompts no longer than the run trained on."""
    form, limit = form or config.select_format, config.show_limit
    if form == "rationale" and run is not None:
        limit = trained_limit(run, limit, range(1, config.iters + 1))
    return SelectionForm(form, limit)


def untrained_ignores(config: Config, points: Sequence[Setting]) -> tuple[str, ...]:
    """Ignore strings of the settings that no training row of the run holds."""
    trained = config.rethink.budget.budget().ignore if config.build.parts.reflect else ()
    return tuple(sorted(ignores_of(points) - set(trained)))


def trained_prompt_of(models: Sequence[ModelUnderTest], limit: ContextLimit) -> int | None:
    """Tokens of the longest selection prompt that any of the models was trained on; None where there was none.

    The rows lie where the loop and `select-data` leave them: in the folder `build` beside `train`.
    """
    prompts: set[tuple[str, tuple[str, ...]]] = set()
    for model in models:
        rows = model.weights.parents[1] / "build/examples.jsonl" if model.weights is not None else None
        if rows is not None and rows.is_file():
            selections = (example for example in read_examples(rows) if example.kind == "select")
            prompts |= {(example.prompt, example.images) for example in selections}
    longest = sorted(prompts, key=lambda prompt: -len(prompt[0]))[:COUNTED]
    return max((limit.count(text, images) for text, images in longest), default=None)


def check_budgets(points: Sequence[Setting], processor: Any) -> None:
    """ConfigError, before anything is sampled, for a budget that the tokenizer or the token limit has no room for."""
    decodings = [params for point in points for params in point.decodings]
    budgets.check("the grid's budget cannot be kept by this model", decodings, processor)


def check_letters(points: Sequence[Setting], problems: Sequence[Problem]) -> None:
    """ConfigError, before anything is sampled, if letters would be forced on problems without choices."""
    choices = [problem.choices for problem in problems]
    for budget in {params.budget for point in points for params in point.decodings}:
        try:
            refuse_letters(budget, choices)
        except ValueError as error:
            raise ConfigError(f"the grid's budget does not go with these problems: {error}") from error


def context_limit_of(config: Config, picture: Callable[[str], Picture], processor: Any) -> ContextLimit:
    """The model's positions and a counter of prompt tokens, image tokens included."""
    from selftrain.training.row_lengths import count_image_tokens

    model = read_model_config(config.model.path)
    limit = (model.get("text_config") or model).get("max_position_embeddings")
    if not isinstance(limit, int):
        raise ConfigError(f"{config.model.path}/config.json has no max_position_embeddings")
    before, shown, between = prompt_frame(processor)

    @cache
    def image_tokens(image: str) -> int:
        return count_image_tokens({image}, lambda name: picture(name).path, processor.image_processor)[image]

    @lru_cache(maxsize=1 << 16)
    def count(prompt: str, images: tuple[str, ...]) -> int:
        text = before + shown.join(segments(prompt, len(images))) + between
        ids = processor.tokenizer(text, add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return len(ids) + sum(image_tokens(image) - 1 for image in images)

    return ContextLimit(limit, count)
