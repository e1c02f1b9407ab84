"""Reading a watch in a thread, so that a change that never comes fails a test instead of stopping it."""

from __future__ import annotations

from collections.abc import Callable
from queue import Empty, SimpleQueue
from threading import Thread

from ciliumipam.records import Key
from ciliumipam.store import Change, Watch


class Reader:
    """Begins to read at once.

    Attributes:
        told: The changes that were taken out of it.
    """

    def __init__(self, watch: Watch, patience: float) -> None:
        """Read a watch until it ends; it is closed when nothing comes for `patience` seconds."""
        self._watch, self._patience = watch, patience
        self._came: SimpleQueue[Change | BaseException] = SimpleQueue()
        self.told: list[Change] = []
        Thread(target=self._read, daemon=True).start()  # a watch that does not end must not keep the process

    def _read(self) -> None:
        try:
            while True:
                self._came.put(next(self._watch))
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self._came.put(error)

    def next(self) -> Change:
        """The next change."""
        came = self._wait("another change")
        assert not isinstance(came, StopIteration), f"the watch ended by itself after {self._so_far()}"
        if isinstance(came, BaseException):
            raise came
        self.told.append(came)
        return came

    def until(self, key: Key) -> list[Change]:
        """All changes up to the first one of a key, that one included."""
        return self.until_it(lambda change: change.key == key)

    def until_it(self, last: Callable[[Change], bool]) -> list[Change]:
        """All changes up to the first such one, that one included."""
        first = len(self.told)
        while not last(self.next()):
            pass
        return self.told[first:]

    def end(self) -> BaseException:
        """What ends the watch; `StopIteration` where it was closed. Changes that come first are passed over."""
        came = self._wait("the end of the watch")
        while not isinstance(came, BaseException):
            self.told.append(came)
            came = self._wait("the end of the watch")
        return came

    def _wait(self, what: str) -> Change | BaseException:
        try:
            return self._came.get(timeout=self._patience)
        except Empty:
            self._watch.close()
            raise AssertionError(f"{what} did not come within {self._patience:g} s, after {self._so_far()}") from None

    def _so_far(self) -> str:
        shown = ", ".join(f"{'put' if entry else 'delete'} {key}" for key, entry in self.told[-5:])
        return f"{len(self.told)} changes ({shown})" if self.told else "no change"
