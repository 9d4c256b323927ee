"""`selftrain train`: one SFT on given rows, with everything that the loop's training has.

Its folder is a run folder of two stages, `rows` and `train`, so the same command resumes it.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from data_process.building.given import read_given
from data_process.building.weights import weigh
from data_process.images.opening import ImageError
from data_process.images.store import ImageStore
from data_process.io import load_problems, read_examples, write_jsonl
from data_process.outputs import check_outputs
from data_process.prompts import prompt_set
from data_process.schema import DataError, Example, Problem, to_json
from data_process.seeds import seed_for
from data_process.traces.forms import Trace
from data_process.traces.leaks import leaking
from data_process.traces.reader import TraceFile, read_traces, refuse_empty
from selftrain.config import Config
from selftrain.families import check_answers_at_once
from selftrain.files import file_digest, read_json, write_json
from selftrain.progress import Progress
from selftrain.runs.run_dir import RunDir
from selftrain.runs.splits import HARD, image_store
from selftrain.sampling.bank import Bank
from selftrain.sampling.weights import weights_digest
from selftrain.training.checkpoints import discard
from selftrain.training.disk import check_room, disk_plan
from selftrain.training.dry_run import check_gpus, training_plan
from selftrain.training.precision import settle
from selftrain.training.sft import tune

# Sections of a configuration that a training of given rows depends on.
SECTIONS = ("seed", "model", "training")


def rows_of(
    config: Config, files: Sequence[Path], images: Path, say: Callable[[str], None] = lambda _: None
) -> tuple[list[Example], Counter[str]]:
    """The rows of files and of the outside traces that the configuration names, and reason -> rows left out of `files`.

    Traces are checked as the loop's are: rows whose response is not judged right are left out, and `say` tells how
    many. A row may name a problem of `data.train` if that file is there; otherwise it brings its own gold answer.
    All rows pass the leakage guard, by the dev and test problems of `data.folder` that are there; "leak" counts those
    that do not. DataError for rows that fit no form, if there are none, and for leaks where `data.leakage` is error.
    """
    if not files and not config.traces:
        raise DataError("there is nothing to train on; give --rows FILE, or name files under traces: in the settings")
    tests = _tests(config, say)
    examples, dropped = read_given(files, images) if files else ([], Counter[str]())
    leaks = _leaks(config, tests, [Trace(row, None) for row in examples], images, ", ".join(map(str, files)))
    if leaks:
        examples = [row for k, row in enumerate(examples) if k not in leaks]
        dropped["leak"] = len(leaks)
        if not examples and not config.traces:
            raise DataError(f"all {len(leaks)} rows ask dev or test problems of {config.data.folder}; give other rows")
    known = config.data.folder / config.data.train
    problems = load_problems(known, config.data.folder) if config.traces and known.is_file() else []
    for one in config.traces:
        source = TraceFile(one.file, one.kind, one.tags, one.unjudged, one.limit)
        found = read_traces(source, {p.id: p for p in problems}, prompt_set(config.prompts), images)
        leaks = _leaks(config, tests, found.traces, images, str(one.file))
        found = found.without({found.traces[k].example.id: "leak" for k in leaks})
        lost = "".join(f", {reason.replace('_', ' ')} {n}" for reason, n in found.dropped.most_common())
        say(f"  {one.file}: {len(found.traces)} of {found.offered} traces{lost}")
        refuse_empty(source, found)
        seed = seed_for(config.seed, "outside", one.name, 0)
        own = [trace.example for trace in found.traces]
        examples += weigh(own, "outside", one.weight, seed, Counter(), Counter())
    return examples, dropped


def _tests(config: Config, say: Callable[[str], None]) -> dict[str, list[Problem]]:
    """The dev and test problems of the data folder, whole files; none where the guard is off."""
    data = config.data
    if data.leakage == "ignore":
        say("leakage guard: off (data.leakage)")
        return {}
    files = {"dev": data.dev, "test": data.test} | ({HARD: data.hard} if data.hard else {})
    found = {
        name: load_problems(path, data.folder) for name, file in files.items() if (path := data.folder / file).is_file()
    }
    said = ", ".join(f"{len(problems)} problems of {name}" for name, problems in found.items())
    say(
        f"leakage guard: {said} in {data.folder}" if found else
        f"leakage guard: {data.folder} has no dev or test problems; name your test problems with data.folder"
    )  # fmt: skip
    return found


def _leaks(
    config: Config, tests: Mapping[str, Sequence[Problem]], traces: Sequence[Trace], images: Path, where: str
) -> set[int]:
    """Places of the traces that ask dev or test problems. DataError for any where `data.leakage` is error."""
    if not tests or not traces:
        return set()
    # No run has looked at the training problems; ids of rows may repeat, and places do not.
    named = [replace(t, example=replace(t.example, id=str(k)), ours=False) for k, t in enumerate(traces)]
    data = config.data
    report, ids = leaking(named, tests, images, data.allow_sources, data.folder)
    if ids and data.leakage == "error":
        first = min(map(int, ids))
        raise DataError(
            f"{where}: {len(ids)} of {len(traces)} rows ask dev or test problems of {data.folder}, the first is "
            f"{traces[first].example.id}.\n{report.summary()}\nLeave them out with data.leakage=drop, or correct the "
            "rows"
        )
    return set(map(int, ids))


def train_given(config: Config, files: Sequence[Path], images: Path, progress: Progress | None = None) -> Path:
    """Train once on the rows of `files` in `config.output`; returns the folder of what was trained.

    Outside traces that the configuration names are trained on as well. `images`: the folder that paths of images are
    relative to. Raises DataError for rows that cannot be used, RunError
    if the folder was started with other settings or rows or the disk is too small, TrainingError if training fails.
    """
    progress = progress or Progress()
    check_outputs({"--output": config.output}, [*files, images, config.model.path], resumes=True)
    if config.engine.has_model:
        check_answers_at_once(config.model.path)
        training_plan(config)  # wrong hyper-parameters before anything is read
        check_gpus(config)
        if (room := disk_plan(config, 1)) is not None:
            progress.say(str(room))
            check_room(room)
        config, precision = settle(config)
        progress.say(str(precision))
    given, dropped = rows_of(config, files, images, progress.say)
    check_method_fits(config, given)
    with RunDir(config.output) as folder, Bank(config.bank) as bank:
        store = image_store(config, images)
        with progress.stage(f"resizing the images of {len(given)} rows", "rows"):
            usable, pictures, lost = usable_rows(given, store)
        dropped += lost
        unusable = dropped.total() - dropped["leak"]
        if unusable > config.training.max_dropped_share * (len(usable) + unusable) or not usable:
            raise DataError(
                f"{unusable} of {len(usable) + unusable} rows cannot be trained on ({dict(dropped)}); "
                "correct them, or leave them out by raising training.max_dropped_share"
            )
        identity = {key: value for key, value in config.identity().items() if key in SECTIONS}
        folder.claim(identity, inputs(config, bank, usable, pictures))

        def rows(into: Path) -> None:
            write_jsonl(into / "examples.jsonl", map(to_json, usable))
            write_json(into / "counts.json", {"examples": len(usable), "dropped": dropped})

        folder.stage("rows", rows)
        return training_stage(folder, config, store, seed_for(config.seed, "train", "given"), progress, dropped)


def training_stage(
    folder: RunDir,
    config: Config,
    store: ImageStore,
    seed: int,
    progress: Progress,
    dropped: Counter[str],
    *,
    head: bool = False,
) -> Path:
    """Train once on the examples of a folder's stage `rows`, as its stage `train`; returns what was trained.

    `dropped`: reason -> rows that were left out before. `head`: the rows train a reward head. Raises as `train_given`
    does.
    """
    result, checkpoints = config.training.result, folder.path / "train.checkpoints"

    def train(into: Path) -> None:
        examples = read_examples(folder.path / "rows/examples.jsonl")
        if config.engine.has_model:
            kept = checkpoints if config.training.save_steps else None
            overrides = config.training.dpo.overrides if config.training.prefers(1) else None
            with progress.stage(f"training on {len(examples)} rows", "steps") as update:
                told = tune(
                    config, store, examples, None, into / "work", seed, update, overrides, checkpoints=kept,
                    head=head, say=progress.say,
                )  # fmt: skip
        else:
            from selftrain.training.fake_trainer import rehearse

            told = rehearse(examples, into / "work", store.path, result, head=head)
        (into / "work" / result).replace(into / result)
        write_json(into / "result.json", told)

    done = folder.stage("train", train, after=["rows"])
    discard(checkpoints)
    told: dict[str, Any] = read_json(done / "result.json")
    left_out = dropped + Counter(told["dropped"])
    progress.say(
        f"  {told['rows']} rows, {told['steps']} steps"
        + (f", loss {told['train_loss']:.3f}" if told["train_loss"] is not None else "")
        + (f"; left out: {', '.join(f'{name} {n}' for name, n in left_out.items())}" if left_out else "")
    )
    return done / result


def check_method_fits(config: Config, rows: Sequence[Example]) -> None:
    """DataError for preference pairs in an SFT, and for other rows in a DPO."""
    pairs, dpo = sum(bool(row.rejected) for row in rows), config.training.prefers(1)
    if pairs and not dpo:
        raise DataError(
            f"{pairs} of {len(rows)} rows are preference pairs, and this training is an SFT; set training.method to "
            "dpo with training.dpo.sft_iterations 0, or leave them out"
        )
    if dpo and pairs < len(rows):
        raise DataError(
            f"{len(rows) - pairs} of {len(rows)} rows have no rejected text, and this training is a DPO; set "
            "training.method to sft, or leave them out"
        )


def usable_rows(given: Sequence[Example], store: ImageStore) -> tuple[list[Example], list[list[str]], Counter[str]]:
    """The rows whose images can be used, the ids of those, and reason -> rows of the others."""
    usable, ids, lost = [], [], Counter[str]()
    for example in given:
        try:
            ids.append([store.add(image).id for image in example.images])
            usable.append(example)
        except ImageError as error:
            lost[f"image_{error.reason}"] += 1
    return usable, ids, lost


def inputs(config: Config, bank: Bank, rows: Sequence[Example], pictures: Sequence[list[str]]) -> dict[str, Any]:
    """Digests of all that comes from outside the configuration: the folder is bound to them."""
    content = json.dumps([[to_json(row), ids] for row, ids in zip(rows, pictures, strict=True)], sort_keys=True)
    found: dict[str, Any] = {"rows": hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]}
    if config.engine.has_model:
        found["model"] = weights_digest(bank, config.model.path, None)
        found["hyperparameters"] = file_digest(config.training.hyperparameters)[:16]
        if config.training.dtype != "base":
            found["training_dtype"] = config.training.dtype
    return found
