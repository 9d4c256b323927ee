"""What is imported when: text work and the command line must answer at once, so nothing heavy may slip in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "torchvision", "transformers", "peft", "accelerate", "datasets", "llamafactory")

IMPORT_ALL = """
import importlib, json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} is heavy")

HEAVY, modules = json.loads(sys.argv[1])
sys.meta_path.insert(0, Refuse())
failed = {}
for module in modules:
    try:
        importlib.import_module(module)
    except ImportError as error:
        failed[module] = str(error)
print(json.dumps([failed, sorted({name.partition(".")[0] for name in sys.modules})]))
"""


def modules() -> list[str]:
    files = sorted(file for package in ("data_process", "selftrain") for file in (ROOT / package).rglob("*.py"))
    names = [".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files]
    return [name for name in names if not name.endswith("__main__")]


def import_all(names: list[str], *heavy: str) -> tuple[dict[str, str], set[str]]:
    done = subprocess.run(
        [sys.executable, "-c", IMPORT_ALL, json.dumps([heavy, names])], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    failed, loaded = json.loads(done.stdout)
    return failed, set(loaded)


@pytest.mark.slow
def test_every_module_imports_without_torch():
    """Also those that hold a model: they import torch in the functions that need it."""
    names = modules()
    assert len(names) > 40
    failed, loaded = import_all(names, *HEAVY)
    assert failed == {}
    assert not loaded & set(HEAVY)


def test_the_hook_of_these_tests_sees_an_import():
    failed, _ = import_all(["json", "torch.nn", "peft"], *HEAVY)
    assert failed == {"torch.nn": "torch is heavy", "peft": "peft is heavy"}


@pytest.mark.slow
def test_text_work_needs_only_the_standard_library_and_jsonlines():
    """`data_process` imports no `selftrain`, and neither NumPy nor Pillow until an image is drawn."""
    names = [name for name in modules() if name.startswith("data_process")]
    failed, loaded = import_all(names, *HEAVY, "numpy", "PIL", "pydantic", "yaml", "selftrain")
    assert failed == {}
    assert "data_process" in loaded


def test_the_front_doors_load_nothing():
    """`import selftrain` and parsing arguments: the standard library alone."""
    failed, loaded = import_all(["selftrain", "selftrain.cli.main"], *HEAVY, "numpy", "PIL", "pydantic", "yaml", "rich")
    assert failed == {}
    assert not loaded & {"numpy", "pydantic"}


@pytest.mark.slow
def test_the_loop_itself_is_light():
    """A rehearsal never needs NumPy's or Pillow's import time before it has read its settings and data."""
    failed, loaded = import_all(
        ["selftrain.config", "selftrain.runs.run_dir", "selftrain.sampling.bank"], *HEAVY, "numpy", "PIL"
    )
    assert failed == {}
    assert not loaded & {"numpy", "PIL"}


@pytest.mark.slow
def test_the_vllm_worker_needs_only_what_vllm_brings():
    """Its environment holds vLLM and what vLLM depends on; of our requirements only those."""
    ours = (
        "jsonlines",
        "peft",
        "datasets",
        "llamafactory",
        "matplotlib",
        "rich",
        "math_verify",
        "rapidfuzz",
        "datasketch",
    )
    inside = "selftrain.engines.decoding.lora_merge"  # imported in a function of the worker
    failed, _ = import_all(["selftrain.engines.vllm_worker", inside], *ours)
    assert failed == {}


@pytest.mark.slow
def test_the_judge_alone_needs_only_its_own_requirements(tmp_path):
    """`requirements-judge.txt` is enough to judge, to score a file, to show a run and to prepare a table."""

    def names(file: str) -> dict[str, str]:
        lines = [line for line in (ROOT / file).read_text().splitlines() if line and not line.startswith("#")]
        return dict(line.split("==") for line in lines)

    everything, light = names("requirements.txt"), names("requirements-judge.txt")
    assert {name: everything[name] for name in light if name != "pandas"} == {
        k: light[k] for k in light if k != "pandas"
    }
    blocked = [name.replace("-", "_") for name in set(everything) - set(light)]
    assert set(HEAVY) <= set(blocked)
    rows = [{"question": f"What is {k} + {k}?", "answer": str(2 * k)} for k in range(20)]
    (tmp_path / "my.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-c", JUDGE_ALONE, json.dumps([blocked, []])],
        cwd=tmp_path, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "= 100.00%" in done.stdout


JUDGE_ALONE = f"""{IMPORT_ALL}
import selftrain
from selftrain.cli.main import main

problem = selftrain.Problem("1", "Which?", "B", choices=("30", "40"))
assert selftrain.judge("The angle is 40, so the answer is (B).", problem).correct
assert main(["prepare", "table", "--raw", "my.jsonl", "--out", "data"]) == 0
rows = [json.loads(line) for line in open("data/test.jsonl")]
with open("answers.jsonl", "w") as out:
    out.writelines(json.dumps({{"id": row["id"], "response": f"Answer: {{row['answer']}}"}}) + "\\n" for row in rows)
assert main(["score", "--problems", "data/test.jsonl", "--outputs", "answers.jsonl"]) == 0
"""
