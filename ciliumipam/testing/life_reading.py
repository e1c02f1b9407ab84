"""What the records say of blocks, addresses and what cools, read without any code of the library that wrote them.

Knows how `docs/explanation/ledger.md` lays pages and claims out, address spaces and cooling slots with it. Slow and plain; the
oracle of the whole `Ipam` judges by what is found here and not by what an `Ipam` says of itself.

>>> from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec
>>> from ciliumipam.records import KINDS
>>> ipam = Ipam(store := MemoryStore())
>>> _ = ipam.apply([PoolSpec(name="pool-a", cidrs=["10.0.0.0/24"], selector=NodeSelector.everything())], [Node("node-1")])
>>> _ = ipam.allocate("node-1", "pod-1")
>>> found = read_records({(kind, key.name): entry.record for kind in KINDS for key, entry in store.scan(kind).entries})
>>> [(each.node, each.owner, str(each.address)) for each in found.addresses], found.loose
([('node-1', 'pod-1', '10.0.0.1')], [])
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from ciliumipam.testing.pool_oracle import Address, Network
from ciliumipam.testing.raw import DEFAULT, Records, addresses_in, blocks_in, check_disjoint, cooling_in, spaces


class RawBlock(NamedTuple):
    """A block that counts. `draining` is its own mark, not that of its pool or node; `closed` says that it gives out nothing any more."""

    space: str
    node: str
    pool: str
    network: Network
    fence: int
    draining: bool
    closed: bool


class RawAddress(NamedTuple):
    """An address that counts, with its block."""

    space: str
    node: str
    owner: str
    label: str
    pool: str
    block: Network
    address: Address
    fence: int


class Found(NamedTuple):
    """Everything that counts.

    Attributes:
        blocks: By node in the order of its claim.
        addresses: In address order.
        cooling_blocks: Space, prefix and until when, of every slot of a block ledger that cools.
        cooling: The same of single addresses in blocks that are held.
        loose: What claims name and nobody holds, and what is marked as being released: sentences.
    """

    blocks: list[RawBlock]
    addresses: list[RawAddress]
    cooling_blocks: list[tuple[str, Network, float]]
    cooling: dict[tuple[str, Address], float]
    loose: list[str]


def read_records(records: Records) -> Found:
    """Walk down from all roots.

    Raises:
        AssertionError: Two holdings overlap, a node is in two address spaces, an owner has two addresses of a family, or something
            counts that no claim names.
    """
    order = _claimed(records, "block-claims")
    marks = {_piece_key(piece) for (kind, _), page in records.items() if kind == "block-claims" for piece in page.draining}
    blocks: list[RawBlock] = []
    addresses: list[RawAddress] = []
    cooling_blocks: list[tuple[str, Network, float]] = []
    cooling: dict[tuple[str, Address], float] = {}
    counted: set[Any] = set()
    for space in spaces(records):
        pieces = list(blocks_in(records, space))
        held = [piece for piece in pieces if piece.holder is not None]
        check_disjoint(held)
        cooling_blocks += [(space, piece.network, piece.until) for piece in pieces if piece.holder is None]
        for piece in held:
            node, network = str(piece.holder), piece.network
            key = (node, piece.family, piece.first, piece.length, piece.fence, space)
            assert key in order, f"block {network} of {node} counts, but no claim names it"
            counted.add(("block-claims", key))
            root = records.get(("address-page", str(network) if space == DEFAULT else f"{space}@{network}"))
            closed = root is not None and root.fence > piece.fence
            blocks.append(RawBlock(space, node, piece.label, network, piece.fence, key in marks, closed))
            inner = list(addresses_in(records, space, network, piece.fence))
            mine = [each for each in inner if each.holder is not None]
            check_disjoint(mine)
            cooling.update({(space, address): until for address, until in cooling_in(records, space, network)})
            for each in mine:
                counted.add(("address-claims", (node, str(each.holder), each.family, each.first, each.length, each.fence, space)))
                address = each.network.network_address
                addresses.append(RawAddress(space, node, str(each.holder), each.label, piece.label, network, address, each.fence))
    named = _claimed_addresses(records)
    for kind, key in counted:
        assert kind == "block-claims" or key in named, f"{key} counts, but no claim names it"
    _check_holders(blocks, addresses)
    blocks.sort(key=lambda each: (each.node, order[_block_key(each)]))
    loose = [f"block claim {key}" for key in order if ("block-claims", key) not in counted]
    loose += [f"address claim {key}" for key in named if ("address-claims", key) not in counted]
    loose += [f"closing {piece}" for (kind, _), page in records.items() if kind.endswith("-claims") for piece in page.closing]
    return Found(blocks, addresses, cooling_blocks, cooling, loose)


def _piece_key(piece: Any) -> tuple[Any, ...]:
    return piece.holder, piece.family, piece.network, piece.length, piece.fence, piece.space


def _block_key(block: RawBlock) -> tuple[Any, ...]:
    network = block.network
    return block.node, network.version, int(network.network_address), network.prefixlen, block.fence, block.space


def _claimed(records: Records, wanted: str) -> dict[tuple[Any, ...], int]:
    """What claims on blocks name, with its place in the claim of its node."""
    return {
        _piece_key(piece): place
        for (kind, _), page in records.items()
        if kind == wanted
        for pieces in page.claims.values()
        for place, piece in enumerate(pieces)
    }


def _claimed_addresses(records: Records) -> set[tuple[Any, ...]]:
    return {
        (name.partition("/")[0], piece.holder, piece.family, piece.network, piece.length, piece.fence, piece.space)
        for (kind, name), page in records.items()
        if kind == "address-claims"
        for pieces in page.claims.values()
        for piece in pieces
    }


def _check_holders(blocks: Iterable[RawBlock], addresses: Iterable[RawAddress]) -> None:
    places: dict[str, str] = {}
    for block in blocks:
        assert places.setdefault(block.node, block.space) == block.space, f"{block.node} is in {places[block.node]!r} and {block.space!r}"
    seen: set[tuple[str, str, int]] = set()
    for each in addresses:
        who = (each.node, each.owner, each.address.version)
        assert who not in seen, f"{who} has two addresses"
        seen.add(who)


__all__ = ["Found", "RawAddress", "RawBlock", "read_records"]
