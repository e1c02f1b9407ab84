"""Changing over from host-local, and back: the same addresses, held by the same attachments.

host-local keeps a directory for each network: a file for each address, named by it, with the container's id and, after CR LF, the
interface; `last_reserved_ip.N`, where it goes on looking in range N; and `lock`, which it holds by flock while it looks or changes
anything (`plugins/ipam/host-local/backend/disk` of CNI's plugins). Both ways hold that lock. Either everything is taken over, or
nothing and each conflict is told: what is to be done is first tried on a copy of the store in memory, with the code that then does it.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from ciliumipam.cidr import format_address, parse_address, to_address
from ciliumipam.cni.config import NAME, Config, Network, read_config, read_input, read_network
from ciliumipam.cni.faults import CniError
from ciliumipam.cni.node_store import Node, gateway_of
from ciliumipam.cni.result import VERSIONS
from ciliumipam.errors import InvalidAddressError, InvalidRequestError, IpamError, NotFoundError
from ciliumipam.ipam import Ipam
from ciliumipam.store import Store
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore
from ciliumipam.transfer import copy

DIRECTORY = Path("/var/lib/cni/networks")
"""Where host-local keeps its networks by default."""
_OWN_FILES = ("lock", "last_reserved_ip.")


class Reservation(NamedTuple):
    """A file of host-local. `interface` is "" in files of its first versions."""

    address: str
    container: str
    interface: str


class Converted(NamedTuple):
    """What was done, or with a dry run would be, what was left out, and what stands in the way; with a conflict nothing was done."""

    done: tuple[str, ...]
    left_out: tuple[str, ...]
    conflicts: tuple[str, ...]


def configured(path: Path) -> tuple[Network, Config]:
    """The network and our `ipam` object out of a file as a runtime reads it, for one plugin or a list of them.

    Raises:
        InvalidRequestError: There is none in it, or something in it is wrong.
    """
    try:
        raw = read_input(path.read_bytes())
        plugins = raw.get("plugins", [raw])
        ours = [each for each in plugins if isinstance(each, dict) and isinstance(each.get("ipam"), dict) and "store" in each["ipam"]]
        if not ours:
            raise InvalidRequestError(f"{path}: no plugin in it has an 'ipam' with a 'store', as that of ciliumipam-cni has")
        network = read_network({**ours[0], "name": raw.get("name"), "cniVersion": VERSIONS[-1]})
        return network, read_config(network)
    except OSError as error:
        raise InvalidRequestError(f"{path} cannot be read: {error.strerror}") from error
    except CniError as error:
        raise InvalidRequestError(f"{path}: {error}") from error


def take_over(network: Network, config: Config, directory: Path, *, interface: str = "eth0", dry_run: bool = False) -> Converted:
    """Hold in the store what host-local's directory says is held. What the store holds so already stays; the directory stays as it is.

    Args:
        network: The network, whose name is that of the directory too.
        config: Its `ipam`.
        directory: host-local's directory of this network.
        interface: The interface of files that name none.
        dry_run: Whether to write nothing.

    Raises:
        InvalidRequestError: There is no such directory, or a file in it cannot be read.
        CniError: The blocks of the configuration cannot be had.
        StoreError: The store failed.
    """
    if not directory.is_dir():
        raise InvalidRequestError(f"{directory} is no directory; name the one that host-local keeps for the network, as {DIRECTORY / network.name}")
    with _locked(directory):
        found, strange = _read(directory)
        with closing(MemoryStore()) as trial:
            if Path(config.place.path).exists():
                with closing(SqliteStore(config.place.path, read_only=True, must_exist=True)) as store:
                    copy(store, trial)
            done, conflicts = _hold(trial, network, config, found, interface)
        if not conflicts and not dry_run:
            with closing(SqliteStore(config.place.path, must_exist=not config.blocks)) as store:
                done, conflicts = _hold(store, network, config, found, interface)
    return Converted(tuple(done), tuple(strange), tuple(conflicts))


def give_back(network: Network, config: Config, directory: Path, *, overwrite: bool = False, dry_run: bool = False) -> Converted:
    """Make host-local's directory say what the store holds for this network. The store stays as it is.

    Args:
        network: The network, whose name is that of the directory too.
        config: Its `ipam`.
        directory: host-local's directory of this network; it is created.
        overwrite: Whether files go that say anything else, as those from before the change to us do. Otherwise they are conflicts.
        dry_run: Whether to write nothing.

    Raises:
        InvalidRequestError: The directory cannot be read or written.
        StoreError: The store failed.
    """
    with closing(SqliteStore(config.place.path, read_only=True, must_exist=True)) as store:
        held = _held(store, network, config)
    if dry_run and not directory.exists():
        return Converted(tuple(f"write {each.address} of {each.container}" for each in held), (), ())
    directory.mkdir(mode=0o755, parents=True, exist_ok=True)
    with _locked(directory):
        found, strange = _read(directory)
        wanted, there = set(held), set(found)
        stale = sorted(there - wanted)
        if stale and not overwrite:
            return Converted((), (), tuple(f"{directory / each.address} is of {each.container} {each.interface}, which the store does not say" for each in stale))
        done = [f"remove {each.address} of {each.container}" for each in stale]
        done += [f"write {each.address} of {each.container}" for each in held if each not in there]
        if not dry_run:
            for each in stale:
                (directory / each.address).unlink()
            for each in held:
                if each not in there:
                    _write(directory / each.address, f"{each.container}\r\n{each.interface}")
    return Converted(tuple(done), tuple(strange), ())


# --------------------------------------------------------------------------------------------------------------- parts


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """host-local's own lock: while it is held, host-local gives out and takes back nothing."""
    try:
        descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT, 0o640)
    except OSError as error:
        raise InvalidRequestError(f"{directory / 'lock'} cannot be opened: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _read(directory: Path) -> tuple[list[Reservation], list[str]]:
    """What is reserved, in address order, and a sentence for each file that is none of host-local's."""
    found: list[tuple[tuple[int, int], Reservation]] = []
    strange = []
    for path in sorted(directory.iterdir()):
        try:
            number = parse_address(path.name)
        except InvalidAddressError:
            if not path.name.startswith(_OWN_FILES):
                strange.append(f"left out {path.name}: its name is no address")
            continue
        try:
            container, _, interface = path.read_bytes().decode().strip().partition("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidRequestError(f"{path} cannot be read: {error}") from error
        if not NAME.fullmatch(container):
            raise InvalidRequestError(f"{path}: {container[:80]!r} is no container's id; if no pod has {path.name}, remove the file")
        found.append((number, Reservation(path.name, container, interface)))
    return [each for _, each in sorted(found)], strange


def _hold(
    store: Store, network: Network, config: Config, found: list[Reservation], interface: str
) -> tuple[list[str], list[str]]:
    """Allocate every reservation; what was new, and what could not be."""
    node = Node(store, config.place.node)
    node.prepare(config)
    ipam = Ipam(store)
    try:
        before = {(each.owner, each.address) for each in ipam.allocations(config.place.node)}
    except NotFoundError as error:
        raise InvalidRequestError(f"{config.place.path}: {error}; apply it first, or give 'blocks' instead of 'node'") from error
    done, conflicts = [], []
    for each in found:
        owner = f"{network.name}/{each.container}/{each.interface or interface}"
        address = to_address(*parse_address(each.address))
        if (owner, address) in before:
            continue
        try:
            (allocation,) = ipam.allocate(config.place.node, owner, address=address)
        except IpamError as error:
            conflicts.append(f"{each.address} of {owner}: {error}")
            continue
        if config.gateway == "first" and gateway_of(allocation, "first") == str(address):
            conflicts.append(f"{each.address} of {owner}: it is the gateway of block {allocation.block}; set 'gateway' to the address that is one")
        done.append(f"hold {each.address} for {owner}" + ("" if each.interface else ", whose file names no interface"))
    return done, conflicts


def _held(store: Store, network: Network, config: Config) -> list[Reservation]:
    found = []
    for each in Ipam(store).allocations(config.place.node):
        name, _, attachment = each.owner.partition("/")
        container, slash, interface = attachment.partition("/")
        if name == network.name and slash:
            found.append(Reservation(format_address(each.family, int(each.address)), container, interface))
    return found


def _write(path: Path, text: str) -> None:
    """Write a file of which nobody sees a part, and which is there after loss of power."""
    fresh = path.with_name(f"fresh.{path.name}")
    with fresh.open("w", newline="") as file:
        os.fchmod(file.fileno(), 0o600)
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    fresh.replace(path)

