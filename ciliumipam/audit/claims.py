"""The claims of a store against what its pages show as held, and holders against each other."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from zlib import crc32

from ciliumipam.audit.findings import HARMLESS, Findings
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
        self._last: dict[Prefix, int] = {}
        for page in blocks.values():
            for piece in (piece for pieces in page.claims.values() for piece in pieces):
                self._last[piece.prefix] = max(piece.fence, self._last.get(piece.prefix, 0))

    def last_fence(self, block: Prefix) -> int:
        """The last fence under which somebody claims a block, 0 if nobody does."""
        return self._last.get(block, 0)

    def check(self, blocks: Collection[Holding], addresses: Sequence[tuple[Holding, Holding]], nodes: Collection[str]) -> None:
        """Check everything. O(n log n).

        Args:
            blocks: What counts as held.
            addresses: The same, each with its block.
            nodes: Names of the nodes that are known.
        """
        self._check_overlaps("block", blocks)
        self._check_overlaps("address", [address for _, address in addresses])
        self._check_doubles(blocks, addresses)
        self._check_nodes(set(blocks), nodes)
        self._check_owners(blocks, {(block.holder, address) for block, address in addresses})

    def _check_overlaps(self, kind: str, pieces: Iterable[Holding]) -> None:
        """That no two holdings share an address."""
        outer: Holding | None = None
        for piece in sorted(set(pieces)):
            if outer is not None and outer.prefix.overlaps(piece.prefix):
                left, right = (f"{each.piece} ({each.holder!r}, fence {each.fence})" for each in (outer, piece))
                if kind == "block":
                    repair = f"stop the pods of node {piece.holder}, then: ciliumipam delete node {piece.holder} --force"
                else:
                    repair = f"stop one of the two, then: ciliumipam release --address {piece.piece} --fence {piece.fence}"
                self._findings.error(f"two holders share addresses: {left} and {right}", f"{kind} {piece.piece}", repair)
            if outer is None or piece.family != outer.family or piece.prefix.last > outer.prefix.last:
                outer = piece

    def _check_doubles(self, blocks: Iterable[Holding], addresses: Iterable[tuple[Holding, Holding]]) -> None:
        """That nobody holds two pieces of a family: a node of all blocks, an owner of all addresses on a node."""
        of_nodes: dict[tuple[str, int], list[Holding]] = {}
        for block in blocks:
            of_nodes.setdefault((block.holder, block.family), []).append(block)
        for (node, family), pieces in sorted(of_nodes.items()):
            if len(pieces) > 1:
                what = f"the node holds {len(pieces)} IPv{family} blocks: {', '.join(piece.piece for piece in pieces)}"
                repair = f"move its pods away, then: ciliumipam delete node {node}, and apply it again"
                self._findings.error(what, f"node {node}", repair)
        of_owners: dict[tuple[str, str, int], list[Holding]] = {}
        for block, address in addresses:
            of_owners.setdefault((block.holder, address.holder, address.family), []).append(address)
        for (node, owner, family), pieces in sorted(of_owners.items()):
            if len(pieces) > 1:
                what = f"the owner holds {len(pieces)} IPv{family} addresses: {', '.join(piece.piece for piece in pieces)}"
                example = f"ciliumipam release --address {pieces[-1].piece} --fence {pieces[-1].fence}"
                self._findings.error(what, f"owner {owner} on node {node}", f"for each that it does not use, as in: {example}")

    def _check_nodes(self, held: set[Holding], nodes: Collection[str]) -> None:
        """Claims of nodes: each is held, and all that is held has one."""
        named: set[Holding] = set()
        for key, page in sorted(self._of_nodes.items()):
            for node, pieces in self._each(key, page, _BLOCK_BUCKETS, ""):
                named.update(pieces)
                for piece in pieces:
                    if piece not in held:
                        finish = "apply any manifest again" if node in nodes else f"ciliumipam delete node {node}"
                        what = f"node {node} claims the block under fence {piece.fence}, but does not hold it: a call was cut short"
                        self._findings.unfinished(what, f"block {piece.piece}", finish)
        for block in sorted(held - named):
            what = f"node {block.holder} holds the block (fence {block.fence}), but no claim names it, so no call gives it back"
            self._findings.error(what, f"block {block.piece}")

    def _check_owners(self, blocks: Iterable[Holding], held: set[tuple[str, Holding]]) -> None:
        """The same of owners, node by node."""
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
        for node, address in sorted(held - named):
            what = f"owner {address.holder!r} on node {node} holds it (fence {address.fence}), but no claim names it"
            release = f"ciliumipam release --address {address.piece} --fence {address.fence}"
            self._findings.error(what, f"address {address.piece}", f"if the owner no longer uses it: {release}")

    def _tell_unfinished(self, node: str, owner: str, piece: Holding, *, closing: bool, inside: bool) -> None:
        where, release = f"owner {owner} on node {node}", f"ciliumipam release {node} {owner}"
        if not inside:
            what = f"the owner claims {piece.piece} (fence {piece.fence}), but the node no longer holds a block that has it"
            self._findings.unfinished(what, where, f"{HARMLESS}: the next call of that owner on that node forgets it")
        elif closing:
            what = f"the release of {piece.piece} (fence {piece.fence}) was begun and not finished"
            self._findings.unfinished(what, where, release)
        else:
            what = f"the owner claims {piece.piece} under fence {piece.fence}, but does not hold it: a call was cut short"
            self._findings.unfinished(what, where, f"ciliumipam allocate {node} {owner} finishes it, {release} ends it")

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
        for piece in sorted(page.closing):
            if piece not in page.claims.get(piece.holder, ()):
                what = f"{piece.piece} of {piece.holder!r} (fence {piece.fence}) is marked as closing, but no claim names it"
                error(what, key)
        for holder in sorted(set(page.tentative) - set(page.claims)):
            error(f"{holder!r} is marked as tentative, but has no claim", key)
