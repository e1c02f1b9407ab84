"""The other end of `lines`: lets an adapter in Python speak JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from ipaddress import ip_address, ip_network
from typing import IO, Any

from ciliumipam.testing.torture.calling import check, failed, outcome_of, outcomes_at_once
from ciliumipam.testing.torture.lines import PROTOCOL, write_claims
from ciliumipam.testing.torture.protocol import (
    Allocator,
    Call,
    CallRefusedError,
    Done,
    Exhausted,
    Failed,
    Given,
    Outcome,
    Refused,
    SupportsRestart,
    SupportsWriters,
    Writer,
)


def serve(allocator: Allocator, *, requests: IO[str] | None = None, answers: IO[str] | None = None) -> None:
    """Answer requests until there are no more, then close the allocator. What it prints meanwhile goes to standard error.

    Args:
        allocator: The adapter.
        requests: Where they come from; standard input if not given.
        answers: Where answers go; standard output if not given.

    Raises:
        TypeError: The adapter lacks a method of what it claims.
    """
    check(allocator)
    server = _Server(allocator)
    out = answers or sys.stdout
    with redirect_stdout(sys.stderr):
        for line in requests or sys.stdin:
            print(json.dumps(server.answer(line)), file=out, flush=True)
        allocator.close()


class _Server:
    def __init__(self, allocator: Allocator) -> None:
        self._allocator = allocator
        self._second: Writer | None = None

    def answer(self, line: str) -> dict[str, Any]:
        try:
            return self._do(json.loads(line))
        except CallRefusedError as error:
            return {"refused": str(error)}
        except Exception as error:  # noqa: BLE001 - whatever it is, the other side is to hear of it
            return {"failed": failed(error).why}

    def _do(self, request: Mapping[str, Any]) -> dict[str, Any]:
        match request:
            case {"do": "hello"}:
                return {"protocol": PROTOCOL, "name": type(self._allocator).__name__, "claims": write_claims(self._allocator.claims)}
            case {"do": "open", "network": network}:
                self._second = None
                return {"offer": [[str(first), str(last)] for first, last in self._allocator.open(ip_network(network))]}
            case {"do": "restart"} if isinstance(self._allocator, SupportsRestart):
                self._second = None
                self._allocator.restart()
                return {"done": True}
            case {"do": "together", "calls": [*requests]}:
                calls = [_call(each) for each in requests]
                writers = (self._writer(0), self._writer(1))
                return {"answers": [_document(outcome) for outcome in outcomes_at_once(writers, calls)]}
            case {"do": "allocate" | "release"}:
                call = _call(request)
                return _document(outcome_of(self._writer(call.writer), call))
            case _:
                return {"failed": f"there is no such request as {json.dumps(request)}"}

    def _writer(self, number: int) -> Writer:
        if number == 0 or not isinstance(self._allocator, SupportsWriters):
            return self._allocator
        if self._second is None:
            self._second = self._allocator.another()
        return self._second


def _call(request: Mapping[str, Any]) -> Call:
    address = request.get("address")
    given = None if address is None else ip_address(address)
    return Call(request["do"], request.get("owner", ""), given, request.get("writer", 0))


def _document(outcome: Outcome) -> dict[str, Any]:
    match outcome:
        case Given(address):
            return {"address": str(address)}
        case Done():
            return {"done": True}
        case Exhausted(why):
            return {"exhausted": why}
        case Refused(why):
            return {"refused": why}
        case Failed(why):
            return {"failed": why}
