"""Stores of which only the watches are wrong; see `ciliumipam.testing.wrong_stores`."""

# ruff: noqa: ARG002 - what is wrong with a store is often what it ignores

from __future__ import annotations

from typing import Any

from ciliumipam.errors import RevisionExpiredError, StoreClosedError
from ciliumipam.records import Entry, Key, Kind, Revision
from ciliumipam.store import Change, Watch
from ciliumipam.testing.wrong_stores import WrongStore


class TellsNoDeletes(WrongStore):
    """A watch passes over deletes."""

    breaks = 13

    def _note(self, key: Key, entry: Entry | None) -> None:
        if entry is None:
            self._last += 1
        else:
            super()._note(key, entry)


class LosesChanges(WrongStore):
    """A watch passes over a change now and then."""

    breaks = 13

    def _note(self, key: Key, entry: Entry | None) -> None:
        if self._last % 4 == 3:
            self._last += 1
        else:
            super()._note(key, entry)


class TellsTwice(WrongStore):
    """A watch repeats a change now and then, as after a connection that broke."""

    breaks = 13

    def _note(self, key: Key, entry: Entry | None) -> None:
        super()._note(key, entry)
        if self._last % 4 == 3:
            changes = self._logs[key.kind].changes
            changes.append(changes[-1])


class TellsOutOfOrder(WrongStore):
    """A watch tells changes of different records in another order now and then."""

    breaks = 13

    def _note(self, key: Key, entry: Entry | None) -> None:
        super()._note(key, entry)
        changes = self._logs[key.kind].changes
        if len(changes) > 1 and changes[-2][1] != key:
            (first, *_), (second, *_) = changes[-2], changes[-1]
            changes[-2], changes[-1] = (first, *changes[-1][1:]), (second, *changes[-2][1:])


class TellsOfOtherKinds(WrongStore):
    """A watch tells changes of all kinds."""

    breaks = 13

    def _note(self, key: Key, entry: Entry | None) -> None:
        super()._note(key, entry)
        for kind, log in self._logs.items():
            if kind != key.kind:
                log.changes.append((self._last, key, entry))


class BeginsTooEarly(WrongStore):
    """A watch begins with everything that is remembered."""

    breaks = 13

    def watch(self, kind: Kind, revision: Revision) -> Watch:
        watch = super().watch(kind, Revision(str(self._logs[kind].forgotten if kind in self._logs else 0)))
        super().watch(kind, revision).close()
        return watch


class BeginsNow(WrongStore):
    """A watch begins with the next change, from whichever revision it was asked for."""

    breaks = 13

    def watch(self, kind: Kind, revision: Revision) -> Watch:
        return super().watch(kind, Revision(str(self._last)))


class StaysWhereItBegan(WrongStore):
    """The revision of a watch does not move."""

    breaks = 14

    def _take(self, watch: Any) -> Change:
        number = watch.number
        try:
            return super()._take(watch)
        finally:
            watch.number = number


class RunsAhead(WrongStore):
    """The revision of a watch is the newest of the store, whatever the watch has returned."""

    breaks = 14

    def _take(self, watch: Any) -> Change:
        change = super()._take(watch)
        watch.number = self._last
        return change


class SkipsWhatItForgot(WrongStore):
    """A watch from a revision that has expired goes on with what is left."""

    breaks = 15

    def watch(self, kind: Kind, revision: Revision) -> Watch:
        try:
            return super().watch(kind, revision)
        except RevisionExpiredError:
            return super().watch(kind, Revision(str(self._last)))

    def _take(self, watch: Any) -> Change:
        if watch.kind in self._logs:
            watch.seen = max(watch.seen, self._logs[watch.kind].gone)
        return super()._take(watch)


class NeverEnds(WrongStore):
    """To close a watch does nothing while a thread waits in it."""

    breaks = 16

    def _end(self, watch: Any) -> None:
        if not self._waiting:
            super()._end(watch)


class EndsInSilence(WrongStore):
    """A watch simply ends when the store is closed."""

    breaks = 16

    def _take(self, watch: Any) -> Change:
        try:
            return super()._take(watch)
        except StoreClosedError:
            raise StopIteration from None


WRONG_WATCHES: tuple[type[WrongStore], ...] = (
    TellsNoDeletes, LosesChanges, TellsTwice, TellsOutOfOrder, TellsOfOtherKinds, BeginsTooEarly, BeginsNow,
    StaysWhereItBegan, RunsAhead, SkipsWhatItForgot, NeverEnds, EndsInSilence,
)  # fmt: skip
"""All of them."""

__all__ = ["WRONG_WATCHES"]
