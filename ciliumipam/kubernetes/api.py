"""The verbs of Kubernetes over a `Transport`, with its answers made values and its errors made ours.

SIGNATURES FIRST: the bodies follow in the next commits.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple, Self

from ciliumipam.kubernetes.transport import Transport


class Resource(NamedTuple):
    """One kind of object. An empty group is the core group; an empty namespace is a resource of the whole cluster."""

    group: str
    version: str
    plural: str
    kind: str
    namespace: str = ""


class Objects(NamedTuple):
    """All objects of a resource at one moment, and a revision to watch from."""

    items: list[dict[str, Any]]
    revision: str


class Event(NamedTuple):
    """One change of an object. `object` is its new state, or for DELETED its last."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    object: dict[str, Any]


class ObjectWatch(Iterator[Event]):
    """Changes as they come. Goes on by itself after clean closes and short failures; any thread may close it."""

    @property
    def revision(self) -> str:
        """Where another watch can go on; bookmarks move it as well."""
        raise NotImplementedError

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        """The next change; ends when closed.

        Raises:
            RevisionExpiredError: List again.
            StoreUnavailableError: The server could not be reached for the deadline. Watch again from `revision`.
        """
        raise NotImplementedError

    def close(self) -> None:
        """End it, also while another thread waits in it."""
        raise NotImplementedError


class Api:
    """Kubernetes' verbs. Thread-safe. Raises `StoreError`s and nothing else."""

    def __init__(self, transport: Transport, *, deadline: float = 30.0) -> None:
        self._transport, self._deadline = transport, deadline

    def get(self, resource: Resource, name: str) -> dict[str, Any] | None:
        """The object, or None."""
        raise NotImplementedError

    def list(self, resource: Resource, *, labels: str = "") -> Objects:
        """Every object, at one moment."""
        raise NotImplementedError

    def create(self, resource: Resource, obj: dict[str, Any]) -> dict[str, Any]:
        """Create; ConflictError where the name is taken."""
        raise NotImplementedError

    def replace(self, resource: Resource, obj: dict[str, Any], subresource: str = "") -> dict[str, Any]:
        """Replace at the object's metadata.resourceVersion; ConflictError where that is not the present one, or it is gone."""
        raise NotImplementedError

    def patch(
        self, resource: Resource, name: str, patch: object, *, subresource: str = "", content_type: str = "application/merge-patch+json"
    ) -> dict[str, Any]:
        """Patch; ConflictError where the patch names another resourceVersion, NotFoundError where there is no such object."""
        raise NotImplementedError

    def delete(self, resource: Resource, name: str, *, uid: str = "", revision: str = "") -> None:
        """Delete; ConflictError where it is another one, or is gone."""
        raise NotImplementedError

    def watch(self, resource: Resource, revision: str, *, labels: str = "") -> ObjectWatch:
        """Every change after a revision."""
        raise NotImplementedError
