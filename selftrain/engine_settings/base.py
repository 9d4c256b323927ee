"""What every kind of engine has, and the registry of kinds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, SerializeAsAny, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from data_process.prompts import SelectFormat
from data_process.schema import Problem

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
