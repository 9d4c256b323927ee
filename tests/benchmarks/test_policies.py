"""The tables of recipes: every variant is a configuration of its own, and a small table runs to its end."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from benchmarks import policies
from selftrain.config import load_config

# A rehearsal of a table: the scripted engine, and few problems.
SMALL = (
    "engine.kind=scripted", "data.train_limit=40", "data.dev_limit=30", "data.test_limit=30", "iters=1",
    "evaluation.test_strategies=[]",
)  # fmt: skip


@pytest.mark.parametrize("name", policies.read_tables())
def test_variants_differ_and_load(name):
    table = policies.read_tables()[name]
    digests = set()
    for variant in table.variants:
        overrides = [f"{key}={json.dumps(value)}" for key, value in {**table.shared, **table.variants[variant]}.items()]
        digests.add(load_config(table.config, overrides).digest())
    assert len(digests) == len(table.variants)


@pytest.mark.slow
def test_a_table_runs_and_resumes(tmp_path, monkeypatch, capsys):
    table = policies.read_tables()["ablations"]
    short = replace(table, strategies=["greedy"])
    monkeypatch.setattr(policies, "read_tables", lambda: {"ablations": short})
    settings = [part for one in (*SMALL, f"data.folder={tmp_path / 'minigeo'}") for part in ("--set", one)]
    argv = ["ablations", "--seeds", "0", "1", "--variants", "demo", "no select", "--output", str(tmp_path), *settings]
    assert policies.main(argv) == 0
    first = capsys.readouterr().out
    header, _, reference, other, change = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in first.splitlines() if line.startswith("|")
    ]
    assert header == ["variant", "sampled tokens", "steps", "accepted", "greedy"]
    assert (reference[0], other[0], change[:4]) == ("demo", "no select", [""] * 4)
    assert change[4].count("[") == 1
    assert change[4].count(",") == 2  # of the interval, and between two seeds
    (tmp_path / "ablations/no_select-1/iter1/dev/rows.jsonl").stat()
    assert policies.main(argv) == 0
    assert capsys.readouterr().out == first


def test_an_unknown_variant_is_refused(capsys):
    with pytest.raises(SystemExit):
        policies.main(["ablations", "--variants", "no sleep"])
    assert "no sleep" in capsys.readouterr().err


def test_credits_of_honest_answers_and_their_mean():
    one, two = {"p": 1.0, "q": 0.0}, {"p": 0.0, "q": 0.0}
    assert policies.mean_credits([one, two]) == {"p": 0.5, "q": 0.0}
    assert policies.difference([two, two], [one, two]).startswith("+25.0 [")
