"""Which cluster, and who we are there: one context out of a kubeconfig, or what a pod finds in itself.

lightkube reads kubeconfigs as well, but one file only, without `proxy-url`, `tls-server-name` and `as`, and drops what it does not know:
who asks for less by `as` must not get more.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ciliumipam.errors import StoreRefusedError
from ciliumipam.words import some

try:
    import yaml
except ModuleNotFoundError as error:
    reason = "a kubeconfig is YAML, which needs PyYAML: pip install 'ciliumipam[kubernetes]'"
    raise ModuleNotFoundError(reason, name=error.name) from error

_ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
_DEFAULT = Path("~/.kube/config")
_FILES = ("certificate-authority", "client-certificate", "client-key", "tokenFile")
_OPERATION = "connect to Kubernetes"


class Chosen(NamedTuple):
    """A cluster and a user of it, as a kubeconfig spells them; files are absolute.

    Attributes:
        name: The context, or "in-cluster".
        source: The file that says so.
        cluster: Fields of the cluster.
        user: Fields of the user.
    """

    name: str
    source: Path
    cluster: Mapping[str, Any]
    user: Mapping[str, Any]


def choose(context: str | None = None, *, account: Path = _ACCOUNT) -> Chosen:
    """The context asked for; without one the present one of `KUBECONFIG`, else that of the pod we are in, else that of `~/.kube/config`.

    Args:
        context: A name of the kubeconfig.
        account: Where a pod has its service account.

    Raises:
        StoreRefusedError: There is none, or it cannot be read.
    """
    named = [Path(part).expanduser() for part in os.environ.get("KUBECONFIG", "").split(os.pathsep) if part]
    host, port = os.environ.get("KUBERNETES_SERVICE_HOST"), os.environ.get("KUBERNETES_SERVICE_PORT")
    if context is None and not named and host and port and (account / "token").exists():
        server = f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"
        cluster = {"server": server, "certificate-authority": str(account / "ca.crt")}
        return Chosen("in-cluster", account, cluster, {"tokenFile": str(account / "token")})
    asked = named or [_DEFAULT.expanduser()]
    paths = [path for path in asked if path.exists()]
    if not paths:
        where = ", ".join(map(str, asked))
        raise StoreRefusedError(
            _OPERATION, f"there is no kubeconfig: looked for {where}, and this is no pod with a service account; set KUBECONFIG"
        )
    return _context(paths, context)


def _context(paths: list[Path], context: str | None) -> Chosen:
    """Of several files the first that has a name counts, as with kubectl."""
    found: dict[str, dict[str, tuple[Path, dict[str, Any]]]] = {"contexts": {}, "clusters": {}, "users": {}}
    current = ""
    for path in paths:
        document = _read(path)
        current = current or str(document.get("current-context") or "")
        for plural, known in found.items():
            for item in document.get(plural) or ():
                try:
                    known.setdefault(str(item["name"]), (path, dict(item.get(plural[:-1]) or {})))
                except (TypeError, KeyError, AttributeError, ValueError):
                    raise StoreRefusedError(_OPERATION, f"{path}: {plural}: an item without a name, or that is no mapping") from None
    files = ", ".join(map(str, paths))
    name = context if context is not None else current
    if not name:
        raise StoreRefusedError(_OPERATION, f"{files} has no current-context: name one of {_names(found['contexts'])}")
    if name not in found["contexts"]:
        raise StoreRefusedError(_OPERATION, f"{files} has no context {name!r}; known: {_names(found['contexts'])}")
    source, fields = found["contexts"][name]
    parts: list[dict[str, Any]] = []
    for plural in ("clusters", "users"):
        wanted = str(fields.get(plural[:-1]) or "")
        if plural == "users" and not wanted:
            parts.append({})
            continue
        if wanted not in found[plural]:
            there = f"which is not there; known: {_names(found[plural])}"
            raise StoreRefusedError(_OPERATION, f"{source}: context {name!r} names the {plural[:-1]} {wanted!r}, {there}")
        file, values = found[plural][wanted]
        parts.append({key: str(file.parent.absolute() / value) if key in _FILES and value else value for key, value in values.items()})
    cluster, user = parts
    if not cluster.get("server"):
        raise StoreRefusedError(_OPERATION, f"{source}: the cluster of context {name!r} has no server")
    return Chosen(name, source, cluster, user)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        document = yaml.safe_load(path.read_text())
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise StoreRefusedError(_OPERATION, f"{path} cannot be read: {' '.join(str(error).split())}") from None
    if not isinstance(document, Mapping):
        raise StoreRefusedError(_OPERATION, f"{path} is no kubeconfig: not a mapping")
    return document


def _names(known: Mapping[str, object]) -> str:
    return some(sorted(known)) or "none"


__all__ = ["Chosen", "choose"]
