"""No command writes onto what it reads, nor into a run folder. Cases are rows of a table."""

from __future__ import annotations

import os

import pytest

from data_process.outputs import check_outputs
from data_process.schema import DataError


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A run, a prepared folder, raw files and links to them, in the current folder."""
    files = {
        "run/identity.json": "{}", "run/iter0/dev/stage.json": "{}", "run/iter0/dev/rows.jsonl": "rows",
        "run/scale/scale.json": "{}", "old/config.json": "{}", "old/base/dev/rows.jsonl": "rows",
        "data/card.json": "{}", "data/train.jsonl": "train", "data/notes.jsonl": "mine", "raw/a.csv": "a",
        "answers.jsonl": "answers", "earlier.jsonl": "verdicts",
    }  # fmt: skip
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "link.jsonl").symlink_to("answers.jsonl")
    os.link(tmp_path / "answers.jsonl", tmp_path / "hard.jsonl")
    (tmp_path / "into").symlink_to("run/iter0")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.chdir(tmp_path)
    return tmp_path


READ, RUN = {"inputs": ["answers.jsonl"]}, {"runs": ["old"]}
REFUSED = [
    ("answers.jsonl", READ, "is read by this command"),
    ("./run/../answers.jsonl", READ, "is read by this command"),
    ("link.jsonl", READ, "is read by this command"),
    ("hard.jsonl", READ, "is read by this command"),
    ("answers.jsonl", {"inputs": ["link.jsonl"]}, "is read by this command"),
    ("raw/a.csv", {"inputs": ["raw"]}, "is a file of raw"),
    ("raw", {"inputs": ["raw/a.csv"]}, "contains raw/a.csv"),
    (".", {"inputs": ["raw"]}, "contains raw"),
    ("raw", {"inputs": ["raw"], "resumes": True}, "is read by this command"),
    ("run/iter0/dev/rows.jsonl", {}, "lies inside the run folder"),
    ("run/new.jsonl", {}, "lies inside the run folder"),
    ("run", {}, "lies inside the run folder"),
    ("into/dev/x.jsonl", {}, "lies inside the run folder"),
    ("old/base/dev/rows.jsonl", RUN, "lies inside the run folder"),
    ("old/x", RUN, "lies inside the run folder"),
    ("old", RUN, "contains the run folder"),
    (".", RUN, "contains the run folder"),
    ("run", {"owner": "run", "resumes": True}, "contains the run folder"),
    ("run/iter0", {"owner": "run", "resumes": True}, "lies inside the run folder"),
    ("run/iter0/dev/scale", {"owner": "run"}, "lies inside the run folder"),
    ("run/iter7", {"owner": "run"}, "lies inside the run folder"),
    ("run/leakage", {"owner": "run"}, "lies inside the run folder"),
    ("run/iter0/dev", {"resumes": True}, "lies inside the run folder"),
    ("data/train.jsonl", {}, "prepared data folder"),
    ("data/card.json", {}, "prepared data folder"),
    ("pipe", {}, "neither a file nor a folder"),
    ("/dev/null", {}, "neither a file nor a folder"),
    ("loop", {}, "cannot be written|is neither"),
    ("x" * 300, {}, "cannot be written"),
    ("a\0b", {}, "cannot be written"),
]
ALLOWED = [
    ("earlier.jsonl", READ),
    ("new/deep/items.jsonl", READ),
    ("data/notes.jsonl", READ),
    ("raw/new.csv", {"inputs": ["raw"]}),
    ("run/scale", {"owner": "run"}),
    ("run/select-data", {"owner": "run", "resumes": True}),
    ("run", {"resumes": True}),
    ("out", RUN),
]


def paths(here, options):
    one, several = {"owner"}, {"inputs", "runs"}
    return {
        name: here / value if name in one else [here.__class__(v) for v in value] if name in several else value
        for name, value in options.items()
    }


@pytest.mark.parametrize(("output", "options", "message"), REFUSED)
def test_refused(here, output, options, message):
    with pytest.raises(DataError, match=message) as caught:
        check_outputs({"--out": here.__class__(output)}, **paths(here, options))
    assert str(caught.value).startswith("--out ")
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize(("output", "options"), ALLOWED)
def test_allowed(here, output, options):
    check_outputs({"--out": here.__class__(output), "--other": None}, **paths(here, options))


def test_two_outputs_are_not_one_file(here):
    one, other = here / "new.jsonl", here / "raw/../new.jsonl"
    with pytest.raises(DataError, match=r"--b .* is also the file of --a"):
        check_outputs({"--a": one, "--b": other})
