"""What the operator tells of its work, so that it need not know of Events, conditions, metrics or logs.

A reporter is told after the fact, by whichever thread did the work; it returns at once (whoever writes to the cluster does so in a
thread of its own) and never raises. What is told again and has not changed must cost nothing: the operator is level-triggered, and
tells every waiting node in every round.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

from ciliumipam.requests import PoolStatus

WriteOutcome: TypeAlias = Literal["ok", "conflict", "gone", "unknown", "refused", "failed"]
"""How writing a node object ended: well; somebody changed it meanwhile; it is gone; the answer was lost; not allowed or not valid;
anything else."""


class Subject(NamedTuple):
    """The object that something is told of.

    Attributes:
        api_version: As in its manifest, "v1" or "cilium.io/v2".
        kind: Its kind.
        name: Its name.
        uid: Its uid, by which `kubectl describe` finds its Events.
        namespace: Its namespace, "" for what is cluster-scoped.
    """

    api_version: str
    kind: str
    name: str
    uid: str = ""
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}" if self.namespace else f"{self.kind} {self.name}"


def subject_of(manifest: Mapping[str, Any]) -> Subject:
    """The subject that an object as read from the API is."""
    metadata = manifest.get("metadata") or {}
    return Subject(
        str(manifest.get("apiVersion", "")),
        str(manifest.get("kind", "")),
        str(metadata.get("name", "")),
        str(metadata.get("uid", "")),
        str(metadata.get("namespace", "")),
    )


class Round(NamedTuple):
    """One round of the operator: look, decide, write.

    Attributes:
        seconds: How long it took.
        nodes: Nodes that there are.
        waiting: Nodes of them that should have blocks and do not.
        queued: Seconds from the first thing that made it necessary to its start.
        error: The class of what it raised, if it did not come to its end.
    """

    seconds: float
    nodes: int
    waiting: int
    queued: float = 0.0
    error: type[BaseException] | None = None


class Reporter:
    """Who is told. Several threads may tell it at once. A subclass has the methods that it needs; these here do nothing."""

    def node_waits(self, node: Subject, reason: str) -> None:
        """A node has not what it should have, and why. Told in every round for as long as it waits."""

    def block_given(self, node: Subject, blocks: Sequence[str]) -> None:
        """The node object now says these blocks."""

    def adopted(self, node: Subject, block: str, pool: str) -> None:
        """A block that the node object said was taken over into the ledger."""

    def conflict(self, node: Subject, block: str, reason: str) -> None:
        """A block that the node object says cannot be the node's, and why. Told in every round for as long as that stands."""

    def orphaned(self, node: Subject, blocks: Sequence[str], pool: str) -> None:
        """Blocks of a node whose pool (its name, of the first of them) is gone or no longer covers them. Told in every round while that stands."""

    def node_gone(self, node: str, blocks: Sequence[str]) -> None:
        """The node was gone for the grace time, and its blocks are free again."""

    def handed_back(self, node: str, block: str) -> None:
        """The agent of a node has handed a block back, and it is free again."""

    def node_written(self, outcome: WriteOutcome, seconds: float) -> None:
        """A write to a node object has ended."""

    def pool_broken(self, pool: Mapping[str, Any], reason: str) -> None:
        """A pool object (as read from the API, of whichever kind) that cannot be used, and why. Told in every round while it stands."""

    def pools(self, objects: Iterable[Mapping[str, Any]], statuses: Iterable[PoolStatus]) -> None:
        """How the pools stand after a round.

        Args:
            objects: The pool objects as read from the API, of all kinds, also those that are broken.
            statuses: What became of the pools, by name.
        """

    def round_done(self, done: Round) -> None:
        """A round has ended, well or not."""

    def not_followed(self, resource: str) -> None:
        """A resource (its plural) could not be listed or watched; it is tried again. What is decided meanwhile is decided over the last state."""

    def leads(self, leading: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Whether this operator is the one that acts, from now on."""


class Reporters(Reporter):
    """Tells several. The default of the operator is to tell none.

    Args:
        reporters: Who is told, in this order.
    """

    def __init__(self, *reporters: Reporter) -> None:
        self._all = reporters

    def node_waits(self, node: Subject, reason: str) -> None:
        """Tell all."""
        for each in self._all:
            each.node_waits(node, reason)

    def block_given(self, node: Subject, blocks: Sequence[str]) -> None:
        """Tell all."""
        for each in self._all:
            each.block_given(node, blocks)

    def adopted(self, node: Subject, block: str, pool: str) -> None:
        """Tell all."""
        for each in self._all:
            each.adopted(node, block, pool)

    def conflict(self, node: Subject, block: str, reason: str) -> None:
        """Tell all."""
        for each in self._all:
            each.conflict(node, block, reason)

    def orphaned(self, node: Subject, blocks: Sequence[str], pool: str) -> None:
        """Tell all."""
        for each in self._all:
            each.orphaned(node, blocks, pool)

    def node_gone(self, node: str, blocks: Sequence[str]) -> None:
        """Tell all."""
        for each in self._all:
            each.node_gone(node, blocks)

    def handed_back(self, node: str, block: str) -> None:
        """Tell all."""
        for each in self._all:
            each.handed_back(node, block)

    def node_written(self, outcome: WriteOutcome, seconds: float) -> None:
        """Tell all."""
        for each in self._all:
            each.node_written(outcome, seconds)

    def pool_broken(self, pool: Mapping[str, Any], reason: str) -> None:
        """Tell all."""
        for each in self._all:
            each.pool_broken(pool, reason)

    def pools(self, objects: Iterable[Mapping[str, Any]], statuses: Iterable[PoolStatus]) -> None:
        """Tell all."""
        read, known = tuple(objects), tuple(statuses)
        for each in self._all:
            each.pools(read, known)

    def round_done(self, done: Round) -> None:
        """Tell all."""
        for each in self._all:
            each.round_done(done)

    def not_followed(self, resource: str) -> None:
        """Tell all."""
        for each in self._all:
            each.not_followed(resource)

    def leads(self, leading: bool) -> None:  # noqa: FBT001 - the one thing that it says
        """Tell all."""
        for each in self._all:
            each.leads(leading)
