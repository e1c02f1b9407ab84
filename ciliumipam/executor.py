"""Answering a session out of stores, or out of memory for a dry run. Where the library meets its stores, and nothing else."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import groupby
from threading import Lock

from ciliumipam.draft import Step
from ciliumipam.errors import ConflictError, StalePlanError, StoreError
from ciliumipam.records import ADDRESS_KINDS, Cooling, Entry, Key, Kind, Page, Revision
from ciliumipam.session import Answer, Get, Operation, Pause, Put, Room, Scan, Session, Written
from ciliumipam.store import ABSENT, Store, SupportsOrderedPuts, SupportsPutTogether, SupportsRoom, Write


def drive(session: Session, answer: Callable[[Operation], Answer]) -> None:
    """Run a session to its end."""
    try:
        operation = next(session)
        while True:
            operation = session.send(answer(operation))
    except StopIteration:
        return


class CollectorPause:
    """A `with` block during which the cyclic garbage collector of this process rests, in however many threads at once.

    For work that builds much and drops little, such as reading a whole store or giving blocks to all nodes: the collector would go
    through all of it again and again and find nothing (with 100,000 nodes a third of the time). What is in no cycle is freed as ever.
    """

    _lock = Lock()
    _inside = 0
    _was_on = False

    def __enter__(self) -> None:
        cls = CollectorPause
        with cls._lock:
            if not cls._inside:
                cls._was_on = gc.isenabled()
                gc.disable()
            cls._inside += 1

    def __exit__(self, *error: object) -> None:
        cls = CollectorPause
        with cls._lock:
            cls._inside -= 1
            if not cls._inside and cls._was_on:
                gc.enable()


class Executor:
    """Does what sessions ask for, on one store or on two.

    Args:
        store: Pools, nodes and blocks, and addresses where there is no other.
        addresses: Addresses.
        pause: Called with the number of failed attempts where a session waits.
    """

    def __init__(self, store: Store, addresses: Store | None, pause: Callable[[int], None]) -> None:
        self.store = store
        self.addresses = addresses if addresses is not None else store
        self._pause = pause
        self._in_order = store if self.addresses is store and isinstance(store, SupportsOrderedPuts) else None

    def store_of(self, kind: Kind) -> Store:
        """Where records of a kind live."""
        return self.addresses if kind in ADDRESS_KINDS else self.store

    def answer(self, operation: Operation) -> Answer:
        """Do one operation.

        Raises:
            StoreError: A read failed. What becomes of writes is in the answer.
        """
        if type(operation) is Get:
            key = operation.key
            return (self.addresses if key.kind in ADDRESS_KINDS else self.store).get(key)
        if type(operation) is Put:
            return self._put(operation.steps)
        if type(operation) is Scan:
            return self.store_of(operation.kind).scan(operation.kind)
        if type(operation) is Room and isinstance(self.addresses, SupportsRoom):
            return self.addresses.room(operation.key)
        if type(operation) is Pause:
            self._pause(operation.attempt)
        return None

    def _put(self, steps: Sequence[Step]) -> Written:
        if self._in_order is not None:
            writes = [Write(key, record, expect) for key, record, expect, _ in steps if record is not None]
            if len(writes) == len(steps):  # a delete has no place among them
                try:
                    return Written(tuple(self._in_order.put_in_order(writes)))
                except StoreError as error:
                    return Written((), error)
        done: list[Revision | None] = []
        try:
            done.extend(self.write(steps))
        except StoreError as error:
            return Written(tuple(done), error)
        return Written(tuple(done))

    def write(self, steps: Sequence[Step]) -> Iterator[Revision | None]:
        """Do writes in order, in as few goes as the stores allow; yields their revisions."""
        key, record, expect, _ = steps[0]
        if len(steps) == 1 and record is not None:
            yield self.store_of(key.kind).put(key, record, expect=expect)
            return
        for (store_id, deletes), group in groupby(steps, lambda step: (id(self.store_of(step.key.kind)), step.record is None)):
            part = list(group)
            store = self.store if store_id == id(self.store) else self.addresses
            if deletes:
                for step in part:
                    if step.expect is not ABSENT:
                        store.delete(step.key, expect=step.expect)
                    yield None
                continue
            writes = [Write(step.key, step.record, step.expect) for step in part if step.record is not None]
            if isinstance(store, SupportsOrderedPuts):
                yield from store.put_in_order(writes)
                continue
            for claims, some in groupby(writes, lambda write: write.key.kind == "block-claims"):
                # which of several claim pages comes first depends on nothing but how names happen to be spread over them, so where
                # every first part of them is a legal state, every part is
                if claims and isinstance(store, SupportsPutTogether):
                    yield from store.put_together(list(some))
                else:
                    for write in some:
                        yield store.put(write.key, write.record, expect=write.expect)

    def perform(self, steps: Sequence[Step], load: Callable[[Key, Entry | None], object]) -> None:
        """Do the writes of a dry run one by one, each only if the record is as it was then. `load` is told what is read after each.

        Raises:
            StalePlanError: A record has changed; those before it are written.
        """
        real: dict[str, Revision] = {}
        for count, step in enumerate(steps):
            expect = real.get(step.expect, step.expect) if step.expect is not ABSENT else ABSENT
            try:
                (revision,) = self.write([step._replace(expect=expect)])
            except ConflictError as error:
                raise StalePlanError((f"{error.key} changed",), count) from error
            finally:
                load(step.key, self.store_of(step.key.kind).get(step.key))
            if revision is not None:
                real[_planned(count)] = revision


def _planned(count: int) -> Revision:
    """What a dry run makes up for the revision of its n-th write."""
    return Revision(f"planned-{count}")


class DryRun:
    """Answers reads out of the stores and keeps the writes to itself.

    Args:
        executor: Where to read.
        known: What the session knows, which it decides over.

    Attributes:
        steps: What would have been written. A second write of a record expects the revision that this made up for the first.
        replaced: What was known of the records that would have been written, before the first write.
    """

    def __init__(self, executor: Executor, known: Mapping[Key, Entry]) -> None:
        self._executor, self._known = executor, known
        self.replaced: dict[Key, Entry | None] = {}
        self._entries: dict[Key, Entry | None] = {}
        self.steps: list[Step] = []

    def answer(self, operation: Operation) -> Answer:
        """Do one operation, or pretend to."""
        if type(operation) is Get and operation.key in self._entries:
            return self._entries[operation.key]
        if type(operation) is not Put:
            return self._executor.answer(operation)
        revisions: list[Revision | None] = []
        for step in operation.steps:
            revision = _planned(len(self.steps)) if step.record is not None else None
            self.replaced.setdefault(step.key, self._known.get(step.key))
            self._entries[step.key] = Entry(step.record, revision) if step.record is not None and revision is not None else None
            self.steps.append(step)
            revisions.append(revision)
        return Written(tuple(revisions))


def cooling_later(step: Step, before: Entry | None, seconds: float) -> Step:
    """A planned write that is done later than it was decided: what it lets cool begins to do so then."""
    if not seconds or not isinstance(step.record, Page):
        return step
    known = before.record.slots if before is not None and isinstance(before.record, Page) else ()
    slots = tuple(
        slot._replace(until=slot.until + seconds) if type(slot) is Cooling and known[index : index + 1] != (slot,) else slot
        for index, slot in enumerate(step.record.slots)
    )
    return step._replace(record=step.record._replace(slots=slots))
