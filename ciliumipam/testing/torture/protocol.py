"""What an allocator under torture looks like to the driver: a few calls, and claims that say what may be held against it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias, runtime_checkable

Address: TypeAlias = IPv4Address | IPv6Address
Network: TypeAlias = IPv4Network | IPv6Network
AddressLike: TypeAlias = str | Address
Run: TypeAlias = tuple[AddressLike, AddressLike]
"""A first and a last address, both inclusive."""


class RangeExhaustedError(Exception):
    """Raised by an adapter: no address is left."""


class CallRefusedError(Exception):
    """Raised by an adapter: the allocator understood the call and said no, and nothing changed."""


class CallFailedError(Exception):
    """Raised by an adapter: the allocator broke down. So does every other exception count; this one is shown by its text alone."""


class CallHungError(CallFailedError):
    """Raised by an adapter: no answer came in time."""


Again: TypeAlias = Literal["same", "another", "refused"]
ReleaseBy: TypeAlias = Literal["owner", "address", "both"]
Writers: TypeAlias = Literal["one", "turns", "at once"]


@dataclass(frozen=True, kw_only=True)
class Claims:
    """What an allocator claims. What it does not claim is neither tried nor held against it.

    Attributes:
        again: What an owner that holds an address gets when it asks once more: the `same` (the allocator is idempotent),
            `another` one, or it is `refused`.
        release_by: What a release names. By `owner`: everything that the owner holds is released. By `address`: whoever holds it.
            By `both`: that address, if that owner holds it.
        given: A given address can be asked for.
        restarts: The allocator comes back from what it keeps; the adapter has `restart`.
        writers: How many handles on one state there can be: `one`; two that take `turns`; two that call `at once`. For two the
            adapter has `another`.
        cools: A released address need not be available again at once.
        families: Those that it serves.
    """

    again: Again = "same"
    release_by: ReleaseBy = "owner"
    given: bool = False
    restarts: bool = False
    writers: Writers = "one"
    cools: bool = False
    families: tuple[int, ...] = (4, 6)


CHOICES: Final = {
    "again": ("same", "another", "refused"),
    "release_by": ("owner", "address", "both"),
    "writers": ("one", "turns", "at once"),
}
"""The values of those claims that are words."""


class Writer(Protocol):
    """A handle on the state of an allocator."""

    def allocate(self, owner: str, address: Address | None) -> AddressLike:
        """Give an owner an address: this one, or any.

        Raises:
            RangeExhaustedError: None is left.
            CallRefusedError: The given address cannot be had, or the owner can have no other.
        """

    def release(self, owner: str, address: Address | None) -> None:
        """Take back what an owner holds.

        Args:
            owner: Who held it as far as the driver knows; it means nothing where a release names an address only.
            address: None where a release names an owner only.

        Raises:
            CallRefusedError: It is not held. To do nothing is as right.
        """


class Allocator(Writer, Protocol):
    """What `torture` takes. The methods of `SupportsRestart` and `SupportsWriters` need exist only where they are claimed."""

    @property
    def claims(self) -> Claims:
        """What may be held against it."""

    def open(self, network: Network) -> Iterable[Run]:
        """Forget whatever was, and serve this range, with nothing held.

        Returns:
            What may be given out of it; `hosts` says it for the usual rules.

        Raises:
            CallRefusedError: It does not serve such a range. That is reported and no fault.
        """

    def close(self) -> None:
        """End. Nothing is called after it."""


@runtime_checkable
class SupportsRestart(Protocol):
    """An allocator that survives its process."""

    def restart(self) -> None:
        """Forget everything that is in memory, and go on from what was kept. Further handles are gone."""


@runtime_checkable
class SupportsWriters(Protocol):
    """An allocator of which several processes may use one state."""

    def another(self) -> Writer:
        """Open a second handle on what is open now."""


class Given(NamedTuple):
    """The allocator gave an address."""

    address: Address

    def __str__(self) -> str:
        return str(self.address)


class Done(NamedTuple):
    """A release or a restart came back."""

    def __str__(self) -> str:
        return "done"


class Exhausted(NamedTuple):
    """The allocator says that nothing is left."""

    why: str = ""

    def __str__(self) -> str:
        return f"exhausted: {self.why}" if self.why else "exhausted"


class Refused(NamedTuple):
    """The allocator says no."""

    why: str = ""

    def __str__(self) -> str:
        return f"refused: {self.why}" if self.why else "refused"


class Failed(NamedTuple):
    """The allocator broke down, answered nonsense, or not in time."""

    why: str
    hung: bool = False

    def __str__(self) -> str:
        return f"failed: {self.why}"


Outcome: TypeAlias = Given | Done | Exhausted | Refused | Failed


class Call(NamedTuple):
    """A call as it is made: an address is one, and not the name of one."""

    verb: Literal["allocate", "release"]
    owner: str
    address: Address | None = None
    writer: int = 0


@runtime_checkable
class SupportsTogether(Protocol):
    """An adapter that starts two calls at once by its own means, closer to the allocator than threads of the driver are."""

    def together(self, calls: Sequence[Call]) -> Sequence[Outcome]:
        """Make all calls at once; their outcomes in the order of the calls."""


def hosts(network: Network, *, first: bool = False, last: bool = False, reserved: Iterable[AddressLike] = ()) -> list[Run]:
    """What an allocator may give out of a range by the usual rules.

    Args:
        network: The range; one of one or two addresses is given out wholly.
        first: Its first address may be given.
        last: Its last address may be given.
        reserved: Further addresses that may not.

    Returns:
        Runs, lowest first.
    """
    make = type(network.network_address)
    low, high = int(network.network_address), int(network.broadcast_address)
    if high - low > 1:
        low, high = low + (not first), high - (not last)
    kept = sorted({int(make(str(each))) for each in reserved})
    starts = [low, *(each + 1 for each in kept if low <= each <= high)]
    ends = [*(each - 1 for each in kept if low <= each <= high), high]
    return [(make(start), make(end)) for start, end in zip(starts, ends, strict=True) if start <= end]
