"""This process's connection to Ray: one of its own on this machine, or a cluster that runs; and what fits there."""

from __future__ import annotations

import functools
import logging
import math
import os
import signal
import socket
import sysconfig
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from selftrain.engines.base import EngineError

STORE_BYTES = 512 * 2**20  # object store of a Ray started here: it holds the images of the blocks under way
DIAL_S = 10.0  # seconds for a connection to a cluster's address


def room(machine: dict[str, float], cpus: float, gpus: float) -> int:
    """How many actors a machine holds; its resources are Ray's, by name."""
    fit = math.floor(machine.get("CPU", 0) / cpus + 1e-6)  # 1 / 0.1 must be 10
    if gpus:
        have = int(machine.get("GPU", 0))
        # Several may share a GPU, but no share reaches over two of them.
        fit = min(fit, have * math.floor(1 / gpus + 1e-6) if gpus <= 1 else have // int(gpus))
    return fit


def in_words(machines: Sequence[dict[str, float]]) -> str:
    kinds = Counter(f"{m.get('CPU', 0):g} CPUs and {m.get('GPU', 0):g} GPUs" for m in machines)
    counted = [f"{count} x {kind}" if count > 1 else kind for kind, count in sorted(kinds.items())]
    return ", ".join(counted) or "no machines"


class Session:
    """This process's connection to Ray, shared by its engines and ended with the last of them."""

    def __init__(self, name: str, address: str | None) -> None:
        self.name = name
        self.address = address  # None: the program's own connection, which stays
        self.users = 0

    def leave(self) -> None:
        global _session
        self.users -= 1
        if self.users == 0 and _session is self:
            _session = None
            if self.address is not None:
                import ray

                ray.shutdown()


_session: Session | None = None


def join(address: str | None) -> Session:
    """Connect to Ray, or use the connection there is. EngineError if it cannot be had."""
    global _session
    try:
        import ray
    except ImportError as error:
        raise EngineError(
            "engine.kind is ray, and Ray is not installed; `pip install -r requirements-ray.txt`"
        ) from error
    wanted = address or os.environ.get("RAY_ADDRESS") or "local"
    if _session is not None and not ray.is_initialized():
        _session = None  # the program ended Ray under an open engine
    if _session is not None and _session.address not in (None, wanted):
        raise EngineError(
            f"this process has an engine open on {_session.name}, and Ray connects to one cluster at a time; close it "
            f"before opening one on {wanted}"
        )
    if _session is None:
        if ray.is_initialized():
            _session = Session("the Ray cluster this program is connected to", None)
        else:
            _connect(wanted)
            name = "this machine's own Ray" if wanted == "local" else f"the Ray cluster at {wanted}"
            _session = Session(name, wanted)
    _session.users += 1
    return _session


def _connect(address: str) -> None:
    import ray

    import data_process
    import selftrain

    # By default, Ray reports its use to its makers. Set the variable to allow that.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    packages = [Path(module.__path__[0]) for module in (selftrain, data_process)]
    init = functools.partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    if address == "local":
        cores = len(os.sched_getaffinity(0))
        # Fewer than the machine has: a batch system gave us these. Else Ray also sees a container's limits.
        allowed = cores if cores < (os.cpu_count() or cores) else None
        # Ray's processes inherit these. The path: they find this package where we did (a `runtime_env` does the same,
        # and made the start of an actor three times as long). Installed packages must not be in it, for an engine may
        # start another Python. The niceness: actors do what this process would do without Ray.
        installed = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
        found = dict.fromkeys(str(folder.parent) for folder in packages)
        path = [*(folder for folder in found if folder not in installed), os.environ.get("PYTHONPATH", "")]
        search = os.pathsep.join(filter(None, path))
        with _environment(PYTHONPATH=search, RAY_worker_niceness="0"), _our_sigterm():
            try:
                init("local", num_cpus=allowed, include_dashboard=False, object_store_memory=STORE_BYTES)
            except Exception as error:
                raise EngineError(
                    f"Ray cannot be started on this machine: {error}; is there room in /tmp and /dev/shm? Its logs are "
                    "in /tmp/ray/session_latest/logs. Without Ray: engine.kind hf or vllm"
                ) from error
        return
    _dial(address)
    try:
        init(address, runtime_env={"py_modules": [str(folder) for folder in packages]})
    except (Exception, SystemExit) as error:  # Ray ends the process when a server is none of its kind
        raise EngineError(
            f"cannot join the Ray cluster at {address}: {error or type(error).__name__}; start one with `ray start "
            "--head`, give its host:port as engine.address, or leave that out for a Ray on this machine"
        ) from error


@contextmanager
def _our_sigterm() -> Iterator[None]:
    """Keeps this program's handler of SIGTERM, which says what is saved; that of a Ray started here just exits."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if before is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _environment(**values: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _dial(address: str) -> None:
    """EngineError if nobody listens at host:port; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit() or "/" in host:
        raise EngineError(
            f"engine.address must be host:port of a cluster's head (`ray start --head` prints it) or auto, not "
            f"{address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=DIAL_S).close()
    except (OSError, OverflowError, UnicodeError) as error:
        raise EngineError(
            f"nothing answers at engine.address {address}: {error}; is the cluster up (`ray status` there), and "
            "is that port open from here?"
        ) from error
