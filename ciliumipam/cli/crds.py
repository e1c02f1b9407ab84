"""`crds` and `deploy`: what a cluster needs, printed or installed."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence
from contextlib import closing
from typing import Any

from ciliumipam.agent.terms import Terms
from ciliumipam.cli import codes, values
from ciliumipam.cli.parser import build_parser
from ciliumipam.cli.store import Cluster, parse_place
from ciliumipam.cli.style import YAML, write_document
from ciliumipam.errors import InvalidRequestError
from ciliumipam.kubernetes.cilium_crds import PAIR
from ciliumipam.kubernetes.deploy import NAMESPACE, manifests
from ciliumipam.kubernetes.install import OURS, install
from ciliumipam.kubernetes.on_demand import REQUEST
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
    options: list[str] = arguments.command_line
    try:
        chosen = build_parser().parse_args(["operator", *options])
    except SystemExit:  # it has said what is wrong with them
        return codes.BAD_INPUT
    agents = None
    if arguments.agents:
        if chosen.stop_after is None:
            chosen.stop_after = Terms().stop_after
            options = [*options, f"--stop-after={chosen.stop_after:g}"]
            if not any(each.startswith("--grace") for each in options):
                chosen.grace = Terms.least_return(chosen.stop_after, REQUEST)
                options = [*options, f"--grace={chosen.grace:g}"]
        agents = [f"--write-to={chosen.write_to}", f"--stop-after={chosen.stop_after:g}"] if chosen.write_to == "node" else []
    if chosen.stop_after is not None:
        Terms(chosen.stop_after, chosen.grace, REQUEST).check()
    sources = chosen.pools_from or ()
    _print(
        arguments,
        manifests(
            arguments.image, namespace, options=options, sources=sources, service_monitor=arguments.service_monitor, agents=agents
        ),
    )
    return codes.DONE


def _print(arguments: Namespace, objects: Sequence[dict[str, Any]]) -> None:
    """Objects as documents of YAML, or as one List for programs."""
    if arguments.output.name in ("table", "yaml"):
        for each in objects:
            write_document(YAML, each, line=True)
    else:
        write_document(arguments.output, {"apiVersion": "v1", "kind": "List", "items": [*objects]})
