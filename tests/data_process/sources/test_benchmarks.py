"""Every benchmark: what its source names, and small files of each published form, prepared."""

from __future__ import annotations

from pathlib import Path

import pytest

from data_process.judging.published.registry import named_judge
from data_process.prepare.command import SOURCES, source_named
from data_process.prompts import prompt_set
from data_process.sources.base import Source
from tests.data_process.raw_files import png

ROOT = Path(__file__).parents[3]
NAMES = sorted(set(SOURCES) - {"table", "jsonl"})


def parquet(path: Path, rows: list[dict]) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def picture(path: Path, colour: str = "red") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(colour))


@pytest.mark.parametrize("name", NAMES)
def test_a_source_names_its_card_its_wording_and_its_judge(name):
    source = source_named(name)
    unknown = Source("x", source.item)
    assert source.name == name
    assert source.licence != unknown.licence
    assert source.citation != unknown.citation
    assert source.origin
    assert source.files
    assert prompt_set(source.prompts)
    assert named_judge(source.judge)


@pytest.mark.parametrize("name", NAMES)
def test_a_benchmark_has_a_configuration_with_its_wording(name):
    from selftrain.config import load_config

    config = load_config(ROOT / f"configs/{name}_qwen2vl_7b.yaml")
    assert config.prompts == source_named(name).prompts
    assert name in config.data.folder.name or name == "mathvista"
