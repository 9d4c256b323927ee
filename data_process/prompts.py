"""Every wording that a model sees, and the renderer that sampling, training and evaluation share.

The wordings are R3V's for Qwen2-VL (Liac-li/MM-self-improve-qwen2vl@58ef078, `merge_data.py`), with two repairs: the
choices are kept in every prompt (there, self-training prompts lost them), and the misspelt cue is spelt right. The
selections with reasoning and with a rationale are our own.
The image, where there is one, always comes first and is not part of these strings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

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
    # Asks for a derivation of its own, which may agree with a prediction, join several or overrule all of them. A text
    # that several predictions share stands once, with their number.
    prediction_repeated: str = "\nModel's Prediction {number} ({count} times): {attempt}"
    select_rationale: str = (
        "{cot}{predictions}\nSome of the predictions, or all of them, may be wrong. Check them, then solve the problem "
        "step by step and give the final answer."
    )
    qa_target: str = "Answer: \n{answer}"
    select_target: str = "Answer:\n {answer}"
    select_reasoning_target: str = "Prediction {number} is correct. {reason}\nAnswer:\n {answer}"

    @property
    def digest(self) -> str:
        """Hex digest of the wordings without the rationale form's, which only `rationale_digest` holds.

        It is recorded with each run, and so must stay as it was before there was that form.
        """
        return self._digest(without=("prediction_repeated", "select_rationale"))

    @property
    def rationale_digest(self) -> str:
        """Hex digest of every wording."""
        return self._digest()

    def _digest(self, without: tuple[str, ...] = ()) -> str:
        wordings = {name: text for name, text in self.__dict__.items() if name not in without}
        text = json.dumps(wordings, sort_keys=True, ensure_ascii=False)
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
    prediction_repeated="\nPrediction {number} x{count}: {attempt}",
    select_rationale="{cot}{predictions}\nWhich prediction is correct?",  # as the base model was taught
    qa_target="Answer: ({answer})",
    select_target="Answer: ({answer})",
    select_reasoning_target="Prediction {number} is correct. {reason}\nAnswer: ({answer})",
)

# MathVista's own query (lupantech/MathVista, `build_query.py`, shot 0, solution): the source puts hint, question and
# unit into `Problem.question`; with the choices below it this is the official text, character for character.
MATHVISTA = PromptSet(id="mathvista", cot="{body}")

PROMPT_SETS: dict[str, PromptSet] = {p.id: p for p in (R3V, SHORT, MATHVISTA)}

# What a selection answers with. "answer" is R3V's; "reasoning" says which prediction and why, and then the answer;
# "rationale" is a whole derivation of the answer.
SelectFormat = Literal["answer", "reasoning", "rationale"]
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

# LLaMA-Factory and the chat template would take a literal mark in a question for the place of an image. The other names
# are Qwen2-VL's special tokens, which the tokenizer would read as tokens.
_MARKS = re.compile(
    r"<(\|?)(image|video|audio|vision_start|vision_end|vision_pad|image_pad|video_pad|im_start|im_end|endoftext"
    r"|object_ref_start|object_ref_end|box_start|box_end|quad_start|quad_end)(\|?)>"
)


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


def neutralise(text: str) -> str:
    """Break up marks such as `<image>` or `<|im_end|>` in text from data or from a model, so that they stay text."""
    if "<" not in text:
        return text
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


@dataclass(frozen=True)
class ShowLimit:
    """How much a selection in the rationale form shows. None: no limit."""

    texts: int | None = None  # different texts
    characters: int | None = None  # of the different texts together


SHOW_ALL = ShowLimit()


def shown_texts(attempts: Sequence[str], limit: ShowLimit) -> list[tuple[int, int]]:
    """What the rationale form shows: (index, count) of each different text, where it first stands, in order.

    Where `limit` does not admit all of them, the texts that the fewest attempts share are left out, the last of equals
    first. One text is always left.
    """
    first: dict[str, int] = {}
    counts: Counter[str] = Counter()
    for index, attempt in enumerate(attempts):
        first.setdefault(attempt, index)
        counts[attempt] += 1
    kept = sorted(first, key=lambda text: (-counts[text], first[text]))
    if limit.texts is not None:
        del kept[max(limit.texts, 1) :]
    while limit.characters is not None and len(kept) > 1 and sum(map(len, kept)) > limit.characters:
        kept.pop()
    return sorted((first[text], counts[text]) for text in kept)


def shown_characters(attempts: Sequence[str], limit: ShowLimit) -> int:
    """Length of the different texts that the rationale form shows, together."""
    return sum(len(attempts[index]) for index, _ in shown_texts(attempts, limit))


def select(
    problem: Problem,
    attempts: Sequence[str],
    prompts: PromptSet,
    form: SelectFormat = "answer",
    cot_prompt: str | None = None,
    limit: ShowLimit = SHOW_ALL,
) -> str:
    """The prompt that shows several attempts, numbered from 1, and asks which is correct. `cot_prompt` as in `refine`.

    The rationale form shows equal attempts once, as `shown_texts` says; `limit` is for it alone. DataError for an
    unknown form.
    """
    template = _of_form(form, prompts.select, prompts.select_reasoning, prompts.select_rationale)
    cot_prompt = cot(problem, prompts) if cot_prompt is None else cot_prompt
    shown = shown_texts(attempts, limit) if form == "rationale" else [(k, 1) for k in range(len(attempts))]
    predictions = "".join(
        fill(
            prompts.prediction if count == 1 else prompts.prediction_repeated,
            number=number, count=count, attempt=neutralise(attempts[index]),
        )
        for number, (index, count) in enumerate(shown, start=1)
    )  # fmt: skip
    return fill(template, cot=cot_prompt, predictions=predictions)


def select_target(
    problem: Problem, prompts: PromptSet, form: SelectFormat = "answer", number: int = 0, reason: str = ""
) -> str:
    """The target of a selection: the gold answer, in the reasoning form after a prediction's number and the reason.

    `number` counts from 1 and `reason` is one line; only the reasoning form uses them. In the rationale form `reason`
    is the target: a whole correct response. DataError if a form lacks what it needs.
    """
    template = _of_form(form, prompts.select_target, prompts.select_reasoning_target, "{reason}")
    if form == "rationale":
        if not reason.strip():
            raise DataError(f"{problem.id}: a selection with a rationale needs a response as its target")
        return reason
    if form == "reasoning" and (number < 1 or not reason.strip()):
        raise DataError(f"{problem.id}: a selection with reasoning needs a prediction's number and a reason")
    return fill(template, number=number, reason=reason.strip(), answer=problem.answer)


def named_prediction(text: str, shown: int) -> int | None:
    """The number, 1 to `shown`, of the prediction that a selection last called correct; None if it named none of them.

    A selection is judged by the answer it gives. Audits use the number, and the rationale form where a selection gives
    no answer.
    """
    named = [int(number) for number in _NAMED.findall(text)]
    return named[-1] if named and 1 <= named[-1] <= shown else None


def _of_form(form: SelectFormat, answer: str, reasoning: str, rationale: str) -> str:
    texts = {"answer": answer, "reasoning": reasoning, "rationale": rationale}
    if form not in texts:
        raise DataError(f"unknown selection form {form!r}; known: {', '.join(texts)}")
    return texts[form]


def prompt_set(name: str) -> PromptSet:
    """The prompt set with that id. KeyError, with the known ids, if there is none."""
    if name not in PROMPT_SETS:
        raise KeyError(f"unknown prompt set {name!r}; known: {', '.join(sorted(PROMPT_SETS))}")
    return PROMPT_SETS[name]
