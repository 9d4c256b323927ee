"""What a run asks of a model: calls with their lengths, and training rows. Upper limits, from the settings alone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from selftrain.config import Config
from selftrain.families import FAMILIES

TEXT_TOKENS = 256  # assumed of a question with its options, the instruction and the template
DIRECT_TOKENS = 16  # of a direct answer
SHOWN = 3  # candidates that a selection in the answer form shows
ANSWER_SHARE = 0.5  # assumed mean length of an answer, of what its limit allows
UNKNOWN_PROBLEMS = 1000  # assumed where the data are not there


@dataclass(frozen=True)
class Call:
    """One kind of request."""

    name: str
    problems: int  # that it is made for, in one go
    samples: int  # of each prompt
    prompt: int  # tokens at the most
    new: int  # tokens at the most
    answers: int = 0  # tokens of the prompt that are earlier answers

    @property
    def longest(self) -> int:
        return self.prompt + self.new

    @property
    def usual_prompt(self) -> float:
        return self.prompt - (1 - ANSWER_SHARE) * self.answers


@dataclass(frozen=True)
class Rows:
    """Training rows of one kind in an iteration."""

    kind: str
    number: float
    longest: int  # tokens
    usual: float


@dataclass(frozen=True)
class Workload:
    """One run. Every number is an upper limit but `usual` lengths."""

    image: int  # tokens
    train: int  # problems
    known: bool  # whether the data were there to be counted
    sampling: tuple[Call, ...]  # in an iteration
    evaluation: tuple[Call, ...]  # of one set of weights on dev
    test: tuple[Call, ...]
    rows: tuple[Rows, ...]

    @property
    def calls(self) -> tuple[Call, ...]:
        return (*self.sampling, *self.evaluation, *self.test)


def image_tokens(config: Config, model_type: str) -> int:
    """Tokens of the largest image."""
    return config.model.max_pixels // FAMILIES[model_type].token_side ** 2


def workload(config: Config, model_type: str) -> Workload:
    """What a run of this configuration with a model of this family asks for."""
    image = image_tokens(config, model_type)
    counted = {split: _problems(config, split) for split in ("train", "dev", "test")}
    known = counted["train"] is not None
    train = counted["train"] or UNKNOWN_PROBLEMS
    dev, test = (counted[split] or (0 if known else UNKNOWN_PROBLEMS // 10) for split in ("dev", "test"))
    drawn = min(train, config.sampling.problems or train)
    return Workload(
        image=image,
        train=train,
        known=known,
        sampling=tuple(_sampling(config, image + TEXT_TOKENS, drawn)),
        evaluation=tuple(_evaluation(config, image + TEXT_TOKENS, dev, "dev")),
        test=tuple(_evaluation(config, image + TEXT_TOKENS, test, "test")) if config.evaluation.test != "none" else (),
        rows=tuple(_rows(config, image + TEXT_TOKENS, train)),
    )


def longest_row(config: Config, work: Workload, given: bool = False) -> int:
    """Tokens of the longest training row; of given rows or outside traces, `training.max_length`."""
    most = config.training.max_length
    if given or config.traces:
        return most
    return min(most, max((rows.longest for rows in work.rows), default=most))


def _problems(config: Config, split: str) -> int | None:
    """How many problems of a split are used; None if its file is not there."""
    path = config.data.folder / str(getattr(config.data, split))
    limit: int | None = getattr(config.data, f"{split}_limit")
    if not path.is_file():
        return limit
    found = _lines(path)
    return min(found, limit) if limit else found


def _lines(path: Path) -> int:
    with path.open("rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(2**20), b""))


def _sampling(config: Config, prompt: int, problems: int) -> Iterator[Call]:
    yield Call("candidates", problems, config.sampling.n, prompt, config.sampling.max_tokens)
    again = min(problems, config.rethink.problems or problems)
    if config.build.parts.reflect:
        yield Call("forced continuations", again, 1, prompt, config.rethink.max_tokens)
    if config.selects_on_policy:
        shown = config.build.select_shown * config.sampling.max_tokens
        yield Call("selections", again, 1, prompt + shown, config.evaluation.select_max_tokens, shown)


def _evaluation(config: Config, prompt: int, problems: int, split: str) -> Iterator[Call]:
    settings = config.evaluation.on(split)
    names, most = settings.strategies, settings.max_tokens
    yield Call("greedy answers", problems, 1, prompt, most)
    if set(names) - {"greedy"}:
        yield Call("samples", problems, settings.n, prompt, most)
    shown = (config.build.select_shown if config.select_format == "rationale" else settings.n) * most
    for name in names:
        if "+" in name:  # each end of thinking that is replaced goes on from the text before
            yield Call(name, problems, 1, prompt, settings.forced_max_tokens)
        elif name.split("@")[0] in ("select", "tournament", "fused", "recursive", "permuted"):
            yield Call(name, problems, 1, prompt + shown, settings.select_max_tokens, shown)
        elif name.split("@")[0] in ("refine", "refine_vote"):
            yield Call(name, problems, 1, prompt + most, most, most)


def _rows(config: Config, prompt: int, problems: int) -> Iterator[Rows]:
    """At most one row of each part for a problem, but solutions and selections in the rationale form."""
    build, most = config.build, config.sampling.max_tokens
    rationale = config.select_format == "rationale"
    shown = (build.select_shown if rationale else SHOWN) * most
    target = config.evaluation.select_max_tokens if rationale else most
    kinds = {
        "qa": (1, 0, DIRECT_TOKENS),
        "cot": (build.max_cot_per_problem, 0, most),
        "refine": (1, most, most),
        "select": (build.select_per_problem if rationale else 1, shown, target),
        "reflect": (1, 0, config.rethink.max_tokens),
    }
    for kind, (each, before, new) in kinds.items():
        if weight := getattr(build.parts, kind):
            usual = prompt + ANSWER_SHARE * (before + new)
            yield Rows(kind, weight * each * problems, prompt + before + new, usual)
