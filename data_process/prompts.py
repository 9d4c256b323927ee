"""Every wording a model sees, as data, and the one renderer that sampling, training and evaluation share.

The wordings are R3V's for Qwen2-VL (Liac-li/MM-self-improve-qwen2vl@58ef078, `merge_data.py`), with two repairs: the
choices are kept in every prompt (there, self-training prompts lost them), and the misspelt cue is spelt right.
The image, where there is one, always comes first and is not part of these strings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_process.schema import LETTERS, Problem


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
    qa_target: str = "Answer: \n{answer}"
    select_target: str = "Answer:\n {answer}"

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
    qa_target="Answer: ({answer})",
    select_target="Answer: ({answer})",
)

# MathVista's own query (lupantech/MathVista, `build_query.py`, shot 0, solution): the source puts hint, question and unit
# into `Problem.question`; with the choices below it this is the official text, character for character.
MATHVISTA = PromptSet(id="mathvista", cot="{body}")

PROMPT_SETS: dict[str, PromptSet] = {p.id: p for p in (R3V, SHORT, MATHVISTA)}

# A literal mark in a question would be taken for the place of a picture by LLaMA-Factory and by the chat template.
# The other names are Qwen2-VL's special tokens: written out in a text they would become the token itself.
_MARKS = re.compile(
    r"<(\|?)(image|video|audio|vision_start|vision_end|vision_pad|image_pad|video_pad|im_start|im_end|endoftext"
    r"|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end)(\|?)>"
)


def fill(template: str, **values: str | int) -> str:
    """Fill `{name}` placeholders in one pass: a value may itself hold braces or another placeholder's name.

    Raises KeyError for a placeholder without a value.
    """
    return re.sub(r"\{(\w+)\}", lambda m: str(values[m.group(1)]), template)


def neutralise(text: str) -> str:
    """Break up marks such as `<image>` or `<|im_end|>` in text that comes from data or from a model."""
    return _MARKS.sub(lambda m: f"< {m.group(1)}{m.group(2)}{m.group(3)} >", text)


def body(problem: Problem, prompts: PromptSet) -> str:
    """Question and choices."""
    text = fill(prompts.question, question=neutralise(problem.question))
    if problem.choices:
        text += prompts.choices_header
        for letter, choice in zip(LETTERS, problem.choices, strict=False):
            text += fill(prompts.choice, letter=letter, text=neutralise(choice))
    return text


def qa(problem: Problem, prompts: PromptSet) -> str:
    """The prompt that asks for the answer alone."""
    return fill(prompts.qa, body=body(problem, prompts))


def cot(problem: Problem, prompts: PromptSet) -> str:
    """The prompt that asks for a chain of thought."""
    return fill(prompts.cot, body=body(problem, prompts))


def refine(problem: Problem, attempt: str, prompts: PromptSet) -> str:
    """The prompt that shows one attempt and asks to judge and refine it."""
    return fill(prompts.refine, cot=cot(problem, prompts), attempt=neutralise(attempt))


def select(problem: Problem, attempts: Sequence[str], prompts: PromptSet) -> str:
    """The prompt that shows several attempts, numbered from 1, and asks which is right."""
    predictions = "".join(
        fill(prompts.prediction, number=number, attempt=neutralise(attempt))
        for number, attempt in enumerate(attempts, start=1)
    )
    return fill(prompts.select, cot=cot(problem, prompts), predictions=predictions)


def prompt_set(name: str, registry: Mapping[str, PromptSet] = PROMPT_SETS) -> PromptSet:
    """Look a prompt set up by id; KeyError with the known ids otherwise."""
    if name not in registry:
        raise KeyError(f"no prompt set {name!r}; known: {', '.join(sorted(registry))}")
    return registry[name]
