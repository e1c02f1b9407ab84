"""Who may take a block from a node: nobody, as long as an object of the node may say that the block is the node's.

Agents hand out addresses of what their node object lists, and ask nobody. So a block ends only when no object lists it and no write
that would list it can still take effect, also not one that somebody decided long ago and sends when it wakes up. In this order:

1. *The mark.* A record of the kind "node" in the ledger says that the node is leaving. In a cluster nodes are no records, so there is no
   other of this kind.
2. *The look.* Each object of the node is read. One that lists the block ends all this, and takes the mark back. One that does not is
   written to (an annotation with a new value), at the version just read: every write decided over an older version fails after that.
   Where there is no object there is nothing that a write could hit: all writes name a version, and one that is created later has others.
3. *The end.* Now this very holding, by its fence, may be ended, and nothing else.

Whoever publishes a block looks from the other side: at the object first, and then whether there is a mark. Either it took the block for
the node after it had seen the object; then who would end it sees the object too. Or it reads the ledger once more, after the object:
then it sees the mark, or its write comes before the look or fails. A node with a mark is given nothing, and nothing is published for it,
until somebody has carried the end through, or found that an object lists the block, and removed the mark.

A mark outlives a crash, and everybody who finds it goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from secrets import token_hex
from typing import Final

from ciliumipam.errors import ConflictError, NotInstalledError, RetriesExhaustedError
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.publish import NodeObject, lists, read_cilium_node, read_node
from ciliumipam.node import Node
from ciliumipam.records import Entry, Holding, Key, NodeRecord, Revision
from ciliumipam.store import ABSENT, Store

NODES: Final = Resource("", "v1", "nodes", "Node")
CILIUM_NODES: Final = Resource("cilium.io", "v2", "ciliumnodes", "CiliumNode")

READERS: Final = ((NODES, read_node), (CILIUM_NODES, read_cilium_node))
"""The objects of a node, and how they are read."""

TOUCHED: Final = "ciliumipam.io/touched"
"""The annotation that is changed so that writes which were decided before fail."""
_ATTEMPTS = 20


class Guard:
    """Lets holdings end by the rules of this module. Thread-safe.

    Args:
        api: Where the nodes are.
        store: Where the ledger is.
        clock: Seconds since the epoch.
        learn: Told of each mark that was made, and of each that was removed, with None.
        is_installed: Whether a resource was seen to be there; if the server then says that it is not, that is not believed.
    """

    def __init__(
        self,
        api: Api,
        store: Store,
        clock: Callable[[], float],
        learn: Callable[[str, Entry | None], object],
        is_installed: Callable[[Resource], bool],
    ) -> None:
        """Nothing may end."""
        self._is_installed = is_installed
        self._api, self._store, self._clock, self._learn = api, store, clock, learn
        self._released: set[Holding] = set()
        self._marked: set[str] = set()

    def is_released(self, block: Holding) -> bool:
        """Whether this very holding may be ended."""
        return block in self._released

    def release(self, node: str, blocks: Iterable[Holding]) -> str:
        """Let holdings of a node end, if they can.

        Returns:
            Why they cannot, for people; "" if they can.

        Raises:
            StoreError: The server failed. Nothing is released; a mark may stay, and everything goes on from it.
        """
        ending = tuple(blocks)
        self._mark(node)
        for resource, read in READERS:
            reason = self._look(resource, read, node, ending)
            if reason:
                self.unmark(node)
                return reason
        self._released.update(ending)
        return ""

    def forget(self, blocks: Iterable[Holding]) -> None:
        """These have ended."""
        self._released.difference_update(blocks)

    def _mark(self, node: str) -> None:
        record = NodeRecord(Node(node), self._clock(), draining=True)
        try:
            revision = self._store.put(mark_key(node), record, expect=ABSENT)
        except ConflictError:  # somebody else's is as good
            return
        self._marked.add(node)
        self._learn(node, Entry(record, revision))

    def tidy(self) -> None:
        """Remove the marks that were made here, of nodes of which everything that may end has ended: for who does not come back."""
        for node in sorted(self._marked - {block.holder for block in self._released}):
            self.unmark(node)

    def unmark(self, node: str) -> None:
        """Remove the mark of a node that holds nothing any more, or keeps what it holds."""
        self._marked.discard(node)
        # whatever was let end and has not: it must be looked at anew, and those that somebody else has ended are not remembered for ever
        self._released -= {block for block in self._released.copy() if block.holder == node}
        known = self._store.get(mark_key(node))
        if known is not None:
            self._delete(node, known.revision)
        self._learn(node, None)

    def _delete(self, node: str, revision: Revision) -> None:
        try:
            self._store.delete(mark_key(node), expect=revision)
        except ConflictError:  # somebody else was faster
            return

    def _look(
        self, resource: Resource, read: Callable[[dict[str, object]], NodeObject], node: str, ending: tuple[Holding, ...]
    ) -> str:
        for _ in range(_ATTEMPTS):
            try:
                obj = self._api.get(resource, node)
            except NotInstalledError:
                if self._is_installed(resource):
                    raise
                return ""
            if obj is None:
                return ""
            found = read(obj)
            listed = [block.piece for block in ending if lists(found, block)]
            if listed:
                return (
                    f"the {found.kind} {node} lists {', '.join(listed)}, so its agent may hand out addresses of it; drain the node and"
                    f" delete its objects (kubectl drain {node}; kubectl delete node {node}), and its blocks go back after the grace time"
                )
            touch = {"metadata": {"resourceVersion": obj["metadata"]["resourceVersion"], "annotations": {TOUCHED: token_hex(8)}}}
            try:
                self._api.patch(resource, node, touch)
            except ConflictError:  # written to, or deleted, since it was read
                continue
            return ""
        raise RetriesExhaustedError(_ATTEMPTS, f"{resource} {node}")


def mark_key(node: str) -> Key:
    """Where it is marked that a node is leaving."""
    return Key("node", node)


__all__ = ["CILIUM_NODES", "NODES", "READERS", "TOUCHED", "Guard", "mark_key"]
