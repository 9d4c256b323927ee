"""The settings of a run: one field per setting, checked when it is built, saved whole with the run."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, StrictBool, StrictStr, field_validator, model_validator

from data_process.building.pool import choosing
from data_process.errors import UserError
from data_process.prompts import SelectFormat, ShowLimit, known_prompts
from selftrain.config.acceptance import AcceptanceConfig
from selftrain.config.building import BuildConfig
from selftrain.config.gpu import GPUConfig
from selftrain.config.outside import RationaliseConfig, TracesConfig, WarmupConfig
from selftrain.config.overrides import Overrides
from selftrain.config.preferences import DPOConfig, Restart, check_pairs
from selftrain.config.reward import RewardConfig
from selftrain.config.sampling import DecodingConfig, SamplingConfig, SectionOrNone
from selftrain.engine_settings import AnyEngine, Fraction, FreeToChange, HFSettings, Positive, Section
from selftrain.engine_settings.budget import BudgetSettings
from selftrain.shipped import ShippedPath

TrainingDtype = Literal["auto", "base", "float32", "bfloat16"]
Tracker = Literal["tensorboard", "wandb", "trackio"]


def trackers(value: Any) -> Any:
    """One name for a list of it; "none" for none."""
    names = [value] if isinstance(value, str) else value
    return [name for name in names if name != "none"] if isinstance(names, list | tuple) else value


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names the key and what it may be."""


class DataConfig(Section):
    """Where the problems are."""

    source: Literal["minigeo", "jsonl"] = "minigeo"  # minigeo: generated; jsonl: read from `folder`
    folder: Path = Path("data/minigeo")  # JSONL files and images; minigeo is generated here when it is missing
    train: str = "train.jsonl"  # file in `folder`
    dev: str = "dev.jsonl"  # chooses the accepted iteration
    test: str = "test.jsonl"  # read once
    # A second test split, read once at the end like test; nothing if the folder lacks it. Its problems are among the
    # inputs that a run is bound to.
    hard: Annotated[str | None, FreeToChange] = None
    seed: Annotated[int, Field(strict=True)] = 0  # of the generator (minigeo only)
    train_limit: Positive | None = None  # use the first so many problems
    dev_limit: Positive | None = None  # the same of dev
    test_limit: Positive | None = None  # the same of test
    hard_limit: Annotated[Positive | None, FreeToChange] = None
    max_dropped_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of a split, before unusable images are an error
    # Training problems that stand in dev or test as well, in other words or another image file, or come from a data
    # set that test contains: refuse to start, leave them out, or do not look (data_process/decontamination/guard.py).
    leakage: Literal["error", "drop", "ignore"] = "error"
    # Families of data sets that may be on both sides. Free to change: a run folder decides once what it leaves out.
    allow_sources: Annotated[tuple[Literal["GeoQA", "Geometry3K", "GEOS"], ...], FreeToChange] = ()


class ModelConfig(Section):
    """The base model and the only place where pixel limits live."""

    path: ShippedPath = Field(default=Path("models/tiny-qwen2vl"), validate_default=True)  # checkpoint folder
    min_pixels: Positive = 56 * 56  # smaller images are enlarged to so many
    max_pixels: Positive = 224 * 224  # larger ones are reduced

    @model_validator(mode="after")
    def _ordered(self) -> ModelConfig:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self


class RethinkConfig(Section):
    """What is sampled besides candidates: forced continuations for reflections, selections for the rationale form."""

    problems: Positive | None = None  # per iteration, a seeded draw of those that were sampled; None: all
    # End of thinking, ignore strings: a preset, or fields of selftrain/engine_settings/budget.py.
    budget: BudgetSettings = BudgetSettings(preset="tiny")
    max_ignores: Annotated[int, Field(ge=1, le=8)] = 4  # 1 to so many ends of thinking are replaced, equally often
    max_tokens: Positive = 256  # of a forced text, all attempts included

    @field_validator("budget")
    @classmethod
    def _nothing_twice(cls, budget: BudgetSettings) -> BudgetSettings:
        return budget.refuse({"num_ignore": "rethink.max_ignores"})


class TrainingConfig(Section):
    """LLaMA-Factory, run as a child process."""

    hyperparameters: ShippedPath = Field(default=Path("configs/llamafactory/tiny_lora.yaml"), validate_default=True)
    overrides: Overrides = Field(default_factory=dict)  # on top of that file, e.g. {"learning_rate": 1.0e-4}
    method: Literal["sft", "dpo"] = "sft"  # dpo: on preference pairs (build.pairs) in place of training rows
    dpo: DPOConfig = DPOConfig()
    # What is trained: an adapter, or all weights, which then pass from stage to stage as whole checkpoints.
    finetuning_type: Literal["lora", "full"] = "lora"
    freeze_vision_tower: bool = True  # with full only: LoRA never trains the vision tower or the projector
    freeze_multi_modal_projector: bool = True
    # Of a full fine-tuning, which iterations' weights stay on the disk. "accepted": those of the best iteration and of
    # the last one; "last": the best one's only until the run has ended.
    keep_weights: Annotated[Literal["last", "accepted", "all"], FreeToChange] = "all"
    # What an iteration trains: the original model (base, R3V), iteration 0's weights (warmup, ReST-EM) or the previous
    # iteration's: with a new optimizer (previous), or with theirs and one learning-rate schedule over all iterations
    # (continuous, M-STaR).
    restart: Restart = "base"
    interpreter: Path | None = None  # Python that has LLaMA-Factory; None: this one
    processes: Positive = 1  # torchrun ranks on each machine: one per GPU
    nodes: Positive = 1  # machines that train together
    # Words that start the command after them once on each node, e.g. [srun, --nodes=2, --ntasks-per-node=1]. The run
    # folder, the base model and the interpreter must lie where all nodes see them.
    launcher: Annotated[tuple[str, ...], FreeToChange] = ()
    # HOST:PORT of the first node as the others reach it; None: its host name, a free port
    master: Annotated[str | None, FreeToChange] = None
    # OpenMP threads per rank, no more than OMP_NUM_THREADS where that is set; None: cores / ranks
    threads: Annotated[Positive | None, FreeToChange] = None
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
        if self.finetuning_type == "lora":
            for name in ("freeze_vision_tower", "freeze_multi_modal_projector", "keep_weights"):
                if getattr(self, name) != type(self).model_fields[name].default:
                    raise ValueError(f"{name} is for finetuning_type full; leave it out, or set that")
        host, _, port = (self.master or "localhost:0").rpartition(":")
        if not host or not port.isdecimal():
            raise ValueError(f"master must be HOST:PORT, not {self.master!r}")
        if self.method == "sft" and self.dpo != DPOConfig():
            raise ValueError("dpo is for method dpo; leave it out, or set that")
        if self.method == "dpo" and self.full:
            raise ValueError("method dpo trains adapters alone; set finetuning_type to lora, or method to sft")
        return self

    def prefers(self, iteration: int) -> bool:
        """Whether an iteration is trained by DPO, on preference pairs."""
        return self.method == "dpo" and iteration > self.dpo.sft_iterations

    def starts_from(self, iteration: int) -> Restart:
        """The `restart` of an iteration's training."""
        return (self.dpo.restart or self.restart) if self.prefers(iteration) else self.restart

    @property
    def full(self) -> bool:
        """Whether all weights are trained."""
        return self.finetuning_type == "full"

    @property
    def result(self) -> str:
        """The folder of a training's stage with what was trained."""
        return "weights" if self.full else "adapter"


class EvaluationConfig(DecodingConfig):
    """What is measured, on dev after every iteration and once on test."""

    n: Positive = 3  # samples per problem, which all strategies but greedy share
    # Names in the table of test_time/strategies.py, with numbers where they differ from these settings: majority@5,
    # tournament@10/5, greedy+1 (test_time/variants.py). `greedy` is always there: it chooses the accepted iteration.
    strategies: tuple[str, ...] = ("greedy", "mean", "majority", "select", "pass")
    select_max_tokens: Positive = 64  # of an answer of a selector
    test: Literal["accepted", "all", "none"] = "accepted"  # iterations measured on test, beside the base model
    # Measured on test alone, besides: for the figure of accuracy against tokens, and too dear for each iteration.
    test_strategies: tuple[str, ...] = ()
    # That greedy+1 and the like keep to: a preset, or fields of selftrain/engine_settings/budget.py.
    budget: BudgetSettings = BudgetSettings(preset="tiny")
    forced_max_tokens: Positive = 256  # of a forced text

    @field_validator("strategies")
    @classmethod
    def _greedy_is_measured(cls, strategies: tuple[str, ...]) -> tuple[str, ...]:
        if "greedy" not in strategies or len(set(strategies)) < len(strategies):
            raise ValueError("list every strategy once, greedy among them: it chooses the accepted iteration")
        return strategies

    @field_validator("budget")
    @classmethod
    def _nothing_twice(cls, budget: BudgetSettings) -> BudgetSettings:
        return budget.refuse({"num_ignore": "the names of strategies (greedy+1 replaces one end of thinking)"})

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


# Settings that are younger than the run folders in use. At their defaults they are no part of a run's identity, so that
# those folders can be resumed.
_ADDED = {
    "evaluation": ("strategies", "test_strategies", "budget", "forced_max_tokens"),
    "sampling": ("disjoint", "allocation", "head_tail", "adaptive"),
    "build": ("pool",),
    "acceptance": ("rollback",),
}
_ADDED_TO_TRAINING = ("finetuning_type", "freeze_vision_tower", "freeze_multi_modal_projector")  # without full


class LabelsConfig(Section):
    """Where the answers of training problems come from; see selftrain/sampling/pseudo_labels.py."""

    source: Literal["gold", "vote"] = "gold"  # vote: problems without an answer get the vote of their candidates
    hide_gold: StrictBool = False  # with vote: no gold answer of train is used; how often the vote is right is reported
    min_share: Fraction = 0.5  # of the candidates' weight that the vote must have
    weight: Literal["equal", "consistent"] = "equal"  # consistent: candidates that contradict themselves do not count


class Config(Section):
    """Everything a run depends on."""

    name: Annotated[str, FreeToChange] = "run"  # in reports
    seed: Annotated[int, Field(strict=True)] = 0
    iters: Annotated[int, Field(ge=1, le=999, strict=True), FreeToChange] = 3  # of self-improvement
    # Modules to import first, which register engines and strategies.
    plugins: Annotated[tuple[StrictStr, ...], FreeToChange] = ()
    output: Annotated[Path, FreeToChange] = Path("outputs/run")  # run folder
    bank: Annotated[Path, FreeToChange] = Path("outputs/bank.sqlite")  # where every sample is stored
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
    traces: tuple[TracesConfig, ...] = ()
    warmup: Annotated[WarmupConfig | None, SectionOrNone] = None
    rationalise: Annotated[RationaliseConfig | None, SectionOrNone] = None
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = EvaluationConfig()
    acceptance: AcceptanceConfig = AcceptanceConfig()
    labels: LabelsConfig = LabelsConfig()
    # Trackers that get the loop's results and the trainer's loss. The run folder stays the record.
    report_to: Annotated[tuple[Tracker, ...], BeforeValidator(trackers), FreeToChange] = ()
    gpu: Annotated[GPUConfig | None, FreeToChange] = None  # what the run is meant for; an estimate above it is said
    reward: RewardConfig = RewardConfig()

    @model_validator(mode="after")
    def _collapse_can_be_seen(self) -> Config:
        if self.acceptance.max_pass_drop is not None and "pass" not in self.evaluation.strategies:
            raise ValueError("acceptance.max_pass_drop needs pass@N on dev: add pass to evaluation.strategies")
        return self

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
        selects = self.build.parts.select or (self.training.method == "dpo" and self.build.pairs.select)
        if selects and needed > longest:
            raise ValueError(
                f"select_format rationale: build.select_shown {shown} candidates of up to {self.sampling.max_tokens} "
                f"tokens and an answer of {answer} are {needed} tokens, above training.max_length {longest}; lower "
                "build.select_shown or raise training.max_length"
            )
        return self

    @model_validator(mode="after")
    def _optimizer_goes_on(self) -> Config:
        if self.training.method == "dpo" and "continuous" in (self.training.restart, self.training.dpo.restart):
            raise ValueError("training.restart continuous is for training.method sft; set restart: previous for dpo")
        return self

    @model_validator(mode="after")
    def _pairs_are_used(self) -> Config:
        check_pairs(self.build.pairs, self.training.method == "dpo")
        if self.training.method == "dpo" and (names := choosing(self.build.pool)):
            raise ValueError(
                f"build.pool {', '.join(names)} chooses right solutions for rows, but training.method dpo builds pairs "
                "of all; name all, newest or window@K"
            )
        return self

    @model_validator(mode="after")
    def _weights_are_kept(self) -> Config:
        if self.evaluation.test == "all" and self.training.keep_weights != "all":
            raise ValueError(
                "evaluation.test all measures every iteration's weights at the end, and training.keep_weights "
                f"{self.training.keep_weights} removes some before; set evaluation.test to accepted, or "
                "training.keep_weights to all"
            )
        return self

    @model_validator(mode="after")
    def _traces_are_used(self) -> Config:
        names = [one.name for one in self.traces]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ValueError(f"two files of traces are named {twice[0]!r}, so that their rows could not be told apart")
        for one in self.traces:
            if not one.weight and not (self.warmup and one.warmup_weight):
                raise ValueError(f"traces: the rows of {one.file} are used nowhere; set its weight, or warmup: true")
            if one.weight and self.training.prefers(1):
                raise ValueError(
                    f"traces: DPO from iteration 1 on mixes in no rows of {one.file}; set its weight to 0, or "
                    "training.dpo.sft_iterations above 0"
                )
        if self.warmup and not self.warmup.qa and not any(one.warmup_weight for one in self.traces):
            raise ValueError("warmup: there is nothing to train on; name files under `traces:`, or set warmup.qa")
        if self.rationalise and self.labels.source == "vote":
            raise ValueError(
                "rationalise shows the gold answer, and labels.source vote does without it; use one of them"
            )
        if self.rationalise and self.training.prefers(1):
            raise ValueError(
                "rationalise makes training rows, and DPO from iteration 1 on uses none; leave it out, or set "
                "training.dpo.sft_iterations above 0"
            )
        for name, restart in (("restart", self.training.restart), ("dpo.restart", self.training.dpo.restart)):
            if restart == "warmup" and self.warmup is None:
                raise ValueError(
                    f"training.{name} is warmup, but there is no warm-up; set warmup: true, or {name}: base"
                )
        return self

    @property
    def for_warmup(self) -> Config:
        """The same settings with the warm-up's training."""
        if self.warmup is None:
            raise ValueError("there is no warm-up")
        overrides = {**self.training.overrides, **self.warmup.overrides}
        chosen = {
            "hyperparameters": self.warmup.hyperparameters or self.training.hyperparameters,
            "overrides": overrides,
            "restart": "base",
            "method": "sft",
            "dpo": DPOConfig(),
        }
        return self.model_copy(update={"training": self.training.model_copy(update=chosen)})

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
        for name in ("traces", "warmup", "rationalise"):
            if not getattr(self, name):
                values.pop(name)
        for name in ("acceptance", "labels"):
            if getattr(self, name) == type(getattr(self, name))():
                values.pop(name)
        if self.sampling.allocation == "uniform":
            values["sampling"].pop("head_tail")
        for section, names in _ADDED.items():
            defaults = _bound(type(getattr(self, section))())
            for name in names:
                if name in values.get(section, {}) and values[section][name] == defaults[name]:
                    values[section].pop(name)
        if self.sampling.head_tail.guide == "refine" and "head_tail" in values["sampling"]:
            for name in ("guide", "prefix_share"):
                values["sampling"]["head_tail"].pop(name)
        if self.training.restart == "continuous":
            values["iters"] = self.iters  # the schedule ends with the last of them
        if self.training.method == "sft":
            values["build"].pop("pairs")
            values["training"].pop("method")
            values["training"].pop("dpo")
        if not self.training.full:
            for name in _ADDED_TO_TRAINING:
                values["training"].pop(name)
        values["engine"] = self.engine.identity()
        values.pop("reward")  # a run is bound to what the model is made of, which is among its inputs
        values["training"]["processes"] *= values["training"].pop("nodes")  # ranks, wherever they are
        return values

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]


def _bound(section: Section) -> dict[str, Any]:
    """The settings of a section and those in it, without the ones that are marked as free to change."""
    values = section.model_dump(mode="json", exclude=section.free())
    for name in values:
        if isinstance(inner := getattr(section, name), Section) and isinstance(values[name], dict):
            values[name] = _bound(inner)
    return values
