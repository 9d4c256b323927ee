"""`selftrain select-data`: mixed self-select rows from a run's candidates, one more SFT on them, and the curves.

It replaces the hand edits of Liac-li/MM-self-improve-qwen2vl (README, "Test-time Selection") by one command. The stages
lie in their own folder, so it can be stopped and started again like the loop.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

from data_process.building.mixed_select import PER_SIZE, SIZES, build_mixed_select
from data_process.building.rationale import build_rationale_select
from data_process.io import each_record, read_examples, write_jsonl
from data_process.outputs import check_outputs
from data_process.prompts import SelectFormat, prompt_set
from data_process.schema import Example, Judged, judged_from_json, to_json
from data_process.seeds import seed_for
from selftrain.config import ConfigError
from selftrain.files import RunError, read_json, write_json
from selftrain.progress import Progress
from selftrain.runs.run_dir import RunDir, iteration_files, run_config
from selftrain.runs.splits import image_store, inputs, load_splits
from selftrain.sampling.bank import Bank
from selftrain.scaling.targets import models_of
from selftrain.stages.building import second_thoughts_in
from selftrain.training.sft import tune


@dataclass(frozen=True)
class SelectData:
    """How the rows are made and trained on."""

    sizes: tuple[int, ...] = SIZES  # candidates in one prompt
    per_size: int = PER_SIZE  # rows per question and size
    form: SelectFormat = "answer"
    start: Literal["base", "accepted"] = "accepted"  # what is trained on
    max_rows: int | None = 6000  # a seeded subset of the selections
    cot_share: float = 0.5  # self-CoT rows of the run beside each selection, so that solving is not forgotten
    max_steps: int | None = None  # of the SFT; None: as the run's training
    seed: int = 0


def select_data(run: Path, settings: SelectData, output: Path, progress: Progress | None = None) -> Path:
    """Build the rows and train on them in `output`; returns the folder of what was trained.

    RunError if `run` is not a finished run or its candidates are gone, or `output` was made with other settings;
    DataError for settings that cannot be; TrainingError when the SFT fails.
    """
    progress = progress or Progress()
    config = run_config(run)
    check_outputs({"--output": output}, [config.data.folder, config.model.path], owner=run, resumes=True)
    accepted = models_of(run, ["accepted"])[0]
    start = accepted.weights if settings.start == "accepted" else None
    if not config.engine.has_model:
        raise ConfigError(f"{run} was a rehearsal without a model: there is nothing to train")
    with Bank(config.bank) as bank, RunDir(output) as folder:
        store = image_store(config)
        splits, _ = load_splits(config, store, progress)
        digests = inputs(config, splits, store, bank)
        folder.claim({**asdict(settings), "sizes": list(settings.sizes), "run": config.digest()}, digests)

        def build(into: Path) -> None:
            judged = pool_of_run(run)
            sampled = {item.candidate.problem_id for item in judged}
            problems = [p for p in splits["train"] if p.id in sampled]
            shared: dict[str, Any] = {
                "prompts": prompt_set(config.prompts), "seed": settings.seed, "sizes": settings.sizes,
                "per_size": settings.per_size, "require_consistent": config.build.require_consistent,
            }  # fmt: skip
            if settings.form == "rationale":
                thoughts, limit = second_thoughts_in(run), config.show_limit
                made = build_rationale_select(problems, judged, limit=limit, thoughts=thoughts, **shared)
            else:
                made = build_mixed_select(problems, judged, form=settings.form, **shared)
            rows, counts = mixture(list(made.examples), cot_rows(run), settings)
            if not rows:
                shown = ", ".join(f"{name} {n}" for name, n in made.dropped.most_common())
                raise RunError(f"no selection could be built from the candidates of {run} ({shown})")
            write_jsonl(into / "examples.jsonl", map(to_json, rows))
            counts |= {
                "slots": made.slots,
                "dropped": dict(made.dropped),
                "by_size": made.by_size,
                "right_places": {n: list(places) for n, places in made.right_places.items()},
            }
            write_json(into / "counts.json", counts)

        built = folder.stage("build", progress.during("building selections", "rows", build))
        counts = read_json(built / "counts.json")
        progress.say("  rows: " + ", ".join(f"{kind} {n}" for kind, n in counts["examples"].items()))

        def train(into: Path) -> None:
            examples = read_examples(built / "examples.jsonl")
            overrides = {"max_steps": settings.max_steps} if settings.max_steps is not None else {}
            seed = seed_for(settings.seed, "select-data", "train")
            with progress.stage(f"training on {len(examples)} rows from {settings.start}", "steps") as update:
                result = tune(config, store, examples, start, into / "work", seed, update, overrides)
            (into / "work" / config.training.result).replace(into / config.training.result)
            write_json(into / "result.json", result)

        return folder.stage("train", train, after=["build"]) / config.training.result


def pool_of_run(run: Path) -> list[Judged]:
    """The judged candidates of all iterations of a run; RunError if there are none."""
    files = iteration_files(run, "judge/judged.jsonl")
    if not files:
        raise RunError(f"{run} holds no judged candidates (iter*/judge/judged.jsonl); run the loop first")
    return [item for _, file in files for item in each_record(file, judged_from_json)]


def cot_rows(run: Path) -> list[Example]:
    """The self-CoT rows of the run's last iteration, whose pool held the candidates of all; none if it was DPO's."""
    files = iteration_files(run, "build/examples.jsonl")
    return [row for row in read_examples(files[-1][1]) if row.kind == "cot" and not row.rejected] if files else []


def mixture(
    selections: Sequence[Example], cots: Sequence[Example], settings: SelectData
) -> tuple[list[Example], dict[str, Any]]:
    """Selections up to `max_rows`, `cot_share` self-CoT rows for each of them, shuffled; and the counts."""
    if settings.cot_share < 0 or (settings.max_rows is not None and settings.max_rows < 1):
        raise ConfigError(f"cot_share {settings.cot_share} and max_rows {settings.max_rows} must not be negative or 0")
    random = Random(seed_for(settings.seed, "select-data", "mixture"))
    chosen = list(selections)
    if settings.max_rows is not None and len(chosen) > settings.max_rows:
        chosen = random.sample(chosen, settings.max_rows)
    wanted = round(settings.cot_share * len(chosen))
    kept = random.sample(list(cots), min(wanted, len(cots)))
    rows = [*chosen, *kept]
    random.shuffle(rows)
    counts = {
        "examples": dict(Counter(row.kind for row in rows)),
        "above_max_rows": len(selections) - len(chosen),
        "cot_wanted": wanted,
        "cot_available": len(cots),
    }
    return rows, counts
