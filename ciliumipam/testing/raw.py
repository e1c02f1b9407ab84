"""What a pile of records says, read without any code of the library that wrote it: the checker's and the oracles' own eyes.

Knows the rules of the ledger as `docs/explanation/ledger.md` states them and nothing of how they are implemented. Slow and plain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from ipaddress import ip_network
from itertools import pairwise
from typing import Any, NamedTuple

DEFAULT = "default"
"""The address space whose pages have no space in their keys."""
_BITS = {4: 32, 6: 128}


class Counted(NamedTuple):
    """A holding that counts: `first` and `last` are addresses as integers, `node` is empty for blocks."""

    family: int
    first: int
    last: int
    fence: int
    holder: str
    node: str
    space: str = DEFAULT

    def overlaps(self, other: Counted) -> bool:
        """Whether they have an address in common."""
        return (self.space, self.family) == (other.space, other.family) and self.first <= other.last and other.first <= self.last

    def covers(self, other: Counted) -> bool:
        """Whether all addresses of one that it overlaps are its own."""
        return self.first <= other.first and other.last <= self.last


Records = Mapping[tuple[str, str], Any]
"""Records by kind and name."""


def spaces(records: Records) -> list[str]:
    """The address spaces that pages of blocks name, and the default one."""
    return sorted({DEFAULT, *(name.rpartition("@")[0] for kind, name in records if kind == "block-page" and "@" in name)})


class Piece(NamedTuple):
    """A run of slots that is held, or, where `holder` is None, a slot that cools until a time."""

    space: str
    family: int
    first: int
    length: int
    fence: int
    holder: str | None
    label: str
    until: float

    @property
    def last(self) -> int:
        """Its last address."""
        return self.first + (1 << (_BITS[self.family] - self.length)) - 1

    @property
    def network(self) -> Any:
        """It as an `ipaddress` network."""
        return _network(self.family, self.first, self.length)


def blocks_in(records: Records, space: str) -> Iterator[Piece]:
    """What is held or cools of the blocks of an address space, by walking down from both roots."""
    for family in (4, 6):
        yield from _walk(records, "block-page", "", space, family, 0, 0, 1)


def addresses_in(records: Records, space: str, network: Any, fence: int) -> Iterator[Piece]:
    """What is held or cools of the addresses of a block that is held under a fence."""
    first = int(network.network_address)
    return _walk(records, "address-page", str(network), space, network.version, first, network.prefixlen, fence)


def cooling_in(records: Records, space: str, network: Any) -> Iterator[tuple[Any, float]]:
    """The addresses of a block that cool, and until when: also by pages that do not count, since closing a page ends no wait."""
    root = str(network) if space == DEFAULT else f"{space}@{network}"
    for (kind, name), page in records.items():
        if kind == "address-page" and (name == root or name.startswith(f"{root}+")):
            covered = ip_network(name.rpartition("+")[2].rpartition("@")[2])
            for index, slot in _taken(page):
                if hasattr(slot, "until"):
                    yield covered.network_address + index, slot.until


def counted_blocks(records: Records) -> list[Counted]:
    """Every block that counts, in every address space."""
    return [_counted(each, "") for space in spaces(records) for each in blocks_in(records, space) if each.holder is not None]


def counted_addresses(records: Records, block: Counted) -> list[Counted]:
    """Every address that counts in a block."""
    network = _network(block.family, block.first, _BITS[block.family] - (block.last - block.first + 1).bit_length() + 1)
    pieces = addresses_in(records, block.space, network, block.fence)
    return [_counted(each, block.holder) for each in pieces if each.holder is not None]


def _counted(piece: Piece, node: str) -> Counted:
    return Counted(piece.family, piece.first, piece.last, piece.fence, str(piece.holder), node, piece.space)


@lru_cache(maxsize=4096)
def _name(family: int, first: int, length: int) -> str:
    return str(_network(family, first, length))


@lru_cache(maxsize=4096)
def _network(family: int, first: int, length: int) -> Any:
    return ip_network((first, length)) if family == 4 else ip_network((first.to_bytes(16, "big"), length))


_TAKEN: dict[int, tuple[Any, list[tuple[int, Any]]]] = {}


def _taken(page: Any) -> list[tuple[int, Any]]:
    """The slots of a page that are not free, with their places.

    A page never changes, and most of them are looked at again and again: so what was found is kept with the page, by which page it is.
    """
    known = _TAKEN.get(id(page))
    if known is None or known[0] is not page:
        if len(_TAKEN) > 2048:  # any number: some hundred lives of pages
            _TAKEN.clear()
        known = _TAKEN[id(page)] = (page, [(index, slot) for index, slot in enumerate(page.slots) if type(slot) is not int])  # a number is free
    return known[1]


def _walk(records: Records, kind: str, root: str, space: str, family: int, first: int, length: int, fence: int) -> Iterator[Piece]:
    """What is held or cools below one page, if the page counts under the fence that its link names."""
    own = _name(family, first, length)
    name = own if root in ("", own) else f"{root}+{own}"
    page = records.get((kind, name if space == DEFAULT else f"{space}@{name}"))
    if page is None or page.fence != fence:
        return
    below = length + (len(page.slots) - 1).bit_length()
    size = 1 << (_BITS[family] - below)
    behind = 0
    for index, slot in _taken(page):
        if index < behind:
            continue
        start = first + index * size
        behind = index + 1
        if hasattr(slot, "holder"):
            span = max(1, (1 << (_BITS[slot.family] - slot.length)) // size)
            assert slot.family == family, f"{slot} lies in a page of the other family"
            assert slot.network == start, f"{slot} does not begin where its run begins"
            assert slot.space == space, f"{slot} lies in a page of the space {space!r}"
            assert all(other == slot for other in page.slots[index : index + span]), f"{slot} does not fill its run"
            yield Piece(space, family, start, slot.length, slot.fence, slot.holder, slot.label, 0.0)
            behind = index + span
        elif hasattr(slot, "until"):
            yield Piece(space, family, start, below, slot.fence, None, "", slot.until)
        else:
            yield from _walk(records, kind, root, space, family, start, below, slot.fence)


class Told(NamedTuple):
    """A caller was told that a holder holds something. `node` is empty for a block.

    An address is in the space of its node, so only a block names one.
    """

    family: int
    first: int
    fence: int
    holder: str
    node: str
    space: str = DEFAULT


def judge(records: dict[tuple[str, str], Any], blocks_per_node: int) -> Iterable[Told]:
    """Check what the records alone show; gives everything that counts.

    Args:
        records: All records.
        blocks_per_node: How many blocks of a family a node may hold at the most.
    """
    blocks = counted_blocks(records)
    check_disjoint(blocks)
    _check_each(((block.holder, block.family) for block in blocks), blocks_per_node)
    spaces_of = sorted({(block.holder, block.space) for block in blocks})
    _check_each(((holder, "blocks in address spaces") for holder, _ in spaces_of), 1)
    addresses = [(block, each) for block in blocks for each in counted_addresses(records, block)]
    check_disjoint([address for _, address in addresses])
    _check_each(((address.node, address.holder, address.family) for _, address in addresses), 1)
    claims: dict[str, set[tuple[Any, ...]]] = {"block-claims": set(), "address-claims": set()}
    for (kind, name), page in records.items():
        if kind in claims:
            node = name.rpartition("/")[0]  # "" for the claims of nodes
            for holder, pieces in page.claims.items():
                claims[kind].update((node, holder, piece.family, piece.network, piece.fence, piece.space) for piece in pieces)
            for mark in ("closing", "draining"):
                for piece in getattr(page, mark):
                    if piece not in page.claims.get(piece.holder, ()):
                        raise AssertionError(f"{piece} is marked as {mark}, but no claim names it")
    for kind, holdings in (("block-claims", blocks), ("address-claims", [address for _, address in addresses])):
        for each in holdings:
            if (each.node, each.holder, each.family, each.first, each.fence, each.space) not in claims[kind]:
                raise AssertionError(f"{each} counts, but no claim names it")
    for each in (*blocks, *(address for _, address in addresses)):
        yield Told(each.family, each.first, each.fence, each.holder, each.node, DEFAULT if each.node else each.space)


def check_disjoint(pieces: Sequence[Counted] | Sequence[Piece]) -> None:
    """Assert that no two of an address space share an address."""
    every: list[Counted | Piece] = [*pieces]
    ordered = sorted(every, key=lambda each: (each.space, each.family, each.first, each.last))
    for lower, upper in pairwise(ordered):
        if (lower.space, lower.family) == (upper.space, upper.family) and upper.first <= lower.last:
            raise AssertionError(f"{lower} and {upper} overlap")


def _check_each(holders: Iterable[tuple[Any, ...]], most: int) -> None:
    counts: dict[tuple[Any, ...], int] = {}
    for holder in holders:
        counts[holder] = counts.get(holder, 0) + 1
        if counts[holder] > most:
            raise AssertionError(f"{holder} holds {counts[holder]} pieces, allowed are {most}")
