"""Completion of words in bash, zsh and fish: commands and options by the parser, names by the store."""

from __future__ import annotations

import os
from argparse import Action, ArgumentParser, Namespace
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import Any, Final, Literal, TypeAlias

from ciliumipam import Ipam
from ciliumipam.cli.store import reading
from ciliumipam.errors import IpamError

SHELLS: Final = ("bash", "zsh", "fish")
PATIENCE: Final = 3.0
"""Seconds after which a name is not completed."""
Kind: TypeAlias = Literal["pool", "node", "block", "address", "owner"]


def script(shell: str) -> str:
    """What a shell has to read to complete the words of this command."""
    from argcomplete.shell_integration import shellcode  # noqa: PLC0415 - optional

    return shellcode(["ciliumipam"], shell=shell).strip() + "\n"


def complete(parser: ArgumentParser) -> None:
    """Answer the shell and end, if it is a shell that asks; else do nothing."""
    if "_ARGCOMPLETE" in os.environ:
        with suppress(ImportError):
            import argcomplete  # noqa: PLC0415 - optional, and only a shell that read our script asks

            argcomplete.autocomplete(parser, always_complete_options=False)


def completed(action: Action, find: Callable[[Namespace], Iterable[str]]) -> None:
    """Let the values of an argument be completed out of the store; one that cannot be read, or is slow, has none."""

    def completer(parsed_args: Namespace, **_: Any) -> list[str]:
        found: list[str] = []

        def look() -> None:
            with suppress(IpamError, OSError):
                found.extend(sorted({*find(parsed_args)}))

        looking = Thread(target=look, daemon=True)  # the shell of somebody who pressed a key does not wait for a cluster that is silent
        looking.start()
        looking.join(PATIENCE)
        return [] if looking.is_alive() else found

    vars(action)["completer"] = completer


def names(*kinds: Kind) -> Callable[[Namespace], Iterable[str]]:
    """The names of some kinds."""

    def find(arguments: Namespace) -> list[str]:
        with reading(getattr(arguments, "store", None)) as store:
            ipam = Ipam(store)
            return [name for kind in kinds for name in _NAMES[kind](ipam)]

    return find


def named(arguments: Namespace) -> Iterable[str]:
    """The names of the kind that the word before says."""
    return names(kind_of(arguments.kind))(arguments)


def kind_of(word: str) -> Kind:
    """The kind that a word on the command line means: also in the plural, and `ciliumnode` as in kubectl."""
    singular = word.removeprefix("cilium").removesuffix("s")
    kinds: tuple[Kind, ...] = ("pool", "node", "block")
    return next((kind for kind in kinds if kind == singular), "address")


_NAMES: Final[dict[Kind, Callable[[Ipam], Iterable[str]]]] = {
    "pool": lambda ipam: (status.spec.name for status in ipam.pools()),
    "node": lambda ipam: (status.node.name for status in ipam.nodes()),
    "block": lambda ipam: (str(block.prefix) for block in ipam.blocks()),
    "address": lambda ipam: (str(item.address) for item in ipam.allocations()),
    "owner": lambda ipam: (item.owner for item in ipam.allocations()),
}
