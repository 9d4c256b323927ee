"""Every wording that a model sees, and the renderer that sampling, training and evaluation share.

The wordings are R3V's for Qwen2-VL (Liac-li/MM-self-improve-qwen2vl@58ef078, `merge_data.py`), with two repairs: the
choices are kept in every prompt (there, self-training prompts lost them), and the misspelt cue is spelt right. The
selection with reasoning is our own.
Images come first and are not part of these strings, unless a mark in the question or in a choice gives an image another
place; then the placeholder `<image>` stands there.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from data_process.images.marks import neutralise, place
from data_process.schema import LETTERS, DataError, Problem


@dataclass(frozen=True)
class PromptSet:
    """The wordings of one experiment. Placeholders in braces are filled in a single pass by `fill`."""

    id: str
    question: str = "{question}"
    choices_header: str = "\nChoices:"
    choice: str = "\n({letter}) {text}"
    qa: str = "{body}"
    cot: str = "{body}\nAnswer the question with Chain-of-Thought."
    refine: str = "{cot}\nModel's Prediction: {attempt}\nJudge the correctness of the model's prediction and refine it."
    prediction: str = "\nModel's Prediction {number}: {attempt}"
    select: str = (
        "{cot}{predictions}\nWhich prediction is correct? "
        "Give the final answer for the beginning question by selecting the correct option."
    )
    # The published selection above asks for the answer alone; this one for which prediction it is and why, and then
    # for the answer, which is what is judged.
    select_reasoning: str = (
        "{cot}{predictions}\nWhich prediction is correct, and why? Say which one it is and give the reason. "
        "Then give the final answer for the beginning question by selecting the correct option."
    )
    qa_target: str = "Answer: \n{answer}"
    select_target: str = "Answer:\n {answer}"
    select_reasoning_target: str = "Prediction {number} is correct. {reason}\nAnswer:\n {answer}"

    @property
    def digest(self) -> str:
        """Hex digest of every wording: recorded with each run, part of what a sample depends on."""
        text = json.dumps(self.__dict__, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


R3V = PromptSet(id="r3v-qwen2vl")

# The same structure in few tokens, for the tiny model, whose context is a few hundred tokens.
SHORT = PromptSet(
    id="short",
    choices_header="",
    cot="{body}\nThink step by step.",
    refine="{cot}\nPrediction: {attempt}\nJudge it and refine it.",
    prediction="\nPrediction {number}: {attempt}",
    select="{cot}{predictions}\nWhich prediction is correct?",
    select_reasoning="{cot}{predictions}\nWhich prediction is correct, and why?",
    qa_target="Answer: ({answer})",
    select_target="Answer: ({answer})",
    select_reasoning_target="Prediction {number} is correct. {reason}\nAnswer: ({answer})",
)

# MathVista's own query (lupantech/MathVista, `build_query.py`, shot 0, solution): the source puts hint, question and
# unit into `Problem.question`; with the choices below it this is the official text, character for character.
MATHVISTA = PromptSet(id="mathvista", cot="{body}")

PROMPT_SETS: dict[str, PromptSet] = {p.id: p for p in (R3V, SHORT, MATHVISTA)}

SelectFormat = Literal["answer", "reasoning"]  # R3V's: the answer alone; or which prediction, why, and then the answer
_NAMED = re.compile(r"\b[Pp]rediction\s{1,3}(\d{1,4})\s{1,3}is\s{1,3}(?:correct|right)\b")

# s1's control baselines (arXiv 2501.19393, section 3.2; simplescaling/s1, lm_eval/tasks/aime/utils.py): the condition
# follows the question. "token" and "step" have a limit, "short" and "long" have none.
CONDITIONS: dict[str, str] = {
    "token": "\n\nThink for up to {limit} tokens.",
    "step": "\n\nThink for up to {limit} steps.",
    "short": ("\n\nAnswer after a short amount of thinking. Do not spend excessive time double-checking your work."),
    "long": (
        "\n\nAnswer after a long amount of thinking. If you feel like you are finished early, spend the extra time "
        "trying to double-check your work until you are absolutely sure that you have the correct answer."
    ),
}


def fill(template: str, **values: str | int) -> str:
    """Fill `{name}` placeholders in one pass, so that a value may contain braces or another placeholder's name.

    Raises KeyError for a placeholder without a value.
    """
    filled, rest = _parts(template)
    for name, text in rest:
        filled += f"{values[name]}{text}"
    return filled


@lru_cache(maxsize=256)  # wordings are few, and are filled a million times
def _parts(template: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """A template as the text before the first placeholder, and each placeholder with the text after it."""
    text, *rest = re.split(r"\{(\w+)\}", template)
    return text, tuple(zip(rest[::2], rest[1::2], strict=True))


def images(problem: Problem) -> tuple[str, ...]:
    """A problem's images in the order of their places in its prompts; `images.marks` says where they stand."""
    return tuple(problem.images[i] for i in _placed(problem)[1]) if len(problem.images) > 1 else problem.images


def _placed(problem: Problem) -> tuple[list[str], list[int]]:
    return place((problem.question, *problem.choices), len(problem.images), f"problem {problem.id!r}")


def body(problem: Problem, prompts: PromptSet) -> str:
    """Question and choices, with the placeholders of images that do not come first."""
    (question, *choices), _ = _placed(problem)
    text = fill(prompts.question, question=question)
    if choices:
        text += prompts.choices_header
        for letter, choice in zip(LETTERS, choices, strict=False):
            text += fill(prompts.choice, letter=letter, text=choice)
    return text


def qa(problem: Problem, prompts: PromptSet) -> str:
    """The prompt that asks for the answer alone."""
    return fill(prompts.qa, body=body(problem, prompts))


def cot(problem: Problem, prompts: PromptSet) -> str:
    """The prompt that asks for a chain of thought."""
    return fill(prompts.cot, body=body(problem, prompts))


def conditioned(problem: Problem, prompts: PromptSet, condition: str, limit: int | None = None) -> str:
    """The chain-of-thought prompt followed by one of CONDITIONS.

    `limit`: tokens or steps, for "token" and "step" only. DataError for an unknown condition, and for a limit that is
    missing, below 1, or given to a condition that has none.
    """
    if condition not in CONDITIONS:
        raise DataError(f"unknown condition {condition!r}; known: {', '.join(CONDITIONS)}")
    suffix = CONDITIONS[condition]
    if ("{limit}" in suffix) != (limit is not None):
        raise DataError(f"condition {condition!r} {'needs a' if limit is None else 'has no'} limit")
    if limit is not None and limit < 1:
        raise DataError(f"condition {condition!r}: the limit must be at least 1, found {limit}")
    return cot(problem, prompts) + (suffix if limit is None else fill(suffix, limit=limit))


def refine(problem: Problem, attempt: str, prompts: PromptSet, cot_prompt: str | None = None) -> str:
    """The prompt that shows one attempt and asks to judge and refine it.

    `cot_prompt`: the problem's `cot`, if the caller has it already.
    """
    cot_prompt = cot(problem, prompts) if cot_prompt is None else cot_prompt
    return fill(prompts.refine, cot=cot_prompt, attempt=neutralise(attempt))


def select(
    problem: Problem,
    attempts: Sequence[str],
    prompts: PromptSet,
    form: SelectFormat = "answer",
    cot_prompt: str | None = None,
) -> str:
    """The prompt that shows several attempts, numbered from 1, and asks which is correct. `cot_prompt` as in `refine`.

    DataError for an unknown form.
    """
    cot_prompt = cot(problem, prompts) if cot_prompt is None else cot_prompt
    predictions = "".join(
        fill(prompts.prediction, number=number, attempt=neutralise(attempt))
        for number, attempt in enumerate(attempts, start=1)
    )
    return fill(_of_form(form, prompts.select, prompts.select_reasoning), cot=cot_prompt, predictions=predictions)


def select_target(
    problem: Problem, prompts: PromptSet, form: SelectFormat = "answer", number: int = 0, reason: str = ""
) -> str:
    """The target of a selection: the gold answer, in the reasoning form after a prediction's number and the reason.

    `number` counts from 1 and `reason` is one line; only the reasoning form uses them. DataError if it lacks one.
    """
    template = _of_form(form, prompts.select_target, prompts.select_reasoning_target)
    if form == "reasoning" and (number < 1 or not reason.strip()):
        raise DataError(f"{problem.id}: a selection with reasoning needs a prediction's number and a reason")
    return fill(template, number=number, reason=reason.strip(), answer=problem.answer)


def named_prediction(text: str, shown: int) -> int | None:
    """The number, 1 to `shown`, of the prediction that a selection last called correct; None if it named none of them.

    Only audits use it; a selection is judged by the answer it gives.
    """
    named = [int(number) for number in _NAMED.findall(text)]
    return named[-1] if named and 1 <= named[-1] <= shown else None


def _of_form(form: SelectFormat, answer: str, reasoning: str) -> str:
    if form not in ("answer", "reasoning"):
        raise DataError(f"unknown selection form {form!r}; known: answer, reasoning")
    return answer if form == "answer" else reasoning


def prompt_set(name: str) -> PromptSet:
    """The prompt set with that id. KeyError, with the known ids, if there is none."""
    if name not in PROMPT_SETS:
        raise KeyError(f"unknown prompt set {name!r}; known: {', '.join(sorted(PROMPT_SETS))}")
    return PROMPT_SETS[name]
