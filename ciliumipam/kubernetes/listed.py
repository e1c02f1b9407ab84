"""What node objects list, as blocks that nodes are said to have: for everybody who decides over a cluster, not only for the operator."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

from ciliumipam.cidr import Prefix
from ciliumipam.errors import IpamError
from ciliumipam.kubernetes.mirror import Known
from ciliumipam.kubernetes.publish import NodeObject, claims
from ciliumipam.pool import PoolSpec
from ciliumipam.requests import ExistingBlock

_LOG = logging.getLogger(__name__)


class NodeState(NamedTuple):
    """A node's objects as last seen, None where there is none, with their versions."""

    node: Known[NodeObject] | None
    cilium: Known[NodeObject] | None


class Listed:
    """Reads what node objects list, each once as long as it says the same. One thread at a time.

    Args:
        every: Whether what a core Node lists counts everywhere. Otherwise only what lies in one of our pools does, and what
            the node holds, of a pool that is gone too: elsewhere it is of another allocator, which agents of Cilium do not use.
    """

    def __init__(self, *, every: bool) -> None:
        self._every = every
        self._read: dict[tuple[str, str], tuple[NodeObject, tuple[ExistingBlock, ...]]] = {}

    def of(
        self, states: Mapping[str, NodeState], pools: Collection[PoolSpec], held: Callable[[], Collection[tuple[str, Prefix]]]
    ) -> list[ExistingBlock]:
        """What they list. O(nodes), and those that a core Node lists are looked for in every pool, and in what is held where they are in none."""
        elsewhere: list[ExistingBlock] = []
        found: list[ExistingBlock] = []
        read: dict[tuple[str, str], tuple[NodeObject, tuple[ExistingBlock, ...]]] = {}
        for name, state in states.items():
            for known in state:
                if known is None or isinstance(known.value, IpamError) or not known.value.listed:
                    continue
                obj = known.value
                place = (obj.kind, name)
                before = self._read.get(place)
                blocks = before[1] if before is not None and before[0] is obj else _read(obj)
                read[place] = obj, blocks
                if known is state.node and not self._every:
                    for each in blocks:
                        (found if any(pool.covers(each.prefix) for pool in pools) else elsewhere).append(each)
                else:
                    found += blocks
        self._read = read
        holders = held() if elsewhere else ()
        return [*found, *(each for each in elsewhere if (each.node, each.prefix) in holders)]


def _read(obj: NodeObject) -> tuple[ExistingBlock, ...]:
    said = claims(obj)
    for sentence in said.refused:
        _LOG.warning("node=%s refused: %s", obj.node.name, sentence)
    return said.existing


__all__ = ["Listed", "NodeState"]
