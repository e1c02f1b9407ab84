"""The entry point: arguments in, an exit code out, every error a sentence on standard error."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from ciliumipam.cli import codes, commands
from ciliumipam.cli.completion import complete
from ciliumipam.cli.parser import build_parser
from ciliumipam.cli.style import parse_style, require
from ciliumipam.cli.text import say
from ciliumipam.errors import InvalidRequestError, IpamError

_OPTIONAL = {"argcomplete": "cli", "tabulate": "cli", "yaml": "cli"} | dict.fromkeys(("httpx2", "lightkube", "msgspec"), "kubernetes")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        argv: The arguments without the program's name; None is `sys.argv`.

    Returns:
        The exit code; `docs/reference/cli.md` lists them.
    """
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="backslashreplace")  # a label that the terminal cannot show must not end the command
    try:
        code = _run(argv)
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _forget_output()
        return codes.READER_GONE
    except OSError as error:
        _forget_output()
        _complain(f"{error.filename or 'the output'}: {error.strerror or error}")
        return codes.NO_OUTPUT
    except KeyboardInterrupt:
        _complain("interrupted; what was written is complete in itself, and the same command goes on from there")
        return codes.INTERRUPTED
    return code


def _run(argv: Sequence[str] | None) -> int:
    parser = build_parser()
    complete(parser)
    try:
        arguments = parser.parse_args(argv, argparse.Namespace(store=None, output=None, journal=None))
    except SystemExit as end:  # argparse has printed the help, the version or what is wrong
        return int(end.code or 0)
    try:
        _choose_style(arguments)
        return commands.COMMANDS[arguments.command](arguments)
    except IpamError as error:
        _complain(str(error))
        return codes.of_error(error)
    except OSError:
        raise
    except Exception as error:  # the last line of defence: a user gets a sentence, whatever we did wrong
        missing = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
        if missing in _OPTIONAL:
            extra = _OPTIONAL[missing]
            _complain(f"this needs {missing}, which comes with the extra '{extra}': pip install 'ciliumipam[{extra}]'")
            return codes.BAD_INPUT
        if sys.flags.dev_mode:
            raise
        _complain(
            f"internal error, please report it: {type(error).__name__}: {error};"
            " 'python -X dev -m ciliumipam' instead of 'ciliumipam' shows where"
        )
        return codes.INTERNAL_ERROR


def _choose_style(arguments: argparse.Namespace) -> None:
    """Take the command's own style where none was asked for, and refuse one that it has not."""
    known = commands.STYLES[arguments.command]
    if arguments.output is None:
        arguments.output = parse_style(known[0])
    elif arguments.output.name not in known or arguments.command == "completion":
        styles = ", ".join(known) if arguments.command != "completion" else "none"
        raise InvalidRequestError(f"{arguments.command} cannot print {arguments.output.name!r}; known: {styles}")
    if arguments.command != "completion":
        require(arguments.output)


def _complain(text: str) -> None:
    with suppress(OSError):
        say(text)


def _forget_output() -> None:
    """Let the interpreter's own flush at exit go nowhere, where it would fail once more."""
    with suppress(OSError, ValueError, AttributeError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
