"""What a network's configuration and CNI_ARGS say. Everything unknown or contradictory is an error that names it.

DEL and GC read only where the addresses are: a slip in the rest of a configuration must not keep a pod from going away.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ciliumipam.cidr import Prefix, format_address, parse_address, parse_prefix
from ciliumipam.cni import faults
from ciliumipam.cni.faults import CniError
from ciliumipam.cni.result import VERSIONS
from ciliumipam.errors import InvalidError
from ciliumipam.names import describe, shorten, unknown_field, validate_name

FIELDS: Final = ("type", "store", "node", "blocks", "reserved", "gateway", "routes", "dns", "resolvConf", "deadlineSeconds")
ROUTE_FIELDS: Final = ("dst", "gw", "mtu", "advmss", "priority", "table", "scope")
DNS_FIELDS: Final = ("nameservers", "domain", "search", "options")
ARGUMENTS: Final = ("IgnoreUnknown", "IP", "K8S_POD_NAMESPACE", "K8S_POD_NAME", "K8S_POD_UID", "K8S_POD_INFRA_CONTAINER_ID")
ATTACHMENTS: Final = "cni.dev/valid-attachments"
LOCAL: Final = "local"
"""The node's name in a store whose blocks the configuration names. A host may change its name, its addresses stay."""
DEADLINE: Final = 30.0
LONGEST_DEADLINE: Final = 600.0

NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""A network's name and a container's id: the same rule in the specification."""

Gateway: TypeAlias = Literal["first", "none"] | tuple[str, ...]


class Network(NamedTuple):
    """The configuration as it came, known to be an object with a name and a version that we speak."""

    name: str
    version: str
    raw: Mapping[str, Any]

    @property
    def chained(self) -> bool:
        """Whether the plugin stands in the list of plugins itself, and not only as the `ipam` of one."""
        ipam = self.raw.get("ipam")
        return isinstance(ipam, dict) and self.raw.get("type") == ipam.get("type")


class Place(NamedTuple):
    """Where the addresses are: the store's file and the node's name in it."""

    path: str
    node: str


class Config(NamedTuple):
    """The `ipam` object of a configuration.

    Attributes:
        place: The store and the node.
        blocks: The node's blocks, where the configuration names them.
        reserved: Addresses of these that are never handed out.
        gateway: "first" is the first host address of each block.
        routes: As they are answered.
        dns: As it is answered.
        resolv_conf: A file to read that from; "" for none.
        deadline: Seconds that a call may take.
    """

    place: Place
    blocks: tuple[Prefix, ...]
    reserved: tuple[str, ...]
    gateway: Gateway
    routes: tuple[Mapping[str, Any], ...]
    dns: Mapping[str, Any]
    resolv_conf: str
    deadline: float


class Arguments(NamedTuple):
    """What a runtime asks for an attachment: addresses, and a name for people."""

    addresses: tuple[str, ...]
    label: str


def read_input(text: bytes) -> Mapping[str, Any]:
    """The object on standard input.

    Raises:
        CniError: It is no JSON object (6).
    """
    try:
        raw = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise CniError(faults.DECODING_FAILURE, "the network configuration on standard input is not JSON", str(error)) from error
    if not isinstance(raw, dict):
        raise CniError(faults.DECODING_FAILURE, "the network configuration on standard input is no JSON object", f"found {describe(raw)}")
    return raw


def read_network(raw: Mapping[str, Any]) -> Network:
    """The parts of a configuration that every plugin reads.

    Raises:
        CniError: The version is none of ours (1), or the name is missing or wrong (7).
    """
    version = raw.get("cniVersion", "0.1.0")  # the specification's meaning of none
    if version not in VERSIONS:
        shown = version if isinstance(version, str) else describe(version)
        raise CniError(
            faults.INCOMPATIBLE_VERSION, "incompatible CNI version", f"cniVersion is {shown}; supported: {', '.join(VERSIONS)}"
        )
    name = raw.get("name")
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise _invalid("name", f"a network's name begins with a letter or digit, and has only these and _ . -; found {describe(name)}")
    return Network(name, version, raw)


def read_place(network: Network) -> Place:
    """Where the addresses are.

    Raises:
        CniError: `ipam`, `store`, `node` or `blocks` is wrong (7).
    """
    ipam = _ipam(network)
    store = ipam.get("store")
    path = store.removeprefix("sqlite:") if isinstance(store, str) and store.startswith("sqlite:") else ""
    if not path.startswith("/"):  # a runtime starts plugins in no certain directory
        raise _invalid("ipam.store", f"write sqlite: and an absolute path, as in sqlite:/var/lib/ciliumipam/node.db; found {describe(store)}")
    node = ipam.get("node")
    if (node is None) == (ipam.get("blocks") is None):
        raise _invalid("ipam", "give either 'node', whose blocks come by 'ciliumipam apply' or the agent, or 'blocks', a list of CIDRs")
    if node is None:
        return Place(path, LOCAL)
    try:
        return Place(path, validate_name("node name", node))
    except InvalidError as error:
        raise _invalid("ipam.node", str(error)) from error


def read_config(network: Network) -> Config:
    """All of it.

    Raises:
        CniError: There is an unknown key (2), or a value is wrong (7).
    """
    place = read_place(network)
    ipam = _ipam(network)
    _known("ipam", ipam, FIELDS)
    runtime = _object("runtimeConfig", network.raw.get("runtimeConfig"))
    if "ipRanges" in runtime:
        raise _unsupported(
            "runtimeConfig.ipRanges", runtime["ipRanges"], "blocks stand in ipam.blocks or in the store; remove the capability ipRanges"
        )
    blocks = tuple(_prefix(f"ipam.blocks[{n}]", each) for n, each in enumerate(_list("ipam.blocks", ipam.get("blocks"))))
    if ipam.get("blocks") is not None and not blocks:
        raise _invalid("ipam.blocks", "it is empty; name the node's CIDRs")
    reserved = _texts("ipam.reserved", ipam.get("reserved"))
    if reserved and not blocks:
        raise _invalid("ipam.reserved", "it goes with 'blocks'; with 'node' the pool says what is reserved")
    if "dns" in ipam and "resolvConf" in ipam:
        raise _invalid("ipam", "give either 'dns' or 'resolvConf'")
    return Config(
        place,
        blocks,
        reserved,
        _gateway(ipam.get("gateway")),
        tuple(_route(f"ipam.routes[{n}]", each) for n, each in enumerate(_list("ipam.routes", ipam.get("routes")))),
        _dns(ipam.get("dns")),
        _text("ipam.resolvConf", ipam.get("resolvConf", "")),
        _deadline(ipam.get("deadlineSeconds", DEADLINE)),
    )


def read_arguments(network: Network, cni_args: str) -> Arguments:
    """What CNI_ARGS, `args.cni.ips` and `runtimeConfig.ips` ask for, in this order and without repetitions.

    Raises:
        CniError: CNI_ARGS cannot be read or has unknown keys (4), or an address in the configuration is none (7).
    """
    pairs: dict[str, str] = {}
    for pair in filter(None, cni_args.split(";")):
        key, equals, value = pair.partition("=")
        if not key or not equals or "=" in value:
            raise CniError(faults.INVALID_ENVIRONMENT, "CNI_ARGS cannot be read", f"{pair!r} is no KEY=VALUE; pairs are separated by ;")
        pairs[key] = value
    unknown = sorted(set(pairs) - set(ARGUMENTS))
    if unknown and pairs.get("IgnoreUnknown", "").lower() not in ("1", "true"):
        known = ", ".join(ARGUMENTS)
        raise CniError(faults.INVALID_ENVIRONMENT, f"CNI_ARGS has unknown keys: {', '.join(unknown)}", f"known: {known}; IgnoreUnknown=1 skips others")
    asked: list[str] = []
    if "IP" in pairs:
        try:
            asked.append(_address(pairs["IP"]))
        except InvalidError as error:
            raise CniError(faults.INVALID_ENVIRONMENT, "CNI_ARGS: IP is no address", str(error)) from error
    cni = _object("args.cni", _object("args", network.raw.get("args")).get("cni"))
    runtime = _object("runtimeConfig", network.raw.get("runtimeConfig"))
    for path, found in (("args.cni.ips", cni.get("ips")), ("runtimeConfig.ips", runtime.get("ips"))):
        for each in _texts(path, found):
            try:
                asked.append(_address(each))
            except InvalidError as error:
                raise _invalid(path, str(error)) from error
    pod = [pairs[key] for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME") if pairs.get(key)]
    return Arguments(tuple(dict.fromkeys(asked)), "/".join(pod))


def read_attachments(network: Network) -> frozenset[tuple[str, str]]:
    """Container and interface of every attachment that is still valid. JSON's null is an empty list, as Go writes one.

    Raises:
        CniError: The runtime does not say which they are, or not so that it can be read (7). To take that for "none" would free everything.
    """
    if ATTACHMENTS not in network.raw:
        raise _invalid(ATTACHMENTS, "the runtime has to say which attachments are still valid; nothing was released")
    found = []
    for n, each in enumerate(_list(ATTACHMENTS, network.raw[ATTACHMENTS])):
        path = f"{ATTACHMENTS}[{n}]"
        attachment = _object(path, each)
        found.append((_text(f"{path}.containerID", attachment.get("containerID")), _text(f"{path}.ifname", attachment.get("ifname"))))
    return frozenset(found)


def read_previous(network: Network) -> frozenset[str]:
    """The addresses, without lengths, of the result that CHECK is to compare with.

    Raises:
        CniError: There is none, or it cannot be read (7).
    """
    previous = network.raw.get("prevResult")
    if previous is None:
        raise _invalid("prevResult", "CHECK compares with the result of ADD, which the runtime has to pass")
    found = []
    for n, each in enumerate(_list("prevResult.ips", _object("prevResult", previous).get("ips"))):
        path = f"prevResult.ips[{n}].address"
        try:
            found.append(_address(_text(path, _object(path, each).get("address"))))
        except InvalidError as error:
            raise _invalid(path, str(error)) from error
    return frozenset(found)


def read_resolv_conf(path: str) -> dict[str, Any]:
    """DNS settings out of a resolver's file, by the rules of resolv.conf(5): the last domain counts, lists add up.

    Raises:
        CniError: The file cannot be read (5).
    """
    try:
        with open(path, encoding="utf-8", errors="replace") as file:  # noqa: PTH123 - pathlib takes longer to import than all else here
            lines = file.read().splitlines()
    except OSError as error:
        raise CniError(faults.IO_FAILURE, f"ipam.resolvConf: {path} cannot be read", error.strerror or str(error)) from error
    dns: dict[str, Any] = {}
    for keyword, *values in (line.split() for line in lines if line.split()):
        if not values or keyword.startswith(("#", ";")):
            continue
        if keyword == "domain":
            dns["domain"] = values[0]
        elif keyword == "nameserver":
            dns.setdefault("nameservers", []).append(values[0])
        elif keyword in ("search", "options"):
            dns.setdefault(keyword, []).extend(values)
    return dns


# ---------------------------------------------------------------------------------------------------------- one field


def _invalid(path: str, reason: str) -> CniError:
    return CniError(faults.INVALID_CONFIG, "invalid network configuration", f"{path}: {reason}")


def _unsupported(path: str, value: object, reason: str) -> CniError:
    return CniError(faults.UNSUPPORTED_FIELD, f"unsupported field {path}: {shorten(json.dumps(value, default=str))}", reason)


def _known(path: str, found: Mapping[str, Any], known: tuple[str, ...]) -> None:
    for key, value in found.items():
        if key not in known:
            raise _unsupported(f"{path}.{key}", value, unknown_field(key, known))


def _ipam(network: Network) -> Mapping[str, Any]:
    ipam = network.raw.get("ipam")
    if not isinstance(ipam, dict):
        raise _invalid("ipam", f"an object with 'type', 'store', and 'node' or 'blocks' is needed; found {describe(ipam)}")
    return ipam


def _object(path: str, value: object) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _invalid(path, f"an object is needed; found {describe(value)}")
    return value


def _list(path: str, value: object) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise _invalid(path, f"a list is needed; found {describe(value)}")
    return value


def _text(path: str, value: object) -> str:
    if not isinstance(value, str):
        raise _invalid(path, f"text is needed; found {describe(value)}")
    return value


def _texts(path: str, value: object) -> tuple[str, ...]:
    return tuple(_text(f"{path}[{n}]", each) for n, each in enumerate(_list(path, value)))


def _prefix(path: str, value: object) -> Prefix:
    try:
        return parse_prefix(_text(path, value))
    except InvalidError as error:
        raise _invalid(path, str(error)) from error


def _address(text: str) -> str:
    """An address in its usual spelling; a length after it is dropped, as runtimes write one."""
    return format_address(*parse_address(text.partition("/")[0]))


def _gateway(value: object) -> Gateway:
    if value is None:
        return "first"
    if value is False:
        return "none"
    found = []
    for each in value if isinstance(value, list) else [value]:
        try:
            found.append(parse_address(_text("ipam.gateway", each)))
        except InvalidError as error:
            raise _invalid("ipam.gateway", str(error)) from error
    if len({family for family, _ in found}) != len(found):
        raise _invalid("ipam.gateway", "one address of each family at the most; without 'gateway' it is the first host address of each block")
    return tuple(format_address(*each) for each in found)


def _route(path: str, value: object) -> Mapping[str, Any]:
    route = _object(path, value)
    _known(path, route, ROUTE_FIELDS)
    _prefix(f"{path}.dst", route.get("dst"))
    for key, given in route.items():
        if key == "gw":
            try:
                parse_address(_text(f"{path}.gw", given))
            except InvalidError as error:
                raise _invalid(f"{path}.gw", str(error)) from error
        elif key != "dst" and (type(given) is not int or not 0 <= given < 1 << 32):
            raise _invalid(f"{path}.{key}", f"a whole number from 0 is needed; found {describe(given)}")
    return route


def _dns(value: object) -> Mapping[str, Any]:
    dns = _object("ipam.dns", value)
    _known("ipam.dns", dns, DNS_FIELDS)
    for key, given in dns.items():
        if key == "domain":
            _text("ipam.dns.domain", given)
        else:
            _texts(f"ipam.dns.{key}", given)
    return dns


def _deadline(value: object) -> float:
    if type(value) not in (int, float) or not 0 < value <= LONGEST_DEADLINE:  # type: ignore[operator] # mypy does not narrow by type(...) in
        raise _invalid("ipam.deadlineSeconds", f"a number of seconds above 0 and up to {LONGEST_DEADLINE:g} is needed; found {describe(value)}")
    return float(value)  # type: ignore[arg-type] # the same
