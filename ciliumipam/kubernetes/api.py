"""The verbs of Kubernetes over a `Transport`, with its answers made values and its errors made ours.

Reads are repeated until they are answered or the deadline has come. A write is repeated as long as it was surely not executed. Where it
may have been, one that creates or replaces carries a token of its own (the annotation `WRITE`), which only it wrote: the object as it is
then tells whether it was. What remains open raises `StoreUnavailableError` with `unknown`, and nothing is assumed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from random import uniform
from typing import Any, NamedTuple
from urllib.parse import quote

from ciliumipam.errors import (
    ConflictError,
    IpamError,
    RevisionExpiredError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ciliumipam.kubernetes.answers import Call, Resource, error_of, message_of, retry_after, too_large
from ciliumipam.kubernetes.object_watch import Event, ObjectWatch, Source, numeric
from ciliumipam.kubernetes.transport import Response, Stream, Transport, TransportError

WRITE = "ciliumipam.io/write"
"""The annotation that each write of ours changes. Without it a write of equal content would be dropped, and two writers would both win."""

_PAGE = 500
_TIMEOUT = 15.0
_STRICT = {"fieldValidation": "Strict"}
_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 2.0


class Objects(NamedTuple):
    """All objects of a resource at one moment, and a revision to watch from."""

    items: list[dict[str, Any]]
    revision: str


class Api:
    """Kubernetes' verbs. Thread-safe. Raises errors of `ciliumipam.errors` and nothing else.

    Args:
        transport: Connections to the server; whoever made it closes it.
        deadline: Seconds for which one call asks again where that can help.
        silence: Seconds after which a watch that tells nothing is taken for dead. Bookmarks come about once a minute.
        page: Objects of one answer of a listing.
        sleep: How to wait, for tests.
        clock: Seconds that only grow, for tests.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        deadline: float = 30.0,
        silence: float = 70.0,
        page: int = _PAGE,
        sleep: Callable[[float], object] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing is asked yet."""
        self._transport, self._deadline, self._silence, self._page = transport, deadline, silence, page
        self._sleep, self._clock = sleep, clock

    # --------------------------------------------------------------------------------------------------------- reads

    def get(self, resource: Resource, name: str) -> dict[str, Any] | None:
        """The object as it is now, or None."""
        try:
            return self._ask(Call("get", resource, name), "GET")
        except ConflictError:  # there is no such object
            return None

    def list(self, resource: Resource, *, labels: str = "") -> Objects:
        """Every object, all at one moment; each names its kind and version. Asks in pages, and anew where the server forgot that moment.

        Args:
            resource: Of what.
            labels: A label selector; empty selects all.
        """
        for limit in (self._page, self._page, 0):  # one answer without a limit cannot expire
            try:
                return self._pages(resource, labels, limit)
            except RevisionExpiredError:
                continue
        raise StoreUnavailableError(f"list {resource}", "each listing expired before its last page was read")

    def _pages(self, resource: Resource, labels: str, limit: int) -> Objects:
        query = ({"labelSelector": labels} if labels else {}) | ({"limit": str(limit)} if limit else {})
        items: list[dict[str, Any]] = []
        while True:
            answer = self._ask(Call("list", resource), "GET", query)
            metadata = answer.get("metadata") or {}
            items += answer.get("items") or ()
            if not metadata.get("continue"):
                break
            query["continue"] = metadata["continue"]
        version = f"{resource.group}/{resource.version}" if resource.group else resource.version
        for item in items:  # a typed list leaves both out of its items
            item.setdefault("apiVersion", version)
            item.setdefault("kind", resource.kind)
        return Objects(items, str(metadata.get("resourceVersion") or ""))

    def watch(self, resource: Resource, revision: str, *, labels: str = "") -> ObjectWatch:
        """Every change after a revision, that of a listing or of another watch.

        Raises:
            RevisionExpiredError: It is no revision of this server. Others are found to have expired by `next`.
        """
        if numeric(revision) is None:
            raise RevisionExpiredError(str(resource), revision)
        query = {"watch": "true", "allowWatchBookmarks": "true"} | ({"labelSelector": labels} if labels else {})
        path = _path(resource)

        def open_at(revision: str, seconds: int) -> Stream:
            asked = query | {"resourceVersion": revision, "timeoutSeconds": str(seconds)}
            return self._transport.stream(path, query=asked, timeout=self._silence)

        def present() -> Response:
            return self._transport.request("GET", path, query={"limit": "1"}, timeout=_TIMEOUT)

        return ObjectWatch(Source(resource, open_at, present, self._deadline, self._clock), revision)

    # -------------------------------------------------------------------------------------------------------- writes

    def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        """Create an object.

        A creation that may have been executed is never asked for again: if it came late it could bring back what was deleted since.

        Raises:
            ConflictError: There is one of this name.
        """
        name = obj["metadata"]["name"]
        try:
            return self._ask(Call("create", resource, name), "POST", _STRICT, obj)
        except StoreUnavailableError as error:
            if not error.unknown:
                raise
            found = self._own(resource, name, obj)
            if found is None:
                raise
            return found

    def replace(self, resource: Resource, obj: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        """Replace an object at its `metadata.resourceVersion`.

        Raises:
            ConflictError: That is not the present one, or there is no such object.
        """
        metadata = obj["metadata"]
        call = Call("update", resource, metadata["name"], subresource, str(metadata["resourceVersion"]))
        try:
            return self._ask(call, "PUT", _STRICT, obj)
        except StoreUnavailableError as error:
            if not error.unknown:
                raise
            return self._settle(call, obj, error)

    def _settle(self, call: Call, obj: dict[str, Any], lost: StoreUnavailableError) -> dict[str, Any]:
        """The object, if a replacement was executed after all: asked for again, at most one of the two can be."""
        end, attempt = self._clock() + self._deadline, 0
        while self._clock() < end:
            try:
                return self._ask(call, "PUT", _STRICT, obj)
            except ConflictError:
                found = self._own(call.resource, call.name, obj)
                if found is None:
                    raise lost from None
                return found
            except StoreUnavailableError:
                self._sleep(_pause(attempt))
                attempt += 1
            except StoreError:
                raise lost from None
        raise lost

    def _own(self, resource: Resource, name: str, wrote: dict[str, Any]) -> dict[str, Any] | None:
        """The object as it is, if it is what we wrote; None where that cannot be told."""
        token = _token(wrote)
        try:
            found = self.get(resource, name)
        except IpamError:
            return None
        return found if found is not None and token and _token(found) == token and found.get("spec") == wrote.get("spec") else None

    def patch(
        self,
        resource: Resource,
        name: str,
        patch: object,
        *,
        subresource: str = "",
        content_type: str = "application/merge-patch+json",
    ) -> dict[str, Any]:
        """Patch an object.

        Raises:
            ConflictError: The patch names a resourceVersion that is not the present one.
            NotFoundError: There is no such object, and the patch names no resourceVersion.
            StoreUnavailableError: With `unknown`: it may have been done, or may be done later.
        """
        metadata = patch.get("metadata") if isinstance(patch, Mapping) else None
        revision = str(metadata.get("resourceVersion") or "") if isinstance(metadata, Mapping) else ""
        call = Call("patch", resource, name, subresource, revision)
        return self._ask(call, "PATCH", _STRICT, patch, content_type)

    def delete(self, resource: Resource, name: str, *, uid: str = "", revision: str = "") -> None:
        """Delete an object, if it is the one meant.

        Raises:
            ConflictError: It has another uid or revision, or is gone.
        """
        conditions = ({"uid": uid} if uid else {}) | ({"resourceVersion": revision} if revision else {})
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "preconditions": conditions}
        call = Call("delete", resource, name, "", revision or uid)
        try:
            self._ask(call, "DELETE", {}, body)
        except StoreUnavailableError as error:
            if not error.unknown or not conditions:
                raise
            try:
                self._ask(call, "DELETE", {}, body)  # what was deleted cannot be deleted again under these conditions
            except IpamError:
                raise error from None

    # ----------------------------------------------------------------------------------------------------------- asking

    def _ask(
        self,
        call: Call,
        method: str,
        query: Mapping[str, str] | None = None,
        body: object = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        path = _path(call.resource, call.name if method != "POST" else "", call.subresource)
        end, attempt = self._clock() + self._deadline, 0
        while True:
            pause = _pause(attempt)
            try:
                response = self._transport.request(
                    method, path, query=query or {}, body=body, content_type=content_type, timeout=max(1.0, min(_TIMEOUT, self._deadline))
                )
            except TransportError as error:
                if error.permanent:
                    raise StoreRefusedError(str(call), error.reason) from error
                reason, unknown = error.reason, error.unknown and call.writes
            else:
                if response.status < 300:
                    return _object(call, response)
                wait = retry_after(response)
                if (response.status < 500 and wait is None) or too_large(response):
                    raise error_of(call, response)
                reason, unknown = f"{response.status} {message_of(response)}", wait is None and call.writes
                if wait is not None:
                    pause += wait
            if unknown:
                raise StoreUnavailableError(str(call), reason, unknown)
            if self._clock() + pause > end:
                raise StoreUnavailableError(str(call), f"{reason} (asked {attempt + 1} times within {self._deadline:g} s)")
            self._sleep(pause)
            attempt += 1


def _object(call: Call, response: Response) -> dict[str, Any]:
    if not isinstance(response.body, dict):
        # A proxy's page, with a status that says nothing went wrong.
        raise StoreUnavailableError(str(call), f"the answer is no JSON object: {message_of(response)}", call.writes)
    return response.body


def _path(resource: Resource, name: str = "", subresource: str = "") -> str:
    root = f"/apis/{resource.group}/{resource.version}" if resource.group else f"/api/{resource.version}"
    where = f"/namespaces/{quote(resource.namespace, safe='')}" if resource.namespace else ""
    parts = [quote(part, safe="") for part in (name, subresource) if part]
    return "/".join([f"{root}{where}/{resource.plural}", *parts])


def _pause(attempt: int) -> float:
    """Grows, and is never the same for two callers."""
    return uniform(0.5, 1.0) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0**attempt)  # noqa: S311 - not cryptography


def _token(obj: Mapping[str, Any]) -> str:
    return str((obj["metadata"].get("annotations") or {}).get(WRITE) or "")


__all__ = ["WRITE", "Api", "Event", "ObjectWatch", "Objects", "Resource"]
