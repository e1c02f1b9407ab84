"""`Ipam`: the facade. It reads everything once, decides over what it knows, writes by compare-and-set, and reads what did not fit.

The last module of the flow, and the only one with a clock and a lock. `combining` lets the calls of several threads share what is written.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from threading import Lock
from types import TracebackType
from typing import Literal, Self

from ciliumipam.adopt import listing_of
from ciliumipam.asking import task_for
from ciliumipam.block_tasks import BlockTask
from ciliumipam.boot import this_moment
from ciliumipam.cidr import AddressLike, Family, PrefixLike, parse_address, parse_prefix, to_address
from ciliumipam.combining import Combiner
from ciliumipam.demand import Demand
from ciliumipam.errors import NotFoundError
from ciliumipam.executor import CollectorPause, Executor, drive
from ciliumipam.explain import explain
from ciliumipam.lease import Moment, require
from ciliumipam.meter import Meter, observed
from ciliumipam.node import Node
from ciliumipam.node_status import all_blocks, allocations, blocks_by_node, node_statuses
from ciliumipam.observer import UNOBSERVED, Observer
from ciliumipam.plan_steps import execute_plan, make_plan
from ciliumipam.pool import DEFAULT_SPACE, PoolSpec
from ciliumipam.pool_status import routes, statuses
from ciliumipam.records import Holding, PoolRecord
from ciliumipam.repair_tasks import Repair, RepairAddresses, RepairBlocks
from ciliumipam.requests import (
    Allocate,
    Allocation,
    Applied,
    Apply,
    Block,
    Drain,
    ExistingBlock,
    Explanation,
    ForceRelease,
    Grow,
    HandBack,
    Migrate,
    NodeStatus,
    Plan,
    PoolStatus,
    Rebalance,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
    RequestAddresses,
    Shrink,
)
from ciliumipam.routes import GroupRoutes
from ciliumipam.session import restore, run
from ciliumipam.store import Store
from ciliumipam.tasks import Task
from ciliumipam.view import View


class Ipam:
    """Pools, blocks and addresses on a store. Thread-safe; any number of processes may use one store at once.

    * change: `apply`, `request`, `hand_back`, `grow`, `drain`, `migrate`, `shrink`, `rebalance`, `remove_node`,
      `remove_nodes`, `remove_pool`; `allocate`, `release`, `release_fenced`, `force_release`; `repair` what a crash left
    * change in two steps: `plan` decides and writes nothing, `execute` writes exactly that or refuses
    * look: `pools`, `nodes`, `blocks`, `held`, `due`, `allocations`, `routes`, `explain`; `refresh` first where others write too

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
        clock: Callable[[], float] = time.time,
        identity: str | None = None,
        observer: Observer = UNOBSERVED,
        timer: Callable[[], float] = time.perf_counter,
        pause: Callable[[int], None] | None = None,
        moment: Callable[[], Moment] = this_moment,
    ) -> None:
        """Nothing is read yet.

        Args:
            store: Where pools, nodes and blocks are kept.
            addresses: Where addresses are kept; the same store if not given.
            clock: Seconds since the epoch, for the `since` of holdings and for reuse delays. Safety does not depend on its being right.
            identity: A name that no other `Ipam` on these stores has or ever had; by default one is made up. It marks claims
                that a call may still take back; given, the same calls write the same bytes.
            observer: Who is told how often things are done, how long they take and how they end.
            timer: Seconds from any start, for these durations. Not asked without an observer.
            pause: Called with the number of attempts that went wrong before a call tries again; by default it sleeps, the longer
                the more, and by chance. A simulation need not wait.
            moment: The time in which leases count, where a node has one.
        """
        self._listed = listing_of(store)
        self._meter = Meter(observer, timer) if observer is not UNOBSERVED else None
        if self._meter is not None:
            store, addresses = self._meter.stores(store, addresses)
        self._executor = Executor(store, addresses, pause or _pause)
        self._clock, self._moment = clock, moment
        self._identity = identity or f"{random.SystemRandom().getrandbits(48):012x}"
        self._calls = count(1)
        self._view = View()
        self._restored = False
        self._lock = self._meter or Lock()
        self._combiner = Combiner(self._lock, self._decide)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the stores."""
        self._executor.store.close()
        self._executor.addresses.close()

    # ------------------------------------------------------------------------------------------------- changing

    @observed("apply")
    def apply(
        self, pools: Iterable[PoolSpec] = (), nodes: Iterable[Node] = (), existing: Iterable[ExistingBlock] = ()
    ) -> Applied:
        """Make pools and nodes known, or change them, adopt what nodes have, and give every node the blocks that it should have.

        What crashed calls began is finished. That a block was being given back by a process that crashed is seen only by an
        `Ipam` that has read everything since: `refresh` first, or use a new one.

        Raises:
            OverlapError: A pool overlaps another one. Nothing was written.
        """
        return self._ask(Apply(tuple(pools), tuple(nodes), tuple(existing))).outcome

    @observed("grow")
    def grow(self, node: str, blocks: int) -> Applied:
        """See that a node has at least so many blocks of each family. A further block joins those that it has, where it can.

        Raises:
            NotFoundError: The node is not known.
            NoBlockError: It is draining, or holds orphans only: no pool serves it.
        """
        return self._ask(Grow(node, blocks)).outcome

    @observed("drain")
    def drain(self, kind: Literal["pool", "node", "block"], name: str, *, cancel: bool = False, space: str = DEFAULT_SPACE) -> Applied:
        """Let a pool, a node or a block take nothing new, give nodes a replacement, and take back what is empty.

        A block that drains still serves a node that could not be given another one. A node that drains gets no replacement.
        Asked again, it goes on: `blockers` says what is still held, by whom and since when.

        Raises:
            NotFoundError, NotHeldError: There is no such pool, node or block.
        """
        return self._ask(Drain(kind, name, cancel, space)).outcome

    @observed("migrate")
    def migrate(self, node: str, pool: str) -> Applied:
        """Give a node blocks out of another pool and let those that it has drain. Asked again, it goes on, as `drain` does.

        Raises:
            NotFoundError: There is no such node or pool.
            PoolRefusedError: The pool does not select the node, or serves nobody.
            PoolExhaustedError: It has no block for it. Nothing was changed.
        """
        return self._ask(Migrate(node, pool)).outcome

    @observed("request")
    def request(self, node: str, demand: Iterable[Demand]) -> Applied:
        """Say how many addresses a node asks for, in place of what it asked for before, and give every node the blocks that it should have.

        A node gets further blocks until it has as many addresses as it asks for, its pool's limit is reached or nothing is free. Where
        there is too little, nodes with few blocks come first (see `waiting`); who gets nothing more is told in `refusals`, and is
        served by the next call that gives out blocks once there is space. Asking for less takes nothing away: see `hand_back`.

        Raises:
            NotFoundError: The node is not known.
        """
        return self._ask(RequestAddresses(node, tuple(demand))).outcome

    @observed("hand_back")
    def hand_back(self, node: str, block: PrefixLike, *, fence: int | None = None, space: str = DEFAULT_SPACE) -> Applied:
        """Take an empty block that a node does not need back from it. Its pool's reuse delay goes by before another node gets it.

        Args:
            node: The node's name.
            block: The block.
            fence: Under which fence the node holds it; given, a late call cannot hit a later holding of the same block.
            space: Its address space.

        Raises:
            NotHeldError: The node does not hold it.
            StaleFenceError: It holds it under another fence.
            BlockNotEmptyError: Addresses of it are in use.
            BlockNeededError: Without it the node would have less than its pool gives it at once, or less than it asks for.
        """
        return self._ask(HandBack(node, parse_prefix(block), fence, space)).outcome

    @observed("shrink")
    def shrink(self, pool: str, *cidrs: PrefixLike) -> Applied:
        """Let a pool give up CIDRs, or parts of them. What lies there moves to the rest; once it is empty, the pool no longer has it.

        Until then nothing new is carved there. Asked again, it goes on: `blockers` says what is still held, by whom and since when.

        Raises:
            NotFoundError: There is no such pool.
            OutOfRangeError: It has no such CIDR, or no longer.
            InvalidRequestError, InvalidPoolError: What would be left is no pool. Nothing was changed.
        """
        return self._ask(Shrink(pool, tuple(map(parse_prefix, cidrs)))).outcome

    @observed("rebalance")
    def rebalance(self, pool: str, length: int, *, family: Family | None = None) -> Applied:
        """Get a free prefix of a length in a pool by moving as few blocks as possible; `concerns` says which and why this one.

        Asked again, it goes on. The prefix stays in the pool: what others carve there meanwhile is moved as well.

        Raises:
            NotFoundError: There is no such pool.
            PoolExhaustedError: What would have to move fits nowhere else. Nothing was changed.
        """
        return self._ask(Rebalance(pool, length, family)).outcome

    @observed("allocate")
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
            LeaseExpiredError: The node has a lease, and it does not hold. Should it have ended during this very call, the owner may
                hold an address of which nobody was told; its release, or its next call, finds it.
        """
        given = to_address(*parse_address(address)) if address is not None else None
        found = self._ask(Allocate(node, owners, given, family, label)).result
        require(self._view.lease(node), self._moment())
        return found

    @observed("release")
    def release(self, node: str, *owners: str, missing_ok: bool = False) -> tuple[Allocation, ...]:
        """Take every address from owners.

        Returns:
            What they held.

        Raises:
            NotFoundError: One of them holds nothing, and not `missing_ok`. Nothing was released.
        """
        return self._ask(Release(node, owners, missing_ok)).result

    @observed("release_fenced")
    def release_fenced(self, address: AddressLike, fence: int, space: str = DEFAULT_SPACE) -> Allocation:
        """Release one address if it is held under this very fence.

        Raises:
            StaleFenceError: It was held under that fence, or will be, but is not now.
            NotHeldError: Nobody ever held it, or it is in no block.
        """
        request = ReleaseFenced(to_address(*parse_address(address)), fence, space)
        return self._ask(request).result[0]

    @observed("force_release")
    def force_release(self, address: AddressLike, space: str = DEFAULT_SPACE) -> Allocation:
        """Release one address, whoever holds it and may still be using it. Returns what was taken from whom.

        Raises:
            NotHeldError: Nobody holds it.
        """
        return self._ask(ForceRelease(to_address(*parse_address(address)), space)).result[0]

    @observed("remove_node")
    def remove_node(self, name: str, *, force: bool = False) -> Applied:
        """Take all blocks back from a node and forget it.

        Raises:
            NotFoundError: It is not known and holds nothing.
            BlockNotEmptyError: Addresses are in use there, and not `force`.
        """
        return self._ask(RemoveNode(name, force)).outcome

    @observed("remove_nodes")
    def remove_nodes(self, names: Iterable[str], *, force: bool = False) -> Applied:
        """The same for many nodes at once, in as few writes. What is not known and holds nothing is left out.

        Raises:
            BlockNotEmptyError: Addresses are in use on one of them, and not `force`. The others are removed.
        """
        tasks = [self._task(RemoveNode(name, force)) for name in sorted(set(names))]
        if tasks:
            with self._lock:
                self._decide(tasks)
        failed = [task.failed for task in tasks if task.failed is not None and not isinstance(task.failed, NotFoundError)]
        if failed:
            raise failed[0]
        return Applied(tuple(change for task in tasks for change in task.changes))

    @observed("remove_pool")
    def remove_pool(self, name: str) -> Applied:
        """Forget a pool. Nothing held is freed: its blocks become orphans, which keep their addresses and take nothing new.

        Raises:
            NotFoundError: It is not known.
        """
        return self._ask(RemovePool(name)).outcome

    @observed("repair")
    def repair(self) -> Applied:
        """Finish or undo what crashed calls left, and name again in claims what is held and lost them. Frees nothing that is held.

        Nodes get the blocks that they should have, as by an empty `apply`. Safe beside other writers: a call that is under way tries again. `audit` says what there is to repair, and what nothing
        but a backup does. O(everything).
        """
        with self._lock:
            self._restored = False
            self._restore()
            view = self._view
            nodes = {key.name.partition("/")[0] for key in view.entries if key.kind == "address-claims"}
            # a node may have lost all its claims
            nodes |= {block.holder for block in view.blocks() if any(view.page(key) is not None for key in view.address_pages(block))}
        done = [self._ask(request).outcome for request in (RepairBlocks(), Apply())]
        done += [self._ask(RepairAddresses(node)).outcome for node in sorted(nodes)]
        changes = tuple(change for each in done for change in each.changes)
        return done[1]._replace(changes=changes)

    # ------------------------------------------------------------------------------------------------- in two steps

    @observed("plan")
    def plan(self, request: Request) -> Plan:
        """Decide what a request would do, and write nothing.

        Raises:
            IpamError: What executing it would raise.
        """
        task = self._task(request)
        with self._lock:
            return self._plan(task)

    def _plan(self, task: Task) -> Plan:
        self._restore()
        return make_plan(self._executor, self._view, task)

    @observed("execute")
    def execute(self, plan: Plan) -> tuple[Allocation, ...]:
        """Write exactly what a plan says. Returns its result.

        Raises:
            StalePlanError: Something that it replaces, or that it was decided over, has changed; nothing was written, or, if it
                changed during the writing, a first part of it, which is a legal state.
            LeaseExpiredError: It allocates on a node whose lease does not hold.
        """
        listed = self._listed([step.record.spec for step in plan.steps if isinstance(step.record, PoolRecord)])
        with self._lock:
            return self._execute(plan, self._clock(), listed)

    def _execute(self, plan: Plan, now: float, listed: Sequence[ExistingBlock]) -> tuple[Allocation, ...]:
        self._restore()
        return execute_plan(self._executor, self._view, plan, now, listed, self._moment)

    # ------------------------------------------------------------------------------------------------- running

    def _task(self, request: Request | Repair) -> Task:
        return task_for(request, self._clock(), self._token, self._listed, self._moment)

    def _token(self) -> str:
        """The name of a call. Drawn outside the lock: `count` may be asked by several threads at once, a generator may not."""
        return f"{self._identity}-{next(self._calls)}"

    def _ask(self, request: Request | Repair) -> Task:
        task = self._task(request)
        self._combiner.do(task)
        return task

    def _decide(self, tasks: Sequence[Task]) -> None:
        try:
            self._restore()
            if isinstance(tasks[0], BlockTask):  # it comes alone, and looks at all nodes
                with CollectorPause():
                    drive(run(self._view, tasks), self._executor.answer)
            else:
                drive(run(self._view, tasks), self._executor.answer)
        finally:
            if self._meter is not None:
                self._meter.decided(len(tasks))

    def _restore(self) -> None:
        if not self._restored:
            with CollectorPause():
                drive(restore(self._view), self._executor.answer)
            self._restored = True

    # ------------------------------------------------------------------------------------------------- looking

    @observed("refresh")
    def refresh(self) -> bool:
        """Read everything again. Needed before looking where others write to the store; changes find out by themselves.

        Returns:
            Whether anything differs from what was known.
        """
        with self._lock:
            before = dict(self._view.entries) if self._restored else None
            self._restored = False
            self._restore()
            return before != self._view.entries

    def pools(self) -> tuple[PoolStatus, ...]:
        """All pools by name, with what became of them. O(blocks + pools)."""
        with self._lock:
            return statuses(self._now())

    def nodes(self) -> tuple[NodeStatus, ...]:
        """All nodes by name, with their blocks and counts."""
        with self._lock:
            return node_statuses(self._now())

    def blocks(self) -> tuple[Block, ...]:
        """All blocks that nodes hold, by address space and address."""
        with self._lock:
            return all_blocks(self._now())

    def held(self, *, closing: bool = False) -> dict[str, tuple[Holding, ...]]:
        """What every node holds, in the order in which it got it; `blocks` counts addresses too, which costs more.

        Args:
            closing: Whether to name blocks that are on their way back as well; nobody may rely on those.

        Complexity:
            O(blocks).
        """
        with self._lock:
            self._restore()
            return blocks_by_node(self._view, closing=closing)

    def due(self) -> float | None:
        """When the next block that was given back and cools can be carved again, in seconds since the epoch; None if none cools. O(1)."""
        with self._lock:
            return self._now().free.due

    def _now(self) -> View:
        """What is known, as of now."""
        self._restore()
        self._view.advance(self._clock())
        return self._view

    def routes(self, pool: str, group_by: str | None = None) -> tuple[GroupRoutes, ...]:
        """What routers announce for the blocks of a pool, by group of nodes, and what keeping groups together saves.

        Args:
            pool: The pool's name.
            group_by: The label key whose values are the groups; by default the one that the pool groups by, else all nodes are one.

        Raises:
            NotFoundError: There is no such pool.

        Complexity:
            O(n log n) for n blocks.
        """
        with self._lock:
            return routes(self._now(), pool, group_by)

    def allocations(self, node: str | None = None) -> tuple[Allocation, ...]:
        """All addresses held, or those on one node, in address order.

        Raises:
            NotFoundError: The node is not known and holds nothing.
        """
        with self._lock:
            self._restore()
            return allocations(self._view, node)

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
