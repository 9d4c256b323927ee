"""Data sets known to share problems, even where texts and images differ.

MathVista is drawn from 31 data sets. Of its testmini 1,000 problems 62 are from GeoQA+, 62 from UniGeo, 62 from
Geometry3K and 22 from GEOS, the very sets that geometry solvers are trained on (Lu et al. 2024, arXiv 2310.02255;
counts from the published testmini file). Some questions were reworded, so comparing texts misses them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data_process.schema import Problem

# Data sets of one family contain each other's problems: GeoQA+ extends GeoQA, UniGeo's calculation part is GeoQA, and
# GEOQA_R1V_Train_8K and Geo170K are made from GeoQA+. Names are compared in lower case without separators.
FAMILIES = {
    "GeoQA": ("geoqa", "unigeo", "geo170k"),
    "Geometry3K": ("geometry3k", "geo3k", "intergps"),
    "GEOS": ("geos",),
}
MATHVISTA_CATEGORIES = ("math-targeted-vqa", "general-vqa")  # the values of its metadata's `category`


@dataclass(frozen=True)
class SourceOverlap:
    """Training problems from a source that part of a test set was taken from."""

    family: str
    train_source: str
    test_set: str
    test_source: str
    n_train: int  # problems
    n_test: int
    blocking: bool  # False where the caller allowed the family


def source_of(problem: Problem) -> str | None:
    """The data set that a problem names: `meta["source"]`, or that of MathVista's own `metadata`."""
    sources = [fields.get("source") for fields in _metadata(problem)]
    return next((source.strip() for source in sources if isinstance(source, str) and source.strip()), None)


def _metadata(problem: Problem) -> tuple[Mapping[str, object], ...]:
    """The problem's meta, and MathVista's own `metadata` in it, if it is there."""
    nested = problem.meta.get("metadata")
    return (problem.meta, nested) if isinstance(nested, dict) else (problem.meta,)


def family_of(source: str) -> str | None:
    """The family of a data set's name, in any spelling: "GeoQA+", "geoqa_plus", "leonardPKU/GEOQA_R1V_Train_8K"."""
    name = re.sub(r"[^a-z0-9/]", "", source.casefold())
    for family, prefixes in FAMILIES.items():
        if any(part.startswith(prefixes) for part in name.split("/")):
            return family
    return None


def source_overlaps(
    train: Sequence[Problem],
    test: Sequence[Problem],
    *,
    test_set: str = "test",
    train_source: str | None = None,
    allowed: Sequence[str] = (),
) -> list[SourceOverlap]:
    """Known overlaps, found by names alone: a training source and a MathVista source of one family.

    Only MathVista's problems count on the test side, because GeoQA's own train and test splits share a source and are
    disjoint. `train_source` names the source of training problems that do not name one; `allowed` holds families.
    """
    trained = Counter(source for problem in train if (source := source_of(problem) or train_source))
    of_mathvista = (p for p in test if any(f.get("category") in MATHVISTA_CATEGORIES for f in _metadata(p)))
    tested = Counter(source for problem in of_mathvista if (source := source_of(problem)))
    return [
        SourceOverlap(family, source, test_set, other, n_train, n_test, blocking=family not in allowed)
        for source, n_train in sorted(trained.items())
        for other, n_test in sorted(tested.items())
        if (family := family_of(source)) is not None and family == family_of(other)
    ]
