"""Exit codes; `docs/reference/cli.md` lists them."""

from __future__ import annotations

from typing import Final

from ciliumipam.errors import ExhaustedError, InvalidError, IpamError, StateError, StoreError

DONE: Final = 0
FOUND: Final = 1
BAD_INPUT: Final = 2
REFUSED: Final = 3
EXHAUSTED: Final = 4
BLOCKED: Final = 6
INTERNAL_ERROR: Final = 70
NO_OUTPUT: Final = 74
INTERRUPTED: Final = 130
READER_GONE: Final = 141

_OF_ERRORS: tuple[tuple[type[IpamError], int], ...] = (
    (InvalidError, BAD_INPUT),
    (StateError, REFUSED),
    (ExhaustedError, EXHAUSTED),
    (StoreError, 5),
)


def of_error(error: IpamError) -> int:
    """The exit code of an error of the library."""
    return next((code for family, code in _OF_ERRORS if isinstance(error, family)), INTERNAL_ERROR)
