"""`OneShot`: what a process that lives for one call needs, such as a CNI plugin. It reads only what the call depends on.

The same tasks, the same protocol and the same session as in `Ipam`; nothing is decided twice. What differs is the view: `Ipam` reads a
whole store once and keeps it up to date, here every call begins with a view in which everything is unknown (`partial_view`), and
what the call asks for is read when it asks. An allocation reads the claims of its owner and of the node, the node, the pages that lead
to the node's blocks, their pools, and pages of addresses one by one until one has room. Only before it refuses does it read
everything of the node: an error is believed when nothing is unknown any more, as it is with `Ipam`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import count
from typing import TypeVar

from ciliumipam.boot import this_moment
from ciliumipam.cidr import Address, AddressLike, Family, parse_address, to_address
from ciliumipam.errors import InvalidRequestError, StoreUnavailableError
from ciliumipam.executor import Executor, drive
from ciliumipam.lease import Moment
from ciliumipam.lease import require as require_lease
from ciliumipam.ledger import Status, holdings, status
from ciliumipam.levels import AddressLevel
from ciliumipam.partial_view import PartialView, Unread
from ciliumipam.release_tasks import ReleaseTask
from ciliumipam.requests import Allocate, Allocation, Release
from ciliumipam.session import Get, run
from ciliumipam.side import Utilization
from ciliumipam.store import Store
from ciliumipam.tasks import AllocateTask, Task, to_allocation
from ciliumipam.view import View, address_claims_key, address_claims_keys

_T = TypeVar("_T")
_FIRST_WAIT, _LONGEST_WAIT = 0.001, 0.05


class OneShot:
    """Addresses of one node, for a process that lives for one call. Any number of such processes and of `Ipam`s may use one store.

    Every call is on its own: it reads what it depends on, decides, writes by compare-and-set, and remembers nothing. It either is
    done, wholly and durably as far as the store is durable, or raises an `IpamError`. After an error of the store (`StoreError`) a
    part may have been done: the same call again, or the next call of that owner, goes on from there.

    Complexity:
        `allocate` and `release` read a number of records that depends on the depth of the ledgers, and one page for each full page
        of addresses before the first one with room.
    """

    def __init__(
        self,
        store: Store,
        node: str,
        *,
        clock: Callable[[], float] = time.time,
        deadline: float | None = None,
        identity: str | None = None,
        pause: Callable[[float], object] = time.sleep,
        moment: Callable[[], Moment] = this_moment,
    ) -> None:
        """Nothing is read yet.

        Args:
            store: Where pools, nodes, blocks and addresses are kept.
            node: The node's name.
            clock: Seconds since the epoch, for the `since` of holdings and for reuse delays. Safety does not depend on its being right.
            deadline: When to give up, by `time.monotonic`. Nothing is begun anew after it; how long the store itself waits is the
                store's to say (`SqliteStore(deadline=...)`).
            identity: A name that no other caller on this store has or ever had; by default one is made up.
            pause: Waits some seconds where other writers won; a simulation need not.
            moment: The time in which leases count, where the node has one.
        """
        self._executor = Executor(store, None, self._wait)
        self.node = node
        self._clock, self._deadline, self._pause, self._moment = clock, deadline, pause, moment
        self._identity = identity or os.urandom(6).hex()
        self._calls = count(1)

    def allocate(self, owner: str, *, addresses: Sequence[AddressLike] = (), label: str = "") -> tuple[Allocation, ...]:
        """Give an owner an address of every family of the node's blocks, or the given ones: all of them, or none. Idempotent.

        Args:
            owner: An id that is never used again.
            addresses: Given addresses, at most one of a family; then only these families.
            label: A name for people.

        Raises:
            NotFoundError: The node is not known.
            NoBlockError: The node has no block (of that family), or only orphans.
            NodeExhaustedError: No address is left.
            OutOfRangeError, ReservedAddressError, AlreadyAllocatedError, OwnerHoldsError: A given address cannot be had.
            LeaseExpiredError: The node has a lease, and it does not hold: see `Ipam.allocate`.
        """
        given = [to_address(*parse_address(each)) for each in addresses]
        twice = _doubled(given)
        if twice is not None:
            raise InvalidRequestError(f"an owner has one IPv{twice} address on a node, but {len(given)} are given: {', '.join(map(str, given))}")
        request, view = Allocate(self.node, (owner,), label=label), PartialView()
        task = AllocateTask(request, self._clock(), self._token(), given, clock=self._moment)
        self._do(view, [task])
        require_lease(view.lease(self.node), self._moment())
        return task.result

    def release(self, owner: str) -> tuple[Allocation, ...]:
        """Take every address from an owner. Returns what it held: nothing where it holds nothing, whatever the reason."""
        request = Release(self.node, (owner,), missing_ok=True)
        view = PartialView()
        if owner not in self._asked(view, lambda: view.claims(address_claims_key(self.node, owner)).claims):
            return ()
        return self._release(view, [request])

    def release_others(self, keep: Collection[str], prefix: str) -> tuple[Allocation, ...]:
        """Take every address from owners whose id begins with a prefix, but for those to keep. Returns what they held, by owner.

        Complexity:
            Reads all claims of the node, and the pages of what is released.
        """
        kept = frozenset(keep)
        view = PartialView()
        owners = [
            owner
            for key in address_claims_keys(self.node)
            for owner in self._asked(view, lambda key=key: view.claims(key).claims)  # type: ignore[misc]  # bound at once
            if owner.startswith(prefix) and owner not in kept
        ]
        for owner in owners:  # the pages are read one by one here, where that does not make all others decide anew
            self._asked(view, lambda owner=owner: list(_held(view, self.node, owner)))  # type: ignore[misc]  # bound at once
        return self._release(view, [Release(self.node, (owner,), missing_ok=True) for owner in sorted(owners)])

    def held(self, owner: str) -> tuple[Allocation, ...]:
        """What an owner holds, by family; nothing of what a crashed call only began to take."""
        view = PartialView()
        return self._asked(view, lambda: tuple(sorted(_held(view, self.node, owner), key=lambda each: each.family)))

    def usage(self) -> dict[Family, Utilization]:
        """How many addresses the node has of each family, and what became of them. Reads every page of the node's addresses."""
        view = PartialView()
        return self._asked(view, lambda: _usage(view, self.node, self._clock()))

    # ------------------------------------------------------------------------------------------------- running

    def _release(self, view: PartialView, requests: Sequence[Release]) -> tuple[Allocation, ...]:
        now = self._clock()
        tasks = [ReleaseTask(request, now) for request in requests]  # each by itself: those in other claim pages need not wait
        self._do(view, tasks)
        return tuple(each for task in tasks for each in task.result)

    def _do(self, view: PartialView, tasks: Sequence[Task]) -> None:
        drive(run(view, tasks), self._executor.answer)
        for task in tasks:
            if task.failed is not None:
                raise task.failed

    def _asked(self, view: PartialView, question: Callable[[], _T]) -> _T:
        """The answer to a question, once everything that it depends on was read."""
        while True:
            try:
                return question()
            except Unread as unread:
                view.load(unread.key, self._executor.answer(Get(unread.key)))  # type: ignore[arg-type]  # the answer to a Get

    def _token(self) -> str:
        return f"{self._identity}-{next(self._calls)}"

    def _wait(self, attempt: int) -> None:
        """Wait a random time, the longer the more attempts went wrong.

        Raises:
            StoreUnavailableError: It is too late to begin anew.
        """
        left = float("inf") if self._deadline is None else self._deadline - time.monotonic()
        if left <= 0:
            reason = f"other writers won in {attempt} attempts, and the time is up; what was written is legal"
            raise StoreUnavailableError("write", reason)
        longest = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**attempt)
        self._pause(min(left, longest * int.from_bytes(os.urandom(2)) / 65536))


def _doubled(addresses: Sequence[Address]) -> int | None:
    """A family of which more than one address is given."""
    versions = [each.version for each in addresses]
    return next((version for version in versions if versions.count(version) > 1), None)


def _held(view: View, node: str, owner: str) -> Iterator[Allocation]:
    level = AddressLevel(view, node, {})
    for piece in view.claims(address_claims_key(node, owner)).claims.get(owner, ()):
        block = level.block_of(piece.family, piece.network)
        place = level.ledger_of(piece)
        if block is not None and place is not None and status(view, *place, piece) is Status.HELD:
            yield to_allocation(node, block, piece)


def _usage(view: View, node: str, now: float) -> dict[Family, Utilization]:
    view.advance(now)
    found: dict[Family, Utilization] = {}
    for block in view.node_blocks(node):
        for _ in holdings(view, block.ledger, block.holding.fence):
            pass  # asks for every page
    for block in view.node_blocks(node):
        index = view.addresses(block.holding)
        counts = (index.capacity, index.available, index.in_use, index.cooling, index.reserved)
        known = found.get(block.family, (0, 0, 0, 0, 0))
        found[block.family] = Utilization(*map(sum, zip(known, counts, strict=True)))
    return dict(sorted(found.items()))


__all__ = ["OneShot"]
