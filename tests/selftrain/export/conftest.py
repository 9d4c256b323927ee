"""Run folders to export: a finished rehearsal with an adapter put into it, as if it had trained one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from data_process.sources import minigeo
from selftrain import loop
from selftrain.config import load_config
from selftrain.files import read_json, write_json
from selftrain.progress import Progress
from selftrain.runs.run_dir import folder_digests
from tests.selftrain.engines.conftest import problems_and_pictures  # noqa: F401  (a fixture)

ROOT = Path(__file__).parents[3]
TRAPS = {"do_sample": True, "temperature": 0.01, "top_k": 1, "top_p": 0.001, "repetition_penalty": 1.05}
LAYER = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture(scope="session")
def rehearsal(tmp_path_factory) -> Path:
    """One iteration with reflections, whose rows have a history."""
    folder = tmp_path_factory.mktemp("rehearsal")
    minigeo.write(folder / "data", {"train": 24, "dev": 8, "test": 8}, seed=0)
    sets = [
        f"data.folder={folder / 'data'}", f"output={folder / 'run'}", f"bank={folder / 'bank.sqlite'}", "iters=1",
        "name=tried", "data.leakage=drop",
    ]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "write_run_report", lambda path: [])
        loop.run_loop(load_config(ROOT / "configs/rehearsal.yaml", sets), Progress(quiet=True))
    return folder / "run"


@pytest.fixture
def small_base(tmp_path) -> Path:
    """A checkpoint's files with a few numbers in each, in two files and three dtypes, as published ones have them."""
    import torch
    from safetensors.torch import save_file

    base = tmp_path / "Small-VL"
    base.mkdir()
    generator = torch.Generator().manual_seed(0)
    first = {LAYER: torch.randn(6, 4, generator=generator).bfloat16(), "lm_head.weight": torch.ones(3, 4).half()}
    save_file(first, base / "model-00001-of-00002.safetensors", {"format": "pt"})
    second = {"visual.norm": torch.ones(5), "visual.ids": torch.arange(3)}
    save_file(second, base / "model-00002-of-00002.safetensors", {"format": "pt"})
    ids = {"bos_token_id": 7, "eos_token_id": [5, 6], "pad_token_id": 6}
    files = {
        "config.json": {"model_type": "qwen2_vl", "dtype": "bfloat16", "eos_token_id": 5},
        "generation_config.json": {**ids, **TRAPS},
        "model.safetensors.index.json": {"weight_map": {}},
        "tokenizer.json": {},
        "preprocessor_config.json": {"min_pixels": 3136, "max_pixels": 12845056, "image_processor_type": "x"},
    }
    for name, value in files.items():
        (base / name).write_text(json.dumps(value))
    (base / "README.md").write_text("---\nlicense: apache-2.0\nlanguage: [en]\n---\n# A base\n")
    (base / "LICENSE").write_text("Apache License")
    return base


@pytest.fixture
def run_of(rehearsal, tmp_path) -> Callable[..., Path]:
    """run_of(base, trained): the rehearsal as a run of that base that trained that adapter, and accepted it."""

    def make(base: Path, trained: Path, *, name: str = "adapter") -> Path:
        from selftrain.export.source import _Digests
        from selftrain.sampling.weights import weights_digest

        run = tmp_path / "run"
        shutil.copytree(rehearsal, run)
        config = read_json(run / "config.json")
        config["engine"] = {"kind": "hf"}
        config["model"] = {**config["model"], "path": str(base), "min_pixels": 3136, "max_pixels": 50176}
        write_json(run / "config.json", config)
        identity = read_json(run / "identity.json")
        identity["inputs"]["model"] = weights_digest(_Digests(), base, None)
        write_json(run / "identity.json", identity)
        metrics = read_json(run / "metrics.json")
        write_json(run / "metrics.json", {**metrics, "accepted": 1})
        train = run / "iter1" / "train"
        shutil.rmtree(train / "adapter")
        shutil.copytree(trained, train / name)
        stage = read_json(train / "stage.json")
        write_json(train / "stage.json", {**stage, "files": folder_digests(train)})
        return run

    return make


@pytest.fixture
def small_run(small_base, run_of, tmp_path) -> Path:
    import torch
    from safetensors.torch import save_file

    adapter = tmp_path / "adapter"
    adapter.mkdir()
    name = "base_model.model.model.language_model.layers.0.self_attn.q_proj"
    halves = {f"{name}.lora_A.weight": torch.full((2, 4), 0.5), f"{name}.lora_B.weight": torch.full((6, 2), 0.25)}
    save_file(halves, adapter / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "base_model_name_or_path": "/somewhere/of/mine"}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    return run_of(small_base, adapter)
