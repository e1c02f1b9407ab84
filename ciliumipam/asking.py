"""Which task does what a request asks for. The facade's clock, names of calls and listing come in here, and only where one is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ciliumipam.block_tasks import ApplyTask, GrowTask
from ciliumipam.demand_tasks import HandBackTask, RequestTask
from ciliumipam.drain_tasks import DrainTask, MigrateTask
from ciliumipam.lease import Moment
from ciliumipam.pool import PoolSpec
from ciliumipam.release_tasks import ReleaseAddressTask, ReleaseTask
from ciliumipam.removal_tasks import RemoveNodeTask, RemovePoolTask
from ciliumipam.repair_tasks import Repair, RepairAddresses, RepairAddressesTask, RepairBlocks, RepairBlocksTask
from ciliumipam.requests import (
    Allocate,
    Apply,
    Drain,
    ExistingBlock,
    ForceRelease,
    Grow,
    HandBack,
    Migrate,
    Rebalance,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    Request,
    RequestAddresses,
    Shrink,
)
from ciliumipam.tasks import AllocateTask, Task
from ciliumipam.vacate_tasks import RebalanceTask, ShrinkTask


def task_for(
    request: Request | Repair,
    now: float,
    token: Callable[[], str],
    listed: Callable[[Sequence[PoolSpec]], Sequence[ExistingBlock]],
    moment: Callable[[], Moment],
) -> Task:
    """The task of a request.

    Args:
        request: What is asked.
        now: Seconds since the epoch.
        token: Makes up the name of a call; asked only for calls that claim something.
        listed: What nodes are said to have, of the pools that are and of these.
        moment: The time in which leases count.
    """
    match request:
        case Apply():
            return ApplyTask(request, now, token(), listed(request.pools))
        case Allocate():
            return AllocateTask(request, now, token(), clock=moment)
        case Release():
            return ReleaseTask(request, now)
        case ReleaseFenced() | ForceRelease():
            return ReleaseAddressTask(request, now)
        case Grow():
            return GrowTask(request, now, token(), listed(()))
        case Drain():
            return DrainTask(request, now, token(), listed(()))
        case Migrate():
            return MigrateTask(request, now, token(), listed(()))
        case Shrink():
            return ShrinkTask(request, now, token(), listed(()))
        case Rebalance():
            return RebalanceTask(request, now, token(), listed(()))
        case RequestAddresses():
            return RequestTask(request, now, token(), listed(()))
        case HandBack():
            return HandBackTask(request, now, token())
        case RemoveNode():
            return RemoveNodeTask(request, now)
        case RemovePool():
            return RemovePoolTask(request, now)
        case RepairBlocks():
            return RepairBlocksTask(now)
        case RepairAddresses():  # pragma: no branch - mypy proves that there is no other request
            return RepairAddressesTask(request.node, now)
