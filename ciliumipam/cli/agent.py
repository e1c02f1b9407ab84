"""`agent`: the agent of one node, until it is told to end. All of it is in `ciliumipam.agent`; here are its options."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

from ciliumipam.agent import LedgerSource, NodeAgent, SilentNodes, Terms
from ciliumipam.agent.service import LOG, AgentService
from ciliumipam.cli import codes
from ciliumipam.cli.logs import log_to_stderr
from ciliumipam.cli.running import parse_listen, stopped_by_signals
from ciliumipam.cli.store import parse_file, writing
from ciliumipam.demand import Watermark
from ciliumipam.health import HealthServer
from ciliumipam.observer import UNOBSERVED
from ciliumipam.store.sqlite import SqliteStore

if TYPE_CHECKING:
    from ciliumipam.agent.metrics import AgentMetrics


def agent(arguments: Namespace) -> int:
    """Run until SIGTERM or SIGINT, or for one round that leaves nothing to do."""
    address, port = parse_listen(arguments.listen)
    terms = Terms(arguments.stop_after, arguments.return_after or Terms.least_return(arguments.stop_after)).check()
    log_to_stderr(arguments.log_format)
    metrics = _metrics() if port is not None else None
    watermark = Watermark(arguments.spare, arguments.spare, arguments.idle)
    with ExitStack() as stack:
        shared = stack.enter_context(writing(arguments.store))
        one_store = arguments.local is None
        own = shared if one_store else stack.enter_context(closing(SqliteStore(parse_file("--local", arguments.local))))
        source = LedgerSource(shared, arguments.node, terms, one_store=one_store)
        observer = metrics.observer if metrics is not None else UNOBSERVED
        node = NodeAgent(source, own, arguments.node, watermark=watermark, observer=observer)
        silent = SilentNodes(shared, terms) if arguments.return_after is not None else None
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


def _metrics() -> AgentMetrics | None:
    try:
        from ciliumipam.agent.metrics import AgentMetrics  # noqa: PLC0415 - an extra
    except ModuleNotFoundError:
        LOG.warning("there are no metrics without prometheus-client: pip install 'ciliumipam[prometheus]'")
        return None
    return AgentMetrics()
