"""The families of vision-language models that are supported, as data, and what a model folder says of its own.

A family is what config.json calls `model_type`. Images, engines, training and `selftrain doctor` read what differs
between families from this table and compare no names themselves. A model outside the table is refused before anything
is computed: another vision tower or chat template would be read in a wrong way, and the run would end without an error.
Reading a folder needs neither torch nor transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from data_process.json_files import read_object
from data_process.schema import DataError


class FamilyError(DataError):
    """A model folder, or an adapter, that cannot be used because of its family. The message says what could be."""


class Frame(NamedTuple):
    """What a chat template puts around a prompt and its target."""

    before: str
    image: str  # where an image stands; one of its tokens becomes all tokens of the image
    between: str  # from the end of the prompt to the start of the answer
    after: str


@dataclass(frozen=True)
class Family:
    """What the rest of the program has to know of one family."""

    model_type: str  # in config.json
    name: str  # as its checkpoints are called
    patch: int  # pixels along one side of what the vision tower reads as one patch
    template: str  # name of its chat template in LLaMA-Factory, for a checkpoint that answers at once
    system: str  # system turn that this template puts in front; "": none
    merge: int = 2  # patches along one side of an image token
    deepstack: bool = False  # the vision tower also feeds the first layers of the language model (arXiv 2406.04334)
    thinking: tuple[str, str] | None = None  # tags in the vocabulary around a thought
    engines: tuple[str, ...] = ("hf", "vllm")  # that load its weights and answer as transformers does
    image: str = "<|image_pad|>"  # stands for an image in the rendered template
    video: str = "<|video_pad|>"
    vision: tuple[str, str] = ("<|vision_start|>", "<|vision_end|>")  # around an image

    @property
    def token_side(self) -> int:
        """Pixels along one side of the square that becomes one image token."""
        return self.patch * self.merge

    @property
    def marks(self) -> tuple[str, ...]:
        """Tokens that the tokenizer must know. In the text of a problem they stay text (data_process.images.marks)."""
        return (self.image, self.video, *self.vision)

    @property
    def frame(self) -> Frame:
        """What LLaMA-Factory's template of the family puts around a row."""
        system = f"<|im_start|>system\n{self.system}<|im_end|>\n" if self.system else ""
        start, end = self.vision
        turn = "<|im_end|>\n"
        return Frame(f"{system}<|im_start|>user\n", start + self.image + end, f"{turn}<|im_start|>assistant\n", turn)


_ASSISTANT = "You are a helpful assistant."

QWEN2_VL = Family("qwen2_vl", "Qwen2-VL", 14, "qwen2_vl", _ASSISTANT)
FAMILIES = {
    family.model_type: family
    for family in (
        QWEN2_VL,
        Family("qwen2_5_vl", "Qwen2.5-VL", 14, "qwen2_vl", _ASSISTANT),
        # LLaMA-Factory's `qwen3_vl` would put an empty thought before every target of a checkpoint that has none.
        Family("qwen3_vl", "Qwen3-VL", 16, "qwen3_vl_nothink", "", deepstack=True, thinking=("<think>", "</think>")),
    )
}


def supported() -> str:
    """The supported families, for messages."""
    return ", ".join(f"{family.name} ({family.model_type})" for family in FAMILIES.values())


def read_model_config(model: Path) -> dict[str, Any]:
    """A model folder's config.json. FamilyError if it is not there or cannot be read."""
    path = model / "config.json"
    if not path.is_file():
        what = "holds no config.json" if model.is_dir() else "does not exist"
        raise FamilyError(f"model folder {model} {what}; set model.path to a complete checkpoint folder")
    try:
        return read_object(path, "copy the checkpoint again")
    except DataError as error:
        raise FamilyError(str(error)) from error


def family_of(model: Path) -> Family:
    """The family of a model folder. FamilyError, with the list, if it is not supported, or not as the folder has it."""
    config = read_model_config(model)
    kind = config.get("model_type")
    family = FAMILIES.get(kind) if isinstance(kind, str) else None
    if family is None:
        said = f"is a {kind} model" if kind else "has a config.json without a model_type"
        raise FamilyError(
            f"{model} {said}, which is not supported; supported: {supported()}. Set model.path to a checkpoint of one "
            "of them. A model of another family can be measured behind a server: set model.path to its name "
            "instead of its folder, and see docs/test-time.md"
        )
    vision = config.get("vision_config") or {}
    for key, expected in (("patch_size", family.patch), ("spatial_merge_size", family.merge)):
        if vision.get(key, expected) != expected:
            raise FamilyError(
                f"{model}/config.json has vision_config.{key} {vision[key]}, and {family.name} has {expected}; image "
                "tokens would be counted wrongly. Use an original checkpoint"
            )
    return family


def engine_family(model: Path, kind: str) -> Family:
    """The family of a model folder that an engine of this kind is to load. FamilyError if it cannot."""
    family = family_of(model)
    if kind not in family.engines:
        raise FamilyError(
            f"{model} is a {family.name} model, which the {kind} engine does not run; set engine.kind to "
            f"{' or '.join(family.engines)}"
        )
    return family


def family_of_adapter(adapter: Path) -> Family | None:
    """The family an adapter was trained on, by the base model that it names; None if nothing shows it.

    An adapter's tensors do not: Qwen2-VL-7B and Qwen2.5-VL-7B have language models of the same names and shapes.
    """
    try:
        named = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))["base_model_name_or_path"]
        base = Path(named)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None  # whether it is an adapter at all is checked where it is opened
    if (base / "config.json").is_file():
        return FAMILIES.get(read_model_config(base).get("model_type", ""))
    name = base.name.lower()
    return next((family for family in FAMILIES.values() if family.name.lower() in name), None)


def check_weights_family(family: Family, weights: Path) -> None:
    """FamilyError for an adapter that names a base model of another family, or a trained checkpoint of another one."""
    if (weights / "config.json").is_file() and not (weights / "adapter_config.json").exists():
        if (whole := family_of(weights)) != family:
            raise FamilyError(
                f"{weights} holds a {whole.name} model and model.path a {family.name} one; set model.path to the base "
                "that was trained"
            )
        return
    other = family_of_adapter(weights)
    if other is not None and other != family:
        raise FamilyError(
            f"adapter {weights} was trained on a {other.name} model and model.path holds a {family.name} one; set "
            "model.path to the base model that the adapter's adapter_config.json names, or train another adapter"
        )


def pixel_limits(model: Path) -> tuple[int, int] | None:
    """(least, most) pixels to which the folder's image processor resizes; None if its files do not say."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        try:
            found = json.loads((model / name).read_text(encoding="utf-8"))
            found = found.get("image_processor") or found
            size = {"shortest_edge": found.get("min_pixels"), "longest_edge": found.get("max_pixels")}
            size |= {key: value for key, value in (found.get("size") or {}).items() if key in size}
        except (OSError, ValueError, AttributeError, RecursionError):
            continue  # where a processor is opened, it says what is wrong
        low, high = size["shortest_edge"], size["longest_edge"]
        if isinstance(low, int) and isinstance(high, int):
            return low, high
    return None


def chat_template(model: Path) -> str | None:
    """The folder's chat template, from the first file that has one; None if none has."""
    if (model / "chat_template.jinja").is_file():
        return (model / "chat_template.jinja").read_text(encoding="utf-8")
    for name in ("chat_template.json", "processor_config.json", "tokenizer_config.json"):
        try:
            found = json.loads((model / name).read_text(encoding="utf-8")).get("chat_template")
        except (OSError, ValueError, AttributeError, RecursionError):
            continue
        if isinstance(found, str):
            return found
    return None


def opens_thinking(model: Path) -> bool:
    """Whether the folder's chat template writes the start of a thought itself, as Qwen3-VL-Thinking's does.

    FamilyError if there is no chat template, or it cannot be rendered.
    """
    from jinja2 import TemplateError
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    family = family_of(model)
    template = chat_template(model)
    if template is None:
        raise FamilyError(
            f"{model} holds no chat template; copy chat_template.jinja (or .json) from the base checkpoint"
        )
    if family.thinking is None:
        return False
    # As transformers renders it (utils/chat_template_utils.py).
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    turn = {"role": "user", "content": [{"type": "text", "text": "x"}]}
    try:
        text = environment.from_string(template).render(messages=[turn], add_generation_prompt=True)
    except TemplateError as error:
        raise FamilyError(
            f"the chat template of {model} cannot be rendered ({error}); copy the base model's"
        ) from error
    return thought_is_open(family, text)


def thinking_untrained(model: Path, family: Family) -> str:
    """Why a checkpoint whose template opens a thought is not trained."""
    return (
        f"the chat template of {model} opens a thought by itself, and rows would be trained without it: such a "
        "checkpoint can be measured (selftrain scale), not trained. Set model.path to an Instruct checkpoint of "
        f"{family.name}"
    )


def check_answers_at_once(model: Path) -> None:
    """FamilyError for a checkpoint that is not trained because its template opens a thought; see `opens_thinking`."""
    if opens_thinking(model):
        raise FamilyError(thinking_untrained(model, family_of(model)))


def thought_is_open(family: Family, prompt: str) -> bool:
    """Whether a rendered prompt ends with the start of a thought."""
    return family.thinking is not None and prompt.rstrip().endswith(family.thinking[0])
