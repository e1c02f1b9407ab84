"""A cluster as a store: nodes are its Node and CiliumNode objects, pools whatever objects describe pools, and the ledger is the ledger.

`Cluster` is what one process knows of it, object by object. `ClusterStore` lays that over a `KubernetesStore`, so that `Ipam` on top is
the facade over a cluster: for the operator, which follows everything by watches and lists nothing in a round of its own, and for a
command, which lists what it needs when it needs it.

What is followed may be behind. That does no harm: all of the ledger is one resource, so a mirror of it is what a listing was at some
moment, with this process's own writes on top; and deciding over it is what somebody does who has read, and slept. Whatever is written
then names the revision that it was decided over. `get` always asks the server, so that a conflict is settled by the truth.

`guard` says what `put` refuses here and no other store does: taking a block from a node whose objects may list it.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any

from ciliumipam.cidr import Prefix, parse_prefix
from ciliumipam.codec import Codec
from ciliumipam.errors import (
    ConflictError,
    CorruptRecordError,
    IpamError,
    NotInstalledError,
    StoreError,
    StoreRefusedError,
)
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.guard import CILIUM_NODES, NODES, Guard, mark_key
from ciliumipam.kubernetes.listed import Listed, NodeState
from ciliumipam.kubernetes.mirror import Known, Mirror
from ciliumipam.kubernetes.objects import LEDGERS, named_key, object_name, to_entry
from ciliumipam.kubernetes.pool_objects import DEFAULT_SOURCES, SOURCES, PoolObject, Pools, moment, read_pool
from ciliumipam.kubernetes.publish import DRAINING, NodeObject, read_cilium_node, read_node
from ciliumipam.kubernetes.sealed import Ledger, Unreadable, ledger_of
from ciliumipam.ledger import ROOT_FENCE, address_ledger, block_ledger, fence_of, locate
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec
from ciliumipam.records import (
    ADDRESS_KINDS,
    Entry,
    Holding,
    Key,
    Kind,
    NodeRecord,
    Page,
    PoolRecord,
    Record,
    Revision,
    Split,
)
from ciliumipam.requests import ExistingBlock
from ciliumipam.store import ABSENT, Expect, Listing, Store, Write

_LOG = logging.getLogger(__name__)


class Cluster:
    """Mirrors of everything that is decided over.

    Args:
        api: The server.
        sources: Which kinds of objects are pools; keys of `SOURCES`.

    Attributes:
        api: The server.
        following: Whether everything that is looked at is in the mirrors: kept up to date, or read at once. Otherwise it is asked for.
        reads_demand: Whether what CiliumNodes ask for counts; not where blocks are written on core Nodes, which take one of each family.
        ledger: Records of the ledger.
    """

    def __init__(self, api: Api, *, sources: Collection[str] = DEFAULT_SOURCES) -> None:
        """Nothing is asked yet."""
        self.api = api
        self.following = False
        self.reads_demand = True
        self._tell: Callable[[], object] = lambda: None
        self._codec = Codec()
        self.nodes: Mirror[NodeObject] = Mirror(api, (NODES,), read_node, self._changed, required=True)
        self.cilium_nodes: Mirror[NodeObject] = Mirror(api, (CILIUM_NODES,), read_cilium_node, self._changed)
        self.pool_objects = {name: Mirror(api, SOURCES[name], read_pool, self._changed) for name in SOURCES if name in sources}
        self.ledger: Mirror[tuple[Key, Entry | Unreadable]] = Mirror(api, (LEDGERS,), self._read_ledger, self._changed, required=True)
        self._entries: dict[str, tuple[NodeObject | None, NodeObject | None, Entry]] = {}

    def _changed(self) -> None:
        self._tell()

    def _read_ledger(self, obj: Mapping[str, Any]) -> tuple[Key, Entry | Unreadable]:
        key = named_key(obj)
        try:
            return to_entry(obj, self._codec)
        except StoreError as error:
            _LOG.error("ledger=%s cannot be read: %s", obj["metadata"]["name"], error)
            unreadable = error
        except Exception as error:  # noqa: BLE001 - whatever it is, what it says must count as held
            _LOG.exception("ledger=%s cannot be read", obj["metadata"]["name"])
            unreadable = CorruptRecordError(str(key), f"{type(error).__name__}: {error}")
        return key, Unreadable(unreadable, Revision(obj["metadata"]["resourceVersion"]))

    # ------------------------------------------------------------------------------------------------ following

    def follow(self, tell: Callable[[], object], complain: Callable[[str], object] | None = None) -> None:
        """Keep everything up to date, in threads of its own.

        Args:
            tell: Called when something has changed, by whichever thread noticed; it returns at once.
            complain: Called with the plural of a resource each time that it could not be listed or watched; the same.
        """
        self._tell = tell
        for mirror in self._mirrors():
            mirror.start(complain)
        self.following = True

    def is_synced(self) -> bool:
        """Whether everything has been read once."""
        return all(mirror.synced.is_set() for mirror in self._mirrors())

    def trouble(self) -> str:
        """What cannot be followed, and why, for people; "" if everything is."""
        return "; ".join(each.trouble for each in self._mirrors() if each.trouble)

    def is_installed(self, resource: Resource) -> bool:
        """Whether a resource was seen to be there."""
        return any(mirror.installed == resource for mirror in self._mirrors())

    def stop(self) -> None:
        """End all watches."""
        for mirror in self._mirrors():
            mirror.end()
        for mirror in self._mirrors():
            mirror.stop()

    def _mirrors(self) -> tuple[Mirror[Any], ...]:
        return (self.ledger, self.nodes, self.cilium_nodes, *self.pool_objects.values())

    def refresh(self) -> None:
        """Read everything now: the ledger last, so that what is found there is not older than the nodes."""
        for mirror in self._mirrors()[::-1]:
            mirror.refresh()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Read everything now, and let all that is looked at inside be that; nothing, of one that is followed."""
        if self.following:
            yield
            return
        self.refresh()
        if not self.is_synced():
            self.api.list(LEDGERS)  # the error says what to do
        self.following = True
        try:
            yield
        finally:
            self.following = False

    # -------------------------------------------------------------------------------------------------- looking

    def node_states(self) -> dict[str, NodeState]:
        """All nodes that have an object. O(nodes)."""
        core, cilium = self.nodes.all(), self.cilium_nodes.all()
        if len(self._entries) > 2 * (len(core) + len(cilium)) + 100:  # nodes come and go for years
            self._entries = {name: entry for name, entry in self._entries.items() if name in core or name in cilium}
        return {name: NodeState(_usable(core.get(name)), _usable(cilium.get(name))) for name in core.keys() | cilium.keys()}

    def leaving(self) -> dict[str, Entry]:
        """The nodes that are marked as leaving (see `guard`)."""
        return {key.name: entry for key, entry in self.ledger_now().entries.items() if key.kind == "node"}

    def ledger_now(self) -> Ledger:
        """Every record of the ledger. An object that is not the one of its key is none. O(records)."""
        return ledger_of(known.value for known in self.ledger.all().values() if not isinstance(known.value, IpamError))

    def ledger_entry(self, key: Key) -> Entry | None:
        """A record of the ledger as it is known here; None where there is none, or it cannot be read."""
        known = self.ledger.get(object_name(key))
        found = known.value[1] if known is not None and not isinstance(known.value, IpamError) else None
        return found if isinstance(found, Entry) else None

    def node_entry(self, name: str, state: NodeState) -> Entry | None:
        """A node as a record. Its revision follows from what it says, so that a heartbeat is no change."""
        core, cilium = (each.value if each is not None else None for each in state)
        assert not isinstance(core, IpamError) and not isinstance(cilium, IpamError)  # noqa: S101, PT018 - `_usable` left them out
        known = self._entries.get(name)
        if known is not None and known[0] is core and known[1] is cilium:
            return known[2]
        first = core or cilium
        if first is None:
            return None
        draining = any(each is not None and each.draining for each in (core, cilium))
        demand = cilium.demand if cilium is not None and self.reads_demand else ()
        said = (first.node.label_pairs, draining, demand, *(each.uid if each is not None else "" for each in (core, cilium)))
        revision = Revision(hashlib.sha256(repr(said).encode()).hexdigest()[:24])
        entry = Entry(NodeRecord(first.node, moment(first.created), draining, demand), revision)
        self._entries[name] = core, cilium, entry
        return entry

    def pools(self) -> Pools:
        """All pools. Of two objects that name one pool the older counts."""
        found = Pools({}, [], [])
        objects: list[tuple[PoolObject, str]] = []
        for mirror in self.pool_objects.values():
            for known in mirror.all().values():
                assert isinstance(known.value, PoolObject)  # noqa: S101 - reading one never fails
                objects.append((known.value, known.revision))
        for each, revision in sorted(objects, key=lambda item: (item[0].since, item[0].manifest["kind"] != "CIDRPool", item[0].uid)):
            if each.spec is None and not each.problem:
                continue
            found.objects.append(each.manifest)
            if each.spec is None:
                found.broken.append((each.manifest, each.problem))
            elif each.spec.name in found.entries:
                found.broken.append((each.manifest, f"an older object is the pool {each.spec.name!r} already; give one of them another name"))
            else:
                found.entries[each.spec.name] = Entry(PoolRecord(each.spec, each.since), Revision(revision))
        return found

    def pool_object(self, name: str) -> PoolObject | None:
        """The object of a pool, of whichever kind."""
        for mirror in self.pool_objects.values():
            for known in mirror.all().values():
                if isinstance(known.value, PoolObject) and known.value.spec is not None and known.value.spec.name == name:
                    return known.value
        return None


def _usable(known: Known[NodeObject] | None) -> Known[NodeObject] | None:
    return known if known is not None and isinstance(known.value, NodeObject) else None


# ------------------------------------------------------------------------------------------------------------- the store


class ClusterStore:
    """The store of a cluster. Thread-safe.

    Args:
        store: The ledger, and the pools that are CIDRPools.
        cluster: What is known; of one that is not following everything is listed when it is asked for.
        clock: Seconds since the epoch.
        threads: How many writes that need no order are done at once.
        on_nodes: Whether blocks are written on core Nodes, so that whatever those list is in use.
    """

    def __init__(
        self, store: Store, cluster: Cluster, *, clock: Callable[[], float] = time.time, threads: int = 8, on_nodes: bool = False
    ) -> None:
        """Nothing is asked yet."""
        self.cluster = cluster
        cluster.reads_demand = not on_nodes
        self._listed = Listed(every=on_nodes)
        self._store = store
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="cluster store")
        self.guard = Guard(cluster.api, store, clock, self._learn_mark, cluster.is_installed)

    def _learn_mark(self, node: str, entry: Entry | None) -> None:
        key = mark_key(node)
        if entry is not None:
            self._learn(key, entry)
        else:
            known = self.cluster.ledger.get(object_name(key))
            if known is not None:
                self.cluster.ledger.forget(object_name(key), known.revision)

    def _learn(self, key: Key, entry: Entry, *, own: bool = True) -> None:
        self.cluster.ledger.learn_value(object_name(key), entry.revision, (key, entry), own=own)

    # ---------------------------------------------------------------------------------------------------- reading

    def get(self, key: Key) -> Entry | None:
        """The record as it is now."""
        cluster = self.cluster
        if key.kind == "node":
            for resource, mirror in ((NODES, cluster.nodes), (CILIUM_NODES, cluster.cilium_nodes)):
                self._fetch(resource, mirror, key.name)
            state = cluster.node_states().get(key.name)
            return cluster.node_entry(key.name, state) if state is not None and key.name not in self._leaving() else None
        if key.kind == "pool":
            for objects in cluster.pool_objects.values():
                objects.refresh()
            return cluster.pools().entries.get(key.name)
        if key.kind in ADDRESS_KINDS and cluster.following:
            # Nothing is decided by an address here but that a block may be closed, and closing it compares the page. There are 64
            # claim pages a node, nearly always none of them is there, and a thousand nodes may leave at once.
            return cluster.ledger_entry(key)
        entry = self._store.get(key)
        if entry is not None:
            self._learn(key, entry, own=False)
        return entry

    def _fetch(self, resource: Resource, mirror: Mirror[NodeObject], name: str) -> None:
        known = mirror.get(name)  # before it is asked: what comes to be meanwhile is not what the answer says is gone
        try:
            obj = self.cluster.api.get(resource, name)
        except NotInstalledError:
            return
        if obj is not None:
            mirror.learn(obj)
        elif known is not None:
            mirror.forget(name, known.revision)

    def _leaving(self) -> Collection[str]:
        if self.cluster.following:
            return self.cluster.leaving()
        return {key.name for key, _ in self._store.scan("node").entries}

    def scan(self, kind: Kind) -> Listing:
        """Every record of a kind: as far as it is followed, or as of now."""
        cluster = self.cluster
        if kind == "node":
            if not cluster.following:
                self._refresh_nodes()
            ledger = cluster.ledger_now() if cluster.following else ledger_of(self._store.scan("node").entries)
            hidden = {key.name for key in ledger.entries if key.kind == "node"}
            nodes = (
                (name, cluster.node_entry(name, state))
                for name, state in cluster.node_states().items()
                if name not in hidden and not ledger.why_sealed(name)
            )
            found = [(Key("node", name), entry) for name, entry in nodes if entry is not None]
        elif kind == "pool":
            if not cluster.following:
                for mirror in cluster.pool_objects.values():
                    mirror.refresh()
            found = [(Key("pool", name), entry) for name, entry in cluster.pools().entries.items()]
        elif cluster.following:
            found = [item for item in cluster.ledger_now().entries.items() if item[0].kind == kind]
        else:
            listing = self._store.scan(kind)
            for key, entry in listing.entries:
                self._learn(key, entry)
            return listing
        return Listing(tuple(sorted(found, key=lambda item: item[0])), Revision(""))

    def listed(self, pools: Sequence[PoolSpec]) -> Sequence[ExistingBlock]:
        """What node objects list: nobody else may be given that, also before it was taken over into the ledger."""
        if not self.cluster.following:
            self._refresh_nodes()
        known = [entry.record.spec for _, entry in self.scan("pool").entries if isinstance(entry.record, PoolRecord)]
        found = self._listed.of(self.cluster.node_states(), [*known, *pools], self._held)
        return [*found, *self.cluster.ledger_now().shut()] if self.cluster.following else found

    def _held(self) -> set[tuple[str, Prefix]]:
        """What nodes hold, for a command, which may take it back; who follows only gives."""
        if self.cluster.following:
            return set()
        pages = (entry.record for _, entry in self._store.scan("block-page").entries)
        return {(slot.holder, slot.prefix) for page in pages if isinstance(page, Page) for slot in page.slots if type(slot) is Holding}

    def _refresh_nodes(self) -> None:
        for objects in (self.cluster.nodes, self.cluster.cilium_nodes):
            objects.refresh()

    # ---------------------------------------------------------------------------------------------------- writing

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record.

        Raises:
            StoreRefusedError: It would take a block from a node whose objects list it, or change what only users may.
        """
        if key.kind == "node":
            return self._put_node(key, record, expect)
        if key.kind == "pool":
            return self._put_pool(key, record, expect)
        ended = self._ends(key, record, expect)
        for block in ended:
            if not self.guard.is_released(block) and not self._is_closed(block):
                reason = self.guard.release(block.holder, [block])
                if reason:
                    raise StoreRefusedError(f"take block {block.piece} from node {block.holder}", reason)
        revision = self._store.put(key, record, expect=expect)
        self._learn(key, Entry(record, revision))
        if key.kind == "block-page":
            self.guard.forget(ended)
        return revision

    def put_together(self, writes: Sequence[Write]) -> list[Revision]:
        """Do writes at once, in any order."""
        started = [self._threads.submit(self.put, write.key, write.record, expect=write.expect) for write in writes]
        wait(started)
        return [each.result() for each in started]

    def _put_pool(self, key: Key, record: Record, expect: Expect) -> Revision:
        known = self.cluster.pool_object(key.name)
        if known is not None and known.manifest["kind"] != "CIDRPool":
            kind = known.manifest["kind"]
            instead = "change that with kubectl"
            if isinstance(record, PoolRecord) and known.spec is not None and record.spec.draining != known.spec.draining:
                instead = (
                    f"a {kind} cannot say that it drains: apply the CIDRPool that ciliumipam get pool {key.name} -o yaml prints,"
                    f" delete the {kind} with kubectl, and drain the pool then"
                )
            raise StoreRefusedError(f"change pool {key.name}", f"it is the {kind} {known.manifest['metadata']['name']}; {instead}")
        revision = self._store.put(key, record, expect=expect)
        if "CIDRPool" in self.cluster.pool_objects:
            self.cluster.pool_objects["CIDRPool"].refresh()
        return revision

    def _put_node(self, key: Key, record: Record, expect: Expect) -> Revision:
        """Nothing of a node can be written here but whether it drains."""
        present = self.get(key)
        if (present.revision if present is not None else ABSENT) != expect:
            raise ConflictError(str(key), str(expect), present.revision if present is not None else "nothing")
        if present is None:
            raise StoreRefusedError(f"add node {key.name}", "nodes of a cluster are its Node and CiliumNode objects, which register themselves")
        assert isinstance(record, NodeRecord)  # noqa: S101 - the kind says so
        assert isinstance(present.record, NodeRecord)  # noqa: S101 - the kind says so
        if record.demand != present.record.demand:
            why = "its agent does that, in spec.ipam.pools.requested of its CiliumNode"
            raise StoreRefusedError(f"ask for addresses for node {key.name}", why)
        if record._replace(draining=present.record.draining) != present.record:
            raise StoreRefusedError(f"change node {key.name}", f"its labels are those of its object: kubectl label node {key.name} KEY=VALUE")
        for resource, mirror in ((NODES, self.cluster.nodes), (CILIUM_NODES, self.cluster.cilium_nodes)):
            known = _usable(mirror.get(key.name))
            if known is None or isinstance(known.value, IpamError) or known.value.draining == record.draining:
                continue
            if record.draining and mirror is self.cluster.cilium_nodes and _usable(self.cluster.nodes.get(key.name)) is not None:
                continue  # on the core Node is enough
            value = "true" if record.draining else None
            patch = {"metadata": {"resourceVersion": known.revision, "annotations": {DRAINING: value}}}
            mirror.learn(self.cluster.api.patch(resource, key.name, patch), own=True)
        after = self.cluster.node_entry(key.name, self.cluster.node_states()[key.name])
        assert after is not None  # noqa: S101 - it has an object
        return after.revision

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record; a node only `kubectl` can."""
        if key.kind == "node":
            raise StoreRefusedError(f"remove node {key.name}", f"it is an object of the cluster: kubectl delete node {key.name}")
        if key.kind == "pool" and (known := self.cluster.pool_object(key.name)) is not None and known.manifest["kind"] != "CIDRPool":
            what = f"{known.manifest['kind']} {known.manifest['metadata']['name']}"
            raise StoreRefusedError(f"remove pool {key.name}", f"it is the {what}; delete that with kubectl")
        self._store.delete(key, expect=expect)
        if key.kind == "pool" and "CIDRPool" in self.cluster.pool_objects:
            self.cluster.pool_objects["CIDRPool"].refresh()
        elif key.kind != "pool":
            self.cluster.ledger.forget(object_name(key), expect)

    def close(self) -> None:
        """Close the store below."""
        self._threads.shutdown()
        self._store.close()

    # --------------------------------------------------------------------------------------------------- guarding

    def _ends(self, key: Key, record: Record, expect: Expect) -> Sequence[Holding]:
        """The blocks that nodes would lose by a write."""
        if not isinstance(record, Page):
            return ()
        if key.kind == "block-page":
            before = self._page(key, expect)
            after = set(record.slots)
            return tuple(dict.fromkeys(slot for slot in (before.slots if before is not None else ()) if type(slot) is Holding and slot not in after))
        if any(type(slot) is Holding or type(slot) is Split for slot in record.slots):
            return ()
        # nothing counts in it any more if its fence is above that of the block: this is how a block begins to go back
        space, named, name = key.name.rpartition("@")
        root = parse_prefix(name.partition("+")[0])
        ledger = block_ledger(root.family, space if named else DEFAULT_SPACE)
        spot = locate(self, ledger, ROOT_FENCE, root.network, root.length)
        slot = spot.page.slots[spot.start] if spot is not None and not spot.links else 0
        before = self._page(key, expect)
        if type(slot) is not Holding or slot.prefix != root or record.fence <= (before.fence if before is not None else fence_of(slot)):
            return ()
        return (slot,)

    def _is_closed(self, block: Holding) -> bool:
        """Whether somebody whom the guard had let began to take a block back, and closed it: no write of before lists it any more.

        Anybody may finish that, also where the node has come back by now and lists it: it is as free as any, and the node adopts it anew.
        """
        page = self.page(address_ledger(block.prefix, block.space).key(block.network, block.length))
        return page is not None and page.fence > block.fence

    def page(self, key: Key) -> Page | None:
        """A page as it is known here."""
        entry = self.cluster.ledger_entry(key)
        return entry.record if entry is not None and isinstance(entry.record, Page) else None

    def _page(self, key: Key, expect: Expect) -> Page | None:
        """The page that a write replaces."""
        if expect is ABSENT:
            return None
        known = self.cluster.ledger.get(object_name(key))
        if known is None or known.revision != expect:
            entry = self._store.get(key)
            if entry is None or entry.revision != expect:
                raise ConflictError(str(key), f"revision {expect}", f"revision {entry.revision}" if entry is not None else "nothing")
            record = entry.record
            return record if isinstance(record, Page) else None
        return self.page(key)


__all__ = ["DEFAULT_SOURCES", "SOURCES", "Cluster", "ClusterStore", "NodeState", "PoolObject", "Pools"]
