"""Whether an answer was derived rightly, for data sets that know how their problems are solved.

A right answer may be luck: a misread label or a wrong sum, and then the right letter. A source that can check the way
to an answer adds its measure to MEASURES. Problems that no measure knows are not checked, and reports show nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from data_process.schema import Problem, Verdict
from data_process.sources.minigeo import derivation as minigeo

RIGHT = "right"


@dataclass(frozen=True)
class DerivationMeasure:
    """How one source checks the derivation in a response."""

    knows: Callable[[Problem], bool]  # whether a problem carries what the check needs
    fault: Callable[[str, Verdict, Problem], str | None]  # a name in `faults`; None: right from the start to the end
    faults: Mapping[str, str]  # name -> what it means


MEASURES: tuple[DerivationMeasure, ...] = (DerivationMeasure(minigeo.knows, minigeo.fault, minigeo.FAULTS),)


def derivation_of(text: str, verdict: Verdict, problem: Problem) -> str | None:
    """RIGHT, or the first fault of the derivation in a response; None where no measure knows the problem."""
    for measure in MEASURES:
        if measure.knows(problem):
            return measure.fault(text, verdict, problem) or RIGHT
    return None


def meanings() -> dict[str, str]:
    """What each fault of all measures means."""
    return {name: about for measure in MEASURES for name, about in measure.faults.items()}
