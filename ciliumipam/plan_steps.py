"""Plans: what a task would write, found out in memory, and later exactly that written, or refused where something has changed since."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from ciliumipam.adopt import overtaken
from ciliumipam.block_tasks import BlockTask
from ciliumipam.errors import LeaseExpiredError, StalePlanError
from ciliumipam.executor import DryRun, Executor, cooling_later, drive
from ciliumipam.lease import Moment, lease_key, require
from ciliumipam.records import Key, Kind
from ciliumipam.requests import Allocation, ExistingBlock, Plan
from ciliumipam.session import run
from ciliumipam.tasks import Task
from ciliumipam.view import View


def make_plan(executor: Executor, view: View, task: Task) -> Plan:
    """Decide what a task would do over what is known, and write nothing.

    Raises:
        IpamError: What executing it would raise.
    """
    dry = DryRun(executor, view.entries)
    try:
        drive(run(view, [task]), dry.answer)
    finally:
        for key, entry in dry.replaced.items():
            view.load(key, entry)
    lists: tuple[Kind, ...] = ("node", "pool") if isinstance(task, BlockTask) else ()
    before = {key: entry for key, entry in view.entries.items() if key.kind == "pool" or key.kind in lists}
    if task.failed is not None:
        raise task.failed
    return Plan(tuple(dry.steps), tuple(sorted({**before, **dry.replaced}.items())), lists, task.outcome, task.result, task.now)


def execute_plan(
    executor: Executor, view: View, plan: Plan, now: float, listed: Sequence[ExistingBlock], moment: Callable[[], Moment]
) -> tuple[Allocation, ...]:
    """Write exactly what a plan says, after all that it was decided over was read again. Returns its result.

    Args:
        executor: What reads and writes.
        view: What is known; learns what is read and written.
        plan: The plan.
        now: Seconds since the epoch.
        listed: What nodes are said to have by now.
        moment: The time in which leases count.

    Raises:
        StalePlanError: Something has changed.
        LeaseExpiredError: It allocates on a node whose lease does not hold.
    """
    before = dict(plan.before)
    changed = [f"{key} is new" for kind in plan.lists for key in _list(executor, view, kind) if before.get(key) is None]
    for key, known in plan.before:
        found = executor.store_of(key.kind).get(key)
        view.load(key, found)
        if found != known:
            changed.append(f"{key} {'is gone' if found is None else 'is new' if known is None else 'changed'}")
    if changed := [*changed, *overtaken(view, plan, listed)]:
        raise StalePlanError(tuple(dict.fromkeys(changed)), 0)
    given = plan.result if any(change.action == "allocate" for change in plan.changes) else ()
    _require_leases(executor, view, given, moment)
    late = max(0.0, now - plan.now)
    executor.perform([cooling_later(step, before.get(step.key), late) for step in plan.steps], view.load)
    _require_leases(executor, view, given, moment)
    return plan.result


def _require_leases(executor: Executor, view: View, given: Iterable[Allocation], moment: Callable[[], Moment]) -> None:
    """Refuse to rely on a lease that does not hold. A plan is not bound to its revision: it is renewed all the time."""
    for node, block in sorted({(each.node, str(each.block)) for each in given}):
        key = lease_key(node)
        view.load(key, executor.store_of(key.kind).get(key))
        lease = view.lease(node)
        require(lease, moment())
        if lease is not None and block not in [str(each.prefix) for each in lease.blocks]:
            raise LeaseExpiredError(node, f"block {block} has left its lease since this was planned")


def _list(executor: Executor, view: View, kind: Kind) -> list[Key]:
    """Read all records of a kind; their keys."""
    listing = executor.store_of(kind).scan(kind)
    view.load_all(kind, listing.entries)
    return [key for key, _ in listing.entries]
