"""`ciliumipam-cni` for people: install the executable, change over from host-local and back."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ciliumipam._version import __version__
from ciliumipam.cni.faults import CniError
from ciliumipam.cni.host_local import DIRECTORY, Converted, configured, give_back, take_over
from ciliumipam.cni.install import NAME, install
from ciliumipam.errors import IpamError


def run(arguments: Sequence[str]) -> int:
    """Do what the arguments say; returns the exit code: 0 done, 1 conflicts, 2 what was asked for cannot be done."""
    asked = _parser().parse_args(arguments)
    try:
        if asked.command == "install":
            print(install(asked.directory, asked.name))
            return 0
        network, config = configured(asked.config)
        directory = asked.directory or DIRECTORY / network.name
        if asked.command == "from-host-local":
            converted = take_over(network, config, directory, interface=asked.interface, dry_run=asked.dry_run)
        else:
            converted = give_back(network, config, directory, overwrite=asked.overwrite, dry_run=asked.dry_run)
    except (IpamError, CniError) as error:
        print(f"ciliumipam-cni: {error}", file=sys.stderr)
        return 2
    return _told(converted, dry_run=asked.dry_run)


def _told(converted: Converted, *, dry_run: bool) -> int:
    for line in converted.conflicts:
        print(f"conflict: {line}", file=sys.stderr)
    if converted.conflicts:
        print(f"nothing was changed, for {len(converted.conflicts)} of these stand in the way", file=sys.stderr)
        return 1
    for line in (*converted.left_out, *converted.done):
        print(line)
    would = "would be changed" if dry_run else "changed"
    print(f"{len(converted.done)} {would}" if converted.done else "everything is as it should be")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=NAME,
        description="A CNI IPAM plugin. Runtimes call it by CNI's protocol, with CNI_COMMAND in the environment; these commands are for people.",
    )
    parser.add_argument("--version", action="version", version=f"ciliumipam {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    put = commands.add_parser("install", help="write the executable into a CNI bin directory")
    put.add_argument("directory", type=Path, metavar="DIR", help="where the runtime looks for plugins, as /opt/cni/bin")
    put.add_argument("--name", default=NAME, help=f"the file's name, which is the 'type' in configurations (default: {NAME})")
    there = commands.add_parser("from-host-local", help="hold what host-local holds, for the same attachments")
    back = commands.add_parser("to-host-local", help="write host-local's directory from what is held")
    for each in (there, back):
        each.add_argument("--config", type=Path, required=True, metavar="FILE", help="the network's configuration with our 'ipam', one plugin or a list")
        each.add_argument("--directory", type=Path, metavar="DIR", help=f"host-local's directory of the network (default: {DIRECTORY}/NETWORK)")
        each.add_argument("--dry-run", action="store_true", help="only say what would be done")
    there.add_argument("--interface", default="eth0", metavar="NAME", help="of files that name none (default: eth0)")
    back.add_argument("--overwrite", action="store_true", help="remove files that say what the store does not say")
    return parser
