"""Both embedded stores against the contract, and against each other under any sequence of calls."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ciliumipam.errors import ConflictError
from ciliumipam.records import KINDS, Entry, Key, Kind, Page, Record, Revision
from ciliumipam.store import ABSENT, Expect, Store, SupportsOrderedPuts, Write
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore
from ciliumipam.testing.conformance import StoreConformance
from ciliumipam.testing.record_strategies import records_of


class TestMemoryStore(StoreConformance):
    @pytest.fixture
    def store(self) -> Iterator[Store]:
        with closing(MemoryStore()) as store:
            yield store


class TestSqliteStore(StoreConformance):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        with SqliteStore(tmp_path / "ipam.db") as store:
            yield store

    @pytest.fixture
    def peer(self, store: Store, tmp_path: Path) -> Iterator[Store]:
        assert isinstance(store, SqliteStore)
        with SqliteStore(tmp_path / "ipam.db", synchronous="NORMAL") as peer:
            yield peer


class TestReopenedSqliteStore(StoreConformance):
    """Every test ends in a file that a second store has opened before the first one was closed."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[Store]:
        SqliteStore(tmp_path / "ipam.db").close()
        with SqliteStore(tmp_path / "ipam.db", must_exist=True) as store:
            yield store


def test_both_stores_can_put_in_order(tmp_path: Path) -> None:
    with SqliteStore(tmp_path / "ipam.db") as store:
        assert isinstance(store, SupportsOrderedPuts)
    assert isinstance(MemoryStore(), SupportsOrderedPuts)


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
