"""A mirror: every object of one resource, kept as it changes. List and watch, with everything that goes wrong about them.

What came first by the server's count stands: what this process wrote itself is taken over at once (`learn`), and an older word of it
that the watch brings later changes nothing. So a mirror never goes back, although it may be behind.

Versions of objects are compared as whole numbers. Kubernetes promises that since 1.35 (KEP-5504), and etcd has counted so ever since.

A resource that is not installed is looked for again from time to time, and mirrored as empty if it may be missing: a cluster may get
Cilium later. Once it was there it is not believed to be gone, and what is known stays: a server that is just starting says the same of
every custom resource, and it would look as if all nodes had left.

Whatever goes wrong is logged, counted and shown (`trouble`), and then everything is listed again: a mirror never ends by itself.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from threading import Event, Lock, Thread
from typing import Any, Generic, NamedTuple, TypeVar

from ciliumipam.errors import (
    IpamError,
    NotInstalledError,
    RevisionExpiredError,
    StoreClosedError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ciliumipam.kubernetes.api import Api, ObjectWatch, Resource

T = TypeVar("T")

_LOG = logging.getLogger(__name__)
_LOOK_AGAIN = {True: 2.0, False: 30.0}
"""Seconds until a resource that is not installed is looked for again, by whether it must be there."""
_LONGEST_PAUSE = 30.0
_MOST_GONE = 10_000
"""Names of objects that are gone which are remembered one by one."""
_LASTS = 30.0
"""Seconds after which a watch counts as one that works, also if it told nothing."""
_SETTLES = 3.0
"""Seconds after which a watch that goes on shows that what went wrong before is over; one that may not be opened ends at once."""


class Known(NamedTuple, Generic[T]):
    """An object as last seen.

    Attributes:
        revision: Its `metadata.resourceVersion`.
        value: What was read out of it; the error where it cannot be read.
    """

    revision: str
    value: T | IpamError


class Mirror(Generic[T]):
    """All objects of a resource, by name; of a namespaced one by namespace/name.

    Args:
        api: The server.
        resources: The resource; of several versions the first that is installed.
        read: What to keep of an object. What it raises is kept in its place: one that cannot be read stops no other.
        on_change: Called without an argument after something that `read` returns has changed; from the mirror's thread, or from that
            of who calls `learn`, `forget` or `refresh`. It must return at once.
        required: Whether it must be there: nothing counts as read before it is.

    Attributes:
        synced: Set once everything has been read.
        installed: The version that is mirrored; None while none was ever installed.
    """

    def __init__(
        self,
        api: Api,
        resources: Sequence[Resource],
        read: Callable[[Mapping[str, Any]], T],
        on_change: Callable[[], object],
        *,
        required: bool = False,
    ) -> None:
        """Nothing is read yet."""
        self._required = required
        self.synced = Event()
        self.installed: Resource | None = None
        self._api, self._resources, self._read, self._on_change = api, resources, read, on_change
        self._lock = Lock()
        self._known: dict[str, Known[T]] = {}
        self._gone: dict[str, str] = {}
        self._listed = ""
        self._highest = "0"
        self._stopped = Event()
        self._failures = 0
        self._watch: ObjectWatch | None = None
        self._thread: Thread | None = None
        self._on_failure: Callable[[str], object] = _nobody
        self._trouble = ""
        self._watching: float | None = None

    @property
    def trouble(self) -> str:
        """Why what is known may be behind, for people; "" if it is not, or nothing is followed."""
        if self._thread is not None and not self._thread.is_alive() and not self._stopped.is_set():
            return f"{self._resources[0].plural} are not followed any more; the log says why"
        began = self._watching
        if not self._trouble or (began is not None and time.monotonic() - began > _SETTLES):
            return ""
        return f"{self._resources[0].plural} cannot be followed: {self._trouble}"

    # ------------------------------------------------------------------------------------------------- looking

    def all(self) -> dict[str, Known[T]]:
        """Every object as last seen. O(objects)."""
        with self._lock:
            return dict(self._known)

    def get(self, name: str) -> Known[T] | None:
        """One object as last seen."""
        return self._known.get(name)

    # ---------------------------------------------------------------------------------------------- being told

    def learn(self, obj: Mapping[str, Any], *, own: bool = False) -> None:
        """Take over an object as the server just answered it, unless something newer is known.

        Args:
            obj: The object.
            own: Whether it became so by a write of this process, which needs not be told of it.
        """
        self.learn_value(name_of(obj), *self._understood(obj), own=own)

    def learn_value(self, name: str, revision: str, value: T | IpamError, *, own: bool = False) -> None:
        """The same for what is known without reading it out of an answer."""
        with self._lock:
            gone = self._gone.get(name, self._listed)
            late = name not in self._known and gone != "" and not newer(revision, gone)  # an answer that the watch overtook
        if not late and self._take(name, Known(revision, value)) and not own:
            self._on_change()

    def forget(self, name: str, revision: str) -> None:
        """An object of this revision is known to be gone."""
        with self._lock:
            known = self._known.get(name)
            gone = known is not None and not newer(known.revision, revision)
            if gone:
                del self._known[name]
                self._gone[name] = revision
        if gone:
            self._on_change()

    def _understood(self, obj: Mapping[str, Any]) -> Known[T]:
        try:
            return Known(obj["metadata"]["resourceVersion"], self._read(obj))
        except IpamError as error:
            return Known(obj["metadata"]["resourceVersion"], error)
        except Exception as error:  # noqa: BLE001 - whatever it is, it stops no other
            where = f"{self._resources[0].plural} {name_of(obj)}"
            _LOG.exception("object=%s cannot be read", where)
            return Known(obj["metadata"]["resourceVersion"], StoreRefusedError(f"read {where}", f"{type(error).__name__}: {error}"))

    def _take(self, name: str, found: Known[T], *, back: bool = False) -> bool:
        with self._lock:
            known = self._known.get(name)
            if known is not None and not back and newer(known.revision, found.revision):
                return False
            same = known is not None and _alike(known.value, found.value)
            # the value as it was, so that what was made of it can be told by identity to be still right
            self._known[name] = Known(found.revision, known.value) if same and known is not None else found
        return not same

    # ------------------------------------------------------------------------------------------------- reading

    def refresh(self) -> None:
        """Read everything now.

        Raises:
            StoreError: The server failed.
        """
        self._list()

    def _list(self) -> str:
        """Read everything; the revision to watch from, "" where the resource is not installed."""
        for resource in self._resources:
            before = self._highest
            try:
                objects, revision = self._api.collect(resource, lambda obj: (name_of(obj), self._understood(obj)))
            except NotInstalledError:
                continue
            self.installed = resource
            self._replace(dict(objects), revision, back=newer(before, revision))
            return revision
        if self.installed is not None:
            raise StoreUnavailableError(f"list {self.installed}", "the API server says that it is not installed any more")
        if not self._required:
            self.synced.set()
        return ""

    def _replace(self, found: dict[str, Known[T]], revision: str, *, back: bool) -> None:
        """Take over a listing. Where the server's count went `back` (an older backup was restored), nothing known before counts."""
        changed = False
        with self._lock:
            self._listed = revision
            self._highest = revision if back or newer(revision, self._highest) else self._highest
            # a listing may be older than what is known to be gone: the watch went on while it was read
            self._gone = {} if back else {
                name: gone
                for name, gone in self._gone.items()
                if newer(gone, revision) or (name in found and not newer(found[name].revision, gone))
            }
            present = {name: each for name, each in found.items() if name not in self._gone or newer(each.revision, self._gone[name])}
            for name in self._known.keys() - found.keys():
                if back or not newer(self._known[name].revision, revision):  # else it was created after the listing
                    del self._known[name]
                    changed = True
        for name, each in present.items():
            changed |= self._take(name, each, back=back)
        self.synced.set()
        if changed:
            self._on_change()

    def _all_known_until(self, revision: str) -> None:
        """What is not known now and is no newer than this is gone; by name that need not be remembered any more."""
        with self._lock:
            self._listed = revision
            self._gone = {name: gone for name, gone in self._gone.items() if newer(gone, revision)}

    # ------------------------------------------------------------------------------------------------- running

    def start(self, on_failure: Callable[[str], object] | None = None) -> None:
        """Begin to follow, in a thread of its own; `on_failure` is told the resource's plural each time that something went wrong."""
        self._on_failure = on_failure or _nobody
        self._thread = Thread(target=self._run, name=f"mirror of {self._resources[0].plural}", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Let the thread end."""
        self._stopped.set()
        watch = self._watch
        if watch is not None:
            watch.close()

    def stop(self) -> None:
        """End the thread, and wait until it has ended."""
        self.end()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                revision = self._list()
                if revision:
                    self._follow(revision)
                else:
                    self._failures = 0
                    self._trouble = f"{self._resources[0]} are not installed" if self._required else ""
                    self._stopped.wait(_LOOK_AGAIN[self._required] * random.uniform(0.8, 1.2))  # noqa: S311 - jitter, no secret
            except RevisionExpiredError:
                self._failures += 1
                _LOG.info("mirror resource=%s: list again, the server has forgotten what came next", self._resources[0].plural)
            except StoreClosedError:
                return
            except Exception as error:  # noqa: BLE001 - a mirror that ended would show an old cluster for ever
                self._failed(error)
            # A server that ends every watch at once must not be asked in a loop (kubernetes/kubernetes 104171), nor one that lets us list and
            # not watch: a listing that went well says nothing of that.
            self._stopped.wait(min(_LONGEST_PAUSE, 0.1 * 2 ** min(self._failures, 10)) * random.uniform(0.5, 1.0))  # noqa: S311 - as above

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        foreseen = isinstance(error, StoreError)
        self._trouble = str(error) if foreseen else f"{type(error).__name__}: {error}"
        plural = self._resources[0].plural
        _LOG.warning("mirror resource=%s failures=%d: %s", plural, self._failures, self._trouble, exc_info=None if foreseen else error)
        self._on_failure(plural)

    def _follow(self, revision: str) -> None:
        resource = self.installed
        assert resource is not None  # noqa: S101 - it was just listed
        began = self._watching = time.monotonic()
        watch = self._watch = self._api.watch(resource, revision)
        try:
            if self._stopped.is_set():
                return
            for event in watch:
                self._failures, self._trouble = 0, ""
                self._highest = event.object["metadata"]["resourceVersion"]
                if event.type == "DELETED":
                    self.forget(name_of(event.object), event.object["metadata"]["resourceVersion"])
                else:
                    self.learn(event.object)
                if len(self._gone) > _MOST_GONE:
                    self._all_known_until(event.object["metadata"]["resourceVersion"])
        finally:
            lasted = time.monotonic() - began
            if lasted > _LASTS:
                self._failures = 0
            if lasted > _SETTLES:
                self._trouble = ""
            self._watch = self._watching = None
            watch.close()


def _nobody(_: str) -> None:
    """Nobody is told."""


def name_of(obj: Mapping[str, Any]) -> str:
    """The name under which an object is mirrored."""
    metadata = obj["metadata"]
    namespace = metadata.get("namespace")
    return f"{namespace}/{metadata['name']}" if namespace else str(metadata["name"])


def newer(left: str, right: str) -> bool:
    """Whether a revision came after another one. One that is no number is not known to have."""
    return left.isdigit() and right.isdigit() and int(left) > int(right)


def _alike(left: object, right: object) -> bool:
    """Whether nothing that matters has changed. Errors are alike if they say the same."""
    if isinstance(left, IpamError) and isinstance(right, IpamError):
        return str(left) == str(right)
    return left == right
