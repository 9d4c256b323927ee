"""Which candidates there are, by problem, and how they were judged; the checks that joins by id rest on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable

from data_process.schema import DataError, Judged, Problem


def problems_by_id(problems: Iterable[Problem]) -> dict[str, Problem]:
    """The problems by id, in their order. DataError for an id that occurs twice."""
    by_id: dict[str, Problem] = {}
    for problem in problems:
        if problem.id in by_id:
            raise DataError(f"problem id {problem.id!r} occurs twice; ids must be unique")
        by_id[problem.id] = problem
    return by_id


def group_by_problem(problems: Iterable[Problem], judged: Iterable[Judged]) -> dict[str, list[Judged]]:
    """Judged candidates by problem id, newest first; DataError for an unknown problem or a candidate seen twice."""
    census, groups = Census(), defaultdict(list)
    for item in judged:
        census.add(item)
        groups[item.candidate.problem_id].append(item)
    census.check(problems_by_id(problems))
    for group in groups.values():
        group.sort(key=lambda item: item.candidate.age_key, reverse=True)
    return groups


class Census:
    """Counts candidates and verdicts by problem, one at a time, without keeping the texts."""

    def __init__(self) -> None:
        self.verdicts: Counter[str] = Counter()  # candidates by status
        self._ages: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self._statuses: dict[str, int] = defaultdict(int)  # problem id -> `_STATUS_BITS` of its candidates
        self._age: dict[tuple[int, int], tuple[int, int]] = {}  # equal ones as one object

    def add(self, item: Judged) -> None:
        problem_id, status, age = item.candidate.problem_id, item.verdict.status, item.candidate.age_key
        self.verdicts[status] += 1
        self._ages[problem_id].append(self._age.setdefault(age, age))
        self._statuses[problem_id] |= _STATUS_BITS[status]

    def __contains__(self, problem_id: str) -> bool:
        """Whether the problem has a candidate."""
        return problem_id in self._ages

    def __len__(self) -> int:
        """Number of problems that have a candidate."""
        return len(self._ages)

    def check(self, by_id: Collection[str]) -> None:
        """DataError for a problem that is not in `by_id`, and for a candidate seen twice."""
        for problem_id, ages in self._ages.items():
            if problem_id not in by_id:
                raise DataError(
                    f"candidate '{problem_id}/{ages[0][0]}/{ages[0][1]}' belongs to none of the problems; judge and "
                    "build must read the same problem file"
                )
            if len(set(ages)) < len(ages):
                twice = next(age for age, n in Counter(ages).items() if n > 1)
                raise DataError(f"candidate '{problem_id}/{twice[0]}/{twice[1]}' occurs twice; a sample is judged once")

    def pools(self, by_id: Iterable[str]) -> Counter[str]:
        """How many problems are "all_right", "all_wrong", "mixed", "unreadable" (abstentions alone), "unsampled".

        Only verdicts count; no filter has been applied. An abstention is not correct: a problem with correct candidates
        and abstentions is mixed, one with wrong candidates and abstentions is all wrong. The values add up to the
        number of problems.
        """
        return Counter(_POOL_OF[self._statuses.get(problem_id, 0)] for problem_id in by_id)


_STATUS_BITS: dict[str, int] = {"correct": 1, "wrong": 2, "abstain": 4}
_POOL_OF = ("unsampled", "all_right", "all_wrong", "mixed", "unreadable", "mixed", "all_wrong", "mixed")
