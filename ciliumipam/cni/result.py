"""Answers: the result of ADD in the form of each version of the specification, of VERSION, and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, NamedTuple

from ciliumipam.cni.faults import CniError

VERSIONS: Final = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""The versions whose results we write. 0.3.1 only mended a typing mistake of 0.3.0."""
CHECK_SINCE: Final = ("0.4.0", "1.0.0", "1.1.0")
GC_SINCE: Final = ("1.1.0",)
_WITH_FAMILY = ("0.3.0", "0.3.1", "0.4.0")


class Given(NamedTuple):
    """An address of an attachment.

    Attributes:
        family: 4 or 6.
        address: With the length of the block that it is from, as the interface gets it.
        gateway: "" for none.
    """

    family: int
    address: str
    gateway: str


def added(version: str, given: Sequence[Given], routes: Sequence[Mapping[str, Any]], dns: Mapping[str, Any]) -> dict[str, Any]:
    """The abbreviated result of a delegated IPAM plugin: no interfaces, and no index of one in `ips`.

    Up to 0.4.0 each address names its family, from 1.0.0 on it does not.
    """
    ips = []
    for each in given:
        entry: dict[str, Any] = {"version": str(each.family)} if version in _WITH_FAMILY else {}
        entry["address"] = each.address
        if each.gateway:
            entry["gateway"] = each.gateway
        ips.append(entry)
    result: dict[str, Any] = {"cniVersion": version, "ips": ips}
    if routes:
        result["routes"] = list(routes)
    result["dns"] = dict(dns)
    return result


def versions(asked: str) -> dict[str, Any]:
    """The result of VERSION; it repeats the version that was asked in."""
    return {"cniVersion": asked, "supportedVersions": list(VERSIONS)}


def failed(version: str, error: CniError) -> dict[str, Any]:
    """An error object, in the version of the call where that is one of ours."""
    told = version if version in VERSIONS else VERSIONS[-1]
    answer: dict[str, Any] = {"cniVersion": told, "code": error.code, "msg": error.message}
    if error.details:
        answer["details"] = error.details
    return answer
