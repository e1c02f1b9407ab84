"""Installing our definitions into a cluster: what is not ours is never replaced, and what was installed can be used at once.

Ours are those that carry the label `app.kubernetes.io/managed-by: ciliumipam`. A definition of `ciliumipam.io` is installed or brought up to
date; those of `cilium.io` come as a pair, and only where Cilium's own are not installed.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from ciliumipam.errors import ConflictError, StoreRefusedError, StoreUnavailableError
from ciliumipam.kubernetes.api import Api, Resource
from ciliumipam.kubernetes.cilium_crds import PAIR
from ciliumipam.kubernetes.crds import CIDR_LEDGER, CIDR_POOL, MANAGED
from ciliumipam.kubernetes.transport import Transport, TransportError

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
OURS = (CIDR_POOL, CIDR_LEDGER)

_PAUSE = 0.1
_TRIES = 20

Outcome: TypeAlias = Literal["installed", "updated", "unchanged", "left alone"]
Definition: TypeAlias = Mapping[str, Any]


class Installed(NamedTuple):
    """What became of one definition.

    Attributes:
        name: As in `kubectl get crds`.
        outcome: What was done.
        reason: Why it was left alone, else "".
    """

    name: str
    outcome: Outcome
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.name}: {self.outcome}{', since ' + self.reason if self.reason else ''}"


def install(transport: Transport, *, cilium: bool = True, deadline: float = 60.0) -> Iterator[Installed]:
    """Install the definitions one after the other, each until it is established and served, and tell of each.

    Args:
        transport: Connections as somebody who may get, create and update customresourcedefinitions.
        cilium: Also `CiliumNodeConfig` and `CiliumNode`, where the cluster has neither of somebody else.
        deadline: Seconds to wait for the server to serve one of them.

    Raises:
        StoreRefusedError: The server refuses a definition, its name or its short names are taken, or we may not install it.
        StoreUnavailableError: The server cannot be reached, or does not serve it in time.
    """
    api = Api(transport)
    for definition in OURS:
        yield _put(api, transport, definition, deadline)
    if not cilium:
        return
    foreign = [_name(each) for each in PAIR if _is_foreign(api.get(DEFINITIONS, _name(each)))]
    for definition in PAIR:
        if foreign and _name(definition) not in foreign:
            missing = "" if api.get(DEFINITIONS, _name(definition)) is not None else "; it is not there either, and whoever brought that one brings it"
            yield Installed(_name(definition), "left alone", f"the cluster has {foreign[0]} of somebody else{missing}")
        else:
            yield _put(api, transport, definition, deadline)


def _put(api: Api, transport: Transport, definition: Definition, deadline: float) -> Installed:
    name = _name(definition)
    for _ in range(_TRIES):
        found = api.get(DEFINITIONS, name)
        try:
            if found is None:
                api.create(DEFINITIONS, dict(definition))
                outcome: Outcome = "installed"
            elif _is_foreign(found):
                return Installed(name, "left alone", "it was not installed by ciliumipam")
            else:
                # The server drops a write that changes nothing; so its answer tells whether there was a difference.
                put = api.replace(DEFINITIONS, {**found, "spec": definition["spec"]})
                unchanged = put["metadata"]["resourceVersion"] == found["metadata"]["resourceVersion"]
                outcome = "unchanged" if unchanged else "updated"
        except ConflictError:  # somebody else was faster
            time.sleep(_PAUSE)
            continue
        _wait(api, transport, definition, time.monotonic() + deadline)
        return Installed(name, outcome)
    raise StoreUnavailableError(f"install {name}", f"somebody else changed it {_TRIES} times meanwhile")


def _wait(api: Api, transport: Transport, definition: Definition, end: float) -> None:
    """Until the server has accepted its names, serves each of its versions, and lists them for clients such as kubectl."""
    name, spec = _name(definition), definition["spec"]
    why = "it is not established"
    while time.monotonic() < end:
        status = (api.get(DEFINITIONS, name) or {}).get("status") or {}
        conditions = {each["type"]: each for each in status.get("conditions") or ()}
        accepted, established = conditions.get("NamesAccepted", {}), conditions.get("Established", {})
        if accepted.get("status") == "False":
            raise StoreRefusedError(f"install {name}", f"its names are taken: {accepted.get('message')}")
        if established.get("status") == "True":
            why = next(_unserved(api, transport, spec), "")
            if not why:
                return
        time.sleep(_PAUSE)
    raise StoreUnavailableError(f"install {name}", f"{why}, although it was accepted")


def _unserved(api: Api, transport: Transport, spec: Mapping[str, Any]) -> Iterator[str]:
    group, plural = spec["group"], spec["names"]["plural"]
    namespace = "default" if spec["scope"] == "Namespaced" else ""
    for version in (each["name"] for each in spec["versions"]):
        try:
            api.get(Resource(group, version, plural, spec["names"]["kind"], namespace), "ciliumipam")
            listed = transport.request("GET", f"/apis/{group}/{version}")
        except (StoreRefusedError, TransportError) as error:
            yield str(error)
            continue
        resources: Iterable[Mapping[str, Any]] = listed.body.get("resources", ()) if listed.status == 200 else ()
        if plural not in {each.get("name") for each in resources}:
            yield f"{group}/{version} does not list {plural}"


def _is_foreign(found: Mapping[str, Any] | None) -> bool:
    labels = (found or {}).get("metadata", {}).get("labels") or {}
    return found is not None and any(labels.get(key) != value for key, value in MANAGED.items())


def _name(definition: Definition) -> str:
    return str(definition["metadata"]["name"])


__all__ = ["DEFINITIONS", "OURS", "Installed", "Outcome", "install"]
