"""Both embedded stores against the contract, and against each other under any sequence of calls."""

from __future__ import annotations

import resource
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ciliumipam.errors import ConflictError, InvalidRequestError, RevisionExpiredError, StoreUnavailableError
from ciliumipam.records import KINDS, ClaimPage, Entry, Key, Kind, Page, Record, Revision
from ciliumipam.store import ABSENT, Change, Expect, Store, SupportsOrderedPuts, SupportsWatch, Write
from ciliumipam.store import sqlite as sqlite_store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore
from ciliumipam.testing.conformance import StoreConformance
from ciliumipam.testing.faults import Fault, FaultyStore
from ciliumipam.testing.racing import increment
from ciliumipam.testing.record_strategies import number_of, numbered, records_of

Loss: TypeAlias = Callable[[], AbstractContextManager[Store]]


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with closing(MemoryStore(history=500)) as store:
            yield store

    @pytest.fixture
    def losses(self, store: Store) -> Sequence[Loss]:
        """It has no way to lose a reply of its own, so its caller has one: a wrapper."""

        @contextmanager
        def lose(fault: Fault) -> Iterator[Store]:
            yield FaultyStore(store, [fault])

        return [partial(lose, fault) for fault in (Fault.LOST, Fault.VANISHED, Fault.REFUSED)]

    @pytest.fixture
    def forget(self, store: Store) -> Callable[[], None]:
        def write_on() -> None:
            store.put(Key("address-page", "busy"), numbered(0), expect=ABSENT)
            increment(store, Key("address-page", "busy"), 500)

        return write_on


class TestSqliteStore(StoreConformance):
    rounds = 30

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with SqliteStore(tmp_path / "ipam.db") as store:
            yield store

    @pytest.fixture
    def peer(self, store: Store, tmp_path: Path) -> Iterator[Store]:
        assert isinstance(store, SqliteStore)
        with SqliteStore(tmp_path / "ipam.db", synchronous="NORMAL") as peer:
            yield peer

    @pytest.fixture
    def losses(self, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sequence[Loss]:
        """A file that stays locked, a log that cannot grow, and a deadline that strikes right before and right after the commit."""

        @contextmanager
        def locked() -> Iterator[Store]:
            with closing(sqlite3.connect(tmp_path / "ipam.db")) as other:
                other.execute("BEGIN IMMEDIATE")
                with SqliteStore(tmp_path / "ipam.db", busy_timeout=0) as hasty:
                    yield hasty

        @contextmanager
        def full() -> Iterator[Store]:
            limits = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / "ipam.db-wal").stat().st_size, limits[1]))
            try:
                yield store
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        @contextmanager
        def late(*, committed: bool) -> Iterator[Store]:
            commit = sqlite_store._commit

            def strike(connection: sqlite3.Connection, revision: int) -> None:
                if committed:
                    commit(connection, revision)
                raise StoreUnavailableError("put", "the deadline of the caller", unknown=True)

            with monkeypatch.context() as patched:
                patched.setattr(sqlite_store, "_commit", strike)
                yield store

        return [locked, full, partial(late, committed=False), partial(late, committed=True)]

    def test_every_way_to_lose_a_reply_does_what_it_says(self, store: Store, losses: Sequence[Loss]) -> None:
        found = []
        store.put(Key("block-page", "x"), numbered(0), expect=ABSENT)
        for number, loss in enumerate(losses):
            with loss() as failing, pytest.raises(StoreUnavailableError) as caught:
                failing.put(Key("block-page", str(number)), numbered(1), expect=ABSENT)
            found.append((caught.value.unknown, store.get(Key("block-page", str(number))) is not None))

        assert found == [(False, False), (True, False), (True, False), (True, True)]


class TestReopenedSqliteStore(StoreConformance):
    """Every test ends in a file that a second store has opened before the first one was closed."""

    rounds = 15

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        SqliteStore(tmp_path / "ipam.db").close()
        with SqliteStore(tmp_path / "ipam.db", must_exist=True) as store:
            yield store


def test_both_stores_can_put_in_order(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "ipam.db") as store:
        assert isinstance(store, SupportsOrderedPuts)
    assert isinstance(MemoryStore(), SupportsOrderedPuts)
    assert isinstance(MemoryStore(), SupportsWatch)


# ------------------------------------------------------------------------------------------- the memory's watches


def test_a_busy_kind_does_not_make_a_quiet_one_expire() -> None:
    store = MemoryStore(history=3)
    begin = store.scan("node").revision
    quiet, busy = Key("address-claims", "quiet"), Key("address-page", "busy")
    revision = store.put(quiet, ClaimPage({}), expect=ABSENT)
    store.put(busy, numbered(0), expect=ABSENT)
    increment(store, busy, 10)

    assert next(store.watch("address-claims", begin)) == Change(quiet, Entry(ClaimPage({}), revision))
    with pytest.raises(RevisionExpiredError) as caught:
        store.watch("address-page", begin)
    assert caught.value.args == ("address-page", "0")
    assert "list them again" in str(caught.value)


def test_as_many_changes_as_it_remembers_can_be_caught_up_with() -> None:
    for late in (3, 4):
        store, key = MemoryStore(history=3), Key("address-page", "x")
        store.put(key, numbered(0), expect=ABSENT)
        listed = store.scan("address-page").revision
        slow = store.watch("address-page", listed)
        increment(store, key, late)

        if late == 3:
            assert [next(slow).entry for _ in range(3)][-1] == store.get(key)
            assert number_of(next(store.watch("address-page", listed)).entry) == 1
        else:
            with pytest.raises(RevisionExpiredError):
                store.watch("address-page", listed)
            with pytest.raises(RevisionExpiredError):
                next(slow)


@pytest.mark.parametrize("revision", ["2", "01", " 1", "1_0", "+1", "\u0661", "", "-1", "1e0", "9" * 5000])
def test_only_what_a_listing_said_can_be_watched_from(revision: str) -> None:
    store = MemoryStore()
    store.put(Key("address-page", "x"), numbered(0), expect=ABSENT)

    with pytest.raises(RevisionExpiredError):
        store.watch("address-page", Revision(revision))


def test_what_a_conflict_takes_back_uses_up_no_revision() -> None:
    store, key = MemoryStore(), Key("address-page", "x")
    with pytest.raises(ConflictError):
        store.put_in_order([Write(key, numbered(1), ABSENT), Write(key, numbered(2), ABSENT)])

    assert store.scan("address-page").revision == "0"


def test_a_store_without_a_memory_of_changes_is_refused() -> None:
    with pytest.raises(InvalidRequestError, match="history is 0"):
        MemoryStore(history=0)


# ------------------------------------------------------------------------------------------------------- side by side

NAMES = st.sampled_from(("a", "b", "10.0.1.0/24"))
SOME_KINDS: st.SearchStrategy[Kind] = st.sampled_from(KINDS)


class SideBySide(RuleBasedStateMachine):
    """A `SqliteStore` does what a plain dict of counted entries says, whatever is called and however often it is opened again."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = tempfile.TemporaryDirectory()
        self.path = Path(self.directory.name) / "ipam.db"
        self.model: dict[Key, Entry] = {}
        self.used: set[tuple[Key, Revision]] = set()
        self.stores: list[SqliteStore] = []

    @initialize()
    def begin(self) -> None:
        self.stores = [SqliteStore(self.path), SqliteStore(self.path)]

    def expectation(self, key: Key, choice: int) -> tuple[Expect, bool]:
        """What to expect of a key, and whether that is true: now and then something old or wrong."""
        present = self.model.get(key)
        true: Expect = present.revision if present else ABSENT
        old = sorted(revision for used, revision in self.used if used == key)
        if choice == 0 and old:
            return old[0], old[0] == true
        if choice == 1:
            return ABSENT, present is None
        return true, True

    def wrote(self, key: Key, record: Record, revision: Revision) -> None:
        assert (key, revision) not in self.used
        self.used.add((key, revision))
        self.model[key] = Entry(record, revision)

    @rule(data=st.data(), name=NAMES, kind=SOME_KINDS, which=st.integers(0, 1), choice=st.integers(0, 5))
    def put(self, data: st.DataObject, name: str, kind: Kind, which: int, choice: int) -> None:
        key = Key(kind, name)
        record = data.draw(records_of(kind))
        expect, true = self.expectation(key, choice)
        if true:
            self.wrote(key, record, self.stores[which].put(key, record, expect=expect))
        else:
            with pytest.raises(ConflictError):
                self.stores[which].put(key, record, expect=expect)

    @rule(
        names=st.lists(NAMES, unique=True),
        which=st.integers(0, 1),
        choices=st.lists(st.integers(0, 9), min_size=3, max_size=3),
    )
    def put_in_order(self, names: list[str], which: int, choices: list[int]) -> None:
        keys = [Key("block-page", name) for name in names]
        wanted = [self.expectation(key, choice) for key, choice in zip(keys, choices, strict=False)]
        writes = [Write(key, Page(number, 0, (0,)), wanted[number][0]) for number, key in enumerate(keys)]
        if all(true for _, true in wanted):
            for write, revision in zip(writes, self.stores[which].put_in_order(writes), strict=True):
                self.wrote(write.key, write.record, revision)
        else:
            with pytest.raises(ConflictError):
                self.stores[which].put_in_order(writes)

    @rule(name=NAMES, kind=SOME_KINDS, which=st.integers(0, 1), choice=st.integers(0, 5))
    def delete(self, name: str, kind: Kind, which: int, choice: int) -> None:
        key = Key(kind, name)
        expect, true = self.expectation(key, choice)
        if expect is ABSENT:
            return
        if true:
            self.stores[which].delete(key, expect=expect)
            del self.model[key]
        else:
            with pytest.raises(ConflictError):
                self.stores[which].delete(key, expect=expect)

    @rule(which=st.integers(0, 1))
    def open_again(self, which: int) -> None:
        self.stores[which].close()
        self.stores[which] = SqliteStore(self.path, must_exist=True)

    @invariant()
    def both_show_what_was_written(self) -> None:
        for store in self.stores:
            for kind in KINDS:
                assert store.scan(kind).entries == tuple(
                    sorted((key, self.model[key]) for key in self.model if key.kind == kind)
                )
            for key, entry in self.model.items():
                assert store.get(key) == entry

    def teardown(self) -> None:
        for store in self.stores:
            store.close()
        self.directory.cleanup()


TestSideBySide = SideBySide.TestCase
