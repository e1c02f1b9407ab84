"""The claims of a store against what its pages show as held, and holders against each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from zlib import crc32

from ciliumipam.audit.findings import HARMLESS, REPAIR, Findings, release_of
from ciliumipam.cidr import Prefix
from ciliumipam.records import ClaimPage, Holding, Key

_BLOCK_BUCKETS, _ADDRESS_BUCKETS = 256, 64


class Claims:
    """All claims of one look.

    Args:
        findings: Where to tell.
        blocks: The claim pages of nodes.
        addresses: The claim pages of owners.
    """

    def __init__(self, findings: Findings, blocks: Mapping[Key, ClaimPage], addresses: Mapping[Key, ClaimPage]) -> None:
        self._findings, self._of_nodes, self._of_owners = findings, blocks, addresses
        self._last: dict[tuple[str, Prefix], int] = {}
        for page in blocks.values():
            for piece in (piece for pieces in page.claims.values() for piece in pieces):
                self._last[piece.place] = max(piece.fence, self._last.get(piece.place, 0))

    def last_fence(self, space: str, block: Prefix) -> int:
        """The last fence under which somebody claims a block of an address space, 0 if nobody does."""
        return self._last.get((space, block), 0)

    def check(self, blocks: Collection[Holding], addresses: Sequence[tuple[Holding, Holding]], nodes: Collection[str]) -> None:
        """Check everything. O(n log n).

        Args:
            blocks: What counts as held.
            addresses: The same, each with its block.
            nodes: Names of the nodes that are known.
        """
        for space in sorted({block.space for block in blocks}):
            self._check_overlaps("block", [block for block in blocks if block.space == space], space)
            self._check_overlaps("address", [address for block, address in addresses if block.space == space], space)
        self._check_doubles(blocks, addresses)
        self._check_nodes(set(blocks), nodes)
        self._check_owners(blocks, {(block.holder, address): block.space for block, address in addresses})

    def _check_overlaps(self, kind: str, pieces: Iterable[Holding], space: str) -> None:
        """That no two holdings of one address space share an address."""
        outer: Holding | None = None
        for piece in sorted(set(pieces)):
            if outer is not None and outer.prefix.overlaps(piece.prefix):
                left, right = (f"{each.piece} ({each.holder!r}, fence {each.fence})" for each in (outer, piece))
                if kind == "block":
                    repair = f"stop the pods of node {piece.holder}, then: ciliumipam delete node {piece.holder} --force"
                else:
                    repair = f"stop one of the two, then: {release_of(piece, space)}"
                self._findings.error(f"two holders share addresses: {left} and {right}", f"{kind} {piece.piece}", repair)
            if outer is None or piece.family != outer.family or piece.prefix.last > outer.prefix.last:
                outer = piece

    def _check_doubles(self, blocks: Iterable[Holding], addresses: Iterable[tuple[Holding, Holding]]) -> None:
        """That no node has blocks in two address spaces, and no owner two addresses of a family on a node."""
        of_nodes: dict[str, dict[str, list[Holding]]] = {}
        for block in blocks:
            of_nodes.setdefault(block.holder, {}).setdefault(block.space, []).append(block)
        for node, by_space in sorted(of_nodes.items()):
            if len(by_space) > 1:
                named = "; ".join(f"{space}: {', '.join(each.piece for each in pieces)}" for space, pieces in sorted(by_space.items()))
                what = f"the node holds blocks in {len(by_space)} address spaces, so one address may mean two things there ({named})"
                repair = f"move its pods away, then: ciliumipam delete node {node}, and apply it again"
                self._findings.error(what, f"node {node}", repair)
        of_owners: dict[tuple[str, str, int], list[tuple[str, Holding]]] = {}
        for block, address in addresses:
            of_owners.setdefault((block.holder, address.holder, address.family), []).append((block.space, address))
        for (node, owner, family), found in sorted(of_owners.items()):
            if len(found) > 1:
                what = f"the owner holds {len(found)} IPv{family} addresses: {', '.join(address.piece for _, address in found)}"
                space, last = found[-1]
                repair = f"for each that it does not use, as in: {release_of(last, space)}"
                self._findings.error(what, f"owner {owner} on node {node}", repair)

    def _check_nodes(self, held: set[Holding], nodes: Collection[str]) -> None:
        """Claims of nodes: each is held, and all that is held has one."""
        named: set[Holding] = set()
        for key, page in sorted(self._of_nodes.items()):
            for node, pieces in self._each(key, page, _BLOCK_BUCKETS, ""):
                named.update(pieces)
                for piece in pieces:
                    if piece not in held:
                        finish = f"{REPAIR}, or apply any manifest again" if node in nodes else f"{REPAIR}, or: ciliumipam delete node {node}"
                        what = f"node {node} claims the block under fence {piece.fence}, but does not hold it: a call was cut short"
                        self._findings.unfinished(what, f"block {piece.piece}", finish)
        for block in sorted(held - named):
            what = f"node {block.holder} holds the block (fence {block.fence}), but no claim names it, so no call gives it back"
            self._findings.error(what, f"block {block.piece}", f"{REPAIR}, which names it again")

    def _check_owners(self, blocks: Iterable[Holding], held: Mapping[tuple[str, Holding], str]) -> None:
        """The same of owners, node by node; `held` has the address space of each."""
        by_node: dict[str, list[Prefix]] = {}
        for block in blocks:
            by_node.setdefault(block.holder, []).append(block.prefix)
        named: set[tuple[str, Holding]] = set()
        for key, page in sorted(self._of_owners.items()):
            node = key.name.partition("/")[0]
            for owner, pieces in self._each(key, page, _ADDRESS_BUCKETS, f"{node}/"):
                named.update((node, piece) for piece in pieces)
                for piece in pieces:
                    if piece in page.closing or (node, piece) not in held:
                        inside = any(block.covers(piece.prefix) for block in by_node.get(node, ()))
                        self._tell_unfinished(node, owner, piece, closing=piece in page.closing, inside=inside)
        for node, address in sorted(held.keys() - named):
            what = f"owner {address.holder!r} on node {node} holds it (fence {address.fence}), but no claim names it"
            release = release_of(address, held[(node, address)])
            self._findings.error(what, f"address {address.piece}", f"{REPAIR}, which names it again, or if the owner no longer uses it: {release}")

    def _tell_unfinished(self, node: str, owner: str, piece: Holding, *, closing: bool, inside: bool) -> None:
        where, release = f"owner {owner} on node {node}", f"ciliumipam release {node} {owner}"
        if not inside:
            what = f"the owner claims {piece.piece} (fence {piece.fence}), but the node no longer holds a block that has it"
            self._findings.unfinished(what, where, f"{HARMLESS}: the next call of that owner on that node forgets it, and so does {REPAIR}")
        elif closing:
            what = f"the release of {piece.piece} (fence {piece.fence}) was begun and not finished"
            self._findings.unfinished(what, where, f"{release}, or: {REPAIR}")
        else:
            what = f"the owner claims {piece.piece} under fence {piece.fence}, but does not hold it: a call was cut short"
            self._findings.unfinished(what, where, f"ciliumipam allocate {node} {owner} finishes it, {release} ends it, and so does {REPAIR}")

    def _each(self, key: Key, page: ClaimPage, buckets: int, prefix: str) -> Iterator[tuple[str, tuple[Holding, ...]]]:
        """The claims of a page, each checked to belong into it; and the page's marks."""
        error = self._findings.error
        for holder, pieces in sorted(page.claims.items()):
            due = f"{prefix}{crc32(holder.encode()) % buckets:02x}"
            if key.name != due:
                error(f"the claim of {holder!r} belongs into {key.kind} {due}, so nobody finds it here", key)
            if not pieces:
                error(f"the claim of {holder!r} names nothing", key)
            for piece in pieces:
                if piece.holder != holder:
                    error(f"the claim of {holder!r} names {piece.piece} for {piece.holder!r}", key)
            yield holder, pieces
        for mark, marked in (("closing", page.closing), ("draining", page.draining)):
            for piece in sorted(marked):
                if piece not in page.claims.get(piece.holder, ()):
                    what = f"{piece.piece} of {piece.holder!r} (fence {piece.fence}) is marked as {mark}, but no claim names it"
                    error(what, key)
        for holder in sorted(set(page.tentative) - set(page.claims)):
            error(f"{holder!r} is marked as tentative, but has no claim", key)
