"""The node's own store: its blocks where the configuration names them, and the gateways, which no pod gets.

A gateway that nothing keeps out of use is found when it is handed out: then an owner of its own, "gateway:" and the block, takes it over,
and the attachment gets another address. No answer ever names a gateway as a pod's address, whatever crashes in between, and nothing
has to be written ahead for blocks that come and go.
"""

from __future__ import annotations

from collections.abc import Sequence

import ciliumipam.node
from ciliumipam.cidr import WIDTH, Prefix, format_address, parse_address, parse_prefix
from ciliumipam.cni import faults
from ciliumipam.cni.config import LOCAL, Config, Gateway, Place
from ciliumipam.cni.faults import CniError
from ciliumipam.cni.result import Given
from ciliumipam.errors import AlreadyAllocatedError, CoolingAddressError, ExhaustedError, InvalidPoolError, NoBlockError
from ciliumipam.one_shot import OneShot
from ciliumipam.partial_view import PartialView, Unread
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Key, PoolRecord, Record, Revision
from ciliumipam.requests import Allocation, Apply, ExistingBlock
from ciliumipam.selector import NodeSelector
from ciliumipam.store import Expect, Store
from ciliumipam.store.sqlite import SqliteStore

POOL = "cni"
"""The pool of the blocks that a configuration names."""


class Probed(Exception):  # noqa: N818 - it is good news
    """An allocation came as far as its first write: it would have been served."""


class _Probe:
    """A store to be read, whose first write ends the call that decided on it."""

    def __init__(self, store: Store) -> None:
        self.get, self.scan, self.close = store.get, store.scan, store.close

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        raise Probed

    def delete(self, key: Key, *, expect: Revision) -> None:
        raise Probed


class Node:
    """A node's store, for one call."""

    def __init__(self, store: Store, name: str, give_up: float | None = None) -> None:
        self._store, self._name, self._give_up = store, name, give_up
        self.one = OneShot(store, name, deadline=give_up)

    @classmethod
    def open(cls, place: Place, give_up: float, *, create: bool) -> Node:
        """Open the store, and wait for others until a moment by `time.monotonic`.

        Raises:
            StoreError: There is none, and `create` is not given; or it cannot be used.
        """
        return cls(SqliteStore(place.path, deadline=give_up, must_exist=not create), place.node, give_up)

    def take(self, config: Config, owner: str, label: str, asked: Sequence[str]) -> tuple[Allocation, ...]:
        """An address of each family for an attachment: the ones that were asked for, and any of the other families. All or nothing.

        Raises:
            CniError: An address that was asked for is a gateway (100), or the blocks of the configuration cannot be had (7).
            IpamError: As `OneShot.allocate`.
        """
        self.prepare(config)
        try:
            found = self._take(owner, label, asked, config.gateway)
        except (ExhaustedError, NoBlockError):
            if not self._adopt_missing(config):
                raise
        else:
            if {each.family for each in found} >= {each.family for each in config.blocks} or not self._adopt_missing(config):
                return found
        return self._take(owner, label, asked, config.gateway)

    def probe(self, config: Config) -> None:
        """Go through an allocation up to its first write.

        Raises:
            CniError, IpamError: What an ADD would raise now.
        """
        self.prepare(config)
        looking = OneShot(_Probe(self._store), self._name, deadline=self._give_up)
        try:
            looking.allocate("status:probe")
        except Probed:
            return
        except (ExhaustedError, NoBlockError):
            if not self._adopt_missing(config):
                raise

    def covers(self, address: str) -> bool:
        """Whether an address is in a block of the node."""
        family, number = parse_address(address)
        return any(block.covers(Prefix(family, number, WIDTH[family])) for block in self._blocks())

    def _take(self, owner: str, label: str, asked: Sequence[str], gateway: Gateway) -> tuple[Allocation, ...]:
        had = bool(asked) and bool(self.one.held(owner))
        while True:
            try:
                if asked:
                    self.one.allocate(owner, addresses=asked, label=label)
                found = self.one.allocate(owner, label=label)
            except BaseException:
                if asked and not had:
                    self.one.release(owner)
                raise
            gateways = [each for each in found if gateway == "first" and str(each.address) == gateway_of(each, gateway)]
            if not gateways:
                return found
            self.one.release(owner)
            for each in gateways:
                if str(each.address) in asked:
                    told = f"{each.address} is the gateway of block {each.block}"
                    raise CniError(faults.ADDRESS_REFUSED, "the address asked for is a gateway", told)
                try:
                    self.one.allocate(f"gateway:{each.block}", addresses=[each.address], label=f"gateway/{each.block}")
                except (AlreadyAllocatedError, CoolingAddressError):
                    continue  # another call was faster, or the pool lets it wait: in both cases the next address is another one

    # ------------------------------------------------------------------------------ blocks that the configuration names

    def prepare(self, config: Config) -> None:
        """See that the store has the pool of the configured blocks as it is configured. One read where it has.

        Raises:
            CniError: They cannot be had (7). Nothing was changed.
        """
        if config.blocks:
            entry = self._store.get(Key("pool", POOL))
            wanted = _pool(config)
            if entry is None or not isinstance(entry.record, PoolRecord) or entry.record.spec != wanted:
                self._adopt(wanted)

    def _adopt_missing(self, config: Config) -> bool:
        """Go on where a process was killed that was adopting; whether there was anything to do."""
        if not config.blocks or set(config.blocks) <= self._blocks():
            return False
        self._adopt(_pool(config))
        return True

    def _adopt(self, spec: PoolSpec) -> None:
        """Take the blocks of a pool into the store, all of them or none. Those that it no longer has become orphans.

        Raises:
            CniError: One of them overlaps a block of another pool, or one that was configured before and still is held (7).
        """
        from ciliumipam.ipam import Ipam  # noqa: PLC0415 - reads the whole store; needed once for each change of a configuration

        ipam = Ipam(self._store)
        node = ciliumipam.node.Node(LOCAL)
        existing = tuple(ExistingBlock(LOCAL, block, POOL, source="ipam.blocks") for block in spec.cidrs)
        conflicts = ipam.plan(Apply((spec,), (node,), existing)).outcome.conflicts
        if conflicts:
            told = "; ".join(f"{each.existing.prefix}: {each.reason}" for each in conflicts)
            raise CniError(faults.INVALID_CONFIG, "the blocks of the configuration cannot be had", told)
        ipam.apply((spec,), (node,), existing)

    def _blocks(self) -> set[Prefix]:
        """The blocks that the node holds."""
        view = PartialView()
        while True:
            try:
                return {block.holding.prefix for block in view.node_blocks(self._name)}
            except Unread as unread:
                view.load(unread.key, self._store.get(unread.key))


def _pool(config: Config) -> PoolSpec:
    try:
        return PoolSpec(name=POOL, cidrs=config.blocks, selector=NodeSelector.everything(), reserved=config.reserved)
    except InvalidPoolError as error:
        told = f"ipam.blocks, ipam.reserved: {'; '.join(error.problems)}"
        raise CniError(faults.INVALID_CONFIG, "invalid network configuration", told) from error


def gateway_of(allocation: Allocation, gateway: Gateway) -> str:
    """The gateway for an address; "" for none."""
    if gateway == "none":
        return ""
    if gateway == "first":
        # a block of one or two addresses has none to spare
        block = parse_prefix(allocation.block)
        return format_address(block.family, block.network + 1) if WIDTH[block.family] - block.length >= 2 else ""
    return next((each for each in gateway if (":" in each) == (allocation.family == 6)), "")


def to_given(allocation: Allocation, gateway: Gateway) -> Given:
    """An allocation as an answer names it."""
    return Given(allocation.family, f"{allocation.address}/{allocation.block.prefixlen}", gateway_of(allocation, gateway))
