"""Agents, their stores, reboots, partitions, sleepers and silence, by chance: no address is told on two nodes, and blocks follow the load."""

from __future__ import annotations

from contextlib import suppress

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ciliumipam.agent import LedgerSource, NodeAgent, SilentNodes, Terms
from ciliumipam.demand import Watermark
from ciliumipam.errors import IpamError
from ciliumipam.ipam import Ipam
from ciliumipam.lease import Moment
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.selector import NodeSelector
from ciliumipam.store import Expect, Listing, Store
from ciliumipam.store.memory import MemoryStore

TERMS = Terms(stop_after=20, return_after=60, timeout=10)
NODES = st.sampled_from(("n1", "n2", "n3"))


class CrashError(Exception):
    """The process has ended here."""


class Crashing:
    """A store of which a process gets only so many operations done; the last one takes effect or not."""

    def __init__(self, inner: Store) -> None:
        self.inner, self.left = inner, 10**9

    def _step(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise CrashError

    def get(self, key: Key) -> Entry | None:
        self._step()
        return self.inner.get(key)

    def scan(self, kind: Kind) -> Listing:
        self._step()
        return self.inner.scan(kind)

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        self._step()
        return self.inner.put(key, record, expect=expect)

    def delete(self, key: Key, *, expect: Revision) -> None:
        self._step()
        self.inner.delete(key, expect=expect)

    def close(self) -> None:
        """Nothing to close."""


class Machine:
    """One node."""

    def __init__(self, shared: Store, name: str, clock: list[float]) -> None:
        self.name, self.clock, self.shared, self.own, self.boots = name, clock, shared, MemoryStore(), 1
        self.start()

    def start(self) -> None:
        self.to_shared, self.to_own = Crashing(self.shared), Crashing(self.own)
        source = LedgerSource(self.to_shared, Node(self.name), TERMS)
        watermark = Watermark(spare=3, slack=3, idle=15)
        self.agent = NodeAgent(source, self.to_own, self.name, watermark=watermark, moment=self.moment, pause=lambda _: None)

    def moment(self) -> Moment:
        return Moment(f"{self.name}-{self.boots}", self.clock[0])


class Agents(RuleBasedStateMachine):
    """Three nodes, one store of blocks, and whoever gives back what silent nodes hold."""

    def __init__(self) -> None:
        super().__init__()
        self.clock, self.shared = [100.0], MemoryStore()
        pool = PoolSpec(name="p", cidrs=["10.0.0.0/27"], selector=NodeSelector.everything(), block_length_v4=29)
        Ipam(self.shared).apply([pool])
        self.machines = {name: Machine(self.shared, name, self.clock) for name in ("n1", "n2", "n3")}
        self.silent = SilentNodes(self.shared, TERMS, clock=lambda: self.clock[0])
        self.live: dict[str, tuple[str, str]] = {}
        self.count = 0

    @rule(name=NODES)
    def round(self, name: str) -> None:
        with suppress(IpamError):
            self.machines[name].agent.round()

    @rule(name=NODES, at=st.integers(0, 60), own=st.booleans())
    def crash_in_a_round(self, name: str, at: int, own: bool) -> None:
        machine = self.machines[name]
        (machine.to_own if own else machine.to_shared).left = at
        with suppress(CrashError, IpamError):
            machine.agent.round()
        machine.start()

    @rule(name=NODES)
    def reboot(self, name: str) -> None:
        machine = self.machines[name]
        machine.boots += 1
        machine.start()
        for owner in [owner for owner, (node, _) in self.live.items() if node == name]:
            del self.live[owner]
            machine.agent.release(owner)

    @rule(name=NODES, many=st.integers(1, 4))
    def allocate(self, name: str, many: int) -> None:
        for _ in range(many):
            self.count += 1
            owner = f"o{self.count}"
            try:
                (found,) = self.machines[name].agent.allocate(owner)
            except IpamError:
                return
            taken = [each for each in self.live.values() if each[1] == str(found.address)]
            assert not taken, f"{found.address} was told on {name}, and lives on {taken[0][0]}"
            held = {str(each.prefix): each.node for each in Ipam(self.shared).blocks()}
            assert held.get(str(found.block)) == name, f"{found.address} was told on {name}, which does not hold {found.block}"
            self.live[owner] = name, str(found.address)

    @rule(name=NODES, many=st.integers(1, 8))
    def release(self, name: str, many: int) -> None:
        for owner in [owner for owner, (node, _) in self.live.items() if node == name][:many]:
            del self.live[owner]
            self.machines[name].agent.release(owner)

    @rule(seconds=st.sampled_from((1, 16, 21, 61)))
    def time_passes(self, seconds: int) -> None:
        self.clock[0] += seconds

    @rule()
    def look_for_silent_nodes(self) -> None:
        for name in self.silent.look():  # what runs there is cut off: the address of a pod that nobody can reach is no duplicate
            for owner in [owner for owner, (node, _) in self.live.items() if node == name]:
                del self.live[owner]

    @invariant()
    def what_lives_is_in_a_block_of_its_node(self) -> None:
        held = {str(address): each.node for each in Ipam(self.shared).blocks() for address in each.prefix}
        for owner, (node, address) in self.live.items():
            assert held.get(address) == node, f"{address} lives on {node} as {owner}, and its block is {held.get(address)}'s"

    def teardown(self) -> None:
        """All come to rest: blocks follow the load, and nothing flaps."""
        for machine in self.machines.values():
            machine.start()
        for _ in range(12):
            self.clock[0] += 6
            for machine in self.machines.values():
                self.round(machine.name)
                self.silent.look()
        before = [(each.node, each.prefix, each.fence) for each in Ipam(self.shared).blocks()]
        for _ in range(8):
            self.clock[0] += 6
            for machine in self.machines.values():
                done = machine.agent.round()
                assert (done.adopted, done.handed_back) == ((), ()), "it flaps"
        assert [(each.node, each.prefix, each.fence) for each in Ipam(self.shared).blocks()] == before
        for machine in self.machines.values():
            mine = {str(each.prefix) for each in Ipam(machine.own).blocks() if not each.orphan}
            assert mine == {str(prefix) for node, prefix, _ in before if node == machine.name}
        free = sum(pool.spaces[4].available for pool in Ipam(self.shared).pools())
        for node in Ipam(self.shared).nodes() if free else ():
            spare = sum(each.utilization.available for each in Ipam(self.machines[node.node.name].own).blocks() if not each.orphan)
            assert spare >= 3, f"{node.node.name} is below its watermark while there is space"


Agents.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
TestAgents = Agents.TestCase
