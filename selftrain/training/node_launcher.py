"""One node's share of a training. Run as a script, once on each node, by `training.launcher`; standard library only.

`python node_launcher.py LAUNCH_JSON WAIT`, where `LAUNCH_JSON` was written by the driver (see launcher.py)
into the run folder, which all nodes share. The nodes meet there: each leaves a file that says it has come, the first
one says at which address and port, and a node that fails says so, which ends the others. So no list of hosts is needed,
and srun, mpirun or a script of one's own can start it, as long as one of these says which node this is: NODE_RANK,
OMPI_COMM_WORLD_RANK (Open MPI), PMI_RANK (MPICH, Intel MPI), SLURM_NODEID (srun).

Ends what it started when it gets SIGTERM, when another node fails, and when the driver takes `LAUNCH_JSON` away.
Exit status: 0 after a whole training, 1 otherwise, with the reason on standard error.
"""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

POLL = 0.1  # seconds between looks at the child
LOOK = 2.0  # seconds between looks at what the other nodes say

# Variables with this node's number and, where there is one, the number of processes that were started. Open MPI before
# Slurm: inside an allocation mpirun starts its daemons by srun, and their SLURM_NODEID does not count the first node.
RANKS = (
    ("NODE_RANK", None, "NODE_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "mpirun; add --map-by ppr:1:node"),
    ("PMI_RANK", "PMI_SIZE", "mpiexec; add -ppn 1"),
    ("SLURM_NODEID", "SLURM_STEP_NUM_TASKS", "srun; add --ntasks-per-node=1"),
)


class NodeError(RuntimeError):
    """This node cannot take part; the message says why."""


class Ended(Exception):
    """Somebody else decided that this training ends: a signal, the driver or another node."""


def node_rank(environment: dict[str, str], nodes: int) -> int:
    """Number of this node, from 0. NodeError if nothing says it, or as many were not started as there are nodes."""
    if nodes == 1:
        return 0
    for rank, size, starter in RANKS:
        if rank not in environment:
            continue
        started = int(environment.get(size or "", nodes))
        if started != nodes:
            raise NodeError(f"{started} were started where training.nodes is {nodes}; one a node is needed ({starter})")
        if not 0 <= int(environment[rank]) < nodes:
            raise NodeError(f"{rank} is {environment[rank]}, but training.nodes is {nodes}: they count from 0")
        return int(environment[rank])
    raise NodeError(f"nothing says which node this is: none of {', '.join(rank for rank, *_ in RANKS)} is set")


def read_when_there(path: Path, seconds: float) -> dict[str, Any] | None:
    """A JSON file that another machine writes; None if it is not there whole in time."""
    until = time.monotonic() + seconds
    while True:
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return content
        except (FileNotFoundError, ValueError):
            if time.monotonic() > until:
                return None
            time.sleep(POLL)


def write_aside(path: Path, value: dict[str, Any]) -> None:
    partial = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    partial.write_text(json.dumps(value), encoding="utf-8")
    partial.replace(path)


def gone(path: Path) -> bool:
    """True if a file was taken away; False if it is there, or a network file system cannot say just now."""
    try:
        path.stat()
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return False


def fail(folder: Path, name: str, why: str) -> None:
    """Tell the driver and the other nodes why this one is out; `name` is its host's."""
    if folder.is_dir():  # the driver may have taken it away
        write_aside(folder / f"failed-{name}-{os.getpid()}.json", {"node": name, "why": why, "time": time.time()})


def machine() -> str:
    """What two "nodes" share only if they are one machine: a host name alone may be that of every container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        boot = ""
    return f"{socket.gethostname()} {boot}"


def meeting_point(fixed: str | None, machines: set[str]) -> dict[str, str]:
    """Host and port at which this node, the first one, will be reached; `fixed` is training.master."""
    if fixed:
        host, _, port = fixed.rpartition(":")
        return {"host": host, "port": port}
    with socket.socket() as probe:
        probe.bind(("", 0))
        port = str(probe.getsockname()[1])
    return {"host": "127.0.0.1" if len(machines) == 1 else socket.gethostname(), "port": port}


class Meeting:
    """What the nodes of one training say to each other, as files in the folder of `LAUNCH_JSON`."""

    def __init__(self, launch: Path, rank: int, nodes: int, name: str) -> None:
        self.launch, self.folder, self.rank, self.nodes, self.name = launch, launch.parent, rank, nodes, name
        self._looked = 0.0
        self.signalled = False
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, frame: object) -> None:
        self.signalled = True

    def check(self) -> None:
        """Raise Ended if this training is over for a reason that lies elsewhere."""
        if self.signalled:
            raise Ended("was stopped by a signal")
        if time.monotonic() - self._looked < LOOK:
            return
        self._looked = time.monotonic()
        if gone(self.launch):
            raise Ended("ends: the run that started it is gone")
        for path in self.folder.glob("failed-*.json"):
            raise Ended(f"ends: node {path.stem.removeprefix('failed-')} failed")

    def arrive(self) -> None:
        """Say that this node is here. NodeError if another says it is the same one."""
        try:
            handle = os.open(self.folder / f"here-{self.rank}.json", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            raise NodeError(f"another process is node {self.rank}; training.launcher must start one a node") from None
        with os.fdopen(handle, "w") as file:
            json.dump({"name": self.name, "machine": machine()}, file)

    def address(self, fixed: str | None, seconds: float) -> tuple[str, str]:
        """Host and port where the ranks of all nodes meet. NodeError if not all nodes come in time."""
        path = self.folder / "master.json"
        until = time.monotonic() + seconds
        while True:
            self.check()
            here = {rank: read_when_there(self.folder / f"here-{rank}.json", 0) for rank in range(self.nodes)}
            if self.rank == 0 and all(here.values()) and not path.exists():
                write_aside(path, meeting_point(fixed, {node["machine"] for node in here.values() if node}))
            if (master := read_when_there(path, 0)) is not None:
                break
            if time.monotonic() > until:
                came = ", ".join(node["name"] for node in here.values() if node)
                missing = ", ".join(str(rank) for rank, node in here.items() if not node)
                raise NodeError(
                    f"after {seconds:g} s only {came} had come; number {missing} of 0 to {self.nodes - 1} is missing: "
                    "see above why, or whether training.launcher starts as many as training.nodes says"
                )
            time.sleep(POLL)
        try:
            socket.getaddrinfo(master["host"], master["port"])
        except OSError as error:
            raise NodeError(
                f"cannot find {master['host']}, the first node ({error}); set training.master to its HOST:PORT as the "
                "other nodes reach it"
            ) from error
        return master["host"], master["port"]


def cleaned_environment(drop: str, folder: str, pinned: dict[str, str]) -> dict[str, str]:
    """This machine's environment without the names that match `drop`, `folder` first in PATH, `pinned` on top."""
    environment = {name: value for name, value in os.environ.items() if not re.match(drop, name)}
    # LLaMA-Factory starts `torchrun` by name: the one beside the interpreter, not whichever comes first.
    environment["PATH"] = os.pathsep.join([folder, environment.get("PATH", os.defpath)])
    return environment | pinned


def node_environment(launch: dict[str, Any], rank: int, host: str, port: str) -> dict[str, str]:
    """This machine's own environment, with the driver's settings and this node's place on top."""
    return cleaned_environment(launch["drop"], launch["path"], launch["environment"]) | {
        "NNODES": str(launch["nodes"]),
        "NODE_RANK": str(rank),
        "MASTER_ADDR": host,
        "MASTER_PORT": port,
        "HF_DATASETS_CACHE": os.path.join(launch["cache"], f"node-{rank}"),  # no locks between machines
    }


def train(launch: dict[str, Any], meeting: Meeting) -> int:
    """Take part in the training to its end; returns the exit status. NodeError or Ended if it has no good one."""
    missing = [path for path in launch["needs"] if not os.path.exists(path)]
    if missing:
        advice = "the run folder and the base model must lie where all nodes see them"
        raise NodeError(f"{missing[0]} is not here; {advice}")
    meeting.arrive()
    host, port = meeting.address(launch["master"], launch["arrive"])
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", launch["supervise"], str(launch["grace"]), *launch["command"]],
        stdin=subprocess.PIPE,
        cwd=launch["folder"],
        env=node_environment(launch, meeting.rank, host, port),
        start_new_session=True,  # it ends the training also where our whole group is killed
    )
    try:
        while child.poll() is None:
            meeting.check()
            time.sleep(POLL)
    finally:
        assert child.stdin is not None
        child.stdin.close()  # the supervisor takes this as the order to stop; after a normal end it is gone already
        child.wait()
    if child.returncode and not meeting.signalled:
        raise NodeError(f"LLaMA-Factory ended with status {child.returncode}")
    return child.returncode


def main() -> int:
    path, wait = Path(sys.argv[1]), float(sys.argv[2])
    name = os.environ.get("SLURMD_NODENAME") or socket.gethostname()
    launch = read_when_there(path, wait)
    if launch is None:
        advice = "choose an --output on a file system that all nodes share"
        print(f"node {name}: cannot see {path}; {advice}", file=sys.stderr)
        return 1
    try:
        rank = node_rank(dict(os.environ), launch["nodes"])
        return train(launch, Meeting(path, rank, launch["nodes"], name))
    except NodeError as error:
        print(f"node {name}: {error}", file=sys.stderr)
        fail(path.parent, name, str(error))
    except Ended as why:
        print(f"node {name} {why}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
