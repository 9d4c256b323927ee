"""Wait until a Ray cluster has so many nodes: `python wait_for_ray.py HOST:PORT NODES [--seconds S] [--while PID]`.

Exit status 1, with the nodes that came, when they are not there in time or the process that starts them has ended.
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
import time


def alive_nodes(address: str) -> list[str]:
    """Host names of the cluster's nodes; empty while nobody answers there."""
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
    parser = argparse.ArgumentParser(description="Wait until a Ray cluster has so many nodes.")
    parser.add_argument("address", help="host:port of its head")
    parser.add_argument("nodes", type=int)
    parser.add_argument("--seconds", type=float, default=300.0, help="how long to wait")
    parser.add_argument("--while", dest="pid", type=int, help="give up when this process has ended")
    args = parser.parse_args()
    until = time.monotonic() + args.seconds
    while True:
        found = alive_nodes(args.address)
        if len(found) >= args.nodes:
            print(f"Ray at {args.address}: {', '.join(found)}")
            return 0
        if args.pid is not None and not running(args.pid):
            print("the step that starts Ray has ended; see above why", file=sys.stderr)
            return 1
        if time.monotonic() > until:
            print(f"{len(found)} of {args.nodes} Ray nodes after {args.seconds:g} s: {found}", file=sys.stderr)
            return 1
        time.sleep(2)


if __name__ == "__main__":
    sys.exit(main())
