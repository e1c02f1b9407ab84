"""An allocator in another process, in any language: one request a line on its standard input, one answer a line on its standard output.

Requests and answers are JSON objects. First comes the handshake, then what the driver wants, until standard input ends:

* ``{"do": "hello", "protocol": 1}`` is answered by ``{"protocol": 1, "name": "mine 1.0", "claims": {...}}``; the claims are those of
  `Claims`, with `release_by` written `releaseBy`; what is left out has its default
* ``{"do": "open", "network": "10.0.0.0/30"}`` by ``{"offer": [["10.0.0.1", "10.0.0.2"]]}``: runs of what may be given
* ``{"do": "allocate", "owner": "a"}``, on request with ``"address"``, by ``{"address": "10.0.0.1"}``
* ``{"do": "release"}`` with ``"owner"``, ``"address"`` or both, as claimed, by ``{"done": true}``
* ``{"do": "restart"}``, if claimed, by ``{"done": true}``
* calls of the second writer have ``"writer": 1``; if writers at once are claimed, ``{"do": "together", "calls": [CALL, CALL]}`` is
  answered by ``{"answers": [ANSWER, ANSWER]}`` once both are done

Any of them may be answered by ``{"refused": "why"}`` or ``{"failed": "why"}``, an allocate also by ``{"exhausted": "why"}``.
"""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from queue import Empty, Queue
from threading import Thread
from types import TracebackType
from typing import IO, Any, Final, NamedTuple, Self

from ciliumipam.errors import InvalidRequestError
from ciliumipam.testing.torture.calling import outcome_of
from ciliumipam.testing.torture.protocol import (
    CHOICES,
    Address,
    Call,
    CallFailedError,
    CallHungError,
    CallRefusedError,
    Claims,
    Network,
    Outcome,
    RangeExhaustedError,
    Run,
)

PROTOCOL: Final = 1
_STDERR_LINES = 15


class LinesAllocator:
    """An adapter for a command that speaks lines. A process that hangs or ends is reported, and the next `open` starts another one."""

    def __init__(self, command: Sequence[str], *, timeout: float = 10.0, environment: Mapping[str, str] | None = None) -> None:
        """Start the command and shake hands.

        Args:
            command: The program and its arguments.
            timeout: Seconds to wait for an answer.
            environment: What it finds in its environment; None is ours.

        Raises:
            InvalidRequestError: It does not start, or does not answer the handshake as it should.
        """
        self._command = list(command)
        self._timeout = timeout
        self._environment = environment
        self._process: _Process | None = None
        try:
            self.name, self.claims = self._start()
        except CallFailedError as error:
            self.close()
            raise InvalidRequestError(f"{shlex.join(self._command)}: {error}".replace("\n   ", " |")) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """End the process: by the end of its input, or if that does not help, by force."""
        if self._process is not None:
            self._process.end(self._timeout)
            self._process = None

    # ------------------------------------------------------------------------------------------------- calls

    def open(self, network: Network) -> list[Run]:
        """Serve a range."""
        if self._process is None:
            self._start()
        offer = self._ask({"do": "open", "network": str(network)}).get("offer")
        try:
            return [(str(first), str(last)) for first, last in offer]  # type: ignore[union-attr]  # None raises as well
        except (TypeError, ValueError) as error:
            raise CallFailedError(f'it answered open without {{"offer": [[FIRST, LAST], ...]}}: {error}') from error

    def allocate(self, owner: str, address: Address | None) -> str:
        """Give an owner an address."""
        return self.call(Call("allocate", owner, address))

    def release(self, owner: str, address: Address | None) -> None:
        """Take back what an owner holds."""
        self.call(Call("release", owner, address))

    def call(self, call: Call) -> str:
        """Make one call, by either writer; returns the address, if it is to give one."""
        return _read(call, self._ask(_request(call)))

    def restart(self) -> None:
        """Forget what is in memory."""
        self._ask({"do": "restart"})

    def another(self) -> SecondWriter:
        """A second handle."""
        return SecondWriter(self)

    def together(self, calls: Sequence[Call]) -> list[Outcome]:
        """Make calls at once, inside the other process."""
        answers = self._ask({"do": "together", "calls": [_request(call) for call in calls]}).get("answers")
        if not isinstance(answers, list) or len(answers) != len(calls):
            raise CallFailedError(f'it answered together without {{"answers": [...]}} of {len(calls)}')
        return [outcome_of(_Told(answer), call) for call, answer in zip(calls, answers, strict=True)]

    # ------------------------------------------------------------------------------------------------- the process

    def _start(self) -> tuple[str, Claims]:
        try:
            self._process = _Process(self._command, self._environment)
        except OSError as error:
            raise CallFailedError(f"it cannot be started: {error.strerror or error}") from error
        answer = self._ask({"do": "hello", "protocol": PROTOCOL})
        if answer.get("protocol") != PROTOCOL:
            raise CallFailedError(f"it speaks protocol {answer.get('protocol')!r}, and this is {PROTOCOL}")
        return str(answer.get("name", self._command[0])), read_claims(answer.get("claims", {}))

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and read its answer; after one that does not come or cannot be read the process is ended."""
        if self._process is None:
            raise CallFailedError("it has ended")
        try:
            answer = self._process.ask(json.dumps(request), self._timeout)
        except CallFailedError:
            self._process.end(0)
            self._process = None
            raise
        return _checked(answer)


class SecondWriter:
    """The second writer of a `LinesAllocator`."""

    def __init__(self, allocator: LinesAllocator) -> None:
        """Calls go through the same pipe."""
        self._allocator = allocator

    def allocate(self, owner: str, address: Address | None) -> str:
        """Give an owner an address."""
        return self._allocator.call(Call("allocate", owner, address, 1))

    def release(self, owner: str, address: Address | None) -> None:
        """Take back what an owner holds."""
        self._allocator.call(Call("release", owner, address, 1))


class _Told(NamedTuple):
    """A writer that has answered already."""

    answer: Any

    def allocate(self, owner: str, address: Address | None) -> str:
        return _read(Call("allocate", owner, address), _checked(self.answer))

    def release(self, owner: str, address: Address | None) -> None:
        _read(Call("release", owner, address), _checked(self.answer))


def _request(call: Call) -> dict[str, Any]:
    address = {} if call.address is None else {"address": str(call.address)}
    return {"do": call.verb, "owner": call.owner, **address, **({"writer": call.writer} if call.writer else {})}


def _checked(answer: Any) -> dict[str, Any]:
    match answer:
        case {"exhausted": why}:
            raise RangeExhaustedError(str(why))
        case {"refused": why}:
            raise CallRefusedError(str(why))
        case {"failed": why}:
            raise CallFailedError(str(why))
        case dict():
            return answer
        case _:
            raise CallFailedError(f"it answered {_short(json.dumps(answer))}, which is no JSON object")


def _read(call: Call, answer: dict[str, Any]) -> str:
    if call.verb == "release":
        if answer.get("done") is not True:
            raise CallFailedError(f'it answered release by {_short(json.dumps(answer))} and not by {{"done": true}}')
        return ""
    if not isinstance(answer.get("address"), str):
        raise CallFailedError(f"it answered allocate by {_short(json.dumps(answer))}, in which there is no address")
    return str(answer["address"])


def read_claims(document: Any) -> Claims:
    """Claims out of a handshake.

    Raises:
        CallFailedError: There are no such claims.
    """
    if not isinstance(document, dict):
        raise CallFailedError(f"its claims are {_short(json.dumps(document))}, and not a JSON object")
    values = {("release_by" if name == "releaseBy" else name): value for name, value in document.items()}
    for name, value in values.items():
        valid: Sequence[Any] = CHOICES.get(name, (True, False))
        if name == "families":
            if not isinstance(value, list) or not value or not {*value} <= {4, 6}:
                raise CallFailedError(f"it claims families {value!r}; known: a list of 4, 6")
        elif name not in Claims.__dataclass_fields__ or (name == "release_by" and "release_by" in document):
            known = sorted({*Claims.__dataclass_fields__} - {"release_by"} | {"releaseBy"})
            raise CallFailedError(f"it claims {name!r}, which is no claim; known: {', '.join(known)}")
        elif not any(value is each or (value == each and isinstance(value, str)) for each in valid):
            raise CallFailedError(f"it claims {name} {value!r}; known: {', '.join(map(json.dumps, valid))}")
    if "families" in values:
        values["families"] = tuple(values["families"])
    return Claims(**values)


def write_claims(claims: Claims) -> dict[str, Any]:
    """Claims for a handshake."""
    return {"releaseBy" if name == "release_by" else name: getattr(claims, name) for name in Claims.__dataclass_fields__}


def _short(text: str) -> str:
    return text if len(text) <= 200 else f"{text[:200]}..."


class _Process:
    """A process of which lines are read with a time-out."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str] | None) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - the command is what the user wants to run
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="backslashreplace",
            bufsize=1,
            env=environment,
            start_new_session=True,  # so that what a shell has started ends with it
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stderr is not None
        self._input = self._process.stdin
        self._answers: Queue[str | None] = Queue()
        self._complaints: deque[str] = deque(maxlen=_STDERR_LINES)
        self._threads = [
            Thread(target=self._pass_on, args=(self._process.stdout,), daemon=True),
            Thread(target=self._keep, args=(self._process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _pass_on(self, stream: IO[str]) -> None:
        for line in stream:
            self._answers.put(line)
        self._answers.put(None)

    def _keep(self, stream: IO[str]) -> None:
        self._complaints.extend(line.rstrip("\n") for line in stream)

    def ask(self, request: str, timeout: float) -> Any:
        """Send a line, and read one.

        Raises:
            CallFailedError: The process has ended, or answers what is no JSON.
            CallHungError: It does not answer.
        """
        with suppress(OSError):  # it has ended, which its standard output will say
            self._input.write(request + "\n")
            self._input.flush()
        try:
            line = self._answers.get(timeout=timeout)
        except Empty:
            raise CallHungError(f"no answer to {_short(request)} within {timeout:g} s{self._last_words()}") from None
        if line is None:
            raise CallFailedError(f"{self._end()} instead of answering {_short(request)}{self._last_words()}")
        try:
            return json.loads(line)
        except ValueError:
            raise CallFailedError(
                f"it answered {_short(line.rstrip())!r}, which is no JSON; standard output is for answers, standard error for the rest"
            ) from None

    def _end(self) -> str:
        try:
            code = self._process.wait(1)
        except subprocess.TimeoutExpired:
            return "it closed its standard output"
        if code < 0:
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it ended with exit code {code}"

    def _last_words(self) -> str:
        if self._process.poll() is not None:
            self._threads[1].join(1)  # what it wrote last may be on its way
        lines = list(self._complaints)
        return "; the last lines of its standard error:" + "".join(f"\n    {line}" for line in lines) if lines else ""

    def end(self, patience: float) -> None:
        with suppress(OSError):
            self._input.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(patience)
        with suppress(OSError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also what it left behind
        self._process.wait()
        for thread in self._threads:
            thread.join()
        for stream in (self._process.stdout, self._process.stderr):
            assert stream is not None
            stream.close()
