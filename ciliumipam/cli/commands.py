"""One function a command: open the store, call the library, print what it says. Each returns the exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from ipaddress import ip_address, ip_network
from typing import TypeVar

from ciliumipam import (
    Allocate,
    Allocation,
    Apply,
    Change,
    ForceRelease,
    Ipam,
    MemoryStore,
    Node,
    PoolSpec,
    Refusal,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
)
from ciliumipam.cidr import Address, parse_address, to_address
from ciliumipam.cli import output
from ciliumipam.cli.input import read_documents
from ciliumipam.cli.store import reading, store_path, writing
from ciliumipam.cli.text import plain, say
from ciliumipam.errors import InvalidRequestError, IpamError, NotFoundError
from ciliumipam.manifest import pool_to_manifest, read_manifests
from ciliumipam.requests import Request

T = TypeVar("T")


def apply(arguments: Namespace) -> int:
    """Read all manifests, then apply them in one request."""
    items = read_manifests(pair for file in arguments.files for pair in read_documents(file)).items
    pools = tuple(item for item in items if isinstance(item, PoolSpec))
    nodes = tuple(item for item in items if isinstance(item, Node))
    request = Apply(pools, nodes)
    if arguments.dry_run:
        return _dry_run(arguments, [request], absent_is_empty=True)
    if not store_path(arguments.store).exists():
        Ipam(MemoryStore()).plan(request)  # what is refused must not leave a new, empty file behind
    with writing(arguments.store, create=True) as store:
        applied = Ipam(store).apply(pools, nodes)
    return _print_changes(arguments, applied.changes, applied.refusals)


def allocate(arguments: Namespace) -> int:
    """Give owners an address."""
    address = None if arguments.address is None else _address(arguments.address)
    request = Allocate(arguments.node, tuple(arguments.owners), address, arguments.family, arguments.label)
    if arguments.dry_run:
        return _dry_run(arguments, [request])
    with writing(arguments.store) as store:
        ipam = Ipam(store)
        given = ipam.allocate(
            request.node, *request.owners, address=request.address, family=request.family, label=request.label
        )
    output.write_allocations(arguments.output, given)
    return 0


def release(arguments: Namespace) -> int:
    """Release by owner, by fence, or by force."""
    request = _release_request(arguments)
    if arguments.dry_run:
        return _dry_run(arguments, [request])
    with writing(arguments.store) as store:
        released = _release(Ipam(store), request)
    if isinstance(request, ForceRelease):
        for lost in released:
            label = f" ({lost.label})" if lost.label else ""
            say(f"by force: owner {lost.owner!r}{label} on node {lost.node!r} has lost {lost.address}")
    output.write_allocations(arguments.output, released)
    return 0


def _release(ipam: Ipam, request: Release | ReleaseFenced | ForceRelease) -> tuple[Allocation, ...]:
    match request:
        case Release():
            return ipam.release(request.node, *request.owners)
        case ReleaseFenced():
            return (ipam.release_fenced(request.address, request.fence),)
        case ForceRelease():
            return (ipam.force_release(request.address),)


def _release_request(arguments: Namespace) -> Release | ReleaseFenced | ForceRelease:
    if arguments.address is None:
        if arguments.fence is not None or arguments.force:
            raise InvalidRequestError("--fence and --force go with --address")
        if not arguments.owners:
            raise InvalidRequestError(
                "say whose addresses: release NODE OWNER..., or release --address ADDRESS with --fence or --force"
            )
        return Release(arguments.node, tuple(arguments.owners))
    if arguments.node is not None:
        raise InvalidRequestError("--address is released whoever holds it: leave NODE and OWNER out")
    if arguments.force == (arguments.fence is not None):
        raise InvalidRequestError(
            "--address needs one of --fence N (the holding that you mean) and --force (whoever holds it)"
        )
    address = _address(arguments.address)
    return ForceRelease(address) if arguments.force else ReleaseFenced(address, arguments.fence)


def _address(text: str) -> Address:
    return to_address(*parse_address(text))


def get(arguments: Namespace) -> int:
    """Show what there is; by name, a pool or node as the manifest that it is elsewhere."""
    style, name = arguments.output, arguments.name
    with reading(arguments.store) as store:
        ipam = Ipam(store)
        match arguments.kind.removeprefix("cilium"):
            case "pool" | "pools":
                pools = _chosen("pool", name, ipam.pools(), lambda pool: {pool.spec.name})
                if name is not None and style != "table":
                    output.write_value(style, pool_to_manifest(pools[0].spec))
                else:
                    output.write_pools(style, pools)
            case "node" | "nodes":
                nodes = _chosen("node", name, ipam.nodes(), lambda node: {node.node.name})
                if name is not None and style != "table":
                    output.write_value(style, output.cilium_node(nodes[0]))
                else:
                    output.write_nodes(style, nodes, ipam.allocations(name))
            case "block" | "blocks":
                blocks = _chosen(
                    "block", name, ipam.blocks(), lambda block: {str(block.prefix), block.node}, _node_names(ipam)
                )
                output.write_blocks(style, blocks)
            case _:
                held = _chosen(
                    "address",
                    name,
                    ipam.allocations(),
                    lambda item: {str(item.address), item.owner, item.node},
                    _node_names(ipam),
                )
                output.write_allocations(style, held)
    return 0


def _node_names(ipam: Ipam) -> list[str]:
    return [status.node.name for status in ipam.nodes()]


def _chosen(
    kind: str, name: str | None, items: Sequence[T], names: Callable[[T], set[str]], holders: Sequence[str] = ()
) -> Sequence[T]:
    """The items that have a name; none is an error, unless it is the name of one of the holders, who then holds nothing."""
    if name is None:
        return items
    wanted = _normal(name)
    chosen = [item for item in items if wanted in names(item)]
    if not chosen and wanted not in holders:
        raise NotFoundError(kind, name)
    return chosen


def _normal(name: str) -> str:
    """An address or CIDR as it is printed, whatever the spelling; everything else as it is."""
    for parse in (ip_address, ip_network):
        with suppress(ValueError):
            return str(parse(name))
    return name


def delete(arguments: Namespace) -> int:
    """Remove nodes or pools, one after the other."""
    is_pool = arguments.kind.startswith("pool")
    if is_pool and arguments.force:
        raise InvalidRequestError("--force is for nodes; removing a pool never takes anything from those who hold it")
    if arguments.dry_run:
        return _dry_run(
            arguments, [RemovePool(name) if is_pool else RemoveNode(name, arguments.force) for name in arguments.names]
        )
    changes: list[Change] = []
    with writing(arguments.store) as store:
        ipam = Ipam(store)
        try:
            for name in arguments.names:
                applied = ipam.remove_pool(name) if is_pool else ipam.remove_node(name, force=arguments.force)
                changes += applied.changes
        except IpamError:
            if changes:  # what was done before is done, and must be told
                _print_changes(arguments, changes, ())
            raise
    return _print_changes(arguments, changes, ())


def explain(arguments: Namespace) -> int:
    """Say why a node has what it has."""
    with reading(arguments.store) as store:
        explanation = Ipam(store).explain(arguments.node)
    if arguments.output == "table":
        for line in str(explanation).splitlines():
            print(plain(line))
    else:
        output.write_value(arguments.output, {"node": explanation.node, "lines": list(explanation.lines)})
    return 0


def check(arguments: Namespace) -> int:
    """Verify the store."""
    from ciliumipam.audit import audit  # noqa: PLC0415 - no other command needs it

    with reading(arguments.store) as store:
        result = audit(store)
    output.write_audit(arguments.output, result)
    return 1 if any(finding.severity == "error" for finding in result.findings) else 0


def _dry_run(arguments: Namespace, requests: Iterable[Request], *, absent_is_empty: bool = False) -> int:
    with reading(arguments.store, absent_is_empty=absent_is_empty) as store:
        ipam = Ipam(store)
        plans = [ipam.plan(request) for request in requests]
    changes = [change for plan in plans for change in plan.changes]
    _print_changes(arguments, changes, [refusal for plan in plans for refusal in plan.refusals])
    say("dry run: nothing was written")
    return 0


def _print_changes(arguments: Namespace, changes: Iterable[Change], refusals: Sequence[Refusal]) -> int:
    output.write_changes(arguments.output, changes, refusals)
    for refusal in refusals:
        say(f"node {refusal.node!r} is not served by {refusal}")
    return 0


COMMANDS: Mapping[str, Callable[[Namespace], int]] = {
    "apply": apply,
    "allocate": allocate,
    "release": release,
    "get": get,
    "explain": explain,
    "check": check,
    "delete": delete,
}
