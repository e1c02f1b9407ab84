"""Numbers, lists and times as the sentences for people have them."""

from __future__ import annotations

from collections.abc import Collection


def counted(count: int, one: str, many: str) -> str:
    """A number and what is counted, for a sentence."""
    return f"{count} {one if count == 1 else many}"


def some(names: Collection[str], shown: int = 5) -> str:
    """The first few of several names, and how many more there are."""
    listed = ", ".join(list(names)[:shown])
    return listed if len(names) <= shown else f"{listed} and {len(names) - shown} more"


def moment(seconds: float) -> str:
    """Seconds since the epoch as UTC in RFC 3339, to the second, never too early."""
    from datetime import UTC, datetime  # noqa: PLC0415 - loaded only for an error

    try:
        return datetime.fromtimestamp(-(-seconds // 1), tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (ValueError, OverflowError, OSError):  # some clock was far off
        return f"{seconds} s after 1970"
