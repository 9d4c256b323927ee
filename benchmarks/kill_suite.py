"""Whether a run that is killed anywhere, and resumed, ends as one that was left alone.

    python -m benchmarks.kill_suite --kills 100 --json out.json

A run of the rehearsal is left alone. Chains of sessions follow, each in a folder and a bank of its own. Each session is
killed and the next one resumes, until one reaches the end: by SIGKILL at random moments, by SIGTERM and by Ctrl-C at
random moments, and by SIGKILL after every path that is new to the chain. After every kill all samples that were in the
bank must be there still, unchanged; at the end every artefact must be the same, byte for byte, and the bank must hold
the same samples. Then the disk is full at the bank, the rows, the adapter and the report in turn: the session must end
with status 2 and name the path, and the next one must end as if nothing had happened. Exit status 1 if anything was
lost, doubled or different. Sessions are forks of this process, which has imported everything: they start at once.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import io
import os
import random
import signal
import sqlite3
import sys
import tempfile
import time
import traceback
import unittest.mock
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.measuring import machine, show, table
from data_process.io import read_jsonl
from data_process.sources import minigeo
from selftrain import loop
from selftrain.cli.run import run_main
from selftrain.runs.readings import FILE as READINGS
from selftrain.runs.run_dir import folder_digests
from selftrain.sampling.bank import Bank

REHEARSAL = Path("configs/rehearsal.yaml")
SIZES = {"train": 40, "dev": 16, "test": 16}
UNIT_ROWS = 48  # samples that the bank gets at once: several units a stage, so that kills fall between them
REPORT = "report.html"
FULL_AT = ("bank", "examples.jsonl", "adapter_model", REPORT)


class Different(AssertionError):
    """A run did not end as the one that was left alone, or lost a sample on the way."""


@dataclass(frozen=True)
class Place:
    """Where the sessions of a chain work."""

    data: Path
    folder: Path
    iters: int
    report: bool = True  # whether sessions write the report, whose figures take most of a rehearsal's time

    @property
    def run(self) -> Path:
        return self.folder / "run"

    @property
    def bank(self) -> Path:
        return self.folder / "bank.sqlite"

    def argv(self) -> list[str]:
        # The pictures lie beside the bank; rows name them, so all chains share the folder of the pictures.
        sets = (f"data.folder={self.data}", f"bank={self.bank}", f"engine.batch_size={UNIT_ROWS}")
        plain = ("--config", str(REHEARSAL), "--output", str(self.run), "--iters", str(self.iters), "--quiet")
        return [*plain, *(part for one in sets for part in ("--set", one))]


def artefacts(place: Place) -> dict[str, Any]:
    """All that a run leaves and that does not depend on the clock, or on where it lies."""
    run = place.run
    stages = {str(file.parent.relative_to(run)): file.parent for file in sorted(run.rglob("stage.json"))}
    digests = {name: folder_digests(folder) for name, folder in stages.items()}
    plain = {name: hashlib.sha256((run / name).read_bytes()).hexdigest() for name in ("metrics.json", "data.json")}
    readings = [{key: value for key, value in row.items() if key != "time"} for row in read_jsonl(run / READINGS)]
    files = sorted(str(file.relative_to(run)) for file in run.rglob("*") if file.is_file() and not _drawn(file))
    return {"stages": digests, "files": files, "readings": readings, **plain}


def _drawn(file: Path) -> bool:
    return file.name.startswith(("report.", "curve."))


def samples(bank: Path) -> dict[tuple[str, int], str]:
    """Each sample of a bank by its key and number, as a digest of all but the time when it was drawn."""
    if not bank.is_file():
        return {}
    with contextlib.closing(sqlite3.connect(bank)) as db:
        tables = {name for (name,) in db.execute("SELECT name FROM sqlite_schema")}
        if "samples" not in tables:
            return {}
        names = [name for _, name, *_ in db.execute("PRAGMA table_info(samples)") if name != "created"]
        rows = list(db.execute(f"SELECT {', '.join(names)} FROM samples"))
    found = {(row[0], row[1]): hashlib.sha256(repr(row).encode()).hexdigest() for row in rows}
    if len(found) != len(rows):
        raise Different(f"{bank}: {len(rows) - len(found)} samples are there twice")
    return found


def session(place: Place, prepare: Callable[[], None] = lambda: None) -> tuple[int, Path]:
    """Start a session in a fork; returns its process id and the file with what it says."""
    log = place.folder / "said.txt"
    sys.stdout.flush()
    pid = os.fork()
    if pid:
        return pid, log
    status = 70  # what a crash of ours looks like from outside
    try:
        with log.open("w") as file, contextlib.redirect_stderr(file), contextlib.redirect_stdout(io.StringIO()):
            try:
                signal.signal(signal.SIGINT, signal.default_int_handler)
                for number in (signal.SIGTERM, signal.SIGHUP):  # whatever the process that forks had set
                    signal.signal(number, signal.SIG_DFL)
                prepare()
                status = (run_main if place.report else _without_report)(place.argv())
            except KeyboardInterrupt:  # before `run_main` catches it, or after
                status = 128 + signal.SIGINT
            except BaseException:  # a fork may not return into its parent's code
                traceback.print_exc()
    except KeyboardInterrupt:  # while the file is opened or closed
        status = 128 + signal.SIGINT
    finally:
        os._exit(status)


def _without_report(argv: Sequence[str]) -> int:
    with unittest.mock.patch.object(loop, "write_run_report", return_value=[]):
        return run_main(argv)


def ended(pid: int) -> int:
    """The exit status of a session; negative is the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@dataclass
class Chain:
    """Sessions on one folder, each killed but the last."""

    place: Place
    expected: dict[str, Any]
    drawn: dict[tuple[str, int], str]  # of the run that was left alone
    kills: int = 0
    kept: dict[tuple[str, int], str] = field(default_factory=dict)

    def after_a_kill(self) -> None:
        now = samples(self.place.bank)
        lost = [key for key, digest in self.kept.items() if now.get(key) != digest]
        if lost:
            raise Different(f"{len(lost)} samples were lost or changed by kill {self.kills + 1} in {self.place.folder}")
        self.kept, self.kills = now, self.kills + 1

    def at_the_end(self) -> None:
        now = samples(self.place.bank)
        if now != self.drawn:
            raise Different(f"{self.place.bank} holds {len(now)} samples, and {len(self.drawn)} others were expected")
        found = artefacts(self.place)
        wrong = [name for name in self.expected if found[name] != self.expected[name]]
        if wrong:
            raise Different(f"{self.place.run}: {', '.join(wrong)} differ from those of the run that was left alone")


def at_random(chain: Chain, seconds: float, rng: random.Random, numbers: Sequence[int]) -> float:
    """Signals at random moments within `seconds`, until a session ends before its moment.

    Returns how long a whole run takes now, as far as this tells: the machine may have become faster or slower.
    """
    while True:
        pid, log = session(chain.place)
        started = time.monotonic()
        most = seconds / 2 if chain.kills else seconds  # a session that resumes has less to do
        number, until = rng.choice(numbers), started + rng.uniform(0, most)
        while time.monotonic() < until and not _has_ended(pid):
            time.sleep(0.001)
        os.kill(pid, number)  # a process that has ended stays a zombie until it is asked for
        status = ended(pid)
        if status == 0:
            return seconds if chain.kills else time.monotonic() - started
        # Before its handlers stand, and after they are gone, a session ends by the signal itself.
        if status not in (-number, 128 + number):
            raise Different(f"status {status} after signal {number}: {log.read_text()}")
        if "Traceback" in log.read_text():
            raise Different(f"signal {number}: {log.read_text()}")
        chain.after_a_kill()


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def after_every_path(chain: Chain, most: int | None) -> None:
    """SIGKILL as soon as something follows the making of a path that is new to the chain; at most `most` times."""
    seen: set[str] = set()
    while most is None or chain.kills < most:
        reader, writer = os.pipe()
        pid, log = session(chain.place, lambda writer=writer: _die_after_a_new_path(chain.place.folder, seen, writer))
        os.close(writer)
        with open(reader, encoding="utf-8") as told:
            name = told.read()
        status = ended(pid)
        if status == 0:
            return
        if status != -signal.SIGKILL:
            raise Different(f"status {status}: {log.read_text()}")
        seen.add(name)
        chain.after_a_kill()
    if ended(session(chain.place)[0]):
        raise Different(f"{chain.place.run} cannot be resumed: {(chain.place.folder / 'said.txt').read_text()}")


def _die_after_a_new_path(folder: Path, seen: set[str], tell: int) -> None:
    """In a session: from now on, the operation on files that follows a new path is the last."""
    made: list[str] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event not in ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "sqlite3.connect"):
            return
        if made:
            os.write(tell, made[0].encode())
            os.kill(os.getpid(), signal.SIGKILL)
        path = args[1] if event == "os.rename" else args[0]
        writes = event in ("os.rename", "os.mkdir") or (event == "open" and str(args[1])[:1] in "wax")
        if writes and isinstance(path, str | os.PathLike):
            name = os.path.relpath(os.fspath(path), folder)
            # A partial file is called after its process.
            name = ".".join(part for part in name.split(".") if part != str(os.getpid()))
            if not name.startswith("..") and name not in seen and not name.endswith(("said.txt", "lock")):
                made.append(name)

    sys.addaudithook(hook)


def with_a_full_disk(chain: Chain, where: str) -> None:
    """A session finds no room at one place; the next one finds some."""
    status = ended(session(chain.place, lambda: _fill_up(where))[0])
    said = (chain.place.folder / "said.txt").read_text()
    named = str(chain.place.bank) if where == "bank" else where
    if status != 2 or "Traceback" in said or named not in said or "run the same command again" not in said:
        raise Different(f"disk full at {where}: status {status}: {said}")
    chain.after_a_kill()
    if status := ended(session(chain.place)[0]):
        raise Different(f"status {status} once there was room: {(chain.place.folder / 'said.txt').read_text()}")


def _fill_up(where: str) -> None:
    """In a session: no room for a file whose name holds `where`, or for another page of the bank."""
    if where == "bank":
        opened = Bank.__init__

        def with_few_pages(bank: Bank, path: Path) -> None:
            opened(bank, path)
            (pages,) = bank._db.execute("PRAGMA page_count").fetchone()
            bank._db.execute(f"PRAGMA max_page_count={pages + 20}")

        Bank.__init__ = with_few_pages  # type: ignore[method-assign]
        return

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and str(args[1])[:1] in "wax" and where in str(args[0]):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(args[0]))

    sys.addaudithook(hook)


def suite(
    folder: Path,
    *,
    kills: int,
    paths: int | None,
    signals: int,
    seed: int,
    iters: int,
    report: bool = True,
    full_at: Sequence[str] = FULL_AT,
) -> list[dict[str, Any]]:
    """A row for each way to stop a run; Different if one of them shows.

    `paths`: how many new paths, None for all. `report`: False leaves it out but where its disk is full.
    """
    minigeo.write(folder / "data", SIZES, seed=0)
    with contextlib.redirect_stdout(io.StringIO()):  # imports what a run needs, which the forks then have
        first = Place(folder / "data", folder / "first", 1)
        first.folder.mkdir()
        (run_main if report else _without_report)(first.argv())
    alone = Place(folder / "data", folder / "alone", iters, report)
    alone.folder.mkdir()
    started = time.monotonic()
    if status := ended(session(alone)[0]):
        raise Different(
            f"the run that is left alone ends with status {status}: {(alone.folder / 'said.txt').read_text()}"
        )
    seconds, rng, rows = time.monotonic() - started, random.Random(seed), list[dict[str, Any]]()
    print(f"  left alone, it takes {seconds:.1f} s", file=sys.stderr, flush=True)
    expected, drawn = artefacts(alone), samples(alone.bank)
    numbers = iter(range(10**9))

    def chain(*, report: bool = report) -> Chain:
        place = Place(folder / "data", folder / f"chain-{next(numbers)}", iters, report)
        place.folder.mkdir()
        return Chain(place, expected, drawn)

    def several(what: str, chains: Iterator[Chain]) -> None:
        counted = [(one.at_the_end(), one.kills)[1] for one in chains]
        rows.append({"what": what, "chains": len(counted), "kills": sum(counted)})
        print(f"  {what}: {sum(counted)} in {len(counted)} runs, all as if left alone", file=sys.stderr, flush=True)

    def randomly(most: int, signals: Sequence[int]) -> Iterator[Chain]:
        done, takes = 0, seconds
        while done < most:
            one = chain()
            takes = at_random(one, takes, rng, signals)
            done += one.kills
            print(f"  {done} of {most} signals at random moments", file=sys.stderr, flush=True)
            yield one

    def at_paths() -> Iterator[Chain]:
        one = chain()
        after_every_path(one, paths)
        yield one

    def full() -> Iterator[Chain]:
        for where in full_at:
            one = chain(report=where == REPORT)
            with_a_full_disk(one, where)
            yield one

    several("SIGKILL at random moments", randomly(kills, [signal.SIGKILL]))
    several(
        "SIGTERM, SIGHUP and Ctrl-C at random moments",
        randomly(signals, [signal.SIGTERM, signal.SIGHUP, signal.SIGINT]),
    )
    several("SIGKILL after new paths", at_paths())
    several(f"disk full at {', '.join(full_at)}", full())
    rows[0]["samples"] = len(drawn)
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=100, help="at random moments (default 100)")
    parser.add_argument("--signals", type=int, default=20, help="SIGTERM, SIGHUP and Ctrl-C (default 20)")
    parser.add_argument("--paths", type=int, help="kills after new paths at most (default: after every one)")
    parser.add_argument("--iters", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--no-report", action="store_true", help="leave it out but where its disk is full: faster")
    parser.add_argument("--json", type=Path, help="also write the numbers here")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = suite(
                Path(folder), kills=args.kills, paths=args.paths, signals=args.signals, seed=args.seed,
                iters=args.iters, report=not args.no_report,
            )  # fmt: skip
        except Different as error:
            print(error, file=sys.stderr)
            return 1
    cells = [[row["what"], str(row["kills"]), str(row["chains"])] for row in found]
    verdict = f"0 of {found[0]['samples']} samples lost, 0 doubled; every artefact of every run is the same."
    show(machine(), [table(["stopped by", "times", "runs"], cells), verdict], {"stops": found}, args.json)
    return 0


if __name__ == "__main__":
    sys.exit(main())
