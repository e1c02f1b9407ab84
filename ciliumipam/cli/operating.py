"""`operator`: one replica of the operator, until it is told to end. All of it is in `ciliumipam.kubernetes`; here are its options."""

from __future__ import annotations

import socket
from argparse import Namespace
from contextlib import ExitStack, closing
from secrets import token_hex
from typing import TYPE_CHECKING

from ciliumipam.agent.terms import Terms
from ciliumipam.cli import codes
from ciliumipam.cli.cluster import sources
from ciliumipam.cli.logs import log_to_stderr
from ciliumipam.cli.running import parse_listen, stopped_by_signals
from ciliumipam.cli.store import Cluster, parse_place
from ciliumipam.errors import InvalidRequestError
from ciliumipam.health import HealthServer
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.lease import Lease
from ciliumipam.kubernetes.lightkube_transport import connect
from ciliumipam.kubernetes.on_demand import REQUEST, refuse_short_grace
from ciliumipam.kubernetes.operator import Operator
from ciliumipam.kubernetes.reporter import Reporter
from ciliumipam.kubernetes.service import LOG, OperatorService
from ciliumipam.names import validate_name
from ciliumipam.observer import UNOBSERVED

if TYPE_CHECKING:
    from ciliumipam.kubernetes.metrics import OperatorMetrics

_LEASE_DEADLINE = 4.0
"""Seconds for one request to the Lease: several fit into the time in which it has to be renewed."""


def operator(arguments: Namespace) -> int:
    """Run until SIGTERM or SIGINT."""
    place = parse_place("--store", arguments.store) if arguments.store is not None else Cluster(None)
    if not isinstance(place, Cluster):
        raise InvalidRequestError(f"--store {arguments.store!r} is no cluster; write kubernetes:[CONTEXT]")
    address, port = parse_listen(arguments.listen)
    namespace, name = _lease(arguments.lease)
    kinds = arguments.pools_from or sources()  # here, since a standby makes no operator until it leads
    if arguments.stop_after is not None:
        Terms(arguments.stop_after, arguments.grace, REQUEST).check()
    log_to_stderr(arguments.log_format)
    metrics = _metrics()
    instance = f"{socket.gethostname()[:100]}_{token_hex(4)}"

    with closing(connect(place.context)) as transport, ExitStack() as stack:
        refuse_short_grace(Api(transport), arguments.grace)

        def make(reporter: Reporter) -> Operator:
            return Operator(
                transport,
                write_to="node" if arguments.write_to == "node" else "cilium",
                grace=arguments.grace,
                stop_after=arguments.stop_after,
                threads=arguments.threads,
                sources=kinds,
                reporter=reporter,
                observer=metrics.observer if metrics is not None else UNOBSERVED,
            )

        lease = Lease(Api(transport, deadline=_LEASE_DEADLINE), namespace, name, instance) if arguments.leader_election else None
        service = OperatorService(Api(transport), make, instance, lease=lease, metrics=metrics)
        if port is not None:
            exposition = metrics.exposition if metrics is not None else None
            server = HealthServer(address, port, healthz=service.healthz, readyz=service.readyz, metrics=exposition)
            stack.enter_context(closing(server))
            LOG.info("listening port=%d", server.port)
        with stopped_by_signals(LOG) as stop:
            service.run(stop)
    return codes.DONE


def _metrics() -> OperatorMetrics | None:
    try:
        from ciliumipam.kubernetes.metrics import OperatorMetrics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        LOG.warning("there are no metrics without prometheus-client: pip install 'ciliumipam[prometheus]'")
        return None
    return OperatorMetrics()


def _lease(text: str) -> tuple[str, str]:
    namespace, slash, name = text.partition("/")
    if not slash:
        raise InvalidRequestError(f"--lease {text!r} is not NAMESPACE/NAME, as in kube-system/ciliumipam-operator")
    return validate_name("namespace", namespace), validate_name("name of a Lease", name)
