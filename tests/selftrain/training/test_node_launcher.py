"""A training started on several nodes: each gets its place, one that is missing or fails is named, all of it ends."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import pytest
import yaml

from selftrain.training import launcher
from selftrain.training.hyperparameters import TrainingError, TrainingSettings
from selftrain.training.node_launcher import NodeError, meeting_point, node_rank
from tests.selftrain.training import fake_slurm
from tests.selftrain.training.test_llamafactory import CONFIGS, alive, wait_for

SRUN = ("srun", "--nodes=2", "--ntasks-per-node=1")

RANKS = {
    "srun": ({"SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NNODES": "8"}, 1),
    "a job's first node alone": ({"SLURM_NODEID": "0"}, 0),
    "Open MPI": ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}, 1),
    "Open MPI under Slurm": ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2", "SLURM_NODEID": "0"}, 1),
    "MPICH": ({"PMI_RANK": "0", "PMI_SIZE": "2"}, 0),
    "one's own": ({"NODE_RANK": "1", "SLURM_NODEID": "0", "SLURM_STEP_NUM_TASKS": "5"}, 1),
}


@pytest.mark.parametrize("case", RANKS)
def test_node_rank(case):
    environment, rank = RANKS[case]
    assert node_rank(environment, 2) == rank


NO_RANKS = {
    "two a node": ({"SLURM_NODEID": "1", "SLURM_STEP_NUM_TASKS": "4"}, "4 were started .* is 2; .*--ntasks-per-node=1"),
    "too few": ({"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "1"}, "1 were started .*mpirun"),
    "counted from 1": ({"NODE_RANK": "2"}, "NODE_RANK is 2, but training.nodes is 2: they count from 0"),
    "ssh": ({"PATH": "/bin"}, "nothing says which node this is: none of NODE_RANK, "),
}


@pytest.mark.parametrize("case", NO_RANKS)
def test_no_node_rank(case):
    environment, message = NO_RANKS[case]
    with pytest.raises(NodeError, match=message):
        node_rank(environment, 2)


def test_one_node_is_the_first():
    assert node_rank({}, 1) == 0
    assert node_rank({"SLURM_NODEID": "3"}, 1) == 0


@pytest.mark.parametrize(
    ("fixed", "machines", "host"),
    [
        (None, {"a 1"}, "127.0.0.1"),
        (None, {"a 1", "b 2"}, socket.gethostname()),
        (None, {"localhost 1", "localhost 2"}, socket.gethostname()),
        ("10.0.0.7:29500", {"a 1", "b 2"}, "10.0.0.7"),
        ("[fe80::1]:29500", {"a 1", "b 2"}, "[fe80::1]"),
    ],
)
def test_meeting_point(fixed, machines, host):
    found = meeting_point(fixed, machines)
    assert found["host"] == host
    assert found["port"] == "29500" if fixed else 1023 < int(found["port"]) < 65536


# --- with local processes for nodes, and a stand-in for LLaMA-Factory ---------------------------------------------

STAND_IN = """
    import json, os, signal, subprocess, sys, time
    from pathlib import Path

    assert sys.argv[1:] == ["-m", "llamafactory.cli", "train", "train.yaml"], sys.argv
    node = os.environ["SLURMD_NODENAME"]
    Path(f"environment-{node}").write_text(json.dumps(dict(os.environ)))
    act = os.environ["ACT"]
    if act == f"{node} fails":
        sys.exit("out of memory")
    if act != "fine":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        worker = subprocess.Popen(["sleep", "300"], start_new_session=True)  # as torchrun starts its ranks
        Path(f"pids-{node}").write_text(f"{os.getpid()} {worker.pid}\\n")
        time.sleep(3000)
"""


@pytest.fixture
def launch(tmp_path, monkeypatch):
    """launch(act, **settings): run a training over the launcher; its folder is tmp_path/"a run"."""
    fake_slurm.install(tmp_path / "bin", monkeypatch)
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node0,node1")
    for name, seconds in {"STOP_GRACE": 1.0, "SEEN_WITHIN": 0.3, "ARRIVE_WITHIN": 1.5}.items():
        monkeypatch.setattr(launcher, name, seconds)
    script, interpreter = tmp_path / "stand_in.py", tmp_path / "python"
    script.write_text(textwrap.dedent(STAND_IN))
    interpreter.write_text(
        f'#!/bin/sh\n[ "$1" = -I ] && exec "{sys.executable}" "$@"\nexec "{sys.executable}" "{script}" "$@"\n'
    )
    interpreter.chmod(0o755)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    out = tmp_path / "a run"
    (out / "data").mkdir(parents=True)
    (out / "data" / "train.jsonl").write_text("{}\n")
    resolved = {"model_name_or_path": str(tmp_path / "model"), "output_dir": str(out / "adapter")}
    (out / "train.yaml").write_text(yaml.safe_dump(resolved))

    def go(act: str = "fine", **changes) -> Path:
        settings = TrainingSettings(
            hyperparameters=CONFIGS / "tiny_lora.yaml",
            **{"nodes": 2, "processes": 4, "launcher": SRUN, **changes},
            interpreter=interpreter,
            environment={"ACT": act},
        )
        launcher.run_child(settings, resolved, out, lambda _: None)
        return out

    return go


def environments(out: Path) -> list[dict[str, str]]:
    return [json.loads((out / f"environment-node{k}").read_text()) for k in range(2)]


def test_each_node_gets_its_place(launch, monkeypatch):
    for name in ("MASTER_ADDR", "RANK", "USE_V1", "PYTHONDONTWRITEBYTECODE"):
        monkeypatch.setenv(name, "stale")
    out = launch()
    first, second = environments(out)
    assert [node["NODE_RANK"] for node in (first, second)] == ["0", "1"]
    for name, value in {
        "NNODES": "2",
        "NPROC_PER_NODE": "4",
        "FORCE_TORCHRUN": "1",
        "MASTER_ADDR": "127.0.0.1",
    }.items():
        assert [first[name], second[name]] == [value, value]
    assert first["MASTER_PORT"] == second["MASTER_PORT"]
    assert int(first["MASTER_PORT"]) > 1023
    assert first["HF_DATASETS_CACHE"] != second["HF_DATASETS_CACHE"]
    for node in (first, second):
        assert not {"RANK", "USE_V1", "PYTHONDONTWRITEBYTECODE"} & set(node)
        assert node["PATH"].split(os.pathsep)[0] == str(out.parent)
    assert not list(out.glob("nodes-*"))


def test_a_fixed_address(launch):
    first, second = environments(launch(master="localhost:29511"))
    for node in (first, second):
        assert (node["MASTER_ADDR"], node["MASTER_PORT"]) == ("localhost", "29511")


def test_one_node_elsewhere(launch):
    out = launch(nodes=1, processes=1, launcher=("srun", "--nodes=1", "--nodelist=node1"))
    node = json.loads((out / "environment-node1").read_text())
    assert (node["NNODES"], node["NODE_RANK"]) == ("1", "0")
    assert "FORCE_TORCHRUN" not in node


WRONG = {
    "a node fails": (
        "node1 fails",
        {},
        {},
        "by srun, failed with status 1\nnode node1: LLaMA-Factory ended with status 1\nend of (.|\n)*out of memory",
    ),
    "the first node fails": ("node0 fails", {}, {}, "node node0: LLaMA-Factory ended with status 1"),
    "a node is missing": (
        "fine",
        {"launcher": ("env", "NODE_RANK=0")},
        {},
        "node .*: after 1.5 s only .* had come; number 1 of 0 to 1 is missing",
    ),
    "two a node": (
        "fine",
        {"launcher": ("srun", "--nodes=2", "--ntasks-per-node=2")},
        {},
        "4 were started where training.nodes is 2; .*--ntasks-per-node=1",
    ),
    "twice the same": ("fine", {"launcher": (*SRUN, "env", "NODE_RANK=0")}, {}, "another process is node 0; "),
    "no shared folder": (
        "fine",
        {},
        {"FAKE_NOT_SHARED": "node1:{run}"},
        "node node1: cannot see /nowhere/.*launch.json; choose an --output on a file system that all nodes share",
    ),
    "an unknown address": ("fine", {"master": "no.such.host.invalid:29500"}, {}, "cannot find no.such.host.invalid"),
    "an option it does not know": (
        "fine",
        {"launcher": ("srun", "--notes=2")},
        {},
        r"failed with status 1\nend of (.|\n)*unrecognized option '--notes'",
    ),
    "no such launcher": ("fine", {"launcher": ("srum", "-N2")}, {}, "there is no srum on this machine"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WRONG)
def test_what_can_go_wrong(launch, tmp_path, monkeypatch, case):
    act, changes, environment, message = WRONG[case]
    for name, value in environment.items():
        monkeypatch.setenv(name, value.format(run=tmp_path / "a run"))
    started = time.monotonic()
    with pytest.raises(TrainingError) as caught:
        launch(act, **changes)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert time.monotonic() - started < 30
    assert not list((tmp_path / "a run").glob("nodes-*"))


def test_a_lost_file_is_named(launch, tmp_path):
    (tmp_path / "model" / "config.json").unlink()
    with pytest.raises(TrainingError, match=r"model/config.json is not here; the run folder and the base model must"):
        launch()


def pids_of(out: Path) -> list[int]:
    files = [out / f"pids-node{k}" for k in range(2)]
    assert wait_for(lambda: all(file.is_file() and file.read_text().endswith("\n") for file in files))
    return [int(pid) for file in files for pid in file.read_text().split()]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finding processes of other sessions needs /proc")
def test_a_failing_node_ends_the_others(launch, tmp_path):
    """Without --kill-on-bad-exit: the nodes tell each other."""
    failed = []

    def fail_later() -> None:
        pids = pids_of(tmp_path / "a run")
        failed.extend(pids)
        os.kill(pids[2], 9)  # node1's

    thread = threading.Thread(target=fail_later)
    thread.start()
    with pytest.raises(TrainingError, match="node node1: LLaMA-Factory ended with status 137"):
        launch("hang")
    thread.join()
    assert wait_for(lambda: not any(map(alive, failed)), 300)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finding processes of other sessions needs /proc")
def test_every_node_ends_when_the_driver_is_killed(launch, tmp_path):
    program = textwrap.dedent(f"""
        import json, os, sys
        from pathlib import Path
        from selftrain.training import launcher
        launcher.STOP_GRACE = 1.0
        settings = launcher.TrainingSettings(
            hyperparameters=Path("x"), interpreter=Path({str(tmp_path / "python")!r}), environment={{"ACT": "hang"}},
            nodes=2, launcher={SRUN!r})
        out = Path({str(tmp_path / "a run")!r})
        resolved = {{"model_name_or_path": {str(tmp_path / "model")!r}, "output_dir": str(out / "adapter")}}
        launcher.run_child(settings, resolved, out, print)
    """)
    environment = {**os.environ, "PYTHONPATH": str(CONFIGS.parents[1])}
    driver = subprocess.Popen([sys.executable, "-c", program], env=environment)
    try:
        pids = pids_of(tmp_path / "a run")
        assert all(map(alive, pids))
    finally:
        driver.kill()
        driver.wait()
    assert wait_for(lambda: not any(map(alive, pids)), 300)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finding processes of other sessions needs /proc")
def test_a_node_ends_when_its_launch_is_gone(launch, tmp_path):
    """A launcher that cannot be ended from here: what it started sees that the run is over."""
    out = tmp_path / "a run"

    def take_away() -> None:
        pids_of(out)
        next(out.glob("nodes-*/launch.json")).unlink()

    thread = threading.Thread(target=take_away)
    thread.start()
    with pytest.raises(TrainingError, match="ends: the run that started it is gone"):
        launch("hang")
    thread.join()
