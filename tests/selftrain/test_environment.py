"""What a machine can do, told from its description."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selftrain import environment
from selftrain.environment import (
    Device,
    DeviceError,
    cpu_has_bf16,
    prepare_environment,
    share_cores,
    training_device,
    usable_threads,
)

ZEN3 = "processor\t: 0\nflags\t\t: fpu sse4_2 avx2 fma\n"
SKYLAKE_X = "flags\t\t: avx2 avx512f avx512bw avx512vl\n"
ZEN4 = "processor\t: 0\nflags\t\t: fpu avx2 avx512f avx512_bf16\n\nprocessor\t: 1\nflags\t\t: fpu avx2\n"
SAPPHIRE_RAPIDS = "flags\t\t: avx2 avx512f amx_tile amx_bf16 amx_int8\n"


@pytest.mark.parametrize(
    ("cpuinfo", "variables", "expected"),
    [
        (ZEN3, {}, False),
        (SKYLAKE_X, {}, False),
        (ZEN4, {}, True),
        (SAPPHIRE_RAPIDS, {}, True),
        ("", {}, False),  # not Linux
        ("Features\t: fp asimd bf16\n", {}, False),  # ARM
        (ZEN4, {"ATEN_CPU_CAPABILITY": "avx2"}, False),
        (ZEN4, {"ATEN_CPU_CAPABILITY": "default"}, False),
        (ZEN4, {"ATEN_CPU_CAPABILITY": "avx512"}, True),
        (ZEN4, {"ONEDNN_MAX_CPU_ISA": "AVX2"}, False),
        (ZEN4, {"ONEDNN_MAX_CPU_ISA": "avx512_core"}, False),
        (ZEN4, {"DNNL_MAX_CPU_ISA": "AVX2"}, False),
        (ZEN4, {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}, True),
        (ZEN4, {"ONEDNN_MAX_CPU_ISA": "ALL"}, True),
        (ZEN3, {"ONEDNN_MAX_CPU_ISA": "ALL"}, False),
    ],
)
def test_bf16_of_a_cpu(cpuinfo, variables, expected):
    assert cpu_has_bf16(cpuinfo, variables) is expected


def test_a_machine_without_a_gpu_starts_no_process(monkeypatch, tmp_path):
    (tmp_path / "cpuinfo").write_text(ZEN4)
    monkeypatch.setattr(environment, "_ACCELERATORS", ())
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "cpuinfo")
    for name in ("ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"):
        monkeypatch.delenv(name, raising=False)
    assert training_device(tmp_path / "no-python") == Device("CPU", True)
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "nothing")
    assert training_device(tmp_path / "no-python") == Device("CPU", False)


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("echo true", Device("GPU", True)),
        ("echo warning; echo false", Device("GPU", False)),  # older than Ampere
        ("echo null", Device("CPU", False)),  # a torch for CPUs only
    ],
)
def test_the_interpreters_torch_is_asked_about_a_gpu(monkeypatch, tmp_path, script, expected):
    (tmp_path / "python").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(environment, "_ACCELERATORS", (os.devnull,))
    monkeypatch.setattr(environment, "CPUINFO", tmp_path / "nothing")
    assert training_device(tmp_path / "python") == expected
    assert training_device(tmp_path / "python", use_cpu=True) == Device("CPU", False)


def test_a_torch_that_does_not_answer(monkeypatch, tmp_path):
    (tmp_path / "broken").write_text("#!/bin/sh\necho 'ImportError: libcudart' >&2; exit 1\n")
    (tmp_path / "broken").chmod(0o755)
    monkeypatch.setattr(environment, "_ACCELERATORS", (os.devnull,))
    with pytest.raises(DeviceError, match=r"ImportError: libcudart.*set training\.dtype"):
        training_device(tmp_path / "broken")
    with pytest.raises(DeviceError, match=r"cannot run .*set training\.interpreter"):
        training_device(tmp_path / "no-python")


@pytest.mark.slow
def test_the_question_to_torch_can_be_answered():
    environment._accelerator_bf16(Path(sys.executable))


@pytest.mark.slow
def test_an_emulated_cpu_trains_in_float32():
    """The plan of the demo, in a process that is restricted to AVX2."""
    variables = {**os.environ, "ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
    script = (
        "from selftrain.config import load_config\nfrom selftrain import environment\n"
        "from selftrain.training.dry_run import settings_of, training_plan\n"
        "environment._ACCELERATORS = ()\n"
        "config = load_config(overrides=['output=nowhere'])\n"
        "print(settings_of(config, 0).dtype, '|', training_plan(config)[1])"
    )
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], env=variables, cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "float32 | training in float32: this CPU has no bf16 kernels"


@pytest.mark.parametrize(
    ("cores", "users", "wanted", "expected"),
    [
        (8, None, 2, 2),
        (1, None, 2, 1),
        (8, "3", 6, 3),
        (8, "3", 2, 2),
        (8, "many", 6, 6),
        (8, "", 6, 6),
        (2, "0", 6, 1),
    ],
)
def test_threads(monkeypatch, cores, users, wanted, expected):
    monkeypatch.setattr(environment, "_users_threads", None)
    monkeypatch.setattr(os, "environ", {} if users is None else {"OMP_NUM_THREADS": users})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    assert usable_threads(wanted) == expected
    prepare_environment(1)
    assert os.environ["OMP_NUM_THREADS"] == "1"
    assert usable_threads(wanted) == expected, "our own setting is taken for the user's"


@pytest.mark.parametrize(("cores", "users", "workers", "expected"), [(8, None, 2, 4), (2, None, 2, 1), (1, "4", 3, 1)])
def test_cores_are_shared(monkeypatch, cores, users, workers, expected):
    monkeypatch.setattr(environment, "_users_threads", None)
    monkeypatch.setattr(os, "environ", {} if users is None else {"OMP_NUM_THREADS": users})
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    share_cores(workers)
    assert usable_threads(8) == expected


@pytest.mark.parametrize(
    ("given", "spins"), [({}, "2000"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "PASSIVE"}, None)]
)
def test_waiting_threads(monkeypatch, given, spins):
    monkeypatch.setattr(environment, "_users_threads", None)
    monkeypatch.setattr(os, "environ", dict(given))
    prepare_environment(None)
    assert os.environ.get("GOMP_SPINCOUNT") == spins
