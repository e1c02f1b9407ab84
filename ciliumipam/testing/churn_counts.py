"""What an `Ipam` shows, counted once more from what the oracle knows."""

from ciliumipam.ipam import Ipam
from ciliumipam.testing.ipam_oracle import IpamOracle
from ciliumipam.testing.oracle_values import HeldBlock


def judge_counts(ipam: Ipam, oracle: IpamOracle) -> None:
    """The counts add up, and what is shown is what the records say.

    Args:
        ipam: One that has just read everything.
        oracle: What is known to be held.

    Raises:
        AssertionError: A count, a block, an address or an orphan is shown otherwise.
    """
    known = {(node, block): oracle.counts(block) for node, mine in oracle.blocks.items() for block in mine}
    shown = {(each.node, HeldBlock(each.pool, each.prefix, each.fence, each.space)): each for each in ipam.blocks()}
    assert shown.keys() == known.keys(), f"shown are {sorted(map(str, shown))}, acknowledged {sorted(map(str, known))}"
    for place, block in shown.items():
        closed = place[0] in oracle.limbo  # what cools in a block that is being given back cools with it
        assert closed or tuple(block.utilization) == known[place], f"{block}: {known[place]}"
        assert (block.orphan, block.draining) == (oracle.is_orphan(place[1]), oracle.drains(place[1])), f"{block} is not what it says"
    told = {(each.node, each.owner, each.address, each.fence) for each in ipam.allocations()}
    assert told == {(*pod, each.address, each.fence) for pod, facts in oracle.held.items() for each in facts.values()}, "addresses differ"
    for status in ipam.pools():
        name, space = status.spec.name, status.spec.address_space
        assert status.orphans == sum(block.pool == name and oracle.is_orphan(block) for _, block in known), f"orphans of {name}"
        waiting = [each[1] for each in oracle.cooling_blocks if each[0] == space and oracle.pools[name].covers(each[1])]
        for family, counts in status.spaces.items():
            cooling = sum(network.num_addresses for network in waiting if network.version == family)
            assert counts.cooling == cooling, f"{name} says that {counts.cooling} addresses cool, but it is {cooling}"


__all__ = ["judge_counts"]
