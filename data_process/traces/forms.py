"""The forms of outside traces: from the row of a file to a prompt, a response and the problem that it solves.

    rows       our own training rows, as `examples.jsonl` of a build stage holds them
    sharegpt   LLaMA-Factory's conversations: `messages` or `conversations`, with `images`
    cot        a solution of a problem: one of the training split, which `id` names, or the row's own
    thinking   distilled traces: a thinking and an answer, in two fields (s1K, s1K-1.1) or in one response (s1-m)

A row of `cot` or `thinking` that names no training problem has a `question`, and the gold answer in `gold`, `solution`
or, where that is not the model's own answer, `answer`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from data_process import prompts as wording
from data_process.images.marks import PLACEHOLDER, check_marks, place, without_marks
from data_process.io import problem_from_row
from data_process.prompts import PromptSet
from data_process.row_fields import image_field
from data_process.schema import DataError, Example, Problem, example_from_json, shown, wrong
from data_process.sources.base import PrepareRequest, is_missing
from data_process.sources.columns import TableForm, read_row
from data_process.sources.golds import MAX_SHORT, final_answer
from data_process.traces import TraceKind
from data_process.traces.tags import CLOSE, OPEN

Row = Mapping[str, Any]
_SOLUTIONS = ("response", "completion", "cot", "rationale")  # where a solution is, the first that is not empty
# Where thinking and answer are, the first pair whose thinking is not empty. s1K-1.1 has Gemini's and DeepSeek's.
_THINKING = (
    ("deepseek_thinking_trajectory", "deepseek_attempt"),
    ("gemini_thinking_trajectory", "gemini_attempt"),
    ("thinking_trajectories", "attempt"),
    ("reasoning_content", "content"),
    ("thinking", "response"),
    ("thinking", "answer"),
)
_PROBLEM_FIELDS = ("choices", "answer_type", "unit", "tolerance", "precision", "context", "origin")
_GOLDS = ("gold", "solution", "ground_truth", "answer")
_FOREIGN_IMAGE = re.compile(
    r"<img>|<Img>|<ImageHere>|<image_placeholder>|<\|image_?\d*\|>|\[IMG\]"
)  # of Qwen-VL and others
_ROLES = {"user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant", "system": "system"}


class Dropped(Exception):
    """A row that is left out; the message is the reason under which it is counted."""


@dataclass(frozen=True)
class Trace:
    """One outside trace as a training row, and the problem that it solves."""

    example: Example
    problem: Problem | None  # None: the file says no gold answer
    ours: bool = False  # the problem is one of the training split


@dataclass(frozen=True)
class Surroundings:
    """What rows are read with."""

    train: Mapping[str, Problem]  # by id
    prompts: PromptSet
    images: Path  # the folder that images are relative to, and inside of


Reader = Callable[[Row, str, str, Surroundings], Trace]  # (row, where, id, surroundings); raises Dropped, DataError


def read_example(row: Row, where: str, name: str, around: Surroundings) -> Trace:
    """A row of our own."""
    try:
        example = example_from_json(row)
    except DataError as error:
        raise DataError(
            f"{where}: not a training row ({error}); a row of kind rows has the fields of examples.jsonl"
        ) from error
    images = tuple(_inside(image, where, around) for image in example.images)
    problem = around.train.get(example.problem_id)
    # Its sources are candidates of another run.
    return Trace(replace(example, id=name, images=images, sources=()), problem, problem is not None)


def read_sharegpt(row: Row, where: str, name: str, around: Surroundings) -> Trace:
    """One user turn and one assistant turn. There are as many `<image>` marks as images, or none: images come first."""
    turns = row.get("messages") or row.get("conversations")
    if not isinstance(turns, list) or not all(isinstance(turn, Mapping) for turn in turns):
        wrong(where, f"no 'messages' or 'conversations'; fields: {_names(row)}. Is this file of another kind?")
    said: list[tuple[str, str]] = []
    for turn in turns:
        role, text = turn.get("role", turn.get("from")), turn.get("content", turn.get("value"))
        if not isinstance(role, str) or role not in _ROLES or not isinstance(text, str):
            wrong(where, f"a turn has a role of {', '.join(_ROLES)} and a text; found {shown(turn)}")
        said.append((_ROLES[role], text))
    if said and said[0][0] == "system":
        raise Dropped("system_turn")  # training and sampling would see another one
    if [role for role, _ in said] != ["user", "assistant"]:
        raise Dropped("several_turns" if len(said) > 2 else "no_response")
    (_, asked), (_, target) = said
    if _FOREIGN_IMAGE.search(asked):
        raise Dropped("foreign_image_mark")
    images = _images(row, where, around)
    if asked.count(PLACEHOLDER) not in (0, len(images)):
        raise Dropped("marks_and_images_differ" if images else "marks_without_images")
    _check_marks(asked, images, where)
    (prompt,), order = place([asked], len(images), where)
    images = tuple(images[k] for k in order)
    problem, ours = _named(row, asked, around), True
    if problem is None:
        ours, question = False, asked.replace(PLACEHOLDER, " ").strip()
        problem = _own_problem({**row, "question": question}, where, name, images, around, _GOLDS)
    example = Example(name, "cot", problem.id if problem else name, prompt, target, images)
    return Trace(example, problem, ours)


def read_cot(row: Row, where: str, name: str, around: Surroundings) -> Trace:
    """A solution of a problem, with the prompt that the run asks with."""
    meta = row.get("meta")
    sources = (row, meta) if isinstance(meta, Mapping) else (row,)
    found = [source[part] for source in sources for part in _SOLUTIONS if part in source]
    if not found:
        wrong(where, f"no solution: a row of kind cot has one of {', '.join(_SOLUTIONS)}; fields: {_names(row)}")
    target = next((str(text) for text in found if not is_missing(text)), "")
    return _of_problem(row, target, where, name, around, _GOLDS)


def read_thinking(row: Row, where: str, name: str, around: Surroundings) -> Trace:
    """A distilled trace: the response is the thinking between OPEN and CLOSE, and then the answer."""
    pairs = [(t, a) for t, a in _THINKING if not is_missing(_joined(row.get(t))) and a in row]
    if pairs:
        thinking, answer = (_joined(row[field]) for field in pairs[0])
        taken = {*pairs[0]}
        if is_missing(answer):
            raise Dropped("no_answer")
        answer = str(answer) if type(answer) in (int, float) else answer
        if not (isinstance(thinking, str) and isinstance(answer, str)):
            wrong(
                where, f"{' and '.join(pairs[0])} are texts; found {shown({field: row[field] for field in pairs[0]})}"
            )
        if any(tag in part for tag in (OPEN, CLOSE) for part in (thinking, answer)):
            raise Dropped("malformed_thinking")
        target = f"{OPEN}{thinking.strip()}{CLOSE}\n{answer.strip()}"
    else:
        target, taken = row.get("response", row.get("completion")), {"response", "completion"}
        if target is None and not any(t in row for t, _ in _THINKING):
            wrong(
                where,
                "no trace: a row of kind thinking has a thinking and an answer "
                f"({'; '.join(f'{t} and {a}' for t, a in _THINKING)}) or a whole response; fields: {_names(row)}",
            )
        target = target if isinstance(target, str) else ""
    golds = tuple(field for field in _GOLDS if field not in taken)
    return _of_problem(row, target, where, name, around, golds)


READERS: dict[TraceKind, Reader] = {
    "rows": read_example, "sharegpt": read_sharegpt, "cot": read_cot, "thinking": read_thinking,
}  # fmt: skip


def _of_problem(row: Row, target: str, where: str, name: str, around: Surroundings, golds: tuple[str, ...]) -> Trace:
    """A response to a problem of the training split, or to the row's own."""
    asked = row.get("question", row.get("prompt"))
    problem, ours = _named(row, asked, around), True
    if problem is None:
        ours = False
        if is_missing(asked) or not isinstance(asked, str):
            if "id" in row or "problem_id" in row:
                raise Dropped("unknown_problem")
            wrong(where, f"neither the id of a training problem nor a 'question'; fields: {_names(row)}")
        images = _images(row, where, around)
        _check_marks(asked, images, where)
        problem = _own_problem({**row, "question": asked}, where, name, images, around, golds)
        if problem is None:
            bare = Problem(name, asked, "", (), images, "text")
            prompt = wording.cot(bare, around.prompts)
            return Trace(Example(name, "cot", name, prompt, target, wording.images(bare)), None)
    prompt = wording.cot(problem, around.prompts)
    return Trace(Example(name, "cot", problem.id, prompt, target, wording.images(problem)), problem, ours)


def _check_marks(asked: str, images: tuple[str, ...], where: str) -> None:
    """Dropped if the text marks an image that the row does not have."""
    if not images and without_marks(asked) != asked:
        raise Dropped("marks_without_images")
    try:
        check_marks([asked], len(images), where)
    except DataError:
        raise Dropped("marks_and_images_differ") from None


def _named(row: Row, asked: Any, around: Surroundings) -> Problem | None:
    """The training problem that a row names, unless it asks something else: ids such as 12 are in many files."""
    for field in ("problem_id", "id"):
        if isinstance(value := row.get(field), str | int) and (problem := around.train.get(str(value))) is not None:
            words = [" ".join(str(text).split()) for text in (problem.question, asked)]
            return problem if is_missing(asked) or words[0] in words[1] else None
    return None


def _own_problem(
    row: Row, where: str, name: str, images: tuple[str, ...], around: Surroundings, golds: tuple[str, ...]
) -> Problem | None:
    """The problem that a row itself holds; None where no gold answer is. Dropped for one that no judge can read."""
    gold = next((row[field] for field in golds if not is_missing(row.get(field))), None)
    if gold is None or (isinstance(gold, str) and len(gold) > MAX_SHORT and final_answer(gold) is None):
        return None  # a worked solution that does not say which its answer is
    known = {key: row[key] for key in _PROBLEM_FIELDS if key in row}
    try:
        item = read_row(
            TableForm(), PrepareRequest(), "", where, {**known, "id": name, "question": row["question"], "answer": gold}
        )
        fields = {**item.fields, "images": list(images) if len(images) > 1 else None}
        fields["image"] = images[0] if len(images) == 1 else None
        return problem_from_row(fields, where, around.images)
    except DataError:
        raise Dropped("unreadable_gold") from None


def _images(row: Row, where: str, around: Surroundings) -> tuple[str, ...]:
    value = row.get("images") if not is_missing(row.get("images")) else row.get("image")
    if is_missing(value) or value == []:
        return ()
    return tuple(_inside(image, where, around) for image in (value if isinstance(value, list | tuple) else [value]))


def _inside(value: Any, where: str, around: Surroundings) -> str:
    """An image's path relative to the data folder; an absolute one may lead into it. Dropped if it leads elsewhere."""
    if isinstance(value, str) and Path(value).is_absolute():
        try:
            value = str(Path(value).resolve().relative_to(around.images.resolve()))
        except (ValueError, OSError):
            raise Dropped("image_outside") from None
    try:
        return image_field(value, where, around.images.resolve())
    except DataError:
        raise Dropped("image_outside" if isinstance(value, str) else "image_unreadable") from None


def _joined(value: Any) -> Any:
    """A text, or a list of texts as one (s1K's trajectories)."""
    return "\n".join(map(str, value)) if isinstance(value, list) else value


def _names(row: Row) -> str:
    return ", ".join(map(str, row))[:200]


def question_of(prompt: str) -> str:
    """What a prompt asks, without the instructions, the choices and the predictions of the shipped wordings.

    The leakage guard compares it with questions.
    """
    for cue in _cues():
        prompt = prompt.removeprefix(cue[0]) if cue[0] else prompt
        prompt = prompt.partition(cue[1])[0] if cue[1] else prompt
    return prompt.strip()


def _cues() -> list[tuple[str, str]]:
    """(text before, text after) the question of the shipped wordings, the longest first."""
    cues: set[tuple[str, str]] = set()
    for prompts in (p for shipped in wording.PROMPT_SETS.values() for p in (shipped, shipped.free) if p is not None):
        cues.update(tuple(text.split("{body}", 1)) for text in (prompts.cot, prompts.qa))  # type: ignore[misc]
        cues.add(("", prompts.prediction.partition("{")[0]))
        cues.add(("", prompts.refine.partition("{cot}")[2].partition("{attempt}")[0]))
        cues.add(("", prompts.choices_header + prompts.choice.replace("{letter}", "A").partition("{text}")[0]))
        before, _, after = prompts.question.partition("{question}")
        cues.add((before.replace("{context}", ""), after.partition("{")[0]))
    return sorted(cues, key=lambda cue: -len(cue[0] + cue[1]))
