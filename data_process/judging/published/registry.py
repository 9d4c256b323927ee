"""The judges by name: our own, MathVista's official rule, and those of published work under `legacy:`."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from data_process.judging import JUDGE_VERSION, judge
from data_process.judging.published import legacy
from data_process.judging.published.chartqa import relaxed_verdict
from data_process.judging.published.mathvista import SOURCE, official_verdict
from data_process.schema import DataError, Problem, Verdict

R3V_QWEN2 = "Liac-li/MM-self-improve-qwen2vl@58ef078"
R3V_ORIGINAL = "njucckevin/MM-Self-Improve@9bb4ae5"
R1V = "Deep-Agent/R1-V@bbbbe3d"


@dataclass(frozen=True)
class Response:
    """A response to one problem. `extraction`: the answer that somebody else extracted from `text`, any JSON value."""

    text: str
    extraction: Any = None
    truncated: bool = False  # the token limit cut the text


@dataclass(frozen=True)
class OfficialScore:
    """A benchmark's own score, reported beside the judge's."""

    about: str  # whose rule it is, for people
    verdict: Callable[[Problem, Any], Verdict]  # on an extraction: any JSON value
    # Where a file has no extractions: False takes the canonical answer that our judge read, True the answer as written.
    as_written: bool = True
    # Totals beyond accuracy, by name, from each answered problem's row and whether the rule holds the answer right.
    scores: Callable[[Sequence[tuple[Mapping[str, Any], bool]]], Mapping[str, float]] | None = None


MATHVISTA = OfficialScore("MathVista's rule", official_verdict, as_written=False)
CHARTQA = OfficialScore("ChartQA's relaxed accuracy", relaxed_verdict)


@dataclass(frozen=True)
class NamedJudge:
    """A judge and its name. `version` says whose rule it is, and at which commit."""

    name: str
    version: str
    reads: Literal["text", "extraction"]
    about: str
    verdict: Callable[[Problem, Response, int], Verdict]  # only judges that draw use the seed
    official: OfficialScore | None = None

    @property
    def mathvista(self) -> bool:
        """Whether MathVista's strict score and its result and score files can be written."""
        return self.official is MATHVISTA


def _ours(problem: Problem, response: Response, seed: int) -> Verdict:
    return judge(response.text, problem, truncated=response.truncated)


def _text(function: Callable[[str, Problem], Verdict]) -> Callable[[Problem, Response, int], Verdict]:
    return lambda problem, response, seed: function(response.text, problem)


def _drawing(function: Callable[[str, Problem, int], Verdict]) -> Callable[[Problem, Response, int], Verdict]:
    return lambda problem, response, seed: function(response.text, problem, seed)


NAMED_JUDGES: dict[str, NamedJudge] = {
    named.name: named
    for named in (
        NamedJudge("auto", JUDGE_VERSION, "text", "our judge, by each problem's answer type", _ours),
        NamedJudge(
            "mathvista", JUDGE_VERSION, "text", "our judge on MathVista's raw responses", _ours, official=MATHVISTA
        ),
        NamedJudge("geoqa", JUDGE_VERSION, "text", "our judge on GeoQA: letters, or free answers", _ours),
        NamedJudge("chartqa", JUDGE_VERSION, "text", "our judge, and ChartQA's score", _ours, official=CHARTQA),
        NamedJudge(
            "mathvista-official", SOURCE, "extraction", "MathVista's rule on the given extractions",
            lambda problem, response, seed: official_verdict(problem, response.extraction), official=MATHVISTA,
        ),
        NamedJudge("legacy:geoqa-train", R3V_QWEN2, "text", "R3V's filter of GeoQA samples", _text(legacy.geoqa_train)),
        NamedJudge(
            "legacy:geoqa-eval", R3V_QWEN2, "text", "R3V's GeoQA score, with its drawn credit",
            _drawing(legacy.geoqa_eval),
        ),
        NamedJudge("legacy:tabmwp", R3V_ORIGINAL, "text", "R3V's TabMWP score", _drawing(legacy.tabmwp)),
        NamedJudge("legacy:chartqa", R3V_ORIGINAL, "text", "R3V's ChartQA score, within 5%", _text(legacy.chartqa)),
        NamedJudge("legacy:clevr", R3V_ORIGINAL, "text", "R3V's CLEVR-Math score", _text(legacy.clevr)),
        NamedJudge(
            "legacy:mathvista-official", SOURCE, "extraction", "another name of mathvista-official",
            lambda problem, response, seed: legacy.mathvista(response.extraction, problem), official=MATHVISTA,
        ),
        NamedJudge(
            "legacy:mathvista-2023", "lupantech/MathVista, before its first commit", "extraction",
            "the rule of most published result files: no decimals for an integer",
            lambda problem, response, seed: legacy.mathvista(response.extraction, problem, decimals=False),
            official=MATHVISTA,
        ),
        NamedJudge("legacy:r1v", R1V, "text", "R1-V's GeoQA score", _text(legacy.r1v)),
    )
}  # fmt: skip


def named_judge(name: str) -> NamedJudge:
    """The judge of that name; DataError with the nearest name and the list otherwise."""
    if name in NAMED_JUDGES:
        return NAMED_JUDGES[name]
    near = difflib.get_close_matches(name, NAMED_JUDGES, n=1, cutoff=0.5)
    guess = f"; did you mean {near[0]!r}?" if near else ";"
    raise DataError(f"unknown judge {name!r}{guess} known: {', '.join(NAMED_JUDGES)}")
