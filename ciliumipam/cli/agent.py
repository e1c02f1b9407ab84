"""`agent`: the agent of one node, until it is told to end. All of it is in `ciliumipam.agent`; here are its options."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING

from ciliumipam.agent import BlockSource, LedgerSource, NodeAgent, SilentNodes, Terms
from ciliumipam.agent.service import LOG, AgentService
from ciliumipam.cli import codes
from ciliumipam.cli.logs import log_to_stderr
from ciliumipam.cli.running import parse_listen, stopped_by_signals
from ciliumipam.cli.store import Cluster, parse_file, place_of, writing
from ciliumipam.demand import Watermark
from ciliumipam.errors import InvalidRequestError
from ciliumipam.health import HealthServer
from ciliumipam.observer import UNOBSERVED
from ciliumipam.store import Store
from ciliumipam.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from ciliumipam.agent.metrics import AgentMetrics

_DEADLINE = 5.0
"""Seconds for which one question to a server is asked again: rounds follow each other anyway."""


def agent(arguments: Namespace) -> int:
    """Run until SIGTERM or SIGINT, or for one round that leaves nothing to do."""
    address, port = parse_listen(arguments.listen)
    terms = Terms(arguments.stop_after, arguments.return_after or Terms.least_return(arguments.stop_after)).check()
    log_to_stderr(arguments.log_format)
    metrics = _metrics() if port is not None else None
    watermark = Watermark(arguments.spare, arguments.spare, arguments.idle)
    with ExitStack() as stack:
        own: Store | None = None
        if arguments.local is not None:
            own = stack.enter_context(closing(SqliteStore(parse_file("--local", arguments.local))))
        place = place_of(arguments.store)
        silent = None
        if isinstance(place, Cluster):
            if own is None:
                raise InvalidRequestError("in a cluster a node keeps its addresses in a store of its own: name it with --local sqlite:PATH")
            if arguments.return_after is not None:
                raise InvalidRequestError("in a cluster the operator gives blocks of nodes that are gone to others; its option is --grace")
            source: BlockSource = stack.enter_context(_of_cluster(place.context, arguments))
        else:
            shared = stack.enter_context(writing(arguments.store))
            source = LedgerSource(shared, arguments.node, terms, one_store=own is None)
            own = own or shared
            silent = SilentNodes(shared, terms) if arguments.return_after is not None else None
        observer = metrics.observer if metrics is not None else UNOBSERVED
        node = NodeAgent(source, own, arguments.node, watermark=watermark, observer=observer)
        service = AgentService(
            node,
            every=terms.stop_after / 6,
            silent=silent,
            told=metrics.told if metrics is not None else lambda *_: None,
        )
        if arguments.once:
            for _ in range(100):
                if not service.step():
                    break
            health = service.readyz()
            print(f"node {arguments.node}: {health.says}")
            return codes.DONE if health.is_well else codes.REFUSED
        if port is not None:
            if metrics is not None:
                metrics.show(node)
            exposition = metrics.exposition if metrics is not None else None
            server = HealthServer(address, port, healthz=service.healthz, readyz=service.readyz, metrics=exposition)
            stack.enter_context(closing(server))
            LOG.info("listening port=%d", server.port)
        with stopped_by_signals(LOG) as stop:
            service.run(stop)
    return codes.DONE


@contextmanager
def _of_cluster(context: str | None, arguments: Namespace) -> Iterator[BlockSource]:
    """The node's own object as the source of its blocks."""
    from ciliumipam.kubernetes.api import Api  # noqa: PLC0415 - a client of Kubernetes takes a while to load
    from ciliumipam.kubernetes.lightkube_transport import connect  # noqa: PLC0415 - the same
    from ciliumipam.kubernetes.node_sources import CiliumNodeSource, NodeSource  # noqa: PLC0415 - the same

    with closing(connect(context)) as transport:
        api = Api(transport, deadline=_DEADLINE)
        if arguments.write_to == "node":
            yield NodeSource(api, arguments.node, arguments.stop_after)
        else:
            yield CiliumNodeSource(api, arguments.node, register=arguments.register)


def _metrics() -> AgentMetrics | None:
    try:
        from ciliumipam.agent.metrics import AgentMetrics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        LOG.warning("there are no metrics without prometheus-client: pip install 'ciliumipam[prometheus]'")
        return None
    return AgentMetrics()
