"""The part of the slow twin of `Ipam` that knows what nodes ask for: who may get a further block, who may not pass whom, what goes back.

It does not say which node got the next block first. It goes by where things stand when the call has ended: everything further was
asked for, who still waits could not be served, and nobody with more blocks was served before.

Use it through `ipam_oracle.IpamOracle`, which has an example.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from ciliumipam.errors import (
    BlockNeededError,
    BlockNotEmptyError,
    IpamError,
    NotFoundError,
    NotHeldError,
    StaleFenceError,
)
from ciliumipam.testing.block_oracle import BlockOracle
from ciliumipam.testing.oracle_values import Asked, HeldBlock, Reading, Told
from ciliumipam.testing.pool_oracle import Network, OraclePool


class DemandOracle(BlockOracle):
    """What has been acknowledged of blocks, with what nodes ask for."""

    def request(self, node: str, asked: Asked, answer: Told | IpamError, reading: Reading) -> None:
        """Judge an answer to `Ipam.request` and take it over."""
        if isinstance(answer, IpamError):
            assert isinstance(answer, NotFoundError), f"refused with {answer!r}"
            assert node not in self.nodes, f"{node} is known, but: {answer!r}"
            return
        assert node in self.nodes, f"{node} is not known, but asks for {asked}"
        self.demand.pop(node, None)
        if asked:
            self.demand[node] = dict(asked)
        limbo = set(self.limbo)
        self.apply((), {}, (), answer, reading)
        self.limbo |= limbo  # only whoever reads everything finishes a removal

    def hand_back(self, node: str, network: Network, fence: int | None, space: str, answer: Told | IpamError, reading: Reading) -> None:
        """Judge an answer to `Ipam.hand_back` and take it over."""
        seen = self._seen(reading)
        mine = [block for block in self.blocks.get(node, ()) if (block.space, block.network) == (space, network)]
        right = [block for block in mine if fence in (None, block.fence)]
        if isinstance(answer, IpamError):
            kind: type = NotFoundError if node not in self.nodes and not self.blocks.get(node) else StaleFenceError if mine and not right else NotHeldError
            if right:
                kind = BlockNotEmptyError if any(pod[0] == node for pod, _ in self.held_in(space, network)) else BlockNeededError
            doubt = node in self.limbo or self.unapplied
            assert doubt or type(answer) is kind, f"{node} hands {network} back: {answer!r}, right: {kind}"
            assert doubt or kind is not BlockNeededError or self._needs(node, right[0]), f"{node} does not need {network}: {answer!r}"
            self._settle_limbo(seen)
            return
        self._settle_limbo(seen, [(node, block) for block in right])
        if right and (node not in self.limbo or right[0] not in seen.get(node, ())):
            assert right[0] not in seen.get(node, ()), f"{node} keeps {network}, which it handed back"
            doubt = node in self.limbo or self.unapplied
            assert doubt or not any(pod[0] == node for pod, _ in self.held_in(space, network)), f"{node} handed {network} back, in use"
            assert doubt or not self._needs(node, right[0]), f"{node} handed {network} back, which it needs"
            self._give_back(node, right[0])
        else:
            assert right or node in self.limbo or self.unapplied, f"{node} handed {network} back, which it does not have"
        self._expect_kept(seen)

    def _needs(self, node: str, block: HeldBlock) -> bool:
        """Whether a node may not go without a block, empty or not."""
        if node not in self.nodes or node in self.draining or self.is_orphan(block):
            return False
        family = block.network.version
        left = [each for each in self.blocks[node] if each != block]
        stay = [each for each in left if not self.drains(each)]
        if self.drains(block):
            return not any(each.network.version == family for each in stay)
        own = self.pools.get((stay or left or [block])[0].pool, self.pool_of(block))
        if sum(each.network.version == family for each in stay) < (own.per_node if family in own.families() else 0):
            return True
        return any(
            asked > self._have(left, pool, version)
            for (pool, version), asked in self.demand.get(node, {}).items()
            if version == family and pool in ("", block.pool)
        )

    def _have(self, blocks: Iterable[HeldBlock], pool: str, family: int) -> int:
        """Addresses that a node can hand out, of a pool or of all."""
        return sum(
            self.pool_of(block).room(block.network)
            for block in blocks
            if block.network.version == family and pool in ("", block.pool) and not self.drains(block) and not self.is_orphan(block)
        )

    def _first(self, node: str, new: Sequence[HeldBlock], least: int = 0) -> Sequence[HeldBlock]:
        """Those of what a node got that it gets whatever it asks for: what it lacks comes first, out of one pool."""
        if node not in self.demand or self.unapplied:
            return new
        offers, _ = self.offers(node, least)
        for pool, lacks in offers:
            count = sum(lacks.values())
            if [block.network.version for block in new[:count]] == [family for family in lacks for _ in range(lacks[family])] and all(
                block.pool == pool.name for block in new[:count]
            ):
                return new[:count]
        return ()

    def _shared(self, further: Mapping[str, Sequence[HeldBlock]], refused: Collection[str]) -> None:
        """Check what nodes got because they ask for it, and that nobody was passed, and take it over."""
        before = {node: list(self.blocks.get(node, ())) for node in further}
        for node, blocks in further.items():
            for block in blocks:
                pool, of = self.pool_of(block), block.network.version
                short = [
                    name
                    for (name, version), asked in self.demand.get(node, {}).items()
                    if version == of and name in ("", pool.name) and self._have(self.blocks.get(node, ()), name, version) < asked
                ]
                assert short or self.unapplied, f"{node} got {block}, but has what it asks for"
                held = sum((each.pool, each.network.version) == (pool.name, of) for each in self.blocks.get(node, ()) if not self.drains(each))
                assert self.unapplied or pool.most is None or held < pool.most, f"{node} got {block}, but may have {pool.most}"
                assert self.unapplied or block.network in self.free(pool, node, of)[0], f"{node} got {block}, which it may not have"
                self._new_block(node, block)
        if self.unapplied or self.faulty or self._denied:
            return
        for node in further:
            for (name, family), asked in self.demand.get(node, {}).items():
                mine = self.blocks.get(node, [])
                if self._have(mine, name, family) >= asked or node in self.draining:
                    continue
                stay = [block for block in mine if not self.drains(block)]
                if not stay or stay[0].pool not in self.pools:
                    continue
                assert node in refused, f"{node} was not told why it has less than it asks for"
                if (name or stay[0].pool) not in self.pools:
                    continue
                pool = self.pools[name or stay[0].pool]
                if pool.draining or pool.name in self._idle or pool.space != stay[0].space or family not in pool.families():
                    continue
                if name and pool.requirements(node, self.nodes[node]) is None and all(block.pool != name for block in mine):
                    continue
                count = sum((block.pool, block.network.version) == (pool.name, family) for block in stay)
                if pool.most is not None and count >= pool.most:
                    continue
                assert not self.free(pool, node, family)[1], f"{node} waits for pool {pool.name}, which has a block for it"
                self._not_passed(node, pool, family, count, further, before)

    def _not_passed(
        self, node: str, pool: OraclePool, family: int, count: int, further: Mapping[str, Sequence[HeldBlock]], before: Mapping[str, list[HeldBlock]]
    ) -> None:
        """Nobody has got a block of a length that would have done for a node that waits and has fewer."""
        length = {each.prefixlen for each in pool.blocks(family, node, self.nodes[node])}
        for other, blocks in further.items():
            have = [each for each in before[other] if not self.drains(each)]
            for block in blocks:
                if (block.pool, block.network.version) == (pool.name, family) and other != node:
                    had = sum((each.pool, each.network.version) == (pool.name, family) for each in have)
                    assert had <= count or block.network.prefixlen not in length, f"{other} got {block} before {node}, which has {count} blocks"
                have.append(block)


__all__ = ["DemandOracle"]
