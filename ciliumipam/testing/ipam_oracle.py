"""The slow twin of `Ipam`: what was acknowledged, in lists, and whether an answer could be right.

It sees what a caller sees, requests and answers, and what the records say (`life_reading`). It shares no code with what it judges
(standard library and `errors` only) and has none of its ideas: no free index, no plan. Which block or address was picked it does not
predict; that it was free, in the right place, not cooling, under a new fence, and that a refusal had a reason, it finds out by going
through all that is held. Blocks are the business of `block_oracle`.

A call that broke off leaves doubt. `learn` takes over what is read then, if that is one of the states in which the call may have
ended. Its owners become *ghosts*, its nodes are in *limbo*: their next call may finish or undo what was begun, so more answers are
right, until one is acknowledged.

Tell it each call with its answer; it raises `AssertionError` where that cannot be right, and takes it over where it is:

>>> from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec
>>> from ciliumipam.records import KINDS
>>> from ciliumipam.testing.life_reading import read_records
>>> from ciliumipam.testing.oracle_values import Told
>>> ipam, twin, pool = Ipam(store := MemoryStore()), IpamOracle(), OraclePool("pool-a", (ip_network("10.0.0.0/24"),))
>>> def reading():
...     records = {(kind, key.name): entry.record for kind in KINDS for key, entry in store.scan(kind).entries}
...     return Reading({"pool-a": pool}, {"node-1": {}}, frozenset(), read_records(records))
>>> _ = ipam.apply([PoolSpec(name="pool-a", cidrs=["10.0.0.0/24"], selector=NodeSelector.everything())], [Node("node-1")])
>>> twin.apply([pool], {"node-1": {}}, (), Told(), reading())
>>> twin.allocate([("node-1", "pod-1")], None, None, "", ipam.allocate("node-1", "pod-1"))
>>> twin.matches(reading())
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from ipaddress import ip_network
from types import MappingProxyType
from typing import Any, Protocol

from ciliumipam.errors import (
    AlreadyAllocatedError,
    CoolingAddressError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    OutOfRangeError,
    OwnerHoldsError,
    ReservedAddressError,
    StaleFenceError,
)
from ciliumipam.testing.demand_oracle import DemandOracle
from ciliumipam.testing.life_reading import RawAddress
from ciliumipam.testing.oracle_values import Asked, Held, HeldBlock, Pod, Reading
from ciliumipam.testing.pool_oracle import NO_POOL, Address, Network, OraclePool


class AllocationLike(Protocol):
    """An allocation as `Ipam` shows it."""

    @property
    def node(self) -> str: ...  # noqa: D102 - as the class says

    @property
    def owner(self) -> str: ...  # noqa: D102 - as the class says

    @property
    def label(self) -> str: ...  # noqa: D102 - as the class says

    @property
    def pool(self) -> str: ...  # noqa: D102 - as the class says

    @property
    def block(self) -> Network: ...  # noqa: D102 - as the class says

    @property
    def address(self) -> Address: ...  # noqa: D102 - as the class says

    @property
    def fence(self) -> int: ...  # noqa: D102 - as the class says


class IpamOracle(DemandOracle):
    """What has been acknowledged, blocks and addresses.

    Attributes:
        earlier: Pools as they were when the present call began, if somebody else did something meanwhile: it may go by these.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        super().__init__()
        self._fences: dict[tuple[str, Address], int] = {}
        self.earlier: dict[str, OraclePool] = {}

    # ------------------------------------------------------------------------------------------------- looking

    def holder(self, space: str, address: Address) -> Pod | None:
        """Who holds an address."""
        return next((pod for pod, each in self.held_in(space, ip_network(address))), None)

    def block_of(self, space: str, address: Address) -> tuple[str, HeldBlock] | None:
        """The node and block that an address lies in."""
        return next(
            ((node, block) for node, blocks in self.blocks.items() for block in blocks if block.space == space and address in block.network),
            None,
        )

    def counts(self, block: HeldBlock) -> tuple[int, int, int, int, int]:
        """Capacity, available, in use, cooling, reserved."""
        pool = self.pool_of(block)
        held = [each.address for _, each in self.held_in(block.space, block.network)]
        cooling = [
            address
            for (space, address), until in self.cooling.items()
            if space == block.space and address in block.network and until > self.now and not pool.is_reserved(block.network, address)
        ]
        room = pool.room(block.network) - sum(not pool.is_reserved(block.network, address) for address in held) - len(cooling)
        capacity = block.network.num_addresses
        return capacity, room, len(held), len(cooling), capacity - room - len(held) - len(cooling)

    def available(self, blocks: Iterable[HeldBlock], family: int) -> int:
        """Addresses that blocks can still give out."""
        return sum(self.counts(block)[1] for block in blocks if block.network.version == family)

    def matches(self, reading: Reading) -> None:
        """Assert that what is read is exactly what was acknowledged."""
        assert dict(reading.pools) == self.pools, f"pools: {dict(reading.pools)}, acknowledged: {self.pools}"
        assert dict(reading.nodes) == self.nodes, f"nodes: {dict(reading.nodes)}, acknowledged: {self.nodes}"
        assert reading.draining == self.draining, f"draining: {reading.draining}, acknowledged: {self.draining}"
        assert {name: dict(each) for name, each in reading.demand.items()} == self.demand, f"asked: {reading.demand}, acknowledged: {self.demand}"
        seen = self._seen(reading)
        if self._in_doubt:  # what was claimed by a call, or a round, that broke off has its place before what was filled first
            for node, mine in self.blocks.items():
                if set(mine) == set(seen.get(node, ())):
                    mine.sort(key=seen[node].index)
        assert seen == self.blocks, f"blocks: {seen}, acknowledged: {self.blocks}"
        marked = {HeldBlock(each.pool, each.network, each.fence, each.space) for each in reading.found.blocks if each.draining}
        assert marked == self.marked, f"draining: {marked}, acknowledged: {self.marked}"
        self.closed = {HeldBlock(each.pool, each.network, each.fence, each.space) for each in reading.found.blocks if each.closed}
        held = _addresses(reading.found.addresses)
        assert held == self.held, f"held: {held}, acknowledged: {self.held}"
        self.matches_cooling(reading)

    def matches_cooling(self, reading: Reading) -> None:
        """Assert that what has to cool does; what was begun to be given, and never was, may cool as well."""
        most = self.now + max((pool.delay for pool in self._ever), default=0.0)
        found = reading.found
        closed = {(each.space, each.network) for each in found.blocks if each.closed}
        for (space, address), until in self.cooling.items():
            where = self.block_of(space, address)
            if until > self.now and where is not None and (space, where[1].network) not in closed:  # else the block cools next
                assert found.cooling.get((space, address), 0) >= until, f"{address} of {space} cools until {until}, but that was forgotten"
        for place, until in found.cooling.items():
            assert until <= most, f"{place} cools until {until}, longer than anybody said"
            self.cooling[place] = until
        waiting: dict[tuple[str, int], list[tuple[int, int, float]]] = {}
        for space, network, until in found.cooling_blocks:
            assert until <= most, f"{network} cools until {until}, longer than anybody said"
            first, last = _ends(network)
            waiting.setdefault((space, network.version), []).append((first, last, until))
        self._forget_begun()
        for space, network, until in self.cooling_blocks:
            if until <= self.now:
                continue
            first, last = _ends(network)
            slots = [(low, high) for low, high, end in waiting.get((space, network.version), ()) if end >= until]
            whole = any(low <= first and last <= high for low, high in slots)
            size = sum(high - low + 1 for low, high in slots if first <= low and high <= last)
            assert whole or size == last - first + 1, f"{network} of {space} cools until {until}, but that was forgotten"
        for block in [block for mine in self.blocks.values() for block in mine]:
            first, last = _ends(block.network)
            clash = [low for low, high, _ in waiting.get((block.space, block.network.version), ()) if low <= last and first <= high]
            assert not clash, f"{block} cools and is held"
        self.cooling_blocks = [each for each in found.cooling_blocks if each[2] > self.now]

    # ------------------------------------------------------------------------------------------------- addresses

    def allocate(
        self,
        pods: Sequence[Pod],
        address: Address | None,
        family: int | None,
        label: str,
        answer: Sequence[AllocationLike] | IpamError,
        *,
        stale: bool = False,
    ) -> None:
        """Judge an answer to `Ipam.allocate` and take it over. All `pods` are on one node.

        Who is `stale` has not read nodes and blocks since somebody else changed them: it may still count on what it knew, as long as
        nobody else is given the same.
        """
        node = pods[0][0]
        allowed, right = self._refusals(node, pods, address, family, self.serving(node))
        if isinstance(answer, IpamError):
            assert type(answer) in allowed, f"refused with {answer!r}, but right is {_names(allowed) or 'to give'}"
            return
        if stale and not right:
            good = [each for each in self.open(node) if not self.is_orphan(each)]
            heard = sorted({each.address.version for each in answer})  # it may not have heard of a block of the other family
            right = all(self._refusals(node, pods, address, each, good)[1] for each in ([family] if family or address else heard))
        assert right, f"{node} gave {list(answer)}, but right was {_names(allowed)}"
        all_families = self._families(node)
        families = [address.version] if address else [family] if family else all_families
        if stale and address is None and family is None:
            families = sorted({each.address.version for each in answer})
            assert set(families) <= set(all_families), f"{node} gave {families}"
        assert [(each.node, each.owner, each.address.version) for each in answer] == [(*pod, each) for pod in pods for each in families]
        for each in answer:  # what a ghost was about to lose is free by now, and may have gone to another owner of this very call
            facts = self.held.get((each.node, each.owner), {})
            if (each.node, each.owner) in self.ghosts and facts.get(each.address.version) != _held(each):
                facts.pop(each.address.version, None)
        for each in answer:
            pod = (each.node, each.owner)
            known = self.held.get(pod, {}).get(each.address.version)
            if known is not None and (pod not in self.ghosts or known == _held(each)):
                assert _held(each) == known, f"{pod} holds {known}, but was told {each}"
            else:
                self.held.get(pod, {}).pop(each.address.version, None)
                self._new(each, None if pod in self.ghosts else label, stale=stale)
            assert address in (None, each.address), f"{each.address} was given in place of {address}"
        if families == all_families:
            self.ghosts.difference_update(pods)

    def _families(self, node: str) -> list[int]:
        return sorted({block.network.version for block in self.open(node)})

    def _new(self, given: AllocationLike, label: str | None, *, stale: bool) -> None:
        """Take over an address that was just given, after checking that it could be."""
        mine = self.blocks.get(given.node, [])
        block = next((each for each in mine if given.address in each.network), None)
        assert block is not None, f"{given} is in no block of {given.node}: {mine}"
        assert (block.network, block.pool) == (given.block, given.pool), f"{given} is in {block}"
        versions = [pools.get(block.pool, NO_POOL) for pools in (self.pools, self.earlier)]
        fitting = [pool for pool in versions if pool.space == block.space and pool.covers(block.network)]
        assert fitting, f"{given} was taken out of an orphan"
        assert stale or block in self.serving(given.node), f"{given} was taken out of {block}, which takes nothing new"
        assert any(not pool.is_reserved(block.network, given.address) for pool in fitting), f"{given} is reserved"
        place = (block.space, given.address)
        holder = self.holder(*place)
        assert holder is None, f"{given.address} was given to {given.owner}, but {holder} holds it"
        assert self.cooling.get(place, 0) <= max(self.now, self.latest), f"{given.address} was given, but cools until {self.cooling[place]}: it is {self.now}"
        assert given.fence > self._fences.get(place, 0), f"{given} has a fence that was used before"
        assert label in (None, given.label), f"{given} should have the label {label!r}"
        self._fences[place] = given.fence
        self.held.setdefault((given.node, given.owner), {})[given.address.version] = _held(given)

    def _refusals(
        self, node: str, pods: Sequence[Pod], address: Address | None, family: int | None, serving: Sequence[HeldBlock]
    ) -> tuple[set[type], bool]:
        """Which errors are right for an allocation, and whether giving is."""
        blocks = self.open(node)
        doubt: set[type] = {NoBlockError, NodeExhaustedError, NotFoundError, OutOfRangeError} if node in self.limbo else set()
        if not blocks:
            return {NoBlockError if node in self.nodes else NotFoundError, *doubt}, False
        have = self._families(node)
        wanted = address.version if address else family
        slack = sum(ghost[0] == node for ghost in self.ghosts)
        if wanted is not None and wanted not in have:
            return {NoBlockError, *doubt}, False
        if address is not None:
            allowed, right = self._refusals_of(pods[0], address, serving)
            return allowed | doubt, right
        allowed = set(doubt)
        right = True
        for each in [wanted] if wanted else have:
            need = sum(each not in self.held.get(pod, {}) for pod in pods)
            most = sum(each not in self.held.get(pod, {}) or pod in self.ghosts for pod in pods)
            room = self.available(serving, each)
            if all(block.network.version != each for block in serving):
                allowed |= {NoBlockError} if most else set()
                right = right and not need
            else:
                allowed |= {NodeExhaustedError} if most > room - slack and most else set()
                right = right and need <= room + slack
        return allowed, right

    def _refusals_of(self, pod: Pod, address: Address, serving: Sequence[HeldBlock]) -> tuple[set[type], bool]:
        """The same where an address is asked for."""
        known = self.held.get(pod, {}).get(address.version)
        doubt: set[type] = {OwnerHoldsError} if pod in self.ghosts else set()
        if known is not None and pod not in self.ghosts:
            return (set(), True) if known.address == address else ({OwnerHoldsError}, False)
        if known is not None and known.address == address:
            return {OwnerHoldsError, ReservedAddressError, NoBlockError, CoolingAddressError}, True
        block = next((each for each in self.blocks.get(pod[0], ()) if address in each.network), None)
        if block is None:
            return {OutOfRangeError, *doubt}, False
        wrong: set[type] = set()
        if block not in serving:
            wrong.add(NoBlockError)
        if self.pool_of(block).is_reserved(block.network, address):
            wrong.add(ReservedAddressError)
        if self.holder(block.space, address) is not None:
            wrong.add(AlreadyAllocatedError)
        if self.cooling.get((block.space, address), 0) > self.now:
            wrong.add(CoolingAddressError)
        return wrong | doubt, not wrong

    def release(
        self, pods: Sequence[Pod], *, missing_ok: bool, answer: Sequence[AllocationLike] | IpamError, stale: bool = False
    ) -> None:
        """Judge an answer to `Ipam.release` and take it over."""
        node = pods[0][0]
        missing = [pod for pod in pods if pod not in self.held]
        unknown = node not in self.nodes and not self.blocks.get(node)
        if isinstance(answer, IpamError):
            assert isinstance(answer, NotFoundError), f"refused with {answer!r}"
            assert unknown or (missing and not missing_ok) or node in self.limbo, f"refused with {answer!r}, but all hold something"
            return
        assert not unknown or (missing_ok and not answer), f"{node} is not known, but {list(answer)} were released"
        assert missing_ok or self.ghosts.issuperset(missing), f"{missing} hold nothing, but it was not refused"
        right = [(pod, held) for pod in pods for held in self.held.get(pod, {}).values()]
        found = [((each.node, each.owner), _held(each)) for each in answer]
        # whoever set out to free an address and then finds it free takes that for its own doing
        found = [each for each in found if each in right or each[0] not in self.ghosts]
        assert _sorted(found) == _sorted(right), f"told {answer}, right: {right}"
        for pod in pods:
            for each in self.held.pop(pod, {}).values():
                self._end(pod, each.address, stale=stale)
            self.ghosts.discard(pod)

    def _end(self, pod: Pod, address: Address, *, stale: bool) -> None:
        block = next(each for each in self.blocks[pod[0]] if address in each.network)
        self._freed(block, address, stale=stale)

    def release_address(
        self, space: str, address: Address, fence: int | None, answer: AllocationLike | IpamError, *, stale: bool = False
    ) -> None:
        """Judge an answer to `Ipam.release_fenced`, or with no fence `force_release`, and take it over."""
        where, pod = self.block_of(space, address), self.holder(space, address)
        held = self.held[pod][address.version] if pod is not None else None
        if isinstance(answer, IpamError):
            allowed: set[type] = {NotHeldError} if fence is None or where is None else {StaleFenceError}
            if self.ghosts or not self._fences.get((space, address)):
                allowed.add(NotHeldError)
            if where is not None and where[0] in self.limbo:
                allowed |= {NotHeldError, StaleFenceError}
            elif held is not None:
                assert fence not in (None, held.fence), f"refused with {answer!r}, but {pod} holds it so"
            assert type(answer) in allowed, f"refused with {answer!r}, but right is {_names(allowed)}"
            return
        assert pod is not None and held is not None, f"{address} is free, but was released"  # noqa: PT018 - one sentence
        assert fence in (None, held.fence), f"{address} is held under {held.fence}, but was released under {fence}"
        assert ((answer.node, answer.owner), _held(answer)) == (pod, held), f"told {answer}, right: {pod} {held}"
        del self.held[pod][address.version]
        if not self.held[pod]:
            del self.held[pod]
        self._end(pod, address, stale=stale)

    # ------------------------------------------------------------------------------------------------- doubt

    def learn(
        self,
        reading: Reading,
        *,
        gaining: Collection[Pod] = (),
        losing: Collection[Pod] = (),
        leaving: Callable[[str, HeldBlock], bool] = lambda node, block: False,  # noqa: ARG005 - nothing leaves
        dropping: bool = False,
        carving: bool = False,
        marking: bool = False,
        adopting: Collection[tuple[str, Network]] = (),
        removing: str = "",
        asking: Mapping[str, Asked] = MappingProxyType({}),
        pools: Mapping[str, OraclePool | None] | None = None,
        nodes: Mapping[str, Mapping[str, str]] | None = None,
        stale: bool = False,
    ) -> None:
        """Take over what is read after a call broke off, if the call may have ended so.

        Args:
            reading: What the records say.
            gaining: Owners that may have got an address of a family which they had none of.
            losing: Owners that may have lost addresses.
            leaving: Blocks that may have gone back.
            dropping: Whether they may with addresses in use.
            carving: Whether nodes may have got blocks.
            marking: Whether nodes and blocks may drain by now, or not any more.
            adopting: Nodes and blocks that may have been adopted.
            removing: Node that may be gone.
            asking: What nodes may ask for by now.
            pools: Pools that may be as given here (None: gone) by now.
            nodes: Nodes that may have these labels by now.
            stale: As in `allocate`.
        """
        self.unapplied |= carving
        self.unfinished |= carving
        self._in_doubt |= carving
        self._begun.update(adopting)
        self._ever += [pool for pool in (pools or {}).values() if pool is not None]
        _learn_names(self.pools, reading.pools, dict(pools or {}))
        _learn_names(self.nodes, reading.nodes, {**(nodes or {}), **({removing: None} if removing else {})})
        assert marking or reading.draining == self.draining & self.nodes.keys(), "a node began to drain, or ended it"
        self.draining = set(reading.draining)
        for name in {*self.demand, *reading.demand}:
            asked = dict(reading.demand.get(name, {}))
            known: tuple[Asked | None, ...] = (self.demand.get(name, {}), dict(asking.get(name, {})), {} if name not in self.nodes else None)
            assert asked in known, f"{name} asks for {asked}"
        self.demand = {name: dict(each) for name, each in reading.demand.items()}
        seen = self._seen(reading)
        before = {pod: dict(facts) for pod, facts in self.held.items()}
        for node, blocks in list(self.blocks.items()):
            for block in blocks:
                if block not in seen.get(node, ()):
                    gone = node in self.limbo or leaving(node, block)
                    assert gone, f"{node} lost {block}"
                    in_use = [pod for pod, _ in self.held_in(block.space, block.network) if pod[0] == node]
                    assert dropping or not in_use or node in self.limbo, f"{node} lost {block}, in use by {in_use}"
                    self._give_back(node, block)
        for node, mine in seen.items():
            for block in mine:
                if block not in self.blocks.get(node, ()):
                    assert self.unapplied, f"{node} got {block} out of nowhere"
                    self._new_block(node, block, adopted=(node, block.network) in self._begun)
        marked = {HeldBlock(each.pool, each.network, each.fence, each.space) for each in reading.found.blocks if each.draining}
        assert marking or marked == self.marked, f"{marked} drain, acknowledged were {self.marked}"
        self.marked = marked
        if removing and dropping:  # its addresses may be gone, and its blocks not yet
            self.limbo.add(removing)
        self._learn_held(reading, before, gaining, losing, stale=stale)
        self.ghosts.update(gaining, losing)
        self.limbo.update(node for node, mine in self.blocks.items() if any(leaving(node, block) for block in mine))
        if removing:
            self.limbo.add(removing)
            if removing not in self.nodes and removing not in self.blocks:
                self.limbo.discard(removing)

    def _learn_held(
        self, reading: Reading, before: Mapping[Pod, Any], gaining: Collection[Pod], losing: Collection[Pod], *, stale: bool
    ) -> None:
        held = _addresses(reading.found.addresses)
        for pod, facts in list(self.held.items()):
            for family, each in list(facts.items()):
                if held.get(pod, {}).get(family) != each:
                    assert pod in losing or pod[0] in self.limbo, f"{pod} lost {each}"
                    del facts[family]
                    self._end(pod, each.address, stale=stale)
            if not facts:
                del self.held[pod]
        self.ghosts.update(pod for pod in before if before[pod] != self.held.get(pod))  # their claims may name what was dropped
        for given in reading.found.addresses:
            pod = (given.node, given.owner)
            if given.address.version not in self.held.get(pod, {}):
                assert pod in gaining or pod in self.ghosts, f"{pod} got {given} out of nowhere"
                self._new(given, None, stale=True)


def _learn_names(mine: dict, seen: Mapping, possible: Mapping) -> None:  # type: ignore[type-arg]  # pools or labels
    for name in sorted({*mine, *seen, *possible}):
        if name in possible and seen.get(name) == possible[name]:
            mine[name] = possible[name]
            if possible[name] is None:
                del mine[name]
        assert mine.get(name) == seen.get(name), f"{name} was {mine.get(name)} and is {seen.get(name)}"


def _ends(network: Network) -> tuple[int, int]:
    first = int(network.network_address)
    return first, first + network.num_addresses - 1


def _held(each: AllocationLike) -> Held:
    return Held(each.address, each.fence, each.label)


def _addresses(allocations: Iterable[RawAddress]) -> dict[Pod, dict[int, Held]]:
    found: dict[Pod, dict[int, Held]] = {}
    for each in allocations:
        found.setdefault((each.node, each.owner), {})[each.address.version] = Held(each.address, each.fence, each.label)
    return found


def _sorted(pairs: Iterable[tuple[Pod, Held]]) -> list[tuple[Pod, Held]]:
    return sorted(pairs, key=lambda pair: (pair[0], pair[1].address.version, int(pair[1].address)))


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(sorted(kind.__name__ for kind in kinds))


__all__ = ["AllocationLike", "IpamOracle"]
