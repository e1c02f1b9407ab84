"""The slow twin of `Ipam`: what was acknowledged, in lists, and whether an answer could be right.

It sees only what a caller sees: requests, answers, and what a fresh `Ipam` reads after an answer was missing. It shares no code with
what it judges (standard library and `errors` only) and has none of its ideas: no pages, no claims, no free index. Which block or
address was picked it does not predict; that it was free, in the right place, under a new fence, and that a refusal had a reason, it
finds out by going through all that is held.

A call that broke off leaves doubt. `learn` takes over what is read then, if that is one of the states in which the call may have
ended. Its owners become *ghosts*, its nodes are in *limbo*: their next call may finish or undo what was begun, so more answers are
right, until one is acknowledged.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from ciliumipam.errors import (
    AlreadyAllocatedError,
    BlockNotEmptyError,
    IpamError,
    NoBlockError,
    NodeExhaustedError,
    NotFoundError,
    NotHeldError,
    OutOfRangeError,
    OverlapError,
    OwnerHoldsError,
    ReservedAddressError,
    StaleFenceError,
)
from ciliumipam.testing.pool_oracle import NO_POOL, Address, Network, OraclePool, overlap

Pod: TypeAlias = tuple[str, str]
"""Node and owner."""

class BlockLike(Protocol):
    """A block as `Ipam.blocks` shows it."""

    node: str
    pool: str
    prefix: Network
    fence: int
    orphan: bool


class AllocationLike(Protocol):
    """An allocation as `Ipam` shows it."""

    node: str
    owner: str
    label: str
    pool: str
    block: Network
    address: Address
    fence: int


class HeldBlock(NamedTuple):
    """A block that a node was told to have."""

    pool: str
    network: Network
    fence: int


class Held(NamedTuple):
    """An address that an owner was told to have."""

    address: Address
    fence: int
    label: str


class Reading(NamedTuple):
    """What a fresh `Ipam` reads."""

    pools: Mapping[str, OraclePool]
    nodes: Mapping[str, Mapping[str, str]]
    blocks: Sequence[BlockLike]
    allocations: Sequence[AllocationLike]


class IpamOracle:
    """What has been acknowledged.

    Attributes:
        pools: By name.
        nodes: Labels by name.
        blocks: Blocks by node.
        held: Addresses by owner and family.
        ghosts: Owners of whom a call broke off and none was acknowledged since.
        limbo: Nodes of which a removal broke off.
        unapplied: Whether an `apply` broke off and none was acknowledged since.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self.pools: dict[str, OraclePool] = {}
        self.nodes: dict[str, Mapping[str, str]] = {}
        self.blocks: dict[str, list[HeldBlock]] = {}
        self.held: dict[Pod, dict[int, Held]] = {}
        self.ghosts: set[Pod] = set()
        self.limbo: set[str] = set()
        self.unapplied = False
        self._ever: list[OraclePool] = []
        self._fences: dict[Address, int] = {}
        self._block_fences: dict[Network, int] = {}

    # ------------------------------------------------------------------------------------------------- looking

    def holder(self, address: Address) -> Pod | None:
        """Who holds an address."""
        return next((pod for pod, held in self.held.items() for each in held.values() if each.address == address), None)

    def block_of(self, address: Address) -> tuple[str, HeldBlock] | None:
        """The node and block that an address lies in."""
        return next(((node, block) for node, blocks in self.blocks.items() for block in blocks if address in block.network), None)

    def pool_of(self, block: HeldBlock) -> OraclePool:
        """The pool that a block came from; one without anything where it is gone."""
        return self.pools.get(block.pool, NO_POOL)

    def is_orphan(self, block: HeldBlock) -> bool:
        """Whether a block's pool is gone or no longer covers it."""
        return not self.pool_of(block).covers(block.network)

    def available(self, node: str, family: int) -> int:
        """Addresses that a node can still give out."""
        count = 0
        for block in self.blocks.get(node, ()):
            if block.network.version == family and not self.is_orphan(block):
                pool = self.pool_of(block)
                held = [each.address for facts in self.held.values() for each in facts.values() if each.address in block.network]
                count += pool.room(block.network) - sum(not pool.is_reserved(block.network, address) for address in held)
        return count

    def matches(self, reading: Reading) -> None:
        """Assert that what is read is exactly what was acknowledged."""
        assert dict(reading.pools) == self.pools, f"pools: {dict(reading.pools)}, acknowledged: {self.pools}"
        assert dict(reading.nodes) == self.nodes, f"nodes: {dict(reading.nodes)}, acknowledged: {self.nodes}"
        assert _blocks(reading.blocks) == self.blocks, f"blocks: {_blocks(reading.blocks)}, acknowledged: {self.blocks}"
        assert _addresses(reading.allocations) == self.held, f"held: {_addresses(reading.allocations)}, acknowledged: {self.held}"
        for block in reading.blocks:
            assert block.orphan == self.is_orphan(HeldBlock(block.pool, block.prefix, block.fence)), f"{block} is not what it says"

    # ------------------------------------------------------------------------------------------------- addresses

    def allocate(
        self, pods: Sequence[Pod], address: Address | None, family: int | None, label: str, answer: Sequence[AllocationLike] | IpamError
    ) -> None:
        """Judge an answer to `Ipam.allocate` and take it over. All `pods` are on one node."""
        node = pods[0][0]
        allowed, right = self._refusals(node, pods, address, family)
        if isinstance(answer, IpamError):
            assert type(answer) in allowed, f"refused with {answer!r}, but right is {_names(allowed) or 'to give'}"
            return
        assert right, f"{node} gave {list(answer)}, but right was {_names(allowed)}"
        families = [address.version] if address else [family] if family else self._families(node)
        assert [(each.node, each.owner, each.address.version) for each in answer] == [(*pod, each) for pod in pods for each in families]
        for each in answer:
            pod = (each.node, each.owner)
            known = self.held.get(pod, {}).get(each.address.version)
            if known is not None and (pod not in self.ghosts or known == _held(each)):
                assert _held(each) == known, f"{pod} holds {known}, but was told {each}"
            else:
                self.held.get(pod, {}).pop(each.address.version, None)
                self._new(each, None if pod in self.ghosts else label)
            assert address in (None, each.address), f"{each.address} was given in place of {address}"
        if families == self._families(node):
            self.ghosts.difference_update(pods)

    def _families(self, node: str) -> list[int]:
        return sorted({block.network.version for block in self.blocks.get(node, ())})

    def _new(self, given: AllocationLike, label: str | None) -> None:
        """Take over an address that was just given, after checking that it could be."""
        where = self.block_of(given.address)
        assert where is not None, f"{given} is in no block"
        node, block = where
        assert (node, block.network, block.pool) == (given.node, given.block, given.pool), f"{given} is in {block} of {node}"
        assert not self.is_orphan(block), f"{given} was taken out of an orphan"
        assert not self.pool_of(block).is_reserved(block.network, given.address), f"{given} is reserved"
        holder = self.holder(given.address)
        assert holder is None, f"{given.address} was given to {given.owner}, but {holder} holds it"
        assert given.fence > self._fences.get(given.address, 0), f"{given} has a fence that was used before"
        assert label in (None, given.label), f"{given} should have the label {label!r}"
        self._fences[given.address] = given.fence
        self.held.setdefault((given.node, given.owner), {})[given.address.version] = _held(given)

    def _refusals(self, node: str, pods: Sequence[Pod], address: Address | None, family: int | None) -> tuple[set[type], bool]:
        """Which errors are right for an allocation, and whether giving is."""
        blocks = self.blocks.get(node, [])
        if not blocks:
            return {NoBlockError if node in self.nodes else NotFoundError}, False
        have = self._families(node)
        wanted = address.version if address else family
        slack = sum(ghost[0] == node for ghost in self.ghosts)
        doubt: set[type] = {NoBlockError, NodeExhaustedError, NotFoundError, OutOfRangeError} if node in self.limbo else set()
        if wanted is not None and wanted not in have:
            return {NoBlockError, *doubt}, False
        if address is not None:
            allowed, right = self._refusals_of(pods[0], address)
            return allowed | doubt, right
        allowed = set(doubt)
        right = True
        for each in [wanted] if wanted else have:
            need = sum(each not in self.held.get(pod, {}) for pod in pods)
            most = sum(each not in self.held.get(pod, {}) or pod in self.ghosts for pod in pods)
            room = self.available(node, each)
            if all(self.is_orphan(block) for block in blocks if block.network.version == each):
                allowed |= {NoBlockError} if most else set()
                right = right and not need
            else:
                allowed |= {NodeExhaustedError} if most > room - slack and most else set()
                right = right and need <= room + slack
        return allowed, right

    def _refusals_of(self, pod: Pod, address: Address) -> tuple[set[type], bool]:
        """The same where an address is asked for."""
        known = self.held.get(pod, {}).get(address.version)
        doubt: set[type] = {OwnerHoldsError} if pod in self.ghosts else set()
        if known is not None and pod not in self.ghosts:
            return (set(), True) if known.address == address else ({OwnerHoldsError}, False)
        if known is not None and known.address == address:
            return {OwnerHoldsError, ReservedAddressError, NoBlockError}, True
        where = self.block_of(address)
        if where is None or where[0] != pod[0]:
            return {OutOfRangeError, *doubt}, False
        wrong: set[type] = set()
        if self.is_orphan(where[1]):
            wrong.add(NoBlockError)
        if self.pool_of(where[1]).is_reserved(where[1].network, address):
            wrong.add(ReservedAddressError)
        if self.holder(address) is not None:
            wrong.add(AlreadyAllocatedError)
        return wrong | doubt, not wrong

    def release(self, pods: Sequence[Pod], *, missing_ok: bool, answer: Sequence[AllocationLike] | IpamError) -> None:
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
        assert _sorted(((each.node, each.owner), _held(each)) for each in answer) == _sorted(right), f"told {answer}, right: {right}"
        for pod in pods:
            self.held.pop(pod, None)
            self.ghosts.discard(pod)

    def release_address(self, address: Address, fence: int | None, answer: AllocationLike | IpamError) -> None:
        """Judge an answer to `Ipam.release_fenced`, or with no fence `force_release`, and take it over."""
        where, pod = self.block_of(address), self.holder(address)
        held = self.held[pod][address.version] if pod is not None else None
        if isinstance(answer, IpamError):
            allowed: set[type] = {NotHeldError} if fence is None or where is None else {StaleFenceError}
            if self.ghosts or not self._fences.get(address):
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

    # ------------------------------------------------------------------------------------------------- blocks

    def apply(
        self,
        pools: Iterable[OraclePool],
        nodes: Mapping[str, Mapping[str, str]],
        refused: Collection[str],
        answer: Sequence[BlockLike] | IpamError,
    ) -> None:
        """Judge an answer to `Ipam.apply` and take it over.

        Args:
            pools: Pools that were applied.
            nodes: Nodes that were applied, with their labels.
            refused: Nodes for which there was a refusal.
            answer: All blocks, as read afterwards.
        """
        changed = {pool.name: pool for pool in pools if self.pools.get(pool.name) != pool}
        after = {**self.pools, **changed}
        clash = any(
            overlap(mine, theirs)
            for name, pool in changed.items()
            for other in after.values()
            if other.name != name
            for mine in pool.cidrs
            for theirs in other.cidrs
        )
        if isinstance(answer, IpamError):
            assert isinstance(answer, OverlapError) and clash, f"refused with {answer!r}, clash: {clash}"  # noqa: PT018 - one sentence
            return
        assert not clash, f"pools {sorted(changed)} overlap others, but it was not refused"
        self.pools = after
        self._ever += changed.values()
        self.nodes.update(nodes)
        self._carved(_blocks(answer), refused)
        self.unapplied = False
        self.limbo.clear()

    def _carved(self, seen: dict[str, list[HeldBlock]], refused: Collection[str]) -> None:
        """Go through the nodes by name as `apply` does, and check of each what it got."""
        for node in self.limbo:
            self.blocks[node] = [block for block in self.blocks.get(node, []) if block in seen.get(node, [])]
            self._forget_lost(node)
        for node, blocks in self.blocks.items():
            assert all(block in seen.get(node, []) for block in blocks), f"{node} had {blocks} and has {seen.get(node)}"
        for node in sorted(set(self.nodes) | set(seen)):
            mine = self.blocks.setdefault(node, [])
            new = [block for block in seen.get(node, []) if block not in mine]
            pool = self._serving(node) if node in self.nodes else None
            lacking = [] if pool is None else [family for family in pool.families() if family not in self._families(node)]
            taken = seen if self.unapplied else self.blocks
            if self.unapplied and new:
                pass  # what an earlier call claimed is finished first, whatever became of the pool
            elif pool is None:
                assert not new, f"{node} got {new}, but no pool serves it"
                assert mine or node in refused or not self.pools or node not in self.nodes, f"{node} was not told why it has nothing"
            elif not lacking:
                assert not new, f"{node} got {new}, but lacks nothing"
            elif all(any(_is_free(block, taken) for block in pool.blocks(family)) for family in lacking):
                assert sorted(block.network.version for block in new) == lacking, f"{node} got {new} out of {pool}, lacking {lacking}"
            else:
                assert not new, f"{node} got {new}, but {pool.name} has no block of every family that it lacks"
                assert node in refused, f"{node} was not told that {pool.name} is full"
            for block in sorted(new, key=_place):
                offered = [each for each in (self._ever if self.unapplied else [pool]) if each is not None and each.name == block.pool]
                assert any(block.network in each.blocks(block.network.version) for each in offered), f"{node} got {block}, not of {offered}"
                self._new_block(node, block)
        self.blocks = {node: blocks for node, blocks in self.blocks.items() if blocks}

    def _serving(self, node: str) -> OraclePool | None:
        mine = self.blocks.get(node)
        if mine:
            return self.pools.get(mine[0].pool)
        ordered = sorted(self.pools.values(), key=OraclePool.order)
        return next((pool for pool in ordered if pool.selects(self.nodes[node])), None)

    def _new_block(self, node: str, block: HeldBlock) -> None:
        assert _is_free(block.network, self.blocks), f"{node} got {block}, but not all of it was free"
        last = self._block_fences.get(block.network, 0)
        assert block.fence > last, f"{node} got {block}, but its last fence was {last}"
        self._block_fences[block.network] = block.fence
        self.blocks[node] = sorted([*self.blocks.get(node, []), block], key=_place)

    def remove_node(self, node: str, *, force: bool, answer: IpamError | None) -> None:
        """Judge an answer to `Ipam.remove_node` and take it over."""
        unknown = node not in self.nodes and not self.blocks.get(node)
        in_use = any(pod[0] == node for pod in self.held)
        if answer is not None:
            right = NotFoundError if unknown else BlockNotEmptyError if in_use and not force else None
            assert type(answer) is right, f"refused with {answer!r}, right: {right}"
            return
        assert not unknown, f"{node} is not known, but was removed"
        assert force or not in_use or node in self.limbo, f"{node} has addresses in use, but was removed"
        self.nodes.pop(node, None)
        self.blocks.pop(node, None)
        self._forget_lost(node)
        self.limbo.discard(node)

    def remove_pool(self, name: str, answer: IpamError | None) -> None:
        """Judge an answer to `Ipam.remove_pool` and take it over."""
        assert (answer is None) == (name in self.pools), f"pool {name}: {answer!r}"
        assert answer is None or isinstance(answer, NotFoundError), repr(answer)
        self.pools.pop(name, None)

    def _forget_lost(self, node: str) -> None:
        """Forget what owners held in blocks that the node no longer has."""
        blocks = self.blocks.get(node, [])
        for pod in [pod for pod in self.held if pod[0] == node]:
            left = {family: held for family, held in self.held[pod].items() if any(held.address in block.network for block in blocks)}
            if left:
                self.held[pod] = left
            else:
                del self.held[pod]

    # ------------------------------------------------------------------------------------------------- doubt

    def learn(
        self,
        reading: Reading,
        *,
        gaining: Collection[Pod] = (),
        losing: Collection[Pod] = (),
        removing: str = "",
        pools: Mapping[str, OraclePool | None] | None = None,
        nodes: Mapping[str, Mapping[str, str]] | None = None,
    ) -> None:
        """Take over what is read after a call broke off, if the call may have ended so.

        Args:
            reading: What a fresh `Ipam` reads.
            gaining: Owners that may have got an address of a family which they had none of.
            losing: Owners that may have lost addresses.
            removing: Node that may have lost blocks, addresses, and its record.
            pools: Pools that may be as given here (None: gone) by now.
            nodes: Nodes that may have these labels by now. With `pools` or `nodes` blocks may have been carved.
        """
        if pools or nodes is not None:
            self.unapplied = True
            self._ever += [pool for pool in (pools or {}).values() if pool is not None]
        self._learn_names(self.pools, reading.pools, dict(pools or {}))
        self._learn_names(self.nodes, reading.nodes, {**(nodes or {}), **({removing: None} if removing else {})})
        blocks = _blocks(reading.blocks)
        for node in list(self.blocks):
            kept = [block for block in self.blocks[node] if block in blocks.get(node, [])]
            lost = len(kept) < len(self.blocks[node])
            assert not lost or node == removing or node in self.limbo, f"{node} had {self.blocks[node]} and has {kept}"
            self.blocks[node] = kept
        for node, seen in blocks.items():
            for block in seen:
                if block not in self.blocks.get(node, []):
                    assert self.unapplied, f"{node} got {block} out of nowhere"
                    self._new_block(node, block)
        self.blocks = {node: mine for node, mine in self.blocks.items() if mine}
        held = _addresses(reading.allocations)
        for pod, facts in list(self.held.items()):
            if pod in losing or pod[0] == removing or pod[0] in self.limbo:
                self.ghosts.add(pod)
                left = {family: each for family, each in facts.items() if held.get(pod, {}).get(family) == each}
                self.held[pod] = left
                if not left:
                    del self.held[pod]
            else:
                assert all(held.get(pod, {}).get(family) == each for family, each in facts.items()), f"{pod} lost something of {facts}"
        for each in reading.allocations:
            pod = (each.node, each.owner)
            if each.address.version not in self.held.get(pod, {}):
                assert pod in gaining, f"{pod} got {each} out of nowhere"
                self._new(each, None)
        self.ghosts.update(gaining, losing)
        if removing:
            self.limbo.add(removing)
            if removing not in self.nodes and removing not in self.blocks:
                self.limbo.discard(removing)

    @staticmethod
    def _learn_names(mine: dict, seen: Mapping, possible: Mapping) -> None:  # type: ignore[type-arg]  # pools or labels
        for name in sorted({*mine, *seen, *possible}):
            if name in possible and seen.get(name) == possible[name]:
                mine[name] = possible[name]
                if possible[name] is None:
                    del mine[name]
            assert mine.get(name) == seen.get(name), f"{name} was {mine.get(name)} and is {seen.get(name)}"


def _held(each: AllocationLike) -> Held:
    return Held(each.address, each.fence, each.label)


def _blocks(blocks: Iterable[BlockLike]) -> dict[str, list[HeldBlock]]:
    found: dict[str, list[HeldBlock]] = {}
    for block in blocks:
        found.setdefault(block.node, []).append(HeldBlock(block.pool, block.prefix, block.fence))
    return {node: sorted(mine, key=_place) for node, mine in found.items()}


def _is_free(network: Network, blocks: Mapping[str, list[HeldBlock]]) -> bool:
    return not any(overlap(network, block.network) for mine in blocks.values() for block in mine)


def _place(block: HeldBlock) -> tuple[int, int]:
    return block.network.version, int(block.network.network_address)


def _addresses(allocations: Iterable[AllocationLike]) -> dict[Pod, dict[int, Held]]:
    found: dict[Pod, dict[int, Held]] = {}
    for each in allocations:
        mine = found.setdefault((each.node, each.owner), {})
        assert each.address.version not in mine, f"{each.owner} on {each.node} holds two addresses of a family"
        mine[each.address.version] = _held(each)
    return found


def _sorted(pairs: Iterable[tuple[Pod, Held]]) -> list[tuple[Pod, Held]]:
    return sorted(pairs, key=lambda pair: (pair[0], pair[1].address.version, int(pair[1].address)))


def _names(kinds: Iterable[type]) -> str:
    return ", ".join(sorted(kind.__name__ for kind in kinds))
