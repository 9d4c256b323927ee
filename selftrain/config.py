"""Configuration: one field per setting, checked when it is built, saved whole with the run.

Layers, later ones win: defaults here, `extends:` of a YAML file, the YAML file, `--set key=value`, named flags.
An unknown key is an error that suggests the nearest name. Paths in a file are relative to the working directory.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import yaml
from pydantic import AfterValidator, BaseModel, Field, StrictStr, ValidationError, field_validator, model_validator

from data_process.errors import UserError
from data_process.prompts import known_prompts
from selftrain.engine_settings import AnyEngine, EngineSettings, Fraction, FreeToChange, HFSettings, Positive, Section
from selftrain.engine_settings.layers import stack_engine
from selftrain.plugins import load_plugins
from selftrain.shipped import ShippedPath, find_config

TrainingDtype = Literal["auto", "base", "float32", "bfloat16"]


class ConfigError(UserError, ValueError):
    """A setting is unknown, of the wrong type or out of range; the message names the key and what it may be."""


AnySection = TypeVar("AnySection", bound=Section)


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
    # Names in the table of test_time/strategies.py. `greedy` is always among them: it chooses the accepted iteration.
    strategies: tuple[str, ...] = ("greedy", "mean", "majority", "select", "pass")
    select_max_tokens: Positive = 64
    test: Literal["accepted", "all", "none"] = "accepted"  # iterations measured on test, beside the base model

    @field_validator("strategies")
    @classmethod
    def _greedy_is_measured(cls, strategies: tuple[str, ...]) -> tuple[str, ...]:
        if "greedy" not in strategies or len(set(strategies)) < len(strategies):
            raise ValueError("list every strategy once, greedy among them: it chooses the accepted iteration")
        return strategies


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
    data: DataConfig = DataConfig()
    model: ModelConfig = Field(default_factory=ModelConfig)
    engine: AnyEngine = HFSettings()
    sampling: SamplingConfig = SamplingConfig()
    build: BuildConfig = BuildConfig()
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    evaluation: EvaluationConfig = EvaluationConfig()

    def identity(self) -> dict[str, Any]:
        """The part of the configuration that results depend on, JSON-able."""
        values = _bound(self)
        # Left out where it is the default, so that run folders from before this setting can be resumed.
        if self.evaluation.strategies == EvaluationConfig.model_fields["strategies"].default:
            values["evaluation"].pop("strategies")
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


def _section_at(model: type[BaseModel], values: Any, path: Sequence[str]) -> type[BaseModel] | None:
    """The section at a path, None if there is none; which one an engine's is depends on its `kind` in `values`."""
    for part in path:
        field = model.model_fields.get(part)
        if field is None or not (isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)):
            return None
        values = values.get(part) if isinstance(values, Mapping) else None
        model = field.annotation
        if issubclass(model, EngineSettings):
            kind = values.get("kind", HFSettings().kind) if isinstance(values, Mapping) else None
            model = EngineSettings.of_kind(kind) or model
    return model


def _unknown_key(model: type[BaseModel], values: Any, path: Sequence[str]) -> str:
    """What to say of a key that a section does not have."""
    *above, key = path
    section = _section_at(model, values, above)
    names = list(section.model_fields) if section else []
    unknown = f"unknown key {'.'.join(path)!r}"
    if section is not None and issubclass(section, EngineSettings) and (others := section.owners(key)):
        where = f"{'.'.join(above)}.kind"
        kind = section.model_fields["kind"].default
        return f"{unknown}: it belongs to {where} {' and '.join(others)}, and {where} is {kind}; leave it out"
    if near := difflib.get_close_matches(key, names, n=1, cutoff=0.5):
        return f"{unknown}; did you mean {'.'.join([*above, near[0]])!r}?"
    return f"{unknown}; known: {', '.join(names)}"


def _explain(error: ValidationError, origin: str, model: type[BaseModel], values: Any) -> ConfigError:
    lines = []
    for item in error.errors():
        path = [str(part) for part in item["loc"]]
        if item["type"] == "extra_forbidden":
            lines.append(_unknown_key(model, values, path))
        else:
            key = ".".join(path) or "configuration"
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


def _stack(
    base: Mapping[str, Any],
    top: Mapping[str, Any],
    notes: list[str],
    *,
    into_overrides: bool = False,
    tell_dropped: bool = True,
) -> dict[str, Any]:
    """`_merge` of whole configurations; `engine:` has rules of its own, see `stack_engine`.

    Imports the plugins of `top` first, which may register the kind of its engine. Raises PluginError.
    """
    plugins = top.get("plugins")
    load_plugins([name for name in plugins if isinstance(name, str)] if isinstance(plugins, list | tuple) else [])
    merged = _merge(base, top, into_overrides=into_overrides)
    layer, below = top.get("engine"), base.get("engine")
    if isinstance(layer, Mapping):
        below = below if isinstance(below, Mapping) else {}
        merged["engine"] = stack_engine(below, layer, notes, tell_dropped=tell_dropped)
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


def read_yaml(path: Path, notes: list[str] | None = None, _seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML mapping with its `extends:` (a path relative to the file) resolved.

    `notes` takes advice about settings in the form of earlier versions.
    """
    notes = [] if notes is None else notes
    path = find_config(path).resolve()
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
    below = read_yaml(path.parent / parent, notes, (*_seen, path)) if parent else {}
    return _stack(below, values, notes, tell_dropped=False)


def parse_override(text: str) -> tuple[list[str], Any]:
    """`a.b=value` with the value read as YAML: ("a.b=3") -> (["a", "b"], 3)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text!r}: write it as key=value, for instance --set sampling.n=4")
    try:
        return key.strip().split("."), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(f"--set {text!r}: the value is not YAML: {error}") from error


def set_value(
    values: Mapping[str, Any], keys: Sequence[str], value: Any, notes: list[str] | None = None
) -> dict[str, Any]:
    """`values` with one setting replaced, by its path: ["sampling", "n"]. `notes` as in `read_yaml`."""
    nested: dict[str, Any] = {keys[-1]: value}
    for key in reversed(keys[:-1]):
        nested = {key: nested}
    return _stack(values, nested, [] if notes is None else notes, into_overrides="overrides" in keys[:-1])


def load_config(
    path: Path | None = None, overrides: Sequence[str] = (), flags: Mapping[str, Any] | None = None
) -> Config:
    """Build the configuration from its layers; raises ConfigError.

    The first overrides of `plugins` and `engine.kind` come before the others, wherever they stand. Settings in the form
    of earlier versions are read, with one line of advice on standard error.
    """
    notes: list[str] = []
    values = read_yaml(path, notes) if path else {}
    parsed = [parse_override(text) for text in overrides]
    for first in (["engine", "kind"], ["plugins"]):
        places = [place for place, (keys, _) in enumerate(parsed) if keys == first]
        if places:
            parsed.insert(0, parsed.pop(places[0]))
    for keys, value in parsed:
        values = set_value(values, keys, value, notes)
    values = _merge(values, {k: v for k, v in (flags or {}).items() if v is not None})
    origin = str(path) if path else "settings"
    if notes:
        print(f"note: {origin}: {'; '.join(dict.fromkeys(notes))}", file=sys.stderr)
    return build_section(Config, values, origin)


def build_config(values: Any, origin: str) -> Config:
    """Check the settings of a run, those that an earlier version wrote too; raises ConfigError, naming `origin`."""
    return build_section(Config, _stack({}, values, []) if isinstance(values, Mapping) else values, origin)


def build_section(model: type[AnySection], values: Any, origin: str) -> AnySection:
    """Check the settings of any section; raises ConfigError, whose message starts with `origin`."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, origin, model, values) from None


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
