"""Which iteration becomes a run's result, which are rolled back, and when a run stops for lack of gain.

Dev decides, never test.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from data_process.seeds import seed_for
from selftrain.config import AcceptanceConfig
from selftrain.files import Record
from selftrain.runs.run_dir import called
from selftrain.test_time.results import Comparison, EvaluatedProblem, IterationNumber, compare

Status = Literal["accepted", "equal", "worse"]
ORACLE = "pass"


class Decision(Record):
    """What became of one iteration, against the one that was accepted until then."""

    iteration: IterationNumber
    status: Status
    evidence: Comparison  # greedy on dev, the iteration minus the accepted one
    goes_on_from: IterationNumber  # whose weights the next iteration samples and, where training goes on, trains

    @property
    def rolled_back(self) -> bool:
        return self.goes_on_from != self.iteration

    def __str__(self) -> str:
        c = self.evidence
        interval = "" if c.low is None or c.high is None else f" [{100 * c.low:+.1f}, {100 * c.high:+.1f}]"
        undone = f"; it is rolled back, and the next one goes on from {called(self.goes_on_from)}"
        return (
            f"iteration {self.iteration} is {self.status}: greedy on dev {100 * c.difference:+.1f} "
            f"points{interval} against {called(c.a)}{undone if self.rolled_back else ''}"
        )


def decide(dev: Mapping[int, Sequence[EvaluatedProblem]], settings: AcceptanceConfig, seed: int) -> list[Decision]:
    """A decision for each iteration after the base model, in order.

    With the rule `best`, an iteration is accepted if its greedy accuracy on dev is above that of the accepted one,
    and equal otherwise. With `interval`, it is accepted if the paired 95% interval of the difference is above 0,
    worse if it is below 0, and equal if it contains 0. The next iteration goes on from the last weights, or from the
    accepted ones after a worse iteration that `rollback` undoes.
    """
    accepted, found = min(dev), []
    for k in sorted(dev)[1:]:
        c = compare(dev[accepted], dev[k], "dev", "greedy", seed_for(seed, "acceptance", accepted, k))
        low, high = (c.low, c.high) if settings.rule == "interval" else (c.difference, None)
        status: Status = "equal"
        if low is not None and low > 0:
            status = "accepted"
        elif high is not None and high < 0:
            status = "worse"
        accepted = k if status == "accepted" else accepted
        goes_on_from = accepted if settings.rollback and status == "worse" else k
        found.append(Decision(iteration=k, status=status, evidence=c, goes_on_from=goes_on_from))
    return found


def accepted_of(decisions: Sequence[Decision], base: int = 0) -> int:
    """The iteration that a run has accepted after these decisions; `base` is the number of the base model."""
    return max((one.iteration for one in decisions if one.status == "accepted"), default=base)


def reason_to_stop(
    dev: Mapping[int, Sequence[EvaluatedProblem]], decisions: Sequence[Decision], settings: AcceptanceConfig, seed: int
) -> str | None:
    """Why no further iteration should follow, or None: too many without a gain, or pass@N fell too far below the base.

    The pass@N of an iteration that was rolled back stops nothing: its weights are not used any more. ValueError if
    `max_pass_drop` is set and dev was not measured with the strategy `pass`.
    """
    base = min(dev)
    without = sum(one.iteration > accepted_of(decisions, base) for one in decisions)
    if settings.patience is not None and without >= settings.patience:
        accepted = accepted_of(decisions, base)
        since = f"since iteration {accepted}" if accepted > base else "above the base model"
        return f"no gain on dev {since}, for {without} iteration{'s' if without > 1 else ''} (acceptance.patience)"
    if settings.max_pass_drop is None or not decisions or decisions[-1].rolled_back:
        return None
    c = compare(dev[base], dev[max(dev)], "dev", ORACLE, seed_for(seed, "acceptance", "pass", max(dev)))
    if c.high is not None and c.high < 0 and -c.difference > settings.max_pass_drop:
        return (
            f"pass@N on dev fell by {-100 * c.difference:.1f} points [{-100 * c.high:.1f}, "
            f"{-100 * (c.low if c.low is not None else c.difference):.1f}] below the base model, more than "
            f"acceptance.max_pass_drop {100 * settings.max_pass_drop:.1f}: samples have become too alike to learn from"
        )
    return None
