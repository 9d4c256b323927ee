"""The accuracy table of a run for the terminal. rich is imported inside the functions."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from selftrain.report import formatting as fmt
from selftrain.report.formatting import SPLITS, number, strategies
from selftrain.report.tables import abstain_rate, provenance
from selftrain.runs.metrics import Metrics
from selftrain.test_time.results import SplitResult

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


INTERVAL = len("[50.6, 64.1]")  # headers of a narrow table are wrapped to it, too
Column = tuple[str, Callable[[SplitResult], str]]


def terminal_table(m: Metrics, width: int) -> Group:
    """Dev above test, the accepted iteration marked and bold.

    Where `width` characters do not hold it, intervals go below their numbers, and columns that still find no room
    follow in further tables. No number is cut.
    """
    from rich.console import Console, Group
    from rich.measure import Measurement
    from rich.text import Text

    console = Console()
    unlimited = console.options.update(width=10_000)

    def fits(table: Table) -> bool:
        return Measurement.get(console, unlimited, table).maximum <= width

    rest: list[Column] = [
        (fmt.strategy_name(m, name, fmt.SHORT_NAMES), partial(_score, name)) for name in strategies(m, "dev", "test")
    ]
    rest.append(("Abst.", abstain_rate))
    tables = [_table(m, rest)]
    if not fits(tables[0]):
        tables.clear()
        while rest:
            n = next((n for n in range(len(rest), 1, -1) if fits(_table(m, rest[:n], narrow=True))), 1)
            tables.append(_table(m, rest[:n], narrow=True))
            rest = rest[n:]
    tables[0].title, tables[-1].caption = Text(m.run.name), Text(provenance(m))
    return Group(*tables)


def _score(strategy: str, split: SplitResult) -> str:
    return fmt.with_interval(split.strategies.get(strategy))


def _table(m: Metrics, columns: Sequence[Column], *, narrow: bool = False) -> Table:
    """The table of some columns; `narrow`: with intervals below their numbers."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left")
    for position, name in enumerate(["Split", "Iter", "n", *(name for name, _ in columns)]):
        header = textwrap.fill(name, INTERVAL, break_long_words=False) if narrow else name
        table.add_column(Text(header), justify="left" if position < 2 else "right", no_wrap=True)
    for split_name, label in SPLITS.items():
        for row, split in m.splits(split_name):
            chosen = row.iteration == m.accepted
            cells = [label, f"{fmt.iteration_name(m, row.iteration)}{' ★' if chosen else ''}", number(split.n)]
            cells += [cell(split).replace(" [", "\n[" if narrow else " [") for _, cell in columns]
            # Text, because a plain string would be read as rich markup.
            table.add_row(*(Text(cell) for cell in cells), style="bold" if chosen else None)
        table.add_section()
    return table
