"""The settings of a run: one field per setting, checked when it is built, saved whole with the run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, StrictStr, field_validator, model_validator

from data_process.errors import UserError
from data_process.prompts import SelectFormat, ShowLimit, known_prompts
from selftrain.engine_settings import AnyEngine, Fraction, FreeToChange, HFSettings, Positive, Section
from selftrain.shipped import ShippedPath

TrainingDtype = Literal["auto", "base", "float32", "bfloat16"]


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names the key and what it may be."""


class DataConfig(Section):
    """Where the problems are."""

    source: Literal["minigeo", "jsonl"] = "minigeo"
    folder: Path = Path("data/minigeo")  # JSONL files and images; minigeo is generated here when it is missing
    train: str = "train.jsonl"
    dev: str = "dev.jsonl"
    test: str = "test.jsonl"
    # A second test split, read once at the end like test; nothing if the folder lacks it. Its problems are among the
    # inputs that a run is bound to.
    hard: Annotated[str | None, FreeToChange] = None
    seed: Annotated[int, Field(strict=True)] = 0  # of the generator (minigeo only)
    train_limit: Positive | None = None  # use the first so many problems
    dev_limit: Positive | None = None
    test_limit: Positive | None = None
    hard_limit: Annotated[Positive | None, FreeToChange] = None
    max_dropped_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of a split, before unusable images are an error
    # Training problems that stand in dev or test as well, in other words or another image file, or come from a data
    # set that test contains: refuse to start, leave them out, or do not look (data_process/decontamination/guard.py).
    leakage: Literal["error", "drop", "ignore"] = "error"
    # Families of data sets that may be on both sides. Free to change: a run folder decides once what it leaves out.
    allow_sources: Annotated[tuple[Literal["GeoQA", "Geometry3K", "GEOS"], ...], FreeToChange] = ()


class ModelConfig(Section):
    """The base model and the only place where pixel limits live."""

    path: ShippedPath = Field(default=Path("models/tiny-qwen2vl"), validate_default=True)
    min_pixels: Positive = 56 * 56
    max_pixels: Positive = 224 * 224

    @model_validator(mode="after")
    def _ordered(self) -> ModelConfig:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self


class DecodingConfig(Section):
    """How a completion is drawn; the defaults are R3V's but for the length of a text."""

    temperature: Annotated[float, Field(gt=0)] = 0.9
    top_p: Fraction = 0.95
    top_k: Annotated[int, Field(ge=0)] = 50
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    max_tokens: Positive = 200


class SamplingConfig(DecodingConfig):
    """How candidates for training are drawn (R3V: 3 per question)."""

    n: Positive = 3
    problems: Positive | None = None  # per iteration, a new seeded draw each time; None: all


class PartWeights(Section):
    """Weight of each part of the training mixture: below 1 a seeded share of its rows, above 1 repeated rows."""

    qa: Annotated[float, Field(ge=0)] = 1.0
    cot: Annotated[float, Field(ge=0)] = 1.0
    refine: Annotated[float, Field(ge=0)] = 1.0
    select: Annotated[float, Field(ge=0)] = 1.0
    reflect: Annotated[float, Field(ge=0)] = 0.0  # attempts, ignore strings and a right continuation in one trace


class BuildConfig(Section):
    """How judged candidates become training rows."""

    rule: Literal["a-orig", "a-q2"] = "a-orig"
    parts: PartWeights = PartWeights()
    min_chars: Annotated[int, Field(ge=0)] = 50  # a-q2 only: shorter texts are bare answers
    max_cot_per_problem: Positive = 1
    balance_positions: bool = True
    require_consistent: bool = False  # leave out right answers whose text contradicts itself, "47 is (C)" for (C) 45
    max_rows: Positive | None = None  # a seeded subset of the mixture, to compare recipes at the same cost
    # Of selections in the rationale form. Rows show 2 to `select_largest` candidates, each number equally often. A
    # prompt, at test time too, shows at most `select_shown` different texts, the most frequent ones.
    select_largest: Annotated[int, Field(ge=2)] = 5
    select_shown: Annotated[int, Field(ge=2)] = 5
    select_per_problem: Positive = 2


class RethinkConfig(Section):
    """What is sampled besides candidates: forced continuations for reflections, selections for the rationale form."""

    problems: Positive | None = None  # per iteration, a seeded draw of those that were sampled; None: all
    budget: str = "tiny"  # preset of selftrain/engines/budget.py: end of thinking, ignore strings
    max_ignores: Annotated[int, Field(ge=1, le=8)] = 4  # 1 to so many ends of thinking are replaced, equally often
    max_tokens: Positive = 256  # of a forced text, all attempts included


class TrainingConfig(Section):
    """LLaMA-Factory, run as a child process."""

    hyperparameters: ShippedPath = Field(default=Path("configs/llamafactory/tiny_lora.yaml"), validate_default=True)
    overrides: dict[str, Any] = Field(default_factory=dict)  # on top of that file, e.g. {"learning_rate": 1.0e-4}
    restart: Literal["base", "previous"] = "base"  # base: R3V, each iteration trains the original model
    interpreter: Path | None = None  # Python that has LLaMA-Factory; None: this one
    processes: Positive = 1  # torchrun ranks on each machine: one per GPU
    nodes: Positive = 1  # machines that train together
    # Words that start the command after them once on each node, e.g. [srun, --nodes=2, --ntasks-per-node=1]. The run
    # folder, the base model and the interpreter must lie where all nodes see them.
    launcher: Annotated[tuple[str, ...], FreeToChange] = ()
    # HOST:PORT of the first node as the others reach it; None: its host name, a free port
    master: Annotated[str | None, FreeToChange] = None
    threads: Annotated[Positive | None, FreeToChange] = None  # OpenMP threads per rank; None: cores / ranks
    # Of the base model's weights. "base": as they are stored; "auto": the same where this machine has matrix kernels
    # for it, float32 elsewhere. A run keeps the dtype that it started with: it is among the inputs of the run.
    dtype: Annotated[TrainingDtype, FreeToChange] = "auto"
    per_device_batch: Positive = 8
    max_length: Positive = 2048  # tokens, image tokens included; longer rows are dropped and counted
    max_dropped_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    # Optimizer steps between checkpoints, from which an interrupted training resumes; None: it starts again.
    save_steps: Annotated[Positive | None, FreeToChange] = None

    @model_validator(mode="after")
    def _startable(self) -> TrainingConfig:
        if self.nodes > 1 and not self.launcher:
            raise ValueError(
                f"nodes is {self.nodes}, but launcher does not say how to start a command on each of them, "
                f"e.g. [srun, --nodes={self.nodes}, --ntasks-per-node=1]"
            )
        host, _, port = (self.master or "localhost:0").rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"master must be HOST:PORT, not {self.master!r}")
        return self


class EvaluationConfig(DecodingConfig):
    """What is measured, on dev after every iteration and once on test."""

    n: Positive = 3  # samples per problem, which all strategies but greedy share
    # Names in the table of test_time/strategies.py, with numbers where they differ from these settings: majority@5,
    # tournament@10/5, greedy+1 (test_time/variants.py). `greedy` is always there: it chooses the accepted iteration.
    strategies: tuple[str, ...] = ("greedy", "mean", "majority", "select", "pass")
    select_max_tokens: Positive = 64
    test: Literal["accepted", "all", "none"] = "accepted"  # iterations measured on test, beside the base model
    # Measured on test alone, besides: for the figure of accuracy against tokens, and too dear for each iteration.
    test_strategies: tuple[str, ...] = ()
    budget: str = "tiny"  # preset of engines/budget.py that greedy+1 and the like keep to
    forced_max_tokens: Positive = 256  # of a forced text

    @field_validator("strategies")
    @classmethod
    def _greedy_is_measured(cls, strategies: tuple[str, ...]) -> tuple[str, ...]:
        if "greedy" not in strategies or len(set(strategies)) < len(strategies):
            raise ValueError("list every strategy once, greedy among them: it chooses the accepted iteration")
        return strategies

    @model_validator(mode="after")
    def _named_once(self) -> EvaluationConfig:
        if len(set(self.test_strategies)) < len(self.test_strategies) or {*self.strategies} & {*self.test_strategies}:
            raise ValueError("list every strategy once: test_strategies are measured on test besides `strategies`")
        return self

    def on(self, split: str) -> EvaluationConfig:
        """What is measured on a split, as `strategies`."""
        if split != "test" or not self.test_strategies:
            return self
        both = (*self.strategies, *self.test_strategies)
        return self.model_copy(update={"strategies": both, "test_strategies": ()})


# Settings of the evaluation that are younger than the run folders in use. At their defaults they are no part of a run's
# identity, so that those folders can be resumed.
_ADDED_TO_EVALUATION = ("strategies", "test_strategies", "budget", "forced_max_tokens")


class Config(Section):
    """Everything a run depends on."""

    name: Annotated[str, FreeToChange] = "run"
    seed: Annotated[int, Field(strict=True)] = 0
    iters: Annotated[int, Field(ge=1, le=999, strict=True), FreeToChange] = 3
    # Modules to import first, which register engines and strategies.
    plugins: Annotated[tuple[StrictStr, ...], FreeToChange] = ()
    output: Annotated[Path, FreeToChange] = Path("outputs/run")
    bank: Annotated[Path, FreeToChange] = Path("outputs/bank.sqlite")
    prompts: Annotated[str, AfterValidator(known_prompts)] = "r3v-qwen2vl"  # a set of wordings.toml, or a file
    # What a selection answers with, in training and at test time: a letter or value, R3V's form; which candidate and
    # why; or a whole derivation.
    select_format: SelectFormat = "answer"
    data: DataConfig = DataConfig()
    model: ModelConfig = Field(default_factory=ModelConfig)
    engine: AnyEngine = HFSettings()
    sampling: SamplingConfig = SamplingConfig()
    build: BuildConfig = BuildConfig()
    rethink: RethinkConfig = RethinkConfig()
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = EvaluationConfig()

    @model_validator(mode="after")
    def _derivations_fit(self) -> Config:
        """Arithmetic before anything is sampled: a selection in the rationale form must fit with its candidates."""
        if self.select_format != "rationale":
            return self
        shown, answer, longest = self.build.select_shown, self.evaluation.select_max_tokens, self.training.max_length
        if answer < self.evaluation.max_tokens and {"select"} & set(self.evaluation.strategies):
            raise ValueError(
                f"select_format rationale: a selection is a whole derivation, but evaluation.select_max_tokens is "
                f"{answer} and evaluation.max_tokens {self.evaluation.max_tokens}; raise the former"
            )
        needed = shown * self.sampling.max_tokens + answer
        if self.build.parts.select and needed > longest:
            raise ValueError(
                f"select_format rationale: build.select_shown {shown} candidates of up to {self.sampling.max_tokens} "
                f"tokens and an answer of {answer} are {needed} tokens, above training.max_length {longest}; lower "
                "build.select_shown or raise training.max_length"
            )
        return self

    @property
    def selects_on_policy(self) -> bool:
        """Whether the model's own selections on training problems become rows."""
        return self.select_format == "rationale" and self.build.parts.select > 0

    @property
    def show_limit(self) -> ShowLimit:
        """How much a selection in the rationale form shows."""
        return ShowLimit(texts=self.build.select_shown)

    def identity(self) -> dict[str, Any]:
        """The part of the configuration that results depend on, JSON-able."""
        values = _bound(self)
        # Settings that nothing uses are left out, so that run folders from before there were any can be resumed.
        if self.select_format == "answer":
            values.pop("select_format")
        if self.select_format != "rationale":
            for name in ("select_largest", "select_shown", "select_per_problem"):
                values["build"].pop(name)
        if not self.build.parts.reflect:
            values["build"]["parts"].pop("reflect")
        if not (self.build.parts.reflect or self.selects_on_policy):
            values.pop("rethink")
        defaults = _bound(EvaluationConfig())
        for name in _ADDED_TO_EVALUATION:
            if values["evaluation"][name] == defaults[name]:
                values["evaluation"].pop(name)
        values["engine"] = self.engine.identity()
        values["training"]["processes"] *= values["training"].pop("nodes")  # ranks, wherever they are
        return values

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]


def _bound(section: Section) -> dict[str, Any]:
    """The settings of a section and those in it, without the ones that are marked as free to change."""
    values = section.model_dump(mode="json", exclude=section.free())
    for name in values:
        if isinstance(inner := getattr(section, name), Section):
            values[name] = _bound(inner)
    return values
