"""One call of the plugin: the environment and standard input in, one JSON object on standard output out, and an exit code.

Nothing but the answer is ever on standard output: it is set aside at once, and whatever else is printed goes to standard error. Each call
has a deadline, which a thread of its own keeps, since a disk that does not answer would hold up everything else: whichever of the
two first has the word answers. A call that is cut off has either been committed or not; DEL, GC and another ADD put both right.
"""

from __future__ import annotations

import _thread
import json
import os
import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

from ciliumipam.cni import config as conf
from ciliumipam.cni import faults
from ciliumipam.cni.config import Arguments, Config, Network, Place
from ciliumipam.cni.faults import CniError, fault_of
from ciliumipam.cni.result import CHECK_SINCE, GC_SINCE, VERSIONS, added, failed, versions
from ciliumipam.errors import InvalidError, IpamError, LeaseExpiredError
from ciliumipam.names import validate_owner

if TYPE_CHECKING:
    from ciliumipam.cni.node_store import Node

COMMANDS: Final = ("ADD", "DEL", "CHECK", "GC", "STATUS", "VERSION")
_ATTACHMENT: Final = ("ADD", "DEL", "CHECK")
_FIRST_TRY: Final = 0.9
"""The part of the deadline in which the store is waited for, so that its own words are told and not only that it was too late."""


class Deadline:
    """Answers in place of a call that takes too long, and ends the process."""

    def __init__(self, output: int) -> None:
        """Begin with the default; what the configuration says is known later."""
        self._output = output
        self._begun = time.monotonic()
        self._seconds = conf.DEADLINE
        self._word = _thread.allocate_lock()
        self._changed = _thread.allocate_lock()
        self._changed.acquire()
        self.version = VERSIONS[-1]
        _thread.start_new_thread(self._watch, ())

    def limit(self, seconds: float) -> None:
        """Allow so many seconds from the beginning of the call."""
        self._seconds = seconds
        self._changed.release()

    def moment(self, part: float) -> float:
        """When a part of the time is up, by `time.monotonic`."""
        return self._begun + self._seconds * part

    def answer(self, answer: Mapping[str, Any] | None, code: int) -> NoReturn:
        """Write the answer, if the time is not up, and end. Python's own end would only take time: what counts is committed."""
        self._word.acquire()  # held by the other thread only while that ends the process
        self._end(answer, code)

    def _watch(self) -> None:
        while True:
            left = self.moment(1) - time.monotonic()
            if left > 0:
                self._changed.acquire(timeout=left)
            elif self._word.acquire(blocking=False):
                details = f"whether something was written is not known; a DEL or another ADD puts it right. ipam.deadlineSeconds is {self._seconds:g}"
                error = CniError(faults.TRY_AGAIN_LATER, "the call took too long", details)
                self._end(failed(self.version, error), 1)
            else:
                return

    def _end(self, answer: Mapping[str, Any] | None, code: int) -> NoReturn:
        text = b"" if answer is None else json.dumps(answer).encode() + b"\n"
        try:
            while text:
                text = text[os.write(self._output, text) :]
        except OSError:  # nobody listens any more
            code = 1
        os._exit(code)


def main() -> NoReturn:
    """Answer the call that the environment describes."""
    output = os.dup(1)
    os.dup2(2, 1)
    deadline = Deadline(output)
    try:
        answer = _call(os.environ, deadline)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the runtime is answered
        fault = fault_of(error)
        if fault.code == faults.INTERNAL:
            import traceback  # noqa: PLC0415 - never needed

            traceback.print_exception(error)
            sys.stderr.flush()
        deadline.answer(failed(deadline.version, fault), 1)
    deadline.answer(answer, 0)


def _call(environment: Mapping[str, str], deadline: Deadline) -> dict[str, Any] | None:
    command = environment.get("CNI_COMMAND", "")
    if command not in COMMANDS:
        told = f"it is {command!r}; known: {', '.join(COMMANDS)}. Runtimes call this program; 'ciliumipam-cni --help' is for people"
        raise CniError(faults.INVALID_ENVIRONMENT, "CNI_COMMAND is missing or unknown", told)
    if command == "VERSION":
        text = _read_all()
        asked = conf.read_input(text).get("cniVersion") if text.strip() else None
        return versions(asked if isinstance(asked, str) else VERSIONS[-1])
    attachment = _attachment(command, environment)
    raw = conf.read_input(_read_all())
    if raw.get("cniVersion") in VERSIONS:
        deadline.version = raw["cniVersion"]
    network = conf.read_network(raw)
    since = {"CHECK": CHECK_SINCE, "GC": GC_SINCE, "STATUS": GC_SINCE}.get(command, VERSIONS)
    if network.version not in since:
        raise CniError(
            faults.INCOMPATIBLE_VERSION,
            f"CNI {network.version} has no {command}",
            f"the network {network.name} has cniVersion {network.version}; {command} is there from {since[0]} on",
        )
    if network.chained and command in _ATTACHMENT:
        return _passed_on(command, network)
    if command == "DEL":
        _delete(network, attachment, deadline)
        return None
    if command == "GC":
        _collect(network, deadline)
        return None
    config = conf.read_config(network)
    deadline.limit(config.deadline)
    if command == "ADD":
        return _add(network, config, attachment, conf.read_arguments(network, environment.get("CNI_ARGS", "")), deadline)
    if command == "CHECK":
        _check(network, config, attachment, deadline)
    else:
        _status(config, deadline)
    return None


def _read_all() -> bytes:
    try:
        parts = []
        while part := os.read(0, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    except OSError as error:
        raise CniError(faults.IO_FAILURE, "standard input cannot be read", error.strerror or str(error)) from error


def _attachment(command: str, environment: Mapping[str, str]) -> tuple[str, str]:
    """The container and the interface of a call that is about one."""
    if command not in _ATTACHMENT:
        return "", ""
    container, interface = environment.get("CNI_CONTAINERID", ""), environment.get("CNI_IFNAME", "")
    wrong = []
    if not conf.NAME.fullmatch(container):
        wrong.append(f"CNI_CONTAINERID {container!r}: an id begins with a letter or digit, and has only these and _ . -")
    if not 1 <= len(interface) <= 15 or interface in (".", "..") or any(each in "/:" or each.isspace() for each in interface):
        wrong.append(f"CNI_IFNAME {interface!r}: a name has 1 to 15 characters, none of them / or : or white space")
    if command != "DEL" and not environment.get("CNI_NETNS"):
        wrong.append("CNI_NETNS is missing")
    if wrong:
        names = ", ".join(each.split()[0] for each in wrong)
        raise CniError(faults.INVALID_ENVIRONMENT, f"missing or invalid environment variables: {names}", "; ".join(wrong))
    return container, interface


def _owner(network: Network, attachment: tuple[str, str]) -> str:
    """Whom an address belongs to. No part has a slash, so no two attachments share an id."""
    try:
        return validate_owner(f"{network.name}/{'/'.join(attachment)}")
    except InvalidError as error:
        raise CniError(faults.INVALID_ENVIRONMENT, "CNI_CONTAINERID: no owner id can be made of it", str(error)) from error


# ------------------------------------------------------------------------------------------------------------- commands


def _passed_on(command: str, network: Network) -> dict[str, Any] | None:
    """What a plugin of the list does that only stands there for GC and STATUS: the result before it goes through as it came."""
    previous = network.raw.get("prevResult")
    if command != "ADD":
        return None
    if not isinstance(previous, dict):
        told = "it stands first in the list of plugins; it belongs into the 'ipam' of another one, and behind that one for GC and STATUS"
        raise CniError(faults.INVALID_CONFIG, "ciliumipam-cni makes no interfaces", told)
    return previous


def _add(network: Network, config: Config, attachment: tuple[str, str], arguments: Arguments, deadline: Deadline) -> dict[str, Any]:
    from ciliumipam.cni.node_store import Node, to_given  # noqa: PLC0415 - what opens a store is loaded by those who need one

    dns = conf.read_resolv_conf(config.resolv_conf) if config.resolv_conf else config.dns
    node = Node.open(config.place, deadline.moment(_FIRST_TRY), create=bool(config.blocks))
    found = node.take(config, _owner(network, attachment), arguments.label, arguments.addresses)
    return added(network.version, [to_given(each, config.gateway) for each in found], config.routes, dns)


def _existing(place: Place, deadline: Deadline) -> Node | None:
    """The store where there is one; else None: then nobody holds anything."""
    if not os.path.exists(place.path):  # noqa: PTH110 - pathlib takes longer to import than all else here
        return None
    from ciliumipam.cni.node_store import Node  # noqa: PLC0415 - as above

    return Node.open(place, deadline.moment(_FIRST_TRY), create=False)


def _delete(network: Network, attachment: tuple[str, str], deadline: Deadline) -> None:
    node = _existing(conf.read_place(network), deadline)
    if node is not None:
        node.one.release(_owner(network, attachment))


def _collect(network: Network, deadline: Deadline) -> None:
    valid = {_owner(network, each) for each in conf.read_attachments(network)}
    node = _existing(conf.read_place(network), deadline)
    if node is not None:
        node.one.release_others(valid, f"{network.name}/")


def _check(network: Network, config: Config, attachment: tuple[str, str], deadline: Deadline) -> None:
    previous = conf.read_previous(network)
    owner = _owner(network, attachment)
    node = _existing(config.place, deadline)
    held = {str(each.address) for each in node.one.held(owner)} if node is not None else set()
    lost = sorted(each for each in previous - held if node is not None and node.covers(each))
    if not held or lost:
        what = ", ".join(lost or sorted(previous)) or "an address"
        told = f"{config.place.path}: {owner} does not hold {what}; it holds {', '.join(sorted(held)) or 'nothing'}"
        raise CniError(faults.NOT_AS_ADDED, "the address of this attachment is not held", f"{told}. Delete the pod, so that it gets one")
    unknown = sorted(held - previous)
    if unknown:
        told = f"{config.place.path}: {owner} holds {', '.join(unknown)}, which is not in prevResult ({', '.join(sorted(previous)) or 'no address'})"
        raise CniError(faults.NOT_AS_ADDED, "the result of ADD is not what is held", told)


def _status(config: Config, deadline: Deadline) -> None:
    from ciliumipam.cni.node_store import Node  # noqa: PLC0415 - as above

    try:
        Node.open(config.place, deadline.moment(_FIRST_TRY), create=bool(config.blocks)).probe(config)
    except IpamError as error:
        fault = fault_of(error)
        code = faults.LIMITED_CONNECTIVITY if isinstance(error, LeaseExpiredError) else faults.NOT_AVAILABLE
        raise CniError(code, f"cannot serve ADD: {fault.message}", fault.details) from error


