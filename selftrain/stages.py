"""The stages of one iteration, each a function from records to records whose result lies in the run folder."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar, get_args

from data_process import prompts as wording
from data_process.building.census import Census
from data_process.building.mixture import build
from data_process.building.rationale import SetSizes
from data_process.building.second_thoughts import (
    SecondThoughts,
    selection_from_json,
    selection_to_json,
    trace_from_json,
    trace_to_json,
)
from data_process.images.store import ImageStore
from data_process.io import each_row, read_examples, write_jsonl
from data_process.judging import judge
from data_process.prompts import prompt_set
from data_process.schema import Candidate, Example, Judged, Kind, Problem, judged_from_json, to_json
from data_process.seeds import seed_for
from selftrain.config import Config
from selftrain.engines.base import EngineError, GivesPromptIds, Request, StatesFacts
from selftrain.engines.opening import open_by_settings
from selftrain.engines.parity import Reference, compare, expectations
from selftrain.files import write_json
from selftrain.progress import Progress, Update
from selftrain.runs.run_dir import RunDir, iteration_files
from selftrain.runs.splits import canonical_images
from selftrain.sampling.bank import Bank
from selftrain.sampling.engine_factory import Opener, engine_job, open_engine, sampling_params
from selftrain.sampling.sampler import Ask, Picture, Sampler
from selftrain.sampling.second_thoughts import candidate_of, draw_selections, draw_traces
from selftrain.sampling.weights import sampler_of
from selftrain.test_time.evaluate import evaluate
from selftrain.test_time.results import SplitResult
from selftrain.test_time.strategy_config import SelectionForm, trained_limit
from selftrain.training.checkpoints import discard
from selftrain.training.dry_run import settings_of

T = TypeVar("T")

FIRST_LOOK = 96  # problems of dev that the first number on screen is measured on

# Bytes of weights up to which a trained adapter is also tried on a prompt, on the CPU, before it is trusted. A larger
# model would take minutes; its adapter's numbers are checked in any case.
PROBE_LIMIT = 2 * 1024**3


class LoopStopped(Exception):
    """There is nothing to learn from; the message says why. What was measured so far is reported."""


@dataclass
class RunContext:
    """What the stages share: settings, folder, bank, data, and the engine of the weights in use."""

    config: Config
    folder: RunDir
    bank: Bank
    store: ImageStore
    splits: dict[str, list[Problem]]
    progress: Progress
    open_engine: Opener = open_engine
    _sampler: tuple[int, Sampler] | None = field(default=None, repr=False)
    picture: Callable[[str], Picture] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.picture = canonical_images(self.store)

    def __enter__(self) -> RunContext:
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
            everything = [problem for split in self.splits.values() for problem in split]
            adapter = self.adapter(iteration)
            self._sampler = (
                iteration,
                sampler_of(self.config, self.bank, self.picture, everything, adapter, iteration, self.open_engine),
            )
        return self._sampler[1]

    def selecting(self, iteration: int) -> SelectionForm:
        """How an iteration's weights select: with prompts no longer than those that they were trained on."""
        limit = self.config.show_limit
        if iteration and self.config.select_format == "rationale":
            limit = trained_limit(self.folder.path, limit, [iteration])
        return SelectionForm(self.config.select_format, limit)

    def close_engine(self) -> None:
        """Free the engine's memory; training needs it."""
        if self._sampler is not None:
            self._sampler[1].__exit__(None, None, None)
            self._sampler = None


def weights_stage(iteration: int) -> list[str]:
    """The stage that made an iteration's weights; none for the base model, which `inputs` watches."""
    return [f"iter{iteration}/train"] if iteration else []


def sample_stage(run: RunContext, iteration: int) -> None:
    """Candidates for this iteration, written by the weights of the one before."""
    settings = run.config.sampling

    def make(folder: Path) -> None:
        problems = problems_for(run.splits["train"], settings.problems, run.config.seed, iteration)
        prompts = prompt_set(run.config.prompts)
        asks = [Ask(p.id, wording.cot(p, prompts), wording.images(p)) for p in problems]
        params = sampling_params(settings)
        sampler = run.sampler(iteration - 1)
        with run.progress.stage(f"iteration {iteration}: sampling", "samples") as sampler.on_progress:
            found = sampler.stream(asks, params, settings.n)
        candidates = (
            candidate_of(problem_id, iteration - 1, index, completion)
            for problem_id, completions in found
            for index, completion in enumerate(completions)
        )
        write_jsonl(folder / "candidates.jsonl", map(to_json, candidates))

    run.folder.stage(f"iter{iteration}/sample", make, after=weights_stage(iteration - 1))


def judge_stage(run: RunContext, iteration: int) -> None:
    """A verdict for every candidate, and counts that add up."""

    def make(folder: Path) -> None:
        by_id = {problem.id: problem for problem in run.splits["train"]}
        census = Census()
        rules: Counter[str] = Counter()
        truncated = 0

        def judged() -> Iterator[Judged]:
            nonlocal truncated
            for row in each_row(run.folder.path / f"iter{iteration}/sample/candidates.jsonl"):
                c = Candidate(**row)
                item = Judged(c, judge(c.text, by_id[c.problem_id], truncated=c.finish == "length"))
                census.add(item)
                rules[item.verdict.rule] += 1
                truncated += c.finish == "length"
                yield item

        write_jsonl(folder / "judged.jsonl", map(to_json, judged()))
        census.check(by_id)
        counts = {
            "sampled_problems": len(census),
            "candidates": census.verdicts.total(),
            **{name: census.verdicts[name] for name in ("correct", "wrong", "abstain")},
            "truncated": truncated,
            "rules": dict(sorted(rules.items())),
            "pool": dict(census.pools(problem_id for problem_id in by_id if problem_id in census)),
        }
        write_json(folder / "counts.json", counts)

    run.folder.stage(f"iter{iteration}/judge", make, after=[f"iter{iteration}/sample"])


def pool(run: RunContext, iteration: int) -> Iterator[Judged]:
    """The judged candidates of all iterations up to this one (R3V accumulates), one at a time."""
    for k in range(1, iteration + 1):
        yield from map(judged_from_json, each_row(run.folder.path / f"iter{k}/judge/judged.jsonl"))


def rethinks(config: Config) -> bool:
    """Whether iterations sample second thoughts."""
    return bool(config.build.parts.reflect) or config.selects_on_policy


def rethink_stage(run: RunContext, iteration: int) -> None:
    """Forced continuations and selections on training problems, by the weights that wrote the candidates."""
    config = run.config
    if not rethinks(config):
        return

    def make(folder: Path) -> None:
        sampler, weights = run.sampler(iteration - 1), iteration - 1
        candidates: dict[str, list[Judged]] = {}
        for row in each_row(run.folder.path / f"iter{iteration}/judge/judged.jsonl"):
            item = judged_from_json(row)
            candidates.setdefault(item.candidate.problem_id, []).append(item)
        sampled = [problem for problem in run.splits["train"] if problem.id in candidates]
        problems = problems_for(sampled, config.rethink.problems, config.seed, iteration)
        with run.progress.stage(f"iteration {iteration}: second thoughts", "samples") as sampler.on_progress:
            traces = draw_traces(problems, sampler, config, weights) if config.build.parts.reflect else []
            chosen = draw_selections(problems, candidates, sampler, config, weights) if config.selects_on_policy else []
        write_jsonl(folder / "traces.jsonl", map(trace_to_json, traces))
        write_jsonl(folder / "selections.jsonl", map(selection_to_json, chosen))
        counts = {
            "traces": Counter(trace.judged.verdict.status for trace in traces),
            "attempts": Counter(len(trace.attempts) for trace in traces),
            "right_attempts": sum(sum(trace.right) for trace in traces),
            "selections": Counter(selection.judged.verdict.status for selection in chosen),
            "votes_right": sum(selection.vote_right for selection in chosen),
        }
        write_json(folder / "counts.json", counts)

    after = [f"iter{iteration}/judge", *weights_stage(iteration - 1)]
    run.folder.stage(f"iter{iteration}/rethink", make, after=after)


def second_thoughts_in(run: Path, iteration: int | None = None) -> SecondThoughts:
    """Those of a run's iterations up to this one; None is all of them."""
    folders = [folder for k, folder in iteration_files(run, "rethink") if iteration is None or k <= iteration]
    return SecondThoughts.of(
        (trace_from_json(row) for folder in folders for row in each_row(folder / "traces.jsonl")),
        (selection_from_json(row) for folder in folders for row in each_row(folder / "selections.jsonl")),
    )


def build_stage(run: RunContext, iteration: int) -> None:
    """Training rows from the pool. Raises LoopStopped if there is nothing to learn from."""
    settings = run.config.build

    def make(folder: Path) -> None:
        result = build(
            run.splits["train"],
            pool(run, iteration),
            sampled_only=True,
            rule=settings.rule,
            prompts=prompt_set(run.config.prompts),
            seed=seed_for(run.config.seed, "build", iteration),
            parts={kind: getattr(settings.parts, kind) for kind in get_args(Kind)},
            qa_problems=None if settings.parts.qa else (),  # one row a problem, and all of them would be dropped
            min_chars=settings.min_chars if settings.rule == "a-q2" else None,
            max_cot_per_problem=settings.max_cot_per_problem,
            balance_positions=settings.balance_positions,
            require_consistent=settings.require_consistent,
            select_format=run.config.select_format,
            sets=SetSizes(settings.select_largest, settings.select_per_problem, run.config.show_limit),
            thoughts=second_thoughts_in(run.folder.path, iteration),
        )
        if why := nothing_to_learn(result.verdicts):
            raise LoopStopped(why)
        examples = list(result.examples)
        dropped = Counter(result.dropped)
        if settings.max_rows is not None and len(examples) > settings.max_rows:
            dropped["row:above_max_rows"] += len(examples) - settings.max_rows
            examples = _drawn(examples, settings.max_rows, run.config.seed, "max_rows", iteration)
        if not examples:
            reasons = ", ".join(f"{k} {n}" for k, n in dropped.most_common(5))
            raise LoopStopped(f"no training row could be built: {reasons}")
        write_jsonl(folder / "examples.jsonl", map(to_json, examples))
        kinds = Counter(example.kind for example in examples)
        counts: dict[str, Any] = {"examples": kinds, "dropped": dropped}
        counts |= {"repeated": result.repeated, "pool": result.pools}
        if result.select_characters is not None:
            counts["select_characters"] = result.select_characters
        write_json(folder / "counts.json", counts)

    sources = ["judge", "rethink"] if rethinks(run.config) else ["judge"]
    after = [f"iter{k}/{stage}" for k in range(1, iteration + 1) for stage in sources]
    with run.progress.stage(f"iteration {iteration}: building training rows", "rows"):
        run.folder.stage(f"iter{iteration}/build", make, after=after)


def nothing_to_learn(status: Counter[str]) -> str | None:
    """Why a pool with these verdicts teaches nothing, or None if it does."""
    total = status.total()
    if not total:
        return "no candidate was sampled"
    if status["abstain"] == total:
        return (
            f"none of {total} samples could be read. Look at iter1/judge/judged.jsonl: the prompt may not ask "
            "for a readable answer, or sampling.max_tokens may truncate every text"
        )
    if not status["correct"]:
        return f"none of {total} samples is right, so there is no trace to learn from; start from a stronger base"
    if status["correct"] == total:
        return f"all {total} samples are right, so there is nothing left to learn from these problems"
    return None


def train_stage(run: RunContext, iteration: int) -> None:
    """One LoRA SFT through LLaMA-Factory, its adapter checked to change an answer's logits."""
    config, settings = run.config, run.config.training

    def make(folder: Path) -> None:
        examples = read_examples(run.folder.path / f"iter{iteration}/build/examples.jsonl")
        start = run.adapter(iteration - 1) if settings.restart == "previous" else None  # None: the base model (R3V)
        run.close_engine()
        if not config.engine.has_model:
            from selftrain.training.fake_trainer import rehearse

            result = rehearse(examples, folder / "work", run.store.path)
        else:
            kept = checkpoints if settings.save_steps else None
            seed, say, work = seed_for(config.seed, "train", iteration), run.progress.say, folder / "work"
            with run.progress.stage(f"iteration {iteration}: training on {len(examples)} rows", "steps") as update:
                result = tune(config, run.store, examples, start, work, seed, update, checkpoints=kept, say=say)
        (folder / "work" / "adapter").replace(folder / "adapter")
        write_json(folder / "result.json", result)

    # Beside the stage, because a half-done stage is cleared away.
    checkpoints = run.folder.path / f"iter{iteration}" / "train.checkpoints"
    start_stage = weights_stage(iteration - 1) if settings.restart == "previous" else []
    run.folder.stage(f"iter{iteration}/train", make, after=[f"iter{iteration}/build", *start_stage])
    discard(checkpoints)


def tune(
    config: Config,
    store: ImageStore,
    examples: Sequence[Example],
    start: Path | None,
    out: Path,
    seed: int,
    update: Update = lambda done, total: None,
    overrides: Mapping[str, Any] | None = None,
    *,
    checkpoints: Path | None = None,
    say: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """One LoRA SFT with a run's settings, its adapter in `out`/adapter, checked; returns steps, loss, rows, dropped.

    `start`: the adapter that is trained on, None for a new one. `overrides` go on top of the run's hyper-parameters.
    `checkpoints`: a folder that outlives `out`, from which an interrupted training resumes; None: it starts again.
    TrainingError or AdapterError when it fails, DataError when rows cannot be trained on.
    """
    from selftrain.training.adapter import verify_adapter
    from selftrain.training.llamafactory import train

    result = train(
        examples, settings=settings_of(config, seed, overrides), base_model=config.model.path, image_path=store.path,
        out=out, init_adapter=start, image_limits=store.limits, checkpoints=checkpoints, say=say,
        on_progress=lambda line: update(int(line.get("current_steps", 0)), int(line.get("total_steps", 0))),
    )  # fmt: skip
    probe = examples[0]
    if sum(file.stat().st_size for file in config.model.path.glob("*.safetensors")) < PROBE_LIMIT:
        verify_adapter(config.model.path, result.adapter, probe.prompt, [store.path(image) for image in probe.images])
    counts = {"steps": result.steps, "train_loss": result.train_loss, "rows": result.rows}
    masked = {"masked_tokens": result.masked} if result.masked else {}
    return {**counts, **masked, "dropped": dict(result.dropped)}


def first_look(run: RunContext) -> None:
    """Show the base model's greedy accuracy on a part of dev, before the whole of dev is measured.

    The part is a seeded draw. Its samples stay in the bank, where the evaluation of dev finds them.
    """
    if run.folder.done("iter0/dev"):
        return
    config = run.config
    problems = problems_for(run.splits["dev"], FIRST_LOOK, config.seed, 0)
    greedy = config.evaluation.model_copy(update={"strategies": ("greedy",)})
    sampler = run.sampler(0)
    with run.progress.stage("first look at the base model", "samples") as sampler.on_progress:
        found = evaluate(problems, sampler, greedy, prompt_set(config.prompts), 0, config.seed)
    score = found.split.strategies["greedy"]
    run.progress.say(
        f"  base model, greedy, on {len(problems)} of {len(run.splits['dev'])} dev problems: "
        f"{100 * score.accuracy:.1f}% [{100 * score.low:.1f}, {100 * score.high:.1f}]"
    )


def evaluate_stage(run: RunContext, iteration: int, split: str) -> None:
    """Every strategy on a split; `rows.jsonl` holds each problem's samples and verdicts, `split.json` the totals."""

    def make(folder: Path) -> None:
        sampler = run.sampler(iteration)
        with run.progress.stage(f"iteration {iteration}: evaluating on {split}", "samples") as sampler.on_progress:
            config = run.config
            prompts = prompt_set(config.prompts)
            settings, selection = config.evaluation.on(split), run.selecting(iteration)
            result = evaluate(run.splits[split], sampler, settings, prompts, iteration, config.seed, selection)
        write_jsonl(folder / "rows.jsonl", (row.to_json() for row in result.rows))
        write_json(folder / "split.json", result.split)
        scores = ", ".join(f"{k} {100 * s.accuracy:.1f}" for k, s in result.split.strategies.items())
        run.progress.say(f"  {split}: {scores}")

    run.folder.stage(f"iter{iteration}/{split}", make, after=weights_stage(iteration))


def parity_stage(run: RunContext, iteration: int) -> None:
    """Compare the engine with transformers on a few dev problems, if its settings ask for it.

    Raises EngineError if they differ further than rounding explains. The report is `parity.json` of the stage.
    """
    config, check = run.config, run.config.engine.parity_check
    if check is None:
        return
    adapter = run.adapter(iteration)

    def make(folder: Path) -> None:
        prompts = prompt_set(config.prompts)
        requests = [
            Request(p.id, wording.cot(p, prompts), tuple(run.picture(image).path for image in wording.images(p)), (0,))
            for p in run.splits["dev"][: check.problems]
        ]
        run.progress.say(f"  iteration {iteration}: comparing {config.engine.kind} with transformers")
        run.close_engine()  # one model on the device at a time
        with open_by_settings(check.reference, engine_job(config, adapter, iteration, ())) as reference:
            if not isinstance(reference, Reference):
                raise EngineError(f"{reference!r} cannot be compared with: it gives neither prompt ids nor runners-up")
            expected = expectations(reference, requests, config.evaluation.max_tokens)
        engine = run.sampler(iteration).engine
        if not (isinstance(engine, GivesPromptIds) and isinstance(engine, StatesFacts)):
            raise EngineError(f"{engine!r} cannot be compared with transformers: it does not give its prompt ids")
        report = compare(engine, expected, config.evaluation.max_tokens, engine.facts().dtype)
        write_json(folder / "parity.json", report)

    run.folder.stage(f"iter{iteration}/parity", make, after=weights_stage(iteration))


def problems_for(problems: Sequence[Problem], n: int | None, seed: int, iteration: int) -> list[Problem]:
    """The problems an iteration samples: all, or a seeded draw of `n`, in their own order."""
    return list(problems) if n is None or n >= len(problems) else _drawn(problems, n, seed, "problems", iteration)


def _drawn(items: Sequence[T], n: int, *seeds: int | str) -> list[T]:
    """`n` of the items, drawn with a seed, in their own order."""
    return [items[k] for k in sorted(random.Random(seed_for(*seeds)).sample(range(len(items)), n))]


def accept(dev: Mapping[int, SplitResult]) -> int:
    """The iteration with the best greedy accuracy on dev, the earliest of equals; 0 is the base model."""
    return max(dev, key=lambda k: (dev[k].strategies["greedy"].accuracy, -k))
