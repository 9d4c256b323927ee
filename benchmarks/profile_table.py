"""What the GPU profile measured, as a table over machines."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_process.schema import DataError

COLUMNS = ("GPU", "model", "way", "setting", "start-up s", "prompt tok/s", "tok/s", "samples/h", "step s", "peak GiB")
TEXT_COLUMNS = 4

HF, HF_FORCED, GENERATE, USUAL = "hf engine", "hf engine, forcing", "model.generate", "usual script"
VLLM, VLLM_FORCED, LLM, SECOND = "vllm engine", "vllm engine, forcing", "LLM.generate", "vllm engine, second iteration"
LORA = "LoRA training"


@dataclass(frozen=True)
class Row:
    """One way of doing the work, on one machine. None: not measured, or without meaning for this way."""

    way: str
    setting: str
    startup_s: float | None = None  # from nothing to ready, imports included; SECOND: from asleep to the first token
    prompt_tokens_per_s: float | None = None  # when one token is asked of each prompt, none of them known
    seconds: float | None = None  # of the run behind the next three
    samples: int | None = None
    tokens: int | None = None  # generated; LORA: trained on, prompts included
    step_s: float | None = None  # an optimizer step
    memory_gib: float | None = None  # peak
    note: str = ""

    @property
    def tokens_per_s(self) -> float | None:
        return self.tokens / self.seconds if self.tokens is not None and self.seconds else None

    @property
    def samples_per_h(self) -> float | None:
        return 3600 * self.samples / self.seconds if self.samples is not None and self.seconds else None


@dataclass(frozen=True)
class Comparison:
    """One number of one way of doing the work."""

    way: str
    what: str  # with its unit
    estimated: float
    measured: float

    def __str__(self) -> str:
        both = f"estimated {self.estimated:.3g}, measured {self.measured:.3g}"
        return f"{self.way}, {self.what}: {both}, ratio {self.estimated / self.measured:.2f}"


@dataclass(frozen=True)
class Report:
    """One run of the profile."""

    machine: Mapping[str, Any]
    model: Mapping[str, Any]
    workload: Mapping[str, Any]
    rows: Sequence[Row]
    failures: Sequence[Mapping[str, str]]  # part, error
    finished: bool  # False: it was stopped, and parts are missing
    estimates: Sequence[Comparison] = ()  # what `selftrain doctor` would have said; none without a GPU


def read_report(path: Path) -> Report:
    """DataError if the file is not one of the profile's."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        rows = [Row(**row) for row in found["rows"]]
        estimates = tuple(Comparison(**one) for one in found.get("estimates", []))
        about = found["machine"], found["model"], found["workload"]
        return Report(*about, rows, found["failures"], found["finished"], estimates)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path} holds no result of benchmarks.gpu_profile ({error!r}); remove it") from error


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """What one way is to another, by name; only those for which both were measured."""
    rate: dict[str, float] = {}
    for row in rows:
        if row.tokens_per_s is not None:  # the best setting counts
            rate[row.way] = max(rate.get(row.way, 0.0), row.tokens_per_s)
    pairs = [
        ("hf engine / model.generate, tokens per second", HF, GENERATE),
        ("hf engine / usual script, tokens per second", HF, USUAL),
        ("hf engine, seconds per token: forcing / plain", HF, HF_FORCED),
        ("vllm engine / LLM.generate, tokens per second", VLLM, LLM),
        ("vllm engine / usual script, tokens per second", VLLM, USUAL),
        ("vllm engine, seconds per token: forcing / plain", VLLM, VLLM_FORCED),
        ("vllm engine / hf engine, tokens per second", VLLM, HF),
    ]
    found = {name: rate[a] / rate[b] for name, a, b in pairs if a in rate and b in rate}
    starts = {row.way: row.startup_s for row in rows if row.startup_s is not None}
    if VLLM in starts and SECOND in starts:
        found["vllm engine, seconds to sampling: second iteration / first"] = starts[SECOND] / starts[VLLM]
    return found


def render(reports: Sequence[Report]) -> str:
    """Markdown: one table of all rows, failures among them, then what was compared and what each machine is."""
    lines = ["| " + " | ".join(COLUMNS) + " |"]
    lines.append("| " + " | ".join(["---"] * TEXT_COLUMNS + ["---:"] * (len(COLUMNS) - TEXT_COLUMNS)) + " |")
    for report in reports:
        head = [_gpu(report.machine), f"{report.model['family']} {report.model['size']}"]
        for row in report.rows:
            numbers = [row.startup_s, row.prompt_tokens_per_s, row.tokens_per_s, row.samples_per_h, row.step_s]
            cells = [row.way, f"{row.setting}; {row.note}" if row.note else row.setting]
            lines.append("| " + " | ".join([*head, *cells, *map(_number, [*numbers, row.memory_gib])]) + " |")
        for failure in report.failures:
            error = failure["error"].replace("|", "\\|")
            blank = [""] * (len(COLUMNS) - TEXT_COLUMNS)
            lines.append("| " + " | ".join([*head, f"**{failure['part']} failed**", error, *blank]) + " |")
    for report in reports:
        lines += ["", f"**{_gpu(report.machine)}, {report.model['family']} {report.model['size']}**: {_about(report)}"]
        lines += ["", *(f"* {name}: {value:.3g}" for name, value in ratios(report.rows).items())]
        lines += [f"* {one}" for one in report.estimates]
    return "\n".join(lines)


def _gpu(machine: Mapping[str, Any]) -> str:
    if not machine["gpus"]:
        return "none"
    names = sorted(set(machine["gpus"]))
    return f"{len(machine['gpus'])} x {', '.join(names)}"


def _about(report: Report) -> str:
    work = report.workload
    machine = ", ".join(f"{key} {_plain(value)}" for key, value in report.machine.items() if value not in (None, []))
    return (
        f"{report.model['parameters'] / 1e9:.3g} B parameters, {report.model['weights']} weights; "
        f"{work['problems']} prompts x {work['n']} samples of {work['new_tokens']} tokens at most, one picture of "
        f"{work['picture']} x {work['picture']} pixels each; temperature {work['temperature']}, top-k {work['top_k']}, "
        f"top-p {work['top_p']}; forcing: {work['ignores']} ignores at most. {machine}."
        f"{'' if report.finished else ' **Stopped before its end.**'}"
    )


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _number(value: float | None) -> str:
    """Three digits are what such a measurement is good for; a large number keeps its size."""
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
