"""Wait until a Ray cluster has enough nodes: `python wait_for_ray.py HOST:PORT NODES [--seconds S] [--while PID]`.

Exits with status 1 when the time is up, and names the nodes that are there, or when the process that starts them ended.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time


def alive_nodes(address: str) -> list[str]:
    """Host names of the nodes of the cluster; empty while it does not answer."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
        import ray

        ray.init(address=address, logging_level="ERROR", log_to_driver=False)
    except OSError:  # Ray's ConnectionError too
        return []
    try:
        return [node["NodeManagerHostname"] for node in ray.nodes() if node["Alive"]]
    finally:
        ray.shutdown()


def running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Wait until a Ray cluster has enough nodes.")
    parser.add_argument("address", help="host:port of the head")
    parser.add_argument("nodes", type=int, help="nodes to wait for; 0 prints those that are there, as JSON")
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to wait")
    parser.add_argument("--while", dest="pid", type=int, help="stop waiting when this process has ended")
    args = parser.parse_args()
    if args.nodes == 0:
        print(json.dumps(alive_nodes(args.address)))
        return 0
    until = time.monotonic() + args.seconds
    found: list[str] = []
    while True:
        # A process of its own: Ray tries for minutes to reach a head that has just ended.
        with subprocess.Popen([sys.executable, __file__, args.address, "0"], stdout=subprocess.PIPE) as look:
            while look.poll() is None and time.monotonic() < until and (args.pid is None or running(args.pid)):
                time.sleep(0.2)
            if look.poll() is None:
                look.kill()
            printed, _ = look.communicate()
        found = json.loads(printed.splitlines()[-1]) if look.returncode == 0 else found
        if len(found) >= args.nodes:
            print(f"Ray at {args.address}: {', '.join(found)}")
            return 0
        if args.pid is not None and not running(args.pid):
            print("the step that starts Ray has ended; its output above says why", file=sys.stderr)
            return 1
        if time.monotonic() > until:
            print(f"{len(found)} of {args.nodes} Ray nodes after {args.seconds:g} s: {found}", file=sys.stderr)
            return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
