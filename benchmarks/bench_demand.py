"""Demand of 5,000 nodes: what each asks for and can hand back, and who gets a further block. CPU time, the best of five."""

from __future__ import annotations

from collections.abc import Callable
from time import process_time

from ciliumipam import Demand, Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.cidr import Prefix
from ciliumipam.demand import BlockUse, Watermark, decide
from ciliumipam.reconcile import Held, Pools
from ciliumipam.records import NodeRecord
from ciliumipam.waiting import Waiting, share, waiting

Row = tuple[str, float, str]

NODES = 5000


def best(call: Callable[[], object]) -> float:
    """Milliseconds of the best of five."""
    times = []
    for _ in range(5):
        begin = process_time()
        call()
        times.append(process_time() - begin)
    return min(times) * 1e3


def run(quick: bool = False) -> list[Row]:  # noqa: ARG001, FBT001, FBT002 - as all benchmarks are called; it takes no second
    """Every node has four blocks to decide over, and one when they are shared; every second one asks for two more."""
    uses = [BlockUse(Prefix(4, (10 << 24) + (place << 8), 24), "", 254, 254 if place < 2 else 0, idle=400.0) for place in range(4)]
    spec = PoolSpec(name="pods", cidrs=["10.0.0.0/8"], selector=NodeSelector.everything())
    ipam = Ipam(MemoryStore(), clock=lambda: 0.0)
    ipam.apply([spec], [Node(f"node-{number}") for number in range(NODES)])
    pools = Pools(())
    pools.by_name[spec.name] = spec
    held = {name: Held(blocks) for name, blocks in ipam.held().items()}
    records = [NodeRecord(Node(name), 0.0, demand=(Demand("", 4, 700 if place % 2 else 200),)) for place, name in enumerate(held)]

    def order() -> None:
        waits = [each for record in records for each in waiting(record, pools, held[record.node.name])]

        def give(asks: Waiting, pool: PoolSpec) -> str:
            asks.stock.add(pool, held[asks.node].blocks[0])
            return ""

        assert not share(waits, give)

    return [
        (f"demand, {NODES:,} nodes: what to ask for and hand back", best(lambda: [decide(uses, {("", 4): 3}, Watermark()) for _ in range(NODES)]), "ms"),
        (f"demand, {NODES:,} nodes: who gets a further block, 5000 blocks given", best(order), "ms"),
    ]
