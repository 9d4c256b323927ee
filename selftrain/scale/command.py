"""The whole of `selftrain scale`: measure, conclude, write. Samples are in the bank, so a stopped command goes on."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from data_process.io import write_jsonl
from data_process.judging import JUDGE_VERSION
from data_process.prompts import prompt_set
from selftrain.bank import Bank
from selftrain.config import Config, load_config
from selftrain.images import ImageStore
from selftrain.progress import Progress
from selftrain.report.files import write_whole
from selftrain.run_dir import write_json
from selftrain.sampling import Picture
from selftrain.scale import figures, report
from selftrain.scale.findings import findings
from selftrain.scale.measure import Measured, measure, rows
from selftrain.scale.settings import ScaleConfig, grid
from selftrain.scale.subject import (
    Questions,
    Subject,
    file_questions,
    room_of,
    run_config,
    run_questions,
    subjects_of,
)
from selftrain.weights import Opener, open_engine, sampler_of


@dataclass(frozen=True)
class Files:
    """Questions and a model without a run folder."""

    problems: Path
    dev: Path | None
    images: Path
    config: Path | None  # settings of sampling, as of run.py
    overrides: Sequence[str] = ()


def scale(
    settings: ScaleConfig,
    output: Path,
    *,
    run: Path | None = None,
    weights: Sequence[str] = ("base", "accepted"),
    files: Files | None = None,
    progress: Progress | None = None,
    opener: Opener = open_engine,
) -> dict[str, Any]:
    """Measure the grid and write scale.json, scale.md, the figures and the raw results into `output`.

    Either `run`, a run folder, or `files`. Returns what is in scale.json. ConfigError, DataError or RunError before
    anything is sampled where something cannot work; EngineError later: what was sampled is in the bank.
    """
    progress = progress or Progress()
    started = time.monotonic()
    with ExitStack() as stack:
        if run is not None:
            config = run_config(run)
            subjects = subjects_of(run, weights)
            images = config.data.folder
        else:
            assert files is not None
            config = load_config(files.config, list(files.overrides))
            subjects = [Subject(config.model.path.name, None, 0)]
            subjects += subjects_of(Path(), [name for name in weights if "=" in name])
            images = files.images
        bank = stack.enter_context(Bank(config.bank))
        store = ImageStore(
            config.bank.parent / "images",
            images,
            min_pixels=config.model.min_pixels,
            max_pixels=config.model.max_pixels,
        )
        if run is not None:
            questions = run_questions(run, config, store, bank, progress)
        else:
            assert files is not None
            questions = file_questions(files.problems, files.dev, images, store, config)
        if settings.problems is not None:
            k = settings.problems
            questions = replace(questions, dev=questions.dev[:k], test=questions.test[:k])
        result = _measure_all(settings, config, questions, subjects, bank, store, progress, opener, output)
    result["name"] = str(run) if run is not None else config.model.path.name
    result["seconds"] = round(time.monotonic() - started, 1)
    write_json(output / "scale.json", result)
    write_whole(output / "scale.md", report.markdown(result))
    figures.draw(result, output)
    return result


def _measure_all(
    settings: ScaleConfig,
    config: Config,
    questions: Questions,
    subjects: Sequence[Subject],
    bank: Bank,
    store: ImageStore,
    progress: Progress,
    opener: Opener,
    output: Path,
) -> dict[str, Any]:
    @cache  # every setting asks for the same pictures
    def picture(relative: str) -> Picture:
        stored = store.add(relative)
        return Picture(stored.path, stored.id)

    prompts = prompt_set(config.prompts)
    plain = config.evaluation.params()
    selecting = replace(plain, temperature=0.0, top_p=1.0, top_k=0, max_tokens=config.evaluation.select_max_tokens)
    points = grid(settings, plain, selecting, prompts, room_of(config, picture), config.seed)
    everything = [*questions.dev, *questions.test]
    records, raw = [], []
    for subject in subjects:
        with sampler_of(config, bank, picture, everything, subject.adapter, subject.iteration, opener) as sampler:
            measured: dict[str, list[Measured]] = {}
            for split, problems in (("dev", questions.dev), ("test", questions.test)):
                title = f"{subject.name}, {split}: {len(points)} settings on {len(problems)} questions"
                with progress.stage(title, "samples") as sampler.on_progress:
                    measured[split] = measure(points, problems, sampler)
                raw += rows(measured[split], subject.name, split)
            drawn = sampler.drawn
        found = findings(measured["dev"], measured["test"], config.seed)
        records.append(
            {
                "name": subject.name,
                "model": str(config.model.path),
                "adapter": str(subject.adapter) if subject.adapter else None,
                "samples_drawn": drawn,  # now; the others were in the bank
                "settings": {split: [_record(m) for m in several] for split, several in measured.items()},
                "findings": found,
            }
        )
        progress.say(report.answer(records[-1]))
    write_jsonl(output / "results.jsonl.gz", raw)
    return {
        "questions": questions.about,
        "n_dev": len(questions.dev),
        "n_test": len(questions.test),
        "judge": JUDGE_VERSION,
        "seed": config.seed,
        "settings": json.loads(settings.model_dump_json()),
        "sampling": plain.to_json(),
        "subjects": records,
    }


def _record(m: Measured) -> dict[str, Any]:
    s = m.setting
    return {
        "name": s.name,
        "family": s.family,
        "strategy": s.strategy,
        "n": s.n,
        "num_ignore": s.num_ignore,
        "limit": s.limit,
        "plain": not s.plan.distinct and s.plan.condition is None,
        "totals": m.totals,
        "thinking": m.thinking,
    }
