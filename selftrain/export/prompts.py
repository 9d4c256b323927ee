"""The training prompts of a run as the data set of a GRPO trainer: `train.parquet`, and dev as `val.parquet`.

The columns are those that the trainers' own examples have (huggingface/trl, trl/trainer/grpo_trainer.py;
hiyouga/EasyR1, verl/utils/dataset.py; verl-project/verl, examples/data_preprocess/geo3k.py). The test splits are not
exported: they are read once, by the run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from data_process import prompts as wording
from data_process.images.marks import PLACEHOLDER, segments
from data_process.prompts import prompt_set
from data_process.schema import Problem
from selftrain.export import parquet
from selftrain.export.reward import ground_truth
from selftrain.export.source import ExportError
from selftrain.files import read_json
from selftrain.progress import Progress
from selftrain.runs.run_dir import run_config
from selftrain.runs.splits import image_store, load_splits

Trainer = Literal["trl", "easyr1", "verl"]
FILES = {"train": "train.parquet", "dev": "val.parquet"}


def write_prompts(run: Path, folder: Path, trainer: Trainer, progress: Progress) -> dict[str, int]:
    """Write the prompts of a run, which need not be finished; returns the number of rows by file.

    Training problems that the run's leakage guard left out are left out here too. ExportError if it has not looked yet;
    DataError if the data folder is not what the run needs.
    """
    config = run_config(run)
    store = image_store(config)
    splits, _ = load_splits(config, store, progress)
    kept = run / "leakage" / "kept.json"
    if kept.is_file():
        names = set(read_json(kept))
        splits["train"] = [problem for problem in splits["train"] if problem.id in names]
    elif config.data.leakage != "ignore":
        raise ExportError(f"{run} has not looked for test problems in train yet (no {kept}); run its command first")
    prompts = prompt_set(config.prompts)
    counts = {}
    for split, file in FILES.items():
        asked = [(problem, wording.cot(problem, prompts), wording.images(problem)) for problem in splits[split]]
        first = all(PLACEHOLDER not in prompt for _, prompt, _ in asked)
        with_images = any(images for *_, images in asked)
        features = features_of(trainer, images_first=first)
        if with_images:
            features["images"] = parquet.images()

        def rows(asked: Sequence[Any], images_first: bool, with_images: bool, split: str) -> Iterator[dict[str, Any]]:
            for index, (problem, prompt, images) in enumerate(asked):
                row = row_of(trainer, problem, prompt, len(images), split, index, images_first=images_first)
                yield row | ({"images": parquet.image_values(images, store.path)} if with_images else {})

        counts[file] = parquet.write_parquet(folder / file, rows(asked, first, with_images, split), features)
    return counts


def features_of(trainer: Trainer, *, images_first: bool) -> dict[str, Any]:
    """The columns of a trainer, without images."""
    from datasets import Value

    text = parquet.text()
    if trainer == "easyr1":
        return dict.fromkeys(("id", "prompt", "answer"), text)
    if trainer == "verl":
        return {
            "data_source": text,
            "prompt": parquet.messages(),
            "ability": text,
            "reward_model": {"style": text, "ground_truth": text},
            "extra_info": {"split": text, "index": Value("int64"), "id": text},
        }
    content = text if images_first else [{"type": text, "text": text}]
    return {"id": text, "prompt": parquet.messages(content), "ground_truth": text}


def row_of(
    trainer: Trainer, problem: Problem, prompt: str, n_images: int, split: str, index: int, *, images_first: bool
) -> dict[str, Any]:
    """A row of a trainer, without images.

    TRL puts images first by itself; where one has another place, every prompt is a list of parts. The others read
    `<image>` in the prompt's text.
    """
    truth = ground_truth(problem)
    if trainer == "easyr1":
        return {"id": problem.id, "prompt": parquet.marked(prompt, n_images), "answer": truth}
    if trainer == "verl":
        return {
            "data_source": "selftrain",
            "prompt": [{"role": "user", "content": parquet.marked(prompt, n_images)}],
            "ability": "math",
            "reward_model": {"style": "rule", "ground_truth": truth},
            "extra_info": {"split": split, "index": index, "id": problem.id},
        }
    content: Any = prompt
    if not images_first:
        before, *after = segments(prompt, n_images)
        content = [{"type": "text", "text": before}] if before else []
        for part in after:
            content += [{"type": "image", "text": None}, *([{"type": "text", "text": part}] if part else [])]
    return {"id": problem.id, "prompt": [{"role": "user", "content": content}], "ground_truth": truth}
