"""The problems of a run: read, checked, generated where they are generated, and bound to the run by their digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from data_process.images.opening import ImageError
from data_process.images.store import ImageStore, smart_resize
from data_process.io import load_problems, refuse_file
from data_process.judging import JUDGE_VERSION
from data_process.prompts import BASE, prompt_set
from data_process.schema import DataError, Problem, to_json
from selftrain.config import Config
from selftrain.families import QWEN2_VL, family_of, pixel_limits
from selftrain.files import file_digest, read_json, write_json
from selftrain.progress import Progress
from selftrain.reward.model import load_reward
from selftrain.runs.run_dir import RunDir
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Picture
from selftrain.sampling.weights import weights_digest

SPLITS = ("train", "dev", "test")
HARD = "hard"  # a second test split, where there is one


def generate_data(config: Config, progress: Progress) -> None:
    """MiniGeo in the data folder, whole or not at all, unless there are data. Raises DataError for another seed's."""
    from data_process.sources import minigeo

    data = config.data
    refuse_file(data.folder)
    if (data.folder / "card.json").is_file():
        card = read_json(data.folder / "card.json")
        seed, version = card.get("seed"), card.get("version")
        if version != minigeo.VERSION:
            raise DataError(
                f"{data.folder} holds MiniGeo of version {version}, not {minigeo.VERSION}; delete the folder to "
                "have it generated again, or set data.source=jsonl to use it as it is"
            )
        if seed != data.seed:
            raise DataError(
                f"{data.folder} holds MiniGeo of seed {seed}, not {data.seed}; set data.seed={seed} to use it, or "
                "data.folder to another folder"
            )
        return
    if any((data.folder / getattr(data, split)).exists() for split in SPLITS):
        return  # someone's own problems: read them, never write over them
    if data.folder.exists() and any(data.folder.iterdir()):
        raise DataError(
            f"{data.folder} holds files, but no {data.train}, {data.dev} or {data.test}; empty it to generate MiniGeo "
            "there, or set data.folder"
        )
    target = data.folder.resolve()  # where it is a link, what it leads to
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with progress.stage(f"generating MiniGeo in {data.folder}", "images") as update:
        shutil.rmtree(partial, ignore_errors=True)
        try:
            minigeo.write(partial, seed=data.seed, on_progress=update)
            try:
                partial.replace(target)
            except OSError:
                if not (target / "card.json").is_file():  # otherwise another run generated the same a moment ago
                    raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def write_traces(config: Config) -> None:
    """MiniGeo's own solutions, if a run names them as its traces and they are not there yet."""
    from data_process.sources.minigeo import traces

    file = config.data.folder / traces.FILE
    if any(one.file == file for one in config.traces) and not file.exists():
        traces.write(config.data.folder / config.data.train, file)


def image_store(config: Config, folder: Path | None = None) -> ImageStore:
    """The store of a run's images, which are read from `folder`, the data folder if it is None."""
    model = config.model
    source = folder or config.data.folder
    limits = {"min_pixels": model.min_pixels, "max_pixels": model.max_pixels}
    return ImageStore(config.bank.parent / "images", source, patch=token_side(config), **limits)


def token_side(config: Config) -> int:
    """Pixels along one side of an image token: the family's, or Qwen2-VL's where no checkpoint is read.

    FamilyError for a checkpoint of a family that is not supported.
    """
    if not config.engine.reads_checkpoint(config.model.path):
        return QWEN2_VL.token_side
    return family_of(config.model.path).token_side


def check_image_sizes(config: Config, problems: Iterable[Problem], store: ImageStore) -> None:
    """ImageError if training would resize an image of these problems, which sampling takes as it is stored.

    LLaMA-Factory keeps to the pixel limits in the checkpoint's folder, whatever `model.min_pixels` says.
    """
    limits = pixel_limits(config.model.path)
    if limits is None:  # the pre-flight of a training asks the processor itself
        return
    for image in dict.fromkeys(image for problem in problems for image in problem.images):
        stored = store.add(image)
        size = stored.height, stored.width
        if smart_resize(*size, store.patch, *limits) != size:
            low, high = limits
            raise ImageError(
                "not_canonical",
                f"{image} is stored with {stored.width} x {stored.height} pixels, and training would resize it: the "
                f"processor in {config.model.path} takes {low} to {high} pixels. Set model.min_pixels to at least "
                f"{low} and model.max_pixels to at most {high}",
            )


def canonical_images(store: ImageStore) -> Callable[[str], Picture]:
    """Canonical images by their path in the data folder, each looked up once: the data stay as they are."""

    @cache
    def image(relative: str) -> Picture:
        stored = store.add(relative)
        return Picture(stored.path, stored.id)

    return image


def usable_problems(
    problems: Sequence[Problem], store: ImageStore, config: Config, where: str
) -> tuple[list[Problem], Sequence[tuple[str, str]]]:
    """The problems whose image can be used, and (id, reason) of the others. DataError if these are too many."""
    usable, reasons, failed = store.check(problems)
    if len(failed) > config.data.max_dropped_share * len(problems):
        shown = ", ".join(f"{name} {n}" for name, n in sorted(reasons.items()))
        raise DataError(
            f"{len(failed)} of {len(problems)} images of {where} cannot be used ({shown}; first: problem "
            f"{failed[0][0]!r}, {failed[0][1]}); fix them, or leave them out by raising data.max_dropped_share"
        )
    return usable, failed


def load_splits(
    config: Config, store: ImageStore, progress: Progress
) -> tuple[dict[str, list[Problem]], dict[str, Any]]:
    """The usable problems of each split, and what was left out; MiniGeo is generated first if need be.

    A problem whose image cannot be used is left out and listed with the reason in the card, which becomes
    `data.json`. Raises DataError.
    """
    data = config.data
    if data.source == "minigeo":
        generate_data(config, progress)
        write_traces(config)
    elif (card_file := data.folder / "card.json").is_file():
        # A table, which has no wording of its own, and folders of earlier versions name none.
        about = read_json(card_file)
        made_for = about.get("prompts", BASE) if isinstance(about, dict) else BASE
        if made_for not in (BASE, config.prompts):
            progress.say(
                f"  note: {card_file} names the prompts {made_for!r}, and this run uses {config.prompts!r}; to change "
                f"that, set prompts={made_for}"
            )
    splits: dict[str, list[Problem]] = {}
    card: dict[str, Any] = {}
    hard = (HARD,) if data.hard and (data.folder / data.hard).is_file() else ()
    for split in (*SPLITS, *hard):
        unlabelled = split == "train" and config.labels.source == "vote"
        problems = load_problems(data.folder / getattr(data, split), data.folder, unlabelled=unlabelled)
        problems = problems[: getattr(data, f"{split}_limit")]
        usable, failed = usable_problems(problems, store, config, f"{split} in {data.folder}")
        if not usable:
            raise DataError(f"{data.folder / getattr(data, split)} holds no usable problem")
        splits[split] = usable
        card[split] = {"offered": len(problems), "usable": len(usable), "left_out": [list(item) for item in failed]}
    seen: dict[str, str] = {}
    for split in splits:
        for problem in splits[split]:
            if seen.setdefault(problem.id, split) != split:
                raise DataError(f"problem {problem.id!r} is in {seen[problem.id]} and in {split}; ids must differ")
    return splits, card


def without_leaks(
    config: Config, splits: dict[str, list[Problem]], folder: RunDir, progress: Progress
) -> dict[str, list[Problem]]:
    """The splits after the leakage guard; its report lies in `leakage/report.json` and is made once per run folder.

    DataError if training problems leak and `data.leakage` is "error".
    """
    from data_process.decontamination.guard import clean, guard

    if config.data.leakage == "ignore":
        return splits

    def make(into: Path) -> None:
        found = guard(
            splits["train"], {name: splits[name] for name in splits if name != "train"}, config.data.folder,
            allow_sources=config.data.allow_sources,
        )  # fmt: skip
        if found.blocking and config.data.leakage == "error":
            raise DataError(
                f"{found.summary()}\nLeave them out with data.leakage=drop, correct the split, or accept an overlap of "
                "data sets with data.allow_sources=[GeoQA]; `selftrain check-leakage --json` lists every pair"
            )
        kept = clean(splits["train"], found) if found.blocking else splits["train"]
        write_json(into / "report.json", found.to_json())
        write_json(into / "kept.json", [problem.id for problem in kept])

    done = folder.stage("leakage", progress.during("looking for test questions in train", "problems", make))
    kept = set(read_json(done / "kept.json"))
    if len(kept) < len(splits["train"]):
        progress.say(f"  left out: {len(splits['train']) - len(kept)} of {len(splits['train'])} training problems")
    return {**splits, "train": [problem for problem in splits["train"] if problem.id in kept]}


def trace_digest(file: Path) -> str:
    """Digest of a file of outside traces. DataError if it is not there."""
    try:
        return file_digest(file)[:16]
    except OSError as error:
        raise DataError(
            f"traces: {file} cannot be read ({error.strerror}); correct `file`, or make it first"
        ) from error


def inputs(config: Config, splits: Mapping[str, Sequence[Problem]], store: ImageStore, bank: Bank) -> dict[str, Any]:
    """Digests of all that comes from outside the configuration: a run folder is bound to them."""

    def digest(problems: Sequence[Problem]) -> str:
        # Fields without a value are left out, so that a new kind of field does not make old data look changed.
        fields = [{key: value for key, value in to_json(p).items() if value is not None} for p in problems]
        ids = [[store.add(image).id for image in p.images] for p in problems]
        shown = [found if len(found) > 1 else found[0] if found else None for found in ids]
        rows = [list(pair) for pair in zip(fields, shown, strict=True)]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]

    result: dict[str, Any] = {split: digest(problems) for split, problems in splits.items()}
    prompts = prompt_set(config.prompts)
    result["prompts"] = prompts.rationale_digest if config.select_format == "rationale" else prompts.digest
    result["judge"] = JUDGE_VERSION
    if config.traces:
        result["traces"] = {one.name: trace_digest(one.file) for one in config.traces}
    path = config.model.path
    if (model := config.engine.model_identity(path, lambda: weights_digest(bank, path, None))) is not None:
        result["model"] = model
    if (reward := load_reward(config, bank)) is not None:
        result["reward"] = reward.digest
    if config.engine.has_model:
        result["hyperparameters"] = file_digest(config.training.hyperparameters)[:16]
        if config.warmup and config.warmup.hyperparameters:
            result["warmup_hyperparameters"] = file_digest(config.warmup.hyperparameters)[:16]
        if config.training.dtype != "base":
            result["training_dtype"] = config.training.dtype
    return result
