"""The half of the slow twin of `Ipam` that judges what is answered about blocks, by what `known_blocks` says of them.

It does not predict which block is picked: that it was legal it finds out by going through all that is held and all that cools. Which
pool had to serve a node it says exactly, by the rules as the documentation states them.

Use it through `ipam_oracle.IpamOracle`, which has an example.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from math import inf

from ciliumipam.errors import (
    BlockNotEmptyError,
    IpamError,
    NoBlockError,
    NotFoundError,
    NotHeldError,
    OverlapError,
    PoolExhaustedError,
    PoolRefusedError,
)
from ciliumipam.testing.known_blocks import KnownBlocks
from ciliumipam.testing.oracle_values import Existing, HeldBlock, Reading, Told
from ciliumipam.testing.pool_oracle import Address, Network, OraclePool, conflicting, overlap


class BlockOracle(KnownBlocks):
    """Judges what is answered about blocks."""

    # ------------------------------------------------------------------------------------------------- changing

    def _freed(self, block: HeldBlock, address: Address, *, stale: bool = False) -> None:
        """Note that an address was released just now. Who has not read since may know an older delay."""
        if delay := self._delay(block, stale=stale):
            self.cooling[(block.space, address)] = self.now + delay

    def _delay(self, block: HeldBlock, *, stale: bool) -> float:
        """How long at least something of a block has to cool that is freed now."""
        known = [pool.delay for pool in self._ever if pool.name == block.pool]
        return min([self.pool_of(block).delay, *([*known, 0.0] if stale else [])])

    def _give_back(self, node: str, block: HeldBlock) -> None:
        """Note that a block went back just now, with what was held in it."""
        for pod, each in self.held_in(block.space, block.network):
            if pod[0] == node:
                del self.held[pod][each.address.version]
                if not self.held[pod]:
                    del self.held[pod]
        if delay := self._delay(block, stale=self.faulty):  # the pool may have been changed while the call went on
            self.cooling_blocks.append((block.space, block.network, self.now + delay))
        self.blocks[node] = [each for each in self.blocks[node] if each != block]
        if not self.blocks[node]:
            del self.blocks[node]
        self.marked.discard(block)

    def _new_block(self, node: str, block: HeldBlock, *, adopted: bool = False) -> None:
        for other, mine in self.blocks.items():
            for each in mine:
                assert each.space != block.space or not overlap(each.network, block.network), f"{node} got {block}, but {other} has {each}"
        for space, network, until in self.cooling_blocks:
            wait = space == block.space and until > max(self.now, self.latest) and overlap(network, block.network)
            assert adopted or not wait, f"{node} got {block}, but {network} cools until {until}, and it is {self.now}"
        for (space, address), until in list(self.cooling.items()):
            if space == block.space and address in block.network and until > max(self.now, self.latest):
                assert adopted, f"{node} got {block}, but {address} cools until {until}, and it is {self.now}"
                del self.cooling[(space, address)]  # in a block of another shape it does not; what goes on cooling is read again
        last = self._block_fences.get((block.space, block.network), 0)
        assert block.fence > last, f"{node} got {block}, but its last fence was {last}"
        self._block_fences[(block.space, block.network)] = block.fence
        if adopted:
            # what lies outside of it goes on cooling, and is read again in the shape that it has now
            self.cooling_blocks = [each for each in self.cooling_blocks if each[0] != block.space or not overlap(each[1], block.network)]
        self.blocks.setdefault(node, []).append(block)

    def _seen(self, reading: Reading) -> dict[str, list[HeldBlock]]:
        self._idle = conflicting(reading.pools.values())
        seen: dict[str, list[HeldBlock]] = {}
        for each in reading.found.blocks:
            seen.setdefault(each.node, []).append(HeldBlock(each.pool, each.network, each.fence, each.space))
        return seen

    def _settle_limbo(self, seen: Mapping[str, list[HeldBlock]], leaving: Collection[tuple[str, HeldBlock]] = ()) -> None:
        """What a call began to take back that broke off, another one may have taken back by now."""
        for node in self.limbo:
            for block in list(self.blocks.get(node, ())):
                if block not in seen.get(node, ()) and (node, block) not in leaving:
                    # whoever finishes a removal with force leaves the claims of the owners to these, or to a repair
                    self.ghosts.update(pod for pod, _ in self.held_in(block.space, block.network) if pod[0] == node)
                    self._give_back(node, block)

    def _served(self, node: str, new: Sequence[HeldBlock], refused: Collection[str], least: int = 0) -> None:
        """Check what a node got in addition, and take it over."""
        offers, lacking = self.offers(node, least)
        allowed: list[tuple[OraclePool, dict[int, int], list[Network]]] = []
        must = False
        for pool, lacks in offers:
            found = {family: self._undenied(pool, self.free(pool, node, family)) for family in lacks}
            if all(len(found[family][0]) >= count for family, count in lacks.items()):
                allowed.append((pool, lacks, [each for family in lacks for each in found[family][0]]))
                must = all(len(found[family][1]) >= count for family, count in lacks.items())
            if must:
                break
        if self.unapplied:  # what an earlier call claimed is finished first, whatever became of the pool
            known = {pool.name for pool in self._ever} | {""}
            strange = [block for block in new if block.pool not in known and (node, block.network) not in self._begun]
            assert not strange, f"{node} got {new} of pools that never were"
        elif not new:
            assert not must, f"{node} got nothing, but {[pool.name for pool, _ in offers]} could serve it"
            assert not lacking or node in refused or not self.pools or self.faulty, f"{node} was not told why it has less than it should"
            alone = not self.blocks.get(node) and node not in self.draining
            assert not alone or node in refused or not self.pools or self.faulty, f"{node} was not told why it has nothing"
        else:
            right = [each for each in allowed if all(block.pool == each[0].name and block.space == each[0].space for block in new)]
            assert right, f"{node} got {new}, but may have {[(pool.name, lacks) for pool, lacks, _ in allowed]}"
            _, lacks, networks = right[0]
            counts = {family: sum(block.network.version == family for block in new) for family in lacks}
            assert counts == lacks, f"{node} got {new}, but lacks {lacks}"
            assert all(block.network in networks for block in new), f"{node} got {new}, of which not all is legal"
        for block in new:
            self._new_block(node, block, adopted=(node, block.network) in self._begun)

    def _undenied(self, pool: OraclePool, free: tuple[Sequence[Network], Sequence[Network]]) -> tuple[list[Network], list[Network]]:
        """What is free without what nodes are said to have and could not be given, which may be in use all the same."""
        denied = [network for space, network in self._denied if space == pool.space]
        may, must = ([each for each in some if not any(overlap(each, network) for network in denied)] for some in free)
        return may, must

    def _expect_kept(self, seen: Mapping[str, list[HeldBlock]]) -> None:
        for node, blocks in self.blocks.items():
            assert all(block in seen.get(node, ()) for block in blocks), f"{node} had {blocks} and has {seen.get(node)}"

    # ------------------------------------------------------------------------------------------------- apply, grow

    def apply(
        self,
        pools: Iterable[OraclePool],
        nodes: Mapping[str, Mapping[str, str]],
        existing: Sequence[Existing],
        answer: Told | IpamError,
        reading: Reading,
    ) -> None:
        """Judge an answer to `Ipam.apply` and take it over."""
        changed = {pool.name: pool for pool in pools if self.pools.get(pool.name) != pool}
        after = {**self.pools, **changed}
        clash = any(
            overlap(mine, theirs)
            for name, pool in changed.items()
            for other in after.values()
            if other.name != name and other.space == pool.space
            for mine in pool.cidrs
            for theirs in other.cidrs
        )
        if isinstance(answer, IpamError):
            assert isinstance(answer, OverlapError), f"refused with {answer!r}"
            assert clash, f"refused with {answer!r}, but nothing overlaps"
            return
        assert not clash, f"pools {sorted(changed)} overlap others, but it was not refused"
        self.pools = after
        self._ever += changed.values()
        self.nodes.update(nodes)
        seen = self._seen(reading)
        self._settle_limbo(seen)
        self._expect_kept(seen)
        self._adopted(existing, answer, seen)
        further: dict[str, list[HeldBlock]] = {}
        for node in sorted(set(self.nodes) | set(seen), key=lambda name: (bool(self.blocks.get(name)), name)):  # whoever has none is first
            new = [block for block in seen.get(node, ()) if block not in self.blocks.get(node, ())]
            if node in self.nodes:
                first = self._first(node, new)
                self._served(node, first, answer.refused)
                further[node] = new[len(first) :]
            else:
                assert not new, f"{node} is not known, but got {new}"
        self._shared(further, answer.refused)
        self._denied.clear()
        self._in_doubt |= self.faulty
        self.settled()
        self.limbo.clear()

    def settled(self) -> None:
        """What calls that carve had begun is finished."""
        self.unapplied = self.unfinished = False
        self._forget_begun()
        self._begun.clear()

    def _forget_begun(self) -> None:
        """What cools under a block that somebody began to adopt may do so no longer, also if that is taken back; what does is read again."""
        self.cooling_blocks = [each for each in self.cooling_blocks if not any(overlap(each[1], network) for _, network in self._begun)]

    def _adopted(self, existing: Sequence[Existing], answer: Told, seen: Mapping[str, list[HeldBlock]]) -> None:
        """Go through what nodes are said to have, the oldest first."""
        conflicts = list(answer.conflicts)
        for each in sorted(existing, key=lambda each: (each.since or inf, each.node, _place(each.network))):
            if any(block.network == each.network for block in self.blocks.get(each.node, ())):
                assert (each.node, each.network) not in conflicts, f"{each} is there already, but was told as a conflict"
                continue
            pool, space = self._adopting(each)
            others = [(node, block) for node, mine in self.blocks.items() for block in mine if block.space == space]
            clash = [(node, block) for node, block in others if overlap(block.network, each.network)]
            elsewhere = [block for block in self.blocks.get(each.node, ()) if block.space != space]
            got = [block for block in seen.get(each.node, ()) if block.network == each.network and block.space == space]
            fresh = [block for block in got if block not in self.blocks.get(each.node, ())]
            if each.node in self.nodes and not elsewhere and not clash:
                if self.unapplied and (each.node, each.network) in conflicts:  # somebody's claim that is not filled yet
                    conflicts.remove((each.node, each.network))
                    self._denied.append((space, each.network))
                    continue
                assert fresh, f"{each} was not adopted, though nothing is in the way"
                assert fresh[0].pool == pool, f"{each} was adopted into {fresh[0].pool!r}, not {pool!r}"
                self._new_block(each.node, fresh[0], adopted=True)
            else:
                assert (each.node, each.network) in conflicts, f"{each} cannot be adopted, but that was not told"
                conflicts.remove((each.node, each.network))
                if each.network.prefixlen:
                    self._denied.append((space, each.network))
        assert not conflicts, f"conflicts were told that are none: {conflicts}"

    def _adopting(self, each: Existing) -> tuple[str, str]:
        """The pool that a block is adopted into, "" for none, and its space."""
        named = self.pools.get(each.pool or "")
        if named is not None and named.covers(each.network):
            return named.name, named.space
        covering = [pool for pool in sorted(self.pools.values(), key=OraclePool.order) if pool.covers(each.network)]
        mine = [pool for pool in covering if pool.space in {block.space for block in self.blocks.get(each.node, ())}]
        return ((mine or covering)[0].name, (mine or covering)[0].space) if covering else (each.pool or "", "default")

    def grow(self, node: str, blocks: int, answer: Told | IpamError, reading: Reading) -> None:
        """Judge an answer to `Ipam.grow` and take it over."""
        if isinstance(answer, IpamError):
            kept = [block for block in self.blocks.get(node, ()) if not self.drains(block)]
            first = next(iter([*kept, *self.blocks.get(node, ())]), None)
            gone = node in self.draining or (first is not None and first.pool not in self.pools) or self.unapplied or node in self.limbo
            right = isinstance(answer, NoBlockError) and gone if node in self.nodes else isinstance(answer, NotFoundError)
            assert right, f"{node} of {first}: {answer!r}"
            self._settle_limbo(self._seen(reading))  # what was begun is finished before it is refused
            return
        assert node in self.nodes.keys() - self.draining, f"{node} is not known, or drains, but it grew"
        seen = self._seen(reading)
        self._settle_limbo(seen)
        self._expect_kept(seen)
        for name in sorted(seen):
            new = [block for block in seen[name] if block not in self.blocks.get(name, ())]
            assert name == node or not new, f"{name} got {new} when {node} grew"
        new = [block for block in seen.get(node, ()) if block not in self.blocks.get(node, ())]
        first = self._first(node, new, blocks)
        self._served(node, first, answer.refused, blocks)
        self._shared({node: new[len(first) :]}, answer.refused)

    def _first(self, node: str, new: Sequence[HeldBlock], least: int = 0) -> Sequence[HeldBlock]:  # noqa: ARG002 - for those that override it
        """Those of what a node got that it gets whatever it asks for."""
        return new

    def _shared(self, further: Mapping[str, Sequence[HeldBlock]], refused: Collection[str]) -> None:
        """Judge what nodes got because they ask for it, and take it over."""

    # ------------------------------------------------------------------------------------------------- drain, migrate

    def drain(self, kind: str, name: str, cancel: bool, space: str, answer: Told | IpamError, reading: Reading) -> None:  # noqa: FBT001 - as the request has it
        """Judge an answer to `Ipam.drain` and take it over."""
        everything = [(node, block) for node, mine in sorted(self.blocks.items()) for block in mine]
        right: type | None = None
        match kind:
            case "pool":
                right = None if name in self.pools else NotFoundError
                leaving = [(node, block) for node, block in everything if block.pool == name]
            case "node":
                right = None if name in self.nodes else NotFoundError
                leaving = [(node, block) for node, block in everything if node == name]
            case _:
                leaving = [(node, block) for node, block in everything if (str(block.network), block.space) == (name, space)]
                right = None if leaving else NotHeldError
        if isinstance(answer, IpamError):
            doubt = any(node in self.limbo for node, _ in leaving)
            assert type(answer) is right or (doubt and isinstance(answer, NotHeldError)), f"refused with {answer!r}, right: {right}"
            self._settle_limbo(self._seen(reading))
            return
        assert right is None or self.unapplied, f"{kind} {name} does not exist, but was drained"
        if kind == "pool":
            self.pools[name] = replace(self.pools[name], draining=not cancel)
            self._ever.append(self.pools[name])
        elif kind == "node":
            (self.draining.discard if cancel else self.draining.add)(name)
        else:
            for _, block in leaving:
                (self.marked.discard if cancel else self.marked.add)(block)
        seen = self._seen(reading)
        self._settle_limbo(seen, leaving)
        if cancel:
            self._expect_kept(seen)
            return
        further: dict[str, list[HeldBlock]] = {}
        for node in sorted(({node for node, _ in leaving} | self.demand.keys()) & self.nodes.keys()):
            new = [block for block in seen.get(node, ()) if block not in self.blocks.get(node, ())]
            first: Sequence[HeldBlock] = ()
            if any(node == other for other, _ in leaving):
                first = self._first(node, new)
                if new or node not in self.limbo:  # what was on its way back already only goes on: the next `apply` serves the node
                    self._served(node, first, answer.refused)
            further[node] = new[len(first) :]
        self._shared(further, answer.refused)
        # what an earlier call had begun to take is there by now, and leaves as well
        leaving += [
            (node, block)
            for node, mine in sorted(self.blocks.items())
            for block in mine
            if (node, block) not in leaving and name == {"pool": block.pool, "node": node}.get(kind)
        ]
        self._taken_back(leaving, answer, seen, bare=kind == "node")

    def _taken_back(
        self, leaving: Sequence[tuple[str, HeldBlock]], answer: Told, seen: Mapping[str, list[HeldBlock]], *, bare: bool
    ) -> None:
        gone = {block for _, block in leaving}
        told = set(answer.blockers)
        for node, block in leaving:
            in_use = any(pod[0] == node for pod, _ in self.held_in(block.space, block.network))
            others = [
                each
                for each in self.blocks[node]
                if each.network.version == block.network.version and each not in gone
                if not self.is_orphan(each) or self.is_orphan(block)  # an orphan gives out nothing, so it is no replacement
            ]
            if (others or bare) and not in_use:
                assert block not in seen.get(node, ()), f"{node} keeps {block}, which is empty and has a replacement"
            elif node not in self.limbo or block in seen.get(node, ()):
                assert block in seen.get(node, ()), f"{block} was taken from {node}, in use: {in_use}, others: {others}"
                assert (node, block.network) in told, f"{node} keeps {block}, but nobody was told why"
                told.discard((node, block.network))
        assert not told, f"blockers were told that are none: {told}"
        for node, block in leaving:
            if block not in seen.get(node, ()):
                self._give_back(node, block)
        self._expect_kept(seen)

    def migrate(self, node: str, name: str, answer: Told | IpamError, reading: Reading) -> None:
        """Judge an answer to `Ipam.migrate` and take it over."""
        pool, mine = self.pools.get(name), self.blocks.get(node, [])
        seen = self._seen(reading)
        if node not in self.nodes or pool is None:
            assert isinstance(answer, NotFoundError), f"{node} to {name}: {answer!r}"
            return
        self._settle_limbo(seen)
        refused = (
            pool.draining
            or node in self.draining
            or pool.requirements(node, self.nodes[node]) is None
            or any(block.space != pool.space for block in mine)
        )
        kept = [block for block in mine if block.pool == name and not self.is_orphan(block)]
        lacks = {family: pool.per_node - sum(block.network.version == family for block in kept) for family in pool.families()}
        free = {family: self.free(pool, node, family) for family in pool.families()}
        if isinstance(answer, IpamError):
            full = any(len(free[family][1]) < count for family, count in lacks.items())
            right = isinstance(answer, PoolRefusedError) if refused else isinstance(answer, PoolExhaustedError) and full
            assert right or self.unapplied or node in self.limbo, f"{node} to {name}: {answer!r}"
            self._expect_kept(seen)
            return
        assert not refused or self.unapplied, f"{node} was moved to {name}, which may not serve it"
        new = [block for block in seen.get(node, ()) if block not in self.blocks.get(node, ())]
        if not self.unapplied:
            counts = {family: sum(block.network.version == family for block in new) for family in lacks}
            assert counts == {family: max(0, count) for family, count in lacks.items()}, f"{node} got {new}, lacking {lacks}"
            assert all(block.pool == name and block.network in free[block.network.version][0] for block in new), f"{node} got {new}"
        for block in new:
            self._new_block(node, block)
        leaving = [(node, block) for block in self.blocks.get(node, []) if block.pool != name or self.is_orphan(block)]
        self.marked.difference_update(self.blocks.get(node, []))
        self.marked.update(block for _, block in leaving)
        self._taken_back(leaving, answer, seen, bare=False)

    # ------------------------------------------------------------------------------------------------- removal

    def remove_node(self, node: str, *, force: bool, answer: IpamError | None) -> None:
        """Judge an answer to `Ipam.remove_node` and take it over."""
        unknown = node not in self.nodes and not self.blocks.get(node)
        in_use = any(pod[0] == node for pod in self.held)
        if answer is not None:
            right = NotFoundError if unknown else BlockNotEmptyError if in_use and not force else None
            assert type(answer) is right, f"refused with {answer!r}, right: {right}"
            return
        assert not unknown or self.unapplied, f"{node} is not known, but was removed"
        assert force or not in_use or node in self.limbo, f"{node} has addresses in use, but was removed"
        self.nodes.pop(node, None)
        self.demand.pop(node, None)
        self.draining.discard(node)
        for block in list(self.blocks.get(node, ())):
            self._give_back(node, block)
        self.limbo.discard(node)

    def remove_pool(self, name: str, answer: IpamError | None) -> None:
        """Judge an answer to `Ipam.remove_pool` and take it over."""
        assert (answer is None) == (name in self.pools), f"pool {name}: {answer!r}"
        assert answer is None or isinstance(answer, NotFoundError), repr(answer)
        self.pools.pop(name, None)
        # without a pool nothing that was carved is finished, but what was being adopted is
        self.unapplied = self.unapplied and bool(self.pools or self._begun)


def _place(network: Network) -> tuple[int, int, int]:
    return network.version, int(network.network_address), network.prefixlen


__all__ = ["BlockOracle"]
