"""The cards of an export: the model's and the data set's, from templates and the run's own records."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from data_process import prompts as wording
from data_process.prepare.data_card import render
from data_process.prompts import prompt_set
from data_process.schema import Problem
from selftrain import __version__
from selftrain.export.source import Exported
from selftrain.files import read_json
from selftrain.report import formatting as fmt
from selftrain.report import tables
from selftrain.report.formatting import markdown_table
from selftrain.test_time.results import Score

EXAMPLE = Problem("example", "QUESTION", "A", ("FIRST CHOICE", "SECOND CHOICE"))
LENGTHS = 4096  # of context in the commands of the card: a problem with one image and a long answer


def _render(template: str, **values: Any) -> str:
    environment = Environment(
        loader=PackageLoader("selftrain.export"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True, autoescape=False,
    )  # fmt: skip
    return environment.get_template(template).render(**values)


def model_card(found: Exported, *, merged: bool, name: str, base_name: str, data_repository: str | None) -> str:
    """README.md of the exported weights. `name`: how commands call the folder or repository."""
    about: dict[str, Any] = dict(found.base_licence)
    if "/" in base_name and not Path(base_name).exists():  # a repository: hubs refuse the path of a folder here
        about["base_model"] = base_name
    about |= {"library_name": "transformers" if merged else "peft", "pipeline_tag": "image-text-to-text"}
    about["tags"] = ["selftrain", *([] if merged else ["lora"])]
    if data_repository is not None:
        about["datasets"] = [data_repository]
    m, config = found.metrics, found.config
    trained = next(row.train for row in m.iterations if row.iteration == found.iteration)
    rank = None if found.is_whole else read_json(found.trained / "adapter_config.json").get("r")
    return _render(
        "model_card.md",
        front=yaml.safe_dump(about, sort_keys=False),
        merged=merged, name=name, base_name=base_name, rank=_served_rank(rank), whole=found.is_whole, run=m.run.name,
        version=__version__, iteration=found.iteration, accepted=found.iteration == m.accepted, config=config,
        digest=config.digest(),
        headline=tables.headline(m), scores=scores(found), comparisons=_table(tables.comparison_rows(m)),
        judge=m.run.judge, trained=trained, listed=tables.listed, kinds=tables.KINDS, number=fmt.number,
        base_licence=", ".join(found.base_licence.values()) or "not stated in the base model's folder",
        data_licence=found.data_licence, data_card=data_card_text(found.data_card), data_name=config.data.folder.name,
        prompt=wording.cot(EXAMPLE, prompt_set(config.prompts)), context=LENGTHS,
        pixels=json.dumps({"min_pixels": config.model.min_pixels, "max_pixels": config.model.max_pixels}),
    )  # fmt: skip


def _served_rank(rank: int | None) -> int | None:
    """What vLLM's --max-lora-rank is for an adapter's rank: it takes these only (vllm/config/lora.py)."""
    return rank and next((largest for largest in (8, 16, 32, 64, 128, 256, 320, 512) if rank <= largest), rank)


def data_set_card(found: Exported, kinds: Mapping[str, int], left_out: Mapping[str, int]) -> str:
    """README.md of the exported rows."""
    files = [{"config_name": "default", "data_files": [{"split": "train", "path": "train.parquet"}]}]
    trained = next(row.train for row in found.metrics.iterations if row.iteration == found.iteration)
    return _render(
        "data_set_card.md",
        front=yaml.safe_dump({"configs": files, "tags": ["selftrain"]}, sort_keys=False),
        run=found.metrics.run.name, iteration=found.iteration, kinds=kinds, left_out=left_out, names=tables.KINDS,
        judge=found.metrics.run.judge, trained=trained, config=found.config, data_licence=found.data_licence,
        data_card=data_card_text(found.data_card), data_name=found.config.data.folder.name, version=__version__,
        number=fmt.number, listed=tables.listed,
    )  # fmt: skip


def scores(found: Exported) -> str:
    """Every split and strategy of the base and of the exported iteration: accuracy, abstentions and tokens."""
    rows = []
    for split in ("dev", "test", "hard"):
        for row, result in found.metrics.splits(split):
            if row.iteration not in (0, found.iteration):
                continue
            for strategy, score in result.strategies.items():
                who = "base" if not row.iteration else f"iteration {row.iteration}"
                rows.append([split, who, fmt.strategy_name(found.metrics, strategy), *_cells(score)])
    header = ["Split", "Weights", "Strategy", "n", "Accuracy, 95% interval", "Abstain", "Tokens: generated", "prompt"]
    return markdown_table(header, rows, left=3)


def _cells(score: Score) -> list[str]:
    tokens = score.tokens_per_problem
    counts = (None if amount is None else round(amount) for amount in (tokens.generated, tokens.prompt))
    return [str(score.n), fmt.with_interval(score), fmt.rate(score.abstain, score.n), *map(fmt.number, counts)]


def _table(rows: tuple[list[str], list[list[str]]]) -> str:
    return markdown_table(*rows, left=3) if rows[1] else ""


def data_card_text(card: Mapping[str, Any] | None) -> str:
    """The data card as text; "" without one."""
    if card is None:
        return ""
    if "overlaps" in card:  # of `selftrain prepare`
        return render(card)
    return yaml.safe_dump(dict(card), sort_keys=False).rstrip()
