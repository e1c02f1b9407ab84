"""Deciding over scans that are old: an `Ipam` whose listings are what a mirror of the ledger was at some moment, with its own writes on top.

That is how the operator decides. The store below is honest; what each writer lists lags behind it by any number of changes, in order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from ciliumipam import Ipam, Node, NodeSelector, PoolSpec
from ciliumipam.errors import IpamError
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import Change, Expect, Listing, Write
from ciliumipam.store.memory import MemoryStore
from ciliumipam.testing.raw import judge

NODES = [Node(f"n{number}", {"rack": "ab"[number % 2]}) for number in range(4)]
POOLS = [
    PoolSpec(name="p", cidrs=["10.0.0.0/28"], selector=NodeSelector.everything(), block_length_v4=30),
    PoolSpec(name="q", cidrs=["10.0.0.16/28"], selector=NodeSelector.parse("rack=a"), block_length_v4=29, priority=1),
]


class Shared(MemoryStore):
    """A memory store that remembers every change in order."""

    def __init__(self) -> None:
        super().__init__()
        self.changes: list[Change] = []

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        revision = super().put(key, record, expect=expect)
        self.changes.append(Change(key, Entry(record, revision)))
        return revision

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        return [self.put(key, record, expect=expect) for key, record, expect in writes]

    def delete(self, key: Key, *, expect: Revision) -> None:
        super().delete(key, expect=expect)
        self.changes.append(Change(key, None))


class Lagging:
    """What one process sees of it: `get` is the truth, `scan` a mirror. Other writers may act before every put."""

    def __init__(self, store: Shared, lag: Callable[[int], int]) -> None:
        self._store, self._lag = store, lag
        self._seen = 0
        self._known: dict[Key, Entry] = {}
        self.meanwhile: Callable[[], object] = lambda: None

    def get(self, key: Key) -> Entry | None:
        found = self._store.get(key)
        if found is not None:
            self._learn(key, found)
        return found

    def scan(self, kind: Kind) -> Listing:
        behind = len(self._store.changes) - self._seen
        for key, entry in self._store.changes[self._seen : self._seen + behind - self._lag(behind)]:
            self._seen += 1
            if entry is not None:
                self._learn(key, entry)
            else:
                self._known.pop(key, None)
        return Listing(tuple(sorted((key, entry) for key, entry in self._known.items() if key.kind == kind)), Revision("0"))

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        self.meanwhile()
        revision = self._store.put(key, record, expect=expect)
        self._learn(key, Entry(record, revision))
        return revision

    def delete(self, key: Key, *, expect: Revision) -> None:
        self._store.delete(key, expect=expect)
        self._known.pop(key, None)

    def close(self) -> None:
        pass

    def _learn(self, key: Key, entry: Entry) -> None:
        known = self._known.get(key)
        if known is None or int(known.revision) < int(entry.revision):
            self._known[key] = entry


def act(data: st.DataObject, ipam: Ipam) -> None:
    name = data.draw(st.sampled_from([node.name for node in NODES]))
    try:
        match data.draw(st.sampled_from(["apply", "nodes", "drain", "cancel", "gone", "many", "grow", "pool"])):
            case "apply":
                ipam.apply()
            case "nodes":
                ipam.apply(nodes=data.draw(st.lists(st.sampled_from(NODES), unique=True)))
            case "drain":
                ipam.drain("pool", "p")
            case "cancel":
                ipam.drain("pool", "p", cancel=True)
            case "gone":
                ipam.remove_node(name, force=True)
            case "many":
                ipam.remove_nodes([name, NODES[0].name], force=True)
            case "grow":
                ipam.grow(name, 2)
            case _:
                ipam.apply(POOLS[:1])
    except IpamError:
        return


@given(st.data())
def test_no_two_nodes_share_a_block_whatever_the_lag(data: st.DataObject) -> None:
    shared = Shared()
    Ipam(shared, clock=lambda: 1000.0, identity="setup").apply(POOLS, NODES[:2])
    stores = [Lagging(shared, lambda most: data.draw(st.integers(0, most))) for _ in range(2)]
    waited: list[int] = []
    ipams = [Ipam(store, clock=lambda: 1000.0, identity=f"i{at}", pause=waited.append) for at, store in enumerate(stores)]
    busy: list[Any] = []

    def interrupt() -> None:
        if not busy and data.draw(st.booleans()):
            busy.append(True)
            act(data, ipams[1])
            busy.clear()

    stores[0].meanwhile = interrupt
    for _ in range(data.draw(st.integers(1, 5))):
        act(data, ipams[0])
        records: dict[tuple[str, str], Any] = {(key.kind, key.name): entry.record for key, entry in _records(shared)}
        list(judge(records, 16))

    for store in stores:
        store.meanwhile = lambda: None
        store._lag = lambda most: 0
    for ipam in ipams:
        ipam.apply()
        ipam.refresh()
        ipam.check_invariants()
    assert ipams[0].held() == ipams[1].held()
    assert all(len(ipams[0].held().get(record.node.name, ())) >= 1 for record in ipams[0].nodes() if _has_room(ipams[0]))


def _records(store: Shared) -> list[tuple[Key, Entry]]:
    kinds: tuple[Kind, ...] = ("pool", "node", "block-page", "block-claims", "address-page", "address-claims")
    return [item for kind in kinds for item in store.scan(kind).entries]


def _has_room(ipam: Ipam) -> bool:
    return all(not status.spec.draining and all(space.available for space in status.spaces.values()) for status in ipam.pools())
