"""Steps of a cluster's life, made by chance: small numbers of everything, so that calls get into each other's way.

The chance is a `random.Random`, or what Hypothesis has in its place, which then shrinks what it found. What is drawn depends on the
world only through what was acknowledged in it, in sorted order: so a seed gives the same steps on every machine.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from random import Random
from typing import Any

from ciliumipam.testing.churn import World
from ciliumipam.testing.churn_calls import Step
from ciliumipam.testing.faults import READ_FAULTS, Fault, Script
from ciliumipam.testing.pool_values import FIELDS, LABELS, POOLS, pool_values, some

NODES = ("n0", "n1", "n44", "n45")  # two and two have their claims in one record
OWNERS = ("o0", "o1", "o2", "o72", "o73", "o87")  # so have o0, o72 and o87, and o1 and o73
EXISTING = ("10.0.0.0/28", "10.0.0.16/28", "10.0.0.8/29", "10.0.0.0/26", "10.0.0.64/27", "10.9.0.0/26", "fd00::/64", "fd00:1::/126")
_ENDS = (Fault.CONFLICT, Fault.LOST, Fault.VANISHED, Fault.REFUSED, Fault.SLOW, Fault.SLOW_REPLY, Fault.CRASH_BEFORE, Fault.CRASH_AFTER)
_GOES_ON = (Fault.NONE, Fault.CONFLICT, Fault.LOST, Fault.VANISHED)


class Steps:
    """Makes steps.

    Args:
        chance: Where they come from.
        world: For which they are.
        calm: Of how many calls nothing goes wrong in all but one.
    """

    def __init__(self, chance: Random, world: World, *, calm: int = 2) -> None:
        self._chance, self._world, self._calm = chance, world, calm
        self._next: list[Step] = []
        self._kinds: dict[str, Callable[[], Step]] = {
            "apply": self.apply,
            "change a pool": self.change_a_pool,
            "grow": self.grow,
            "request": self.request,
            "hand back": self.hand_back,
            "drain": self.drain,
            "migrate": self.migrate,
            "allocate": self.allocate,
            "allocate an address": self.allocate_an_address,
            "release": self.release,
            "release who holds": self.release_who_holds,
            "release an address": self.release_an_address,
            "remove node": self.remove_node,
            "remove pool": self.remove_pool,
            "repair": self.repair,
            "time": self.time,
            "take away": self.take_away,
            "plan": self.plan,
            "execute": self.execute,
            "read": lambda: {"do": "read", "by": self._writer()},
            "restart": lambda: {"do": "restart", "by": self._writer()},
            "cut": self.cut,
            "meanwhile": self.meanwhile,
        }
        self._likely = [kind for kind, times in _LIKELY.items() for _ in range(times)]

    def first(self) -> Step:
        """The one with which everything begins: a pool and three nodes."""
        labels = {"n0": self._chance.choice(LABELS), "n1": {}, "n44": LABELS[1]}
        return {"do": "apply", "by": 0, "pools": [pool_values(self._chance)], "nodes": labels}

    def next(self) -> Step:
        """Any step."""
        return self._next.pop(0) if self._next else self.make(self._chance.choice(self._likely))

    def make(self, kind: str) -> Step:
        """A step of a kind; `KINDS` has them."""
        return self._kinds[kind]()

    def rest(self) -> list[Step]:
        """What belongs to the step that was made last, to be done after it."""
        rest, self._next = self._next, []
        return rest

    # ------------------------------------------------------------------------------------------------- parts

    def _writer(self) -> int:
        return self._chance.randrange(len(self._world.ipams))

    def _node(self) -> str:
        return self._chance.choice((*NODES[:3], *NODES))

    def _owners(self) -> list[str]:
        return some(self._chance, OWNERS, 1, 4)

    def _call(self, do: str, **values: Any) -> Step:
        """A call of some writer, of whose writes and reads some may go wrong."""
        chance = self._chance
        step = {"do": do, "by": self._writer(), **values}
        if not chance.randrange(self._calm):
            if chance.randrange(2):
                faults = [Fault.NONE] * chance.randint(0, 8) + [chance.choice(_ENDS)]
            else:
                faults = [chance.choice(_GOES_ON) for _ in range(chance.randint(0, 8))]
            step["faults"] = str(Script(tuple(faults)))
        if not chance.randrange(self._calm * 10):
            step["reads"] = str(Script((*[Fault.NONE] * chance.randint(0, 12), chance.choice(READ_FAULTS))))
        return step

    def _place(self) -> tuple[str, Any]:
        """An address that is held or cools, at the edge of a block, or out of every block, with its space."""
        oracle = self._world.oracle
        found = {("default", ip_address("10.9.9.9")), ("default", ip_address("fd09::9")), *oracle.cooling}
        for node, blocks in oracle.blocks.items():
            for block in blocks:
                first, last = block.network.network_address, block.network.broadcast_address
                found |= {(block.space, first + step) for step in (0, 1, 2, 5) if int(first) + step <= int(last)}
                found.add((block.space, last))
                for pod, facts in oracle.held.items():
                    found |= {(block.space, each.address) for each in facts.values() if pod[0] == node}
        return self._chance.choice(sorted(found, key=lambda each: (each[0], each[1].version, int(each[1]))))

    # ------------------------------------------------------------------------------------------------- kinds

    def apply(self) -> Step:
        """Pools, nodes and, sometimes, blocks that nodes have already."""
        chance = self._chance
        pools = {values["name"]: values for values in (pool_values(chance) for _ in range(chance.randint(0, 2)))}
        nodes = {self._node(): chance.choice(LABELS) for _ in range(chance.randint(0, 3))}
        step = self._call("apply", pools=list(pools.values()), nodes=nodes)
        if not chance.randrange(2):
            places = {(self._node(), chance.choice(EXISTING)) for _ in range(chance.randint(1, 3))}
            step["existing"] = [
                [*each, chance.choice((None, None, "p", "q")), chance.choice((0.0, 5.0, 7.0))] for each in sorted(places)
            ]
        return step

    def change_a_pool(self) -> Step:
        """A pool that was given before, with one or two things changed."""
        chance, pools = self._chance, self._world.pools
        values = dict(pools[chance.choice(sorted(pools))]) if pools else pool_values(chance)
        for field in some(chance, sorted(set(FIELDS) - {"name"}), 1, 2):
            values[field] = FIELDS[field](chance)
        return self._call("apply", pools=[values], nodes={})

    def grow(self) -> Step:
        """More blocks for a node."""
        return self._call("grow", node=self._node(), blocks=self._chance.randint(1, 4))

    def request(self) -> Step:
        """A node asks for addresses, of whichever pool or of a given one."""
        chance = self._chance
        sides = sorted({(chance.choice(("", "", *POOLS)), chance.choice((4, 4, 6))) for _ in range(chance.randint(0, 2))})
        return self._call("request", node=self._node(), demand=[[*side, chance.choice((1, 20, 40, 70, 130))] for side in sides])

    def hand_back(self) -> Step:
        """A node hands a block back, mostly one that it has."""
        chance = self._chance
        held = [(node, block) for node, mine in sorted(self._world.oracle.blocks.items()) for block in mine]
        if not held:
            return self._call("hand back", node=self._node(), block="10.0.0.0/28")
        node, block = chance.choice(held)
        fence = chance.choice((None, block.fence, block.fence, 1))
        return self._call("hand back", node=node if chance.randrange(6) else self._node(), block=str(block.network), fence=fence, space=block.space)

    def drain(self) -> Step:
        """A pool, a node or a block takes nothing new, or takes it again."""
        chance = self._chance
        places = [("pool", name, "default") for name in POOLS] + [("node", name, "default") for name in NODES[:2]]
        places += [("block", str(each.network), each.space) for _, mine in sorted(self._world.oracle.blocks.items()) for each in mine]
        kind, name, space = chance.choice([*places, ("block", "10.0.0.0/25", "blue")])
        return self._call("drain", kind=kind, name=name, space=space, cancel=not chance.randrange(3))

    def migrate(self) -> Step:
        """A node moves to a pool."""
        return self._call("migrate", node=self._node(), pool=self._chance.choice(POOLS))

    def allocate(self) -> Step:
        """Addresses for some owners."""
        chance = self._chance
        return self._allocate(self._node(), self._owners(), None, chance.choice((None, None, None, 4, 6)), chance.choice(("", "default/web")))

    def _allocate(self, node: str, owners: list[str], address: Any, family: int | None = None, label: str = "") -> Step:
        return self._call(
            "allocate", node=node, owners=owners, address=str(address) if address is not None else None, family=family, label=label
        )

    def allocate_an_address(self) -> Step:
        """A given one, mostly on the node that it belongs to."""
        space, address = self._place()
        where = self._world.oracle.block_of(space, address)
        node = where[0] if where is not None and self._chance.randrange(4) else self._node()
        return self._allocate(node, [self._chance.choice(OWNERS)], address)

    def release(self) -> Step:
        """Of some owners, who may hold nothing."""
        return self._call("release", node=self._node(), owners=self._owners(), missing_ok=bool(self._chance.randrange(2)))

    def release_who_holds(self) -> Step:
        """Of an owner that holds something, if one does."""
        held = sorted(self._world.oracle.held)
        if not held:
            return self.release()
        node, owner = self._chance.choice(held)
        return self._call("release", node=node, owners=[owner], missing_ok=False)

    def release_an_address(self) -> Step:
        """By its fence, which may be the wrong one, or by force."""
        space, address = self._place()
        pod = self._world.oracle.holder(space, address)
        fences = [1, 2, 7] + ([self._world.oracle.held[pod][address.version].fence] * 4 if pod is not None else [])
        fence = self._chance.choice([None, None, *fences])
        if fence is None:
            return self._call("force release", address=str(address), space=space)
        return self._call("release fenced", address=str(address), fence=fence, space=space)

    def remove_node(self) -> Step:
        """A node goes, perhaps by force."""
        return self._call("remove node", node=self._node(), force=bool(self._chance.randrange(2)))

    def remove_pool(self) -> Step:
        """A pool goes."""
        return self._call("remove pool", pool=self._chance.choice(POOLS))

    def repair(self) -> Step:
        """What was begun is finished or undone."""
        return self._call("repair")

    def time(self) -> Step:
        """Time passes."""
        return {"do": "time", "seconds": self._chance.choice((0.5, 4.5, 5.0, 20.25))}

    def take_away(self) -> Step:
        """A node is removed by force while another process still has it, and its addresses, as it was, and uses them."""
        by, other = some(self._chance, range(len(self._world.ipams)), 2, 2)
        node, owner = self._node(), self._chance.choice(OWNERS)
        self._next.append({"do": "remove node", "by": other, "node": node, "force": True})
        if self._chance.randrange(2):
            self._next.append({"do": "apply", "by": other, "nodes": {node: LABELS[1]}})
        self._next.append({**self._allocate(node, [owner], None), "by": by})
        self._next.append({**self._call("release", node=node, owners=[owner], missing_ok=True), "by": by})
        return {"do": "look", "by": by}

    def plan(self) -> Step:
        """Something is decided, and may be executed later, by anybody."""
        of = self.make(self._chance.choice(_PLANNED))
        for what in ("faults", "reads", "by"):
            of.pop(what, None)
        return {"do": "plan", "by": self._writer(), "of": of, "name": self._chance.choice("abc")}

    def execute(self) -> Step:
        """A plan that was kept is carried out; if there is none, one is made and carried out at once."""
        plans = sorted(self._world.plans)
        if plans:
            return self._call("execute", name=self._chance.choice(plans))
        step = self.plan()
        self._next.append(self._call("execute", name=step["name"]))
        return step

    def cut(self) -> Step:
        """A writer cannot reach its store any more, or can again."""
        cut = sorted(self._world.cut)
        if cut:
            return {"do": "heal", "by": cut[0]}
        return {"do": "cut", "by": self._writer(), "unknown": bool(self._chance.randrange(2))}

    def meanwhile(self) -> Step:
        """A call of which one write is slow, and another writer who makes a whole call meanwhile."""
        chance = self._chance
        step = self.make(chance.choice(_INTERRUPTED))
        other = self.make(chance.choice(_INTERRUPTED))
        other["by"] = chance.choice([writer for writer in range(len(self._world.ipams)) if writer != step["by"]])
        for each in (step, other):
            each.pop("existing", None)  # what is adopted over a block that is just being given back ends its wait, or does not
        slow = chance.choice((Fault.SLOW, Fault.SLOW_REPLY))
        return {**step, "faults": str(Script((*[Fault.NONE] * chance.randint(0, 5), slow))), "meanwhile": other}


_PLANNED = ("allocate", "release", "grow", "drain", "migrate", "request", "hand back", "remove node", "remove pool", "apply", "release an address")
_INTERRUPTED = ("allocate", "allocate", "release who holds", "release", "release an address", "grow", "drain", "migrate", "remove node", "apply")
_LIKELY = {
    "apply": 4,
    "change a pool": 3,
    "grow": 2,
    "request": 4,
    "hand back": 5,
    "drain": 3,
    "migrate": 2,
    "allocate": 42,
    "allocate an address": 6,
    "release": 4,
    "release who holds": 30,
    "release an address": 6,
    "remove node": 2,
    "remove pool": 1,
    "repair": 2,
    "time": 5,
    "take away": 1,
    "plan": 2,
    "execute": 3,
    "read": 3,
    "restart": 1,
    "cut": 3,
    "meanwhile": 5,
}
KINDS = tuple(_LIKELY)
"""What `Steps.make` makes."""
