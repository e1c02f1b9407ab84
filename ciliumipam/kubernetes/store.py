"""`KubernetesStore`: records as custom resources, for everything that outgrows one machine.

A revision is the object's resourceVersion, which one etcd never gives twice. Where etcd is restored from a backup it does, unless it is
told to go on from higher ones (`etcdutl snapshot restore --bump-revision 1000000000 --mark-compacted`). Without that, a writer that read
before the restore could take what another wrote after it for what it has read. So start every writer anew after a restore. A watch finds
out by itself: `RevisionExpiredError`.
"""

from __future__ import annotations

from threading import Lock
from typing import Any, Self

from ciliumipam.codec import Codec
from ciliumipam.errors import ConflictError, CorruptRecordError, RevisionExpiredError, StoreClosedError, StoreError
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.object_watch import ObjectWatch, numeric
from ciliumipam.kubernetes.objects import key_of, labels_of, object_name, resource_of, to_entry, to_object
from ciliumipam.kubernetes.transport import Transport
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import ABSENT, Change, Expect, Listing, Watch


class KubernetesStore:
    """Records in an API server. Thread-safe. The definitions must be there: `ciliumipam crds --install`.

    Args:
        transport: Connections to the server; whoever made it closes it, unless `owned`.
        api: The verbs to use, for other waiting times than those of `Api(transport)`.
        owned: Whether `close` closes the transport too.
    """

    def __init__(self, transport: Transport, *, api: Api | None = None, owned: bool = False) -> None:
        """Nothing is asked yet."""
        self._transport, self._owned = transport, owned
        self._api = api or Api(transport)
        self._codec = Codec()
        self._lock = Lock()
        self._watches: set[_Watch] = set()
        self._closed = False

    @classmethod
    def connect(cls, context: str | None = None) -> Self:
        """A store in the cluster of a context of the kubeconfig; without one as `kubeconfig.choose` says. Needs the extra `kubernetes`.

        Raises:
            StoreRefusedError: There is no such context, or what it says cannot be used.
        """
        from ciliumipam.kubernetes.lightkube_transport import connect  # noqa: PLC0415 - other transports do without the extra

        return cls(connect(context), owned=True)

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def get(self, key: Key) -> Entry | None:
        """The record of a key, or None. One request."""
        self._check("get")
        found = self._find(key)
        return None if found is None else self._entry(key, found)

    def scan(self, kind: Kind) -> Listing:
        """Every record of a kind: one request for each 500."""
        self._check("scan")
        objects = self._api.list(resource_of(kind), labels=labels_of(kind))
        entries = sorted((to_entry(item, self._codec) for item in objects.items), key=lambda entry: entry[0])
        return Listing(tuple(entries), Revision(objects.revision))

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record. One request; two for a pool that is there, since what others wrote on it stays."""
        self._check("put")
        obj = to_object(key, record, self._codec)
        try:
            if expect is ABSENT:
                written = self._api.create(resource_of(key.kind), obj)
            else:
                written = self._api.replace(resource_of(key.kind), self._over(key, record, obj, expect))
        except ConflictError as error:
            raise self._conflict(key, expect) from error
        return Revision(str(written["metadata"]["resourceVersion"]))

    def _over(self, key: Key, record: Record, obj: dict[str, Any], expect: Revision) -> dict[str, Any]:
        """The object to put over the one of a revision."""
        if numeric(expect) is None:  # the server would not take it for a revision
            raise self._conflict(key, expect)
        if key.kind == "pool":
            present = self._find(key)
            if present is None or present["metadata"]["resourceVersion"] != expect:
                raise self._conflict(key, expect)
            obj = to_object(key, record, self._codec, present)
        obj["metadata"]["resourceVersion"] = str(expect)
        return obj

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record. One request."""
        self._check("delete")
        if numeric(expect) is None:  # the server would not take it for a revision
            raise self._conflict(key, expect)
        try:
            self._api.delete(resource_of(key.kind), object_name(key), revision=expect)
        except ConflictError as error:
            raise self._conflict(key, expect) from error

    def watch(self, kind: Kind, revision: Revision) -> Watch:
        """Every change of a kind after a revision."""
        self._check("watch")
        try:
            watch = _Watch(self, kind, self._api.watch(resource_of(kind), revision, labels=labels_of(kind)), self._codec)
        except RevisionExpiredError:
            raise RevisionExpiredError(kind, revision) from None
        with self._lock:
            self._watches.add(watch)
        if self.closed:
            watch.source.close()
        return watch

    @property
    def closed(self) -> bool:
        """Whether it was closed."""
        return self._closed

    def close(self) -> None:
        """Refuse every later call, and end all watches."""
        with self._lock:
            self._closed = True
            watches, self._watches = self._watches, set()
        for watch in watches:
            watch.source.close()
        if self._owned:
            self._transport.close()

    def forget(self, watch: _Watch) -> None:
        """A watch was closed."""
        with self._lock:
            self._watches.discard(watch)

    def _check(self, operation: str) -> None:
        if self._closed:
            raise StoreClosedError(operation)

    def _find(self, key: Key) -> dict[str, Any] | None:
        return self._api.get(resource_of(key.kind), object_name(key))

    def _entry(self, key: Key, obj: dict[str, Any]) -> Entry:
        found, entry = to_entry(obj, self._codec)
        if found != key:
            raise CorruptRecordError(str(key), f"its object {obj['metadata']['name']} is one of {found}")
        return entry

    def _conflict(self, key: Key, expect: Expect) -> ConflictError:
        """The conflict, with what is there now."""
        try:
            present = self._find(key)
            found = "nothing" if present is None else f"revision {present['metadata']['resourceVersion']}"
        except StoreError:
            found = "something else"
        return ConflictError(str(key), "nothing" if expect is ABSENT else f"revision {expect}", found)


class _Watch:
    """Changes of one kind, as the API server tells them."""

    def __init__(self, store: KubernetesStore, kind: Kind, source: ObjectWatch, codec: Codec) -> None:
        self._store, self._kind, self.source, self._codec = store, kind, source, codec
        self._ended = False

    @property
    def revision(self) -> Revision:
        """Where another watch can go on."""
        return Revision(self.source.revision)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Change:
        try:
            event = next(self.source)
        except StopIteration:
            if self._store.closed and not self._ended:
                raise StoreClosedError("watch") from None
            raise
        except RevisionExpiredError as error:
            raise RevisionExpiredError(self._kind, error.revision) from error
        if event.type == "DELETED":
            return Change(key_of(event.object), None)
        return Change(*to_entry(event.object, self._codec))

    def close(self) -> None:
        """End it, also while another thread waits in it."""
        self._ended = True
        self._store.forget(self)
        self.source.close()


__all__ = ["KubernetesStore"]
