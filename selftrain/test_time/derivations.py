"""Honest accuracy: the part of a strategy's credit whose derivation is right, and what its wrong answers got wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from selftrain.test_time.records import Attempt, Outcome

NO_DERIVATION = "no_derivation"


def checked(outcome: Outcome, samples: Sequence[Attempt]) -> Outcome:
    """The outcome with `honest` and `faults`; unchanged where the data set has no measure of derivations.

    An answer rests on the last text that the strategy wrote for it. One that only names a choice rests on the
    `samples` instead, as a vote does: its credit is honest in the share of the right samples that are, and its wrong
    part is divided as the faults of the wrong samples are.
    """
    basis = _basis(outcome, samples)
    if not basis or any(one.derivation is None for one in basis):
        return outcome
    right = [one for one in basis if one.right]
    honest = outcome.credit * sum(one.honest for one in right) / len(right) if right else 0.0
    wrong = [one for one in basis if not one.right and one.answer is not None]
    counts = Counter(str(one.derivation) for one in wrong)
    share = max(0.0, 1 - outcome.credit - outcome.abstain)
    return replace(outcome, honest=honest, faults={name: share * k / len(wrong) for name, k in sorted(counts.items())})


def _basis(outcome: Outcome, samples: Sequence[Attempt]) -> Sequence[Attempt]:
    texts = [one for one in outcome.texts if one.derivation != NO_DERIVATION or not samples]
    if not texts:
        return samples
    if len(outcome.choices) != 1:
        return texts
    chosen = [one for one in texts if one.answer in outcome.choices[0].answers]
    return chosen[-1:] or texts[-1:]
