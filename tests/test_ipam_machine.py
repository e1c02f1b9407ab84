"""`Ipam` against the oracle: any calls in any order, from two objects that do not know of each other, with faults after any write."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore, Store
from ciliumipam.audit import audit
from ciliumipam.cidr import parse_prefix
from ciliumipam.errors import IpamError, StalePlanError, StoreError
from ciliumipam.plan_file import plan_from_document, plan_to_document
from ciliumipam.pool import BlockLengths
from ciliumipam.records import KINDS
from ciliumipam.requests import (
    Allocate,
    Applied,
    Apply,
    Drain,
    ExistingBlock,
    ForceRelease,
    Grow,
    Migrate,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
)
from ciliumipam.testing.faults import Crash, Fault, FaultyStore
from ciliumipam.testing.ipam_oracle import IpamOracle
from ciliumipam.testing.life_reading import read_records
from ciliumipam.testing.oracle_values import Existing, HeldBlock, Reading, Told
from ciliumipam.testing.pool_oracle import OraclePool, Term

T = TypeVar("T")

NODES = ("n0", "n1", "n44", "n45")  # two and two have their claims in one record
POOLS = ("p", "q", "r")
LABELS: tuple[dict[str, str], ...] = ({}, {"zone": "a"}, {"zone": "a", "disk": "ssd"}, {"zone": "b", "cpus": "8"})
OWNERS = ("o0", "o1", "o2", "o72", "o73", "o87")  # so have o0, o72 and o87, and o1 and o73
# small, so that they run full; mixed lengths in one space, on both sides of a boundary between two levels of the ledger
CIDRS = ("10.0.0.0/26", "10.0.0.64/27", "10.0.0.128/30", "10.1.0.0/19", "fd00::/62", "fd00:1::/122", "fd00:2::/127")
LENGTHS = (None, 20, 26, 27, 28, 30, 31, 32)
LENGTHS_V6 = (None, 63, 64, 122, 123, 126, 128)
RESERVED = ("10.0.0.0/28", "10.0.0.1", "10.0.0.5-10.0.0.18", "10.0.0.129-10.0.0.130", "10.1.0.0/28", "fd00::1", "fd00:1::-fd00:1::3e")
EXISTING = ("10.0.0.0/28", "10.0.0.16/28", "10.0.0.8/29", "10.0.0.0/26", "10.0.0.64/27", "10.9.0.0/26", "fd00::/64", "fd00:1::/126")
ZONE, SSD = ("zone", "In", ("a",)), ("disk", "In", ("ssd",))
TERMS: tuple[tuple[Term, ...], ...] = (
    ((),),
    ((),),
    ((ZONE,),),
    ((ZONE, SSD),),
    ((ZONE, SSD), (("cpus", "Gt", ("4",)),)),
    ((("metadata.name", "In", ("n0",)),), (("zone", "Exists", ()), ("cpus", "DoesNotExist", ()))),
    ((("zone", "NotIn", ("a",)), ("cpus", "Lt", ("9",))), (("metadata.name", "NotIn", ("n1",)), SSD)),
)
Values = dict[str, Any]
"""A pool in plain values, out of which both its spec and its twin are built."""


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


def build(values: Values) -> tuple[PoolSpec, OraclePool]:
    """A pool for us and the same for the oracle."""
    cidrs, terms = values["cidrs"], values["terms"]
    lengths = {4: _fits(cidrs, values["length_v4"], 4), 6: _fits(cidrs, values["length_v6"], 6)}
    others = [
        (term, {family: length for family, length in ((4, _fits(cidrs, v4, 4)), (6, _fits(cidrs, v6, 6))) if length})
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


def _range(text: str) -> tuple[Any, Any]:
    if "/" in text:
        network = ip_network(text)
        return network.network_address, network.broadcast_address
    low, _, high = text.partition("-")
    return ip_address(low), ip_address(high or low)


FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "name": st.sampled_from(POOLS),
    "cidrs": st.lists(st.sampled_from(CIDRS), min_size=1, max_size=3, unique=True),
    "terms": st.sampled_from(TERMS),
    "length_v4": st.sampled_from(LENGTHS),
    "length_v6": st.sampled_from(LENGTHS_V6),
    "others": st.lists(st.tuples(st.sampled_from(((ZONE,), (SSD,))), st.sampled_from(LENGTHS), st.sampled_from(LENGTHS_V6)), max_size=2),
    "reserved": st.lists(st.sampled_from(RESERVED), max_size=2, unique=True),
    "first": st.booleans(),
    "last": st.booleans(),
    "priority": st.sampled_from((0, 0, 0, -1, 7)),
    "space": st.sampled_from(("default", "default", "default", "blue")),
    "per_node": st.sampled_from((1, 1, 1, 2)),
    "most": st.sampled_from((None, None, 1, 2, 3)),
    "overflow": st.booleans(),
    "draining": st.sampled_from((False, False, False, True)),
    "delay": st.sampled_from((0.0, 0.0, 5.0, 20.25)),
    "policy": st.sampled_from(("next", "next", "lowest", "random")),
    "seed": st.sampled_from((0, 3)),
    "carving": st.sampled_from(("lowest", "sparse", "grouped")),
}
pools: st.SearchStrategy[Values] = st.fixed_dictionaries(FIELDS)
changes = st.sampled_from(sorted(set(FIELDS) - {"name"})).flatmap(lambda field: st.tuples(st.just(field), FIELDS[field]))

which = st.integers(0, 1)
nodes = st.sampled_from((*NODES[:3], *NODES))
owners = st.lists(st.sampled_from(OWNERS), min_size=1, max_size=4, unique=True)
families = st.sampled_from((None, None, None, 4, 6))
existing = st.lists(
    st.tuples(nodes, st.sampled_from(EXISTING), st.sampled_from((None, None, "p", "q")), st.sampled_from((0.0, 5.0, 7.0))),
    max_size=3,
    unique_by=lambda each: each[:2],
)
scripts: st.SearchStrategy[list[Fault]] = st.one_of(
    st.just([]),
    st.just([]),
    st.just([]),
    st.lists(st.sampled_from((Fault.NONE, Fault.CONFLICT, Fault.LOST, Fault.VANISHED)), max_size=8),
    st.builds(lambda count, end: [Fault.NONE] * count + [end], st.integers(0, 8), st.sampled_from((*Fault,))),
)
requests = st.one_of(
    st.builds(Allocate, nodes, owners.map(tuple)),
    st.builds(Release, nodes, owners.map(tuple), st.booleans()),
    st.builds(Grow, nodes, st.integers(1, 3)),
    st.builds(Drain, st.just("node"), nodes, st.booleans()),
    st.builds(Drain, st.just("pool"), st.sampled_from(POOLS), st.booleans()),
    st.builds(Migrate, nodes, st.sampled_from(POOLS)),
    st.builds(RemoveNode, nodes, st.booleans()),
    st.builds(RemovePool, st.sampled_from(POOLS)),
    st.builds(lambda name: Apply(nodes=(Node(name, {"zone": "a"}),)), nodes),
)


class Machine(RuleBasedStateMachine):
    """Everything that `Ipam` can be asked, on one `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = IpamOracle()
        self.oracle.now = 1000.0
        self.twins: dict[PoolSpec, OraclePool] = {}
        self.values: dict[str, Values] = {}
        self.inner = self.make_stores()
        self.faulty: list[list[FaultyStore]] = [[], []]
        self.ipams: list[Ipam] = [self.start(0), self.start(1)]
        self.alone = [True, True]
        self.fresh = [True, True]
        self.last: Reading | None = None

    def make_stores(self) -> list[Store]:
        return [MemoryStore()]

    def clock(self) -> float:
        return self.oracle.now

    def start(self, index: int) -> Ipam:
        """A new process, so to speak."""
        self.faulty[index] = [FaultyStore(store) for store in self.inner]
        return Ipam(*self.faulty[index], clock=self.clock)

    def another(self) -> Ipam:
        """One that has just read everything."""
        return Ipam(*self.inner, clock=self.clock)

    def records(self) -> dict[tuple[str, str], Any]:
        return {
            (kind, key.name): entry.record for store in self.inner for kind in KINDS for key, entry in store.scan(kind).entries
        }

    def read(self) -> Reading:
        """What the records say."""
        records = self.records()
        known = {name: record for (kind, name), record in records.items() if kind == "node"}
        return Reading(
            {name: self.twins[record.spec] for (kind, name), record in records.items() if kind == "pool"},
            {name: dict(record.node.labels) for name, record in known.items()},
            frozenset(name for name, record in known.items() if record.draining),
            read_records(records),
        )

    def know(self, values: Values) -> tuple[PoolSpec, OraclePool]:
        """Build a pool, and keep it, draining and not."""
        spec, twin = build(values)
        for draining in (False, True):
            self.twins[replace(spec, draining=draining)] = replace(twin, draining=draining)
        self.values[spec.name] = values
        return spec, twin

    def call(self, index: int, script: list[Fault], call: Callable[[Ipam], T], *, blocks: bool) -> T | IpamError | None:
        """What a call answers; None if it broke off. A crashed process is started again."""
        self.alone[1 - index] = False
        self.fresh[1 - index] &= not blocks
        self.oracle.faulty = any(fault is not Fault.NONE for fault in script)
        shared = iter(script)
        for store in self.faulty[index]:
            store.play(shared)
        try:
            return call(self.ipams[index])
        except Crash:
            self.ipams[index] = self.start(index)
            self.alone[index] = self.fresh[index] = True
            return None
        except StalePlanError as error:
            self.fresh[index] = False
            return None if error.written else error
        except StoreError:
            self.alone[index] = self.fresh[index] = False  # it may not know what it has written
            return None
        except IpamError as error:
            return error
        finally:
            for store in self.faulty[index]:
                store.play()

    # ------------------------------------------------------------------------------------------------- judging

    def ask(self, index: int, script: list[Fault], request: Request, call: Callable[[Ipam], Any]) -> None:
        """Make a call and judge the answer."""
        blocks = isinstance(request, (Apply, Grow, Drain, Migrate, RemoveNode, RemovePool))
        stale = not self.fresh[index]
        if self.oracle.limbo and isinstance(request, Apply):
            self.ipams[index].refresh()  # a removal that broke off is finished by whoever reads everything, as the command does
        answer = self.call(index, script, call, blocks=blocks)
        if answer is None:
            self.learn(request, stale=stale)
        else:
            self.fresh[index] |= isinstance(request, (Apply, Grow, Drain, Migrate, RemoveNode))
            self.judge(request, answer, stale=stale)

    def judge(self, request: Request, answer: Any, *, stale: bool) -> None:
        oracle, reading = self.oracle, self.read()
        error = answer if isinstance(answer, IpamError) else None
        told = error if error is not None else _told(answer) if isinstance(answer, Applied) else Told()
        match request:
            case Apply():
                labels = {node.name: dict(node.labels) for node in request.nodes}
                oracle.apply([self.twins[spec] for spec in request.pools], labels, _existing(request), told, reading)
            case Allocate():
                pods = [(request.node, owner) for owner in request.owners]
                ghosts = oracle.ghosts & {*pods}
                oracle.allocate(pods, request.address, request.family, request.label, answer, stale=stale)
                if ghosts & oracle.ghosts:  # asked for one family, it may have finished what was begun for the other one
                    oracle.learn(self.read(), gaining=ghosts, losing=ghosts)
            case Release():
                pods = [(request.node, owner) for owner in request.owners]
                oracle.release(pods, missing_ok=request.missing_ok, answer=answer, stale=stale)
            case ReleaseFenced():
                oracle.release_address(request.space, request.address, request.fence, answer, stale=stale)
            case ForceRelease():
                oracle.release_address(request.space, request.address, None, answer, stale=stale)
            case Grow():
                oracle.grow(request.node, request.blocks, told, reading)
            case Drain():
                oracle.drain(request.kind, request.name, request.cancel, request.space, told, reading)
            case Migrate():
                oracle.migrate(request.node, request.pool, told, reading)
            case RemoveNode():
                oracle.remove_node(request.name, force=request.force, answer=error)
            case RemovePool():
                oracle.remove_pool(request.name, error)
                oracle.unapplied = oracle.unapplied and bool(oracle.pools)

    def learn(self, request: Request, *, stale: bool) -> None:
        oracle, reading = self.oracle, self.read()
        match request:
            case Apply():
                given = {spec.name: self.twins[spec] for spec in request.pools}
                labels = {node.name: dict(node.labels) for node in request.nodes}
                adopting = [(each.node, each.network) for each in _existing(request)]
                oracle.learn(reading, pools=given, nodes=labels, carving=True, adopting=adopting)
            case Allocate() | Release():
                pods = [(request.node, owner) for owner in request.owners]
                taking = isinstance(request, Allocate)
                losing = oracle.ghosts & {*pods} if taking else pods
                oracle.learn(reading, gaining=pods if taking else [], losing=losing, stale=stale)
            case ReleaseFenced() | ForceRelease():
                pod = oracle.holder(request.space, request.address)
                oracle.learn(reading, losing=[pod] if pod is not None else [], stale=stale)
            case Grow():
                oracle.learn(reading, carving=True)
            case Drain():
                known = oracle.pools.get(request.name) if request.kind == "pool" else None
                given = {known.name: replace(known, draining=not request.cancel)} if known is not None else {}

                def leaving(node: str, block: HeldBlock) -> bool:
                    where = {"pool": block.pool, "node": node, "block": str(block.network)}[request.kind]
                    return where == request.name and not request.cancel

                oracle.learn(reading, pools=given, leaving=leaving, carving=True, marking=request.kind != "pool")
            case Migrate():
                oracle.learn(
                    reading, leaving=lambda node, block: node == request.node and (block.pool != request.pool or oracle.is_orphan(block)), carving=True, marking=True
                )
            case RemoveNode():
                oracle.learn(reading, leaving=lambda node, _: node == request.name, dropping=request.force, removing=request.name)
            case RemovePool():
                oracle.learn(reading, pools={request.name: None})

    # -------------------------------------------------------------------------------------------------- rules

    @initialize(first=pools, labels=st.sampled_from(LABELS))
    def begin(self, first: Values, labels: dict[str, str]) -> None:
        self.apply(0, [], [first], {"n0": labels, "n1": {}, "n44": LABELS[1]}, [])

    @rule(
        index=which,
        script=scripts,
        given=st.lists(pools, max_size=2, unique_by=lambda each: each["name"]),
        labels=st.dictionaries(nodes, st.sampled_from(LABELS), max_size=3),
        existing=st.one_of(st.just([]), existing),
    )
    def apply(self, index: int, script: list[Fault], given: list[Values], labels: dict[str, dict[str, str]], existing: list[Any]) -> None:
        request = Apply(
            tuple(self.know(values)[0] for values in given),
            tuple(Node(name, each) for name, each in labels.items()),
            tuple(ExistingBlock(node, parse_prefix(text), pool, since, "a test") for node, text, pool, since in existing),
        )
        self.ask(index, script, request, lambda ipam: ipam.apply(request.pools, request.nodes, request.existing))

    @precondition(lambda self: self.values)
    @rule(index=which, script=scripts, choice=st.data(), changes=st.lists(changes, min_size=1, max_size=2))
    def change_a_pool(self, index: int, script: list[Fault], choice: st.DataObject, changes: list[tuple[str, Any]]) -> None:
        values = {**self.values[choice.draw(st.sampled_from(sorted(self.values)))], **dict(changes)}
        self.apply(index, script, [values], {}, [])

    @rule(index=which, script=scripts, node=nodes, blocks=st.integers(1, 4))
    def grow(self, index: int, script: list[Fault], node: str, blocks: int) -> None:
        self.ask(index, script, Grow(node, blocks), lambda ipam: ipam.grow(node, blocks))

    @rule(index=which, script=scripts, choice=st.data(), cancel=st.sampled_from((False, False, True)))
    def drain(self, index: int, script: list[Fault], choice: st.DataObject, cancel: bool) -> None:
        places = [("pool", name, "default") for name in POOLS] + [("node", name, "default") for name in NODES[:2]]
        places += [("block", str(each.network), each.space) for mine in self.oracle.blocks.values() for each in mine]
        places += [("block", "10.0.0.0/25", "blue")]
        kind, name, space = choice.draw(st.sampled_from(places))
        request = Drain(kind, name, cancel, space)  # type: ignore[arg-type]  # one of the three
        self.ask(index, script, request, lambda ipam: ipam.drain(request.kind, name, cancel=cancel, space=space))

    @rule(index=which, script=scripts, node=nodes, pool=st.sampled_from(POOLS))
    def migrate(self, index: int, script: list[Fault], node: str, pool: str) -> None:
        self.ask(index, script, Migrate(node, pool), lambda ipam: ipam.migrate(node, pool))

    @rule(index=which, script=scripts, node=nodes, names=owners, family=families, label=st.sampled_from(("", "default/web")))
    def allocate(self, index: int, script: list[Fault], node: str, names: list[str], family: Any, label: str) -> None:
        self._allocate(index, script, node, names, None, family, label)

    def _allocate(self, index: int, script: list[Fault], node: str, names: list[str], address: Any, family: Any, label: str) -> None:
        request = Allocate(node, tuple(names), address, family, label)
        self.ask(index, script, request, lambda ipam: ipam.allocate(node, *names, address=address, family=family, label=label))

    @rule(index=which, script=scripts, name=st.sampled_from(OWNERS), choice=st.data())
    def allocate_an_address(self, index: int, script: list[Fault], name: str, choice: st.DataObject) -> None:
        space, address = choice.draw(self._addresses())
        where = self.oracle.block_of(space, address)
        node = where[0] if where is not None and choice.draw(st.integers(0, 3)) else choice.draw(nodes)
        self._allocate(index, script, node, [name], address, None, "")

    def _addresses(self) -> st.SearchStrategy[Any]:
        """Addresses that are held or cool, at the edges of blocks, or out of every block, with their space."""
        found = {("default", ip_address("10.9.9.9")), ("default", ip_address("fd09::9")), *self.oracle.cooling}
        for node, blocks in self.oracle.blocks.items():
            for block in blocks:
                first, last = int(block.network.network_address), int(block.network.broadcast_address)
                found |= {(block.space, block.network.network_address + step) for step in (0, 1, 2, 5) if first + step <= last}
                found.add((block.space, block.network.broadcast_address))
                for pod, facts in self.oracle.held.items():
                    found |= {(block.space, each.address) for each in facts.values() if pod[0] == node}
        return st.sampled_from(sorted(found, key=lambda each: (each[0], each[1].version, int(each[1]))))

    @rule(index=which, script=scripts, node=nodes, names=owners, missing_ok=st.booleans())
    def release(self, index: int, script: list[Fault], node: str, names: list[str], missing_ok: bool) -> None:
        request = Release(node, tuple(names), missing_ok)
        self.ask(index, script, request, lambda ipam: ipam.release(node, *names, missing_ok=missing_ok))

    @precondition(lambda self: self.oracle.held)
    @rule(index=which, script=scripts, choice=st.data())
    def release_who_holds(self, index: int, script: list[Fault], choice: st.DataObject) -> None:
        node, name = choice.draw(st.sampled_from(sorted(self.oracle.held)))
        self.release(index, script, node, [name], missing_ok=False)

    @rule(index=which, script=scripts, choice=st.data())
    def release_an_address(self, index: int, script: list[Fault], choice: st.DataObject) -> None:
        space, address = choice.draw(self._addresses())
        pod = self.oracle.holder(space, address)
        fences = [1, 2, 7] + ([self.oracle.held[pod][address.version].fence] * 4 if pod is not None else [])
        fence = choice.draw(st.sampled_from([None, None, *fences]))
        if fence is None:
            self.ask(index, script, ForceRelease(address, space), lambda ipam: ipam.force_release(address, space))
        else:
            self.ask(index, script, ReleaseFenced(address, fence, space), lambda ipam: ipam.release_fenced(address, fence, space))

    @rule(index=which, script=scripts, node=nodes, force=st.booleans())
    def remove_node(self, index: int, script: list[Fault], node: str, force: bool) -> None:
        self.ask(index, script, RemoveNode(node, force), lambda ipam: ipam.remove_node(node, force=force))

    @rule(index=which, script=scripts, name=st.sampled_from(POOLS))
    def remove_pool(self, index: int, script: list[Fault], name: str) -> None:
        self.ask(index, script, RemovePool(name), lambda ipam: ipam.remove_pool(name))

    @rule(index=which, script=scripts)
    def repair(self, index: int, script: list[Fault]) -> None:
        oracle = self.oracle
        doubt = bool(oracle.ghosts or oracle.limbo or oracle.unapplied)
        answer = self.call(index, script, lambda ipam: ipam.repair(), blocks=True)
        if answer is not None and not doubt:
            self.judge(Apply(), answer, stale=False)
        else:
            assert not isinstance(answer, IpamError), answer
            ghosts = {*oracle.ghosts}
            oracle.learn(self.read(), gaining=ghosts, losing=ghosts, carving=True)
        if answer is not None:
            oracle.ghosts.clear()
            oracle.limbo.clear()
            oracle.settled()
            assert not self.read().found.loose, f"left over after a repair: {self.read().found.loose}"

    @rule(seconds=st.sampled_from((0.5, 4.5, 5.0, 20.25)))
    def time_passes(self, seconds: float) -> None:
        self.oracle.now += seconds

    @rule(index=which, script=scripts, node=nodes, name=st.sampled_from(OWNERS), comes_back=st.booleans())
    def use_what_another_one_took_away(self, index: int, script: list[Fault], node: str, name: str, comes_back: bool) -> None:
        """A node is removed by force, while another process still has it, and its addresses, as it was."""
        self.ipams[index].blocks()
        self.remove_node(1 - index, [], node, force=True)
        if comes_back:
            self.apply(1 - index, [], [], {node: {"zone": "a"}}, [])
        self._allocate(index, script, node, [name], None, None, "")
        self.release(index, script, node, [name], missing_ok=True)

    @rule(index=which, script=scripts, request=requests, between=st.sampled_from(("", "", "time", "node", "pool", "repair")), node=nodes)
    def keep_a_plan_and_execute_it(self, index: int, script: list[Fault], request: Request, between: str, node: str) -> None:
        """A plan is written down, and carried out later, perhaps after somebody else has changed something."""
        self.ipams[index].refresh()
        self.alone[index] = self.fresh[index] = True
        before = self.records()
        try:
            plan = self.ipams[index].plan(request)
        except IpamError as error:
            assert self.records() == before, "a plan that was refused wrote something"
            self.judge(request, error, stale=False)
            return
        assert self.records() == before, "a plan wrote something"
        plan = plan_from_document(json.loads(json.dumps(plan_to_document(plan))), "a test")
        match between:
            case "time":
                self.time_passes(4.5)
            case "node":
                self._allocate(1 - index, [], node, ["o9"], None, None, "")
            case "pool":
                self.remove_pool(1 - index, [], "q")
            case "repair":
                self.repair(1 - index, [])
            case _:
                pass
        before = self.records()
        answer = self.call(index, script, lambda ipam: ipam.execute(plan), blocks=True)
        if isinstance(answer, StalePlanError):
            assert self.records() == before, "a stale plan changed something"
        elif answer is None or between in ("node", "pool", "repair"):
            self.learn(request, stale=False)
        else:
            self.judge(request, answer if isinstance(request, (Allocate, Release)) else plan.outcome, stale=False)

    @rule(index=which)
    def read_again(self, index: int) -> None:
        self.ipams[index].refresh()
        self.alone[index] = self.fresh[index] = True

    @rule(index=which)
    def restart(self, index: int) -> None:
        self.ipams[index] = self.start(index)
        self.alone[index] = self.fresh[index] = True

    # -------------------------------------------------------------------------------------------- what always holds

    @invariant()
    def everything_acknowledged_is_there_and_nothing_else(self) -> None:
        self.oracle.matches(self.read())

    @invariant()
    def nothing_is_unfinished_where_nothing_broke_off(self) -> None:
        if not (self.oracle.ghosts or self.oracle.limbo or self.oracle.unapplied):
            assert not self.read().found.loose

    @invariant()
    def the_audit_finds_no_error(self) -> None:
        errors = [each for each in audit(*self.inner).findings if each.severity == "error"]
        assert not errors, errors

    @invariant()
    def what_is_known_is_what_would_be_read(self) -> None:
        fresh = self.another()
        for ipam, alone in zip(self.ipams, self.alone, strict=True):
            ipam.check_invariants()
            if alone:
                assert (ipam.pools(), ipam.nodes(), ipam.blocks(), ipam.allocations()) == (
                    fresh.pools(), fresh.nodes(), fresh.blocks(), fresh.allocations(),
                )  # fmt: skip
                for node in fresh.nodes():
                    assert ipam.explain(node.node.name) == fresh.explain(node.node.name)

    @invariant()
    def the_counts_add_up_and_what_is_shown_is_what_the_records_say(self) -> None:
        fresh, oracle = self.another(), self.oracle
        known = {(node, block): oracle.counts(block) for node, mine in oracle.blocks.items() for block in mine}
        shown = {(each.node, HeldBlock(each.pool, each.prefix, each.fence, each.space)): each for each in fresh.blocks()}
        assert shown.keys() == known.keys()
        for place, block in shown.items():
            assert tuple(block.utilization) == known[place], f"{block}: {known[place]}"
            assert (block.orphan, block.draining) == (oracle.is_orphan(place[1]), oracle.drains(place[1])), f"{block} is not what it says"
        told = {(each.node, each.owner, each.address, each.fence) for each in fresh.allocations()}
        assert told == {(*pod, each.address, each.fence) for pod, facts in oracle.held.items() for each in facts.values()}
        for status in fresh.pools():
            assert status.orphans == sum(block.pool == status.spec.name and oracle.is_orphan(block) for _, block in known)
            waiting = [each for each in oracle.cooling_blocks if each[0] == status.spec.address_space and oracle.pools[status.spec.name].covers(each[1])]
            for family, space in status.spaces.items():
                assert space.cooling == sum(network.num_addresses for _, network, _ in waiting if network.version == family)


def _told(answer: Applied) -> Told:
    return Told(
        frozenset(refusal.node for refusal in answer.refusals),
        tuple((each.existing.node, each.existing.prefix.to_network()) for each in answer.conflicts),
        frozenset((each.node, each.block) for each in answer.blockers),
    )


def _existing(request: Apply) -> list[Existing]:
    return [Existing(each.node, each.prefix.to_network(), each.pool, each.since) for each in request.existing]


class TwoStoresMachine(Machine):
    """Blocks in one store, addresses in another."""

    def make_stores(self) -> list[Store]:
        return [MemoryStore(), MemoryStore()]


class SqliteMachine(Machine):
    """On a file."""

    def make_stores(self) -> list[Store]:
        self.directory = tempfile.mkdtemp()
        return [SqliteStore(Path(self.directory) / "ipam.db", synchronous="NORMAL")]

    def teardown(self) -> None:
        for store in self.inner:
            store.close()
        shutil.rmtree(self.directory)


def _share(part: int) -> settings:
    """A step costs some 30 ms, with the audit and a second reading after each: a part of what other properties get."""
    profile = settings()
    return settings(max_examples=max(5, profile.max_examples // part), stateful_step_count=max(15, profile.stateful_step_count // 2))


TestOneStore = Machine.TestCase
TestOneStore.settings = _share(3)
TestTwoStores = TwoStoresMachine.TestCase
TestTwoStores.settings = _share(5)
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = _share(10)
