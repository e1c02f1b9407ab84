"""What the slow twin of `Ipam` knows of blocks, and what follows from that: whose is orphaned, what serves, what a node may get.

The rules are those that the documentation states. `block_oracle` judges answers by it.
"""

from __future__ import annotations

from collections.abc import Mapping

from ciliumipam.testing.oracle_values import Held, HeldBlock, Pod
from ciliumipam.testing.pool_oracle import NO_POOL, Address, Network, OraclePool, overlap


class KnownBlocks:
    """What has been acknowledged of blocks.

    Attributes:
        now: What time it is; where a call was slow, when it began.
        latest: When the call ended: what cools until then may be given.
        pools: By name.
        nodes: Labels by name.
        draining: Nodes that take nothing new.
        blocks: Blocks by node, in the order in which it got them.
        demand: What nodes ask for, by pool and family.
        marked: Blocks that drain by themselves.
        closed: Blocks that are on their way back, as last read: they give out nothing, and replace none that drains.
        held: Addresses by owner and family.
        cooling: Until when an address cools, by space and address.
        cooling_blocks: Blocks that were given back, with their space, and until when they cool.
        ghosts: Owners of whom a call broke off and none was acknowledged since.
        limbo: Nodes of which a call that takes blocks back broke off.
        unapplied: Whether a call that carves broke off, and no `apply` was acknowledged since.
        unfinished: The same also where no pool is left, with which nothing can be had, but claims still stand.
        faulty: Whether writes of the present call failed: then it may not tell everything that it did.
    """

    def __init__(self) -> None:
        """Nothing is known."""
        self.now = self.latest = 0.0
        self.pools: dict[str, OraclePool] = {}
        self.nodes: dict[str, Mapping[str, str]] = {}
        self.draining: set[str] = set()
        self.blocks: dict[str, list[HeldBlock]] = {}
        self.demand: dict[str, dict[tuple[str, int], int]] = {}
        self.marked: set[HeldBlock] = set()
        self.closed: set[HeldBlock] = set()
        self.held: dict[Pod, dict[int, Held]] = {}
        self.cooling: dict[tuple[str, Address], float] = {}
        self.cooling_blocks: list[tuple[str, Network, float]] = []
        self.ghosts: set[Pod] = set()
        self.limbo: set[str] = set()
        self.unapplied = self.unfinished = self.faulty = False
        self._ever: list[OraclePool] = []
        self._begun: set[tuple[str, Network]] = set()
        self._denied: list[tuple[str, Network]] = []
        self._idle: set[str] = set()
        self._in_doubt = False
        self._block_fences: dict[tuple[str, Network], int] = {}

    # ------------------------------------------------------------------------------------------------- looking

    def pool_of(self, block: HeldBlock) -> OraclePool:
        """The pool that a block came from; one without anything where it is gone."""
        return self.pools.get(block.pool, NO_POOL)

    def is_orphan(self, block: HeldBlock) -> bool:
        """Whether a block's pool is gone or no longer covers it."""
        pool = self.pool_of(block)
        return pool.space != block.space or not pool.covers(block.network)

    def drains(self, block: HeldBlock) -> bool:
        """Whether a block or its pool drains."""
        return block in self.marked or self.pool_of(block).draining

    def open(self, node: str) -> list[HeldBlock]:
        """The blocks of a node that are not on their way back."""
        return [block for block in self.blocks.get(node, ()) if block not in self.closed]

    def serving(self, node: str) -> list[HeldBlock]:
        """The blocks of a node that give out addresses."""
        good = [block for block in self.open(node) if not self.is_orphan(block)]
        if node in self.draining:
            return []
        staying = [block for block in good if not self.drains(block)]
        replaced = {block.network.version for block in staying}
        return [block for block in good if block in staying or block.network.version not in replaced]

    def held_in(self, space: str, network: Network) -> list[tuple[Pod, Held]]:
        """Addresses held in a prefix."""
        return [
            (pod, each)
            for pod, facts in self.held.items()
            if any(block.space == space for block in self.blocks.get(pod[0], ()))
            for each in facts.values()
            if each.address in network
        ]

    def offers(self, node: str, least: int = 0) -> tuple[list[tuple[OraclePool, dict[int, int]]], bool]:
        """What a node should get, pool by pool in the order in which they are asked; and whether it lacks something."""
        mine, labels = self.blocks.get(node, []), self.nodes[node]
        kept = [block for block in mine if not self.drains(block)]
        first: HeldBlock | None = next(iter([*kept, *mine]), None)
        own = self.pools.get(first.pool) if first is not None else None
        if node in self.draining or (first is not None and own is None):
            return [], False
        matching = [(pool.order(count), pool) for pool in self.pools.values() if (count := pool.requirements(node, labels)) is not None]
        pools = [pool for _, pool in sorted(matching, key=lambda pair: pair[0])]
        if own is not None and not own.draining:
            pools = [own, *(pool for pool in pools if pool is not own)]
        found: list[tuple[OraclePool, dict[int, int]]] = []
        lacks: dict[int, int] = {}
        space = first.space if first is not None else None
        for pool in pools:
            elsewhere = space not in (None, pool.space)
            ours = not lacks  # the node's own pool, or the first that serves it, says what it lacks
            if (pool.draining or elsewhere or pool.name in self._idle) and pool is not own:
                continue
            if ours and not pool.draining:
                have: list[int] = [block.network.version for block in kept]
                lacks = {each: max(pool.per_node, least) - have.count(each) for each in pool.families()}
                lacks = {family: count for family, count in lacks.items() if count > 0}
                if not lacks:
                    return [], False
                if pool.name in self._idle:
                    break
                space = space or pool.space  # what overflows stays in its space
            counts = [sum((block.pool, block.network.version) == (pool.name, family) for block in kept) for family in lacks]
            over = pool.most is not None and any(have + more > pool.most for have, more in zip(counts, lacks.values(), strict=True))
            if not (pool.draining or over or elsewhere) and set(lacks) <= set(pool.families()):
                found.append((pool, lacks))
                if not pool.overflow:
                    break
            elif ours and not pool.draining and not pool.overflow:
                break
        return found, True

    def free(self, pool: OraclePool, node: str, family: int) -> tuple[list[Network], list[Network]]:
        """The blocks that a pool may give a node now; and those of them in which nothing of the pool's own length is fully reserved."""
        taken = [block.network for mine in self.blocks.values() for block in mine if block.space == pool.space]
        taken += [network for space, network, until in self.cooling_blocks if space == pool.space and until > self.now]
        useless = [
            part
            for cidr in pool.cidrs
            if cidr.version == family
            for part in cidr.subnets(new_prefix=pool.length(cidr))
            if pool.room(part) == 0
        ]
        found = [each for each in pool.blocks(family, node, self.nodes[node]) if not any(overlap(each, other) for other in taken)]
        return found, [each for each in found if not any(overlap(each, other) for other in useless)]


__all__ = ["KnownBlocks"]
