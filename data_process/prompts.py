"""The renderer of prompts that sampling, training and evaluation share. The wordings are data: `wordings.toml`.

Images come first and are not part of these strings, unless a mark in the question or in a choice gives an image another
place; then the placeholder `<image>` stands there.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from data_process.images.marks import PLACEHOLDER, neutralise, place
from data_process.schema import LETTERS, DataError, Problem, shown

WORDINGS = Path(__file__).with_name("wordings.toml")
BASE = "r3v-qwen2vl"  # what a set takes the wordings from that it leaves out
DEFAULT_CONTEXT = "{context}\n"
DEFAULT_HINT = (
    "{cot}\nThe correct answer is {answer}. Derive it step by step, as if you had found it yourself, and do not "
    "mention that it was given."
)
DEFAULT_VERIFY = (
    "{cot}\nA solution so far:\n{steps}\nIs the last step correct, so that the solution can still lead to the correct "
    "answer? Reply with + or - alone."
)


@dataclass(frozen=True)
class PromptSet:
    """The wordings of one experiment; `wordings.toml` says what each of them is and which placeholders it has."""

    id: str
    question: str
    choices_header: str
    choice: str
    qa: str
    cot: str
    refine: str
    prediction: str
    select: str
    select_reasoning: str
    prediction_repeated: str
    select_rationale: str
    qa_target: str
    select_target: str
    select_reasoning_target: str
    context: str = DEFAULT_CONTEXT
    unit: str = ""
    cot_untrained: str = ""  # asks a model that no training has prepared for the first samples; "": as `cot`
    hint: str = DEFAULT_HINT
    verify: str = DEFAULT_VERIFY  # asks a reward model about the last step of a solution
    free: PromptSet | None = None  # the wordings for problems without choices, where some differ

    def of(self, problem: Problem) -> PromptSet:
        """The wordings for this problem."""
        return self if problem.choices or self.free is None else self.free

    @property
    def digest(self) -> str:
        """Hex digest of the wordings: recorded with each run, part of what a sample depends on.

        Those of the rationale form, younger than most runs, are in `rationale_digest` alone.
        """
        return self._digest(without=(*_RATIONALE, "verify"))

    @property
    def rationale_digest(self) -> str:
        """Hex digest of every wording but that of a reward model."""
        return self._digest(without=("verify",))

    @property
    def verify_digest(self) -> str:
        """Hex digest of the wordings that a reward model is asked with."""
        return self._digest(without=_RATIONALE)

    def _digest(self, without: tuple[str, ...] = ()) -> str:
        text = json.dumps(self._wordings(without), sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _wordings(self, without: tuple[str, ...]) -> dict[str, Any]:
        """Without the younger fields where they are the default, so that the digests of old runs stay."""
        texts = {**self.__dict__, "free": self.free and self.free._wordings(without)}
        left_out = {name for name, default in _YOUNGER.items() if texts[name] == default} | set(without)
        return {name: text for name, text in texts.items() if name not in left_out}


_RATIONALE = ("prediction_repeated", "select_rationale")
_YOUNGER = {
    "context": DEFAULT_CONTEXT,
    "unit": "",
    "cot_untrained": "",
    "hint": DEFAULT_HINT,
    "verify": DEFAULT_VERIFY,
    "free": None,
}
# The placeholders of each wording; those with an exclamation mark must be there, or the prompt would lose its subject.
_PLACEHOLDERS = {
    "question": "context question! unit", "context": "context!", "unit": "unit", "choices_header": "",
    "choice": "letter! text!", "qa": "body!", "cot": "body!",
    "cot_untrained": "body!", "hint": "cot! answer!", "verify": "cot! steps!", "refine": "cot! attempt!",
    "prediction": "number attempt!", "select": "cot! predictions!", "select_reasoning": "cot! predictions!",
    "prediction_repeated": "number count attempt!", "select_rationale": "cot! predictions!",
    "qa_target": "answer!", "select_target": "answer!", "select_reasoning_target": "number reason answer!",
}  # fmt: skip


def _tables(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error}); check the path") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise DataError(f"{path}: not TOML ({error}); correct it") from error


def _check(texts: Mapping[str, Any], where: str) -> None:
    """DataError for a wording that is unknown, no text, or has placeholders other than its own."""
    for name, text in texts.items():
        if name not in _PLACEHOLDERS:
            near = difflib.get_close_matches(name, _PLACEHOLDERS, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(_PLACEHOLDERS)}"
            raise DataError(f"{where}: unknown wording {shown(name)}; {hint}")
        if not isinstance(text, str):
            raise DataError(f"{where}: {name} must be a text, found {shown(text)}")
        if name == "cot_untrained" and not text:  # as `cot`
            continue
        allowed = _PLACEHOLDERS[name].split()
        placed = set(re.findall(r"\{(\w+)\}", text))
        needed = {part[:-1] for part in allowed if part.endswith("!")}
        if unknown := placed - {part.rstrip("!") for part in allowed}:
            raise DataError(f"{where}: {name} has no placeholder {{{min(unknown)}}}; it may hold {', '.join(allowed)}")
        if missing := needed - placed:
            raise DataError(f"{where}: {name} must hold {{{min(missing)}}}, found {shown(text)}")


def _made(name: str, table: Mapping[str, Any], tables: Mapping[str, Any], where: str) -> PromptSet:
    """The set of a table, on top of the one that it extends. DataError for a wording that cannot be used."""
    texts, seen = dict(table), [name]
    while (above := texts.pop("extends", BASE)) != seen[-1] and seen[-1] != BASE:
        if above not in tables or above in seen:
            known = ", ".join(other for other in tables if other not in seen)
            raise DataError(f"{where}: extends {shown(above)}, which it cannot; known: {known}")
        texts = {"extends": BASE, **tables[above], **texts}
        seen.append(above)
    free = texts.pop("free", {})
    if not isinstance(free, dict):
        raise DataError(f"{where}: free must be a table of wordings, found {shown(free)}")
    _check(texts, where)
    _check(free, f"{where}, free")
    made = PromptSet(id=name, **texts)
    return replace(made, free=replace(made, **free)) if free else made


_SHIPPED = _tables(WORDINGS)
PROMPT_SETS: dict[str, PromptSet] = {
    name: _made(name, table, _SHIPPED, f"{WORDINGS.name}, {name}") for name, table in _SHIPPED.items()
}
R3V, SHORT, MATHVISTA = (PROMPT_SETS[name] for name in (BASE, "short", "mathvista"))


def prompt_set(name: str) -> PromptSet:
    """The prompt set with that id, or the one that a file `NAME.toml` holds. DataError for anything else."""
    name = known_prompts(name)
    return PROMPT_SETS[name] if name in PROMPT_SETS else _made(Path(name).stem, _tables(Path(name)), _SHIPPED, name)


def known_prompts(name: str) -> str:
    """The name of a prompt set, or of a TOML file, which need not exist: old runs outlive it. DataError otherwise."""
    if name in PROMPT_SETS or name.endswith(".toml"):
        return name
    near = difflib.get_close_matches(name, PROMPT_SETS, n=1)
    guess = f"did you mean {near[0]!r}? " if near else ""
    raise DataError(
        f"unknown prompt set {shown(name)}; {guess}known: {', '.join(sorted(PROMPT_SETS))}, or a file NAME.toml"
    )


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
    """Context ("" if there is none), question and listed choices with the places of images; the order of the images."""
    context = () if problem.context is None else (problem.context,)
    texts = (*context, problem.question, *(() if problem.choices_in_image else problem.choices))
    placed, order = place(texts, len(problem.images), f"problem {problem.id!r}")
    return (placed if context else ["", *placed]), order


def body(problem: Problem, prompts: PromptSet) -> str:
    """Question and choices, the context and the unit where the problem has them, and placeholders of images.

    A context that the wording of the question gives no place stands before it, so that it is never lost. Images that
    come first have no placeholder. DataError for a mark of an image that does not exist, and for marks in a context
    that stands behind the question: images are counted from the context on.
    """
    prompts = prompts.of(problem)
    (context, question, *choices), _ = _placed(problem)
    if PLACEHOLDER in context and prompts.question.find("{context}") > prompts.question.find("{question}"):
        raise DataError(
            f"problem {problem.id!r}: the context marks an image, and the wordings {prompts.id!r} put the context "
            "behind the question; give them the other order"
        )
    context = fill(prompts.context, context=context) if context else ""
    unit = fill(prompts.unit, unit=neutralise(problem.unit)) if problem.unit else ""
    text = fill(prompts.question, question=question, context=context, unit=unit)
    if "{context}" not in prompts.question:
        text = context + text
    if choices:
        text += prompts.choices_header
        for letter, choice in zip(LETTERS, choices, strict=False):
            text += fill(prompts.choice, letter=letter, text=choice)
    return text


def qa(problem: Problem, prompts: PromptSet) -> str:
    """The prompt that asks for the answer alone."""
    return fill(prompts.of(problem).qa, body=body(problem, prompts))


def cot(problem: Problem, prompts: PromptSet) -> str:
    """The prompt that asks for a chain of thought."""
    return fill(prompts.of(problem).cot, body=body(problem, prompts))


def cot_untrained(problem: Problem, prompts: PromptSet) -> str:
    """The same for a model that no training has prepared: some such models need to be told more."""
    prompts = prompts.of(problem)
    return fill(prompts.cot_untrained or prompts.cot, body=body(problem, prompts))


def hinted(problem: Problem, prompts: PromptSet) -> str:
    """The prompt that asks for a chain of thought and shows the gold answer, with the text of its choice."""
    answer = f"({problem.answer}) {problem.gold_text}" if problem.choices else problem.answer
    return fill(prompts.of(problem).hint, cot=cot(problem, prompts), answer=neutralise(answer))


def verify(problem: Problem, steps: str, prompts: PromptSet) -> str:
    """The prompt that shows the beginning of a solution and asks whether its last step is correct."""
    return fill(prompts.of(problem).verify, cot=cot(problem, prompts), steps=neutralise(steps))


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
    return fill(prompts.of(problem).refine, cot=cot_prompt, attempt=neutralise(attempt))


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
    prompts = prompts.of(problem)
    template = _of_form(form, prompts.select, prompts.select_reasoning, prompts.select_rationale)
    cot_prompt = cot(problem, prompts) if cot_prompt is None else cot_prompt
    kept = shown_texts(attempts, limit) if form == "rationale" else [(k, 1) for k in range(len(attempts))]
    predictions = "".join(
        fill(
            prompts.prediction if count == 1 else prompts.prediction_repeated,
            number=number, count=count, attempt=neutralise(attempts[index]),
        )
        for number, (index, count) in enumerate(kept, start=1)
    )  # fmt: skip
    return fill(template, cot=cot_prompt, predictions=predictions)


def qa_target(problem: Problem, prompts: PromptSet) -> str:
    """The target of the prompt that asks for the answer alone: the gold answer."""
    return fill(prompts.of(problem).qa_target, answer=problem.answer)


def select_target(
    problem: Problem, prompts: PromptSet, form: SelectFormat = "answer", number: int = 0, reason: str = ""
) -> str:
    """The target of a selection: the gold answer, in the reasoning form after a prediction's number and the reason.

    `number` counts from 1 and `reason` is one line; only the reasoning form uses them. In the rationale form `reason`
    is the target: a whole correct response. DataError if a form lacks what it needs.
    """
    prompts = prompts.of(problem)
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
