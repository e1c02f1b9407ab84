"""Where a node's blocks come from, as its agent sees it: four questions, whatever answers them.

The source decides about blocks; the agent decides about addresses, in a store of the node. A source is a ledger (`LedgerSource`), or
an object of a cluster.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

from ciliumipam.cidr import Prefix
from ciliumipam.node import Node
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec
from ciliumipam.records import Leased

if TYPE_CHECKING:
    from ciliumipam.demand import Demand


class Granted(NamedTuple):
    """A block that a node holds.

    Attributes:
        prefix: The block.
        fence: Number of this holding among all of the block; it grows, and tells one holding of a node from the next.
        pool: The pool that it was carved from; "" is none.
        serves: Whether it takes anything new: it is no orphan, and neither it nor the node drains.
        space: Its address space.
    """

    prefix: Prefix
    fence: int
    pool: str
    serves: bool = True
    space: str = DEFAULT_SPACE

    @property
    def leased(self) -> Leased:
        """As a lease names it."""
        return Leased(self.prefix, self.fence, self.space)


class Grant(NamedTuple):
    """What a source says is a node's, as of a moment after it was asked.

    Attributes:
        node: The node, with its labels.
        blocks: What it holds, in the order in which it got it; without what is on its way back by what the source knows.
        stop_after: Seconds, from the moment of the question, for which the node may rely on this. The source says it, since it
            gives the blocks of a silent node to others after a longer time.
        pools: The pools of these blocks, as far as the source tells: what is reserved in them, how long addresses cool. A pool that
            is not named has nothing reserved but the first and last address of a block.
        waiting: Why the node does not have what it asks for, as sentences.
    """

    node: Node
    blocks: tuple[Granted, ...]
    stop_after: float
    pools: tuple[PoolSpec, ...] = ()
    waiting: tuple[str, ...] = ()


class BlockSource(Protocol):
    """Where blocks are decided. An agent asks it from one thread.

    Every call may raise an `IpamError`. After a `StoreError` nothing is known of what was done; the agent asks again.
    """

    def confirm(self) -> Grant:
        """Say what the node holds. It was true at some moment after this was called.

        Raises:
            NotFoundError: The source does not know the node, or takes its blocks away.
        """
        ...

    def request(self, demand: tuple[Demand, ...]) -> bool:
        """Say how many addresses the node wants to be able to hand out, in place of what was said before.

        Returns:
            Whether the node may have got something by that at once.
        """
        ...

    def hand_back(self, block: Leased) -> None:
        """Give a block back that the node holds under this fence. Nothing is done where it does not, or not any more.

        The node has closed its own ledger of the block for ever under this fence before; it may say so again after a crash.

        Raises:
            BlockNeededError: The source wants the node to keep it.
        """
        ...
