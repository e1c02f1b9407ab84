"""`LedgerSource`: a node's blocks out of the ledger of a store that nodes share; and `SilentNodes`, who gives back what silent nodes hold.

A node says that it is there by writing its *beat*, the record of kind "lease" under its name in the shared store. Who takes the
blocks of a silent node marks that very record first, by compare-and-set. So of a node that beats and of one that marks it only one
wins: after the mark the node gets no confirmation, and the last one that it got is as old as the silence.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from ciliumipam.agent.source import Grant, Granted
from ciliumipam.agent.terms import Terms
from ciliumipam.demand import Demand
from ciliumipam.errors import ConflictError, LeaseExpiredError, NotFoundError, NotHeldError, StaleFenceError
from ciliumipam.executor import Executor
from ciliumipam.ipam import Ipam
from ciliumipam.lease import lease_key
from ciliumipam.node import Node
from ciliumipam.partial_view import PartialView, Unread
from ciliumipam.records import Entry, Lease, Leased
from ciliumipam.requests import Refusal
from ciliumipam.session import Get
from ciliumipam.store import ABSENT, Store

ELSEWHERE = "the node keeps its addresses in a store of its own; allocate there"
"""The reason in a beat: nobody allocates for this node in the shared store."""
RETURNING = "it was silent for so long that its blocks are being given to others"
"""The reason in a beat that was marked."""


class LedgerSource:
    """A source of blocks that is a store. One thread.

    Args:
        store: Where pools, nodes and blocks are kept.
        node: The node. One with labels is applied where the store does not know it; of a name alone it has to.
        terms: How long the node may rely on a confirmation.
        one_store: Whether the node keeps its addresses in this store too. Then the ledger itself decides about each, and nothing expires.
        clock: Seconds since the epoch.

    Raises:
        InvalidRequestError: The terms do not fit together.
    """

    def __init__(
        self,
        store: Store,
        node: Node | str,
        terms: Terms | None = None,
        *,
        one_store: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Nothing is read yet."""
        self.store, self.one_store = store, one_store
        self.ipam = Ipam(store, clock=clock)
        self.node = node if isinstance(node, str) else node.name
        self._known = node if isinstance(node, Node) else None
        self._terms = (terms or Terms()).check()
        self._executor = Executor(store, None, lambda _: None)
        self._refusals: tuple[Refusal, ...] = ()

    def confirm(self) -> Grant:
        """Say that the node is there; then read what it holds.

        Raises:
            NotFoundError: The store does not know the node.
            LeaseExpiredError: Its blocks are being given to others.
        """
        if not self.one_store:
            self._beat()
        view = PartialView()
        view.load(lease_key(self.node), None)  # a beat is no lease: what the node itself may give out is asked for here
        while True:
            try:
                return self._look(view)
            except Unread as unread:
                view.load(unread.key, self._executor.answer(Get(unread.key)))  # type: ignore[arg-type]  # the answer to a Get

    def request(self, demand: tuple[Demand, ...]) -> bool:
        """Write what the node asks for, and give every node what it should have."""
        applied = self.ipam.request(self.node, demand)
        self._refusals = tuple(each for each in applied.refusals if each.node == self.node)
        return any(change.action == "carve" for change in applied.changes)

    def hand_back(self, block: Leased) -> None:
        """Give a block back under its fence."""
        try:
            self.ipam.hand_back(self.node, block.prefix, fence=block.fence, space=block.space)
        except (NotHeldError, StaleFenceError):
            return
        except NotFoundError:
            return  # the node is not known, so it holds nothing

    def _beat(self) -> None:
        key = lease_key(self.node)
        entry = self.store.get(key)
        known = entry.record if entry is not None else None
        if isinstance(known, Lease) and known.reason == RETURNING:
            raise LeaseExpiredError(self.node, RETURNING)
        if self._known is not None and self.store.get(key._replace(kind="node")) is None:
            self.ipam.apply(nodes=[self._known])
        beats = known.confirmed if isinstance(known, Lease) else 0.0
        # "confirmed" only counts here: no clock of one machine means anything on another
        beat = Lease(self.node, "", beats + 1, self._terms.stop_after, reason=ELSEWHERE)
        self.store.put(key, beat, expect=entry.revision if entry is not None else ABSENT)

    def _look(self, view: PartialView) -> Grant:
        record = view.nodes.get(self.node)
        if record is None:
            raise NotFoundError("node", self.node)
        blocks = []
        pools = []
        for each in view.node_blocks(self.node):
            held = each.holding
            view.page(each.ledger.key(held.network, held.length))  # the first page says whether the block is closed
            if view.is_closed(held):
                continue
            blocks.append(Granted(held.prefix, held.fence, held.label, each.serves, held.space))
            pool = view.pools.get(held.label)
            if pool is not None and pool.spec not in pools:
                pools.append(pool.spec)
        waiting = tuple(str(each) for each in self._refusals)
        return Grant(record.node, tuple(blocks), self._terms.stop_after, tuple(pools), waiting)


class SilentNodes:
    """Gives back the blocks of nodes that have been silent for too long. One of a store is enough; several do no harm.

    Silence is counted by this object's own clock, from when it first saw a beat that did not change any more: a restart begins
    anew, which only makes it longer. Whatever it is told, it waits for as long as the node's own terms require.

    Args:
        store: The store that the nodes share.
        terms: After how long.
        clock: Seconds of a clock that does not go back; one that stops while the machine sleeps only makes it longer.
    """

    def __init__(self, store: Store, terms: Terms, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Nothing is read yet."""
        self._store, self._terms, self._clock = store, terms.check(), clock
        self._seen: dict[str, tuple[Entry, float]] = {}
        self._ipam = Ipam(store)

    def look(self) -> tuple[str, ...]:
        """Give back what is due. Returns the nodes that it was taken from."""
        beats = {key.name: entry for key, entry in self._store.scan("lease").entries}
        now = self._clock()  # after the reading: no silence is counted from before it was seen
        self._seen = {
            name: self._seen[name] if self._seen.get(name, (None,))[0] == entry else (entry, now)
            for name, entry in beats.items()
        }
        taken = []
        for name, (entry, since) in sorted(self._seen.items()):
            lease = entry.record
            if not isinstance(lease, Lease) or lease.reason not in (ELSEWHERE, RETURNING):
                continue  # a lease, not a beat
            wait = max(self._terms.return_after, Terms.least_return(lease.stop_after, self._terms.timeout))
            if lease.reason == RETURNING or now - since > wait:
                try:
                    self._take(name, entry, lease)
                except ConflictError:
                    continue  # it has spoken, or somebody else takes its blocks
                taken.append(name)
        return tuple(taken)

    def _take(self, name: str, entry: Entry, lease: Lease) -> None:
        key = lease_key(name)
        revision = entry.revision
        if lease.reason != RETURNING:
            revision = self._store.put(key, lease._replace(reason=RETURNING), expect=revision)
        self._ipam.remove_nodes([name], force=True)
        self._store.delete(key, expect=revision)
