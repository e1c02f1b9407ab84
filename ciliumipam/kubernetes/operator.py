"""The operator: it sees that every node of a cluster has the blocks that it should have, and that its object says so.

Level-triggered. A round looks at everything as it is known, takes over what node objects list already (the oldest object first), decides
for all nodes in one `Ipam.apply`, and then writes to the node objects, several at once and outside any lock. A round that goes wrong is
forgotten: the next one starts from what is there. Anything that changes anywhere makes another round, and so do waiting nodes when a
block has cooled. At rest there are watches and nothing else: no reads, no writes.

Several may run at once. Which blocks a node has is decided by compare-and-set on the ledger; what is written on a node object names the
version of the object that it was decided over, and `guard` keeps a block from going to another node while such a write may still come.

A node is gone when it has neither a Node nor a CiliumNode, for the whole grace time, and when the server says so again in the end. A
deletionTimestamp is not the end: finalizers may keep a node running for long (kubernetes/kubernetes 127792). The grace time is for agents
that outlive their object for a while and register it again; a node that is back by then, whatever its uid, keeps its blocks, since the
name is what kubelet and Cilium keep too, and the machine may be the same. The grace time is counted by each operator for itself: after
a restart it begins anew, which can only make it longer.

An agent that asks for blocks by pool hands one back by taking it off `pools.allocated` of its CiliumNode. The operator sees that the
block had been listed there under its present fence, and takes it back by the rules of `guard`, as that of a node that is gone.

What a live node's object lists is never taken off it: neither when its pool drains or is deleted, nor when the node is annotated as
draining. Its agent may hand out addresses of it at any moment. So draining a pool means here that
it gives nothing new, that its nodes get a block of another pool that selects them (Cilium in cluster-pool mode and every CNI that reads
`Node.spec.podCIDRs` use the first block of each family, so they use the new one once they register anew), and that its blocks come back
as nodes go.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ciliumipam.agent.terms import Terms
from ciliumipam.errors import (
    ConflictError,
    InvalidRequestError,
    IpamError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ciliumipam.ipam import Ipam
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.cluster import DEFAULT_SOURCES, Cluster, ClusterStore, NodeState, Pools
from ciliumipam.kubernetes.guard import CILIUM_NODES, NODES, mark_key
from ciliumipam.kubernetes.mirror import Known
from ciliumipam.kubernetes.on_demand import REQUEST, OnDemand
from ciliumipam.kubernetes.publish import NodeObject, Publication, error_patch, publish_cilium, publish_node
from ciliumipam.kubernetes.reporter import Reporter, Round, Subject, WriteOutcome
from ciliumipam.kubernetes.standing import Standing, orphans_of
from ciliumipam.kubernetes.store import KubernetesStore
from ciliumipam.kubernetes.transport import Transport
from ciliumipam.observer import UNOBSERVED, Observer
from ciliumipam.records import Holding, PoolRecord
from ciliumipam.requests import Applied, PoolStatus

WriteTo: TypeAlias = Literal["cilium", "node"]
"""Where blocks are written: `CiliumNode.spec.ipam.podCIDRs`, or `Node.spec.podCIDRs`."""

GRACE: Final = 60.0
"""Seconds. Longer than an agent or a kubelet takes to register again (kubelet within 10 s of a lost object, and a reboot about a minute),
and as long as a request to the API server may be under way (its own time-out)."""

_LOG = logging.getLogger("ciliumipam.operator")
_LONGEST_PAUSE = 30.0
_TOLD_REFUSALS = 8


class _Work(NamedTuple):
    """A node object that has to be written to."""

    name: str
    obj: Known[NodeObject]
    publication: Publication


class _Decided(NamedTuple):
    """What a round decided for the node objects: what to write, why nodes wait, and what their agents have handed back."""

    work: list[_Work]
    reasons: dict[str, str]
    back: dict[str, tuple[Holding, ...]]
    doubtful: bool


class Operator:
    """Keeps a cluster as it should be. One thread calls `run` or `sync_once`; `wake` may be called by any.

    Args:
        transport: Connections to the server; whoever made it closes it.
        write_to: Where blocks are written.
        grace: Seconds for which a node has to be gone before its blocks go back.
        stop_after: Seconds for which a node that keeps its own addresses may rely on its blocks without asking; None promises nothing,
            so that no agent of ours gets a block.
        threads: How many node objects are written to at once.
        resync: Seconds after which there is a round even if nothing changed.
        debounce: Seconds for which a round waits for more to change.
        sources: Which kinds of objects are pools; keys of `cluster.SOURCES`.
        reporter: Who is told.
        observer: Who is told of the calls of the `Ipam` below.
        clock: Seconds since the epoch.
        timer: Seconds that only grow.

    Attributes:
        cluster: What is known.
        ipam: What decides.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        write_to: WriteTo = "cilium",
        grace: float = GRACE,
        stop_after: float | None = None,
        threads: int = 8,
        resync: float = 300.0,
        debounce: float = 0.05,
        sources: Collection[str] = DEFAULT_SOURCES,
        reporter: Reporter | None = None,
        observer: Observer = UNOBSERVED,
        clock: Callable[[], float] = time.time,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet."""
        if write_to not in ("cilium", "node"):
            raise InvalidRequestError(f"write_to is {write_to!r}; valid: cilium, node")
        if grace < 0 or threads < 1 or resync <= 0 or debounce < 0:
            raise InvalidRequestError(f"grace {grace}, threads {threads}, resync {resync}, debounce {debounce}: none can be negative, threads and resync not 0")
        if stop_after is not None:
            Terms(stop_after, grace, REQUEST).check()
        self._api = Api(transport)
        self.cluster = Cluster(self._api, sources=sources)
        ledger = KubernetesStore(transport, api=self._api)
        self._store = ClusterStore(ledger, self.cluster, clock=clock, threads=threads, on_nodes=write_to == "node")
        self.ipam = Ipam(self._store, clock=clock, observer=observer)
        self._write_to, self._grace, self._threads = write_to, grace, threads
        self._resync, self._debounce = resync, debounce
        self._reporter, self._clock, self._timer = reporter, clock, timer
        self._resource = CILIUM_NODES if write_to == "cilium" else NODES
        self._mirror = self.cluster.cilium_nodes if write_to == "cilium" else self.cluster.nodes
        self._wake = Event()
        self._woken = timer()
        self._absent: dict[str, float] = {}
        self._told: dict[str, str] = {}
        self._on_demand = OnDemand(self.ipam, self._store, reporter, stop_after)
        self._needs = grace
        self._standing = Standing()

    # -------------------------------------------------------------------------------------------------- running

    def wake(self) -> None:
        """Make a round soon."""
        if not self._wake.is_set():
            self._woken = self._timer()
            self._wake.set()

    def run(self, stop: Event) -> None:
        """Follow the cluster and act, until `stop` is set; a round that is under way is finished then."""
        self.cluster.follow(self.wake, self._reporter.not_followed if self._reporter is not None else None)
        try:
            while not self.cluster.is_synced() and not stop.wait(0.01):
                pass  # also while one kind of pools may not be listed: who does not know all pools would serve nodes out of others
            failures, pause = 0, 0.0
            while not stop.is_set():
                if failures:
                    stop.wait(pause)
                try:
                    self._wake.clear()
                    self.sync_once()
                    failures = 0
                except Exception as error:  # noqa: BLE001 - an operator that ended would leave every later node without a block
                    failures += 1
                    pause = min(_LONGEST_PAUSE, 0.1 * 2 ** min(failures, 12)) * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
                    _LOG.warning("round failed=%d again_in=%.1fs error=%s: %s", failures, pause, type(error).__name__, error,
                                 exc_info=not isinstance(error, IpamError))
                    continue
                self._wait(stop)
        finally:
            self.cluster.stop()

    def _wait(self, stop: Event) -> None:
        """Wait for a reason for another round."""
        until = self._timer() + self._next()
        while not stop.is_set() and not self._wake.is_set() and self._timer() < until:
            self._wake.wait(min(0.5, max(0.0, until - self._timer())))
        if self._wake.is_set():
            stop.wait(self._debounce)

    def _next(self) -> float:
        """Seconds until the next round, if nothing changes before."""
        times = [self._resync]
        now = self._timer()
        times += [since + self._needs - now for since in self._absent.values()]
        due = self.ipam.due() if self._told else None
        if due is not None:
            times.append(due - self._clock())
        return max(0.05, min(times))

    # ----------------------------------------------------------------------------------------------------- a round

    def sync_once(self) -> Round:
        """One round. Of a cluster that is not followed, everything is read first.

        Raises:
            StoreError: The server failed. What was done stays, and the next round goes on.
        """
        began, queued = self._timer(), max(0.0, self._timer() - self._woken)
        states: Mapping[str, NodeState] = {}
        error: type[BaseException] | None = None
        reasons: dict[str, str] = {}
        try:
            with self.cluster.at_once():
                states = self.cluster.node_states()
                reasons = self._round(states)
        except BaseException as raised:
            error = type(raised)
            raise
        finally:
            done = Round(self._timer() - began, len(states), len(reasons), queued, error)
            if self._reporter is not None:
                self._reporter.round_done(done)
        return done

    def _round(self, states: Mapping[str, NodeState]) -> dict[str, str]:
        self.ipam.refresh()
        pools = self.cluster.pools()
        applied = self.ipam.apply()
        decided = self._decide(states, pools, applied)
        if decided.doubtful:
            # what was held before this round is believed only as of after the objects were seen: see `guard`
            self.cluster.ledger.refresh()
            self.ipam.refresh()
            decided = self._decide(states, pools, applied, fresh=True)
        reasons = decided.reasons
        with ThreadPoolExecutor(self._threads, thread_name_prefix="operator") as threads:
            outcomes = list(threads.map(self._write, decided.work))
            reasons.update({work.name: problem for work, problem in zip(decided.work, outcomes, strict=True) if problem})
            if decided.back:
                self._on_demand.accept(decided.back, threads)
                self.wake()
            list(threads.map(lambda item: self._write_error(*item), self._errors(states, reasons)))
            self._take_back(states, threads)
        self._report(states, pools, applied, reasons)
        return reasons

    def _decide(self, states: Mapping[str, NodeState], pools: Pools, applied: Applied, *, fresh: bool = False) -> _Decided:
        """What to write, and why nodes wait."""
        specs = {name: entry.record.spec for name, entry in pools.entries.items() if isinstance(entry.record, PoolRecord)}
        self._on_demand.forget_all_but(states)
        held = self.ipam.held()
        ledger = self.cluster.ledger_now()
        given = {(change.node, change.name) for change in applied.changes if change.action in ("carve", "adopt")}
        refused: dict[str, list[str]] = {}
        for refusal in applied.refusals:
            refused.setdefault(refusal.node, []).append(str(refusal))
        decided = _Decided([], {}, {}, doubtful=False)
        doubtful = False
        for name, state in states.items():
            if sealed := ledger.why_sealed(name):
                decided.reasons[name] = f"nothing is decided about it: {sealed}"
                continue
            if mark_key(name) in ledger.entries:
                decided.reasons[name] = "its blocks of an earlier life are being taken back; it gets new ones after that"
                continue
            blocks = held.get(name, ())
            why = refused.get(name, ())
            if why or not blocks:
                decided.reasons[name] = _waits(state, why)
            obj = state.cilium if self._write_to == "cilium" else state.node
            if obj is None or not isinstance(obj.value, NodeObject):
                if blocks:
                    what = ", ".join(block.piece for block in blocks)
                    decided.reasons[name] = f"{what} is for it, but there {self._nowhere()}"
                continue
            if self._write_to == "cilium" and obj.value.uses_pools:
                publication, back = self._on_demand.publish(name, state, blocks, specs)
                if back:
                    decided.back[name] = back
            else:
                publication = (publish_cilium if self._write_to == "cilium" else publish_node)(obj.value, obj.revision, blocks)
            if publication.problem:
                decided.reasons[name] = publication.problem
            if publication.patch is None:
                continue
            if not fresh and any((name, block.piece) not in given for block in (*publication.new, *publication.renamed)):
                doubtful = True
            decided.work.append(_Work(name, obj, publication))
        return decided._replace(doubtful=doubtful)

    def _nowhere(self) -> str:
        """Why there is no object to write to, after "there"."""
        if self._mirror.installed is not None:
            return f"is no {self._resource.kind} to write it to yet"
        return (
            "are no CiliumNodes in this cluster to write it to (customresourcedefinition ciliumnodes.cilium.io): Cilium brings them, else"
            " ciliumipam crds --install; for another CNI run the operator with --write-to node"
        )

    # -------------------------------------------------------------------------------------------------- writing

    def _write(self, work: _Work) -> str:
        """Write to one node object. Returns why it could not be done, for people; "" if it was, or is tried again at once."""
        began = self._timer()
        outcome: WriteOutcome = "ok"
        problem = ""
        try:
            self._mirror.learn(self._api.patch(self._resource, work.name, work.publication.patch), own=True)
        except ConflictError:
            outcome = "conflict"
        except StoreRefusedError as error:
            outcome, problem = "refused", str(error)
        except StoreUnavailableError as error:
            outcome, problem = "unknown" if error.unknown else "failed", str(error)
        except IpamError as error:
            outcome, problem = "failed", str(error)
        blocks = [block.piece for block in work.publication.new]
        obj = work.obj.value
        assert isinstance(obj, NodeObject)  # noqa: S101 - `_decide` saw to it
        _LOG.info("node=%s write=%s blocks=%s pools=%s %s", work.name, outcome, ",".join(blocks),
                  ",".join(dict.fromkeys(block.label for block in work.publication.new)), problem)
        if outcome != "ok":
            self._look_again(work.name)
        if self._reporter is not None:
            self._reporter.node_written(outcome, self._timer() - began)
            if outcome == "ok" and blocks:
                self._reporter.block_given(_subject(obj), blocks)
        return problem

    def _look_again(self, name: str) -> None:
        """Read an object whose write did not end well, and make another round."""
        known = self._mirror.get(name)  # before it is asked: what registers meanwhile is not what the answer says is gone
        try:
            obj = self._api.get(self._resource, name)
        except StoreError as error:
            _LOG.info("node=%s look failed: %s", name, error)
        else:
            if obj is not None:
                self._mirror.learn(obj)
            elif known is not None:
                self._mirror.forget(name, known.revision)
        self.wake()

    def _errors(self, states: Mapping[str, NodeState], reasons: Mapping[str, str]) -> list[tuple[str, dict[str, Any]]]:
        """The CiliumNodes whose status has to say something else."""
        if self._write_to != "cilium":
            return []
        found = []
        for name, state in states.items():
            if state.cilium is not None and isinstance(state.cilium.value, NodeObject):
                patch = error_patch(state.cilium.value, reasons.get(name, ""))
                if patch is not None:
                    found.append((name, patch))
        return found

    def _write_error(self, name: str, patch: dict[str, Any]) -> None:
        try:
            self._mirror.learn(self._api.patch(CILIUM_NODES, name, patch, subresource="status"), own=True)
        except IpamError as error:
            # words for people: the next round has them again, and the log has them now
            _LOG.info("node=%s status not written: %s", name, error)

    # ---------------------------------------------------------------------------------------------- taking back

    def _take_back(self, states: Mapping[str, NodeState], threads: ThreadPoolExecutor) -> None:
        """Take the blocks of nodes that are gone."""
        now = self._timer()
        self._needs = max(self._grace, self._on_demand.least_grace(states))
        if self._mirror.installed is None:  # a server that is just starting says so of every custom resource
            return
        ledger = self.cluster.ledger_now()
        leaving = {key.name for key in ledger.entries if key.kind == "node" and not ledger.why_sealed(key.name)}
        held = self.ipam.held(closing=True)
        gone = {name for name in held.keys() - states.keys() if not ledger.why_sealed(name)}
        for name in [name for name in self._absent if name not in gone]:
            del self._absent[name]
        for name in sorted(gone - self._absent.keys()):
            self._absent[name] = now
            _LOG.info("node=%s gone blocks=%s back_in=%.0fs", name, ",".join(block.piece for block in held[name]), self._needs)
        due = {name for name in gone if now - self._absent[name] >= self._needs} | leaving
        if not due:
            return
        if leaving - held.keys():  # somebody's mark: whether nothing is held there must be read after it
            self.cluster.ledger.refresh()
            self.ipam.refresh()
            held = self.ipam.held(closing=True)
        names = sorted(due)
        answers = threads.map(lambda name: self._release(name, held.get(name, ())), names)
        released = [name for name, reason in zip(names, answers, strict=True) if not reason]
        if not released:
            return
        self.ipam.remove_nodes(released, force=True)
        left = self.ipam.held(closing=True)
        finished = [name for name in released if name not in left]
        list(threads.map(self._store.guard.unmark, finished))
        for name in finished:
            self._absent.pop(name, None)
            blocks = [block.piece for block in held.get(name, ())]
            if blocks:
                _LOG.info("node=%s gone for good blocks=%s back", name, ",".join(blocks))
                if self._reporter is not None:
                    self._reporter.node_gone(name, blocks)
        for name in left.keys() & released:  # no claim of the node names them any more, so nothing gives them back: a record was lost
            self._absent[name] = now
            what = ",".join(block.piece for block in left[name])
            _LOG.warning("node=%s gone blocks=%s are not back; ciliumipam check says why, and --repair mends it", name, what)
        if finished:
            self.wake()

    def _release(self, name: str, blocks: Sequence[Holding]) -> str:
        reason = self._store.guard.release(name, blocks)
        if reason:
            _LOG.warning("node=%s keeps its blocks: %s", name, reason)
            self._absent.pop(name, None)
            self.wake()
        return reason

    # -------------------------------------------------------------------------------------------------- telling

    def _report(self, states: Mapping[str, NodeState], pools: Pools, applied: Applied, reasons: Mapping[str, str]) -> None:
        for name, reason in reasons.items():
            if self._told.get(name) != reason:
                _LOG.info("node=%s waits: %s", name, reason)
        for name in self._told.keys() - reasons.keys():
            _LOG.info("node=%s waits no longer", name)
        self._told = dict(reasons)
        orphans = orphans_of(self.ipam.held(), pools.entries)
        self._standing.tell(applied.conflicts, pools.broken, orphans)
        for concern in applied.concerns:
            _LOG.debug("pool=%s concern: %s", concern.pool, concern.what)
        reporter = self._reporter
        if reporter is None:
            return
        for name, reason in reasons.items():
            reporter.node_waits(self._subject_of(name, states[name]), reason)
        for conflict in applied.conflicts:
            state = states.get(conflict.existing.node)
            if state is not None:
                reporter.conflict(self._subject_of(conflict.existing.node, state), str(conflict.existing.prefix), conflict.reason)
        for change in applied.changes:
            if change.action == "adopt" and change.node in states:
                reporter.adopted(self._subject_of(change.node, states[change.node]), change.name, change.pool)
        for name, blocks in orphans.items():
            if name in states:
                reporter.orphaned(self._subject_of(name, states[name]), [block.piece for block in blocks], blocks[0].label)
        for manifest, problem in pools.broken:
            reporter.pool_broken(manifest, problem)
        reporter.pools(pools.objects, [self._with_concern(status) for status in self.ipam.pools()])

    def _with_concern(self, status: PoolStatus) -> PoolStatus:
        if status.spec.blocks_per_node == 1:
            return status
        what = (
            "Node.spec.podCIDRs takes one block of each family and can be set once, so nodes never use their further ones: set blocksPerNode"
            " to 1 and a shorter block length before nodes register"
            if self._write_to == "node"
            else "Cilium uses a node's further blocks in multi-pool mode only; in cluster-pool mode it uses the first of each family"
        )
        return status._replace(concerns=(*status.concerns, what))

    def _subject_of(self, name: str, state: NodeState) -> Subject:
        for known in (state.cilium, state.node) if self._write_to == "cilium" else (state.node, state.cilium):
            if known is not None and isinstance(known.value, NodeObject):
                return _subject(known.value)
        return Subject("v1", "Node", name)  # its objects cannot be read


def _subject(obj: NodeObject) -> Subject:
    return Subject(obj.api_version, obj.kind, obj.node.name, obj.uid)


def _waits(state: NodeState, refusals: Sequence[str]) -> str:
    if refusals:
        more = f"; and {len(refusals) - _TOLD_REFUSALS} more pools" if len(refusals) > _TOLD_REFUSALS else ""
        return "; ".join(refusals[:_TOLD_REFUSALS]) + more
    if any(known is not None and isinstance(known.value, NodeObject) and known.value.draining for known in state):
        return "it is annotated ciliumipam.io/draining, so it gets no block"
    if not any(known is not None and isinstance(known.value, NodeObject) for known in state):
        return "its objects cannot be read: a name or label of them is none"
    return "there is no pool: create a CIDRPool whose nodeSelector selects it"


__all__ = ["GRACE", "Operator", "WriteTo"]
