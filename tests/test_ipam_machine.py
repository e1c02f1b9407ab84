"""`Ipam` against the oracle: any calls in any order, from two objects that do not know of each other, with faults after any write."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec, SqliteStore, Store
from ciliumipam.audit import audit
from ciliumipam.errors import IpamError, StalePlanError, StoreError
from ciliumipam.requests import Allocate, Release
from ciliumipam.testing.faults import Crash, Fault, FaultyStore
from ciliumipam.testing.ipam_oracle import IpamOracle, Pod, Reading
from ciliumipam.testing.pool_oracle import OraclePool

T = TypeVar("T")

NODES = ("n0", "n1", "n44", "n45")  # two and two have their claims in one record
LABELS: tuple[dict[str, str], ...] = ({}, {"zone": "a"}, {"zone": "a", "disk": "ssd"})
OWNERS = ("o0", "o1", "o2", "o72", "o73", "o87")  # so have o0, o72 and o87, and o1 and o73
# small, so that they run full; mixed lengths in one space, on both sides of a boundary between two levels of the ledger
CIDRS = ("10.0.0.0/26", "10.0.0.64/27", "10.0.0.128/30", "10.1.0.0/19", "fd00::/62", "fd00:1::/122", "fd00:2::/127")
LENGTHS = (None, 20, 26, 27, 28, 30, 31, 32)
LENGTHS_V6 = (None, 63, 64, 122, 123, 126, 128)
RESERVED = ("10.0.0.0/28", "10.0.0.1", "10.0.0.5-10.0.0.18", "10.0.0.129-10.0.0.130", "10.1.0.0/28", "fd00::1", "fd00:1::-fd00:1::3e")


def _fits(cidrs: Iterable[str], length: int | None, family: int) -> int | None:
    """The length, if blocks of it fit into all CIDRs of the family and are not too many for the oracle."""
    mine = [ip_network(cidr) for cidr in cidrs if ip_network(cidr).version == family]
    return length if length and mine and all(cidr.prefixlen <= length <= cidr.prefixlen + 6 for cidr in mine) else None


@st.composite
def pools(draw: st.DrawFn) -> tuple[PoolSpec, OraclePool]:
    """A pool for us and the same for the oracle."""
    cidrs = draw(st.lists(st.sampled_from(CIDRS), min_size=1, max_size=3, unique=True))
    lengths = {4: _fits(cidrs, draw(st.sampled_from(LENGTHS)), 4), 6: _fits(cidrs, draw(st.sampled_from(LENGTHS_V6)), 6)}
    reserved = [
        text
        for text in draw(st.lists(st.sampled_from(RESERVED), max_size=2, unique=True))
        if any(ip_address(text.partition("-")[0].partition("/")[0]) in ip_network(cidr) for cidr in cidrs)
    ]
    name, labels = draw(st.sampled_from(("p", "q", "r"))), draw(st.sampled_from(LABELS))
    first, last = draw(st.booleans()), draw(st.booleans())
    spec = PoolSpec(
        name=name,
        cidrs=cidrs,
        selector=NodeSelector.from_label_selector({"matchLabels": labels}),
        block_length_v4=lengths[4],
        block_length_v6=lengths[6],
        reserved=reserved,
        allow_first=first,
        allow_last=last,
    )
    twin = OraclePool(
        name,
        tuple(sorted((ip_network(cidr) for cidr in cidrs), key=lambda cidr: (cidr.version, int(cidr.network_address)))),
        tuple(labels.items()),
        {family: length for family, length in lengths.items() if length},
        tuple(_range(text) for text in sorted(reserved)),
        first,
        last,
    )
    return spec, twin


def _range(text: str) -> tuple[Any, Any]:
    if "/" in text:
        network = ip_network(text)
        return network.network_address, network.broadcast_address
    low, _, high = text.partition("-")
    return ip_address(low), ip_address(high or low)


which = st.integers(0, 1)
nodes = st.sampled_from(NODES)
owners = st.lists(st.sampled_from(OWNERS), min_size=1, max_size=4, unique=True)
families = st.sampled_from((None, None, None, 4, 6))
scripts: st.SearchStrategy[list[Fault]] = st.one_of(
    st.just([]),
    st.just([]),
    st.just([]),
    st.lists(st.sampled_from((Fault.NONE, Fault.CONFLICT, Fault.LOST, Fault.VANISHED)), max_size=8),
    st.builds(lambda count, end: [Fault.NONE] * count + [end], st.integers(0, 8), st.sampled_from((*Fault,))),
)


class Machine(RuleBasedStateMachine):
    """Everything that `Ipam` can be asked, on one `MemoryStore`."""

    def __init__(self) -> None:
        super().__init__()
        self.oracle = IpamOracle()
        self.twins: dict[PoolSpec, OraclePool] = {}
        self.inner = self.make_stores()
        self.faulty: list[list[FaultyStore]] = [[], []]
        self.ipams: list[Ipam] = [self.start(0), self.start(1)]
        self.alone = [True, True]
        self.plans: list[tuple[int, Any]] = []

    def make_stores(self) -> list[Store]:
        return [MemoryStore()]

    def start(self, index: int) -> Ipam:
        """A new process, so to speak."""
        self.faulty[index] = [FaultyStore(store) for store in self.inner]
        return Ipam(*self.faulty[index], clock=lambda: 1.0, policy="next" if index == 0 else "lowest")

    def fresh(self) -> Ipam:
        """One that has just read everything."""
        return Ipam(*self.inner)

    def read(self) -> Reading:
        """What a fresh one sees."""
        fresh = self.fresh()
        return Reading(
            {status.spec.name: self.twins[status.spec] for status in fresh.pools()},
            {status.node.name: dict(status.node.labels) for status in fresh.nodes()},
            fresh.blocks(),  # type: ignore[arg-type]  # a tuple of what it says
            fresh.allocations(),  # type: ignore[arg-type]  # a tuple of what it says
        )

    def call(self, index: int, script: list[Fault], call: Callable[[Ipam], T]) -> T | IpamError | None:
        """What a call answers; None if it broke off. A crashed process is started again."""
        self.alone[1 - index] = False
        shared = iter(script)
        for store in self.faulty[index]:
            store.play(shared)
        try:
            return call(self.ipams[index])
        except Crash:
            self.ipams[index] = self.start(index)
            self.alone[index] = True
            return None
        except StalePlanError as error:
            return None if error.written else error
        except StoreError:
            self.alone[index] = False  # it may not know what it has written
            return None
        except IpamError as error:
            return error
        finally:
            for store in self.faulty[index]:
                store.play()

    # -------------------------------------------------------------------------------------------------- rules

    @initialize(first=pools(), labels=st.sampled_from(LABELS))
    def begin(self, first: tuple[PoolSpec, OraclePool], labels: dict[str, str]) -> None:
        self.apply(0, [], [first], {"n0": labels, "n1": {}})

    @rule(
        index=which,
        script=scripts,
        given=st.lists(pools(), max_size=2, unique_by=lambda each: each[0].name),
        labels=st.dictionaries(nodes, st.sampled_from(LABELS), max_size=3),
    )
    def apply(self, index: int, script: list[Fault], given: list[tuple[PoolSpec, OraclePool]], labels: dict[str, dict[str, str]]) -> None:
        self.twins.update(given)
        twins = [twin for _, twin in given]
        request = ([spec for spec, _ in given], [Node(name, each) for name, each in labels.items()])
        if self.oracle.limbo:  # a removal that broke off is finished by whoever reads everything, as the command does
            self.ipams[index].refresh()
        applied = self.call(index, script, lambda ipam: ipam.apply(*request))
        if applied is None:
            self.oracle.learn(self.read(), pools={twin.name: twin for twin in twins}, nodes=labels)
        elif isinstance(applied, IpamError):
            self.oracle.apply(twins, labels, (), applied)
        else:
            refused = {refusal.node for refusal in applied.refusals}
            self.oracle.apply(twins, labels, refused, self.fresh().blocks())  # type: ignore[arg-type]  # a tuple of what it says

    @rule(index=which, script=scripts, node=nodes, names=owners, family=families, label=st.sampled_from(("", "default/web")))
    def allocate(self, index: int, script: list[Fault], node: str, names: list[str], family: Any, label: str) -> None:
        self._allocate(index, script, [(node, name) for name in names], None, family, label)

    @rule(
        index=which,
        script=scripts,
        node=nodes,
        names=owners,
        release=st.booleans(),
        between=st.one_of(st.none(), nodes, st.sampled_from(("p", "q", "r")), pools()),
    )
    def plan_and_execute(
        self, index: int, script: list[Fault], node: str, names: list[str], release: bool, between: str | tuple[PoolSpec, OraclePool] | None
    ) -> None:
        """A plan that is carried out later, perhaps after another process has changed something."""
        pods = [(node, name) for name in names]
        request = Release(node, tuple(names), missing_ok=True) if release else Allocate(node, tuple(names))

        def later(ipam: Ipam) -> Any:
            plan = ipam.plan(request)
            if isinstance(between, tuple):
                self.apply(1 - index, [], [between], {})
            elif between in NODES:
                self._allocate(1 - index, [], [(between, "o9")], None, None, "")
            elif between is not None:
                self.remove_pool(1 - index, [], between)
            return ipam.execute(plan)

        answer = self.call(index, script, later)
        self.alone = [False, False] if between is not None else self.alone
        if answer is None:
            self.oracle.learn(self.read(), gaining=[] if release else pods, losing=pods if release else self.oracle.ghosts & {*pods})
        elif not isinstance(answer, StalePlanError):
            if release:
                self.oracle.release(pods, missing_ok=True, answer=answer)
            else:
                self.oracle.allocate(pods, None, None, "", answer)

    @rule(index=which, script=scripts, name=st.sampled_from(OWNERS), choice=st.data())
    def allocate_an_address(self, index: int, script: list[Fault], name: str, choice: st.DataObject) -> None:
        address = choice.draw(self._addresses())
        where = self.oracle.block_of(address)
        node = where[0] if where is not None and choice.draw(st.integers(0, 3)) else choice.draw(nodes)
        self._allocate(index, script, [(node, name)], address, None, "")

    def _addresses(self) -> st.SearchStrategy[Any]:
        """Addresses that are held, at the edges of blocks, or out of every block."""
        held = [each.address for facts in self.oracle.held.values() for each in facts.values()]
        for blocks in self.oracle.blocks.values():
            for block in blocks:
                first, last = int(block.network.network_address), int(block.network.broadcast_address)
                held += [block.network.network_address + step for step in (0, 1, 2, 5) if first + step <= last]
                held += [block.network.broadcast_address]
        held += [ip_address("10.9.9.9"), ip_address("fd09::9")]
        return st.sampled_from(sorted(set(held), key=lambda each: (each.version, int(each))))

    def _allocate(self, index: int, script: list[Fault], pods: list[Pod], address: Any, family: Any, label: str) -> None:
        node, names = pods[0][0], [name for _, name in pods]
        answer = self.call(index, script, lambda ipam: ipam.allocate(node, *names, address=address, family=family, label=label))
        if answer is None:
            self.oracle.learn(self.read(), gaining=pods, losing=[pod for pod in pods if pod in self.oracle.ghosts])
        else:
            ghosts = self.oracle.ghosts & {*pods}
            self.oracle.allocate(pods, address, family, label, answer)  # type: ignore[arg-type]  # a tuple of what it says
            if ghosts & self.oracle.ghosts:  # asked for one family, it may have finished what was begun for the other one
                self.oracle.learn(self.read(), gaining=ghosts, losing=ghosts)

    @rule(index=which, script=scripts, node=nodes, names=owners, missing_ok=st.booleans())
    def release(self, index: int, script: list[Fault], node: str, names: list[str], missing_ok: bool) -> None:
        pods = [(node, name) for name in names]
        answer = self.call(index, script, lambda ipam: ipam.release(node, *names, missing_ok=missing_ok))
        if answer is None:
            self.oracle.learn(self.read(), losing=pods)
        else:
            self.oracle.release(pods, missing_ok=missing_ok, answer=answer)  # type: ignore[arg-type]  # a tuple of what it says

    @precondition(lambda self: self.oracle.held)
    @rule(index=which, script=scripts, choice=st.data())
    def release_who_holds(self, index: int, script: list[Fault], choice: st.DataObject) -> None:
        node, name = choice.draw(st.sampled_from(sorted(self.oracle.held)))
        self.release(index, script, node, [name], missing_ok=False)

    @rule(index=which, script=scripts, choice=st.data())
    def release_an_address(self, index: int, script: list[Fault], choice: st.DataObject) -> None:
        address = choice.draw(self._addresses())
        pod = self.oracle.holder(address)
        fences = [1, 2, 7] + ([self.oracle.held[pod][address.version].fence] * 4 if pod is not None else [])
        fence = choice.draw(st.sampled_from([None, None, *fences]))

        def release(ipam: Ipam) -> Any:
            return ipam.force_release(address) if fence is None else ipam.release_fenced(address, fence)

        answer = self.call(index, script, release)
        if answer is None:
            self.oracle.learn(self.read(), losing=[pod] if pod is not None else [])
        else:
            self.oracle.release_address(address, fence, answer)

    @rule(index=which, script=scripts, node=nodes, force=st.booleans())
    def remove_node(self, index: int, script: list[Fault], node: str, force: bool) -> None:
        answer = self.call(index, script, lambda ipam: ipam.remove_node(node, force=force))
        if answer is None:
            self.oracle.learn(self.read(), removing=node)
        else:
            self.oracle.remove_node(node, force=force, answer=answer if isinstance(answer, IpamError) else None)

    @rule(index=which, script=scripts, name=st.sampled_from(("p", "q", "r")))
    def remove_pool(self, index: int, script: list[Fault], name: str) -> None:
        answer = self.call(index, script, lambda ipam: ipam.remove_pool(name))
        if answer is None:
            self.oracle.learn(self.read(), pools={name: None})
            self.oracle.unapplied = False
        else:
            self.oracle.remove_pool(name, answer if isinstance(answer, IpamError) else None)

    @rule(index=which)
    def read_again(self, index: int) -> None:
        self.ipams[index].refresh()
        self.alone[index] = True

    @rule(index=which)
    def restart(self, index: int) -> None:
        self.ipams[index] = self.start(index)
        self.alone[index] = True

    # -------------------------------------------------------------------------------------------- what always holds

    @invariant()
    def everything_acknowledged_is_there_and_nothing_else(self) -> None:
        self.oracle.matches(self.read())

    @invariant()
    def the_audit_finds_no_error_and_nothing_unfinished_where_nothing_broke_off(self) -> None:
        findings = audit(*self.inner).findings
        errors = [each for each in findings if each.severity == "error"]
        assert not errors, errors
        if not (self.oracle.ghosts or self.oracle.limbo or self.oracle.unapplied):
            unfinished = [each for each in findings if each.severity == "unfinished" and not each.what.startswith("the page is closed")]
            assert not unfinished, unfinished

    @invariant()
    def what_is_known_is_what_would_be_read(self) -> None:
        fresh = self.fresh()
        fresh.check_invariants()
        for ipam, alone in zip(self.ipams, self.alone, strict=True):
            ipam.check_invariants()
            if alone:
                assert (ipam.pools(), ipam.nodes(), ipam.blocks(), ipam.allocations()) == (
                    fresh.pools(), fresh.nodes(), fresh.blocks(), fresh.allocations(),
                )  # fmt: skip

    @invariant()
    def the_counts_add_up(self) -> None:
        for block in self.fresh().blocks():
            capacity, available, in_use, cooling, reserved = block.utilization
            held = [each for facts in self.oracle.held.values() for each in facts.values() if each.address in block.prefix]
            assert (capacity, in_use) == (block.prefix.num_addresses, len(held))
            assert capacity == available + in_use + cooling + reserved


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


TestOneStore = Machine.TestCase
TestTwoStores = TwoStoresMachine.TestCase
TestSqlite = SqliteMachine.TestCase
TestSqlite.settings = settings(max_examples=max(5, settings().max_examples // 5))
