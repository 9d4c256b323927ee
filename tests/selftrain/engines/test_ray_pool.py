"""Copies in Ray actors: what is cut, what is kept when they die, and what is said when they cannot start."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from selftrain.engine_settings import HFSettings, RaySettings, ScriptedSettings
from selftrain.engines.base import EngineError, Request, SamplingParams
from selftrain.engines.ray_actor import at_hand
from selftrain.engines.ray_cluster import room
from selftrain.engines.ray_pool import TRIES, RayEngine, blocks
from selftrain.engines.scripted import ScriptedEngine
from selftrain.sampling.bank import Bank
from selftrain.sampling.sampler import Ask, Sampler
from tests.selftrain.engines.contract import babble

ROOT = Path(__file__).parents[3]
SAMPLE = SamplingParams(temperature=1.0, max_tokens=24)
SCRIPTED = functools.partial(ScriptedEngine, babble)


def ask(n: int, seeds=(1, 2)) -> list[Request]:
    return [Request(f"r{i}", f"question {i}", (), tuple(seeds)) for i in range(n)]


def alone(requests):
    return ScriptedEngine(babble).generate(requests, SAMPLE)


# ---- blocks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seeds", "most", "expected"),
    [
        ([], 4, []),
        ([0, 0], 4, []),
        ([2, 2, 2], 4, [[(0, 0, 2), (1, 0, 2)], [(2, 0, 2)]]),
        ([3, 3], 4, [[(0, 0, 3)], [(1, 0, 3)]]),  # not 4 + 2: a prompt is read by one copy
        ([5], 2, [[(0, 0, 2)], [(0, 2, 4)], [(0, 4, 5)]]),
        ([5, 1, 1], 2, [[(0, 0, 2)], [(0, 2, 4)], [(0, 4, 5), (1, 0, 1)], [(2, 0, 1)]]),
        ([1, 0, 1], 2, [[(0, 0, 1), (2, 0, 1)]]),
    ],
)
def test_blocks(seeds, most, expected):
    requests = [Request(f"r{i}", "", (), tuple(range(n))) for i, n in enumerate(seeds)]
    assert [list(block) for block in blocks(requests, most)] == expected


@given(st.lists(st.integers(0, 9), max_size=20), st.integers(1, 8))
def test_blocks_hold_every_row_once_and_in_order(seeds, most):
    requests = [Request(f"r{i}", "", (), tuple(range(n))) for i, n in enumerate(seeds)]
    found = blocks(requests, most)
    rows = [(place, sample) for block in found for place, first, end in block for sample in range(first, end)]
    assert rows == [(place, sample) for place, n in enumerate(seeds) for sample in range(n)]
    sizes = [sum(end - first for _, first, end in block) for block in found]
    assert all(1 <= size <= most for size in sizes)
    split = {place for place, n in Counter(place for block in found for place, *_ in block).items() if n > 1}
    assert all(seeds[place] > most for place in split)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(4, 12), st.data())
def test_what_is_left_of_a_call_is_cut_at_the_same_places(n, samples, most, data):
    requests = ask(n, seeds=range(samples))
    whole = [[requests[place].id for place, *_ in block] for block in blocks(requests, most)]
    kept = data.draw(st.sets(st.sampled_from(range(len(whole)))))
    left = [request for request in requests if any(request.id in whole[i] for i in kept)]
    assert [[left[place].id for place, *_ in block] for block in blocks(left, most)] == [whole[i] for i in sorted(kept)]


# ---- pictures --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen", ["the same", "another", None])
def test_a_picture_is_there_whatever_the_machine_sees(tmp_path, seen):
    path, content = tmp_path / "a.png", b"\x89PNG as the driver sees it"
    if seen is not None:
        path.write_bytes(content if seen == "the same" else b"another picture of that name")
    fetched = []

    def fetch():
        fetched.append(path)
        return {path: content}

    requests = [Request("r", "p", (path,), (1,)), Request("s", "q", (), (1,)), Request("t", "p", (path, path), (2,))]
    with at_hand(requests, {path: hashlib.sha256(content).hexdigest()}, fetch) as here:
        assert [replace(r, images=()) for r in here] == [replace(r, images=()) for r in requests]
        assert here[1].images == ()
        assert here[0].images == here[2].images[:1] == here[2].images[1:]
        [image] = here[0].images
        assert image.read_bytes() == content
        assert image.name.endswith("a.png")  # an error names it
        assert (image == path) == (seen == "the same")
        assert len(fetched) == (seen != "the same")
    assert image.exists() == (seen == "the same")
    assert path.exists() == (seen is not None)


# ---- the cluster -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("machine", "cpus", "gpus", "expected"),
    [
        ({"CPU": 4}, 1, 0, 4),
        ({"CPU": 1}, 0.1, 0, 10),
        ({"CPU": 4}, 1.5, 0, 2),
        ({"CPU": 4}, 8, 0, 0),
        ({}, 1, 0, 0),
        ({"CPU": 64, "GPU": 8}, 1, 1, 8),
        ({"CPU": 4, "GPU": 8}, 1, 1, 4),
        ({"CPU": 64, "GPU": 7}, 1, 2, 3),
        ({"CPU": 64, "GPU": 2}, 1, 0.5, 4),
        ({"CPU": 64, "GPU": 2}, 1, 0.6, 2),  # a share does not reach over two GPUs
        ({"CPU": 64}, 1, 1, 0),
    ],
)
def test_room(machine, cpus, gpus, expected):
    assert room(machine, cpus, gpus) == expected


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"actors": 0}, "actors"),
        ({"engine": {"kind": "hf", "batch_size": 0}}, "batch_size"),
        ({"cpus": 0}, "cpus"),
        ({"cpus": float("nan")}, "cpus"),
        ({"gpus": -1}, "gpus"),
        ({"gpus": 1.5}, "gpus must be whole or at most 1"),
        ({"engine": {"kind": "vllm", "tensor_parallel": 2.5}}, "tensor_parallel"),
        ({"engine": {"kind": "ray"}}, "an actor cannot run Ray again"),
    ],
)
def test_impossible_settings(options, named):
    with pytest.raises(ValueError, match=named):
        RaySettings(**options)


def test_ray_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r"pip install -r requirements-ray\.txt"):
        RayEngine(SCRIPTED)


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("127.0.0.1:1", "nothing answers at engine.address 127.0.0.1:1: .*refused.*is the cluster up"),
        ("no-such-host.invalid:6379", "nothing answers at engine.address no-such-host.invalid:6379"),
        ("127.0.0.1:99999", "nothing answers"),
        ("head", "must be host:port.*not 'head'"),
        ("ray://head:10001", "must be host:port"),
        ("http://head:8265", "must be host:port"),
    ],
)
def test_an_address_that_does_not_answer(address, told):
    with pytest.raises(EngineError, match=told):
        RayEngine(SCRIPTED, RaySettings(address=address))


@pytest.mark.parametrize(
    ("address", "told"),
    [(None, "cannot be started on this machine: no space left; is there room"), ("auto", "at auto: no space left; ")],
)
def test_ray_fails_to_start(address, told, monkeypatch):
    def fail(*args, **options):
        if args == ("local",):  # as Ray does where it starts its processes
            signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(1))
        raise OSError("no space left")

    import ray

    handler = signal.getsignal(signal.SIGTERM)

    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("PYTHONPATH", "as it was")
    monkeypatch.setattr(ray, "init", fail)
    with pytest.raises(EngineError, match=told):
        RayEngine(SCRIPTED, RaySettings(address=address))
    assert os.environ["PYTHONPATH"] == "as it was"
    assert "RAY_worker_niceness" not in os.environ
    assert signal.getsignal(signal.SIGTERM) == handler


# ---- with Ray --------------------------------------------------------------------------------------------------------


class Frail(ScriptedEngine):
    """A scripted engine whose process ends at once, `deaths` times in all, when it meets the request `victim`.

    It refuses the request `fail`, gives a completion too `few`, and takes `delay` seconds for a call.

    What it did is in `folder`: a file per copy that was opened, and one line for each call in `calls`.
    """

    def __init__(
        self, folder: Path, *, victim: str = "", deaths: int = 0, remove=(), fail: str = "", few=False, delay: float = 0
    ):
        super().__init__(babble)
        self.folder, self.few = folder, few
        self.victim, self.deaths, self.remove = victim, deaths, remove
        self.fail, self.delay = fail, delay
        (folder / f"opened-{os.getpid()}").touch()
        self._die_if(victim == "open")

    def _die_if(self, met: bool) -> None:
        if met and len(list(self.folder.glob("died-*"))) < self.deaths:
            (self.folder / f"died-{os.getpid()}").touch()
            for path in self.remove:
                path.unlink()
            os._exit(1)

    def generate(self, requests, params):
        with (self.folder / "calls").open("a") as file:
            file.write(" ".join(request.id for request in requests) + "\n")
        self._die_if(any(request.id == self.victim for request in requests))
        if any(request.id == self.fail for request in requests):
            raise EngineError(f"request {self.fail!r}: cannot be served")
        time.sleep(self.delay)
        answers = super().generate(requests, params)
        return [of_one[:-1] for of_one in answers] if self.few else answers


@pytest.fixture(scope="module")
def keeper() -> Iterator[RayEngine]:
    """Keeps a Ray open for the tests of this file; its actor takes a tenth of a core."""
    with RayEngine(SCRIPTED, RaySettings(actors=1, cpus=0.1)) as engine:
        yield engine


@pytest.fixture
def open_(keeper):
    """open_(open_inner, actors=...): an engine on that Ray; its actors take a tenth of a core each."""
    engines = []

    def open_engine(open_inner=SCRIPTED, *, block_rows=4, wait_s=60.0, **options) -> RayEngine:
        inner = ScriptedSettings(batch_size=block_rows)
        settings = RaySettings(engine=inner, **{"cpus": 0.1, "actors": 2, **options})
        engines.append(RayEngine(open_inner, settings, wait_s=wait_s))
        return engines[-1]

    yield open_engine
    for engine in engines:
        engine.close()


def both_are_there(engine: RayEngine) -> None:
    """Two copies that are ready, before long."""
    on_result, engine.on_result = engine.on_result, None
    deadline = time.monotonic() + 300
    while len(engine._ready) < 2 and time.monotonic() < deadline:
        engine.generate(ask(1), SAMPLE)
    assert len(engine._ready) == 2
    engine.on_result = on_result


@pytest.mark.slow
@pytest.mark.parametrize("actors", [1, 2, 3])
def test_the_same_answers_with_any_number_of_actors(open_, actors):
    requests = [*ask(9), replace(ask(1, seeds=range(11))[0], id="many"), Request("none", "p", (), ())]
    told = []
    engine = open_(actors=actors)
    engine.on_batch = told.append
    assert engine.generate(requests, SAMPLE) == alone(requests)
    assert sum(told) == 29
    assert max(told) <= 4
    assert engine.generate(requests[::-1], SAMPLE) == alone(requests)[::-1]


@pytest.mark.slow
def test_the_real_model(open_, tiny_model, mixed, several):
    from selftrain.engines.hf import HFEngine

    mixed = mixed + several[:2]
    requests = [Request(f"r{i}", prompt, images, (5, 6, 7)) for i, (prompt, images) in enumerate(mixed)]
    open_inner = functools.partial(HFEngine, tiny_model, settings=HFSettings(device="cpu", batch_size=6))
    found = []
    for actors in (1, 2):
        with open_(open_inner, actors=actors, block_rows=6) as engine:
            found.append(engine.generate(requests, SAMPLE))
            ids = [engine.prompt_ids(prompt, image) for prompt, image in mixed]
            lengths = [engine.count_prompt_tokens(prompt, image) for prompt, image in mixed]
    assert found[0] == found[1]  # to the last bit
    with open_inner() as inner:
        expected = inner.generate(requests, SAMPLE)
        assert ids == [inner.prompt_ids(prompt, image) for prompt, image in mixed]
    assert lengths == [len(of_one) for of_one in ids]
    for ours, theirs in zip(found[0], expected, strict=True):
        assert [c.token_ids for c in ours] == [c.token_ids for c in theirs]
        assert [c.mean_logprob for c in ours] == pytest.approx([c.mean_logprob for c in theirs], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("actors", [1, 2])
def test_a_dead_actor_loses_nothing_and_nothing_comes_twice(open_, tmp_path, caplog, actors):
    requests, delivered = ask(12), []
    engine = open_(functools.partial(Frail, tmp_path, victim="r5", deaths=1), actors=actors)
    engine.on_result = lambda request, sample, completion: delivered.append((request.id, sample, completion))
    assert engine.generate(requests, SAMPLE) == alone(requests)
    assert len(list(tmp_path.glob("died-*"))) == 1
    assert sorted(delivered, key=str) == sorted(
        (
            (request.id, sample, completion)
            for request, of_one in zip(requests, alone(requests), strict=True)
            for sample, completion in enumerate(of_one)
        ),
        key=str,
    )
    assert "4 completions (requests 'r4' to 'r5') run again (try 2 of 3)" in caplog.text
    assert Counter((tmp_path / "calls").read_text().splitlines())["r4 r5"] == 2
    assert engine.generate(requests, SAMPLE) == alone(requests)


@pytest.mark.slow
def test_an_actor_that_always_dies(open_, tmp_path):
    requests, delivered = ask(6), set()
    engine = open_(functools.partial(Frail, tmp_path, victim="r3", deaths=99))
    engine.on_result = lambda request, sample, completion: delivered.add(request.id)
    told = r"died 3 times over 4 completions \(requests 'r2' to 'r3'\).*engine.engine.batch_size.*same command again"
    with pytest.raises(EngineError, match=told):
        engine.generate(requests, SAMPLE)
    assert len(list(tmp_path.glob("died-*"))) == TRIES
    assert delivered <= {"r0", "r1", "r4", "r5"}
    others = [request for request in requests if request.id != "r3"]
    assert engine.generate(others, SAMPLE) == alone(others)  # the engine goes on


@pytest.mark.slow
@pytest.mark.parametrize(("deaths", "told"), [(1, None), (99, "died 3 times over opening the engine")])
def test_death_while_a_copy_is_opened(open_, tmp_path, deaths, told):
    open_inner = functools.partial(Frail, tmp_path, victim="open", deaths=deaths)
    if told is None:
        assert open_(open_inner, actors=1).generate(ask(3), SAMPLE) == alone(ask(3))
    else:
        with pytest.raises(EngineError, match=told):
            open_(open_inner, actors=1)
        assert len(list(tmp_path.glob("opened-*"))) == TRIES


def no_model() -> ScriptedEngine:
    raise EngineError("no model in that folder")


@pytest.mark.slow
def test_a_copy_that_cannot_be_opened(open_):
    with pytest.raises(EngineError, match=r"^no model in that folder$"):
        open_(no_model)


@pytest.mark.slow
def test_an_error_is_an_answer_and_is_not_tried_again(open_, tmp_path):
    requests, delivered = ask(12), []
    engine = open_(functools.partial(Frail, tmp_path, fail="r4", delay=0.5))
    engine.generate(ask(4), SAMPLE)
    both_are_there(engine)
    (tmp_path / "calls").unlink()
    engine.on_result = lambda request, sample, completion: delivered.append(request.id)
    with pytest.raises(EngineError, match=r"^request 'r4': cannot be served$"):
        engine.generate(requests, SAMPLE)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls.count("r4 r5") == 1
    assert len(calls) < 6  # no block was begun after it,
    assert sorted(set(delivered)) == sorted(
        name for call in calls for name in call.split() if call != "r4 r5"
    )  # and those under way were finished
    assert engine.generate(requests[:4], SAMPLE) == alone(requests[:4])


@pytest.mark.slow
def test_other_errors_keep_their_type(open_):
    engine = open_(actors=1)
    with pytest.raises(EngineError, match="the actors run, has no prompt_ids"):
        engine.prompt_ids("p", ())  # a scripted engine has none
    with pytest.raises(ValueError, match="'r0'"):
        engine.generate([*ask(1), *ask(1)], SAMPLE)


@pytest.mark.slow
def test_an_engine_that_gives_too_few(open_, tmp_path):
    engine = open_(functools.partial(Frail, tmp_path, few=True), actors=1)
    with pytest.raises(EngineError, match=r"gave 2 completions for 4 completions"):
        engine.generate(ask(2), SAMPLE)


@pytest.mark.slow
def test_a_caller_that_fails_leaves_nothing_behind(open_):
    engine = open_()

    def refuse(request, sample, completion):
        raise KeyboardInterrupt

    engine.on_result = refuse
    both_are_there(engine)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(ask(12), SAMPLE)
    both_are_there(engine)
    delivered: Counter[str] = Counter()
    engine.on_result = lambda request, sample, completion: delivered.update([request.id])
    again = [replace(request, id=f"again-{request.id}") for request in ask(12)]
    assert engine.generate(again, SAMPLE) == alone(again)
    assert delivered == {request.id: 2 for request in again}


@pytest.mark.slow
def test_the_picture_comes_along_when_the_machine_does_not_have_it(open_, tmp_path, problems_and_pictures):
    prompt, (picture,) = problems_and_pictures[0]
    path = tmp_path / "p.png"
    path.write_bytes(picture.read_bytes())
    # The block is handed out while the picture is there; where it runs again, it is not.
    engine = open_(functools.partial(Frail, tmp_path, victim="r", deaths=1, remove=[path]))
    [[found]] = engine.generate([Request("r", prompt, (path,), (1,))], SAMPLE)
    assert not path.exists()
    assert found == ScriptedEngine(babble).generate([Request("r", prompt, (picture,), (1,))], SAMPLE)[0][0]
    with pytest.raises(EngineError, match=r"request 'r': cannot read the image .*p\.png.*store it again"):
        engine.generate([Request("r", prompt, (path,), (1,))], SAMPLE)


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(open_, tmp_path):
    asks = [Ask(f"a{i}", f"question {i}", ()) for i in range(12)]

    def sampler(bank, **options) -> Sampler:
        return Sampler(
            bank=bank,
            open_engine=lambda: open_(functools.partial(Frail, tmp_path, **options)),
            engine_name="ray",
            weights="w",
            picture=lambda name: pytest.fail("no pictures here"),
            seed=0,
            unit_rows=100,
        )

    with Bank(tmp_path / "bank.sqlite") as bank:
        with sampler(bank, victim="a7", deaths=99) as first, pytest.raises(EngineError, match="died 3 times"):
            first.draw(asks, SAMPLE, 2)
        kept = bank.count()
        assert 0 < kept < 24
        (tmp_path / "calls").unlink()
        with sampler(bank) as second:
            found = second.draw(asks, SAMPLE, 2)
        assert second.drawn == 24 - kept
        assert bank.count() == 24
        assert 2 * len((tmp_path / "calls").read_text().split()) == second.drawn  # nothing was drawn again
        assert {len(of_one) for of_one in found.values()} == {2}


@pytest.mark.slow
def test_no_machine_is_large_enough(open_):
    told = r"takes 1000 CPUs and 0 GPUs on one machine, and this machine's own Ray has \d+ CPUs and 0 GPUs; lower"
    with pytest.raises(EngineError, match=told):
        open_(cpus=1000)
    with pytest.raises(EngineError, match=r"takes 0.1 CPUs and 1 GPUs"):
        open_(gpus=1)


@pytest.mark.slow
def test_a_machine_that_is_busy_is_not_waited_for_for_ever(open_):
    cores = len(os.sched_getaffinity(0))  # the keeper has a tenth of one
    with pytest.raises(EngineError, match=rf"within 1 s: it takes {cores} CPUs.*of {cores} CPUs.* free"):
        open_(cpus=cores, actors=1, wait_s=1)


@pytest.mark.slow
def test_more_copies_than_there_is_room_for(open_, caplog):
    cores = len(os.sched_getaffinity(0))
    engine = open_(cpus=0.6 * cores)
    assert "1 of 2 copies fit into this machine's own Ray now" in caplog.text
    assert engine.generate(ask(5), SAMPLE) == alone(ask(5))


@pytest.mark.slow
def test_engines_share_a_ray_and_one_cluster_at_a_time(open_, keeper):
    with open_(actors=1):
        pass
    assert keeper.generate(ask(1), SAMPLE) == alone(ask(1))
    with pytest.raises(EngineError, match="one cluster at a time"):
        open_(address="127.0.0.1:1")


@pytest.mark.slow
def test_closed(open_):
    engine = open_(actors=1)
    engine.close()
    engine.close()
    for use in (lambda: engine.generate(ask(1), SAMPLE), lambda: engine.count_prompt_tokens("p", ())):
        with pytest.raises(EngineError, match="closed"):
            use()


# ---- in a process of its own -----------------------------------------------------------------------------------------


def script(text: str, folder: Path) -> list[str]:
    """A program in a folder of its own, which finds the packages by itself alone and not by the environment."""
    path = folder / "program.py"
    path.write_text(f"import sys\nsys.path[:0] = [{str(ROOT)!r}]\n{text}")
    return [sys.executable, str(path)]


def processes() -> dict[int, tuple[int, str]]:
    """Process id -> (its parent's, command); zombies left out."""
    found = {}
    for entry in Path("/proc").iterdir():
        try:
            status = (entry / "stat").read_text() if entry.name.isdigit() else ""
            command = (entry / "cmdline").read_text().replace("\0", " ") if status else ""
        except OSError:
            continue
        if status and (fields := status.rpartition(")")[2].split())[0] != "Z":
            found[int(entry.name)] = int(fields[1]), command
    return found


def descendants(pid: int) -> dict[int, str]:
    known, found = processes(), {pid: ""}
    while more := {child: what for child, (parent, what) in known.items() if parent in found and child not in found}:
        found |= more
    return {child: what for child, what in found.items() if child != pid}


ORPHAN = """
import os, time
from selftrain.engines.base import Request, SamplingParams
from selftrain.engine_settings import RaySettings
from selftrain.engines.ray_pool import RayEngine
import ray

class Slow:
    def generate(self, requests, params):
        assert "site-packages" not in os.environ.get("PYTHONPATH", "")  # an engine may start another Python
        print(os.getpid(), file=open("actor", "w"), flush=True)
        time.sleep(3000)

    def close(self):
        pass

with RayEngine(Slow, RaySettings(actors=1, cpus=0.1)):
    assert ray.is_initialized()
assert not ray.is_initialized()
print("closed", flush=True)
sys.stdin.readline()
with RayEngine(Slow, RaySettings(actors=1, cpus=0.1)) as engine:
    engine.generate([Request("r", "p", (), (1,))], SamplingParams(temperature=1.0, max_tokens=8))
"""


@pytest.mark.slow
def test_ray_ends_with_its_engine_and_with_a_driver_that_is_killed(tmp_path):
    driver = subprocess.Popen(
        script(ORPHAN, tmp_path), cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert driver.stdout.readline() == "closed\n"
        deadline = time.monotonic() + 300
        while descendants(driver.pid) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert descendants(driver.pid) == {}
        print(file=driver.stdin, flush=True)
        while not (tmp_path / "actor").exists() or not (tmp_path / "actor").read_text():
            assert driver.poll() is None
            time.sleep(0.1)
        # Ray's two agents try for a minute to tell the end of their node to a server that has ended too.
        before = {pid for pid, what in descendants(driver.pid).items() if not what.rstrip().endswith("Agent")}
        assert int((tmp_path / "actor").read_text()) in before
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        driver.stdin.close()
        driver.stdout.close()
    deadline = time.monotonic() + 300
    while (left := before & processes().keys()) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert left == set()


CLUSTER = """
import json, logging, os, threading, time
from ray.cluster_utils import Cluster
from selftrain.engines.base import Completion, EngineError, Request, SamplingParams
from selftrain.engine_settings import RaySettings, ScriptedSettings, VLLMSettings
from selftrain.engines.ray_pool import RayEngine

logging.basicConfig(level=logging.WARNING)


class Where:
    def __init__(self, seconds):
        self.seconds = seconds

    def generate(self, requests, params):
        import ray
        import selftrain

        time.sleep(self.seconds)
        node = ray.get_runtime_context().get_node_id()
        text = json.dumps([node, selftrain.__file__, os.environ["OMP_NUM_THREADS"], os.environ["CUDA_VISIBLE_DEVICES"]])
        return [[Completion(text, (1,), 1, "stop", -1.0) for _ in r.seeds] for r in requests]

    def close(self):
        pass


def run(engine, n=4):
    asked = [Request(f"r{i}", "p", (), (1,)) for i in range(n)]
    params = SamplingParams(temperature=1.0, max_tokens=8)
    return [json.loads(c.text) for [c] in engine.generate(asked, params)]


found = {}
head = {"num_cpus": 1, "include_dashboard": False}
cluster = Cluster(initialize_head=True, head_node_args=head)
nodes = [cluster.add_node(num_cpus=4, num_gpus=2) for _ in range(2)]


def on_cluster(inner, **options):
    return RaySettings(engine=inner, address=cluster.address, **options)


found["gpu nodes"] = [node.node_id for node in nodes]
try:
    RayEngine(lambda: Where(0), on_cluster(VLLMSettings(tensor_parallel=4)))
except EngineError as error:
    found["refused"] = str(error)
with RayEngine(lambda: Where(0), on_cluster(VLLMSettings(tensor_parallel=2, batch_size=1), cpus=2)) as engine:
    found["name"] = repr(engine)
    found["gpus"] = run(engine)
with RayEngine(lambda: Where(2), on_cluster(ScriptedSettings(batch_size=1), gpus=2)) as engine:
    while len(engine._ready) < 2:
        run(engine)
    threading.Timer(1, lambda: cluster.remove_node(nodes[1], allow_graceful=False)).start()
    found["after a node died"] = run(engine)
nodes[1] = cluster.add_node(num_cpus=4, num_gpus=2)
with RayEngine(lambda: Where(0), on_cluster(ScriptedSettings(batch_size=1), gpus=1)) as engine:
    while len(engine._ready) < 4:
        run(engine)
    for node in nodes:
        cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=4, num_gpus=2)
    found["after all died"] = run(engine, 1)  # one block, and more dead actors than it has tries
cluster.shutdown()
with open("found.json", "w") as file:
    json.dump(found, file)
"""


@pytest.mark.slow
def test_a_cluster_of_several_machines(tmp_path):
    with (tmp_path / "log").open("w") as log:
        # In a group of its own: the nodes of this cluster do not end with the program.
        driver = subprocess.Popen(
            script(CLUSTER, tmp_path), cwd=tmp_path, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = driver.wait(timeout=300)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(driver.pid, signal.SIGKILL)
            driver.wait()
    told = (tmp_path / "log").read_text()
    assert code == 0, told
    found = json.loads((tmp_path / "found.json").read_text())
    assert "takes 1 CPUs and 4 GPUs on one machine" in found["refused"]
    assert " has 1 CPUs and 0 GPUs, 2 x 4 CPUs and 2 GPUs; lower engine.cpus or engine.gpus" in found["refused"]
    assert found["name"].startswith("RayEngine(2 copies on the Ray cluster at ")
    assert {node for node, *_ in found["gpus"]} <= set(found["gpu nodes"])
    for _, file, threads, gpus in found["gpus"]:
        assert not file.startswith(str(ROOT))  # the package came along
        assert threads == "2"
        assert gpus == "0,1"
    # The node's block ran again where there was room, instead of waiting for the node.
    assert len(found["after a node died"]) == 4
    assert "run again (try 2 of 3)" in told
    assert len(found["after all died"]) == 1
