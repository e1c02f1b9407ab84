"""`crds` and `deploy`: what a cluster needs, printed or installed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from ciliumipam.cli import codes, values
from ciliumipam.cli.store import Cluster, parse_place
from ciliumipam.cli.style import YAML, write_document
from ciliumipam.errors import InvalidRequestError
from ciliumipam.kubernetes.cilium_crds import PAIR
from ciliumipam.kubernetes.deploy import NAMESPACE, manifests
from ciliumipam.kubernetes.install import OURS, install
from ciliumipam.names import validate_name


def crds(arguments: Namespace) -> int:
    """Print the definitions, or install them."""
    if arguments.install:
        return _install(arguments)
    if arguments.store is not None:
        raise InvalidRequestError("--store goes with --install; without it the definitions are printed")
    _print(arguments, [*OURS, *(PAIR if arguments.cilium else ())])
    return codes.DONE


def _install(arguments: Namespace) -> int:
    from ciliumipam.kubernetes.lightkube_transport import connect  # noqa: PLC0415 - an extra, and slow to load

    place = parse_place("--store", arguments.store) if arguments.store is not None else Cluster(None)
    if not isinstance(place, Cluster):
        raise InvalidRequestError(f"--store {arguments.store!r} is no cluster; write kubernetes:[CONTEXT]")
    found = []
    with closing(connect(place.context)) as transport:
        for each in install(transport, cilium=arguments.cilium is not False):
            found.append(each)
            if not arguments.output.is_document:
                print(each, flush=True)
    if arguments.output.is_document:
        write_document(arguments.output, values.items(each._asdict() for each in found))
    ours = {str(definition["metadata"]["name"]) for definition in OURS}
    return codes.REFUSED if any(each.outcome == "left alone" and each.name in ours for each in found) else codes.DONE


def deploy(arguments: Namespace) -> int:
    """Print manifests that run the operator."""
    namespace = validate_name("namespace", arguments.namespace or NAMESPACE)
    _print(
        arguments, manifests(arguments.image, namespace, options=arguments.command_line, service_monitor=arguments.service_monitor)
    )
    return codes.DONE


def _print(arguments: Namespace, objects: Sequence[dict[str, Any]]) -> None:
    """Objects as documents of YAML, or as one List for programs."""
    if arguments.output.name in ("table", "yaml"):
        for each in objects:
            write_document(YAML, each, line=True)
    else:
        write_document(arguments.output, {"apiVersion": "v1", "kind": "List", "items": [*objects]})
