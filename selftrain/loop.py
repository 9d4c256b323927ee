"""The iteration controller: sample, judge, build, train, evaluate, and again.

Every stage is a function from records to records whose result lies in the run folder; a stage that is there is not done
again, so a run that was stopped anywhere goes on with the same command.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from data_process import prompts as wording
from data_process.build import build, pool_counts
from data_process.io import load_problems, read_jsonl, write_jsonl
from data_process.judging import JUDGE_VERSION, judge
from data_process.prompts import prompt_set
from data_process.schema import (
    Candidate,
    DataError,
    Example,
    Judged,
    Problem,
    example_from_json,
    judged_from_json,
    to_json,
)
from data_process.seeds import seed_for
from selftrain import policies
from selftrain.bank import Bank
from selftrain.config import Config, build_config
from selftrain.engines.base import Engine, SamplingParams
from selftrain.engines.opening import open_engine
from selftrain.evaluation import candidate, compare, evaluate
from selftrain.images import ImageStore
from selftrain.progress import Progress
from selftrain.run_dir import RunDir, file_digest, read_json, write_json
from selftrain.sampling import Ask, Picture, Sampler, weights_digest
from selftrain.training import TrainingSettings

SPLITS = ("train", "dev", "test")
# Bytes of weights up to which a trained adapter is also tried on a prompt, on the CPU, before it is trusted. A larger
# model would take minutes; its adapter's numbers are checked in any case.
PROBE_LIMIT = 2 * 1024**3


class LoopStopped(Exception):
    """There is nothing to learn from; the message says why. What was measured so far is reported."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended."""

    metrics: dict[str, Any]
    report: list[Path]
    stopped: str | None  # why the loop ended early, None if it did not


@dataclass
class Run:
    """What the stages share: settings, folder, bank, data, and the engine of the weights in use."""

    config: Config
    folder: RunDir
    bank: Bank
    store: ImageStore
    splits: dict[str, list[Problem]]
    progress: Progress
    open_engine: Callable[[Config, Path | None, int, Sequence[Problem]], Engine] = open_engine
    _sampler: tuple[int, Sampler] | None = field(default=None, repr=False)

    def __enter__(self) -> Run:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close_engine()

    def adapter(self, iteration: int) -> Path | None:
        """The adapter that an iteration trained; None for the base model."""
        return self.folder.path / f"iter{iteration}" / "train" / "adapter" if iteration else None

    def sampler(self, iteration: int) -> Sampler:
        """The sampler of an iteration's weights; the engine behind it stays open until other weights are wanted."""
        if self._sampler is None or self._sampler[0] != iteration:
            self.close_engine()
            config, adapter = self.config, self.adapter(iteration)
            everything = [problem for split in SPLITS for problem in self.splits[split]]
            if config.engine.kind == "scripted":
                digest = _script_digest(config, adapter, iteration, everything)
            else:
                digest = weights_digest(self.bank, config.model.path, adapter)
                if config.engine.dtype != "auto":  # another precision gives other answers
                    digest += f"-{config.engine.dtype}"
            self._sampler = (
                iteration,
                Sampler(
                    bank=self.bank,
                    open_engine=lambda: self.open_engine(config, adapter, iteration, everything),
                    engine_name=config.engine.kind,
                    weights=digest,
                    picture=self.picture,
                    seed=config.seed,
                    unit_rows=config.engine.batch_size,
                ),
            )
        return self._sampler[1]

    def close_engine(self) -> None:
        """Free the engine's memory; training needs it."""
        if self._sampler is not None:
            self._sampler[1].__exit__(None, None, None)
            self._sampler = None

    def picture(self, relative: str) -> Picture:
        stored = self.store.add(relative)
        return Picture(stored.path, stored.id)


def _script_digest(config: Config, adapter: Path | None, iteration: int, problems: Sequence[Problem]) -> str:
    """What a scripted engine's answers depend on: its settings, and the gold answers that it reads."""
    import hashlib

    settings = config.engine
    what = [
        [settings.script_accuracy, settings.script_gain, settings.script_abstain, config.prompts, iteration],
        file_digest(adapter / "adapter_model.rehearsal") if adapter else None,
        [[problem.id, problem.answer] for problem in problems],
    ]
    return "scripted-" + hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]


# ---- the loop -----------------------------------------------------------------------------------------------------


def run_loop(config: Config, progress: Progress | None = None, **tools: Any) -> Outcome:
    """Run, or go on with, the experiment that `config` describes, in `config.output`.

    `tools` replaces parts in tests: `open_engine`. Raises DataError, RunError, BankError, EngineError or TrainingError;
    whatever was finished before stays and is reused.
    """
    progress = progress or Progress()
    started = time.time()
    with RunDir(config.output) as folder:
        clock = _Clock(folder.path / "sessions.json", started)
        with Bank(config.bank) as bank, clock:
            store = ImageStore(
                config.bank.parent / "images",
                config.data.folder,
                min_pixels=config.model.min_pixels,
                max_pixels=config.model.max_pixels,
            )
            splits, card = load_splits(config, store, progress)
            folder.claim(config.identity(), inputs(config, splits, store, bank))
            write_json(folder.path / "config.json", config.model_dump(mode="json"))
            write_json(folder.path / "data.json", card)
            with Run(config, folder, bank, store, splits, progress, **tools) as run:
                stopped = None
                evaluate_stage(run, 0, "dev")
                try:
                    for iteration in range(1, config.iters + 1):
                        iterate(run, iteration)
                except LoopStopped as reason:
                    stopped = str(reason)
                    progress.say(f"The loop stops: {stopped}")
                finished = finished_iterations(run)
                accepted = policies.accept(
                    {k: read_json(run.folder.path / f"iter{k}/dev/split.json") for k in finished}
                )
                for iteration in test_iterations(config, finished, accepted):
                    evaluate_stage(run, iteration, "test")
                metrics = collect(run, finished, accepted, stopped)
        write_json(folder.path / "metrics.json", metrics)
        return Outcome(metrics, write_run_report(folder.path), stopped)


def iterate(run: Run, iteration: int) -> None:
    """One turn: the picture in the README, stage by stage."""
    sample_stage(run, iteration)
    judge_stage(run, iteration)
    build_stage(run, iteration)
    train_stage(run, iteration)
    evaluate_stage(run, iteration, "dev")


def finished_iterations(run: Run) -> list[int]:
    return [k for k in range(run.config.iters + 1) if run.folder.done(f"iter{k}/dev")]


def test_iterations(config: Config, finished: Sequence[int], accepted: int) -> list[int]:
    """Whose weights are measured on test: nothing is chosen there, so it is read once, at the end."""
    if config.evaluation.test == "none":
        return []
    return list(finished) if config.evaluation.test == "all" else sorted({0, accepted})


# ---- data ---------------------------------------------------------------------------------------------------------


def generate_data(config: Config, progress: Progress) -> None:
    """MiniGeo in the data folder, whole or not at all, unless there are data. Raises DataError for another seed's."""
    from data_process.sources import minigeo

    data = config.data
    if (data.folder / "card.json").is_file():
        card = read_json(data.folder / "card.json")
        seed, version = card.get("seed"), card.get("version")
        if version != minigeo.VERSION:
            raise DataError(
                f"{data.folder} holds MiniGeo of version {version}, not {minigeo.VERSION}; delete the folder to "
                "have it generated again, or set data.source=jsonl to use it as it is"
            )
        if seed != data.seed:
            raise DataError(
                f"{data.folder} holds MiniGeo of seed {seed}, not {data.seed}; set data.seed={seed} to use it, or "
                "data.folder to another folder"
            )
        return
    if any((data.folder / getattr(data, split)).exists() for split in SPLITS):
        return  # someone's own problems: read them, never write over them
    if data.folder.exists() and any(data.folder.iterdir()):
        raise DataError(
            f"{data.folder} holds files, but no {data.train}, {data.dev} or {data.test}; empty it to generate MiniGeo "
            "there, or set data.folder"
        )
    target = data.folder.resolve()  # where it is a link, what it leads to
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    with progress.stage(f"generating MiniGeo in {data.folder}", "pictures") as update:
        shutil.rmtree(partial, ignore_errors=True)
        try:
            minigeo.write(partial, seed=data.seed, on_progress=update)
            with contextlib.suppress(OSError):  # another run generated the same a moment ago
                partial.replace(target)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def load_splits(
    config: Config, store: ImageStore, progress: Progress
) -> tuple[dict[str, list[Problem]], dict[str, Any]]:
    """The usable problems of each split, and what was left out; MiniGeo is generated first if need be.

    A problem whose picture cannot be used is left out and listed with the reason in the card, which becomes
    `data.json`. Raises DataError.
    """
    data = config.data
    if data.source == "minigeo":
        generate_data(config, progress)
    splits: dict[str, list[Problem]] = {}
    card: dict[str, Any] = {}
    for split in SPLITS:
        problems = load_problems(data.folder / getattr(data, split), data.folder)
        limit = getattr(data, f"{split}_limit")
        usable, reasons, failed = store.check(problems[:limit])
        offered = len(problems[:limit])
        if len(failed) > data.max_dropped_share * offered:
            shown = ", ".join(f"{name} {n}" for name, n in sorted(reasons.items()))
            raise DataError(
                f"{len(failed)} of {offered} pictures of {split} in {data.folder} cannot be used ({shown}; first: "
                f"problem {failed[0][0]!r}, {failed[0][1]}). Mend them, or leave them out by raising "
                "data.max_dropped_share."
            )
        if not usable:
            raise DataError(f"{data.folder / getattr(data, split)} holds no usable problem")
        splits[split] = usable
        card[split] = {"offered": offered, "usable": len(usable), "left_out": [list(item) for item in failed]}
    seen: dict[str, str] = {}
    for split in SPLITS:
        for problem in splits[split]:
            if seen.setdefault(problem.id, split) != split:
                raise DataError(f"problem {problem.id!r} is in {seen[problem.id]} and in {split}; ids must differ")
    return splits, card


def inputs(config: Config, splits: Mapping[str, Sequence[Problem]], store: ImageStore, bank: Bank) -> dict[str, Any]:
    """Digests of all that comes from outside the configuration: a run folder is bound to them."""
    import hashlib

    def digest(problems: Sequence[Problem]) -> str:
        rows = [[to_json(p), store.add(p.image).id if p.image else None] for p in problems]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()[:16]

    result: dict[str, Any] = {split: digest(problems) for split, problems in splits.items()}
    result["prompts"] = prompt_set(config.prompts).digest
    result["judge"] = JUDGE_VERSION
    if config.engine.kind != "scripted":
        result["model"] = weights_digest(bank, config.model.path, None)
        result["hyperparameters"] = file_digest(config.training.hyperparameters)[:16]
    return result


# ---- the stages ---------------------------------------------------------------------------------------------------


def _weights_stage(iteration: int) -> list[str]:
    """The stage that made an iteration's weights; none for the base model, which `inputs` watches."""
    return [f"iter{iteration}/train"] if iteration else []


def sample_stage(run: Run, iteration: int) -> None:
    """Candidates for this iteration, written by the weights of the one before."""
    settings = run.config.sampling

    def make(folder: Path) -> None:
        problems = policies.problems_for(run.splits["train"], settings.problems, run.config.seed, iteration)
        prompts = prompt_set(run.config.prompts)
        asks = [Ask(p.id, wording.cot(p, prompts), p.image) for p in problems]
        params = SamplingParams(
            temperature=settings.temperature,
            top_p=settings.top_p,
            top_k=settings.top_k,
            repetition_penalty=settings.repetition_penalty,
            max_tokens=settings.max_tokens,
        )
        sampler = run.sampler(iteration - 1)
        with run.progress.stage(f"iteration {iteration}: sampling", "samples") as sampler.on_progress:
            found = sampler.draw(asks, params, settings.n)
        candidates = [
            candidate(problem.id, iteration - 1, index, completion)
            for problem in problems
            for index, completion in enumerate(found[problem.id])
        ]
        write_jsonl(folder / "candidates.jsonl", map(to_json, candidates))

    run.folder.stage(f"iter{iteration}/sample", make, after=_weights_stage(iteration - 1))


def judge_stage(run: Run, iteration: int) -> None:
    """A verdict for every candidate, and counts that add up."""

    def make(folder: Path) -> None:
        by_id = {problem.id: problem for problem in run.splits["train"]}
        rows = read_jsonl(run.folder.path / f"iter{iteration}/sample/candidates.jsonl")
        judged = [
            Judged(c, judge(c.text, by_id[c.problem_id], truncated=c.finish == "length"))
            for c in (Candidate(**row) for row in rows)
        ]
        write_jsonl(folder / "judged.jsonl", map(to_json, judged))
        sampled = {item.candidate.problem_id for item in judged}
        status = Counter(item.verdict.status for item in judged)
        write_json(
            folder / "counts.json",
            {
                "sampled_problems": len(sampled),
                "candidates": len(judged),
                **{name: status[name] for name in ("correct", "wrong", "abstain")},
                "truncated": sum(item.candidate.finish == "length" for item in judged),
                "rules": dict(sorted(Counter(item.verdict.rule for item in judged).items())),
                "pool": dict(pool_counts([by_id[i] for i in sorted(sampled)], judged)),
            },
        )

    run.folder.stage(f"iter{iteration}/judge", make, after=[f"iter{iteration}/sample"])


def pool(run: Run, iteration: int) -> list[Judged]:
    """The judged candidates of all iterations up to this one (R3V accumulates)."""
    return [
        judged_from_json(row)
        for k in range(1, iteration + 1)
        for row in read_jsonl(run.folder.path / f"iter{k}/judge/judged.jsonl")
    ]


def build_stage(run: Run, iteration: int) -> None:
    """Training rows from the pool. Raises LoopStopped if there is nothing to learn from."""
    settings = run.config.build

    def make(folder: Path) -> None:
        judged = pool(run, iteration)
        sampled = {item.candidate.problem_id for item in judged}
        problems = [problem for problem in run.splits["train"] if problem.id in sampled]
        why = nothing_to_learn(judged)
        if why:
            raise LoopStopped(why)
        result = build(
            problems,
            judged,
            rule=settings.rule,
            prompts=prompt_set(run.config.prompts),
            seed=seed_for(run.config.seed, "build", iteration),
            parts=settings.parts.model_dump(),
            min_chars=settings.min_chars if settings.rule == "a-q2" else None,
            max_cot_per_problem=settings.max_cot_per_problem,
            balance_positions=settings.balance_positions,
            require_consistent=settings.require_consistent,
        )
        examples = list(result.examples)
        dropped = Counter(result.dropped)
        if settings.max_rows is not None and len(examples) > settings.max_rows:
            chosen = random.Random(seed_for(run.config.seed, "max_rows", iteration)).sample(
                range(len(examples)), settings.max_rows
            )
            dropped["row:above_max_rows"] += len(examples) - settings.max_rows
            examples = [examples[index] for index in sorted(chosen)]
        if not examples:
            raise LoopStopped(
                "no training row could be built: " + ", ".join(f"{k} {n}" for k, n in dropped.most_common(5))
            )
        write_jsonl(folder / "examples.jsonl", map(to_json, examples))
        write_json(
            folder / "counts.json",
            {
                "examples": dict(Counter(example.kind for example in examples)),
                "dropped": dict(sorted(dropped.items())),
                "repeated": dict(result.repeated),
                "pool": dict(result.pools),
            },
        )

    with run.progress.stage(f"iteration {iteration}: building training rows", "rows"):
        run.folder.stage(f"iter{iteration}/build", make, after=[f"iter{k}/judge" for k in range(1, iteration + 1)])


def nothing_to_learn(judged: Sequence[Judged]) -> str | None:
    """Why a pool teaches nothing, or None if it does."""
    status = Counter(item.verdict.status for item in judged)
    if not judged:
        return "no candidate was sampled"
    if status["abstain"] == len(judged):
        return (
            f"none of {len(judged)} samples could be read. Look at iter1/judge/judged.jsonl: the prompt may not ask "
            "for a readable answer, or sampling.max_tokens may cut every text"
        )
    if not status["correct"]:
        return f"none of {len(judged)} samples is right, so there is no trace to learn from; start from a stronger base"
    if status["correct"] == len(judged):
        return f"all {len(judged)} samples are right, so there is nothing left to learn from these problems"
    return None


def train_stage(run: Run, iteration: int) -> None:
    """One LoRA SFT through LLaMA-Factory, its adapter checked to change an answer's logits."""
    config, settings = run.config, run.config.training

    def make(folder: Path) -> None:
        examples = [
            example_from_json(row) for row in read_jsonl(run.folder.path / f"iter{iteration}/build/examples.jsonl")
        ]
        start = policies.initial_adapter(settings.restart, run.adapter(iteration - 1))
        run.close_engine()
        if config.engine.kind == "scripted":
            from selftrain.rehearsal import rehearse

            result = rehearse(examples, folder / "work", run.store.path)
        else:
            result = _train(run, examples, start, folder / "work", iteration)
        (folder / "work" / "adapter").replace(folder / "adapter")
        write_json(folder / "result.json", result)

    start_stage = _weights_stage(iteration - 1) if settings.restart == "previous" else []
    run.folder.stage(f"iter{iteration}/train", make, after=[f"iter{iteration}/build", *start_stage])


def _train(run: Run, examples: Sequence[Example], start: Path | None, out: Path, iteration: int) -> dict[str, Any]:
    import os
    import sys

    from selftrain.adapter import verify_adapter
    from selftrain.training import train

    config, settings = run.config, run.config.training
    threads = settings.threads or max(1, (os.cpu_count() or 1) // settings.processes)
    with run.progress.stage(f"iteration {iteration}: training on {len(examples)} rows", "steps") as update:
        result = train(
            examples,
            settings=TrainingSettings(
                hyperparameters=settings.hyperparameters,
                overrides=settings.overrides,
                per_device_batch=settings.per_device_batch,
                processes=settings.processes,
                interpreter=settings.interpreter or Path(sys.executable),
                seed=seed_for(config.seed, "train", iteration) % 2**31,
                max_length=settings.max_length,
                max_dropped_share=settings.max_dropped_share,
                threads=threads,
            ),
            base_model=config.model.path,
            image_path=run.store.path,
            out=out,
            init_adapter=start,
            image_limits=run.store.limits,
            on_progress=lambda line: update(int(line.get("current_steps", 0)), int(line.get("total_steps", 0))),
        )
    probe = examples[0]
    if sum(file.stat().st_size for file in config.model.path.glob("*.safetensors")) < PROBE_LIMIT:
        verify_adapter(
            config.model.path, result.adapter, probe.prompt, run.store.path(probe.image) if probe.image else None
        )
    return {
        "steps": result.steps,
        "train_loss": result.train_loss,
        "rows": result.rows,
        "dropped": dict(result.dropped),
    }


def evaluate_stage(run: Run, iteration: int, split: str) -> None:
    """Every strategy on a split; `rows.jsonl` holds each problem's samples and verdicts, `split.json` the totals."""

    def make(folder: Path) -> None:
        sampler = run.sampler(iteration)
        with run.progress.stage(f"iteration {iteration}: evaluating on {split}", "samples") as sampler.on_progress:
            result = evaluate(
                run.splits[split], sampler, run.config.evaluation, prompt_set(run.config.prompts), iteration
            )
        write_jsonl(folder / "rows.jsonl", result.rows)
        write_json(folder / "split.json", result.split)
        scores = ", ".join(f"{k} {100 * s['accuracy']:.1f}" for k, s in result.split["strategies"].items())
        run.progress.say(f"  {split}: {scores}")

    run.folder.stage(f"iter{iteration}/{split}", make, after=_weights_stage(iteration))


# ---- metrics and report -------------------------------------------------------------------------------------------


def collect(run: Run, finished: Sequence[int], accepted: int, stopped: str | None) -> dict[str, Any]:
    """metrics.json from what the stages left: a pure function of the run folder, without clock readings."""
    config, path = run.config, run.folder.path
    iterations = []
    for k in finished:
        entry: dict[str, Any] = {"iteration": k, "accepted": k == accepted, "train": None, "eval": {}}
        if k:
            counts = read_json(path / f"iter{k}/judge/counts.json")
            built = read_json(path / f"iter{k}/build/counts.json")
            trained = read_json(path / f"iter{k}/train/result.json")
            entry["train"] = {
                **{name: counts[name] for name in ("sampled_problems", "candidates", "correct", "wrong", "abstain")},
                "truncated": counts["truncated"],
                "pool": built["pool"],
                "examples": built["examples"],
                "dropped": {**built["dropped"], **trained["dropped"]},
                "steps": trained["steps"],
                "train_loss": trained["train_loss"],
            }
        for split in ("dev", "test"):
            if run.folder.done(f"iter{k}/{split}"):
                entry["eval"][split] = read_json(path / f"iter{k}/{split}/split.json")
        iterations.append(entry)
    return {
        "run": {
            "name": config.name,
            "config_digest": config.digest(),
            "seed": config.seed,
            "model": str(config.model.path),
            "recipe": "+".join(kind for kind, weight in config.build.parts.model_dump().items() if weight),
            "n_samples": config.evaluation.n,
            "chance": _chance(run.splits["test"]),
            "judge": JUDGE_VERSION,
        },
        "stopped": stopped,
        "iterations": iterations,
        "accepted": accepted,
        "comparisons": comparisons(run, finished, accepted),
    }


def _chance(problems: Sequence[Problem]) -> float | None:
    if not all(problem.choices for problem in problems):
        return None
    return sum(1 / len(problem.choices) for problem in problems) / len(problems)


def comparisons(run: Run, finished: Sequence[int], accepted: int) -> list[dict[str, Any]]:
    """On dev each iteration against the one before and the base; on test the accepted one against the base."""
    pairs = [("dev", a, b, ("greedy",)) for b in finished if b for a in sorted({0, b - 1})]
    if accepted and run.folder.done(f"iter{accepted}/test"):
        pairs.append(("test", 0, accepted, ("greedy", "majority", "select")))
    results = []
    for split, a, b, strategies in pairs:
        before, after = (read_jsonl(run.folder.path / f"iter{k}/{split}/rows.jsonl") for k in (a, b))
        seed = seed_for(run.config.seed, "bootstrap", split, a, b)
        results += [compare(before, after, split, strategy, seed) for strategy in strategies]
    return results


def write_run_report(path: Path) -> list[Path]:
    """The report of a finished run folder, from what lies in it."""
    from selftrain.report import write_report
    from selftrain.report.traces import choose_traces

    metrics = read_json(path / "metrics.json")
    config = build_config(read_json(path / "config.json"), str(path / "config.json"))
    metrics["run"].update(timing(path))
    return write_report(metrics, path, choose_traces(path, metrics, config))


def timing(path: Path) -> dict[str, Any]:
    """Wall-clock seconds of all sessions on this folder, and how they divide."""
    stage_seconds: Counter[str] = Counter()
    kinds = {"sample": "sampling", "train": "training", "dev": "evaluation", "test": "evaluation"}
    for file in path.glob("iter*/*/timing.json"):
        kind = kinds.get(file.parent.name)
        if kind:
            stage_seconds[kind] += read_json(file)["seconds"]
    sessions = read_json(path / "sessions.json") if (path / "sessions.json").exists() else []
    # A session that was killed left no entry, but the stages that it finished did.
    wall = max(sum(session["seconds"] for session in sessions), sum(stage_seconds.values()))
    stage_seconds["controller"] = max(0.0, wall - sum(stage_seconds.values()))
    started = sessions[0]["started"] if sessions else None
    return {"started": started, "wall_seconds": wall, "stage_seconds": dict(stage_seconds)}


class _Clock:
    """Adds this session's wall time and memory to those before it, also when it ends in an error."""

    def __init__(self, path: Path, started: float) -> None:
        self._path, self._started = path, started

    def __enter__(self) -> None:
        # Read now, so that a damaged file is told at once and not after hours of work.
        self._sessions = read_json(self._path) if self._path.exists() else []

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import resource
        from datetime import UTC, datetime

        begun = datetime.fromtimestamp(self._started, UTC).isoformat(timespec="seconds")
        # Largest resident memory in MiB (ru_maxrss is in KiB on Linux): of this process, and of its largest child.
        peak, child = (
            resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
        )
        session = {
            "started": begun,
            "seconds": round(time.time() - self._started, 3),
            "peak_mib": peak,
            "peak_child_mib": child,
        }
        with contextlib.suppress(*([OSError] if error else [])):  # a full disk: the first error is the one to tell
            write_json(self._path, [*self._sessions, session])
