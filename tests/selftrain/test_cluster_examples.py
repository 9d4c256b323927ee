"""The examples for clusters, run with stand-ins for Slurm and Ray: what they name exists, what they start is right."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from selftrain.config import load_config
from tests.selftrain.training import fake_slurm
from tests.selftrain.training.test_llamafactory import alive, wait_for

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "examples" / "cluster"
SCRIPTS = sorted(path.name for path in CLUSTER.iterdir() if path.suffix in (".sh", ".sbatch"))

# `ray start --block` answers at its port, as the head does, until it is ended; `ray job submit -- COMMAND` runs it.
RAY = """
    import os, socket, subprocess, sys, time

    words = sys.argv[1:]
    node = os.environ.get("SLURMD_NODENAME", "head")
    with open(os.environ["FAKE_RAY_LOG"], "a") as log:
        log.write(f"{node} {os.getpid()} {' '.join(words)}\\n")
    if os.environ.get("FAKE_RAY_FAILS") == node:
        sys.exit("ray: no space left on device")
    if words[:3] == ["job", "submit", "--"]:
        sys.exit(subprocess.run(words[3:], cwd="/").returncode)
    options = dict(word.partition("=")[::2] for word in words[1:])
    if "--head" in options:
        server = socket.create_server(("127.0.0.1", int(options["--port"])))
    assert words[0] == "start" and "--block" in options, words
    time.sleep(3000)
"""

# Python, but it takes Ray's word for it that the cluster is there.
PYTHON = """
    import os, sys, time

    if sys.argv[1] == "examples/cluster/wait_for_ray.py":
        until = time.monotonic() + 20
        while open(os.environ["FAKE_RAY_LOG"]).read().count(" start ") < int(sys.argv[3]):
            assert time.monotonic() < until
            time.sleep(0.05)
        sys.exit(0)
    os.execv(PYTHON, [PYTHON, *sys.argv[1:]])
"""


def test_there_are_scripts():
    assert SCRIPTS == ["ray_job.sh", "slurm_many_nodes.sbatch", "slurm_one_node.sbatch"]


@pytest.mark.parametrize("name", SCRIPTS)
def test_bash_can_read_it(name):
    done = subprocess.run(["bash", "-n", CLUSTER / name], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "path", [CLUSTER / name for name in (*SCRIPTS, "README.md")] + [ROOT / "docs/clusters.md"], ids=str
)
def test_what_it_names_exists(path):
    text = path.read_text()
    for file in re.findall(r"(?:configs|examples|selftrain|docs)/[\w./-]+\.\w+", text):
        assert (ROOT / file).is_file(), file
    for key in re.findall(r"--set '?\"?([a-z_]+(?:\.[a-z_]+)*)=", text):
        kinds = (["engine.kind=vllm"], ["engine.kind=ray", "engine.engine.kind=vllm"])
        assert any(holds(load_config(None, kind).model_dump(), key) for kind in kinds), key


def holds(known, key):
    """Whether nested settings have the key `a.b.c`."""
    first, _, rest = key.partition(".")
    return first in known and (not rest or holds(known[first], rest))


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """cluster(command, ...): run it in the repository; (status, output, settings that run.py printed, calls of ray)."""
    programs = fake_slurm.install(tmp_path / "bin", monkeypatch)
    fake_slurm.write_program(programs, "ray", RAY)
    fake_slurm.write_program(programs, "python", PYTHON.replace("PYTHON", repr(sys.executable)))
    (tmp_path / "ray.log").touch()
    for name, value in {
        "PYTHON": str(programs / "python"),
        "RAY": str(programs / "ray"),
        "FAKE_RAY_LOG": str(tmp_path / "ray.log"),
        "FAKE_SLURM_LOG": str(tmp_path / "slurm.log"),
    }.items():
        monkeypatch.setenv(name, value)

    def run(*command):
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        calls = [line.split(" ", 2) for line in (tmp_path / "ray.log").read_text().splitlines()]
        assert wait_for(lambda: not any(alive(int(pid)) for _, pid, _ in calls), 300), "ray went on without its job"
        settings = yaml.safe_load(done.stdout[done.stdout.find("# Run folder") :]) if done.returncode == 0 else None
        return done.returncode, done.stdout + done.stderr, settings, {node: words for node, _, words in calls}

    return run


CONFIG = ("--config", "configs/geoqa_qwen2vl_7b.yaml", "--dry-run", "--set", "model.path=/models/Qwen2-VL-7B")


@pytest.mark.slow
def test_one_node(cluster):
    status, output, settings, calls = cluster("sbatch", CLUSTER / "slurm_one_node.sbatch", *CONFIG)
    assert status == 0, output
    assert settings["engine"]["kind"] == "ray"
    assert settings["engine"]["engine"]["kind"] == "vllm"
    assert settings["engine"]["address"] is None
    assert (settings["training"]["processes"], settings["training"]["nodes"]) == (8, 1)
    assert settings["training"]["save_steps"] == 50
    assert settings["model"]["path"] == "/models/Qwen2-VL-7B"
    assert "64 rows per step = 4 at a time x 8 processes x 1 nodes x 2 accumulated" in output
    assert "NPROC_PER_NODE=8" in output
    assert not calls


@pytest.mark.slow
def test_what_is_said_on_the_command_line_wins(cluster):
    words = ("--set", "engine.kind=hf", "--set", "training.save_steps=7", "--set", "training.processes=2")
    status, output, settings, _ = cluster(
        "sbatch", "--gpus-per-node=4", CLUSTER / "slurm_one_node.sbatch", *CONFIG, *words
    )
    assert status == 0, output
    assert settings["engine"]["kind"] == "hf"
    assert (settings["training"]["processes"], settings["training"]["save_steps"]) == (2, 7)


@pytest.mark.slow
def test_many_nodes(cluster, tmp_path):
    status, output, settings, calls = cluster("sbatch", CLUSTER / "slurm_many_nodes.sbatch", *CONFIG)
    assert status == 0, output
    assert settings["engine"]["address"] == "127.0.0.1:20007"
    assert (settings["training"]["nodes"], settings["training"]["processes"]) == (2, 8)
    assert "64 rows per step = 4 at a time x 8 processes x 2 nodes x 1 accumulated" in output
    assert calls["127.0.0.1"].startswith("start --head --port=20007 --num-cpus=64 --num-gpus=8")
    assert calls["127.0.0.2"].startswith("start --address=127.0.0.1:20007 --num-cpus=64 --num-gpus=8")
    # The training is started by a step like Ray's, which the machines' Slurm has taken already.
    started = (tmp_path / "slurm.log").read_text().splitlines()[0].split(" bash ")[0].split()
    assert settings["training"]["launcher"] == started
    assert started[0] == "srun"
    assert {"--overlap", "--nodes=2", "--ntasks-per-node=1", "--kill-on-bad-exit=1"} <= set(started)
    assert "node_launcher.py" in output


@pytest.mark.slow
def test_more_nodes_than_the_file_says(cluster):
    status, output, settings, calls = cluster("sbatch", "--nodes=4", CLUSTER / "slurm_many_nodes.sbatch", *CONFIG)
    assert status != 0  # 4 rows x 32 processes are more than 64
    assert "global_batch_size 64 is not a multiple of 4 rows x 32 processes; per_device_batch can be 1, 2" in output
    status, output, settings, calls = cluster(
        "sbatch", "--nodes=4", CLUSTER / "slurm_many_nodes.sbatch", *CONFIG, "--set", "training.per_device_batch=2"
    )
    assert status == 0, output
    assert settings["training"]["nodes"] == 4
    assert set(calls) == {f"127.0.0.{k}" for k in (1, 2, 3, 4)}


@pytest.mark.slow
@pytest.mark.parametrize("node", ["127.0.0.1", "127.0.0.2"])
def test_ray_that_does_not_start_ends_the_job(cluster, monkeypatch, node):
    monkeypatch.setenv("FAKE_RAY_FAILS", node)
    monkeypatch.setenv("PYTHON", sys.executable)  # with the real wait_for_ray.py
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    status, output, _, _ = cluster("sbatch", CLUSTER / "slurm_many_nodes.sbatch", *CONFIG)
    assert status == 1
    assert "ray: no space left on device" in output
    assert "the step that starts Ray has ended; its output above says why" in output


@pytest.mark.slow
def test_ray_job(cluster, monkeypatch):
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "http://head:8265")
    monkeypatch.setenv("NODES", "2")
    status, output, settings, calls = cluster(CLUSTER / "ray_job.sh", *CONFIG, "--set", "name=two words")
    assert status == 0, output
    assert calls["head"].startswith("job submit -- bash -c ")
    assert settings["name"] == "two words"
    assert settings["engine"]["address"] == "auto"
    assert (settings["training"]["nodes"], settings["training"]["processes"]) == (2, 8)
    python, script, *rest = settings["training"]["launcher"]
    assert python == os.environ["PYTHON"]
    assert Path(script) == CLUSTER / "ray_launch.py"
    assert rest == ["--nodes=2", "--gpus=8"]


def test_ray_job_without_an_address(cluster, monkeypatch):
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS", raising=False)
    status, output, _, calls = cluster(CLUSTER / "ray_job.sh", *CONFIG)
    assert status != 0
    assert "set it to the address of the dashboard" in output
    assert not calls


# --- with a real Ray of two "machines" ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_machines():
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    try:
        yield cluster.address
    finally:
        cluster.shutdown()


@pytest.mark.slow
def test_ray_starts_a_command_on_each_machine(two_machines, tmp_path):
    def launched(*words):
        program = [sys.executable, str(CLUSTER / "ray_launch.py"), f"--address={two_machines}", *words]
        return subprocess.run(program, capture_output=True, text=True, timeout=600)

    waited = [sys.executable, str(CLUSTER / "wait_for_ray.py"), two_machines, "2"]
    assert subprocess.run(waited, timeout=600).returncode == 0
    done = launched("--nodes=2", "sh", "-c", 'echo "I am $NODE_RANK of $0"; exit $NODE_RANK', "two")
    assert sorted(done.stdout.split("\n")) == ["", "I am 0 of two", "I am 1 of two"], done.stderr
    assert done.returncode == 1
    done = launched("--nodes=3", "--seconds=3", "true")
    assert done.returncode == 1
    assert "Ray found fewer than 3 machines" in done.stderr

    # Killed, it leaves nothing behind.
    command = f"trap '' TERM; echo $$ > {tmp_path}/pid-$NODE_RANK; sleep 3000"
    program = [
        sys.executable,
        str(CLUSTER / "ray_launch.py"),
        f"--address={two_machines}",
        "--nodes=2",
        "sh",
        "-c",
        command,
    ]
    child = subprocess.Popen(program)
    try:
        files = [tmp_path / f"pid-{rank}" for rank in range(2)]
        assert wait_for(lambda: all(file.is_file() and file.read_text().strip() for file in files), 300)
    finally:
        child.kill()
        child.wait()
    pids = [int(file.read_text()) for file in files]
    assert wait_for(lambda: not any(map(alive, pids)), 300)


def test_the_ray_launcher_finds_the_supervisor():
    assert Path(runpy.run_path(str(CLUSTER / "ray_launch.py"))["SUPERVISE"]).is_file()
