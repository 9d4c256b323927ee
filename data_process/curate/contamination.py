"""Test problems in a pool, by the leakage guard, which also runs before every loop.

Only problems whose words may match a test problem's are shown to the guard: a leak needs that.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from data_process.curate.pool import Item, Pool
from data_process.decontamination.guard import guard
from data_process.decontamination.near_text import may_match, read_text
from data_process.images.marks import without_marks
from data_process.io import load_problems
from data_process.schema import DataError, Problem


@dataclass(frozen=True)
class TestSets:
    """The problems that must not be trained on, by name, and the folders of their images."""

    __test__ = False  # no test class, whatever pytest thinks

    problems: Mapping[str, Sequence[Problem]]
    folders: Mapping[str, Path]
    allow_sources: Collection[str] = ()


def load_tests(pool: Path, splits: Sequence[str], files: Sequence[Path], allow_sources: Collection[str]) -> TestSets:
    """The splits of the pool's folder that are there, and files of problems elsewhere. DataError if none is found."""
    found: dict[str, Path] = {name: pool / f"{name}.jsonl" for name in splits if (pool / f"{name}.jsonl").is_file()}
    for file in files:
        path = file / "test.jsonl" if file.is_dir() else file
        found[str(file)] = path
    if not found:
        raise DataError(
            f"contamination: {pool} has none of {', '.join(f'{name}.jsonl' for name in splits)}; name test sets in "
            "contamination.files, or leave contamination out of filters"
        )
    problems = {name: load_problems(path, path.parent) for name, path in found.items()}
    return TestSets(problems, {name: path.parent for name, path in found.items()}, allow_sources)


def suspicion(tests: TestSets | None) -> Callable[[Problem], bool]:
    """Whether a problem may match one of the test sets by its words."""
    if tests is None:
        return lambda problem: False
    wordings = {_wording(problem) for problems in tests.problems.values() for problem in problems}
    matches = may_match(wordings)
    return lambda problem: matches(_wording(problem))


def _wording(problem: Problem) -> tuple[str, ...]:
    return read_text(without_marks(problem.full_question) if problem.images else problem.full_question).words


def leaks(items: Sequence[Item], pool: Pool, tests: TestSets) -> tuple[dict[str, str], bool]:
    """The reasons of the items that leak, by id; and whether others may once some of the items have left.

    That is so where an image cannot be compared and several problems have the words of a test problem: the last of them
    is known by its words.
    """
    origins = {item.origin for item in items}
    shown = [pool.suspects[item.id] for item in items if item.id in pool.suspects]
    ids = {problem.id for problem in shown}
    shown += [p for origin, p in pool.standins.items() if origin in origins and p.id not in ids]
    if not shown:
        return {}, False
    report = guard(shown, tests.problems, pool.root, dict(tests.folders), allow_sources=tests.allow_sources)
    found = {
        leak.train_id: f"{leak.kind} leak: {leak.test_id!r} of {leak.test_set}"
        for leak in reversed(report.leaks)
        if leak.blocking
    }
    blocked = {o.train_source: f"from {o.train_source}, of which {o.test_set} contains problems"
               for o in report.sources if o.blocking}  # fmt: skip
    known = {item.id: item for item in items}
    found = {identifier: why for identifier, why in found.items() if identifier in known}
    found |= {item.id: blocked[item.origin] for item in items if item.origin in blocked}
    return found, any(leak.kind == "template" for leak in report.leaks)
