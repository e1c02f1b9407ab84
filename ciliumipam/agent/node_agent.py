"""`NodeAgent`: keeps a node's own store in step with the source of its blocks. `docs/explanation/node.md` argues why it is safe.

A round, in an order in which every first part is a legal state:

1. Read the lease, and the time. Ask the source what is the node's.
2. Write the lease: for how long that can be relied on, and on which blocks. What is not the node's any more is not in it.
3. Let the node's own ledger follow: adopt what is new; what was lost becomes an orphan, which keeps its addresses and gives out none.
4. Finish what was begun to hand back. Ask for more, or begin to hand a block back, in three durable steps: the lease stops naming
   it, its own ledger is closed, the source is told.

Every round does the same whatever the last one did, so there is nothing to restore but what the store says. A second agent on the
same store, or an old one that wakes up, loses the compare-and-set of the lease and ends its round.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Final, NamedTuple

from ciliumipam.agent.ledger_source import LedgerSource
from ciliumipam.agent.source import BlockSource, Grant, Granted
from ciliumipam.boot import this_moment
from ciliumipam.cidr import WIDTH, AddressLike, Family, Network, Prefix, parse_prefix
from ciliumipam.demand import BlockUse, Demand, DemandWatch, Watermark
from ciliumipam.errors import (
    BlockNeededError,
    BlockNotEmptyError,
    LeaseExpiredError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    StaleFenceError,
)
from ciliumipam.ipam import Ipam
from ciliumipam.lease import Moment, lease_key, why_expired
from ciliumipam.node import Node
from ciliumipam.observer import UNOBSERVED, Observer
from ciliumipam.pool import PoolSpec
from ciliumipam.ranges import format_range
from ciliumipam.records import Entry, Lease, Leased
from ciliumipam.requests import Allocation, Block, ExistingBlock
from ciliumipam.selector import NodeSelector
from ciliumipam.store import ABSENT, Store

LOG: Final = logging.getLogger("ciliumipam.agent")


class Round(NamedTuple):
    """What a round came to.

    Attributes:
        blocks: What the node holds, as the source says.
        adopted, lost, handed_back: Blocks that came, that are the node's no more, and that it gave back.
        demand: What it asks for.
        waiting: Why it does not have that, as sentences.
        orphans: Blocks that were lost and whose addresses are still in use here.
        changed: Whether another round may have something to do at once.
    """

    blocks: tuple[Granted, ...] = ()
    adopted: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    handed_back: tuple[str, ...] = ()
    demand: tuple[Demand, ...] = ()
    waiting: tuple[str, ...] = ()
    orphans: tuple[str, ...] = ()
    changed: bool = False


class NodeAgent:
    """The agent of one node. One thread calls `round`; any may allocate and release, and calls that come together share a commit.

    Args:
        source: Where its blocks come from.
        store: The node's own store; the source's, where that is a `LedgerSource` of one store.
        node: The node's name.
        watermark: When to ask for more, and when to hand back.
        clock: Seconds since the epoch.
        moment: The time in which leases count.
        observer: Who is told of calls.
        pause: As of `Ipam`.
    """

    def __init__(
        self,
        source: BlockSource,
        store: Store,
        node: str,
        *,
        watermark: Watermark = Watermark(),  # noqa: B008 - immutable
        clock: Callable[[], float] = time.time,
        moment: Callable[[], Moment] = this_moment,
        observer: Observer = UNOBSERVED,
        pause: Callable[[int], None] | None = None,
    ) -> None:
        """Nothing is read yet."""
        self.node, self.ipam = node, Ipam(store, clock=clock, moment=moment, observer=observer, pause=pause)
        self._source, self._store, self._moment = source, store, moment
        self._own = not (isinstance(source, LedgerSource) and source.one_store)
        self._watch, self._watching = DemandWatch(watermark), Lock()
        self._asked: tuple[Demand, ...] | None = None
        self._needed: set[Leased] = set()

    # ------------------------------------------------------------------------------------------------- addresses

    def allocate(
        self, owner: str, *, address: AddressLike | None = None, family: Family | None = None, label: str = ""
    ) -> tuple[Allocation, ...]:
        """Give an owner addresses, as `Ipam.allocate` does: durable when this returns. What cannot be had the next round asks for."""
        try:
            found = self.ipam.allocate(self.node, owner, address=address, family=family, label=label)
        except (NodeExhaustedError, NoBlockError) as error:
            lacking = (
                error.family or family or 4
            )  # a node without any block is asked for by one family; the source gives all of its pool
            with self._watching:
                self._watch.failed(owner, 6 if lacking == 6 else 4, self._moment().seconds)
            raise
        with self._watching:
            for each in found:
                self._watch.served(owner, each.family)
        return found

    def release(self, owner: str, *, missing_ok: bool = True) -> tuple[Allocation, ...]:
        """Take every address from an owner, also where the lease has ended."""
        with self._watching:
            for family in (4, 6):
                self._watch.served(owner, family)
        return self.ipam.release(self.node, owner, missing_ok=missing_ok)

    def why_silent(self) -> str:
        """Why the node gives out no address at present, as part of a sentence; "" if it does."""
        if self._own:
            lease = self._read()[1]
            if lease is None:
                return "its claim on its blocks was never confirmed"
            if reason := why_expired(lease, self._moment()):
                return reason
            if not lease.blocks:
                return "it has no block"
        # the lease is written first: until the node's own ledger has adopted a block, nothing can be given out of it
        if not any(block.node == self.node and not block.orphan for block in self.ipam.blocks()):
            return "it has not adopted its blocks yet" if self._own else "it has no block"
        return ""

    # ------------------------------------------------------------------------------------------------- a round

    def round(self) -> Round:
        """Do what there is to do once.

        Raises:
            ConflictError: Another agent works on this store.
            StoreError: The source or the store cannot be asked. The node goes on by its lease.
            NotFoundError, LeaseExpiredError: The source does not let it have blocks. The node has stopped giving out addresses.
        """
        if not self._own:
            return self._round_in_one_store()
        moment = self._moment()
        entry, lease = self._read()
        try:
            grant = self._source.confirm()
        except (NotFoundError, LeaseExpiredError) as error:
            returning = lease.returning if lease is not None else ()
            reason = error.reason if isinstance(error, LeaseExpiredError) else f"the source of its blocks says: {error}"
            self._write(entry, Lease(self.node, moment.boot, moment.seconds, 0.0, (), returning, reason))
            self._follow(Node(self.node), (), ())
            raise
        usable, returning = _split(grant, lease.returning if lease is not None else ())
        fresh = Lease(
            self.node,
            moment.boot,
            moment.seconds,
            grant.stop_after,
            tuple(each.leased for each in usable if each.serves),
            returning,
        )
        entry = self._write(entry, fresh)
        adopted, lost = self._follow(grant.node, usable, grant.pools)
        back = [str(each.prefix) for each in returning if self._give(each)]
        blocks = {block.prefix: block for block in self.ipam.blocks()}
        demand, spare, uses = self._decide(usable, blocks, moment.seconds, returning)
        asked = self._ask(demand, uses)
        for each in spare[:1]:  # in steps: the next round looks at what stays before it gives another one
            fresh = fresh._replace(
                blocks=tuple(one for one in fresh.blocks if one != each), returning=(*fresh.returning, each)
            )
            entry = self._write(entry, fresh)
            self._follow(grant.node, tuple(one for one in usable if one.leased != each), grant.pools)
            if self._give(each):
                back.append(str(each.prefix))
        held = {each.prefix for each in grant.blocks}
        orphans = tuple(str(each.prefix) for each in self.ipam.blocks() if each.orphan and _prefix(each) not in held)
        changed = bool(adopted or back or asked)
        return Round(grant.blocks, adopted, lost, tuple(back), demand, grant.waiting, orphans, changed)

    def _round_in_one_store(self) -> Round:
        grant = self._source.confirm()
        self.ipam.refresh()
        blocks = {block.prefix: block for block in self.ipam.blocks() if block.node == self.node}
        demand, spare, uses = self._decide(grant.blocks, blocks, self._moment().seconds, ())
        asked = self._ask(demand, uses)
        back = []
        for each in spare[:1]:
            try:
                self._source.hand_back(each)
            except (BlockNotEmptyError, BlockNeededError):
                continue  # an address was given out meanwhile, or the source wants more to stay
            back.append(str(each.prefix))
        return Round(
            grant.blocks, handed_back=tuple(back), demand=demand, waiting=grant.waiting, changed=bool(back or asked)
        )

    def _ask(self, demand: tuple[Demand, ...], uses: Sequence[BlockUse]) -> bool:
        """Say what the node asks for, if that is news or it has less; whether another round may find something new."""
        news = demand != self._asked
        have = {
            family: sum(use.usable for use in uses if use.block.family == family and not use.draining)
            for family in (4, 6)
        }
        if news or not uses or any(have[each.family] < each.addresses for each in demand):
            self._asked = demand
            return self._source.request(demand) or news
        return False

    def _read(self) -> tuple[Entry | None, Lease | None]:
        entry = self._store.get(lease_key(self.node))
        return entry, entry.record if entry is not None and isinstance(entry.record, Lease) else None

    def _write(self, before: Entry | None, lease: Lease) -> Entry:
        """Replace the lease, if nobody has written it since it was read."""
        revision = self._store.put(
            lease_key(self.node), lease, expect=before.revision if before is not None else ABSENT
        )
        return Entry(lease, revision)

    def _follow(
        self, node: Node, usable: Sequence[Granted], known: Sequence[PoolSpec]
    ) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Let the node's own ledger hold exactly what it is to serve. Returns what was adopted and what was lost."""
        self.ipam.refresh()
        before = {_prefix(block): block for block in self.ipam.blocks()}
        pools = _own_pools(usable, known)
        present = {status.spec.name: status.spec for status in self.ipam.pools()}
        for name in sorted(present.keys() - {spec.name for spec in pools}):
            self.ipam.remove_pool(name)
        existing = [
            ExistingBlock(self.node, each.prefix, each.pool, address_space=each.space)
            for each in usable
            if each.prefix not in before
        ]
        if (
            existing
            or any(present.get(spec.name) != spec for spec in pools)
            or node not in [each.node for each in self.ipam.nodes()]
        ):
            self.ipam.apply(pools, [node], existing)
        wanted = {each.prefix for each in usable}
        lost = [block for prefix, block in before.items() if prefix not in wanted]
        for block in lost:
            self._close(block)
        adopted = tuple(str(each.prefix) for each in existing)
        return adopted, tuple(str(block.prefix) for block in lost if not block.orphan)

    def _close(self, block: Block) -> bool:
        """Close a block of the node's own ledger for ever, if it is empty; durable when this returns."""
        try:
            self.ipam.hand_back(self.node, block.prefix, fence=block.fence, space=block.space)
        except BlockNotEmptyError:
            return False  # its addresses go one by one, with their owners
        except (NotHeldError, StaleFenceError, NotFoundError):
            return True
        return True

    def _give(self, block: Leased) -> bool:
        """Hand a block back that was begun to be handed back: the node's own ledger first, then the source."""
        mine = next(
            (each for each in self.ipam.blocks() if _prefix(each) == block.prefix and each.space == block.space), None
        )
        if mine is not None and not self._close(mine):
            LOG.warning(
                "block=%s is on its way back, but addresses of it are held here: release them", str(block.prefix)
            )
            return False
        try:
            self._source.hand_back(block)
        except BlockNeededError as error:
            LOG.info("block=%s cannot go back yet: %s", str(block.prefix), str(error))
            self._needed.add(block)
            return False
        self._needed.discard(block)
        return True

    def _decide(
        self, usable: Sequence[Granted], blocks: dict[Network, Block], now: float, returning: Sequence[Leased]
    ) -> tuple[tuple[Demand, ...], list[Leased], list[BlockUse]]:
        """What to ask for, what to hand back, and what is used."""
        uses = []
        for each in usable:
            block = blocks.get(each.prefix.to_network())
            if block is not None:
                counts = block.utilization
                uses.append(
                    BlockUse(
                        each.prefix,
                        "",
                        counts.capacity - counts.reserved,
                        counts.in_use,
                        counts.cooling,
                        draining=not each.serves,
                    )
                )
        with self._watching:
            decision = self._watch.decide(uses, now)
        by_prefix = {each.prefix: each.leased for each in usable}
        # what the source does not take back counts there as had and gives nothing here: it is asked for on top until there is enough
        have = {
            family: sum(use.usable for use in uses if use.block.family == family and not use.draining)
            for family in (4, 6)
        }
        kept = dict.fromkeys((4, 6), 0)
        for one in self._needed.intersection(returning):
            kept[one.prefix.family] += 1 << (WIDTH[one.prefix.family] - one.prefix.length)
        demand = tuple(
            each._replace(addresses=each.addresses + (kept[each.family] if have[each.family] < each.addresses else 0))
            for each in decision.demand
        )
        return demand, [by_prefix[prefix] for prefix in decision.hand_back], uses


def _prefix(block: Block) -> Prefix:
    return parse_prefix(block.prefix)


def _split(grant: Grant, returning: Sequence[Leased]) -> tuple[tuple[Granted, ...], tuple[Leased, ...]]:
    """What of a grant the node may use, and what of it is on its way back."""
    back = [each.leased for each in grant.blocks if each.leased in returning]
    return tuple(each for each in grant.blocks if each.leased not in back), tuple(back)


def _own_pools(usable: Sequence[Granted], known: Sequence[PoolSpec]) -> list[PoolSpec]:
    """The pools of the node's own store: each as large as the node's blocks of it, so that nothing can be carved there."""
    specs = {spec.name: spec for spec in known}
    mine: dict[str, list[Granted]] = {}
    for each in usable:
        if each.pool:
            mine.setdefault(each.pool, []).append(each)
    return [_own_pool(name, blocks, specs.get(name)) for name, blocks in sorted(mine.items())]


def _own_pool(name: str, blocks: Sequence[Granted], spec: PoolSpec | None) -> PoolSpec:
    cidrs = sorted(each.prefix for each in blocks)
    of_4, of_6 = ([each.length for each in cidrs if each.family == family] for family in (4, 6))
    own = PoolSpec(
        name=name,
        cidrs=cidrs,
        selector=NodeSelector.everything(),
        block_length_v4=min(of_4, default=None),
        block_length_v6=min(of_6, default=None),
        address_space=blocks[0].space,
    )
    if spec is None:
        return own
    reserved = [
        format_range(family, max(first, cidr.network), min(last, cidr.last))
        for family, first, last in spec.reserved
        for cidr in cidrs
        if cidr.family == family and first <= cidr.last and cidr.network <= last
    ]
    return PoolSpec(
        name=name,
        cidrs=cidrs,
        selector=own.selector,
        block_length_v4=own.block_length_v4,
        block_length_v6=own.block_length_v6,
        address_space=own.address_space,
        reserved=reserved,
        allow_first=spec.allow_first,
        allow_last=spec.allow_last,
        reuse_delay=spec.reuse_delay,
        address_policy=spec.address_policy,
        seed=spec.seed,
    )
