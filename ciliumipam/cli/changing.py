"""The commands that change something, or plan to. Each opens the store, calls the library, prints what it says, returns the exit code."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence

from ciliumipam import (
    Allocate,
    Allocation,
    Applied,
    Apply,
    Change,
    Demand,
    ForceRelease,
    HandBack,
    Ipam,
    MemoryStore,
    Node,
    Plan,
    PoolSpec,
    Release,
    ReleaseFenced,
    RemoveNode,
    RemovePool,
    RequestAddresses,
)
from ciliumipam.cidr import Address, parse_address, parse_prefix, to_address
from ciliumipam.cli import codes, values
from ciliumipam.cli.completion import kind_of
from ciliumipam.cli.diff import write_diff
from ciliumipam.cli.input import MAX_PLAN_BYTES, read_documents
from ciliumipam.cli.progress import Progress
from ciliumipam.cli.store import deciding, in_cluster, is_absent, reading, writing
from ciliumipam.cli.style import Style, write_document
from ciliumipam.cli.tables import ADDRESSES
from ciliumipam.cli.text import say, say_some
from ciliumipam.errors import InvalidManifestError, InvalidRequestError, IpamError, NotFoundError, StoreRefusedError
from ciliumipam.manifest import Item, read_manifests
from ciliumipam.plan_file import plan_from_document, plan_to_document
from ciliumipam.pool import DEFAULT_SPACE
from ciliumipam.records import Key
from ciliumipam.requests import Drain, ExistingBlock, Grow, Migrate, Rebalance, Request, Shrink
from ciliumipam.words import counted, some

# ----------------------------------------------------------------------------------------------- plan and apply


def plan(arguments: Namespace) -> int:
    """Say what applying manifests would do."""
    with Progress() as progress:
        return _print_plan(arguments, _request(arguments, progress), absent_is_empty=True)


def apply(arguments: Namespace) -> int:
    """Read all manifests, then apply them in one request; or carry out a plan."""
    if arguments.plan is not None:
        return _execute(arguments)
    with Progress() as progress:
        request = _request(arguments, progress)
        if is_absent(arguments.store):
            Ipam(MemoryStore()).plan(request)  # what is refused must not leave a new, empty file behind
        with writing(arguments.store, create=True) as store, deciding(store, arguments.journal) as ipam:
            progress.tell(f"applying {len(request.pools)} pools and {len(request.nodes)} nodes")
            applied = ipam.apply(request.pools, request.nodes, request.existing)
    if in_cluster(arguments.store) and any(change.kind == "block" for change in applied.changes):
        say("the ledgers have it; the operator writes it on the nodes")
    return _print_outcome(arguments, applied)


def _request(arguments: Namespace, progress: Progress) -> Apply:
    """What the manifests say; what of them does not count is told."""
    documents: list[tuple[str, object]] = []
    for file in arguments.files:
        progress.tell(f"reading {file}")
        documents += read_documents(file)
    manifest = read_manifests(documents)
    say_some(f"ignored: {each}" for each in manifest.ignored)
    say_some(f"not adopted: {each}" for each in manifest.refused)
    if in_cluster(arguments.store):
        _refuse_nodes(manifest.items)
    return Apply(
        tuple(item for item in manifest.items if isinstance(item, PoolSpec)),
        tuple(item for item in manifest.items if isinstance(item, Node)),
        tuple(item for item in manifest.items if isinstance(item, ExistingBlock)),
    )


def _refuse_nodes(items: Iterable[Item]) -> None:
    """Nodes of a cluster are what its API server says, and so is what they have."""
    names = list(dict.fromkeys(item.name if isinstance(item, Node) else item.node for item in items if not isinstance(item, PoolSpec)))
    if names:
        raise InvalidRequestError(
            f"the manifests are of {counted(len(names), 'node', 'nodes')} ({some(names)}), and nodes of a cluster are made with kubectl:"
            " kubectl apply -f FILE; here only pools can be applied to it"
        )


def _execute(arguments: Namespace) -> int:
    """Write exactly what a plan says, or nothing."""
    source, *more = read_documents(arguments.plan, MAX_PLAN_BYTES)
    if more:
        raise InvalidManifestError(source[0], "", "it holds several documents; a plan is one")
    read = plan_from_document(source[1], source[0])
    if is_absent(arguments.store):
        Ipam(MemoryStore()).execute(read)  # a plan for another store must not leave a new, empty file behind
    with writing(arguments.store, create=True) as store, deciding(store, arguments.journal) as ipam, Progress() as progress:
        progress.tell(f"writing {len(read.steps)} records")
        ipam.execute(read)
    _print_outcome(arguments, read.outcome, read.result)
    return _unless_blocked(read.outcome)


# ---------------------------------------------------------------------------------------------- addresses


def allocate(arguments: Namespace) -> int:
    """Give owners an address."""
    address = None if arguments.address is None else _address(arguments.address)
    request = Allocate(arguments.node, tuple(arguments.owners), address, arguments.family, arguments.label)
    if arguments.dry_run:
        return _print_plan(arguments, request)
    with writing(arguments.store) as store, deciding(store, arguments.journal) as ipam:
        given = ipam.allocate(
            request.node, *request.owners, address=request.address, family=request.family, label=request.label
        )
    ADDRESSES.write(arguments.output, given)
    return codes.DONE


def release(arguments: Namespace) -> int:
    """Release by owner, by fence, or by force."""
    request = _release_request(arguments)
    if arguments.dry_run:
        return _print_plan(arguments, request)
    with writing(arguments.store) as store, deciding(store, arguments.journal) as ipam:
        released = _release(ipam, request)
    if isinstance(request, ForceRelease):
        for lost in released:
            label = f" ({lost.label})" if lost.label else ""
            say(f"by force: owner {lost.owner!r}{label} on node {lost.node!r} has lost {lost.address}")
    ADDRESSES.write(arguments.output, released)
    return codes.DONE


def _release(ipam: Ipam, request: Release | ReleaseFenced | ForceRelease) -> tuple[Allocation, ...]:
    match request:
        case Release():
            return ipam.release(request.node, *request.owners)
        case ReleaseFenced():
            return (ipam.release_fenced(request.address, request.fence, request.space),)
        case ForceRelease():
            return (ipam.force_release(request.address, request.space),)


def _release_request(arguments: Namespace) -> Release | ReleaseFenced | ForceRelease:
    if arguments.address is None:
        if arguments.fence is not None or arguments.force or arguments.space is not None:
            raise InvalidRequestError("--fence, --force and --space go with --address")
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
    address, space = _address(arguments.address), arguments.space or DEFAULT_SPACE
    return ForceRelease(address, space) if arguments.force else ReleaseFenced(address, arguments.fence, space)


def _address(text: str) -> Address:
    return to_address(*parse_address(text))


# ------------------------------------------------------------------------------------------------- blocks


def grow(arguments: Namespace) -> int:
    """See that a node has so many blocks."""
    request = Grow(arguments.node, arguments.blocks)
    applied = _do(arguments, request, lambda ipam: ipam.grow(request.node, request.blocks))
    return codes.EXHAUSTED if applied.refusals else codes.DONE


def request(arguments: Namespace) -> int:
    """Say how many addresses a node asks for, beside what it asks for of other families and pools."""
    with reading(arguments.store) as store:
        known = {status.node.name: status for status in Ipam(store).nodes()}
    status = known.get(arguments.node)
    if status is None:
        raise NotFoundError("node", arguments.node, tuple(sorted(known)[:8]))
    families = [arguments.family] if arguments.family else sorted(status.utilization)
    if not families:
        raise InvalidRequestError(f"node {arguments.node!r} has no block yet, so say of which family: --family 4 or --family 6")
    kept = [each for each in status.demand if (each.pool, each.family) not in [(arguments.pool, family) for family in families]]
    asked = RequestAddresses(arguments.node, (*kept, *(Demand(arguments.pool, family, arguments.addresses) for family in families)))
    applied = _do(arguments, asked, lambda ipam: ipam.request(asked.node, asked.demand))
    return codes.EXHAUSTED if any(refusal.node == asked.node for refusal in applied.refusals) else codes.DONE


def hand_back(arguments: Namespace) -> int:
    """Take an empty block back from a node."""
    asked = HandBack(arguments.node, parse_prefix(arguments.block), arguments.fence, arguments.space or DEFAULT_SPACE)
    _do(arguments, asked, lambda ipam: ipam.hand_back(asked.node, asked.block, fence=asked.fence, space=asked.space))
    return codes.DONE


def drain(arguments: Namespace) -> int:
    """Let something take nothing new, or again."""
    kind = kind_of(arguments.kind)
    if kind not in ("pool", "node", "block"):
        raise InvalidRequestError(f"a {kind} cannot drain")
    if arguments.space is not None and kind != "block":
        raise InvalidRequestError("--space is for blocks: pools and nodes have names of their own")
    request = Drain(kind, arguments.name, arguments.cancel, arguments.space or DEFAULT_SPACE)
    return _goes_on(
        arguments, request, lambda ipam: ipam.drain(kind, request.name, cancel=request.cancel, space=request.space)
    )


def migrate(arguments: Namespace) -> int:
    """Move a node to another pool."""
    request = Migrate(arguments.node, arguments.pool)
    return _goes_on(arguments, request, lambda ipam: ipam.migrate(request.node, request.pool))


def shrink(arguments: Namespace) -> int:
    """Let a pool give up CIDRs."""
    request = Shrink(arguments.pool, tuple(map(parse_prefix, arguments.cidrs)))
    return _goes_on(arguments, request, lambda ipam: ipam.shrink(request.pool, *request.cidrs))


def rebalance(arguments: Namespace) -> int:
    """Get a large free prefix back."""
    request = Rebalance(arguments.pool, arguments.length, arguments.family)
    return _goes_on(arguments, request, lambda ipam: ipam.rebalance(request.pool, request.length, family=request.family))


def _goes_on(arguments: Namespace, request: Request, call: Callable[[Ipam], Applied]) -> int:
    """Do what ends only when nothing is in its way any more; the exit code says whether it did."""
    applied = _do(arguments, request, call)
    return codes.DONE if arguments.dry_run else _unless_blocked(applied)


def _unless_blocked(applied: Applied) -> int:
    if not applied.blockers:
        return codes.DONE
    say("not all of it is done: what is in the way is named; when that is gone, the same command takes back the rest")
    return codes.BLOCKED


def _do(arguments: Namespace, request: Request, call: Callable[[Ipam], Applied]) -> Applied:
    """Do a request, or only plan it, and print what comes of it."""
    if arguments.dry_run:
        return _plan(arguments, request).outcome
    with writing(arguments.store) as store, deciding(store, arguments.journal) as ipam:
        applied = call(ipam)
    _print_outcome(arguments, applied)
    return applied


def delete(arguments: Namespace) -> int:
    """Remove nodes or pools, one after the other."""
    is_pool = kind_of(arguments.kind) == "pool"
    if is_pool and arguments.force:
        raise InvalidRequestError("--force is for nodes; removing a pool never takes anything from those who hold it")
    if not is_pool and in_cluster(arguments.store):
        _refuse_present(arguments)
    if arguments.dry_run:
        return _plan_delete(arguments, is_pool=is_pool)
    done: list[Change] = []
    with writing(arguments.store) as store, deciding(store, arguments.journal) as ipam:
        try:
            for name in arguments.names:
                applied = ipam.remove_pool(name) if is_pool else ipam.remove_node(name, force=arguments.force)
                done += applied.changes
        except IpamError:
            if done:  # what was done before is done, and must be told
                _print_outcome(arguments, Applied(tuple(done)))
            raise
    return _print_outcome(arguments, Applied(tuple(done)))


def _refuse_present(arguments: Namespace) -> None:
    """Nodes of a cluster go by kubectl, and their blocks with them; what can be deleted here is what they left behind."""
    with reading(arguments.store) as store:
        present = [name for name in arguments.names if store.get(Key("node", name)) is not None]
    if present:
        name = present[0]
        raise StoreRefusedError(
            f"delete node {name}",
            f"it is an object of the cluster: kubectl delete node {name} (and ciliumnode {name}); the operator takes its blocks back after that",
        )


def _plan_delete(arguments: Namespace, *, is_pool: bool) -> int:
    requests = [RemovePool(name) if is_pool else RemoveNode(name, arguments.force) for name in arguments.names]
    if arguments.output.is_document and len(requests) > 1:
        raise InvalidRequestError("a plan is of one change: name one, or leave -o out to see what all of them come to")
    for request in requests:
        _print_plan(arguments, request)
    return codes.DONE


# ----------------------------------------------------------------------------------------------- printing


def _plan(arguments: Namespace, request: Request, *, absent_is_empty: bool = False) -> Plan:
    """Decide a request, write nothing, and print the plan."""
    style: Style = arguments.output
    if style.name in ("name", "wide"):
        raise InvalidRequestError(f"a plan has no style {style.name!r}; known: table, json, yaml, jsonpath=TEMPLATE")
    with reading(arguments.store, absent_is_empty=absent_is_empty) as store:
        planned = Ipam(store).plan(request)
    if style.is_document:
        write_document(style, plan_to_document(planned))
    else:
        write_diff(planned.outcome, "Plan")
    _tell_concerns(planned.outcome, style)
    if isinstance(request, (Drain, Migrate, Shrink, Rebalance)):
        say(f"cost: {planned.cost}")
    say("nothing was written")
    return planned


def _print_plan(arguments: Namespace, request: Request, *, absent_is_empty: bool = False) -> int:
    _plan(arguments, request, absent_is_empty=absent_is_empty)
    return codes.DONE


def _print_outcome(arguments: Namespace, applied: Applied, addresses: Sequence[Allocation] | None = None) -> int:
    style: Style = arguments.output
    if style.is_document:
        value = values.outcome(applied)
        if addresses is not None:
            value["addresses"] = [values.allocation(each) for each in addresses]
        write_document(style, value)
    else:
        write_diff(applied, "Done")
    _tell_concerns(applied, style)
    return codes.DONE


def _tell_concerns(applied: Applied, style: Style) -> None:
    """What somebody should know, beside what was asked for."""
    if style.is_document:
        say_some(f"conflict: {each}" for each in applied.conflicts)
    say_some(f"concern: {each}" for each in applied.concerns)
