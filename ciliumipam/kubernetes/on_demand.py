"""The operator's part for nodes whose agents ask for blocks by pool: what their objects tell them, and blocks that they hand back.

An agent hands a block back by taking it off `pools.allocated`; there is no further word between the two. Two things tell a block that
was handed back from one that was not listed yet: the annotation that names its present fence, which was written by the patch that
listed it; and, where the annotation was lost, that this process saw this very object list it under this fence. Neither is what safety
rests on. A block ends only by `guard`: marked, looked at, touched. What was handed back by mistake was merely not published, and its
node gets another one.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from ciliumipam.agent.terms import Terms
from ciliumipam.errors import (
    BlockNotEmptyError,
    InvalidRequestError,
    NotFoundError,
    NotHeldError,
    NotInstalledError,
    StaleFenceError,
)
from ciliumipam.ipam import Ipam
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.cluster import ClusterStore, NodeState
from ciliumipam.kubernetes.guard import CILIUM_NODES
from ciliumipam.kubernetes.promises import LEASE, promise_text, read_promise
from ciliumipam.kubernetes.publish import NodeObject, Publication, handed_back, listed_by_pool, publish_cilium
from ciliumipam.kubernetes.reporter import Reporter
from ciliumipam.pool import PoolSpec
from ciliumipam.records import ClaimPage, Holding
from ciliumipam.view import block_claims_key

REQUEST: Final = 30.0
"""Seconds that a request of an agent may be under way."""

_LOG = logging.getLogger("ciliumipam.operator")


class OnDemand:
    """What is known of nodes with pools from round to round. One thread.

    Args:
        ipam: What decides.
        store: The store below it.
        reporter: Who is told.
        stop_after: Seconds for which an agent may rely on its blocks; None promises nothing.
    """

    def __init__(self, ipam: Ipam, store: ClusterStore, reporter: Reporter | None, stop_after: float | None) -> None:
        """Nothing is known."""
        self._ipam, self._store, self._reporter, self._stop_after = ipam, store, reporter, stop_after
        self._seen: dict[str, tuple[str, frozenset[Holding]]] = {}
        self._promised = stop_after or 0.0

    def forget_all_but(self, names: Container[str]) -> None:
        """Forget what was seen of nodes that are gone."""
        self._seen = {name: seen for name, seen in self._seen.items() if name in names}

    def publish(
        self, name: str, state: NodeState, held: Sequence[Holding], pools: Mapping[str, PoolSpec]
    ) -> tuple[Publication, tuple[Holding, ...]]:
        """What has to become of a node's object, and which blocks its agent has handed back."""
        known = state.cilium
        assert known is not None  # noqa: S101 - it is what uses pools
        obj = known.value
        assert isinstance(obj, NodeObject)  # noqa: S101 - an unreadable one says nothing of pools
        uid, seen = self._seen.get(name, ("", frozenset()))
        back = handed_back(obj, held, seen if uid == obj.uid else ())
        self._seen[name] = obj.uid, listed_by_pool(obj, held) | frozenset(back)
        lease = ""
        if self._stop_after is not None:
            claims = self._store.cluster.ledger_entry(block_claims_key(name))
            draining = claims.record.draining if claims is not None and isinstance(claims.record, ClaimPage) else frozenset[Holding]()
            leaves = any(each is not None and isinstance(each.value, NodeObject) and each.value.draining for each in state)
            lease = promise_text(self._stop_after, [each for each in held if each not in back], pools, draining, leaves=leaves)
        return publish_cilium(obj, known.revision, held, back, lease), back

    def accept(self, back: Mapping[str, Sequence[Holding]], threads: ThreadPoolExecutor) -> None:
        """Take back what agents have handed back, where no object lists it and nobody can be about to list it."""
        names = sorted(back)
        reasons = threads.map(lambda name: self._store.guard.release(name, back[name]), names)
        released = []
        for name, reason in zip(names, reasons, strict=True):
            if reason:
                _LOG.info("node=%s handed blocks back, but they stay: %s", name, reason)
            else:
                released.append(name)
        self._ipam.refresh()  # what is marked is no node now, so nobody is asked whether it needs the blocks: it does not have them
        list(threads.map(lambda name: self._end(name, back[name]), released))
        list(threads.map(self._store.guard.unmark, released))

    def _end(self, name: str, blocks: Sequence[Holding]) -> None:
        for block in blocks:
            try:
                self._ipam.hand_back(name, block.prefix, fence=block.fence, space=block.space)
            except (NotHeldError, StaleFenceError, NotFoundError):
                continue  # somebody else was faster
            except BlockNotEmptyError as error:
                _LOG.warning("node=%s handed back block=%s, but addresses of it are in the ledger of the cluster: %s", name, block.piece, error)
                continue
            _LOG.info("node=%s handed back block=%s pool=%s", name, block.piece, block.label)
            if self._reporter is not None:
                self._reporter.handed_back(name, block.piece)

    def least_grace(self, states: Mapping[str, NodeState]) -> float:
        """Seconds for which a node has to be gone by what any of them was promised, whoever promised it."""
        for state in states.values():
            if state.cilium is not None and isinstance(state.cilium.value, NodeObject) and state.cilium.value.lease:
                self._promised = max(self._promised, read_promise(state.cilium.value.lease).stop_after)
        return Terms.least_return(self._promised, REQUEST) if self._promised else 0.0


def refuse_short_grace(api: Api, grace: float) -> None:
    """Refuse to run with a grace time that is shorter than what agents were promised.

    Raises:
        InvalidRequestError: It is, and for whom.
    """
    try:
        found = api.collect(CILIUM_NODES, lambda obj: (obj["metadata"]["name"], _promised(obj)))[0]
    except NotInstalledError:
        return
    for name, stop_after in found:
        if stop_after and grace < Terms.least_return(stop_after, REQUEST):
            raise InvalidRequestError(
                f"CiliumNode {name} lets its agent rely on its blocks for {stop_after:g} s, so blocks cannot return after {grace:g} s: run the"
                f" operator with --grace {Terms.least_return(stop_after, REQUEST):g} or more; to lower both, lower --stop-after first"
            )


def _promised(obj: Mapping[str, Any]) -> float:
    return read_promise((obj["metadata"].get("annotations") or {}).get(LEASE) or "").stop_after


__all__ = ["REQUEST", "OnDemand", "refuse_short_grace"]
