"""The commands by name, and those of them that only look or work on a whole store."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, TypeVar

from ciliumipam import Applied, Ipam, NodeStatus, PoolStatus, Store
from ciliumipam.boot import this_moment
from ciliumipam.cli import changing, codes, completion, fuzzing, values
from ciliumipam.cli.diff import write_diff
from ciliumipam.cli.progress import Progress
from ciliumipam.cli.store import both, deciding, in_cluster, reading, writing
from ciliumipam.cli.style import CHANGES, DOCUMENTS, LISTED, Style, write_document
from ciliumipam.cli.tables import ADDRESSES, BLOCKS, NODES, POOLS, ROUTES, Listed, NodeRow, dies_first, write_table
from ciliumipam.cli.text import Colour, paint, plain, say, say_some
from ciliumipam.cli.tree import as_tree
from ciliumipam.cli.watch import watch
from ciliumipam.errors import InvalidRequestError, IpamError, NotFoundError
from ciliumipam.manifest import export as to_manifests
from ciliumipam.manifest import pool_to_manifest

if TYPE_CHECKING:
    from ciliumipam.audit import Audit

T = TypeVar("T")

_WATCH_SECONDS, _WATCH_CLUSTER_SECONDS = 2.0, 10.0
_COLOURS: Mapping[str, Colour] = {"error": "red", "unfinished": "yellow"}

# ------------------------------------------------------------------------------------------------------- get


def get(arguments: Namespace) -> int:
    """Show what there is; by name, a pool or node as the manifest that it is elsewhere."""
    if arguments.interval is not None and not arguments.watch:
        raise InvalidRequestError("--interval goes with --watch")
    name: str | None = arguments.name
    with reading(arguments.store) as store:
        ipam = Ipam(store)
        match completion.kind_of(arguments.kind):
            case "pool":
                return _list(arguments, ipam, POOLS, partial(_pools, ipam, name), _manifest_of_pool)
            case "node":
                return _list(arguments, ipam, NODES, partial(_nodes, ipam, name), _manifest_of_node)
            case "block":
                look = partial(
                    _chosen, "block", name, ipam.blocks, lambda block: {str(block.prefix), block.node}, partial(_node_names, ipam)
                )
                return _list(arguments, ipam, BLOCKS, look)
            case _:
                find = partial(
                    _chosen,
                    "address",
                    name,
                    ipam.allocations,
                    lambda item: {str(item.address), item.owner, item.node},
                    partial(_node_names, ipam),
                )
                return _list(arguments, ipam, ADDRESSES, find)


def _list(
    arguments: Namespace,
    ipam: Ipam,
    listed: Listed[T],
    look: Callable[[], Sequence[T]],
    manifest: Callable[[T], values.Row] | None = None,
) -> int:
    style: Style = arguments.output
    found = look()
    if arguments.watch:
        return watch(style, listed, _again(ipam, found, look), arguments.interval or _usual_interval(arguments))
    if manifest is not None and arguments.name is not None and style.is_document:
        write_document(style, manifest(found[0]))
    else:
        listed.write(style, found)
    if style.name in ("table", "wide"):
        say_some(f"pool {each.spec.name}: {what}" for each in found if isinstance(each, PoolStatus) for what in each.concerns)
    return codes.DONE


def _usual_interval(arguments: Namespace) -> float:
    """Every look reads everything, which a cluster feels."""
    return _WATCH_CLUSTER_SECONDS if in_cluster(arguments.store) else _WATCH_SECONDS


def _again(ipam: Ipam, first: Sequence[T], look: Callable[[], Sequence[T]]) -> Callable[[], Sequence[T]]:
    """What there is: the first time as it was found already, then read again. What is watched may go and come."""
    looks = iter([first])

    def now() -> Sequence[T]:
        known = next(looks, None)
        if known is not None:
            return known
        ipam.refresh()
        with suppress(NotFoundError):
            return look()
        return ()

    return now


def _pools(ipam: Ipam, name: str | None) -> Sequence[PoolStatus]:
    return _chosen("pool", name, lambda: dies_first(ipam.pools()), lambda pool: {pool.spec.name})


def _nodes(ipam: Ipam, name: str | None) -> Sequence[NodeRow]:
    chosen = _chosen("node", name, ipam.nodes, lambda status: {status.node.name})
    addresses: dict[str, list[str]] = {}
    for item in ipam.allocations(name):
        addresses.setdefault(item.node, []).append(str(item.address))
    return [NodeRow(status, addresses.get(status.node.name, ())) for status in chosen]


def _manifest_of_pool(status: PoolStatus) -> values.Row:
    return pool_to_manifest(status.spec)


def _manifest_of_node(row: NodeRow) -> values.Row:
    status: NodeStatus = row.status
    return values.cilium_node(status)


def _node_names(ipam: Ipam) -> Iterable[str]:
    return (status.node.name for status in ipam.nodes())


def _chosen(
    kind: str,
    name: str | None,
    items: Callable[[], Sequence[T]],
    names: Callable[[T], set[str]],
    holders: Callable[[], Iterable[str]] = tuple,
) -> Sequence[T]:
    """The items that have a name; none is an error, unless it is the name of one of the holders, who then holds nothing."""
    if name is None:
        return items()
    wanted = _normal(name)
    chosen = [item for item in items() if wanted in names(item)]
    if not chosen and wanted not in holders():
        raise NotFoundError(kind, name)
    return chosen


def _normal(name: str) -> str:
    """An address or CIDR as it is printed, whatever the spelling; everything else as it is."""
    for parse in (ip_address, ip_network):
        with suppress(ValueError):
            return str(parse(name))
    return name


# ------------------------------------------------------------------------------------------- explain and check


def explain(arguments: Namespace) -> int:
    """Say why a node has what it has."""
    with reading(arguments.store) as store:
        explanation = Ipam(store).explain(arguments.node)
    if arguments.output.is_document:
        write_document(arguments.output, {"node": explanation.node, "lines": list(explanation.lines)})
    else:
        for line in as_tree([plain(line) for line in explanation.lines]):
            print(line)
    return codes.DONE


def routes(arguments: Namespace) -> int:
    """Show what routers announce."""
    with reading(arguments.store) as store:
        found = Ipam(store).routes(arguments.pool, arguments.by)
    ROUTES.write(arguments.output, found)
    return codes.DONE


_COMMAND = re.compile(r"\bciliumipam (?=[a-z])")
"""Where a command begins in what a finding says about repair."""


def check(arguments: Namespace) -> int:
    """Verify the store, and on request repair what can be repaired."""
    from ciliumipam.audit import audit  # noqa: PLC0415 - no other command needs it

    def code(result: Audit) -> int:
        return codes.FOUND if any(finding.severity == "error" for finding in result.findings) else codes.DONE

    def look(store: Store) -> Audit:
        if not in_cluster(arguments.store):
            return audit(store, moment=this_moment)
        from ciliumipam.cli.cluster import audit_live  # noqa: PLC0415 - a client of Kubernetes takes a while to load
        from ciliumipam.kubernetes.cluster import ClusterStore  # noqa: PLC0415 - the same

        assert isinstance(store, ClusterStore)  # noqa: S101 - it was opened as one
        live = audit_live(store)
        if arguments.store is None:  # $CILIUMIPAM_STORE, which the commands that are told read too
            return live
        told = f"ciliumipam --store {arguments.store} "
        return live._replace(findings=tuple(each._replace(repair=_COMMAND.sub(told, each.repair)) for each in live.findings))

    if not arguments.repair:
        with reading(arguments.store) as store:
            result = look(store)
        _print_audit(arguments, result)
        return code(result)
    with writing(arguments.store) as store:
        before = look(store)
        try:
            repaired = _repair(store, arguments.journal)
        except IpamError:
            _print_audit(arguments, before)
            raise
        after = look(store)
    mended = [finding for finding in before.findings if finding not in after.findings]
    if arguments.output.is_document:
        value = {**values.audit(after), "mended": [values.finding(each) for each in mended], **values.outcome(repaired)}
        write_document(arguments.output, value)
    else:
        write_diff(Applied(repaired.changes), "Done")
        for finding in mended:
            print(plain(f"mended: {finding.where}: {finding.what}"))
        _print_audit(arguments, after)
    return code(after)


def _repair(store: Store, journal: str | None) -> Applied:
    with Progress() as progress, deciding(store, journal) as ipam:
        progress.tell("repairing")
        return ipam.repair()


def _print_audit(arguments: Namespace, result: Audit) -> None:
    if arguments.output.is_document:
        write_document(arguments.output, values.audit(result))
        return
    rows = [
        [paint(f.severity, _COLOURS.get(f.severity)), plain(f.where), plain(f.what), plain(f.repair)] for f in result.findings
    ]
    write_table("findings", ("SEVERITY", "WHERE", "WHAT", "REPAIR"), rows)
    print("checked: " + ", ".join(f"{count} {what}" for what, count in result.counts.items()))


# ------------------------------------------------------------------------------------------------ whole stores


def export(arguments: Namespace) -> int:
    """Print everything as manifests."""
    with reading(arguments.store) as store:
        ipam = Ipam(store)
        document = to_manifests(ipam.pools(), ipam.nodes(), ipam.blocks(), ipam.allocations())
    write_document(arguments.output, document)
    return codes.DONE


def copy(arguments: Namespace) -> int:
    """Copy a store into another one."""
    from ciliumipam.transfer import copy as copy_store  # noqa: PLC0415 - no other command needs it

    if arguments.store is not None:
        raise InvalidRequestError("copy works on --from and --to; leave --store out")
    with both(arguments.source, arguments.target) as (source, target), Progress() as progress:
        copied = copy_store(source, target, progress.count)
    result = {"records": dict(copied.records), "written": copied.written, **values.audit(copied.audit)}
    if arguments.output.is_document:
        write_document(arguments.output, result)
    else:
        print("copied: " + ", ".join(f"{count} {kind}" for kind, count in copied.records.items()))
        before = sum(copied.records.values()) - copied.written
        if before:
            say(f"{before} of these records were there already, as an earlier copy had left them")
        _print_audit(arguments, copied.audit)
    return codes.FOUND if any(finding.severity == "error" for finding in copied.audit.findings) else codes.DONE


def replay(arguments: Namespace) -> int:
    """Do again what a journal tells of."""
    from ciliumipam.cli.replaying import replay as replay_journal  # noqa: PLC0415 - no other command needs it

    return replay_journal(arguments)


def crds(arguments: Namespace) -> int:
    """Print or install the definitions."""
    from ciliumipam.cli.crds import crds as print_or_install  # noqa: PLC0415 - no other command needs it

    return print_or_install(arguments)


def deploy(arguments: Namespace) -> int:
    """Print manifests that run the operator."""
    from ciliumipam.cli.crds import deploy as print_manifests  # noqa: PLC0415 - no other command needs it

    return print_manifests(arguments)


def complete(arguments: Namespace) -> int:
    """Print what a shell has to read to complete words."""
    print(completion.script(arguments.shell), end="")
    return codes.DONE


def operator(arguments: Namespace) -> int:
    """Give the nodes of a cluster their blocks, until told to stop."""
    from ciliumipam.cli.operating import operator as operate  # noqa: PLC0415 - no other command needs it

    return operate(arguments)


def agent(arguments: Namespace) -> int:
    """Keep the blocks of one node, until told to stop."""
    from ciliumipam.cli.agent import agent as keep  # noqa: PLC0415 - no other command needs it

    return keep(arguments)


def torture(arguments: Namespace) -> int:
    """Hunt for faults of an allocator."""
    from ciliumipam.cli.torturing import torture as hunt  # noqa: PLC0415 - no other command needs it

    return hunt(arguments)


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "plan": changing.plan,
    "apply": changing.apply,
    "allocate": changing.allocate,
    "release": changing.release,
    "get": get,
    "explain": explain,
    "routes": routes,
    "grow": changing.grow,
    "request": changing.request,
    "hand-back": changing.hand_back,
    "drain": changing.drain,
    "migrate": changing.migrate,
    "shrink": changing.shrink,
    "rebalance": changing.rebalance,
    "delete": changing.delete,
    "check": check,
    "export": export,
    "copy": copy,
    "replay": replay,
    "crds": crds,
    "deploy": deploy,
    "operator": operator,
    "agent": agent,
    "completion": complete,
    "torture": torture,
    "fuzz": fuzzing.fuzz,
}
STYLES: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(COMMANDS, CHANGES),
    **dict.fromkeys(("get", "allocate", "release", "routes"), LISTED),
    "export": ("yaml", *(style for style in DOCUMENTS if style != "yaml")),
    "deploy": ("yaml", *(style for style in DOCUMENTS if style != "yaml")),
    "completion": ("table",),
    "operator": ("table",),
    "agent": ("table",),
}
"""What each command can print, the default first."""
