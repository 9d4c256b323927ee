"""Start a command once on each of several machines of a Ray cluster, with NODE_RANK set: a `training.launcher`.

    python ray_launch.py [--nodes=N] [--gpus=G] COMMAND...

Takes G GPUs on each of N machines, prints the output of the command, and exits with its highest status. When this
program ends for any reason, Ray ends what it started. The repository must have the same path on all machines.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from pathlib import Path

SUPERVISE = Path(__file__).resolve().parents[2] / "selftrain" / "processes" / "supervise.py"
GRACE = 5.0  # seconds between asking a command to end and ending it
POLL = 0.5  # seconds between two looks at the machines

# Run a command as a grandchild and write its status. A Ray worker that ends kills its children, and the supervisor must
# outlive it to end the command.
DETACHED = """
import os, subprocess, sys
if os.fork():
    os._exit(0)
os.setsid()
status = subprocess.call(sys.argv[2:])
with open(sys.argv[1] + ".partial", "w") as file:
    file.write(str(status))
os.replace(sys.argv[1] + ".partial", sys.argv[1])
"""


class Node:
    """The command on one machine, as long as this actor lives."""

    def __init__(self, command: list[str], rank: int) -> None:
        import os
        import subprocess
        import tempfile

        self._folder = tempfile.TemporaryDirectory()
        self._status = Path(self._folder.name) / "status"
        self._log = Path(self._folder.name) / "log"
        self._position = 0
        supervised = [sys.executable, "-I", "-S", str(SUPERVISE), str(GRACE), *command]
        with self._log.open("wb") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", DETACHED, str(self._status), *supervised],
                stdin=subprocess.PIPE,  # closed when this actor ends: the order to stop
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "NODE_RANK": str(rank)},
            )
        self._child.wait()

    def look(self) -> tuple[str, int | None]:
        """The output since the last call, and the exit status once the command has ended."""
        status = int(self._status.read_text()) if self._status.exists() else None
        with self._log.open("rb") as log:
            log.seek(self._position)
            text = log.read(2**20)
        self._position += len(text)
        return text.decode(errors="replace"), status if not text else None


def main() -> int:
    parser = argparse.ArgumentParser(description="Start a command once on each of several machines of a Ray cluster.")
    parser.add_argument("--nodes", type=int, default=1, help="machines")
    parser.add_argument("--gpus", type=float, default=0, help="GPUs to take on each")
    parser.add_argument("--cpus", type=float, default=1, help="CPUs to take on each")
    parser.add_argument("--address", default="auto", help="host:port of the cluster's head (default: this machine's)")
    parser.add_argument("--seconds", type=float, default=600, help="how long to wait for the machines")
    parser.add_argument("command", nargs=argparse.REMAINDER)
    args = parser.parse_args()

    import ray
    from ray.util.placement_group import placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    ray.init(address=args.address, logging_level="ERROR", log_to_driver=False)
    wanted = {"CPU": args.cpus} | ({"GPU": args.gpus} if args.gpus else {})
    group = placement_group([wanted] * args.nodes, strategy="STRICT_SPREAD")
    if not ray.wait([group.ready()], timeout=args.seconds)[0]:
        found = f"fewer than {args.nodes} machines with {wanted} free in {args.seconds:g} s"
        print(f"Ray found {found}; `ray status` lists them", file=sys.stderr)
        return 1
    nodes = [
        ray.remote(Node)
        .options(
            num_cpus=args.cpus,
            num_gpus=args.gpus,
            scheduling_strategy=PlacementGroupSchedulingStrategy(group, placement_group_bundle_index=rank),
        )
        .remote(args.command, rank)
        for rank in range(args.nodes)
    ]
    status: dict[int, int] = {}
    while len(status) < args.nodes:
        for rank, node in enumerate(nodes):
            if rank not in status:
                try:
                    text, ended = ray.get(node.look.remote())
                except ray.exceptions.RayActorError as error:
                    text, ended = f"machine {rank} was lost: {error}\n", 1
                sys.stdout.write(text)
                sys.stdout.flush()
                if ended is not None:
                    status[rank] = ended
        time.sleep(POLL)
    return max(status.values())


if __name__ == "__main__":
    sys.exit(main())
