"""`Ipam`: the facade. It reads everything once, decides over what it knows, writes by compare-and-set, and reads what did not fit.

The last module of the flow and the only one with a clock and locks. Calls of several threads are combined: who comes while
another call is being written waits, and the next of them decides for all that wait in one go, so that they share pages and, on a
store with ordered puts, one commit.
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from itertools import count
from threading import Lock
from types import TracebackType
from typing import Self, TypeVar

from ciliumipam.addresses import BlockAddresses, Policy
from ciliumipam.allocator import Utilization
from ciliumipam.block_tasks import ApplyTask, RemoveNodeTask, RemovePoolTask
from ciliumipam.cidr import AddressLike, Family, parse_address, to_address
from ciliumipam.errors import ConflictError, IpamError, NotFoundError, StalePlanError
from ciliumipam.executor import DryRun, Executor, drive
from ciliumipam.explain import explain
from ciliumipam.ledger import holdings
from ciliumipam.node import Node
from ciliumipam.pool import PoolSpec
from ciliumipam.reconcile import Pools
from ciliumipam.records import Entry, Holding, Key, Revision
from ciliumipam.requests import (
    Allocate,
    Allocation,
    Applied,
    Apply,
    Block,
    Explanation,
    ForceRelease,
    NodeStatus,
    Plan,
    PoolStatus,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
)
from ciliumipam.session import restore, run
from ciliumipam.store import ABSENT, Store
from ciliumipam.tasks import AddressTask, AllocateTask, ReleaseAddressTask, ReleaseTask, Task, to_allocation
from ciliumipam.view import View

_T = TypeVar("_T", bound=Task)

_COMBINED = 256
"""Calls that are decided in one go at the most."""


class _Waiting:
    """A call in the queue."""

    __slots__ = ("done", "error", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.done = False
        self.error: BaseException | None = None


class Ipam:
    """Pools, blocks and addresses on a store. Thread-safe; any number of processes may use one store at once.

    * change: `apply`, `allocate`, `release`, `release_fenced`, `force_release`, `remove_node`, `remove_pool`
    * change in two steps: `plan` decides and writes nothing, `execute` writes exactly that or refuses
    * look: `pools`, `nodes`, `blocks`, `allocations`, `explain`; `refresh` first where others write to the store too

    Every change either is done, wholly and durably as far as the store is durable, or raises an `IpamError`. After an error of the
    store (`StoreError`) a part may have been done: the same call again, or the next call of that owner, goes on from there.

    Complexity:
        The first call reads the whole store. `allocate` and `release` then cost the same whatever is held.
    """

    def __init__(
        self,
        store: Store,
        addresses: Store | None = None,
        *,
        policy: Policy = "next",
        clock: Callable[[], float] = time.time,
        identity: str | None = None,
    ) -> None:
        """Nothing is read yet.

        Args:
            store: Where pools, nodes and blocks are kept.
            addresses: Where addresses are kept; the same store if not given.
            policy: How addresses are picked: "next" goes round inside a page of 256 addresses, "lowest" takes the lowest.
            clock: Seconds since the epoch, for the `since` of holdings. Nothing depends on its being right.
            identity: A name that no other `Ipam` on these stores has or ever had; by default one is made up. It marks claims
                that a call may still take back; given, the same calls write the same bytes.
        """
        self._executor = Executor(store, addresses, _pause)
        self._clock = clock
        self._identity = identity or f"{random.SystemRandom().getrandbits(48):012x}"
        self._calls = count(1)
        self._view = View(policy)
        self._restored = False
        self._lock = Lock()
        self._queue: deque[_Waiting] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the stores."""
        self._executor.store.close()
        self._executor.addresses.close()

    # ------------------------------------------------------------------------------------------------- changing

    def apply(self, pools: Iterable[PoolSpec] = (), nodes: Iterable[Node] = ()) -> Applied:
        """Make pools and nodes known, or change them, and give every node the blocks that it should have.

        What crashed calls began is finished. That a block was being given back by a process that crashed is seen only by an
        `Ipam` that has read everything since: `refresh` first, or use a new one.

        Raises:
            OverlapError: A pool overlaps another one. Nothing was written.
        """
        task = self._do(ApplyTask(Apply(tuple(pools), tuple(nodes)), self._clock(), self._token()))
        return Applied(tuple(task.changes), tuple(task.refusals))

    def allocate(
        self, node: str, *owners: str, address: AddressLike | None = None, family: Family | None = None, label: str = ""
    ) -> tuple[Allocation, ...]:
        """Give each owner an address of every family of the node's blocks: all of them, or none. Idempotent.

        Args:
            node: The node's name.
            owners: Ids that are never used again.
            address: A given address, for one owner.
            family: Only this family.
            label: A name for people.

        Returns:
            By owner in the order given, then by family.

        Raises:
            NotFoundError: The node is not known.
            NoBlockError: The node has no block (of that family), or only orphans.
            NodeExhaustedError: No address is left.
            OutOfRangeError, ReservedAddressError, AlreadyAllocatedError, OwnerHoldsError: The given address cannot be had.
        """
        given = to_address(*parse_address(address)) if address is not None else None
        return self._do(AllocateTask(Allocate(node, owners, given, family, label), self._clock(), self._token())).result

    def release(self, node: str, *owners: str, missing_ok: bool = False) -> tuple[Allocation, ...]:
        """Take every address from owners.

        Returns:
            What they held.

        Raises:
            NotFoundError: One of them holds nothing, and not `missing_ok`. Nothing was released.
        """
        return self._do(ReleaseTask(Release(node, owners, missing_ok), self._clock())).result

    def release_fenced(self, address: AddressLike, fence: int) -> Allocation:
        """Release one address if it is held under this very fence.

        Raises:
            StaleFenceError: It was held under that fence, or will be, but is not now.
            NotHeldError: Nobody ever held it, or it is in no block.
        """
        request = ReleaseFenced(to_address(*parse_address(address)), fence)
        return self._do(ReleaseAddressTask(request, self._clock())).result[0]

    def force_release(self, address: AddressLike) -> Allocation:
        """Release one address, whoever holds it and may still be using it. Returns what was taken from whom.

        Raises:
            NotHeldError: Nobody holds it.
        """
        return self._do(ReleaseAddressTask(ForceRelease(to_address(*parse_address(address))), self._clock())).result[0]

    def remove_node(self, name: str, *, force: bool = False) -> Applied:
        """Take all blocks back from a node and forget it.

        Raises:
            NotFoundError: It is not known and holds nothing.
            BlockNotEmptyError: Addresses are in use there, and not `force`.
        """
        task = self._do(RemoveNodeTask(RemoveNode(name, force), self._clock()))
        return Applied(tuple(task.changes), ())

    def remove_pool(self, name: str) -> Applied:
        """Forget a pool. Nothing held is freed: its blocks become orphans, which keep their addresses and take nothing new.

        Raises:
            NotFoundError: It is not known.
        """
        return Applied(tuple(self._do(RemovePoolTask(RemovePool(name), self._clock())).changes), ())

    # ------------------------------------------------------------------------------------------------- in two steps

    def plan(self, request: Request) -> Plan:
        """Decide what a request would do, and write nothing.

        Raises:
            IpamError: What executing it would raise.
        """
        task = self._task(request)
        with self._lock:
            self._restore()
            before = dict(self._view.entries)
            dry = DryRun(self._executor)
            try:
                drive(run(self._view, [task]), dry.answer)
            finally:
                written = {step.key for step in dry.steps}
                read = ("pool", "node") if isinstance(request, Apply) else ("pool",)
                reads = sorted((k, e.revision) for k, e in self._view.entries.items() if k.kind in read and k not in written)
                for key in written:
                    self._view.load(key, before.get(key))
        if task.failed is not None:
            raise task.failed
        return Plan(request, tuple(task.changes), tuple(dry.steps), tuple(reads), tuple(task.refusals), task.result)

    def execute(self, plan: Plan) -> tuple[Allocation, ...]:
        """Write exactly what a plan says. Returns its result.

        Raises:
            StalePlanError: Something that it replaces, or a pool that it was decided over, has changed; nothing was written, or, if it changed during the writing, a
                first part of it, which is a legal state.
        """
        with self._lock:
            self._restore()
            first: dict[Key, object] = {**dict(plan.reads), **{step.key: step.expect for step in reversed(plan.steps)}}
            changed = [key for key, expect in sorted(first.items()) if self._revision(key) != expect]
            if changed:
                raise StalePlanError(tuple(map(str, changed)), 0)
            real: dict[str, Revision] = {}
            for count, step in enumerate(plan.steps):
                expect = real.get(step.expect, step.expect) if step.expect is not ABSENT else ABSENT
                try:
                    (revision,) = self._executor.write([step._replace(expect=expect)])
                except ConflictError as error:
                    raise StalePlanError((error.key,), count) from error
                finally:
                    self._view.load(step.key, self._executor.store_of(step.key.kind).get(step.key))
                if revision is not None:
                    real[f"planned-{count}"] = revision
        return plan.result

    def _revision(self, key: Key) -> object:
        entry: Entry | None = self._executor.store_of(key.kind).get(key)
        return entry.revision if entry is not None else ABSENT

    # ------------------------------------------------------------------------------------------------- running

    def _task(self, request: Request) -> Task:
        now = self._clock()
        match request:
            case Apply():
                return ApplyTask(request, now, self._token())
            case Allocate():
                return AllocateTask(request, now, self._token())
            case Release():
                return ReleaseTask(request, now)
            case ReleaseFenced() | ForceRelease():
                return ReleaseAddressTask(request, now)
            case RemoveNode():
                return RemoveNodeTask(request, now)
            case RemovePool():
                return RemovePoolTask(request, now)

    def _token(self) -> str:
        """The name of a call. Drawn outside the lock: `count` may be asked by several threads at once, a generator may not."""
        return f"{self._identity}-{next(self._calls)}"

    def _do(self, task: _T) -> _T:
        waiting = _Waiting(task)
        self._queue.append(waiting)
        with self._lock:
            while not waiting.done:
                self._run(self._batch())
        if waiting.error is not None:
            raise copy(waiting.error) if isinstance(waiting.error, IpamError) else waiting.error
        if task.failed is not None:
            raise task.failed
        return task

    def _batch(self) -> Sequence[_Waiting]:
        """The longest first part of the queue that can be decided together: calls about addresses, or one about blocks."""
        batch = [self._queue.popleft()]
        if isinstance(batch[0].task, AddressTask):
            while self._queue and len(batch) < _COMBINED and isinstance(self._queue[0].task, AddressTask):
                batch.append(self._queue.popleft())
        return batch

    def _run(self, batch: Sequence[_Waiting]) -> None:
        try:
            self._restore()
            drive(run(self._view, [waiting.task for waiting in batch]), self._executor.answer)
        except BaseException as error:  # noqa: BLE001 - every waiting call has to hear of it
            for waiting in batch:
                waiting.error = error
        for waiting in batch:
            waiting.done = True

    def _restore(self) -> None:
        if not self._restored:
            drive(restore(self._view), self._executor.answer)
            self._restored = True

    # ------------------------------------------------------------------------------------------------- looking

    def refresh(self) -> None:
        """Read everything again. Needed before looking where others write to the store; changes find out by themselves."""
        with self._lock:
            self._restored = False
            self._restore()

    def pools(self) -> tuple[PoolStatus, ...]:
        """All pools by name, with what became of them."""
        with self._lock:
            self._restore()
            view = self._view
            blocks = view.blocks()
            conflicting = Pools(view.pools.values()).conflicting
            return tuple(
                PoolStatus(
                    record.spec,
                    {family: record.spec.blocks(family) for family in record.spec.families},
                    {
                        family: sum(block.label == name and block.family == family for block in blocks)
                        for family in record.spec.families
                    },
                    conflicting.get(name),
                )
                for name, record in sorted(view.pools.items())
            )

    def nodes(self) -> tuple[NodeStatus, ...]:
        """All nodes by name, with their blocks and counts."""
        with self._lock:
            self._restore()
            view = self._view
            found = []
            for name, record in sorted(view.nodes.items()):
                blocks = tuple(self._block(block.holding) for block in view.node_blocks(name))
                counts = {
                    family: Utilization(*map(sum, zip(*(b.utilization for b in blocks if b.family == family), strict=True)))
                    for family in sorted({block.family for block in blocks})
                }
                found.append(NodeStatus(record.node, blocks, counts))
            return tuple(found)

    def blocks(self) -> tuple[Block, ...]:
        """All blocks that nodes hold, in address order."""
        with self._lock:
            self._restore()
            return tuple(self._block(block) for block in self._view.blocks())

    def _block(self, held: Holding) -> Block:
        index: BlockAddresses = self._view.addresses(held)
        return Block(
            held.holder,
            held.label,
            held.prefix.to_network(),
            held.family,
            held.fence,
            held.since,
            self._view.is_orphan(held),
            Utilization(index.capacity, index.available, index.in_use, index.cooling, index.reserved),
        )

    def allocations(self, node: str | None = None) -> tuple[Allocation, ...]:
        """All addresses held, or those on one node, in address order.

        Raises:
            NotFoundError: The node is not known and holds nothing.
        """
        with self._lock:
            self._restore()
            view = self._view
            blocks = [block for block in view.blocks() if node in (None, block.holder)]
            if node is not None and node not in view.nodes and not blocks:
                raise NotFoundError("node", node, tuple(sorted(view.nodes)[:8]))
            found = []
            for held in blocks:
                block = view.node_block(held)
                found += [to_allocation(held.holder, block, piece) for piece in holdings(view, block.ledger, held.fence)]
            return tuple(found)

    def explain(self, node: str) -> Explanation:
        """Why a node has the blocks that it has, or none, pool by pool.

        Raises:
            NotFoundError: The node is not known and holds nothing.
        """
        with self._lock:
            self._restore()
            return explain(self._view, node)

    def check_invariants(self) -> None:
        """Assert that what this object knows equals what follows from the records. O(everything). See also `audit`."""
        with self._lock:
            self._restore()
            self._view.check_invariants()


def _pause(attempt: int) -> None:
    """Wait a random time, up to 2 ms for the second failed attempt and up to 200 ms for the later ones."""
    time.sleep(random.uniform(0, min(0.2, 0.0005 * 2**min(attempt, 12))))  # noqa: S311 - jitter, no secret
