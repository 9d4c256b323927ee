"""What `make clean` may remove, what a wheel contains, and that an installed package works in an empty folder."""

from __future__ import annotations

import email
import os
import pty
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest
import yaml

from selftrain import __version__

ROOT = Path(__file__).parents[1]
BUILT = (
    ".venv/bin/python", ".venv-vllm/bin/python", ".uv/bin/uv", "build/lib/x", "dist/x.whl", "site/index.html",
    "selftrain.egg-info/PKG-INFO", ".pytest_cache/x", ".mypy_cache/x", ".ruff_cache/x", ".hypothesis/x",
    "selftrain/cli/__pycache__/x.pyc",
)  # fmt: skip
SOURCES = ("outputs/.gitkeep", "selftrain/cli/main.py", "data_process/io.py", "tests/x.py", "configs/demo.yaml")
RESULTS = (
    "outputs/demo/iter1/adapter.safetensors",
    "outputs/bank.sqlite",
    "outputs/my run/x",
    "data/geoqa/train.jsonl",
)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A folder with this project's Makefile and an empty file for each name."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in (*BUILT, *SOURCES, *RESULTS):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in ("benchmarks", "scripts", "examples"):
        (tmp_path / name).mkdir()
    return tmp_path


def left(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {"Makefile"}


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", *words], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)


def test_clean_keeps_sources_and_results(checkout):
    assert make(checkout, "clean").returncode == 0
    assert left(checkout) == {*SOURCES, *RESULTS}


def test_clean_results_refuses_without_a_terminal(checkout):
    done = make(checkout, "clean-results")
    assert done.returncode != 0
    listed = {line.split("\t")[1] for line in done.stdout.splitlines() if "\t" in line}
    assert listed == {"outputs/demo", "outputs/bank.sqlite", "outputs/my run", "data"}
    assert "Nothing was removed." in done.stdout
    assert "make clean-results YES=1" in done.stdout
    assert left(checkout) == {*BUILT, *SOURCES, *RESULTS}


def test_clean_results_with_yes(checkout):
    assert make(checkout, "clean-results", "YES=1").returncode == 0
    assert left(checkout) == {*BUILT, *SOURCES}
    done = make(checkout, "clean-results")
    assert (done.returncode, done.stdout) == (0, "There are no results to remove.\n")


@pytest.mark.parametrize(("answer", "removed"), [("yes", True), ("y", False), ("", False)])
def test_clean_results_asks(checkout, answer, removed):
    ours, theirs = pty.openpty()
    os.write(ours, f"{answer}\n".encode())
    done = subprocess.run(["make", "clean-results"], cwd=checkout, stdin=theirs, capture_output=True, timeout=600)
    os.close(ours)
    os.close(theirs)
    assert (done.returncode == 0) == removed
    assert left(checkout) == {*BUILT, *SOURCES} | (set() if removed else set(RESULTS))


def test_help_names_every_target():
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert targets is not None
    done = make(ROOT, "help")
    assert [line.split()[0] for line in done.stdout.splitlines()] == targets[1].split()


def test_continuous_integration_runs_the_test_command_of_the_readme():
    [*_, command] = (ROOT / ".ci/run").read_text().splitlines()
    assert command == "make test"
    assert re.search(r"^make test\b", (ROOT / "README.md").read_text(), re.MULTILINE)
    planned = make(ROOT, "--dry-run", "test").stdout
    for step in ("ruff check", "ruff format --check", "mypy", 'pytest -m "not slow"', "pytest -m slow"):
        assert step in planned


def requirements(name: str) -> set[str]:
    lines = (line.split("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {line for line in lines if line}


@pytest.mark.parametrize("path", sorted(ROOT.glob("requirements*.txt")), ids=lambda path: path.name)
def test_requirements_are_exact(path):
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in requirements(path.name))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built in a copy, without the network: setuptools is installed."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "run.py", *map(str, ROOT.glob("req*.txt"))):
        shutil.copy(ROOT / name, folder)
    for name in ("selftrain", "data_process", "configs", "models"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    code = "import setuptools.build_meta as backend; backend.build_wheel('dist')"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [built] = (folder / "dist").glob("*.whl")
    return built


def files(*folders: str) -> set[str]:
    found = (path for folder in folders for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in found if "__pycache__" not in path.parts}


@pytest.mark.slow
def test_what_a_wheel_contains(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        metadata = email.message_from_bytes(archive.read(f"selftrain-{__version__}.dist-info/METADATA"))
    data = {f"selftrain/shipped/{name}" for name in files("configs", "models")}
    assert {name for name in names if ".dist-info/" not in name} == files("selftrain", "data_process") | data
    assert metadata["Version"] == __version__
    needed: dict[str, set[str]] = {}
    for line in metadata.get_all("Requires-Dist", []):
        requirement, _, extra = line.partition("; extra == ")
        needed.setdefault(extra.strip('"'), set()).add(requirement.strip())
    assert needed.pop("") == requirements("requirements.txt")
    assert needed["ray"] == requirements("requirements-ray.txt")
    assert needed["docs"] == requirements("requirements-docs.txt")
    assert needed["dev"] == requirements("requirements-dev.txt") | needed["ray"] | needed["docs"]


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` folder of an environment that has the wheel, and the other packages of this one."""
    folder = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(folder, with_pip=True)
    install = [folder / "bin/python", "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", wheel]
    done = subprocess.run(install, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    [packages] = folder.glob("lib/python*/site-packages")
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return folder / "bin"


@pytest.mark.slow
def test_an_installed_package_works_in_an_empty_folder(installed, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def selftrain(*words: str) -> str:
        done = subprocess.run(
            [installed / "selftrain", *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert selftrain("--version") == f"selftrain {__version__}\n"
    by_name = selftrain("run", "--config", "demo", "--dry-run")
    assert by_name == selftrain("run", "--dry-run") == selftrain("run", "--config", "configs/demo.yaml", "--dry-run")
    assert yaml.safe_load(by_name)["model"]["path"] == "models/tiny-qwen2vl"  # portable: it outlives this environment
    assert list(tmp_path.iterdir()) == []
    assert "model" in selftrain("doctor", "--config", "demo")
    selftrain("run", "--config", "configs/rehearsal.yaml", "--iters", "1", "--output", "outputs/run", "--quiet")
    assert {path.name for path in tmp_path.iterdir()} == {"outputs", "data"}
    assert "iteration 1 dev" in selftrain("score", "outputs/run")
