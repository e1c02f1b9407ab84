"""The entry point: arguments in, an exit code out, every error a sentence on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from ciliumipam._version import __version__
from ciliumipam.cli import commands
from ciliumipam.cli.output import require
from ciliumipam.cli.text import say
from ciliumipam.errors import ExhaustedError, InvalidError, IpamError, StateError, StoreError

EXIT_CODES: tuple[tuple[type[IpamError], int], ...] = (
    (InvalidError, 2),
    (StateError, 3),
    (ExhaustedError, 4),
    (StoreError, 5),
)
INTERNAL_ERROR, NO_OUTPUT, INTERRUPTED, READER_GONE = 70, 74, 130, 141

KINDS = ("pools", "pool", "nodes", "node", "ciliumnodes", "ciliumnode", "blocks", "block", "addresses", "address")
EPILOG = """\
exit codes: 0 done; 1 check found errors; 2 bad input; 3 not possible as things stand; 4 no room left; 5 the store failed
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments without the program's name; None is `sys.argv`.

    Returns:
        The exit code; `docs/reference/cli.md` lists them.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a label that the terminal cannot show must not end the command
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return READER_GONE
    except OSError as error:
        _forget_output()
        _complain(f"{error.filename or 'the output'}: {error.strerror or error}")
        return NO_OUTPUT
    except KeyboardInterrupt:
        _complain("interrupted; what was written is complete in itself, and the same command goes on from there")
        return INTERRUPTED
    return code


def _run(argv: Sequence[str] | None) -> int:
    try:
        arguments = build_parser().parse_args(argv, argparse.Namespace(store=None, output="table"))
    except SystemExit as end:  # argparse has printed the help, the version or what is wrong
        return int(end.code or 0)
    try:
        require(arguments.output)
        return commands.COMMANDS[arguments.command](arguments)
    except IpamError as error:
        _complain(str(error))
        return next((code for family, code in EXIT_CODES if isinstance(error, family)), INTERNAL_ERROR)
    except OSError:
        raise
    except Exception as error:  # the last line of defence: a user gets a sentence, whatever we did wrong
        if isinstance(error, ModuleNotFoundError) and error.name in {"tabulate", "yaml"}:
            _complain(f"this needs {error.name}, which comes with the extra 'cli': pip install 'ciliumipam[cli]'")
            return 2
        if sys.flags.dev_mode:
            raise
        _complain(
            f"internal error, please report it: {type(error).__name__}: {error};"
            " 'python -X dev -m ciliumipam' instead of 'ciliumipam' shows where"
        )
        return INTERNAL_ERROR


def _complain(text: str) -> None:
    with suppress(OSError):
        say(text)


def _forget_output() -> None:
    """Let the interpreter's own flush at exit go nowhere, where it would fail once more."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _Command(argparse.ArgumentParser):
    """Lets options stand between the words of a command; argparse by itself takes an optional word as absent at the first option."""

    _inside = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._inside:
            return super().parse_known_args(args, namespace)
        self._inside = True
        return self.parse_known_intermixed_args(args, namespace)


def build_parser() -> argparse.ArgumentParser:
    """All commands and options."""
    everywhere = _Command(add_help=False, argument_default=argparse.SUPPRESS)
    shared = everywhere.add_argument_group("global options, before or after the command")
    shared.add_argument(
        "--store",
        metavar="sqlite:PATH",
        help="the file to work on (default: $CILIUMIPAM_STORE, else ipam.db in ciliumipam in the user's state directory)",
    )
    shared.add_argument("-o", "--output", choices=("table", "json", "yaml"), help="how to print (default: table)")
    plans = _Command(add_help=False)
    plans.add_argument("--dry-run", action="store_true", help="print the plan and write nothing")

    parser = argparse.ArgumentParser(
        prog="ciliumipam",
        description="Which CIDRs a Kubernetes node gets, and which address a pod on it gets.",
        epilog=EPILOG,
        parents=[everywhere],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    words = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=_Command)

    def command(name: str, summary: str, *parents: _Command) -> _Command:
        return words.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            parents=[everywhere, *parents],
            allow_abbrev=False,
        )

    apply = command("apply", "apply pools and nodes from manifests and give nodes their blocks", plans)
    apply.add_argument(
        "-f",
        dest="files",
        metavar="FILE|DIR",
        action="append",
        required=True,
        help="YAML or JSON, or - for standard input; repeatable",
    )

    allocate = command("allocate", "give owners an address on a node: all of them or none", plans)
    allocate.add_argument("node", metavar="NODE")
    allocate.add_argument("owners", metavar="OWNER", nargs="+", help="an id that is never used again for anybody else")
    allocate.add_argument("--address", help="exactly this address (for one owner)")
    allocate.add_argument(
        "--family", type=int, choices=(4, 6), help="only this family (default: every family the node has)"
    )
    allocate.add_argument("--label", default="", help="a name for people, as namespace/pod")

    release = command("release", "release the addresses of owners, or one address", plans)
    release.usage = (
        "ciliumipam release NODE OWNER [OWNER ...] | --address ADDRESS --fence N | --address ADDRESS --force"
        "  [--dry-run] [global options]"
    )
    release.add_argument("node", metavar="NODE", nargs="?")
    release.add_argument("owners", metavar="OWNER", nargs="*")
    release.add_argument("--address", help="this address, whoever holds it")
    release.add_argument("--fence", type=int, metavar="N", help="only if it is still held under this fence")
    release.add_argument("--force", action="store_true", help="whoever holds it and whatever the fence")

    get = command("get", "show pools, nodes, blocks or addresses")
    get.add_argument("kind", choices=KINDS, metavar="pools|nodes|blocks|addresses")
    get.add_argument(
        "name",
        metavar="NAME",
        nargs="?",
        help="only this one, in full; for blocks and addresses also a node's or owner's",
    )

    explain = command("explain", "say pool by pool why a node was served or refused")
    explain.add_argument("node", metavar="NODE")

    command("check", "verify every invariant of the store, read-only; the exit code is 1 if one is broken")

    delete = command("delete", "remove nodes and take their blocks back, or remove pools and keep what is held", plans)
    delete.add_argument("kind", choices=("pool", "pools", "node", "nodes"), metavar="pool|node")
    delete.add_argument("names", metavar="NAME", nargs="+")
    delete.add_argument("--force", action="store_true", help="nodes only: drop the addresses that are in use on them")
    return parser
