"""Log lines of a process that runs for long: for people, or for programs."""

from __future__ import annotations

import json
import logging
import re
import sys
import time
from typing import Final, Literal, TypeAlias

from ciliumipam.cli.text import plain

LogFormat: TypeAlias = Literal["text", "json"]
_VALUES: Final = re.compile(r"(?:(\w+)=)?%[-+ #0]*\d*(?:\.\d+)?([sdfr%])")


def log_to_stderr(form: LogFormat, level: int = logging.INFO) -> None:
    """Let all records of the library go to standard error from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Text() if form == "text" else _Json())
    log = logging.getLogger("ciliumipam")
    log.handlers, log.propagate = [handler], False
    log.setLevel(level)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """The values that a record names, as `node=%s` does, and under `reason` the sentence that it ends with.

    By its template, so that no value can be taken for another one.
    """
    values = record.args if isinstance(record.args, tuple) else ()
    names = [match[1] for match in _VALUES.finditer(str(record.msg)) if match[2] != "%"]
    return {name or "reason": value for name, value in zip(names, values, strict=False)}


class _Text(logging.Formatter):
    """`2026-01-01T12:00:00.000Z INFO node=n-1 waits: ...`, a line each."""

    def format(self, record: logging.LogRecord) -> str:
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info and record.exc_info[0] else ""
        return f"{_moment(record)} {record.levelname} {plain(record.getMessage()).rstrip()}{trace}"


class _Json(logging.Formatter):
    """One JSON object a line, with a field for each value that the sentence names."""

    def format(self, record: logging.LogRecord) -> str:
        value = {
            **{name: _plain(each) for name, each in fields_of(record).items()},
            "time": _moment(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().rstrip(),
        }
        if record.exc_info and record.exc_info[0]:
            value["trace"] = self.formatException(record.exc_info)
        return json.dumps(value)


def _plain(value: object) -> object:
    return value if isinstance(value, str | int | float | bool) or value is None else str(value)


def _moment(record: logging.LogRecord) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03}Z"
