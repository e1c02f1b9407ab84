"""What an answer of the API server means: whether it may be asked again, and which of our errors it is.

Kubernetes' own rules, by which nothing is guessed: a 409 says by its reason what it is; 429, and 503 with Retry-After, are answers of the
flow control in front, so nothing was executed; every other 5xx may come after the write (a time-out between the server and etcd is a
500 or a 504, also one that names a Retry-After).
"""

from __future__ import annotations

from typing import Any, NamedTuple

from ciliumipam.errors import (
    ConflictError,
    IpamError,
    NotFoundError,
    NotInstalledError,
    RevisionExpiredError,
    StoreRefusedError,
)
from ciliumipam.kubernetes.transport import Response
from ciliumipam.names import shorten

_TOO_LARGE = ("request is too large", "trying to send message larger than max", "limit is 3145728")
_INSTALL = "install or update its definition: ciliumipam crds --install"


class Resource(NamedTuple):
    """One kind of object. An empty group is the core group; an empty namespace is a resource of the whole cluster, or all namespaces."""

    group: str
    version: str
    plural: str
    kind: str
    namespace: str = ""

    def __str__(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Call(NamedTuple):
    """What was asked, in Kubernetes' words.

    Attributes:
        verb: get, list, watch, create, update, patch or delete.
        resource: Of what.
        name: Of which; empty for list and watch.
        subresource: Such as status.
        revision: The resourceVersion that it depends on, if any.
    """

    verb: str
    resource: Resource
    name: str = ""
    subresource: str = ""
    revision: str = ""

    @property
    def writes(self) -> bool:
        """Whether it changes something."""
        return self.verb in {"create", "update", "patch", "delete"}

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}{'/' + self.subresource if self.subresource else ''}{' ' + self.name if self.name else ''}"


def reason_of(response: Response) -> str:
    """The word of a Status for programs, as "AlreadyExists"; empty where there is none."""
    return str(response.body.get("reason") or "") if isinstance(response.body, dict) else ""


def message_of(response: Response) -> str:
    """What the server says, for people."""
    said = response.body.get("message") if isinstance(response.body, dict) else response.body
    return shorten(" ".join(str(said or "no reason given").split()), 600)


def retry_after(response: Response) -> float | None:
    """Seconds to wait where the answer says that nothing was executed and asks to come again; None for every other answer."""
    given = response.headers.get("retry-after")
    if response.status == 429 or (response.status == 503 and given is not None):
        return float(given) if given is not None and given.isdecimal() else 1.0
    return None


def too_large(response: Response) -> bool:
    """Whether the object does not fit: refused by the server, or by etcd behind it, whichever status that has."""
    return response.status == 413 or (response.status >= 400 and any(text in message_of(response) for text in _TOO_LARGE))


def error_of(call: Call, response: Response) -> IpamError:
    """Our error for an answer that will be the same tomorrow (4xx)."""
    status, message = response.status, message_of(response)
    if too_large(response):
        return StoreRefusedError(str(call), f"the object is too large for the API server or for etcd (1.5 MiB): {message}")
    if status == 409:
        if reason_of(response) == "AlreadyExists":
            return ConflictError(_key(call), "nothing", "an object of this name")
        return ConflictError(_key(call), f"revision {call.revision}" if call.revision else "no other writer", "another revision")
    if status == 410:
        return RevisionExpiredError(str(call.resource), call.revision)
    if status == 404:
        return _missing(call, response)
    if status == 401:
        return StoreRefusedError(
            str(call), f"the API server does not accept the credentials (401 {message}): log in again, or use another context"
        )
    if status == 403:
        return StoreRefusedError(str(call), _forbidden(call, message))
    if status == 400 and "strict decoding error" in message:
        return StoreRefusedError(
            str(call), f"the definition of {call.resource} in the cluster is of another version: {message}; {_INSTALL}"
        )
    return StoreRefusedError(str(call), f"the API server refuses it ({status}): {message}")


def _key(call: Call) -> str:
    return f"{call.resource} {call.name}"


def _missing(call: Call, response: Response) -> IpamError:
    """A 404 names the object that is missing; one that names none has no such resource at all."""
    details: Any = response.body.get("details") if isinstance(response.body, dict) else None
    if not isinstance(details, dict) or not details.get("name"):
        what = f"{call.resource}{'/' + call.subresource if call.subresource else ''} of version {call.resource.version}"
        advice = f"; {_INSTALL}" if call.resource.group else ""
        return NotInstalledError(str(call), f"the API server has no {what}{advice}")
    if call.verb == "create" and details.get("kind") == "namespaces":
        namespace = details["name"]
        return StoreRefusedError(str(call), f"there is no namespace {namespace}; create it: kubectl create namespace {namespace}")
    if details["name"] != call.name or call.verb == "create":
        return StoreRefusedError(str(call), message_of(response))
    if call.verb == "patch" and not call.revision:
        return NotFoundError(call.resource.kind, call.name)
    return ConflictError(_key(call), f"revision {call.revision}" if call.revision else "an object", "nothing")


def _forbidden(call: Call, message: str) -> str:
    if " cannot " not in message:  # a quota, an admission webhook
        return f"the API server forbids it: {message}"
    if "system:anonymous" in message:
        return f"the API server does not know who asks: {message}; check the credentials of the kubeconfig"
    plural = f"{call.resource.plural}/{call.subresource}" if call.subresource else call.resource.plural
    rule = f'apiGroups: ["{call.resource.group}"], resources: ["{plural}"], verbs: ["{call.verb}"]'
    return f"not permitted: {message}; the RBAC rule that lacks: {rule}"


__all__ = ["Call", "Resource", "error_of", "message_of", "reason_of", "retry_after", "too_large"]
