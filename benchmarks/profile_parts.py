"""The parts of the GPU profile: what is answered, and each way of answering it or of training on it."""

from __future__ import annotations

import contextlib
import gc
import itertools
import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks import device_memory, fullsize, vllm_raw
from benchmarks import profile_table as table
from benchmarks.profile_table import Row
from benchmarks.sampling import SEED_BATCH, with_generate
from data_process import prompts as wording
from data_process.schema import DataError, Example
from data_process.seeds import seed_for
from data_process.sources import minigeo
from selftrain.engine_settings import HFSettings, VLLMSettings
from selftrain.engines.base import Completion, EngineError, Request, SamplingParams
from selftrain.engines.budget import Budget
from selftrain.engines.decoding.inputs import known_family, load_processor, prepare
from selftrain.engines.hf import HFEngine
from selftrain.engines.vllm_config import VLLMWorkerConfig, engine_arguments
from selftrain.engines.vllm_offline import VLLMEngine
from selftrain.families import pixel_limits

ROOT = Path(__file__).parents[1]
HYPERPARAMETERS = ROOT / "configs/llamafactory/qwen2vl_7b_lora.yaml"
MIN_PIXELS = 56 * 56  # where the checkpoint's processor names no least size
LOG_END = 40  # lines of a failed program's log that are shown
# As a reasoner's prose ends a thought, and as the made-up words of benchmarks.fullsize do.
FORCING = Budget(end="\nAnswer:", until=(".",), ignore=(" Wait,",), answer_tokens=16)


@dataclass(frozen=True)
class Job:
    """What is asked for."""

    model: Path
    folder: Path  # pictures and everything that is thrown away
    gpus: tuple[str, ...]  # () for the CPU
    problems: int
    n: int
    new_tokens: int
    picture: int  # pixels along a side
    temperature: float
    top_k: int
    top_p: float
    ignores: int
    rounds: int
    dtype: str
    threads: int | None
    batch_size: int
    generate_rows: tuple[int, ...]
    usual_batches: int
    vllm_python: Path
    vllm_batch_size: int
    memory_share: float
    tensor_parallel: int
    max_model_len: int
    train_python: Path
    train_steps: int
    train_batch: int
    per_device_batch: int
    target_tokens: int

    @property
    def params(self) -> SamplingParams:
        return SamplingParams(self.temperature, self.new_tokens, top_p=self.top_p, top_k=self.top_k)

    @property
    def forced(self) -> SamplingParams:
        return replace(self.params, budget=replace(FORCING, num_ignore=self.ignores))

    @property
    def min_pixels(self) -> int:
        limits = pixel_limits(self.model)
        return limits[0] if limits else MIN_PIXELS

    @property
    def max_pixels(self) -> int:
        return self.picture**2

    @property
    def workload(self) -> dict[str, Any]:
        """All that changes a number, but where things are."""
        places = ("model", "folder", "gpus", "vllm_python", "train_python")
        return {name: value for name, value in asdict(self).items() if name not in places}


class Notes:
    """Rows and failures, written down as they come: what was measured outlives the process that measured it."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def row(self, row: Row) -> None:
        self._write({"row": asdict(row)})
        print(f"  {row.way}, {row.setting}: " + ", ".join(_told(row)), flush=True)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What fails inside is noted under this name, and the program goes on after it."""
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            self._write({"failure": {"part": name, "error": f"{type(error).__name__}: {first}"}})
        # out of the except block: the traceback held the tensors of a failed part
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()

    def _write(self, entry: Mapping[str, Any]) -> None:
        with self._path.open("a") as file:
            print(json.dumps(entry), file=file)

    def read(self) -> tuple[list[Row], list[dict[str, str]]]:
        """All rows and all failures so far."""
        entries = [json.loads(line) for line in self._path.read_text().splitlines()] if self._path.exists() else []
        return [Row(**e["row"]) for e in entries if "row" in e], [e["failure"] for e in entries if "failure" in e]


def _told(row: Row) -> list[str]:
    numbers = {
        "start-up {:.1f} s": row.startup_s,
        "{:,.0f} prompt tok/s": row.prompt_tokens_per_s,
        "{:,.0f} tok/s": row.tokens_per_s,
        "{:.3f} s a step": row.step_s,
        "{:.2f} GiB": row.memory_gib,
    }
    return [text.format(value) for text, value in numbers.items() if value is not None]


# ---- what is answered --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Prompts:
    """Sets of requests, one for every run that has to start from nothing: no picture is in two of them, and pictures
    come first in a prompt.
    """

    warm: list[Request]
    read: list[list[Request]]  # one a round, like the two below
    read_tokens: list[int]  # of the prompts of each
    plain: list[list[Request]]
    forced: list[list[Request]]
    train: list[Example]


def make_prompts(job: Job) -> Prompts:
    """MiniGeo's problems, their pictures scaled to squares of the wanted size. DataError if it has not so many."""
    chosen = wording.prompt_set("r3v-qwen2vl")
    try:
        made = iter(list(minigeo.generate("train", (1 + 3 * job.rounds) * job.problems + job.train_batch)))
    except ValueError as error:
        raise DataError(f"{error}; lower --problems, --rounds or --train-batch") from error
    processor = load_processor(job.model, known_family(job.model, "hf"), job.min_pixels, job.max_pixels)

    def words(text: str) -> str:
        """A rationale repeated until it has about as many tokens as a training target is to have."""
        once = len(processor.tokenizer(text)["input_ids"])
        return "\n".join([text] * max(1, round(job.target_tokens / (once + 1))))

    def save(name: str, picture: Any) -> Path:
        path = job.folder / f"{name}.png"
        picture.resize((job.picture, job.picture)).save(path)
        return path

    def some() -> list[Request]:
        found = []
        for problem, picture in itertools.islice(made, job.problems):
            seeds = tuple(seed_for("gpu_profile", problem.id, sample) for sample in range(job.n))
            found.append(Request(problem.id, wording.cot(problem, chosen), (save(problem.id, picture),), seeds))
        return found

    def rounds() -> list[list[Request]]:
        return [some() for _ in range(job.rounds)]

    warm, read, plain, forced = some(), rounds(), rounds(), rounds()
    train = []
    for problem, picture in made:
        target = words(str(problem.meta["rationale"]))
        image = save(problem.id, picture).name
        train.append(Example(problem.id, "cot", problem.id, wording.cot(problem, chosen), target, (image,)))
    read_tokens = [sum(len(prompt.ids) for prompt in prepare(processor, requests)) for requests in read]
    return Prompts(warm, read, read_tokens, plain, forced, train)


def first(requests: Sequence[Request]) -> list[Request]:
    """The requests with one sample each."""
    return [replace(request, seeds=request.seeds[:1]) for request in requests]


@dataclass(frozen=True)
class Timed:
    """One run. Of several the fastest counts: other work only ever adds time."""

    seconds: float
    answers: list[list[Completion]]

    @property
    def flat(self) -> list[Completion]:
        return [completion for of_one in self.answers for completion in of_one]

    @property
    def samples(self) -> int:
        return len(self.flat)

    @property
    def tokens(self) -> int:
        return sum(len(completion.token_ids) for completion in self.flat)

    @property
    def prompt_tokens(self) -> int:
        return sum(of_one[0].n_prompt_tokens for of_one in self.answers)

    @property
    def note(self) -> str:
        """What forcing did."""
        ledgers = [completion.forcing for completion in self.flat if completion.forcing is not None]
        if not ledgers:
            return ""
        ignores, back = sum(f.ignores for f in ledgers), sum(f.discarded for f in ledgers)
        return f"{ignores / self.samples:.2f} ignores, {back / self.samples:.2f} tokens taken back a sample"


def fastest(
    generate: Callable[[Sequence[Request], SamplingParams], list[list[Completion]]],
    sets: Sequence[Sequence[Request]],
    params: SamplingParams,
) -> Timed:
    """The fastest of a run on each of the sets."""
    runs = []
    for requests in sets:
        started = time.perf_counter()
        answers = generate(requests, params)
        runs.append(Timed(time.perf_counter() - started, answers))
    return min(runs, key=lambda run: run.seconds)


# ---- transformers ------------------------------------------------------------------------------------------------


def profile_hf(job: Job, prompts: Prompts, notes: Notes) -> None:
    """The hf engine, then `model.generate` on the same model. Runs in a process of its own."""
    started = time.perf_counter()
    engine = None
    with notes.part("hf: start-up"):
        engine = HFEngine(
            job.model,
            settings=HFSettings(
                batch_size=job.batch_size,
                dtype=job.dtype,
                device="cuda" if job.gpus else "cpu",
                threads=job.threads,
            ),
            min_pixels=job.min_pixels,
            max_pixels=job.max_pixels,
        )
        startup = time.perf_counter() - started
    if engine is None:
        return
    with engine:
        setting = f"{job.batch_size} rows"
        with notes.part("hf: sampling"), own_peak(job) as peak:
            fastest(engine.generate, [prompts.warm], _short(job))
            read = fastest(engine.generate, list(map(first, prompts.read)), replace(job.params, max_tokens=1))
            run = fastest(engine.generate, prompts.plain, job.params)
            rate = read.prompt_tokens / read.seconds
            of_run = (run.seconds, run.samples, run.tokens)
            notes.row(Row(table.HF, setting, startup, rate, *of_run, memory_gib=peak()))
        with notes.part("hf: forcing"), own_peak(job) as peak:
            run = fastest(engine.generate, prompts.forced, job.forced)
            of_run = (run.seconds, run.samples, run.tokens)
            notes.row(Row(table.HF_FORCED, setting, None, None, *of_run, memory_gib=peak(), note=run.note))
        for rows in job.generate_rows:
            batch = max(1, rows // job.n)
            with notes.part(f"model.generate: {rows} rows"), own_peak(job) as peak:
                with_generate(engine, prompts.warm, _short(job), batch=batch, per_call=job.n, passes=1)
                of_run = _generate(engine, prompts.plain, job.params, batch=batch, per_call=job.n)
                notes.row(Row(table.GENERATE, f"{batch} x {job.n} rows", None, None, *of_run, memory_gib=peak()))
        with notes.part("usual script"), own_peak(job) as peak:
            some = [prompts.plain[0][: SEED_BATCH * job.usual_batches]]
            with_generate(engine, prompts.warm[:SEED_BATCH], _short(job), batch=SEED_BATCH, per_call=1, passes=1)
            of_run = _generate(engine, some, job.params, batch=SEED_BATCH, per_call=1)
            notes.row(Row(table.USUAL, f"{SEED_BATCH} rows", None, None, *of_run, memory_gib=peak()))


def _short(job: Job) -> SamplingParams:
    return replace(job.params, max_tokens=min(8, job.new_tokens))


def _generate(
    engine: HFEngine, sets: Sequence[Sequence[Request]], params: SamplingParams, *, batch: int, per_call: int
) -> tuple[float, int, int]:
    """(seconds, samples, tokens) of the fastest run of `model.generate` over the sets."""
    runs = []
    for requests in sets:
        started = time.perf_counter()
        samples, tokens, _ = with_generate(engine, requests, params, batch=batch, per_call=per_call, passes=1)
        runs.append((time.perf_counter() - started, samples, tokens))
    return min(runs)


@contextlib.contextmanager
def own_peak(job: Job) -> Iterator[Callable[[], float]]:
    """GiB that this process needed at most since the block began: torch's count on a GPU, else resident memory."""
    if job.gpus:
        import torch

        torch.cuda.reset_peak_memory_stats()
        yield lambda: torch.cuda.max_memory_allocated() / 2**30
    else:
        with device_memory.own_peak() as peak:
            yield lambda: peak.gib


# ---- vLLM --------------------------------------------------------------------------------------------------------


def vllm_settings(job: Job, **more: bool) -> VLLMSettings:
    return VLLMSettings(
        interpreter=job.vllm_python,
        batch_size=job.vllm_batch_size,
        dtype=job.dtype,
        device="auto" if job.gpus else "cpu",
        memory_share=job.memory_share,
        tensor_parallel=job.tensor_parallel,
        max_model_len=job.max_model_len,
        threads=job.threads,
        **more,
    )


def profile_vllm(job: Job, prompts: Prompts, notes: Notes) -> None:
    """The vLLM engine, then its second iteration: from asleep, with new weights, to the first token."""
    engine = None
    with device_memory.peak_of_children(job.gpus) as peak:
        with notes.part("vllm: start-up"):
            started = time.perf_counter()
            engine = VLLMEngine(
                job.model,
                settings=vllm_settings(job),
                min_pixels=job.min_pixels,
                max_pixels=job.max_pixels,
                log=job.folder / "vllm.log",
            )
            startup = time.perf_counter() - started
        if engine is None:
            return
        with engine:
            setting = f"{job.vllm_batch_size} rows"
            with notes.part("vllm: sampling"):
                fastest(engine.generate, [prompts.warm], _short(job))
                read = fastest(engine.generate, list(map(first, prompts.read)), replace(job.params, max_tokens=1))
                run = fastest(engine.generate, prompts.plain, job.params)
                rate = read.prompt_tokens / read.seconds
                of_run = (run.seconds, run.samples, run.tokens)
                notes.row(Row(table.VLLM, setting, startup, rate, *of_run, memory_gib=peak.gib))
            with notes.part("vllm: forcing"):
                run = fastest(engine.generate, prompts.forced, job.forced)
                of_run = (run.seconds, run.samples, run.tokens)
                notes.row(Row(table.VLLM_FORCED, setting, None, None, *of_run, memory_gib=peak.gib, note=run.note))
            with notes.part("vllm: second iteration"):
                adapter = fullsize.random_adapter(job.model, job.folder / "adapter")
                started = time.perf_counter()
                engine.rest()
                slept = time.perf_counter() - started
                engine.load(adapter)
                loaded = time.perf_counter() - started - slept
                engine.generate(first(prompts.warm[:1]), replace(job.params, max_tokens=1))
                until = time.perf_counter() - started - slept
                note = f"{slept:.2f} s to fall asleep, {loaded:.2f} s to take the weights"
                notes.row(Row(table.SECOND, "adapter of rank 64", until, memory_gib=peak.gib, note=note))


def profile_llm(job: Job, prompts: Prompts, notes: Notes) -> None:
    """`LLM.generate` with the settings that the engine gives to vLLM, in vLLM's interpreter."""
    cpu = not job.gpus
    options = engine_arguments(
        VLLMWorkerConfig(
            job.model, None, vllm_settings(job, logprobs=False, keep_open=False), job.min_pixels, job.max_pixels
        ),
        cpu,
    )
    model = options.pop("model")
    sampling = {"temperature": job.temperature, "top_k": job.top_k, "top_p": job.top_p}

    def order(requests: Sequence[Request], n: int, max_tokens: int) -> str:
        asked = [{"prompt": request.prompt, "image": str(request.images[0])} for request in requests]
        return json.dumps({"do": "sample", "asked": asked, "n": n, "max_tokens": max_tokens, **sampling}) + "\n"

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}
    if cpu:  # as the engine's process
        environment |= {"OMP_NUM_THREADS": str(job.threads or 1), "TORCH_COMPILE_DISABLE": "1"}
        environment["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    log = job.folder / "llm.log"
    with device_memory.peak_of_children(job.gpus) as peak, log.open("wb") as sink:
        started = time.perf_counter()
        command = [str(job.vllm_python), "-P", vllm_raw.__file__, model, json.dumps(options)]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=sink, env=environment, text=True
        ) as child:

            def told(line: str = "") -> dict[str, Any]:
                assert child.stdin is not None
                assert child.stdout is not None
                with contextlib.suppress(BrokenPipeError):  # it has ended, as the next line finds
                    child.stdin.write(line)
                    child.stdin.flush()
                if answer := child.stdout.readline():
                    return dict(json.loads(answer))
                end = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_END:])
                raise EngineError(f"LLM.generate's process ended with status {child.wait()}\n{end}")

            try:
                told()
                startup = time.perf_counter() - started
                told(order(prompts.warm, job.n, _short(job).max_tokens))
                read = [told(order(requests, 1, 1))["seconds"] for requests in prompts.read]
                rate = max(n / seconds for n, seconds in zip(prompts.read_tokens, read, strict=True))
                plain = [told(order(requests, job.n, job.new_tokens)) for requests in prompts.plain]
                best = min(plain, key=lambda run: run["seconds"])
                of_run = (best["seconds"], best["samples"], best["tokens"])
                setting = f"{job.vllm_batch_size} rows"
                notes.row(Row(table.LLM, setting, startup, rate, *of_run, memory_gib=peak.gib))
            except BaseException:
                child.terminate()
                raise


# ---- training ----------------------------------------------------------------------------------------------------


def profile_training(job: Job, prompts: Prompts, notes: Notes) -> None:
    """LoRA through LLaMA-Factory, as an iteration of the loop does it: seconds between steps, the first left out."""
    from selftrain.training.hyperparameters import TrainingSettings
    from selftrain.training.llamafactory import train
    from selftrain.training.row_lengths import preflight

    def path_of(name: str) -> Path:
        return job.folder / name

    steps: dict[int, float] = {}

    def on_progress(line: Mapping[str, Any]) -> None:
        if "loss" in line:
            steps[int(line["current_steps"])] = time.perf_counter()

    settings = TrainingSettings(
        hyperparameters=HYPERPARAMETERS,
        overrides={
            "max_steps": job.train_steps,
            "global_batch_size": job.train_batch,
            "bf16": bool(job.gpus),
        },
        per_device_batch=job.per_device_batch,
        interpreter=job.train_python,
        threads=job.threads or max(1, (os.cpu_count() or 2) // 2),
        max_length=job.max_model_len,
        # With several in sight and one process, the rows of a step would be split over them.
        environment={"CUDA_VISIBLE_DEVICES": ",".join(job.gpus[:1])},
    )
    with device_memory.peak_of_children(job.gpus) as peak:
        lengths = preflight(prompts.train, job.model, path_of, job.max_model_len).lengths
        started = time.perf_counter()
        result = train(
            prompts.train,
            settings=settings,
            base_model=job.model,
            image_path=path_of,
            out=job.folder / "training",
            image_limits=(job.min_pixels, job.max_pixels),
            on_progress=on_progress,
        )
        between = (max(steps.values()) - steps[1]) / (result.steps - 1)
        notes.row(
            Row(
                way=table.LORA,
                setting=f"{job.train_batch} rows a step, {job.per_device_batch} at a time",
                startup_s=steps[1] - started - between,
                seconds=between,
                samples=job.train_batch,
                tokens=round(job.train_batch * sum(lengths) / len(lengths)),
                step_s=between,
                memory_gib=peak.gib,
                note=f"{sum(lengths) / len(lengths):.0f} tokens a row",
            )
        )
