"""`selftrain curate` from a pool to a folder that the loop reads, and again from its manifest."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
from PIL import Image

from data_process.curate.manifest import read_manifest
from data_process.curate.outcomes import read_outcomes
from data_process.io import load_problems, read_jsonl, write_jsonl
from data_process.sources import minigeo
from selftrain.cli.main import main
from selftrain.config import ConfigError, load_config
from selftrain.curation.run import curate as curate_pool
from selftrain.curation.settings import load_recipe
from selftrain.engines.base import Completion, Engine, Request, SamplingParams
from selftrain.loop import run_loop
from selftrain.progress import Progress
from selftrain.sampling.bank import Bank

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> Path:
    """MiniGeo with a few faults: a torn and a missing image, a copy, a test problem, rows that are no problems."""
    folder = tmp_path_factory.mktemp("pool")
    minigeo.write(folder, {"train": 60, "dev": 10, "test": 12}, seed=0)
    rows = read_jsonl(folder / "train.jsonl")
    test = read_jsonl(folder / "test.jsonl")
    torn = folder / rows[0]["image"]
    torn.write_bytes(torn.read_bytes()[:200])
    (folder / rows[1]["image"]).unlink()
    Image.open(folder / rows[2]["image"]).save(folder / "images/copy.bmp")
    rows.append({**rows[2], "id": "copy", "image": "images/copy.bmp"})
    rows.append({**test[0], "id": "leak"})
    rows.append({**rows[3], "id": "no-gold", "answer": "Q"})
    rows.append({**rows[3], "question": "Once more?"})
    write_jsonl(folder / "train.jsonl", rows)
    with (folder / "train.jsonl").open("a") as file:
        file.write('{"id": "half a li\n')
    return folder


def curate(*words: object) -> None:
    assert main(["curate", "--quiet", *map(str, words)]) == 0


def decisions(folder: Path) -> dict[str, dict]:
    return {row["id"]: row for row in read_manifest(folder).decisions}


def contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.slow
def test_every_problem_has_a_reason(pool, tmp_path, capsys):
    out = tmp_path / "out"
    curate("--pool", pool, "--policy", "diverse", "--size", 20, "--set", "domain.of=variant", "--out", out)
    rows = decisions(out)
    assert len(rows) == 65
    left = {name: (row["by"], row["why"]) for name, row in rows.items() if not row["kept"] and row["by"] != "draw"}
    assert left == {
        "minigeo-train-00000": ("quality", "image corrupt"),
        "minigeo-train-00001": ("quality", "image missing"),
        "copy": ("duplicates", "a copy of 'minigeo-train-00002'"),
        "leak": ("contamination", "item leak: 'minigeo-test-00000' of test"),
        "no-gold": ("rows", left["no-gold"][1]),
        "line 64": ("rows", "id already used (line 4)"),
        "line 65": ("rows", left["line 65"][1]),
    }
    assert "answer 'Q' is neither one of the letters" in left["no-gold"][1]
    kept = load_problems(out / "train.jsonl", out)
    assert [p.id for p in kept] == [name for name, row in rows.items() if row["kept"]]
    assert len(kept) == 20
    assert all((out / image).is_file() for p in kept for image in p.images)
    assert len(list((out / "images").iterdir())) == 20 + 10 + 12
    said = capsys.readouterr().out
    assert "train has 20 of 65 problems" in said
    assert "quality kept 60 of 62 (image corrupt 1, image missing 1)" in said
    card = json.loads((out / "card.json").read_text())
    assert card["splits"]["train"]["items"] == 20
    assert card["curated"]["domains"]["different"]["train"] >= 8


@pytest.mark.slow
def test_same_seed_same_bytes_and_again_from_the_manifest(pool, tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        curate("--pool", pool, "--policy", "random", "--size", 20, "--seed", seed, "--out", tmp_path / name)
    curate("--again", tmp_path / "a", "--out", tmp_path / "d")
    a, b, c, d = (contents(tmp_path / name) for name in "abcd")
    assert a == b == d
    assert a["train.jsonl"] != c["train.jsonl"]


@pytest.mark.slow
def test_again_needs_the_same_pool_and_the_same_decisions(pool, tmp_path, capsys):
    own = tmp_path / "pool"
    shutil.copytree(pool, own)
    curate("--pool", own, "--policy", "longest", "--share", 0.2, "--out", tmp_path / "a")
    again = ["curate", "--quiet", "--again", str(tmp_path / "a"), "--out", str(tmp_path / "b")]
    manifest = tmp_path / "a/manifest.json"
    text = manifest.read_text()
    manifest.write_text(text.replace('"share": 0.2', '"share": 0.25'))
    assert main(again) == 2
    assert "is decided otherwise than in the manifest" in capsys.readouterr().err
    manifest.write_text(text)
    with (own / "test.jsonl").open("a") as file:
        file.write("\n")
    assert main(again) == 2
    assert "test.jsonl changed since the folder was made" in capsys.readouterr().err
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_pass_rates_from_a_bank_and_lengths_of_samples(pool, tmp_path, monkeypatch):
    """s1's policy with samples through the bank; made again, nothing is sampled."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "models").symlink_to(ROOT / "models")
    recipe = tmp_path / "recipe.yaml"
    model = f"{{config: configs/rehearsal.yaml, n: 4, set: [bank={tmp_path}/bank.sqlite]}}"
    recipe.write_text(
        f"size: 12\ndifficulty: {{models: {{base: {model}}}, hard: 0.1, easy: 0.9}}\n"
        "length: {of: samples}\ndomain: {of: clusters, clusters: 3}\n"
    )
    curate("--pool", pool, "--recipe", recipe, "--out", "a")
    rows = decisions(Path("a"))
    rates = {name: row["pass_rates"]["base"] for name, row in rows.items() if "pass_rates" in row}
    assert len(rates) == 58
    assert len(set(rates.values())) > 2
    for name, row in rows.items():
        if row["kept"]:
            assert 0.1 <= rates[name] <= 0.9
            assert row["length"] > 0
            assert row["domain"]
    with Bank(tmp_path / "bank.sqlite") as bank:
        drawn = bank.count()
    curate("--pool", pool, "--recipe", recipe, "--out", "same")
    with Bank(tmp_path / "bank.sqlite") as bank:
        assert bank.count() == drawn > 58, "nothing is drawn twice"
    (tmp_path / "bank.sqlite").unlink()
    monkeypatch.setattr("selftrain.curation.measured.Measured.rates", None)
    curate("--again", "a", "--out", "b")
    assert contents(Path("a")) == contents(Path("b"))
    assert not (tmp_path / "bank.sqlite").exists()


@pytest.mark.slow
def test_samples_of_a_run_and_of_a_file(pool, tmp_path, monkeypatch, capsys):
    """The loop runs on a curated folder, and its judged candidates curate another."""
    monkeypatch.chdir(tmp_path)
    curate("--pool", pool, "--policy", "all", "--out", "clean")
    overrides = ["data.source=jsonl", "data.folder=clean", f"bank={tmp_path}/bank.sqlite", "iters=1"]
    run_loop(load_config(ROOT / "configs/rehearsal.yaml", [*overrides, "output=run"]), Progress(quiet=True))
    model = "difficulty.models={run: {file: run/iter1/judge/judged.jsonl}}"
    band = ["--set", "difficulty.easy=0.9", "--set", "domain.of=family"]
    curate("--pool", "clean", "--size", 9, "--set", model, *band, "--out", "a")
    outcomes = read_outcomes(Path("run/iter1/judge/judged.jsonl"))
    assert all(row["pass_rates"]["run"] == outcomes[name].rate for name, row in decisions(Path("a")).items())
    run = "difficulty.models={run: {run: run, weights: accepted, n: 5}}"
    curate("--pool", "clean", "--size", 9, "--set", run, *band, "--out", "b")
    assert {5 * row["pass_rates"]["run"] % 1 for row in decisions(Path("b")).values()} == {0.0}
    write_jsonl("others.jsonl", [{"id": "other", "pass_rate": 0.5}])
    words = ["curate", "--quiet", "--pool", "clean", "--size", "9", "--out", "c"]
    assert main([*words, "--set", "difficulty.models={run: {file: others.jsonl}}"]) == 2
    assert "others.jsonl has samples of none of the 58 problems (its first id is 'other'" in capsys.readouterr().err


class NamesADomain(Engine):
    """Replies with a number by the length of the prompt, and with none for some."""

    def __init__(self) -> None:
        self.prompts: list[str] = []

    def generate(self, requests: Sequence[Request], params: SamplingParams) -> list[list[Completion]]:
        assert params.temperature == 0
        self.prompts += [request.prompt for request in requests]
        assert all(len(request.images) == 1 for request in requests), "the model sees the image"
        replies = [("It is 1.", "2", "No idea.")[len(request.prompt) % 3] for request in requests]
        return [[Completion(reply, (1,), 9, "stop", None)] for reply in replies]

    def close(self) -> None:
        pass


@pytest.mark.slow
def test_domains_of_a_model(pool, tmp_path, monkeypatch):
    """A model behind any engine chooses among labels. Problems without a domain cannot be drawn."""
    monkeypatch.chdir(tmp_path)
    domain = {"of": "model", "config": ROOT / "configs/rehearsal.yaml", "labels": ["angles", "sides"]}
    settings = load_recipe(None, [], {"policy": "diverse", "size": 9, "domain": domain})
    engine = NamesADomain()
    quiet = Progress(quiet=True)
    curate_pool(pool, settings, Path("a"), progress=quiet, opener=lambda *args: engine)
    assert "1. angles\n2. sides" in engine.prompts[0]
    content = read_manifest(Path("a")).content
    steps = {step["step"]: step for step in content["steps"]}
    domains = {row["id"]: row.get("domain") for row in read_manifest(Path("a")).decisions}
    assert set(domains.values()) == {"angles", "sides", None}
    assert steps["domain"]["reasons"]["no domain"] == 58 - sum(d is not None for d in domains.values())
    asked = len(engine.prompts)
    curate_pool(pool, settings, Path("b"), progress=quiet, opener=lambda *args: engine)
    assert len(engine.prompts) == asked, "the bank has the replies"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--size", "9"], "policy s1 filters by difficulty, and difficulty.models names no model"),
        (["--policy", "best", "--size", "9"], "policy 'best' is unknown; known: s1, random"),
        (["--policy", "random"], "say how many problems are wanted with either size or share"),
        (["--policy", "random", "--share", "0"], "share"),
        (["--policy", "random", "--size", "9", "--set", "filters=[quality,quality]"], "filters names one twice"),
        (["--policy", "random", "--size", "9", "--set", "filter=[]"], "did you mean 'filters'"),
        (["--size", "9", "--set", "difficulty.models={a: {file: x, n: 4}}"], "n and temperature belong to samples"),
        (["--size", "9", "--set", "difficulty.models={a: {config: x, temperature: 0}}"], "temperature 0 gives"),
        (["--size", "9", "--set", "difficulty.models={a: {config: x, temperature: -1}}"], "greater than or equal to 0"),
        (["--size", "9", "--set", "difficulty.models={a: {}}"], "give one of file, config and run"),
        (["--size", "9", "--set", "difficulty={hard: 0.5}"], "no pass rate is from 0.5"),
        (["--policy", "longest", "--size", "9", "--set", "length.of=samples"], "needs a model in difficulty.models"),
        (["--policy", "longest", "--size", "9", "--set", "direct=[{origins: [A]}]"], "need trace.field"),
        (["--policy", "random", "--size", "9", "--set", "quality.strings={a: {pattern: '('}}"], "not a regular expr"),
        (["--policy", "diverse", "--size", "9", "--set", "domain.of=model"], "of: model needs config"),
        (["--policy", "diverse", "--size", "9", "--set", "domain.of=nothing"], "no problem has a domain"),
        (["--policy", "longest", "--size", "9", "--set", "length.of=nothing"], "no problem has a length"),
        (["--policy", "diverse", "--size", "9", "--set", "domain.embedding=models"], "no checkpoint there"),
        (["--policy", "random", "--size", "99"], "99 problems are wanted, and the filters leave 58"),
        (["--policy", "random", "--size", "9", "--set", "quality.min_chars=999"], "quality kept 0 of 62"),
        (["--policy", "random", "--size", "9", "--set", "contamination.splits=[other]"], "has none of other.jsonl"),
    ],
)  # fmt: skip
def test_what_is_refused(pool, tmp_path, capsys, words, message):
    status = main(["curate", "--quiet", "--pool", str(pool), "--out", str(tmp_path / "out"), *words])
    assert status == 2
    assert message in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "curate needs --pool DIR, or --again DIR"),
        (["--again", "x", "--seed", "1"], "--seed does not go with --again"),
        (["--again", "nothing"], "manifest.json does not exist"),
        (["--pool", "nothing", "--policy", "random", "--size", "1"], "does not exist; name a data folder"),
    ],
)
def test_what_the_command_refuses(tmp_path, capsys, words, message):
    assert main(["curate", "--out", str(tmp_path / "out"), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("name", ["s1", "s1_code", "s1_demo"])
def test_shipped_recipes(name):
    models = ["difficulty.models={7b: {file: 7b.jsonl}, 32b: {file: 32b.jsonl}}"] if name != "s1_demo" else []
    recipe = load_recipe(ROOT / f"configs/curate/{name}.yaml", models, {})
    assert recipe.policy == "s1"
    assert (recipe.target is not None) == (name == "s1_code")


def test_a_flag_takes_the_place_of_the_recipe():
    path = ROOT / "configs/curate/s1_demo.yaml"
    assert load_recipe(path, [], {"size": 7}).share is None
    assert load_recipe(path, [], {"policy": "random", "seed": None}).share == 0.25
    with pytest.raises(ConfigError, match="less than or equal to 1"):
        load_recipe(path, [], {"share": 2.0})
