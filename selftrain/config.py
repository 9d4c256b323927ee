"""Configuration: one field per setting, checked when it is built, saved whole with the run.

Layers, later ones win: defaults here, `extends:` of a YAML file, the YAML file, `--set key=value`, named flags.
An unknown key is an error that suggests the nearest name. Paths in a file are relative to the working directory.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from data_process.errors import UserError
from selftrain.engines.base import SamplingParams

Positive = Annotated[int, Field(ge=1, strict=True)]
Fraction = Annotated[float, Field(gt=0, le=1)]
TrainingDtype = Literal["auto", "base", "float32", "bfloat16"]


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names the key and what it may be."""


class Section(BaseModel):
    # NaN would also differ from itself when a run folder compares its settings with the ones it was started with.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


AnySection = TypeVar("AnySection", bound=Section)


class DataConfig(Section):
    """Where the problems are."""

    source: Literal["minigeo", "jsonl"] = "minigeo"
    folder: Path = Path("data/minigeo")  # JSONL files and pictures; minigeo is generated here when it is missing
    train: str = "train.jsonl"
    dev: str = "dev.jsonl"
    test: str = "test.jsonl"
    seed: Annotated[int, Field(strict=True)] = 0  # of the generator (minigeo only)
    train_limit: Positive | None = None  # use the first so many problems
    dev_limit: Positive | None = None
    test_limit: Positive | None = None
    max_dropped_share: Annotated[float, Field(ge=0, le=1)] = 0.05  # of a split, before unusable pictures are an error
    # Training problems that stand in dev or test as well, in other words or another picture file, or come from a data
    # set that test contains: refuse to start, leave them out, or do not look (data_process/decontamination/guard.py).
    leakage: Literal["error", "drop", "ignore"] = "error"


class ModelConfig(Section):
    """The base model and the only place where pixel limits live."""

    path: Path = Path("models/tiny-qwen2vl")
    min_pixels: Positive = 56 * 56
    max_pixels: Positive = 224 * 224

    @model_validator(mode="after")
    def _ordered(self) -> ModelConfig:
        if self.min_pixels > self.max_pixels:
            raise ValueError(f"min_pixels {self.min_pixels} is above max_pixels {self.max_pixels}")
        return self


# Settings of an engine that change how fast it answers, or where, but not what.
_SPEED_ONLY = (
    "threads",
    "interpreter",
    "memory_share",
    "tensor_parallel",
    "keep_open",
    "parity",
    "ray_address",
    "ray_actors",
    "ray_cpus",
    "ray_gpus",
    "url",
    "api_key_env",
    "max_concurrency",
    "timeout_s",
    "retries",
)


class EngineConfig(Section):
    """Who answers prompts."""

    kind: Literal["hf", "vllm", "server", "ray", "scripted"] = "hf"
    batch_size: Positive = 192  # rows decoded together
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    threads: Positive | None = None  # None: one per core
    # vllm only: it runs in a process of its own
    interpreter: Path | None = None  # Python that has vLLM; None: this one
    memory_share: Annotated[float, Field(gt=0, le=1)] = 0.9  # of the GPU's memory, for weights and cache
    tensor_parallel: Positive = 1  # GPUs that share one model
    max_model_len: Positive | None = None  # tokens, prompt and answer together; None: what the model's config says
    keep_open: bool = True  # asleep between iterations, new weights instead of a new start; False: closed each time
    vllm_options: dict[str, Any] = {}  # further arguments of vLLM's EngineArgs, e.g. {"max_num_seqs": 512}
    # Before an iteration trusts the vllm engine, so many problems are answered by transformers too; 0: none.
    parity: Annotated[int, Field(ge=0, strict=True)] = 8
    # ray only: copies of another engine as actors, on one machine or a cluster
    ray_engine: Literal["hf", "vllm"] = "hf"  # what each actor runs, with the settings above
    # host:port of a running cluster; "auto": the one this machine belongs to; None: what RAY_ADDRESS says, else a Ray
    # of its own on this machine, which ends with the run.
    ray_address: str | None = None
    ray_actors: Positive | None = None  # None: one per GPU of the cluster, or one per core without GPUs
    ray_cpus: Annotated[float, Field(gt=0)] = 1.0  # that an actor takes
    ray_gpus: Annotated[float, Field(ge=0)] | None = None  # None: tensor_parallel where the cluster has GPUs, else 0
    # server only: an OpenAI-compatible one, such as `python -m selftrain serve` starts
    url: str = "http://127.0.0.1:8000/v1"
    model_name: str | None = None  # as the server calls it; None: the name of model.path's folder
    dialect: Literal["auto", "vllm", "sglang", "llamacpp", "openai"] = "auto"  # what the server understands
    api_key_env: str | None = None  # environment variable that holds the key; keys stand nowhere else
    max_concurrency: Positive = 32  # calls under way
    timeout_s: Annotated[float, Field(gt=0)] = 600.0  # seconds one call may take
    retries: Annotated[int, Field(ge=0)] = 5  # after faults of the moment
    logprobs: bool = True  # False for servers that give none; likelihood-weighted votes then have no weights
    script_accuracy: Annotated[float, Field(ge=0, le=1)] = 0.5  # scripted only: chance of a right answer, base model
    script_gain: float = 0.1  # scripted only: added to that chance by each trained iteration
    script_abstain: Annotated[float, Field(ge=0, le=1)] = 0.02  # scripted only: chance of an unreadable answer


class DecodingConfig(Section):
    """How a completion is drawn; the defaults are R3V's but for the length of a text."""

    temperature: Annotated[float, Field(gt=0)] = 0.9
    top_p: Fraction = 0.95
    top_k: Annotated[int, Field(ge=0)] = 50
    repetition_penalty: Annotated[float, Field(gt=0)] = 1.0
    max_tokens: Positive = 200

    def params(self) -> SamplingParams:
        """What the engine is told."""
        return SamplingParams(
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            repetition_penalty=self.repetition_penalty,
            max_tokens=self.max_tokens,
        )


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


class BuildConfig(Section):
    """How judged candidates become training rows."""

    rule: Literal["a-orig", "a-q2"] = "a-orig"
    parts: PartWeights = PartWeights()
    min_chars: Annotated[int, Field(ge=0)] = 50  # a-q2 only: shorter texts are bare answers
    max_cot_per_problem: Positive = 1
    balance_positions: bool = True
    require_consistent: bool = False  # leave out right answers whose text contradicts itself, "47 is (C)" for (C) 45
    max_rows: Positive | None = None  # a seeded subset of the mixture, to compare recipes at the same cost


class TrainingConfig(Section):
    """LLaMA-Factory, run as a child process."""

    hyperparameters: Path = Path("configs/llamafactory/tiny_lora.yaml")
    overrides: dict[str, Any] = {}  # on top of that file, e.g. {"learning_rate": 1.0e-4}
    restart: Literal["base", "previous"] = "base"  # base: R3V, each iteration trains the original model
    interpreter: Path | None = None  # Python that has LLaMA-Factory; None: this one
    processes: Positive = 1  # torchrun ranks on each machine: one per GPU
    nodes: Positive = 1  # machines that train together
    # Words that start the command after them once on each node, e.g. [srun, --nodes=2, --ntasks-per-node=1]. The run
    # folder, the base model and the interpreter must lie where all nodes see them.
    launcher: tuple[str, ...] = ()
    master: str | None = None  # HOST:PORT of the first node as the others reach it; None: its host name, a free port
    threads: Positive | None = None  # OpenMP threads per rank; None: cores / ranks
    # Of the base model's weights. "base": as they are stored; "auto": the same where this machine has matrix kernels
    # for it, float32 elsewhere. A run keeps the dtype that it started with.
    dtype: TrainingDtype = "auto"
    per_device_batch: Positive = 8
    max_length: Positive = 2048  # tokens, image tokens included; longer rows are dropped and counted
    max_dropped_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    # Optimizer steps between checkpoints, from which an interrupted training resumes; None: it starts again.
    save_steps: Positive | None = None

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

    n: Positive = 3  # samples per question for mean, majority, self-select and pass (oracle)
    select_max_tokens: Positive = 64
    test: Literal["accepted", "all", "none"] = "accepted"  # iterations measured on test, beside the base model


class Config(Section):
    """Everything a run depends on."""

    name: str = "run"
    seed: Annotated[int, Field(strict=True)] = 0
    iters: Annotated[int, Field(ge=1, le=999, strict=True)] = 3
    output: Path = Path("outputs/run")
    bank: Path = Path("outputs/bank.sqlite")
    prompts: Literal["r3v-qwen2vl", "short", "mathvista"] = "r3v-qwen2vl"
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    engine: EngineConfig = EngineConfig()
    sampling: SamplingConfig = SamplingConfig()
    build: BuildConfig = BuildConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()

    def identity(self) -> dict[str, Any]:
        """The part of the configuration that results depend on, JSON-able."""
        values = self.model_dump(mode="json")
        # Where results go, how many iterations there are and how fast they are computed changes no sample.
        for key in ("output", "bank", "iters", "name"):
            values.pop(key)
        for key in _SPEED_ONLY:
            values["engine"].pop(key)
        # "auto" depends on the machine, so the dtype that is used is among the run's inputs (runs/splits.py).
        for key in ("threads", "launcher", "master", "save_steps", "dtype"):
            values["training"].pop(key)
        values["training"]["processes"] *= values["training"].pop("nodes")  # ranks, wherever they are
        return values

    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.identity(), sort_keys=True).encode()).hexdigest()[:16]


def _known(model: type[BaseModel], path: Sequence[str]) -> list[str]:
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return []
        model = field.annotation
    return list(model.model_fields)


def _explain(error: ValidationError, origin: str, model: type[BaseModel]) -> ConfigError:
    lines = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        key = ".".join(path) or "configuration"
        if item["type"] == "extra_forbidden":
            names = _known(model, path[:-1])
            near = difflib.get_close_matches(path[-1], names, n=1, cutoff=0.5)
            hint = f"did you mean {'.'.join([*path[:-1], near[0]])!r}?" if near else f"known: {', '.join(names)}"
            lines.append(f"unknown key {key!r}; {hint}")
        else:
            lines.append(f"{key}: {item['msg'].removeprefix('Value error, ')} (got {item['input']!r})")
    return ConfigError(f"{origin}: " + "; ".join(lines))


def _merge(base: Mapping[str, Any], top: Mapping[str, Any], *, into_overrides: bool = False) -> dict[str, Any]:
    """`top` over `base`, section by section; `training.overrides` is one value, unless a key inside it is meant."""
    merged = dict(base)
    for key, value in top.items():
        whole = key == "overrides" and not into_overrides
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping) and not whole:
            merged[key] = _merge(merged[key], value, into_overrides=into_overrides)
        else:
            merged[key] = dict(value) if isinstance(value, Mapping) else value
    return merged


class _Loader(yaml.SafeLoader):
    """YAML in which a key that stands twice in one mapping is an error: PyYAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if key.value in seen and key.tag != "tag:yaml.org,2002:merge":
                raise yaml.constructor.ConstructorError(None, None, f"key {key.value!r} stands twice", key.start_mark)
            if isinstance(key.value, str):
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_yaml(path: Path, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping with its `extends:` (a path relative to the file) resolved."""
    path = path.resolve()
    if path in _seen:
        raise ConfigError(f"{path}: extends itself, by way of {' -> '.join(p.name for p in _seen)}")
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except FileNotFoundError:
        raise ConfigError(f"there is no configuration file {path}; those that ship are in configs/") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path} cannot be read as YAML: {error}") from error
    values = {} if values is None else values
    if not isinstance(values, dict):
        raise ConfigError(f"{path} holds a {type(values).__name__}, not settings of the form `key: value`")
    parent = values.pop("extends", None)
    if parent is not None and (not isinstance(parent, str) or not parent):
        raise ConfigError(f"{path}: extends must be the path of one YAML file, not {parent!r}")
    return _merge(read_yaml(path.parent / parent, (*_seen, path)), values) if parent else values


def parse_override(text: str) -> tuple[list[str], Any]:
    """`a.b=value` with the value read as YAML: ("a.b=3") -> (["a", "b"], 3)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write it as key=value, for instance --set sampling.n=4")
    try:
        return key.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not YAML: {error}") from error


def set_value(values: Mapping[str, Any], keys: Sequence[str], value: Any) -> dict[str, Any]:
    """`values` with one setting replaced, by its path: ["sampling", "n"]."""
    nested: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        nested = {key: nested}
    return _merge(values, nested, into_overrides="overrides" in keys[:-1])


def load_config(
    path: Path | None = None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Config:
    """Build the configuration from its layers; raises ConfigError."""
    values = read_yaml(path) if path else {}
    for text in overrides:
        values = set_value(values, *parse_override(text))
    values = _merge(values, {k: v for k, v in (flags or {}).items() if v is not None})
    return build_config(values, str(path) if path else "settings")


def build_config(values: Any, origin: str) -> Config:
    """Check the settings of a run; raises ConfigError, whose message starts with `origin`."""
    return build_section(Config, values, origin)


def build_section(model: type[AnySection], values: Any, origin: str) -> AnySection:
    """Check the settings of any section; raises ConfigError, whose message starts with `origin`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, origin, model) from None


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Lines such as "sampling.n: 3 -> 4" for every value that differs between two nested mappings."""
    lines = []
    for key in sorted({*old, *new}):
        a, b = old.get(key), new.get(key)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            lines += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            lines.append(f"{prefix}{key}: {a!r} -> {b!r}")
    return lines
