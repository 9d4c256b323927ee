"""README and docs: every command works or at least parses, every link resolves, and what is said of configs is true.

A command is a line of a fenced block that is `bash` or says no language. `RULES` says how each of them is checked.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from benchmarks.policies import read_tables
from data_process.io import write_jsonl
from data_process.sources import minigeo
from selftrain.config import ConfigError, load_config
from selftrain.curation.settings import load_recipe
from selftrain.scaling.grid import load_scale_config
from tests.data_process.predictions import test_harness_logs as harness_logs

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")])
EVERYWHERE = [*PAGES, ROOT / "examples/cluster/README.md", ROOT / "benchmarks/results/README.md"]
MOST_WORDS = 600  # of the README
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def without_code(text: str) -> str:
    return re.sub(r"`[^`\n]*`", "", FENCE.sub("", text))


# ---- commands: which there are, and how each is checked ----------------------------------------------------------

# "run": in a sandbox, with small data and finished rehearsals in the places that the pages name; it must succeed.
# "parse": by the program's own parser, and settings by the code that reads them; nothing is started.
# "make": `make -n`. "files": the files that it names exist, and what goes to run.py parses.
Mode = Literal["run", "parse", "make", "files"]
RULES: tuple[tuple[str, Mode, str], ...] = (
    (r"make ", "make", "installs packages, or runs for minutes"),
    (r"source ", "files", "a shell's own command"),
    (r"uv ", "files", "installs packages"),
    (r"sbatch |examples/cluster/", "files", "needs SLURM or Ray; tests/selftrain/test_cluster_examples.py runs them"),
    (r"selftrain run .*--dry-run", "run", ""),
    (r"selftrain run --config configs/rehearsal\.yaml ", "run", ""),
    (r"selftrain run |python run\.py", "parse", "trains for minutes, or needs a GPU"),
    (r"selftrain score .*--extractor-url ", "parse", "needs a server"),
    (r"selftrain rejudge outputs/RUN", "parse", "a placeholder"),
    (r"selftrain (list|show|report|rejudge|compare|score) ", "run", ""),
    (r"selftrain export --reward --out ", "run", ""),
    (r"selftrain export outputs/demo --reward ", "run", ""),
    (r"selftrain export ", "parse", "needs trained weights; tests/selftrain/export/ makes them"),
    (r"selftrain config ", "run", ""),
    (r"selftrain doctor$", "run", ""),
    (r"selftrain doctor ", "parse", "fails where the model is not downloaded"),
    (r"selftrain scale --run ", "run", ""),
    (r"selftrain scale ", "parse", "needs a model"),
    (r"selftrain select-data ", "parse", "trains, which a rehearsal refuses"),
    (
        r"cat answers\.jsonl '\|' selftrain score ",
        "files",
        "a pipe; tests/data_process/predictions/ reads standard input",
    ),
    (r"selftrain distill ", "parse", "needs a server"),
    (r"selftrain bank ", "parse", "needs a bank; tests/selftrain/sampling/ has them"),
    (r"selftrain serve ", "parse", "needs vLLM and a GPU"),
    (r"selftrain reward ", "parse", "samples and trains for minutes; tests/selftrain/reward/ runs it"),
    (r"selftrain train ", "parse", "needs rows; tests/selftrain/training/test_given_rows.py runs it"),
    (r"selftrain prepare table ", "run", ""),
    (r"selftrain prepare ", "parse", "needs a downloaded data set"),
    (r"selftrain curate .*--recipe ", "parse", "samples a model"),
    (r"selftrain curate .*--pool ", "run", ""),
    (r"selftrain curate --again ", "run", ""),
    (r"selftrain check-leakage ", "run", ""),
    (r"python -m data_process\.sources\.minigeo ", "parse", "draws thousands of images"),
    (r"python -m benchmarks\.loop ", "run", ""),
    (r"python -m benchmarks\.", "parse", "measures for minutes"),
)


@dataclass(frozen=True)
class Command:
    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """Without the variables that are set before it; `selftrain` for all that it goes by."""
        words = shlex.split(self.text, comments=True)
        while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
            words.pop(0)
        return words[2:] if words[:3] == ["python", "-m", "selftrain"] else words

    @property
    def rule(self) -> tuple[str, Mode, str]:
        """The first that fits."""
        line = shlex.join(self.words)
        for rule in RULES:
            if re.match(rule[0], line):
                return rule
        raise AssertionError(f"{self.page}: no rule of RULES says how to check `{self.text}`")


def commands() -> list[Command]:
    """Every command once, in the order of the pages."""
    found: dict[str, Command] = {}
    for page in EVERYWHERE:
        for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
            if language in ("bash", ""):
                for line in re.sub(r"\s*\\\n\s*", " ", body).splitlines():
                    if shlex.split(line, comments=True):
                        found.setdefault(line.strip(), Command(str(page.relative_to(ROOT)), line.strip()))
    return list(found.values())


def of_mode(mode: Mode) -> list[Any]:
    return [pytest.param(c, id=f"{c.page}: {c.text[:60]}") for c in commands() if c.rule[1] == mode]


def test_every_rule_is_of_use():
    found = commands()
    assert len(found) > 40
    assert {command.rule for command in found} == set(RULES)


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_say_their_language(page):
    """A block in another one would not be looked at; what says none is taken for commands."""
    for language, body in FENCE.findall(page.read_text(encoding="utf-8")):
        assert language in ("bash", "", "json", "yaml", "python", "text"), f"{page.name}: {body[:80]!r}"


@pytest.mark.parametrize("command", of_mode("make"))
def test_make_target_exists(command):
    check_targets(command.words[1:])


def test_make_targets_in_prose_exist():
    targets = {t for page in EVERYWHERE for t in re.findall(r"`make ([\w./-]+)`", page.read_text(encoding="utf-8"))}
    assert targets
    check_targets(sorted(targets))


def check_targets(targets: list[str]) -> None:
    """A folder's name alone, such as docs, would do for make; a target that is no file must be declared as such."""
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    declared = re.findall(r"^\.PHONY:(.*)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {target for target in targets if "/" not in target} <= set(" ".join(declared).split())


@pytest.mark.parametrize("command", of_mode("files"))
def test_files_of_a_command_exist(command, monkeypatch):
    words = command.words
    assert words[0] in ("source", "uv", "sbatch", "cat") or os.access(ROOT / words[0], os.X_OK)
    for word in words:
        if re.match(r"(configs|examples|models/tiny-qwen2vl|requirements)\b", word):
            assert (ROOT / word).exists(), word
    script = next((k for k, word in enumerate(words) if word.startswith("examples/")), None)
    if script is not None:
        monkeypatch.chdir(ROOT)
        check_settings(parsed(["selftrain", "run", *words[script + 1 :]], monkeypatch))


class Parsed(BaseException):
    """Raised in the place of a program's work, once its arguments are read."""


def parsed(words: list[str], monkeypatch: pytest.MonkeyPatch) -> argparse.Namespace:
    """The arguments of a Python program as its own parser reads them. SystemExit if it does not take them."""
    original = argparse.ArgumentParser.parse_args

    def parse_and_stop(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> argparse.Namespace:
        found = original(self, *args, **kwargs)
        if "arguments" in found:  # passed on to another parser
            return found
        raise Parsed(found)

    program = ["python", "-m", *words] if words[0] == "selftrain" else words
    assert program[0] == "python"
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
    try:
        if program[1] == "-m":
            monkeypatch.setattr(sys, "argv", [program[2], *program[3:]])
            runpy.run_module(program[2], run_name="__main__")
        else:
            monkeypatch.setattr(sys, "argv", program[1:])
            runpy.run_path(str(ROOT / program[1]), run_name="__main__")
    except Parsed as reached:
        return reached.args[0]
    raise AssertionError(f"{words} ended before it read its arguments")


def check_settings(args: argparse.Namespace) -> None:
    """Files and keys of settings, by the code that reads them; ConfigError for what it does not know."""
    given = vars(args)
    for value in given.values():
        if isinstance(value, Path) and value.parts[0] in ("configs", "examples"):
            assert (ROOT / value).exists(), value
    if "grid" in given:
        load_scale_config(args.grid, args.set, args.quick)
        load_config(args.config)
    elif "cot_share" in given:  # select-data
        load_scale_config(None, args.set, quick=False)
    elif "recipe" in given:
        load_recipe(args.recipe, args.set, {name: given[name] for name in ("policy", "size", "share", "seed")})
    elif "variants" in given:  # benchmarks.policies
        load_config(read_tables()[args.table].config, args.set)
    elif "set" in given and "config" in given:
        load_config(args.config, args.set)


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
@pytest.mark.parametrize("command", of_mode("parse"))
def test_command_parses(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    check_settings(parsed(command.words, monkeypatch))


@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_parsing_sees_an_error(monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    for line in ("selftrain run --itres 3", "python run.py --iters 0", "python -m benchmarks.sampling --problems 64"):
        with monkeypatch.context() as patch, pytest.raises(SystemExit):
            parsed(line.split(), patch)
    with monkeypatch.context() as patch, pytest.raises(ConfigError, match="unknown key"):
        check_settings(parsed(["selftrain", "run", "--set", "samplin.n=4"], patch))
    capsys.readouterr()


# ---- commands that are run ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory) -> Path:
    """The repository by links, with outputs and data of its own: two rehearsals in the places of the demo's runs."""
    folder = tmp_path_factory.mktemp("sandbox")
    own = {"outputs", "data", "README.md", "docs", "tests", "site"}
    for path in ROOT.iterdir():
        if path.name not in own and not path.name.startswith("."):
            (folder / path.name).symlink_to(path)
    minigeo.write(folder / "data/minigeo", {"train": 24, "dev": 12, "test": 12}, seed=0)
    rows = [{"problem": f"What is {k} plus {k * k}?", "solution": str(k + k * k)} for k in range(3, 63)]
    write_jsonl(folder / "my.jsonl", rows)
    others = [
        {"id": str(k), "question": f"How long is a road of {k} steps of 2 metres?", "answer": str(2 * k)}
        for k in range(101, 113)
    ]
    responses = [{"id": row["id"], "response": f"Answer: {row['answer']}"} for row in others]
    for name in ("testmini", "problems"):
        write_jsonl(folder / f"{name}.jsonl", others)
    for name in ("responses", "answers"):
        write_jsonl(folder / f"{name}.jsonl", responses)
    said = [row["response"] for row in responses]
    harness_logs.lmms(folder, others, said)
    harness_logs.vlmeval_xlsx(folder)
    samples = [
        {"id": row["id"], "epoch": 1, "input": row["question"], "target": row["answer"], "output": {"completion": text}}
        for row, text in zip(others, said, strict=True)
    ]
    harness_logs.inspect_eval(folder, samples)
    run_in(folder, "python -m data_process.prepare table --raw testmini.jsonl --split train=test --out data/mathvista")
    for name in ("demo", "demo-star", "demo-1"):
        run_in(
            folder, f"selftrain run --config configs/rehearsal.yaml --quiet --output outputs/{name} --set name={name}"
        )
    return folder


def run_in(folder: Path, line: str) -> subprocess.CompletedProcess[str]:
    words = Command("", line).words
    program = [sys.executable, "-m", *words] if words[0] == "selftrain" else [sys.executable, *words[1:]]
    done = subprocess.run(program, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{line}\n{done.stdout[-1000:]}\n{done.stderr[-3000:]}"
    return done


MAKES_DATA = "selftrain prepare"


@pytest.mark.slow
@pytest.mark.parametrize("command", sorted(of_mode("run"), key=lambda c: MAKES_DATA not in c.values[0].text))
def test_command_runs(command, sandbox):
    """Those that make data come first, as on the pages."""
    assert run_in(sandbox, command.text).stdout


# ---- links, words, the site --------------------------------------------------------------------------------------


def slugs(page: Path) -> set[str]:
    """The anchors of a page's headings that GitHub and MkDocs both give it."""
    both = set()
    for title in re.findall(r"^#{1,6} (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE):
        plain = re.sub(r"[^\w\s-]", "", title.replace("`", "")).strip().lower()
        if plain.isascii() and (slug := re.sub(r"[\s-]+", "-", plain)) == plain.replace(" ", "-"):
            both.add(slug)
    return both


def links(page: Path) -> Iterator[str]:
    text = without_code(page.read_text(encoding="utf-8"))
    yield from re.findall(r"\]\(([^)\s]+)\)", text)
    assert not re.search(r"^\[[^\]]+\]: ", text, re.MULTILINE), "this test does not read reference links"


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_resolve(page):
    for link in links(page):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = page if not file else (page.parent / file).resolve()
        assert target.is_file(), link
        assert not anchor or anchor in slugs(target), link


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= MOST_WORDS


def test_every_page_is_in_the_navigation():
    def pages(entry: Any) -> Iterator[str]:
        for value in entry.values() if isinstance(entry, dict) else entry if isinstance(entry, list) else ():
            yield from pages(value)
        if isinstance(entry, str):
            yield entry

    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    listed = sorted(pages(site["nav"]))
    assert listed == sorted(path.name for path in DOCS.glob("*.md"))
    assert site["strict"] is True
    assert site["theme"]["font"] is False


@pytest.mark.slow
def test_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for page in (tmp_path / "site").glob("*.html"):
        fetched = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="?(https?://[^" >]+)', page.read_text())
        assert fetched == [], f"{page.name} fetches from elsewhere"


# ---- what the pages say of the code ------------------------------------------------------------------------------


def tree(text: str) -> Iterator[str]:
    """The paths of a source map: two spaces deeper is one folder deeper, a remark follows the name."""
    folders: list[str] = []
    for line in text.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        name, _, remark = line.strip().partition(" ")
        assert name.endswith("/") or remark.strip(), f"{name} has no remark"
        del folders[depth:]
        if name.endswith("/"):
            folders.append(name)
        else:
            yield "".join(folders) + name


def test_map_lists_every_module_once():
    _, *trees = [body for _, body in FENCE.findall((DOCS / "map.md").read_text(encoding="utf-8"))]
    listed = [path for body in trees for path in tree(body)]
    there = {
        str(file.relative_to(ROOT))
        for package in ("selftrain", "data_process", "benchmarks")
        for file in (ROOT / package).rglob("*.py")
        if file.name != "__init__.py"
    }
    assert len(listed) == len(set(listed))
    assert there - set(listed) == set(), "modules without a line in docs/map.md"
    assert set(listed) - there == set(), "lines of docs/map.md without a module"


def test_top_level_map_exists():
    body = FENCE.findall((DOCS / "map.md").read_text(encoding="utf-8"))[0][1]
    for line in body.splitlines():
        assert (ROOT / line.split()[0]).exists(), line


def test_ablations_are_what_the_table_says():
    text = (DOCS / "method.md").read_text(encoding="utf-8")
    number = r" ([\d.]+) \|"
    rows = re.findall(rf"^\| ([\w -]+) \|{4 * number}", text, re.MULTILINE)
    table = read_tables()["ablations"]
    assert [variant for variant, *_ in rows] == list(table.variants)
    for variant, *weights in rows:
        settings = {**table.shared, **table.variants[variant]}
        config = load_config(table.config, [f"{key}={json.dumps(value)}" for key, value in settings.items()])
        parts = config.build.parts
        assert [parts.cot, parts.refine, parts.select, parts.reflect] == [float(weight) for weight in weights], variant
        assert parts.qa == 0
        assert config.training.restart == ("base" if variant == "restart base" else "previous")
        assert config.select_format == ("answer" if variant == "letter" else "rationale")
        assert config.training.overrides == {"max_steps": 100}
    assert load_config().training.restart == "base"
    starts = {
        "the base model": "base",
        "the previous weights": "previous",
        "the previous weights and optimizer": "continuous",
    }
    recipes = dict(re.findall(r"^\| .* \| `configs/([\w.]+)` \| .* \| ([\w ]+) \|$", text, re.MULTILINE))
    assert {*recipes.values()} == {*starts}
    for file in ROOT.glob("configs/*qwen2*.yaml"):
        start = recipes.pop(file.name, "the base model")
        assert load_config(file).training.restart == starts[start], file.name
    assert not recipes


@pytest.mark.parametrize("page", EVERYWHERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_in_prose_exist(page):
    """Names in backquotes; NAME stands for any, `*` for several."""
    folders = "configs|examples|selftrain|data_process|benchmarks|tests|models|scripts|docs"
    for name in re.findall(rf"`((?:{folders})/[\w./*-]*)`", FENCE.sub("", page.read_text(encoding="utf-8"))):
        if not name.startswith("models/Qwen"):
            assert list(ROOT.glob(name.replace("NAME", "*").rstrip("/"))), name


SECTIONS = ("data", "model", "engine", "sampling", "build", "training", "evaluation")


def is_setting(key: str) -> bool:
    """Whether some kind of engine takes this key. A value of the wrong type is refused with another message."""
    for kind in ("hf", "vllm", "ray", "server", "scripted"):
        try:
            load_config(None, [f"engine.kind={kind}", f"{key}=none"])
        except ConfigError as error:
            if "unknown key" in str(error):
                continue
        return True
    return False


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_settings_in_prose_exist(page):
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    for key in re.findall(rf"`((?:{'|'.join(SECTIONS)})(?:\.[a-z_]+)+)(?:[=:`])", text):
        if key not in ("data.json", "model.generate"):
            assert is_setting(key), key


def test_is_setting_sees_an_unknown_one():
    assert is_setting("engine.memory_share")
    assert not is_setting("engine.memory_shares")
    assert not is_setting("sampling.m")
