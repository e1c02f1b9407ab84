"""Journals and their replay: what was done comes out again, and what comes out differently, or was tampered with, is named.

Run as a program this file is a worker: it allocates and releases, with a journal, and prints each address that it was told.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from threading import Thread
from typing import Any, NamedTuple
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ciliumipam import Allocate, Apply, Grow, Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore
from ciliumipam.addresses import BlockAddresses
from ciliumipam.cidr import Prefix
from ciliumipam.cli.main import main
from ciliumipam.errors import (
    InvalidJournalError,
    InvalidRequestError,
    IpamError,
    StalePlanError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsupportedVersionError,
)
from ciliumipam.journal import JournaledIpam
from ciliumipam.journal.lines import (
    change_to_text,
    digest,
    read_change,
    read_request,
    request_to_document,
    to_line,
)
from ciliumipam.journal.replay import Replayed, records, replay
from ciliumipam.records import KINDS, Entry, Key, Kind, Record, Revision
from ciliumipam.requests import (
    Drain,
    ExistingBlock,
    ForceRelease,
    Migrate,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
)
from ciliumipam.store import Expect, Listing, Store, Write
from ciliumipam.tasks import AllocateTask, to_allocation
from ciliumipam.testing.faults import READ_FAULTS, Crash, Fault, FaultyStore
from ciliumipam.testing.record_strategies import keyed_records
from ciliumipam.testing.strategies import nodes, pools

ROOT = Path(__file__).parent.parent
RACKS = ("a", "b")


def pool(name: str, *cidrs: str, rack: str = "", **more: Any) -> PoolSpec:
    selector = NodeSelector.parse(f"rack={rack}") if rack else NodeSelector.everything()
    return PoolSpec(name=name, cidrs=cidrs, selector=selector, **more)


def whole(name: str = "all", *cidrs: str, **more: Any) -> PoolSpec:
    return pool(name, *(cidrs or ("10.0.0.0/16",)), **more)


def ticking(start: float = 1000.0) -> Callable[[], float]:
    times = count()
    return lambda: start + next(times)


@pytest.fixture
def file(tmp_path: Path) -> str:
    return str(tmp_path / "journal")


def journaled(store: Store, file: str, identity: str = "one", **more: Any) -> JournaledIpam:
    return JournaledIpam(store, journal=file, identity=identity, clock=more.pop("clock", ticking()), **more)


def everything(store: Store) -> list[tuple[Key, Entry]]:
    return [item for kind in KINDS for item in store.scan(kind).entries]


def lines_of(file: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(file).read_text().splitlines()]


def ended(replayed: Replayed) -> list[str]:
    assert replayed.divergence is None, str(replayed.divergence)
    return [run.ended for run in replayed.runs]


# ------------------------------------------------------------------------------------------ whatever is asked


class Two:
    """Two that work on one store through faults of their own; one that crashed comes back under another name.

    Args:
        file: A journal for both, None for none.
        apart: Whether addresses are in a store of their own.
    """

    def __init__(self, file: str | None, *, apart: bool) -> None:
        self.inner = [MemoryStore(), MemoryStore()] if apart else [MemoryStore()]
        self._file = file
        self._now = 1000.0
        self._lives = count(1)
        self.told: list[object] = []
        self.live: dict[int, tuple[Ipam, list[FaultyStore]]] = {}
        self.digests: dict[str, str] = {}
        for who in range(2):
            self._begin(who)

    def _begin(self, who: int) -> None:
        faulty = [FaultyStore(store) for store in self.inner]
        identity = f"{who}.{next(self._lives)}"
        if self._file is None:
            ipam = Ipam(faulty[0], faulty[-1], clock=self._clock, identity=identity)
        else:
            ipam = JournaledIpam(faulty[0], faulty[-1], journal=self._file, clock=self._clock, identity=identity)
        self.live[who] = ipam, faulty

    def _clock(self) -> float:
        return self._now

    def do(self, who: int, deed: str, number: int, faults: tuple[Fault, ...], passed: float) -> None:
        self._now += passed
        ipam, faulty = self.live[who]
        for store in faulty:
            reads = [fault if fault in READ_FAULTS else Fault.NONE for fault in faults[1:]] if faults[:1] == (Fault.REFUSED,) else ()
            store.play(faults, reads)
        try:
            self.told.append(act(ipam, deed, number))
        except (IpamError, Crash) as error:
            self.told.append((type(error), str(error)))
            if isinstance(error, Crash):
                self._close(who, crashed=True)
                self._begin(who)

    def _close(self, who: int, *, crashed: bool) -> None:
        ipam, faulty = self.live[who]
        for store in faulty:
            store.play()
        self.digests[ipam._identity] = digest(ipam._view.entries)
        if not crashed and isinstance(ipam, JournaledIpam):
            ipam.close_journal()

    def end(self) -> list[tuple[Key, Entry]]:
        for who in self.live:
            self._close(who, crashed=False)
        return [item for store in self.inner for item in everything(store)]


DEEDS: dict[str, Callable[[Ipam, int], object]] = {
    "apply": lambda ipam, n: ipam.apply(
        [pool("a", "10.0.0.0/24", "fd00::/120", rack="a", block_length_v4=28, block_length_v6=124, reuse_delay=5.0)]
        if n % 3 == 0
        else [pool("b", "10.0.1.0/24", block_length_v4=27, overflow=True, address_policy="random", seed=n)]
        if n % 3 == 1
        else [],
        [Node(f"n{n}", {"rack": RACKS[n % 2]}), Node(f"n{n + 1}", {"rack": "a", "zone": "z1"})],
        [ExistingBlock("n1", Prefix(4, 0x0A000030, 28), since=5.0, source="x.yaml: 1")] if n == 5 else [],
    ),
    "allocate": lambda ipam, n: ipam.allocate(f"n{n % 3}", f"o{n}"),
    "two": lambda ipam, n: ipam.allocate(f"n{n % 3}", f"o{n}", f"ø{n + 1}", label="d/w"),
    "given": lambda ipam, n: ipam.allocate(f"n{n % 3}", f"o{n}", address=f"10.0.0.{n + 17}"),
    "release": lambda ipam, n: ipam.release(f"n{n % 3}", f"o{n}", missing_ok=n == 0),
    "fenced": lambda ipam, n: ipam.release_fenced(f"10.0.0.{n + 1}", 6),
    "force": lambda ipam, n: ipam.force_release(f"10.0.1.{n + 1}"),
    "grow": lambda ipam, n: ipam.grow(f"n{n % 3}", n),
    "drain": lambda ipam, n: ipam.drain("node" if n % 2 else "pool", f"n{n}" if n % 2 else "a", cancel=n > 2),
    "migrate": lambda ipam, n: ipam.migrate(f"n{n}", RACKS[n % 2]),
    "remove_node": lambda ipam, n: ipam.remove_node(f"n{n}", force=n > 1),
    "remove_nodes": lambda ipam, n: ipam.remove_nodes([f"n{each}" for each in range(n)], force=n > 1),
    "remove_pool": lambda ipam, n: ipam.remove_pool(RACKS[n % 2]),
    "repair": lambda ipam, _: ipam.repair(),
    "refresh": lambda ipam, _: ipam.refresh(),
    "look": lambda ipam, _: (ipam.pools(), ipam.nodes(), ipam.allocations()),
    "plan": lambda ipam, n: ipam.plan(Allocate(f"n{n % 3}", (f"o{n}",)) if n % 2 else Apply((), (Node(f"n{n}", {"rack": "a"}),))),
    "in two steps": lambda ipam, n: ipam.execute(ipam.plan(Release(f"n{n % 3}", (f"o{n}",)) if n % 2 else Grow(f"n{n % 3}", 2))),
}


def act(ipam: Ipam, deed: str, number: int) -> object:
    return DEEDS[deed](ipam, number)


FAULTS = (Fault.NONE, Fault.REFUSED, Fault.VANISHED, Fault.LOST, Fault.CONFLICT, Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
FEW_FAULTS = st.one_of(st.just(()), st.lists(st.sampled_from(FAULTS), max_size=4).map(tuple))
ACTS = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.one_of(st.sampled_from(list(DEEDS)), st.sampled_from(("apply", "allocate", "two", "release"))),
        st.integers(0, 5),
        FEW_FAULTS,
        st.sampled_from((0.0, 1.0, 2.5, -3.0, 10.0)),
    ),
    min_size=5,
    max_size=20,
)
BEGIN: list[Any] = [(who, deed, n, (), 1.0) for n, who, deed in ((0, 0, "apply"), (1, 1, "apply"), (2, 1, "allocate"), (2, 0, "two"))]


@given(ACTS, st.booleans())
@settings(max_examples=40)
def test_whatever_is_asked_of_two_with_faults_replays_to_the_same_records(tmp_path_factory: Any, acts: list[Any], apart: bool) -> None:
    file = str(tmp_path_factory.mktemp("journal") / "journal")
    two, plain = Two(file, apart=apart), Two(None, apart=apart)
    for one in (two, plain):
        for each in [*BEGIN, *acts]:
            one.do(*each)
    left = two.end()

    replayed = replay(file)

    assert replayed.divergence is None, str(replayed.divergence)
    assert {run.identity: run.digest for run in replayed.runs} == two.digests
    assert sorted(run.ended for run in replayed.runs)[:2] == ["equal", "equal"]
    assert (left, two.told) == (plain.end(), plain.told), "keeping a journal changes nothing"


def rich(file: str) -> Two:
    """Some of everything, always the same."""
    two = Two(file, apart=False)
    for number, deed in enumerate((*DEEDS, *DEEDS, "apply", "allocate", "two", "in two steps")):
        faults = ((), (Fault.LOST,), (Fault.NONE, Fault.CONFLICT), (Fault.CRASH_AFTER,), ())[number % 5]
        two.do(number // 3 % 2, "apply" if number < 3 else deed, number % 5, faults, 1.0)
    two.end()
    return two


def test_a_replay_in_a_process_with_another_hash_seed_comes_to_the_same_digests(file: str) -> None:
    two = rich(file)

    told = subprocess.run(
        [sys.executable, "-m", "ciliumipam", "replay", file, "-o", "json"],
        env={**os.environ, "PYTHONHASHSEED": "4711"},
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout

    assert {run["identity"]: run["digest"] for run in json.loads(told)["runs"]} == two.digests


@given(keyed_records(), st.data())
@settings(max_examples=30)
def test_what_changed_in_a_record_gives_the_record_again(keyed: tuple[Key, Record], data: Any) -> None:
    key, record = keyed
    before = data.draw(st.one_of(st.none(), keyed_records().filter(lambda other: other[0].kind == key.kind)))
    known = before[1] if before is not None else None

    fields = json.loads(f"{{{change_to_text(key, record, known)}}}")

    assert read_change(fields, lambda _: known) == (key, record)


@pytest.mark.parametrize(
    "request_",
    [
        Allocate("n", ("o",)),
        Allocate("n", ("o", "p"), None, 6, "x/y"),
        Release("n", ("o",), missing_ok=True),
        Grow("n", 3),
        Drain("block", "10.0.0.0/24", True, "tenant"),
        Migrate("n", "p"),
        RemoveNode("n", force=True),
        RemovePool("p"),
    ],
    ids=str,
)
def test_a_request_is_the_same_after_it_was_written_and_read(request_: Request) -> None:
    assert read_request(json.loads(json.dumps(request_to_document(request_)))) == request_


@given(st.lists(pools(), max_size=2, unique_by=lambda spec: spec.name), st.lists(nodes(), max_size=2, unique_by=lambda n: n.name))
@settings(max_examples=30)
def test_pools_and_nodes_are_the_same_after_they_were_written_and_read(pools: list[PoolSpec], known: list[Node]) -> None:
    asked = Apply(tuple(pools), tuple(known), (ExistingBlock("n", Prefix(6, 0, 64), "p", 1.5, "f", "s"),))

    assert read_request(json.loads(json.dumps(request_to_document(asked)))) == asked


def test_addresses_that_are_asked_for_are_the_same_after_they_were_written_and_read() -> None:
    ipam = Ipam(MemoryStore())
    ipam.apply([whole()], [Node("n")])
    address = ipam.allocate("n", "o")[0].address

    for asked in (Allocate("n", ("o",), address), ReleaseFenced(address, 3, "x"), ForceRelease(address)):
        assert read_request(json.loads(json.dumps(request_to_document(asked)))) == asked


# ---------------------------------------------------------------------------------- threads, processes, and kill -9


def test_calls_of_many_threads_replay_in_the_batches_in_which_they_were_decided(file: str) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole()], [Node("n")])

    def work(number: int) -> None:
        for _ in range(3):
            ipam.allocate("n", f"o{number}")
            ipam.pools()
            ipam.release("n", f"o{number}")

    threads = [Thread(target=work, args=(number,)) for number in range(8)]
    with ipam._lock:
        for thread in threads:
            thread.start()
        while len(ipam._combiner.queue) < len(threads):
            pass
    for thread in threads:
        thread.join()
    ipam.close()

    replayed = replay(file)

    assert ended(replayed) == ["equal"]
    assert replayed.runs[0].calls == 1 + 8 * 3 * 2
    assert max(len(line.get("asked", ())) for line in lines_of(file)) == 8


def worker(database: str, file: str, name: str, pairs: int) -> None:
    """Allocate and release; say each address as soon as it is told."""
    with SqliteStore(database, synchronous="NORMAL") as store:
        ipam = JournaledIpam(store, journal=file, identity=name)
        for number in range(pairs):
            given = ipam.allocate("n", f"{name}-{number}")
            sys.stdout.write(f"{name}-{number} {given[0].address}\n")
            sys.stdout.flush()
            if number % 2:
                ipam.release("n", f"{name}-{number}")
        ipam.close()


def start(database: Path, file: str, name: str, pairs: int) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, str(database), file, name, str(pairs)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "ipam.db"
    with SqliteStore(path) as store:
        Ipam(store).apply([whole()], [Node("n")])
    return path


def test_two_processes_that_write_to_one_store_and_one_journal_replay_each_by_itself(database: Path, file: str) -> None:
    workers = [start(database, file, name, 40) for name in ("p", "q")]
    for each in workers:
        each.communicate()

    replayed = replay(file)

    assert [each.returncode for each in workers] == [0, 0]
    assert ended(replayed) == ["equal", "equal"]
    assert sorted(run.identity for run in replayed.runs) == ["p", "q"]
    assert {run.calls for run in replayed.runs} == {60}


def test_after_kill_9_every_call_that_was_answered_is_in_the_journal(database: Path, file: str) -> None:
    killed = start(database, file, "p", 100_000)
    assert killed.stdout is not None
    for _ in range(20):
        killed.stdout.readline()
    killed.send_signal(signal.SIGKILL)
    told, _ = killed.communicate()

    replayed = replay(file)

    assert ended(replayed) == ["not closed"]
    assert replayed.runs[0].calls >= 20
    journaled_ = {line["told"][0]["addresses"][0]["owner"] for line in lines_of(file) if line.get("asked")}
    assert {line.split()[0] for line in told.splitlines()} <= journaled_


def torn(file: str, by: int = 30) -> None:
    """CutError the end off, as a process that is killed in a write does."""
    os.truncate(file, Path(file).stat().st_size - by)


def test_a_last_line_that_is_not_whole_is_said_and_left_out(file: str) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole()], [Node("n")])
    ipam.allocate("n", "o")
    torn(file)

    replayed = replay(file)

    assert ended(replayed) == ["not closed"]
    assert replayed.runs[0].calls == 1
    assert replayed.notes == ("line 3 is incomplete: its process was killed while writing it, before anybody was told of that call",)


def test_a_process_that_begins_after_a_torn_line_begins_a_new_one(file: str) -> None:
    store = MemoryStore()
    journaled(store, file).apply([whole()], [Node("n")])
    torn(file)
    journaled(store, file, "two").close_journal()

    replayed = replay(file)

    assert ended(replayed) == ["not closed", "equal"]
    assert [note[:20] for note in replayed.notes] == ["line 2 is incomplete"]


def test_what_a_living_process_appends_to_a_torn_line_is_read(file: str) -> None:
    store = MemoryStore()
    killed, alive = journaled(store, file), journaled(store, file, "two")
    alive.apply([whole()], [Node("n", {"run": "web"})])
    killed.allocate("n", "o")
    torn(file)
    alive.allocate("n", "p")

    replayed = replay(file)

    assert ended(replayed) == ["not closed", "not closed"]
    assert [run.calls for run in replayed.runs] == [0, 2]
    said = "line 4 begins with what a process left that was killed while writing; nobody was told of that call"
    assert replayed.notes == (said,)


def test_a_forked_process_does_not_go_on_with_its_parents_journal(file: str) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole()], [Node("n")])
    child = os.fork()
    if child == 0:
        logging.disable()
        ipam.allocate("n", "child")
        os._exit(0 if "forked" in str(ipam.journal_error) else 1)
    assert os.waitpid(child, 0)[1] == 0
    ipam.allocate("n", "parent")
    ipam.close()

    assert ended(replay(file)) == ["equal"]
    assert [line["n"] for line in lines_of(file)] == [0, 1, 2, 3]


def test_one_that_comes_back_under_its_name_begins_anew(file: str) -> None:
    store = MemoryStore()
    journaled(store, file).apply([whole()], [Node("n")])
    journaled(store, file).allocate("n", "o")

    assert ended(replay(file)) == ["not closed", "not closed"]
    assert dict(everything(store)) == records(file)
    assert records(file, until=3) == records(file, until=2) != {}, "line 3 was written before anything was read"


def test_a_look_that_moves_the_time_past_what_cools_replays(file: str) -> None:
    times = iter((1000.0, 1001.0, 1002.0, 1010.0, 1003.0))
    ipam = journaled(MemoryStore(), file, clock=lambda: next(times))
    ipam.apply([whole(address_policy="lowest", reuse_delay=5.0)], [Node("n")])
    ipam.allocate("n", "o")
    ipam.release("n", "o")
    ipam.blocks()  # another thread looks, while the next call, whose time it is already, waits

    assert str(ipam.allocate("n", "p")[0].address) == "10.0.0.1"
    assert lines_of(file)[-1]["time"] == 1010.0
    assert ended(replay(file)) == ["not closed"]


class Knowing(MemoryStore):
    """A store that says what nodes have, as a cluster does."""

    said: tuple[ExistingBlock, ...] = ()

    def listed(self, _: Sequence[PoolSpec]) -> Sequence[ExistingBlock]:
        return self.said


def test_what_a_store_said_that_nodes_have_is_said_again(file: str) -> None:
    store = Knowing()
    store.said = (ExistingBlock("other", Prefix(4, 0x0A000000, 28), since=5.0, source="an object"),)
    ipam = journaled(store, file)
    ipam.apply([whole("all", "10.0.0.0/24", block_length_v4=28)], [Node("n")])
    ipam.grow("n", 2)
    plan = ipam.plan(Grow("n", 3))
    store.said = (ExistingBlock("other", Prefix(4, 0x0A000030, 28)),)
    with pytest.raises(StalePlanError, match=r"node other has 10\.0\.0\.48/28 by now"):
        ipam.execute(plan)

    assert [str(block.prefix) for block in ipam.blocks()] == ["10.0.0.16/28", "10.0.0.32/28"]
    assert ended(replay(file)) == ["not closed"]


# ------------------------------------------------------------------------------------------------ divergences


@pytest.fixture
def told(file: str) -> str:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole("all", "10.0.0.0/16", "fd00::/48")], [Node("n")])
    ipam.allocate("n", "o", label="default/web-0", family=4)
    ipam.allocate("n", "o")
    ipam.release("n", "o")
    ipam.close()
    return file


def test_a_rule_that_changed_diverges_at_its_line_and_shows_what_is_written_now(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pick = BlockAddresses.pick
    monkeypatch.setattr(BlockAddresses, "pick", lambda self, draw=0: (pick(self, draw) or 0) + 1)

    divergence = replay(told).divergence

    assert str(divergence) == """\
line 3 (run one): the replay writes something else
asked: allocate {"node":"n","owners":["o"],"family":4,"label":"default/web-0"}
--- journal
+++ replay
@@ -4,11 +4,11 @@
   tentative: {}
   closing: []
-  claims of o: [["10.0.0.1",6,"o","default/web-0",1001.0]]
+  claims of o: [["10.0.0.2",6,"o","default/web-0",1001.0]]
 put_in_order address-page 10.0.0.0/24
  expects nothing to be there
- {"format":1,"fence":5,"cursor":2,"slots":[
+ {"format":1,"fence":5,"cursor":3,"slots":[
   slot 0: 5
-  slot 1: ["10.0.0.1",6,"o","default/web-0",1001.0]
-  slot 2: 5
+  slot 1: 5
+  slot 2: ["10.0.0.2",6,"o","default/web-0",1001.0]
   slot 3: 5
   slot 4: 5"""
    assert replay(told, until=2).divergence is None


def test_callers_that_are_told_something_else_are_a_divergence(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ciliumipam.tasks.to_allocation", lambda node, block, piece: to_allocation(node, block, piece)._replace(label="x"))

    divergence = replay(told).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what) == (3, "the callers are told something else")
    assert divergence.difference[-4:] == ('-    "label": "default/web-0",', '+    "label": "x",', '     "pool": "all",', '     "block": "10.0.0.0/24",')


def test_a_read_that_is_left_out_is_a_divergence(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = AllocateTask.before
    monkeypatch.setattr(AllocateTask, "before", lambda self, view: list(before(self, view))[:0])

    divergence = replay(told).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what) == (3, "the replay writes where the journal does not")
    assert divergence.journal == ("a read that finds what is known (4 of them)",)
    assert divergence.replay[0] == "put_in_order address-claims n/04"


def test_a_read_that_is_new_is_a_divergence(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = AllocateTask.before
    monkeypatch.setattr(AllocateTask, "before", lambda self, view: (*before(self, view), Key("pool", "other")))

    divergence = replay(told).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what) == (3, "the replay asks the store for something else")
    assert divergence.journal[0] == "put_in_order address-claims n/04"
    assert divergence.replay == ("get pool other",)


def test_another_read_where_there_was_news_is_a_divergence(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    store = MemoryStore()
    ipam = journaled(store, file)
    ipam.apply([whole()], [Node("n")])
    Ipam(store, clock=ticking()).apply(nodes=[Node("n", {"rack": "a"})])
    ipam.allocate("n", "o")
    before = AllocateTask.before
    monkeypatch.setattr(AllocateTask, "before", lambda self, view: [list(before(self, view))[index] for index in (0, 2, 1)])

    divergence = replay(file).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what) == (3, "the replay asks the store for something else")
    assert (divergence.journal, divergence.replay) == (("get node n",), ("get block-claims d2",))


def test_a_replay_that_is_done_too_early_is_a_divergence(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(AllocateTask, "verify", lambda self: ())

    divergence = replay(told).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what) == (4, "the replay is done where the journal goes on")
    assert (divergence.journal, divergence.replay) == (
        ("a read that finds what is known (1 of them)",),
        ("nothing more is asked of the store",),
    )


def test_a_bug_of_this_version_is_a_divergence_that_says_where(told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def step(*_: object) -> bool:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(AllocateTask, "step", step)

    divergence = replay(told).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what, divergence.journal) == (3, "it ends in another way", ("it is done",))
    assert divergence.replay[0] == "ZeroDivisionError: planted"
    assert divergence.replay[1].startswith(f" raised at {__file__}:")
    assert divergence.replay[1].endswith(", in step")


def test_a_bug_of_that_version_replays_as_long_as_it_is_there(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole()], [Node("n")])

    def step(*_: object) -> bool:
        raise ZeroDivisionError("planted")

    with monkeypatch.context() as patch:
        patch.setattr(AllocateTask, "step", step)
        with pytest.raises(ZeroDivisionError):
            ipam.allocate("n", "o")
        assert ended(replay(file)) == ["not closed"]

    divergence = replay(file).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what, divergence.journal) == (
        3,
        "the replay writes where the journal does not",
        ("nothing more is asked of the store",),
    )


def test_records_that_are_others_in_the_end_are_a_divergence(told: str) -> None:
    rewrite(told, -1, lambda fields: {**fields, "digest": "0000000000000000"})

    divergence = replay(told).divergence

    assert divergence is not None
    assert (divergence.line, divergence.calls) == (6, ("to close",))
    assert divergence.what == "every call came out equal, and the records that are known in the end are others"


def test_an_interruption_at_a_moment_that_no_line_tells_ends_the_replay_of_its_run(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole()], [Node("n")])

    def step(*_: object) -> bool:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AllocateTask, "step", step)
        with pytest.raises(KeyboardInterrupt):
            ipam.allocate("n", "o")
    ipam.allocate("n", "p")
    ipam.close()

    replayed = replay(file)

    assert ended(replayed) == ["interrupted"]
    assert replayed.runs[0].calls == 1


class CutError(StoreUnavailableError):
    """An error of a backend's own."""


class Odd(FaultyStore):
    """Raises what no store may."""

    def get(self, key: Key) -> Entry | None:
        if key.name == "n" and self.writes > 6:
            raise LookupError("planted")
        return super().get(key)

    def scan(self, kind: Kind) -> Listing:
        if kind == "node" and self.writes > 6:
            raise CutError("scan", "planted", unknown=False)
        return super().scan(kind)


def test_what_a_store_raises_is_raised_again_also_where_it_is_no_error_of_ours(file: str) -> None:
    ipam = journaled(Odd(MemoryStore()), file)
    ipam.apply([whole()], [Node("n")])
    with pytest.raises(LookupError):
        ipam.allocate("n", "o")
    with pytest.raises(CutError):
        ipam.refresh()

    divergence = replay(file).divergence

    assert divergence is not None
    assert (divergence.line, divergence.what) == (4, "it ends in another way")
    assert divergence.journal == ("CutError: store: scan failed: planted",)
    assert divergence.replay == ("StoreUnavailableError: store: scan failed: planted",)


# ------------------------------------------------------------------------------------------ what was tampered with


def rewrite(file: str, index: int, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Change a line so that its checksum is right."""
    lines = Path(file).read_bytes().splitlines(keepends=True)
    fields = change({name: value for name, value in json.loads(lines[index]).items() if name != "crc"})
    run, number = fields.pop("run"), fields.pop("n")
    lines[index] = to_line(run, number, *(f'"{name}":{json.dumps(value)}' for name, value in fields.items()))
    Path(file).write_bytes(b"".join(lines))


def edit(file: str, change: Callable[[list[str]], list[str]]) -> None:
    Path(file).write_text("".join(change(Path(file).read_text().splitlines(keepends=True))))


@pytest.mark.parametrize(
    ("change", "line", "says"),
    [
        (lambda ls: [*ls[:2], ls[2].replace("10.0.0.1", "10.0.0.9"), *ls[3:]], 3, "it was changed or damaged: its checksum is not that of its text"),
        (lambda ls: [*ls[:2], *ls[3:]], 3, "it is line 3 of run one, and line 1 of it came before: lines are missing"),
        (lambda ls: [*ls[:2], ls[2][:50] + "\n", *ls[3:]], 4, "it is line 3 of run one, and line 1 of it came before: lines are missing"),
        (lambda ls: ls[1:], 1, "run one does not begin in this file: its first lines are missing"),
        (lambda ls: [*ls[:3], "hello\n", *ls[3:]], 4, "this is no line of a journal"),
        (lambda ls: [], 1, "nothing is in it"),
        (lambda ls: [checked('{"run":[1}')], 1, "it cannot be read: Expecting ',' delimiter: line 1 column 10 (char 9)"),
        (lambda ls: [checked('{"run":"one"}')], 1, "it cannot be read: 'n'"),
    ],
)
def test_a_line_that_was_tampered_with_is_named(told: str, change: Callable[[list[str]], list[str]], line: int, says: str) -> None:
    edit(told, change)

    with pytest.raises(InvalidJournalError) as error:
        replay(told)

    assert str(error.value) == f"{told}, line {line}: {says}"


def checked(text: str) -> str:
    body = text[:-1]
    return f'{body},"crc":"{crc32(body.encode()):08x}"}}\n'


@pytest.mark.parametrize(
    ("index", "change", "says"),
    [
        (0, lambda f: {**f, "ordered": []}, "it cannot be read: list index out of range"),
        (0, lambda f: {n: v for n, v in f.items() if n != "version"}, "it cannot be read: the field 'version' is missing"),
        (1, lambda f: {**f, "do": "dance"}, "it cannot be read: nothing that is known is 'dance'"),
        (1, lambda f: {**f, "asked": [{"now": 1.0}]}, "it cannot be read: not enough values to unpack (expected 1, got 0)"),
        (1, lambda f: {n: v for n, v in f.items() if n != "asked"}, "it cannot be read: the field 'asked' is missing"),
        (2, lambda f: {**f, "answers": [{"get": ["pool", "x"]}]}, "it cannot be read: the field 'found' is missing"),
        (
            2,
            lambda f: {**f, "answers": [{"put": [{"kind": "pool", "name": "x", "record": {"format": 1}, "expect": None}], "revisions": []}]},
            "it cannot be read: record pool x is corrupt: name: missing; run 'ciliumipam check' and restore it from a backup",
        ),
        (
            3,
            lambda f: {**f, "answers": [part("address-page", "10.9.0.0/24", {"fence": 1, "cursor": 0, "slots": [1]}, slots=[0])]},
            "it cannot be read: a part of address-page 10.9.0.0/24, which no line before it has whole",
        ),
        (
            3,
            lambda f: {**f, "answers": [part("block-claims", "ff", {"claims": {}, "tentative": {}, "closing": []}, gone=[])]},
            "it cannot be read: a part of block-claims ff, which no line before it has whole",
        ),
    ],
)
def test_a_line_that_says_what_no_version_wrote_is_named(told: str, index: int, change: Callable[[dict[str, Any]], dict[str, Any]], says: str) -> None:
    rewrite(told, index, change)

    with pytest.raises(InvalidJournalError) as error:
        replay(told)

    assert str(error.value) == f"{told}, line {index + 1}: {says}"


def part(kind: str, name: str, record: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"put": [{"kind": kind, "name": name, "record": {"format": 1, **record}, "expect": None, **more}], "revisions": ["1"]}


def test_a_journal_of_a_newer_format_is_refused(told: str) -> None:
    rewrite(told, 0, lambda fields: {**fields, "journal": 2})

    with pytest.raises(UnsupportedVersionError) as error:
        replay(told)

    assert str(error.value) == f"{told}, line 1: the journal has format 2, this version reads up to 1; use a newer ciliumipam"


# ----------------------------------------------------------------------------------------------- what cannot be kept


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.ERROR, "ciliumipam.journal"):
        yield caplog


def test_a_journal_that_can_be_written_no_more_ends_loudly_and_no_call_is_affected(
    file: str, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = MemoryStore()
    ipam = journaled(store, file)
    ipam.apply([whole()], [Node("n")])
    write = os.write
    with monkeypatch.context() as patch:
        patch.setattr("ciliumipam.journal.recording.os.write", lambda to, data: write(to, data[:100]))
        assert str(ipam.allocate("n", "o")[0].address) == "10.0.0.1"
    assert str(ipam.allocate("n", "p")[0].address) == "10.0.0.2"
    assert [str(each.address) for each in ipam.execute(ipam.plan(Allocate("n", ("q",))))] == ["10.0.0.3"]
    ipam.repair()
    ipam.close_journal()

    assert logged.messages == [f"the journal {file} ends here: there is no room left; the calls go on, and are not journaled any more"]
    assert "no room" in str(ipam.journal_error)
    replayed = replay(file)
    assert ended(replayed) == ["not closed"]
    assert replayed.runs[0].calls == 1
    assert len(replayed.notes) == 1


@pytest.mark.parametrize("broken", ["change_to_text", "told_to_document", "digest", "plan_told"])
def test_a_bug_of_the_journal_ends_the_journal_only(
    file: str, logged: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, broken: str
) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole()], [Node("n")])

    def fail(*_: object) -> str:
        raise ZeroDivisionError("planted")

    monkeypatch.setattr(f"ciliumipam.journal.recording.{broken}", fail)

    assert str(ipam.plan(Allocate("n", ("o",))).result[0].address) == "10.0.0.1"
    assert str(ipam.allocate("n", "o")[0].address) == "10.0.0.1"
    ipam.close()
    assert logged.messages == [f"the journal {file} ends here: ZeroDivisionError('planted'); the calls go on, and are not journaled any more"]
    assert ended(replay(file)) == ["not closed"]


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("/dev/full", "store: cannot journal: /dev/full: No space left on device"),
        ("/", "store: cannot journal: /: Is a directory; name a file that this user may write"),
    ],
)
def test_a_journal_that_cannot_be_begun_is_an_error_before_anything_is_done(path: str, says: str) -> None:
    with pytest.raises(StoreRefusedError) as error:
        JournaledIpam(MemoryStore(), journal=path)

    assert str(error.value) == says


def test_a_journal_is_for_its_user_only(file: str) -> None:
    journaled(MemoryStore(), file)

    assert Path(file).stat().st_mode & 0o777 == 0o600


def test_after_close_there_is_no_more_journal(file: str) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.close()
    before = Path(file).read_bytes()

    with pytest.raises(StoreError):
        ipam.allocate("n", "o")
    ipam.close()

    assert Path(file).read_bytes() == before
    assert ipam.journal_error is None


def test_reads_that_find_what_is_known_are_only_counted(file: str) -> None:
    ipam = journaled(MemoryStore(), file)
    ipam.apply([whole()], [Node("n")])
    ipam.refresh()
    ipam.allocate("n", "o")

    refreshed, allocated = lines_of(file)[2:]

    assert refreshed["answers"] == [7]
    assert [type(each) for each in allocated["answers"]] == [int, dict]


def test_what_another_one_did_is_written_once_also_what_it_deleted(file: str) -> None:
    store = MemoryStore()
    ipam, other = journaled(store, file), Ipam(store, clock=ticking())
    other.apply([whole(), whole("more", "10.1.0.0/16")], [Node("n")])
    ipam.refresh()
    ipam.refresh()
    other.remove_pool("more")
    ipam.refresh()
    ipam.close_journal()

    first, second, third = lines_of(file)[1:-1]

    assert [each["scan"] for each in first["answers"][:-1]] == ["pool", "node", "block-page", "block-claims"]
    assert first["answers"][-1] == 3
    assert second["answers"] == [7]
    assert third["answers"] == [{"scan": "pool", "found": [{"kind": "pool", "name": "more", "record": None, "revision": None}]}, 6]
    assert ended(replay(file)) == ["equal"]
    assert records(file) == dict(everything(store))


class Plain:
    """A store that cannot do several puts in one go."""

    def __init__(self) -> None:
        self._inner = MemoryStore()

    def get(self, key: Key) -> Entry | None:
        return self._inner.get(key)

    def scan(self, kind: Kind) -> Listing:
        return self._inner.scan(kind)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        return self._inner.put(key, record, expect=expect)

    def delete(self, key: Key, *, expect: Revision) -> None:
        self._inner.delete(key, expect=expect)

    def close(self) -> None:
        self._inner.close()


def test_a_store_that_puts_one_by_one_replays(file: str) -> None:
    ipam = journaled(Plain(), file)
    ipam.apply([whole()], [Node("n")])
    ipam.allocate("n", "o")
    ipam.remove_node("n", force=True)
    ipam.close()

    replayed = replay(file)

    assert ended(replayed) == ["equal"]
    assert {name for line in lines_of(file) for each in line.get("answers", ()) if isinstance(each, dict) for name in each} >= {"put", "delete"}


class Together(Plain):
    """One at which several writes at once are quicker, and which can fail in the middle of them."""

    def __init__(self) -> None:
        super().__init__()
        self.together: list[int] = []
        self.fails_after: int | None = None

    def put_together(self, writes: Sequence[Write]) -> list[Revision]:
        self.together.append(len(writes))
        fails_after, self.fails_after = self.fails_after, None
        done = [self.put(write.key, write.record, expect=write.expect) for write in writes[:fails_after]]
        if fails_after is not None:
            raise StoreUnavailableError("put_together", "no answer", unknown=True)
        return done


@pytest.mark.parametrize("fails_after", [None, 3])
def test_a_store_that_puts_claims_together_does_so_under_a_journal_too_and_replays(file: str, fails_after: int | None) -> None:
    store = Together()
    store.fails_after = fails_after
    ipam = journaled(store, file)

    ipam.apply([whole()], [Node(f"n{number}") for number in range(8)])
    ipam.close_journal()

    assert store.together[0] == 8
    assert ended(replay(file)) == ["equal"]
    assert records(file) == dict(everything(store))
    assert lines_of(file)[0]["together"] == [True]


# ------------------------------------------------------------------------------------------------- the command


class Answer(NamedTuple):
    code: int
    out: str
    err: str


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Answer]:
    monkeypatch.setenv("CILIUMIPAM_STORE", f"sqlite:{tmp_path}/ipam.db")
    monkeypatch.delenv("CILIUMIPAM_JOURNAL", raising=False)

    def run(*arguments: str) -> Answer:
        code = main(arguments)
        return Answer(code, *capsys.readouterr())

    return run


SEED = str(ROOT / "docs" / "examples" / "seed")


def test_the_command_keeps_a_journal_and_replays_it(cli: Callable[..., Answer], file: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("apply", "-f", SEED, "--journal", file).code == 0
    monkeypatch.setenv("CILIUMIPAM_JOURNAL", file)
    assert cli("allocate", "node-1", "web").code == 0
    assert cli("release", "node-1", "web").code == 0
    assert cli("release", "node-1", "web").code == 3
    assert cli("check", "--repair").code == 0
    assert cli("grow", "node-1", "--blocks", "1").code == 0
    assert cli("delete", "node", "node-2").code == 0
    plan = tmp_path / "plan.json"
    plan.write_text(cli("allocate", "node-1", "db", "--dry-run", "-o", "json").out)
    assert cli("apply", "--plan", str(plan)).code == 0
    before = Path(file).read_text()

    told = cli("replay", file)

    assert told.code == 0, told.out
    assert [line.split()[-1] for line in told.out.splitlines()[1:-1]] == ["equal"] * 8
    assert told.out.splitlines()[-1] == "replayed: 10 calls and 20 writes, all of them equal"
    assert Path(file).read_text() == before

    line = next(number for number, fields in enumerate(lines_of(file), 1) if fields.get("told", [{}])[0].get("addresses"))
    then = f"sqlite:{tmp_path}/then.db"
    assert "written: 2 pool, 2 node" in cli("replay", file, "--until", str(line), "--to", then).out
    assert json.loads(cli("get", "addresses", "--store", then, "-o", "json").out)["items"][0]["owner"] == "web"
    again = cli("replay", file, "--until", str(line), "--to", then, "-o", "json")
    assert json.loads(again.out)["records"]["node"] == 2


def test_the_command_says_where_it_diverges_and_how_to_look_at_what_was_before(
    cli: Callable[..., Answer], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = AllocateTask.before
    monkeypatch.setattr(AllocateTask, "before", lambda self, view: list(before(self, view))[:0])

    text, document = cli("replay", told), cli("replay", told, "-o", "json")

    assert (text.code, document.code) == (1, 1)
    assert "\nline 3 (run one): the replay writes where the journal does not\nasked: allocate " in text.out
    assert text.err == (
        f"ciliumipam: it diverges; ciliumipam replay {told} --until 2 --to sqlite:NEW writes the records"
        " as they were before into a store that every command can look at\n"
    )
    assert json.loads(document.out)["divergence"]["line"] == 3


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nix",), "nix: No such file or directory"),
        (("FILE", "--until", "9"), "FILE has no line 9: its last one is 6"),
        (("FILE", "--until", "0"), "--until 0: lines are numbered from 1 on"),
        (("FILE", "--store", "sqlite:x"), "replay works on a journal; leave --store out (--to is for the records as they were then)"),
        (("FILE", "--to", "x"), "--to 'x' names no store; write sqlite:PATH, as in sqlite:ipam.db"),
    ],
)
def test_bad_arguments_of_replay_are_sentences(cli: Callable[..., Answer], told: str, arguments: tuple[str, ...], says: str) -> None:
    answer = cli("replay", *(told if each == "FILE" else each for each in arguments))

    assert (answer.code, answer.err) == (2, f"ciliumipam: {says.replace('FILE', told)}\n")


def test_the_command_says_that_a_journal_could_not_be_written(cli: Callable[..., Answer], file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cli("apply", "-f", SEED, "--journal", "/dev/full").err.endswith(": /dev/full: No space left on device\n")
    monkeypatch.setattr("ciliumipam.journal.recording.told_to_document", lambda *_: 1 / 0)

    answer = cli("apply", "-f", SEED, "--journal", file)

    assert answer.code == 0
    assert answer.err.splitlines()[-1] == (
        f"ciliumipam: the journal {file} could not be written (division by zero); what the command did is done"
    )


def test_a_line_that_is_not_there_is_refused_also_for_its_records(told: str) -> None:
    with pytest.raises(InvalidRequestError):
        records(told, 7)


def test_importing_the_package_or_the_command_loads_no_journal() -> None:
    code = "import sys, ciliumipam.cli.main; print([name for name in sys.modules if 'journal' in name or 'replay' in name])"

    assert subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout == "[]\n"


if __name__ == "__main__":
    worker(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
