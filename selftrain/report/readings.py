"""How often test was read, in words."""

from __future__ import annotations

from selftrain.report import formatting as fmt
from selftrain.runs.metrics import Metrics
from selftrain.runs.readings import Reading

UNSEEN = "The test split has not been read."
SEEN_BEFORE = "No rule chose by it, but whoever went on could have seen the earlier readings."


def test_readings(m: Metrics) -> str:
    """Sentences such as "Test was read once, for iterations 0 and 2, and chose nothing."."""
    tested = [row.iteration for row, _ in m.splits("test")]
    readings = [one for one in m.readings if "test" in one.splits]
    if not readings:
        return f"Test was read for {_weights(tested)}; nothing records how often." if tested else UNSEEN
    if len(readings) == 1 and readings[0].by == "run" and readings[0].settings is not None:
        more = fmt.extras(m)
        ways = f", with {len(fmt.strategies(m, 'test')) + len(more)} strategies each" if more else ""
        return f"Test was read once, for {_weights(readings[0].weights)}{ways}, and chose nothing."
    before = any(one.settings is None for one in readings)
    times = f"{'at least ' if before else ''}{f'{len(readings)} times' if len(readings) > 1 else 'once'}"
    later = f" {SEEN_BEFORE}" if len(readings) > 1 else ""
    return f"Test was read {times}: {'; '.join(map(_occasion, readings))}.{later}"


def _occasion(one: Reading) -> str:
    if one.by == "scale":
        settings = f"{len(one.strategies)} setting{'s' if len(one.strategies) > 1 else ''}"
        return f"by selftrain scale for {_listed(list(map(str, one.weights)))}, in {settings}"
    more = "" if one.iters == 1 else "s"
    when = "before readings were recorded" if one.settings is None else f"when the run had {one.iters} iteration{more}"
    return f"for {_weights(one.weights)} {when}"


def _weights(numbers: tuple[int | str, ...] | list[int]) -> str:
    """`iterations 0 and 2`."""
    return f"iteration{'s' if len(numbers) > 1 else ''} {_listed(['base' if k == -1 else str(k) for k in numbers])}"


def _listed(parts: list[str]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else last
