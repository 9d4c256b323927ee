"""What this machine can do, and what must be set before torch is imported."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from data_process.errors import FailedError

CPUINFO = Path("/proc/cpuinfo")

# Linux's flags for the instructions that multiply bfloat16 matrices.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16"}

# Values with which a user restricts torch and oneDNN to older instructions (pytorch/pytorch
# aten/src/ATen/native/DispatchStub.cpp; oneDNN's "CPU Dispatcher Control").
_ATEN_WITHOUT_BF16 = {"default", "avx2"}
_ONEDNN_WITHOUT_BF16 = {*("SSE41", "AVX", "AVX2", "AVX2_VNNI", "AVX2_VNNI_2", "AVX512_CORE", "AVX512_CORE_VNNI")}

# One of these exists wherever torch can use an accelerator: NVIDIA, NVIDIA in WSL, AMD, Huawei, Intel Gaudi.
_ACCELERATORS = ("/dev/nvidiactl", "/dev/dxg", "/dev/kfd", "/dev/davinci_manager", "/dev/accel")
_users_threads: str | None = None  # OMP_NUM_THREADS as the user set it, once `prepare_environment` sets another
# Turns for which a thread of libgomp waits awake. Measured on the tiny model and two cores, against one thread: its own
# default (300,000) makes two threads 1.6 times as fast, and 4 times as slow where both cores have other work; sleeping
# at once gains nothing; 2,000 gives 1.5 times and 2 times.
_SPINS = 2000
_ASK_LIMIT = 120.0  # seconds; a cold import of torch takes long


class DeviceError(FailedError, RuntimeError):
    """What this machine or another Python can do cannot be found out. The message says why."""

    heading = "training failed"


@dataclass(frozen=True)
class Device:
    """What torch computes on, and whether it has bfloat16 matrix kernels."""

    name: Literal["CPU", "GPU"]
    bf16: bool


def prepare_environment(threads: int | None) -> None:
    """Set before torch is imported: waiting threads soon sleep instead of spinning, and nothing asks a hub."""
    global _users_threads
    if _users_threads is None:
        _users_threads = os.environ.get("OMP_NUM_THREADS", "")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(_SPINS))
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    if threads:
        os.environ["OMP_NUM_THREADS"] = str(usable_threads(threads))


def share_cores(workers: int) -> None:
    """In one of several worker processes, first of all: no more threads than its share of the cores."""
    os.environ["OMP_NUM_THREADS"] = str(max(1, usable_threads(os.cpu_count() or 1) // workers))


def usable_threads(wanted: int) -> int:
    """`wanted`, or as many as this process may have: by its cores, and by the user's OMP_NUM_THREADS."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    users = os.environ.get("OMP_NUM_THREADS", "") if _users_threads is None else _users_threads
    return max(1, min(wanted, cores, int(users) if users.isdecimal() else wanted))


def training_device(interpreter: Path, *, use_cpu: bool = False) -> Device:
    """The device on which `interpreter` trains on this machine. Imports no torch into this process.

    `use_cpu`: the training leaves accelerators alone. DeviceError if there is one and torch does not answer.
    """
    if not use_cpu and any(os.path.exists(path) for path in _ACCELERATORS):
        bf16 = _accelerator_bf16(interpreter)
        if bf16 is not None:
            return Device("GPU", bf16)
    cpuinfo = CPUINFO.read_text(encoding="ascii", errors="replace") if CPUINFO.is_file() else ""
    return Device("CPU", cpu_has_bf16(cpuinfo, os.environ))


def cpu_has_bf16(cpuinfo: str, environment: Mapping[str, str]) -> bool:
    """True if a CPU has AVX512-BF16 or AMX, and the environment does not restrict torch to older instructions.

    `cpuinfo` is the text of /proc/cpuinfo. Without these instructions torch emulates a bfloat16 product, several times
    slower than the float32 one.
    """
    if environment.get("ATEN_CPU_CAPABILITY", "").lower() in _ATEN_WITHOUT_BF16:
        return False
    limit = environment.get("ONEDNN_MAX_CPU_ISA") or environment.get("DNNL_MAX_CPU_ISA") or ""
    if limit.upper() in _ONEDNN_WITHOUT_BF16:
        return False
    flags = next((line for line in cpuinfo.splitlines() if line.startswith("flags")), "")
    return not _BF16_FLAGS.isdisjoint(flags.split())


def _accelerator_bf16(interpreter: Path) -> bool | None:
    """Whether the accelerator that `interpreter`'s torch uses has bfloat16 kernels; None if it uses none.

    A CUDA GPU has them from compute capability 8.0 on. Other kinds than CUDA and ROCm are taken to have them.
    DeviceError if torch does not answer.
    """
    script = (
        "import json, torch\n"
        "cuda = torch.cuda.is_available()\n"
        "other = hasattr(torch, 'accelerator') and torch.accelerator.is_available()\n"
        "print(json.dumps(torch.cuda.is_bf16_supported(including_emulation=False) if cuda else other or None))"
    )
    advice = "set training.dtype to float32 or bfloat16, or set training.interpreter to a Python whose torch works"
    found: bool | None = ask(interpreter, script, advice)
    return found


def ask(interpreter: Path, script: str, advice: str = "") -> Any:
    """What a script prints as JSON on its last line under another Python. DeviceError with the reason if it fails."""
    try:
        done = subprocess.run(
            [interpreter, "-c", script], capture_output=True, text=True, timeout=_ASK_LIMIT, check=False
        )
        lines, errors = done.stdout.splitlines(), done.stderr.strip().splitlines()
        if not done.returncode:
            return json.loads(lines[-1])
        reason = f"{interpreter} failed: {errors[-1] if errors else 'it printed nothing'}"
    except (OSError, subprocess.TimeoutExpired) as error:
        reason = f"cannot run {interpreter}: {error}"
    except (IndexError, ValueError):
        reason = f"{interpreter} gave no answer; it printed {done.stdout[:200]!r}"
    raise DeviceError(f"{reason}; {advice}" if advice else reason)
