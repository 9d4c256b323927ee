"""ChartQA's relaxed accuracy (Masry et al. 2022, section 5.1, after Methani et al. 2020).

A number is right within 5% of the gold number, and any other answer must be the gold text, case aside. Numbers are read
as the evaluation code of Pix2Struct reads them (google-research/pix2struct, `metrics.py`), which published scores use:
"14%" is 0.14, "1,400" and "$14" are no numbers, a gold 0 must be written the same, and a year is a number like others.
"""

from __future__ import annotations

from typing import Any

from data_process.schema import Problem, Verdict

SOURCE = "google-research/pix2struct, metrics.py"
TOLERANCE = 0.05  # of the gold number, boundary included


def _number(text: str) -> float | None:
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed(prediction: str, gold: str) -> bool:
    """Whether an answer is right by the relaxed rule."""
    said, wanted = _number(prediction), _number(gold)
    if said is not None and wanted:
        return abs(said - wanted) / abs(wanted) <= TOLERANCE
    return prediction.lower() == gold.lower()


def relaxed_verdict(problem: Problem, extraction: Any) -> Verdict:
    """The verdict on an extracted answer. The first accepted answer that it matches decides."""
    said = str("" if extraction is None else extraction).strip()
    right = any(relaxed(said, gold.strip()) for gold in (problem.gold_text, *problem.alternatives))
    return Verdict("correct" if right else "wrong" if said else "abstain", said or None, "official:relaxed")
