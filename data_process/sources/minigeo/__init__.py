"""MiniGeo: generated geometry problems in GeoQA's form, for demos and tests with a tiny model.

Each problem has a drawn figure, a question, four choices, a gold letter, a family, a difficulty (the number of
reasoning steps) and a reference rationale. The numbers that a solver needs are in the image, never in the text.

* Splits are disjoint in (variant, parameters): every parameter tuple is dealt to one split only.
* Distractors are results of a typical mistake and of misread labels, yet the text alone does not give the answer away.
  The typical mistake of each variant is a mirror: it yields `mirror - answer` (forgetting the last subtraction, halving
  the wrong angle). The choices are {x, mirror - x, y, mirror - y} with y the answer for misread labels, and the answers
  of a variant are spread evenly over an interval that the mirror maps to itself, so all four are equally likely a
  priori. `text_only_accuracy` checks this with a classifier that sees everything but the image.
* The same seed gives the same bytes (with the same version of Pillow).

* The split `hard` has kinds of its own, which no other split contains: more labels, more steps, another bisector.

`python -m data_process.sources.minigeo --out data/minigeo` writes `train.jsonl`, `dev.jsonl`, `test.jsonl`,
`hard.jsonl`, `images/` and `card.json`.
"""

from data_process.sources.minigeo.figures import CELL, Params
from data_process.sources.minigeo.generation import (
    DEFAULT_SIZES,
    SIZES,
    VERSION,
    attainable,
    choose,
    deal,
    generate,
    rationale,
    text_only_accuracy,
    write,
)
from data_process.sources.minigeo.variants import BY_NAME, HARD, VARIANTS, Variant

__all__ = [
    "BY_NAME", "CELL", "DEFAULT_SIZES", "HARD", "SIZES", "VARIANTS", "VERSION", "Params", "Variant", "attainable",
    "choose", "deal", "generate", "rationale", "text_only_accuracy", "write",
]  # fmt: skip
