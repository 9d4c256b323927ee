"""Run folders: a stage is whole or absent, and nothing goes on from what has changed."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from selftrain.files import RunError, read_json, write_json
from selftrain.runs import run_dir
from selftrain.runs.run_dir import RunDir, folder_digests

ROOT = Path(__file__).parents[3]


def write(name: str, text: str = "x"):
    return lambda folder: (folder / name).write_text(text)


def test_a_stage_is_done_once(tmp_path):
    made = []

    def make(folder: Path) -> None:
        made.append(list(folder.iterdir()))
        (folder / "a.txt").write_text("a")

    with RunDir(tmp_path / "run") as run:
        assert not run.done("iter1/sample")
        folder = run.stage("iter1/sample", make)
        assert run.stage("iter1/sample", make) == folder == tmp_path / "run/iter1/sample"
        assert run.done("iter1/sample")
    assert made == [[]]
    assert sorted(p.name for p in folder.iterdir()) == ["a.txt", "stage.json", "timing.json"]
    stage = read_json(folder / "stage.json")
    assert stage["files"] == folder_digests(folder)
    assert list(stage["files"]) == ["a.txt"]  # the clock is not part of it
    assert not (tmp_path / "run/iter1/sample.partial").exists()


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt(), OSError(errno.EIO, "broken")])
def test_a_failed_stage_is_absent_and_starts_anew(tmp_path, error):
    def fail(folder: Path) -> None:
        (folder / "half.txt").write_text("half")
        raise error

    with RunDir(tmp_path) as run:
        with pytest.raises(type(error)):
            run.stage("s", fail)
        assert not run.done("s")
        assert not (tmp_path / "s").exists()
        folder = run.stage("s", write("whole.txt"))
    assert not (folder / "half.txt").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from selftrain.runs import run_dir
where, path = sys.argv[1], Path(sys.argv[2])
die = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)
def make(folder):
    (folder / "half.txt").write_text("half")
    if where == "make":
        die()
with run_dir.RunDir(path) as run:
    if where == "stage.json":
        run_dir.folder_digests = die
    if where == "rename":
        Path.replace = lambda self, other: die() if self.is_dir() else os.replace(self, other)
    run.stage("s", make)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["make", "stage.json", "rename"])
def test_killed_in_a_stage(tmp_path, where):
    done = subprocess.run([sys.executable, "-c", KILLED, where, tmp_path], cwd=ROOT)
    assert done.returncode == -signal.SIGKILL
    with RunDir(tmp_path) as run:  # the lock went with the process
        assert not run.done("s")
        folder = run.stage("s", write("whole.txt"))
    assert list(folder_digests(folder)) == ["whole.txt"]


HOLD = """
import sys
from pathlib import Path
from selftrain.runs.run_dir import RunDir
with RunDir(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_second_process_is_refused(tmp_path):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(RunError, match=f"in use by process {holder.pid}; wait"), RunDir(tmp_path):
            pass
        (tmp_path / "link").symlink_to(tmp_path)  # another name is the same folder
        with pytest.raises(RunError, match=f"in use by process {holder.pid}; wait"), RunDir(tmp_path / "link"):
            pass
    finally:
        holder.communicate()
    with RunDir(tmp_path):
        assert (tmp_path / "lock").read_text() == str(os.getpid())


IDENTITY, INPUTS = {"sampling": {"n": 3}, "seed": 0}, {"train": "abc"}
CLAIMS = [
    ({"sampling": {"n": 4}, "seed": 0}, INPUTS, "config.sampling.n: 3 -> 4"),
    (IDENTITY, {"train": "xyz"}, "inputs.train: 'abc' -> 'xyz'"),
    (IDENTITY, {"train": "abc", "judge": "2"}, "inputs.judge: None -> '2'"),
]


def test_claim(tmp_path):
    with RunDir(tmp_path) as run:
        run.claim(IDENTITY, INPUTS)
        run.claim(IDENTITY, INPUTS)
        for identity, inputs, line in CLAIMS:
            with pytest.raises(RunError, match="other settings or data") as caught:
                run.claim(identity, inputs)
            assert line in str(caught.value)
        run.claim(IDENTITY, INPUTS)  # a refusal changes nothing
        with pytest.raises(RunError, match="and 10 more"):
            run.claim({**IDENTITY, **{f"key{i}": i for i in range(30)}}, INPUTS)


def test_a_folder_that_cannot_be_one(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match="cannot be used as the run folder"), RunDir(path):
            pass


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (errno.EROFS, "cannot be written .*choose another folder with --output"),
        (errno.EACCES, "cannot be written"),
        (errno.ENOSPC, "no space left .*finished stages are kept"),
    ],
)
def test_unwritable_folder(tmp_path, monkeypatch, code, message):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "pwrite", refuse)
    with pytest.raises(RunError, match=message), RunDir(tmp_path):
        pass
    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(RunError, match=message), RunDir(tmp_path):
        pass
    monkeypatch.undo()
    with RunDir(tmp_path):  # neither attempt kept the lock
        pass


def test_no_locks_on_this_file_system(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(run_dir.fcntl, "flock", refuse)
    with pytest.raises(RunError, match="No locks available"), RunDir(tmp_path):
        pass


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_full_disk_in_a_stage(tmp_path, monkeypatch, code):
    def full(*args):
        raise OSError(code, os.strerror(code))

    with RunDir(tmp_path) as run:
        run.stage("first", write("a.txt"))
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)  # of stage.json: everything else is written by then
            with pytest.raises(RunError, match=str(tmp_path)):
                run.stage("second", write("b.txt"))
        assert run.done("first")
        assert not run.done("second")
        run.stage("second", write("b.txt"))
        assert run.done("second")


DAMAGED = [b"", b"{", b'{"a": 1', b"\xff\xfe", b"\x00" * 40]


@pytest.mark.parametrize("content", DAMAGED)
def test_damaged_json(tmp_path, content):
    (tmp_path / "metrics.json").write_bytes(content)
    # Beside the stages only the file is in the way: the advice must not be to delete the whole run.
    with pytest.raises(RunError, match=rf"is damaged .*delete {tmp_path}/metrics\.json and run"):
        read_json(tmp_path / "metrics.json")
    with RunDir(tmp_path) as run:
        folder = run.stage("s", lambda f: write_json(f / "counts.json", {}))
        (folder / "counts.json").write_bytes(content)
        with pytest.raises(RunError, match=rf"is damaged .*delete {folder} and run"):
            read_json(folder / "counts.json")
        (folder / "stage.json").write_bytes(content)
        with pytest.raises(RunError, match=rf"stage\.json is damaged .*delete {folder} and run"):
            run.stage("s", write("a"))
    with pytest.raises(RunError, match=r"gone\.json is missing"):
        read_json(tmp_path / "gone.json")


def test_json_is_written_whole(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": "é"})
    assert (tmp_path / "a.json").read_text() == '{\n "a": "é",\n "b": 1\n}\n'
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", {"a": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"a": "é", "b": 1}


def edit(folder: Path) -> None:
    (folder / "deep" / "a.txt").write_text("edited")


def remove(folder: Path) -> None:
    (folder / "deep" / "a.txt").unlink()


@pytest.mark.parametrize("change", [edit, remove])
def test_a_finished_stage_that_changed_is_not_believed(tmp_path, change):
    def make(folder: Path) -> None:
        (folder / "deep").mkdir()
        (folder / "deep" / "a.txt").write_text("a")

    with RunDir(tmp_path) as run:
        folder = run.stage("s", make)
        (folder / "notes.txt").write_text("someone's own")
        run.stage("s", make)  # what was added is nobody's business
        change(folder)
        with pytest.raises(RunError, match=r"deep/a\.txt is not what this stage wrote"):
            run.stage("s", make)


def test_a_stage_made_from_another_one_is_not_believed(tmp_path):
    """Deleting one stage and making it again differently must not leave what was built on the old one in use."""
    import shutil

    with RunDir(tmp_path) as run:
        run.stage("judge", write("a.txt", "old"))
        run.stage("build", write("b.txt"), after=["judge"])
        shutil.rmtree(tmp_path / "judge")
        run.stage("judge", write("a.txt", "old"))
        run.stage("build", write("b.txt"), after=["judge"])  # the same again is the same
        shutil.rmtree(tmp_path / "judge")
        run.stage("judge", write("a.txt", "new"))
        with pytest.raises(RunError, match=r"build was made from another judge .*delete .*build"):
            run.stage("build", write("b.txt"), after=["judge"])


def test_a_folder_without_its_mark_is_not_overwritten(tmp_path):
    with RunDir(tmp_path) as run:
        folder = run.stage("s", write("a.txt"))
        (folder / "stage.json").unlink()
        with pytest.raises(RunError, match="not a finished stage; move it away"):
            run.stage("s", write("b.txt"))
        assert (folder / "a.txt").exists()
