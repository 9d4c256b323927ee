"""Which candidates may make training rows: policies over iterations, and over a problem's right candidates.

| policy | what it keeps |
|---|---|
| `all` | the candidates of all iterations so far (R3V) |
| `newest` | those that this iteration sampled (ReST-EM, M-STaR) |
| `window@K` | those of the last K iterations |
| `diverse` | of right candidates with the same normalised rationale, the newest |
| `cap@K` | the K newest right candidates of each problem (threshold clipping, arXiv 2510.26474) |
| `random@K` | K right candidates of each problem, a seeded draw |
| `reward@K` | the K right candidates of each problem with the highest reward (M-STaR: K = 2) |

At most one policy is about iterations, and the others apply in their order. These choose among the right candidates
that the rule of the build lets through, and leave wrong ones alone. Prompts of selections in the rationale form still
show all candidates of the iterations, so that right ones stay as frequent as they were sampled.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from data_process.schema import Candidate, DataError
from data_process.seeds import seed_for

_NUMBERED = {  # whether a policy has a K
    **dict.fromkeys(("all", "newest", "diverse"), False),
    **dict.fromkeys(("window", "cap", "random", "reward"), True),
}
_OF_ITERATIONS = ("all", "newest", "window")
KNOWN = ", ".join(f"{name}@K" if numbered else name for name, numbered in _NUMBERED.items())
DEFAULT = ("all",)


@dataclass(frozen=True)
class Policy:
    """One policy; `number` is its K."""

    name: str
    number: int | None = None

    def __str__(self) -> str:
        return self.name if self.number is None else f"{self.name}@{self.number}"


def read_policies(names: Sequence[str]) -> list[Policy]:
    """What names stand for. ValueError for one that means nothing, and for two policies about iterations."""
    found = []
    for text in names:
        name, at, number = text.partition("@")
        if name not in _NUMBERED or _NUMBERED[name] != bool(re.fullmatch("@[1-9][0-9]{0,5}", at + number)):
            raise ValueError(f"no pool policy {text!r}; known, with a number for K: {KNOWN}")
        if not _NUMBERED[name] and at:
            raise ValueError(f"the pool policy {name} takes no number, but it is {text!r}")
        found.append(Policy(name, int(number) if number else None))
    about = [str(policy) for policy in found if policy.name in _OF_ITERATIONS]
    if len(about) > 1:
        raise ValueError(f"one pool policy chooses the iterations, not {' and '.join(about)}")
    if not found:
        raise ValueError(f"no pool policy is named; the default is {DEFAULT[0]}, known are {KNOWN}")
    return found


def check_policies(names: tuple[str, ...]) -> tuple[str, ...]:
    """The names, if `read_policies` reads them."""
    read_policies(names)
    return names


def choosing(names: Sequence[str]) -> list[str]:
    """The policies that choose among right candidates."""
    return [str(policy) for policy in read_policies(names) if policy.name not in _OF_ITERATIONS]


def first_iteration(names: Sequence[str], iteration: int) -> int:
    """The first iteration whose candidates are in the pool of `iteration`; both count from 1."""
    for policy in read_policies(names):
        if policy.name in ("newest", "window"):
            return max(1, iteration - (policy.number or 1) + 1)
    return 1


def by_reward(names: Sequence[str]) -> bool:
    """Whether a policy needs rewards."""
    return any(policy.name == "reward" for policy in read_policies(names))


def check_rewards(names: Sequence[str], rewards: Mapping[str, float] | None) -> None:
    """DataError, naming the policy, if one needs rewards and there are none."""
    for policy in read_policies(names):
        if policy.name == "reward" and rewards is None:
            raise DataError(
                f"build.pool {policy} keeps the right candidates with the highest reward, and nothing supplies "
                "rewards; set reward.model to a folder that `selftrain reward` made, or use "
                f"random@{policy.number}, cap@{policy.number} or diverse"
            )


def choose(
    right: Sequence[Candidate],
    names: Sequence[str],
    seed: int,
    dropped: Counter[str],
    rewards: Mapping[str, float] | None = None,
) -> list[Candidate]:
    """Of one problem's usable right candidates, newest first, those that the policies keep, in the same order.

    Others are counted in `dropped` as "candidate:<policy>". `rewards`: candidate id -> score, the higher the better; of
    equal scores the newer candidate wins. DataError without a reward that is needed.
    """
    kept = list(right)
    for policy in read_policies(names):
        if policy.name in _OF_ITERATIONS or not kept:
            continue
        check_rewards([str(policy)], rewards)
        chosen = _CHOICES[policy.name](kept, policy.number or 0, seed, rewards or {})
        if len(chosen) < len(kept):
            dropped[f"candidate:{policy.name}"] += len(kept) - len(chosen)
        kept = chosen
    return kept


def normalised(text: str) -> str:
    """A rationale without what makes no difference to it: case, white space, punctuation, the look of numbers.

    "So  AB = 1,000.0 cm." and "so ab=1000 cm" are equal. Signs of operations, decimal points and the order stay.
    """
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"(?<=\d),(?=\d{3}(?!\d))", "", text)  # 1,000
    text = re.sub(r"(\d+)\.0+(?!\d)", r"\1", text)  # 12.0
    text = re.sub(r"(\d*\.\d*?[1-9])0+(?!\d)", r"\1", text)  # 0.50
    return " ".join(re.findall(r"\d*\.?\d+|[^\W\d_]+|[-+*/^=<>%×÷·√π°≤≥≠≈]", text))


def _diverse(right: list[Candidate], number: int, seed: int, rewards: Mapping[str, float]) -> list[Candidate]:
    first: dict[str, Candidate] = {}
    for candidate in right:
        first.setdefault(normalised(candidate.text), candidate)
    return list(first.values())


def _cap(right: list[Candidate], number: int, seed: int, rewards: Mapping[str, float]) -> list[Candidate]:
    return right[:number]


def _random(right: list[Candidate], number: int, seed: int, rewards: Mapping[str, float]) -> list[Candidate]:
    random = Random(seed_for(seed, "pool", "random", right[0].problem_id))
    places = random.sample(range(len(right)), min(number, len(right)))
    return [right[place] for place in sorted(places)]


def _reward(right: list[Candidate], number: int, seed: int, rewards: Mapping[str, float]) -> list[Candidate]:
    for candidate in right:
        if candidate.id not in rewards:
            raise DataError(f"candidate {candidate.id!r} has no reward; score every right candidate of the pool")
    best = sorted(range(len(right)), key=lambda place: (-rewards[right[place].id], place))[:number]
    return [right[place] for place in sorted(best)]


_CHOICES: dict[str, Callable[[list[Candidate], int, int, Mapping[str, float]], list[Candidate]]] = {
    "diverse": _diverse,
    "cap": _cap,
    "random": _random,
    "reward": _reward,
}
