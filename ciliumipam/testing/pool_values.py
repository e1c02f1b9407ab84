"""Pools as plain values, out of which both a `PoolSpec` and its slow twin are built: small ones, so that they run full.

Of mixed lengths in one address space, on both sides of a boundary between two levels of the ledger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import ip_address, ip_network
from random import Random
from typing import Any, TypeAlias

from ciliumipam.node import Node
from ciliumipam.pool import BlockLengths, PoolSpec
from ciliumipam.selector import NodeSelector
from ciliumipam.testing.pool_oracle import OraclePool, Term

Values: TypeAlias = dict[str, Any]
"""A pool in what JSON can hold."""

POOLS = ("p", "q", "r")
LABELS: tuple[dict[str, str], ...] = ({}, {"zone": "a"}, {"zone": "a", "disk": "ssd"}, {"zone": "b", "cpus": "8"})
_CIDRS = ("10.0.0.0/26", "10.0.0.64/27", "10.0.0.128/30", "10.1.0.0/19", "fd00::/62", "fd00:1::/122", "fd00:2::/127")
_LENGTHS = (None, 20, 26, 27, 28, 30, 31, 32)
_LENGTHS_V6 = (None, 63, 64, 122, 123, 126, 128)
_RESERVED = ("10.0.0.0/28", "10.0.0.1", "10.0.0.5-10.0.0.18", "10.0.0.129-10.0.0.130", "10.1.0.0/28", "fd00::1", "fd00:1::-fd00:1::3e")
_ZONE, _SSD = ("zone", "In", ("a",)), ("disk", "In", ("ssd",))
_TERMS: tuple[tuple[Term, ...], ...] = (
    ((),),
    ((),),
    ((_ZONE,),),
    ((_ZONE, _SSD),),
    ((_ZONE, _SSD), (("cpus", "Gt", ("4",)),)),
    ((("metadata.name", "In", ("n0",)),), (("zone", "Exists", ()), ("cpus", "DoesNotExist", ()))),
    ((("zone", "NotIn", ("a",)), ("cpus", "Lt", ("9",))), (("metadata.name", "NotIn", ("n1",)), _SSD)),
)


def some(chance: Random, values: Sequence[Any], least: int, most: int) -> list[Any]:
    """A few different ones."""
    left = list(values)
    return [left.pop(chance.randrange(len(left))) for _ in range(chance.randint(least, min(most, len(left))))]


def _others(chance: Random) -> list[Any]:
    return [[chance.choice(((_ZONE,), (_SSD,))), chance.choice(_LENGTHS), chance.choice(_LENGTHS_V6)] for _ in range(chance.randint(0, 2))]


FIELDS: dict[str, Callable[[Random], Any]] = {
    "name": lambda chance: chance.choice(POOLS),
    "cidrs": lambda chance: some(chance, _CIDRS, 1, 3),
    "terms": lambda chance: chance.choice(_TERMS),
    "length_v4": lambda chance: chance.choice(_LENGTHS),
    "length_v6": lambda chance: chance.choice(_LENGTHS_V6),
    "others": _others,
    "reserved": lambda chance: some(chance, _RESERVED, 0, 2),
    "first": lambda chance: chance.choice((False, True)),
    "last": lambda chance: chance.choice((False, True)),
    "priority": lambda chance: chance.choice((0, 0, 0, -1, 7)),
    "space": lambda chance: chance.choice(("default", "default", "default", "blue")),
    "per_node": lambda chance: chance.choice((1, 1, 1, 2)),
    "most": lambda chance: chance.choice((None, None, 1, 2, 3)),
    "overflow": lambda chance: chance.choice((False, True)),
    "draining": lambda chance: chance.choice((False, False, False, True)),
    "delay": lambda chance: chance.choice((0.0, 0.0, 5.0, 20.25)),
    "policy": lambda chance: chance.choice(("next", "next", "lowest", "random")),
    "seed": lambda chance: chance.choice((0, 3)),
    "carving": lambda chance: chance.choice(("lowest", "sparse", "grouped")),
}
"""What a pool is made of, by chance."""


def pool_values(chance: Random) -> Values:
    """Any pool."""
    return {name: make(chance) for name, make in FIELDS.items()}


def build(values: Values) -> tuple[PoolSpec, OraclePool]:
    """A pool for us and the same for the oracle."""
    cidrs, terms = list(values["cidrs"]), _terms(values["terms"])
    lengths = {4: _fits(cidrs, values["length_v4"], 4), 6: _fits(cidrs, values["length_v6"], 6)}
    others = [
        (_term(term), {family: length for family, length in ((4, _fits(cidrs, v4, 4)), (6, _fits(cidrs, v6, 6))) if length})
        for term, v4, v6 in values["others"]
    ]
    others = [(term, found) for term, found in others if found]
    reserved = [
        text
        for text in values["reserved"]
        if any(ip_address(text.partition("-")[0].partition("/")[0]) in ip_network(cidr) for cidr in cidrs)
    ]
    most = max(values["most"], values["per_node"]) if values["most"] is not None else None
    spec = PoolSpec(
        name=values["name"],
        cidrs=cidrs,
        selector=_selector(terms),
        block_length_v4=lengths[4],
        block_length_v6=lengths[6],
        block_lengths=[BlockLengths(_selector((term,)), found.get(4), found.get(6)) for term, found in others],
        reserved=reserved,
        allow_first=values["first"],
        allow_last=values["last"],
        priority=values["priority"],
        address_space=values["space"],
        blocks_per_node=values["per_node"],
        max_blocks_per_node=most,
        overflow=values["overflow"],
        draining=values["draining"],
        reuse_delay=values["delay"],
        address_policy=values["policy"],
        seed=values["seed"],
        carving=values["carving"],
        group_by="zone" if values["carving"] == "grouped" else "",
    )
    twin = OraclePool(
        values["name"],
        tuple(sorted((ip_network(cidr) for cidr in cidrs), key=lambda cidr: (cidr.version, int(cidr.network_address)))),
        terms,
        {family: length for family, length in lengths.items() if length},
        tuple(others),
        tuple(_range(text) for text in sorted(reserved)),
        values["first"],
        values["last"],
        values["priority"],
        values["space"],
        values["per_node"],
        most,
        values["overflow"],
        values["draining"],
        values["delay"],
    )
    return spec, twin


def nodes_of(labels: dict[str, dict[str, str]]) -> tuple[Node, ...]:
    """Nodes out of labels by name."""
    return tuple(Node(name, each) for name, each in labels.items())


def _term(term: Any) -> Term:
    return tuple((str(key), str(operator), tuple(values)) for key, operator, values in term)


def _terms(terms: Any) -> tuple[Term, ...]:
    return tuple(_term(term) for term in terms)


def _fits(cidrs: Iterable[str], length: int | None, family: int) -> int | None:
    """The length, if blocks of it fit into all CIDRs of the family and are not too many for the oracle."""
    mine = [ip_network(cidr) for cidr in cidrs if ip_network(cidr).version == family]
    return length if length and mine and all(cidr.prefixlen <= length <= cidr.prefixlen + 6 for cidr in mine) else None


def _selector(terms: tuple[Term, ...]) -> NodeSelector:
    if terms == ((),):
        return NodeSelector.everything()
    found: list[object] = []
    for term in terms:
        parts: dict[str, list[object]] = {}
        for key, operator, values in term:
            where = "matchFields" if key == "metadata.name" else "matchExpressions"
            parts.setdefault(where, []).append({"key": key, "operator": operator, **({"values": list(values)} if values else {})})
        found.append(parts)
    return NodeSelector.from_terms(found)


def _range(text: str) -> tuple[Any, Any]:
    if "/" in text:
        network = ip_network(text)
        return network.network_address, network.broadcast_address
    low, _, high = text.partition("-")
    return ip_address(low), ip_address(high or low)
