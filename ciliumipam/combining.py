"""Calls of several threads, decided together: who comes while another call is being written waits, and the next of them decides for all.

So calls share pages and, on a store with ordered puts, one commit. `ipam` says how tasks are decided.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from copy import copy
from typing import Any

from ciliumipam.errors import IpamError
from ciliumipam.tasks import AddressTask, Task

_COMBINED = 256
"""Calls that are decided in one go at the most."""


class Waiting:
    """A call in the queue."""

    __slots__ = ("done", "error", "task")

    def __init__(self, task: Task) -> None:
        self.task = task
        self.done = False
        self.error: BaseException | None = None


class Combiner:
    """Lets one of the threads that wait decide for all of them.

    Args:
        lock: Held while something is decided.
        decide: Does what tasks ask for. What it raises, every call hears that was decided with the others.

    Attributes:
        queue: Calls that wait for their turn.
    """

    def __init__(self, lock: AbstractContextManager[Any], decide: Callable[[Sequence[Task]], None]) -> None:
        self._lock, self._decide = lock, decide
        self.queue: deque[Waiting] = deque()

    def do(self, task: Task) -> None:
        """Do a task, alone or with others. Returns when it is done.

        Raises:
            IpamError: What the task comes to, or what the store raised.
        """
        waiting = Waiting(task)
        self.queue.append(waiting)
        with self._lock:
            while not waiting.done:
                self._run(self._batch())
        if waiting.error is not None:
            raise copy(waiting.error) if isinstance(waiting.error, IpamError) else waiting.error
        if task.failed is not None:
            raise task.failed

    def _batch(self) -> Sequence[Waiting]:
        """The longest first part of the queue that can be decided together: calls about addresses, or one about blocks."""
        batch = [self.queue.popleft()]
        if isinstance(batch[0].task, AddressTask):
            while self.queue and len(batch) < _COMBINED and isinstance(self.queue[0].task, AddressTask):
                batch.append(self.queue.popleft())
        return batch

    def _run(self, batch: Sequence[Waiting]) -> None:
        try:
            self._decide([waiting.task for waiting in batch])
        except BaseException as error:  # noqa: BLE001 - every waiting call has to hear of it
            for waiting in batch:
                waiting.error = error
        for waiting in batch:
            waiting.done = True
