"""All commands, their words and options."""

from __future__ import annotations

import argparse
from typing import Any

from ciliumipam._version import __version__
from ciliumipam.cli.completion import SHELLS, completed, named, names
from ciliumipam.cli.style import LISTED, parse_style

KINDS = ("pools", "pool", "nodes", "node", "ciliumnodes", "ciliumnode", "blocks", "block", "addresses", "address")
EPILOG = """\
exit codes: 0 done; 1 check found errors, torture a fault; 2 bad input; 3 not possible as things stand; 4 no room left; 5 the store failed;
6 begun, and something is in the way of the rest
"""


class _Command(argparse.ArgumentParser):
    """Lets options stand between the words of a command; argparse by itself takes an optional word as absent at the first option."""

    takes_command = False
    """Whether what stands after `--` is not ours: a command to start."""
    takes_nothing = False
    """Whether nothing may stand there."""
    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        if not self.takes_command:
            return self.parse_known_intermixed_args(args, namespace)
        end = args.index("--") if "--" in args else len(args)
        parsed, unknown = self.parse_known_intermixed_args(args[:end], namespace)
        parsed.command_line = args[end + 1 :]
        if not (parsed.command_line or unknown or self.takes_nothing):
            self.error("the following arguments are required: -- COMMAND")
        return parsed, unknown


def _count(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 10**12:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")
    return int(text)


def _addresses(text: str) -> int:
    return 0 if text == "0" else _count(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 86400.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0.1 to 86400")
    return seconds


def _grace(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 86400.0 * 30:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds from 0 to 2592000")
    return seconds


def _threads(text: str) -> int:
    count = _count(text)
    if count > 64:
        raise argparse.ArgumentTypeError(f"{text!r} is more than 64")
    return count


def build_parser() -> argparse.ArgumentParser:
    """Build the parser."""
    everywhere = _everywhere()
    parser = argparse.ArgumentParser(
        prog="ciliumipam",
        description="Which CIDRs a Kubernetes node gets, and which address a pod on it gets.",
        epilog=EPILOG,
        parents=[everywhere],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    words = _Words(parser, everywhere)
    _of_manifests(words)
    _of_addresses(words)
    _of_looking(words)
    _of_blocks(words)
    _of_stores(words)
    _of_clusters(words)
    _of_testing(words)
    return parser


def _everywhere() -> _Command:
    """The options of every command."""
    everywhere = _Command(add_help=False, argument_default=argparse.SUPPRESS)
    shared = everywhere.add_argument_group("global options, before or after the command")
    shared.add_argument(
        "--store",
        metavar="sqlite:PATH|kubernetes:[CONTEXT]",
        help="the file or cluster to work on (default: $CILIUMIPAM_STORE, else ipam.db in ciliumipam in the user's state directory)",
    )
    style = shared.add_argument(
        "-o",
        "--output",
        type=parse_style,
        metavar="STYLE",
        help="how to print: table (the default), wide, name, json, yaml, jsonpath=TEMPLATE",
    )
    completed(style, lambda _: (*LISTED[:-1], "jsonpath="))
    return everywhere


class _Words:
    """Adds commands."""

    def __init__(self, parser: argparse.ArgumentParser, everywhere: _Command) -> None:
        self._added = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)
        self._everywhere = everywhere

    def command(self, name: str, summary: str, *, plans: bool = False, store: str = "") -> _Command:
        """Add a command, on request one whose plan can be printed, or one that runs on a store of its own choice and prints nothing."""
        added = self._added.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            parents=[] if store else [self._everywhere],
            allow_abbrev=False,
        )
        if store:
            added.add_argument("--store", default=argparse.SUPPRESS, metavar="kubernetes:[CONTEXT]", help=store)
            added.add_argument("-o", "--output", default=argparse.SUPPRESS, type=parse_style, help=argparse.SUPPRESS)  # main says what it takes
        if plans:
            what = "print the plan and write nothing; with -o json one that `apply --plan` takes"
            added.add_argument("--dry-run", action="store_true", help=what)
            _journal(added)
        return added


def _journal(parser: _Command) -> None:
    what = "add what is decided, and over what, to this file, for `replay` (default: $CILIUMIPAM_JOURNAL, else none)"
    parser.add_argument("--journal", metavar="FILE", help=what)


def _node(parser: _Command) -> None:
    completed(parser.add_argument("node", metavar="NODE"), names("node"))


def _of_manifests(words: _Words) -> None:
    plan = words.command("plan", "say what applying manifests would do, and write nothing")
    apply = words.command("apply", "apply pools and nodes from manifests and give nodes their blocks, or carry out a plan")
    _journal(apply)
    one_of = apply.add_mutually_exclusive_group(required=True)
    for each in (plan, one_of):
        each.add_argument(
            "-f",
            dest="files",
            metavar="FILE|DIR",
            action="append",
            required=each is plan,
            help="YAML or JSON, or - for standard input; repeatable",
        )
    one_of.add_argument(
        "--plan", metavar="FILE", help="do exactly what this plan says (JSON or YAML, or -), or nothing if it is stale"
    )


def _of_addresses(words: _Words) -> None:
    allocate = words.command("allocate", "give owners an address on a node: all of them or none", plans=True)
    _node(allocate)
    allocate.add_argument("owners", metavar="OWNER", nargs="+", help="an id that is never used again for anybody else")
    allocate.add_argument("--address", help="exactly this address (for one owner)")
    allocate.add_argument(
        "--family", type=int, choices=(4, 6), help="only this family (default: every family the node has)"
    )
    allocate.add_argument("--label", default="", help="a name for people, as namespace/pod")

    release = words.command("release", "release the addresses of owners, or one address", plans=True)
    release.usage = (
        "ciliumipam release NODE OWNER [OWNER ...] | --address ADDRESS --fence N | --address ADDRESS --force"
        "  [--space SPACE] [--dry-run] [global options]"
    )
    completed(release.add_argument("node", metavar="NODE", nargs="?"), names("node"))
    completed(release.add_argument("owners", metavar="OWNER", nargs="*"), names("owner"))
    completed(release.add_argument("--address", help="this address, whoever holds it"), names("address"))
    release.add_argument("--fence", type=int, metavar="N", help="only if it is still held under this fence")
    release.add_argument("--force", action="store_true", help="whoever holds it and whatever the fence")
    release.add_argument("--space", help="the address space that the address is in, if it is not the usual one")


def _of_looking(words: _Words) -> None:
    get = words.command("get", "show pools, nodes, blocks or addresses")
    get.add_argument("kind", choices=KINDS, metavar="pools|nodes|blocks|addresses")
    name = get.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="only this one, in full; for blocks and addresses also a node's or owner's",
    )
    completed(name, named)
    get.add_argument("-w", "--watch", action="store_true", help="then show what changes, until interrupted")
    get.add_argument("--interval", type=_seconds, metavar="SECONDS", help="time between two looks of --watch (default: 2, in a cluster 10)")
    _node(words.command("explain", "say pool by pool why a node was served or refused"))
    routes = words.command("routes", "what routers announce for a pool's blocks, by group of nodes, and what grouping them saves")
    completed(routes.add_argument("pool", metavar="POOL"), names("pool"))
    routes.add_argument("--by", metavar="LABEL", help="the label whose values are the groups (default: the pool's groupBy)")


def _of_blocks(words: _Words) -> None:
    grow = words.command("grow", "see that a node has so many blocks of each family", plans=True)
    _node(grow)
    grow.add_argument("--blocks", type=int, metavar="N", required=True, help="how many it should have, with those that it has")

    request = words.command("request", "say how many addresses a node asks for, and give it further blocks for them", plans=True)
    _node(request)
    request.add_argument("addresses", type=_addresses, metavar="ADDRESSES", help="all together, those in use included; 0 asks for nothing")
    request.add_argument("--family", type=int, choices=(4, 6), help="of this family (default: of each family of the node's blocks)")
    completed(request.add_argument("--pool", metavar="POOL", default="", help="out of this pool (default: whichever serves the node)"), names("pool"))

    back = words.command("hand-back", "take an empty block that a node does not need back from it", plans=True)
    _node(back)
    completed(back.add_argument("block", metavar="BLOCK", help="its CIDR"), named)
    back.add_argument("--fence", type=int, metavar="N", help="only if the node holds it under this fence")
    back.add_argument("--space", help="the address space that it is in, if it is not the usual one")

    drain = words.command("drain", "let a pool, a node or a block take nothing new, and take back what is empty", plans=True)
    drain.add_argument("kind", choices=("pool", "pools", "node", "nodes", "block", "blocks"), metavar="pool|node|block")
    completed(drain.add_argument("name", metavar="NAME", help="its name; a block's CIDR"), named)
    drain.add_argument("--cancel", action="store_true", help="let it take new ones again")
    drain.add_argument("--space", help="the address space that a block is in, if it is not the usual one")

    migrate = words.command("migrate", "give a node blocks of another pool, and take its old ones back once they are empty", plans=True)
    _node(migrate)
    completed(migrate.add_argument("--to", dest="pool", metavar="POOL", required=True), names("pool"))

    shrink = words.command("shrink", "let a pool give up CIDRs or parts of them, and move what lies there to the rest of it", plans=True)
    completed(shrink.add_argument("pool", metavar="POOL"), names("pool"))
    shrink.add_argument("cidrs", metavar="CIDR", nargs="+", help="what it gives up, in whole blocks")

    rebalance = words.command("rebalance", "get a free prefix of a length in a pool by moving as few blocks as possible", plans=True)
    completed(rebalance.add_argument("pool", metavar="POOL"), names("pool"))
    rebalance.add_argument("--length", type=_count, metavar="N", required=True, help="how long it is to be, as 22 for a /22")
    rebalance.add_argument("--family", type=int, choices=(4, 6), help="of which family, in a pool of both")

    delete = words.command("delete", "remove nodes and take their blocks back, or remove pools and keep what is held", plans=True)
    delete.add_argument("kind", choices=("pool", "pools", "node", "nodes"), metavar="pool|node")
    completed(delete.add_argument("names", metavar="NAME", nargs="+"), named)
    delete.add_argument("--force", action="store_true", help="nodes only: drop the addresses that are in use on them")


def _of_stores(words: _Words) -> None:
    check = words.command("check", "verify every invariant of the store, read-only; the exit code is 1 if one is broken")
    check.add_argument(
        "--repair", action="store_true", help="finish or undo what crashed calls left, then check again; frees nothing that is held"
    )
    _journal(check)
    words.command("export", "print everything as manifests, which `apply` reads back")
    copy = words.command("copy", "copy everything into another, empty store, and verify it")
    copy.add_argument("--from", dest="source", metavar="STORE", required=True, help="the store to read")
    copy.add_argument("--to", dest="target", metavar="STORE", required=True, help="the store to fill, which may be new")
    replay = words.command("replay", "do again what a journal tells of, and stop where anything comes out differently")
    replay.add_argument("file", metavar="FILE", help="a journal that --journal or a JournaledIpam wrote")
    replay.add_argument("--until", type=int, metavar="LINE", help="only up to this line")
    replay.add_argument("--to", dest="target", metavar="sqlite:PATH", help="write the records as they were then into this new store")
    completion = words.command("completion", "print what a shell has to read so that it completes words")
    completion.add_argument("shell", choices=SHELLS)


def _of_clusters(words: _Words) -> None:
    crds = words.command("crds", "print the definitions of CIDRPool and CIDRLedger for Kubernetes, or install them")
    crds.add_argument(
        "--install", action="store_true", help="install them, or bring them up to date, in the cluster of --store kubernetes:[CONTEXT]"
    )
    crds.add_argument(
        "--cilium",
        action=argparse.BooleanOptionalAction,
        help="also CiliumNodeConfig and CiliumNode (default: with --install, where a cluster has neither of somebody else's; else not)",
    )
    operator = words.command(
        "operator",
        "give the nodes of a cluster their blocks, until SIGTERM or SIGINT; exits with 0 then",
        store="the cluster (default: the current context, or the cluster around the pod; $CILIUMIPAM_STORE is not asked)",
    )
    operator.add_argument(
        "--write-to",
        choices=("ciliumnode", "node"),
        default="ciliumnode",
        help="where blocks are written: CiliumNode.spec.ipam.podCIDRs (the default), or Node.spec.podCIDRs, which can be set once only",
    )
    operator.add_argument(
        "--grace", type=_grace, default=60.0, metavar="SECONDS", help="how long a node has to be gone before its blocks go back (default: 60)"
    )
    operator.add_argument(
        "--stop-after",
        type=_grace,
        metavar="SECONDS",
        help="let the agents of nodes rely on their blocks for so long without asking; --grace has to be twice that and 30 s (default: no agents)",
    )
    operator.add_argument(
        "--pools-from",
        action="append",
        choices=("CIDRPool", "CiliumNodeConfig", "CiliumPodIPPool", "ClusterCIDR"),
        metavar="KIND",
        help="objects that are pools: CIDRPool, CiliumNodeConfig, CiliumPodIPPool, ClusterCIDR; repeatable (default: the first two)",
    )
    operator.add_argument("--threads", type=_threads, default=8, metavar="N", help="node objects written to at once, 1 to 64 (default: 8)")
    operator.add_argument(
        "--no-leader-election", dest="leader_election", action="store_false", help="act at once: safe beside others, and more work for all"
    )
    operator.add_argument(
        "--lease",
        default="kube-system/ciliumipam-operator",
        metavar="NAMESPACE/NAME",
        help="the Lease by which one of several replicas acts (default: kube-system/ciliumipam-operator)",
    )
    operator.add_argument("--listen", metavar="ADDRESS:PORT", help="answer /healthz, /readyz and /metrics there, as on :9965 (default: nowhere)")
    operator.add_argument("--log-format", choices=("text", "json"), default="text", help="lines for people (the default) or JSON")
    agent = words.command("agent", "keep the blocks of one node: confirm them, ask for more, hand back; until SIGTERM or SIGINT, exits with 0 then")
    agent.add_argument("node", metavar="NODE", help="the node's name; the store of --store has to know it")
    agent.add_argument("--local", metavar="sqlite:PATH", help="the node's own store, for its addresses (default: they are in that of --store too)")
    agent.add_argument("--spare", type=_count, default=8, metavar="N", help="addresses to have at hand beyond those in use (default: 8)")
    agent.add_argument("--idle", type=_grace, default=300.0, metavar="SECONDS", help="how long a block is empty before it goes back (default: 300)")
    agent.add_argument(
        "--stop-after", type=_grace, default=60.0, metavar="SECONDS", help="give out no address when the last confirmation is older (default: 60)"
    )
    agent.add_argument(
        "--return-after",
        type=_grace,
        metavar="SECONDS",
        help="also give the blocks of nodes that were silent for so long to others; at least twice --stop-after and 30 s",
    )
    agent.add_argument(
        "--write-to",
        choices=("ciliumnode", "node"),
        default="ciliumnode",
        help="with --store kubernetes:[CONTEXT]: where the operator writes the node's blocks, as its own option says (default: ciliumnode)",
    )
    agent.add_argument("--register", action="store_true", help="with --store kubernetes:[CONTEXT]: create the CiliumNode where it is missing")
    agent.add_argument("--once", action="store_true", help="only do what there is to do now; exits with 3 if the node gives out no address then")
    agent.add_argument("--listen", metavar="ADDRESS:PORT", help="answer /healthz, /readyz and /metrics there, as on :9966 (default: nowhere)")
    agent.add_argument("--log-format", choices=("text", "json"), default="text", help="lines for people (the default) or JSON")
    deploy = words.command("deploy", "print manifests that run the operator: two replicas, and no more rights than they need; after --, its options")
    deploy.takes_command = deploy.takes_nothing = True
    deploy.usage = "ciliumipam deploy --image IMAGE [--namespace NAMESPACE] [--agents] [--service-monitor] [-o STYLE] [-- OPTION ...]"
    deploy.add_argument("--image", metavar="IMAGE", required=True, help="an image with ciliumipam in it")
    deploy.add_argument("--namespace", metavar="NAMESPACE", help="where it runs (default: ciliumipam)")
    deploy.add_argument("--agents", action="store_true", help="also an agent on every node: blocks on demand, with --stop-after 60 and --grace 150")
    deploy.add_argument("--service-monitor", action="store_true", help="also a ServiceMonitor for the Prometheus operator")


def _of_testing(words: _Words) -> None:
    torture = words.command("torture", "hunt for faults of an allocator that speaks JSON lines; the exit code is 1 if one is found")
    torture.takes_command = True
    torture.usage = "ciliumipam torture [--seed N] [--steps N] [--range CIDR]... [--replay FILE] [--timeout SECONDS] [-o STYLE] -- COMMAND [ARG...]"
    torture.add_argument("--seed", type=int, default=0, metavar="N", help="where chance starts (default: 0)")
    torture.add_argument("--steps", type=_count, default=10_000, metavar="N", help="how many steps to do (default: 10000)")
    torture.add_argument("--range", dest="ranges", action="append", metavar="CIDR", help="where to do them; repeatable (default: of every size)")
    torture.add_argument("--replay", metavar="FILE", help="do the steps again that an earlier output shows; - for standard input")
    torture.add_argument(
        "--timeout", type=_seconds, default=10.0, metavar="SECONDS", help="how long to wait for an answer (default: 10)"
    )

    fuzz = words.command("fuzz", "live lives of clusters by chance, with faults, and judge every step; the exit code is 1 if something broke")
    fuzz.add_argument("--seed", type=int, default=0, metavar="N", help="where the chance comes from (default: 0); the same seed gives the same run")
    fuzz.add_argument("--steps", type=_count, default=10_000, metavar="N", help="how many steps (default: 10000)")
    fuzz.add_argument("--life", type=int, default=0, metavar="N", help="begin with this life of the run (default: 0)")
    fuzz.add_argument("--full", action="store_true", help="with sqlite: wait for the disk at every commit, as stores do by default")
    fuzz.add_argument("--journal", metavar="FILE", help="do these steps instead, a JSON value a line, and judge everything after each")
