"""Feeds mutated files to every reader: whatever a file holds, it is read or refused with a typed error, in time.

    python -m benchmarks.fuzz                       # 100,000 inputs, an hour on one core
    python -m benchmarks.fuzz --inputs 2000 --only configs --only bank
    python -m benchmarks.fuzz --seed 7 --keep faults/    # keeps the inputs that led to a fault

Ctrl-C and SIGTERM stop it at once.

The seeds are real files: a rehearsal's run folder and bank, MiniGeo, tables in every format, images in every format,
the configurations that ship. A fault is any exception but a UserError, a call that takes more than 10 seconds
or 600 MB of memory, and a file that was changed by reading it.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data_process.errors import UserError

SECONDS = 10  # for one input
MEMORY = 600_000_000  # bytes by which one input may make the process grow
ROOT = Path(__file__).parents[1]
# fmt: off
HOSTILE: list[Any] = [
    None, True, False, 0, -1, 2**31, 2**63, 2**70, -(2**70), 0.5, -0.0, 1e308, 1e-320, "", " ", "\0", "\ud800",
    "\u202e", "a" * 5000, "1" * 5000, "<script>", "=1+1", "[/b]", "{x}", "../../etc/passwd", "/etc/passwd", "banana",
    "NaN", "inf", "10**10**10", "\\frac{1}{0}", "(" * 500, [], {}, [None], [[]], {"": None}, ["a", 1, None],
    {"a": {"b": {"c": []}}},
]
HOSTILE_TEXT = [
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\\ud800", b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"NaN", b"-",
    b"\n", b"\r", b"\t", b'"', b"'", b",", b":", b"}", b"]", b"&a ", b"*a ", b"!!binary ", b"? [a, b]\n: c\n", b"--- ",
]
# fmt: on


@dataclass(frozen=True)
class Target:
    """A reader, with files to mutate. `read` gets the path of a mutated file; it may raise UserError."""

    name: str
    seeds: tuple[tuple[str, bytes], ...]  # file name, content
    read: Callable[[Path], object]
    folder: Path | None = None  # a folder in which the file takes its place, for readers of several files
    share: float = 1.0  # of the inputs that others get, for readers that take long


@dataclass
class Findings:
    """What the inputs of a target led to."""

    inputs: int = 0
    refused: int = 0
    slowest: float = 0.0  # seconds
    faults: Counter[str] = field(default_factory=Counter)


class TooSlow(BaseException):
    """An input that takes longer than SECONDS. No Exception, so that no reader takes it for one of its own."""


class Ended(BaseException):
    """A signal asked the command to stop. No KeyboardInterrupt, which the commands that are fuzzed catch."""


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP raise SystemExit with a shell's status; a second signal ends the process at once."""

    def end(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)
        raise Ended(number)

    before = {n: signal.signal(n, end) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    except Ended as error:
        number = signal.Signals(error.args[0])
        print(f"stopped by {number.name}", file=sys.stderr)
        raise SystemExit(128 + number) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def mutated(content: bytes, drawn: random.Random) -> bytes:
    """A file with something wrong: a value of its JSON replaced, or bytes changed, removed, added or repeated.

    Half of the compressed files are sound, with something wrong in what they hold.
    """
    if content.startswith(b"\x1f\x8b") and drawn.random() < 0.5:
        return gzip.compress(mutated(gzip.decompress(content), drawn), 1)
    if content.startswith(b"PK") and drawn.random() < 0.5:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        one = drawn.choice(list(members))
        members[one] = mutated(members[one], drawn)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return out.getvalue()
    if drawn.random() < 0.5 and (changed := _with_other_value(content, drawn)) is not None:
        return changed
    data = bytearray(content)
    for _ in range(drawn.choice((1, 1, 1, 2, 5, 30))):
        at = drawn.randrange(len(data) + 1)
        length = drawn.choice((1, 1, 2, 4, 50))
        what = drawn.randrange(6)
        if what == 0 and at < len(data):
            data[at] ^= 1 << drawn.randrange(8)
        elif what == 1:
            data[at : at + length] = drawn.randbytes(length)
        elif what == 2:
            del data[at : at + length]
        elif what == 3:
            data[at:at] = drawn.choice(HOSTILE_TEXT)
        elif what == 4:
            data[at:at] = data[at : at + length * 20]
        elif drawn.random() < 0.2:
            del data[at:]
    return bytes(data)


def _with_other_value(content: bytes, drawn: random.Random) -> bytes | None:
    """JSON, or JSON Lines, with one value replaced, removed or added; None for other files."""
    lines = content.split(b"\n")
    number = drawn.randrange(max(1, len(lines) - 1)) if len(lines) > 2 and lines[0].startswith(b"{") else None
    try:
        value = json.loads(content if number is None else lines[number])
    except (ValueError, RecursionError):
        return None
    holder, key = {"": value}, ""  # type: ignore[var-annotated]
    place: Any = holder
    while drawn.random() < 0.75:
        inner = place[key]
        keys = list(inner) if isinstance(inner, dict) else list(range(len(inner))) if isinstance(inner, list) else []
        if not keys:
            break
        place, key = inner, drawn.choice(keys)
    what = drawn.random()
    if what < 0.2 and place is not holder:
        del place[key]
    elif what < 0.3 and isinstance(place, dict):
        place["more"] = drawn.choice(HOSTILE)
    else:
        place[key] = drawn.choice(HOSTILE)
    text = json.dumps(holder[""]).encode()
    if number is None:
        return text
    lines[number] = text
    return b"\n".join(lines)


def _alarm(*_: object) -> None:
    raise TooSlow


def _size(name: str) -> int:
    """Bytes of this process in memory now (VmRSS), or at most (VmHWM)."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith(name))


def run_one(target: Target, content: bytes, name: str, folder: Path) -> tuple[str | None, bool, float]:
    """(fault or None, whether it was refused, seconds) of one input."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")  # the largest size is counted from here on
    before = _size("VmRSS")
    started, refused, fault = time.perf_counter(), False, None
    for limit in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(limit, _alarm)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # of the processor, so that a busy machine is no fault
    signal.alarm(20 * SECONDS)  # for a reader that only waits
    try:
        target.read(path)
    except UserError as error:
        refused = True
        if len(str(error)) > 20_000:
            fault = f"a message of {len(str(error)):,} characters from {type(error).__name__}"
    except TooSlow:
        fault = f"more than {SECONDS} s"
    except Exception as error:  # whatever is no UserError is what this looks for
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if str(ROOT) in frame.filename and "fuzz.py" not in frame.filename] or frames
        fault = f"{type(error).__name__} at {Path(ours[-1].filename).name}:{ours[-1].lineno} ({str(error)[:80]})"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
    if fault is None and (grown := _size("VmHWM") - before) > MEMORY:
        fault = f"{grown / 1e6:,.0f} MB of memory"
    if fault is None and target.folder is None and path.exists() and path.read_bytes() != content:
        fault = "the file was changed"
    return fault, refused, time.perf_counter() - started


def fuzz(target: Target, inputs: int, seed: int, keep: Path | None = None) -> Findings:
    """Mutate the seeds of a target `inputs` times, and read each of them."""
    found = Findings()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "in"
        if target.folder is not None:
            shutil.copytree(target.folder, folder)
        folder.mkdir(exist_ok=True)
        for number in range(inputs):
            drawn = random.Random(f"{seed} {target.name} {number}")
            name, content = drawn.choice(target.seeds)
            changed = mutated(content, drawn)
            with quiet():
                fault, refused, seconds = run_one(target, changed, name, folder)
            found.inputs += 1
            found.refused += refused
            found.slowest = max(found.slowest, seconds)
            if fault is not None:
                if keep is not None and not found.faults[fault]:
                    keep.mkdir(parents=True, exist_ok=True)
                    (keep / f"{target.name}-{number}-{Path(name).name}").write_bytes(changed)
                found.faults[fault] += 1
            if target.folder is not None:
                (folder / name).write_bytes(content)
    return found


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Nothing of what the readers print is shown."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def targets(work: Path) -> list[Target]:
    """Every reader with its seeds, which are made in `work`."""
    from benchmarks import fuzz_targets

    return fuzz_targets.all_targets(work)


def main() -> None:
    parser = argparse.ArgumentParser(description="Feed mutated files to every reader.")
    parser.add_argument("--inputs", type=int, default=100_000, help="inputs in all (default 100,000)")
    parser.add_argument("--seed", type=int, default=0, help="another seed draws other inputs")
    parser.add_argument("--only", action="append", help="name of a target; may be given several times")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="write the first input of each fault here")
    args = parser.parse_args()
    with ended_by_signals(), tempfile.TemporaryDirectory() as folder:
        chosen = [one for one in targets(Path(folder)) if not args.only or one.name in args.only]
        total, faults = 0, 0
        print(f"{'target':20} {'inputs':>8} {'refused':>8} {'slowest':>9}  faults")
        for target in chosen:
            inputs = round(args.inputs * target.share / sum(one.share for one in chosen))
            found = fuzz(target, inputs, args.seed, args.keep)
            total, faults = total + found.inputs, faults + found.faults.total()
            print(
                f"{target.name:20} {found.inputs:8,} {found.refused:8,} {found.slowest:8.2f}s  {found.faults.total()}",
                flush=True,
            )
            for fault, count in found.faults.most_common(20):
                print(f"    {count:6,}  {fault}", flush=True)
    print(f"{total:,} inputs, {faults:,} faults")
    raise SystemExit(int(faults > 0))


if __name__ == "__main__":
    main()
