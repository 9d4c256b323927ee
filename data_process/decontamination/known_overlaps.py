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

from data_process.schema import Origin, Problem

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


def origin_of(problem: Problem, default: str | None = None) -> Origin | None:
    """The problem's origin; without one, what its meta says, as rows without `origin` have it; else `default`."""
    if problem.origin is not None:
        return problem.origin
    official = problem.meta.get("mathvista")
    places = (problem.meta, problem.meta.get("metadata"), official and official.get("metadata"))
    metas = [fields for fields in places if isinstance(fields, Mapping)]
    named = (source.strip() for fields in metas if isinstance(source := fields.get("source"), str))
    in_mathvista = any(fields.get("category") in MATHVISTA_CATEGORIES for fields in metas)
    dataset = next(filter(None, named), default)
    return Origin(dataset, "MathVista" if in_mathvista else None) if dataset else None


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
    """Known overlaps, found by names alone: data sets of one family, of which a collection took one.

    The train and test splits that one data set or one collection publishes are disjoint and do not count.
    `train_source` names the data set of training problems without an origin; `allowed` holds families.
    """
    trained = Counter(origin for problem in train if (origin := origin_of(problem, train_source)))
    tested = Counter(origin for problem in test if (origin := origin_of(problem)))
    return [
        SourceOverlap(family, ours.dataset, test_set, theirs.dataset, n_train, n_test, blocking=family not in allowed)
        for ours, n_train in sorted(trained.items(), key=str)
        for theirs, n_test in sorted(tested.items(), key=str)
        if ours.collection != theirs.collection
        and (family := family_of(ours.dataset)) is not None
        and family == family_of(theirs.dataset)
    ]
