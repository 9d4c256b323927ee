"""What memory a piece of work needs: on a GPU as its driver counts it, without one resident memory of processes.

nvidia-smi is asked instead of a library, because the work runs in processes and environments of its own.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType

from data_process.schema import DataError

EVERY = 0.25  # seconds between two looks


def visible_gpus() -> list[str]:
    """Names for `nvidia-smi -i`, in the order in which CUDA counts them; [] without a GPU."""
    chosen = os.environ.get("CUDA_VISIBLE_DEVICES")
    if chosen is not None:
        return [name.strip() for name in chosen.split(",") if name.strip() and not name.strip().startswith("-")]
    if shutil.which("nvidia-smi") is None:
        return []
    return [row[0] for row in ask(["index"], [])]


def ask(fields: Sequence[str], gpus: Sequence[str]) -> list[list[str]]:
    """What nvidia-smi says of these GPUs (of all, if none is named), a row each; DataError if it cannot say."""
    command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader,nounits"]
    if gpus:
        command += ["-i", ",".join(gpus)]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise DataError(f"{' '.join(command)} failed ({error}); is the GPU's driver installed?") from error
    return [[cell.strip() for cell in line.split(",")] for line in answer.stdout.splitlines() if line.strip()]


def gpu_bytes(gpus: Sequence[str]) -> int:
    """Memory in use on these GPUs together, whoever uses it."""
    return sum(int(used) for (used,) in ask(["memory.used"], gpus)) * 2**20  # nvidia-smi counts in MiB


def resident_bytes(root: int, *, itself: bool) -> int:
    """Resident memory of a process's descendants, with or without its own; what they share counts for each."""
    parents, resident = {}, {}
    page = os.sysconf("SC_PAGE_SIZE")
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                # pid (name) state parent ...: a name may hold blanks and brackets
                stat = (folder / "stat").read_text().rpartition(")")[2].split()
                pages = int((folder / "statm").read_text().split()[1])
            except (OSError, IndexError):
                continue  # it has ended meanwhile
            parents[int(folder.name)] = int(stat[1])
            resident[int(folder.name)] = pages * page
    total = resident.get(root, 0) if itself else 0
    for process in parents:
        above = parents.get(process)
        while above is not None and above != root:
            above = parents.get(above)
        total += resident[process] if above == root else 0
    return total


class Peak:
    """The highest of what `look` says while the block runs, less `before`. Looks every EVERY seconds."""

    def __init__(self, look: Callable[[], int], before: int = 0) -> None:
        self._look, self._before = look, before
        self._highest = before
        self._stop = threading.Event()
        self._failed: Exception | None = None

    def __enter__(self) -> Peak:
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        try:
            while not self._stop.wait(EVERY):
                self._highest = max(self._highest, self._look())
        except Exception as error:  # raised where the number is asked for
            self._failed = error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def gib(self) -> float:
        """So far. Raises what `look` raised."""
        if self._failed is not None:
            raise self._failed
        if not self._stop.is_set():
            self._highest = max(self._highest, self._look())
        return (self._highest - self._before) / 2**30


def peak_of_children(gpus: Sequence[str]) -> Peak:
    """Of what this process starts: on GPUs that nothing else uses, or without one in processes."""
    if gpus:
        return Peak(lambda: gpu_bytes(gpus), gpu_bytes(gpus))
    me = os.getpid()
    return Peak(lambda: resident_bytes(me, itself=False))


def own_peak() -> Peak:
    """Resident memory of this process and of those that it starts."""
    me = os.getpid()
    return Peak(lambda: resident_bytes(me, itself=True))
