"""What goes wrong in a call, as the error object that CNI wants: a code for programs, a message and details for people.

The codes up to 99 are the specification's (section 5, "Error"), 100 and above are ours; `docs/reference/cni.md` lists them.
"""

from __future__ import annotations

from typing import Final

from ciliumipam import errors
from ciliumipam.errors import IpamError

INCOMPATIBLE_VERSION: Final = 1
UNSUPPORTED_FIELD: Final = 2
INVALID_ENVIRONMENT: Final = 4
IO_FAILURE: Final = 5
DECODING_FAILURE: Final = 6
INVALID_CONFIG: Final = 7
TRY_AGAIN_LATER: Final = 11
NOT_AVAILABLE: Final = 50
LIMITED_CONNECTIVITY: Final = 51
ADDRESS_REFUSED: Final = 100
"""The address that was asked for cannot be had."""
NOT_AS_ADDED: Final = 101
"""CHECK: the store does not say what ADD answered."""
STORE_FAILURE: Final = 102
"""The store refuses, is damaged, or is of a newer version."""
UNKNOWN_NODE: Final = 103
"""The store does not know the node that the configuration names."""
INTERNAL: Final = 999
"""A fault of the plugin; the number that libcni uses for it."""


class CniError(Exception):
    """An answer that is an error. `details` is what helps: which values, what is valid, what to do."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(code, message, details)
        self.code, self.message, self.details = code, message, details

    def __str__(self) -> str:
        return f"{self.message}: {self.details}" if self.details else self.message


_CODES: tuple[tuple[type[IpamError], int, str], ...] = (
    (errors.AlreadyAllocatedError, ADDRESS_REFUSED, "the address asked for is held by somebody else"),
    (errors.OutOfRangeError, ADDRESS_REFUSED, "the address asked for is in no block of this node"),
    (errors.ReservedAddressError, ADDRESS_REFUSED, "the address asked for is reserved"),
    (errors.CoolingAddressError, ADDRESS_REFUSED, "the address asked for was released a short time ago"),
    (errors.OwnerHoldsError, ADDRESS_REFUSED, "this attachment holds another address already"),
    (errors.ExhaustedError, TRY_AGAIN_LATER, "no address is left on this node"),
    (errors.NoBlockError, TRY_AGAIN_LATER, "this node has no block to take an address from"),
    (errors.LeaseExpiredError, TRY_AGAIN_LATER, "this node may not rely on its blocks at present"),
    (errors.NotFoundError, UNKNOWN_NODE, "the store does not know this node"),
    (errors.CorruptRecordError, STORE_FAILURE, "the store is damaged"),
    (errors.UnsupportedVersionError, STORE_FAILURE, "the store is of a newer version"),
    (errors.StoreRefusedError, STORE_FAILURE, "the store cannot be used"),
    (errors.StoreError, TRY_AGAIN_LATER, "the store is busy or failed for the moment"),
    (errors.InvalidError, INVALID_CONFIG, "the configuration cannot work"),
)
"""The first that fits counts. Exhaustion passes: a pod goes, or the agent gets a block. So a runtime is told to try again."""


def fault_of(error: BaseException) -> CniError:
    """The answer for anything that was raised."""
    if isinstance(error, CniError):
        return error
    for kind, code, message in _CODES:
        if isinstance(error, kind):
            return CniError(code, message, str(error))
    if isinstance(error, IpamError):  # a refusal of another kind: as things stand it cannot be, later it may
        return CniError(TRY_AGAIN_LATER, "not possible as things stand", str(error))
    return CniError(INTERNAL, f"a fault of ciliumipam-cni: {type(error).__name__}", str(error))
