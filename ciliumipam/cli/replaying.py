"""The command that does again what a journal tells of."""

from __future__ import annotations

from argparse import Namespace
from contextlib import closing

from ciliumipam import MemoryStore, SqliteStore
from ciliumipam.cli import codes, values
from ciliumipam.cli.progress import Progress
from ciliumipam.cli.store import parse_file
from ciliumipam.cli.style import Style, write_document
from ciliumipam.cli.tables import write_table
from ciliumipam.cli.text import plain, say, say_some
from ciliumipam.errors import InvalidRequestError
from ciliumipam.journal.replay import Divergence, Replayed, records
from ciliumipam.journal.replay import replay as replay_journal
from ciliumipam.store import ABSENT
from ciliumipam.transfer import Copied, copy
from ciliumipam.words import counted

_HEAD = ("RUN", "VERSION", "LINES", "CALLS", "WRITES", "DIGEST", "STATE")


def replay(arguments: Namespace) -> int:
    """Replay a journal and print what comes of it; on request write the records that it had into a new store."""
    if arguments.store is not None:
        raise InvalidRequestError("replay works on a journal; leave --store out (--to is for the records as they were then)")
    if arguments.until is not None and arguments.until < 1:
        raise InvalidRequestError(f"--until {arguments.until}: lines are numbered from 1 on")
    with Progress() as progress:
        try:
            replayed = replay_journal(arguments.file, arguments.until, lambda line: progress.tell(f"replaying, line {line}"))
        except OSError as error:
            raise InvalidRequestError(f"{arguments.file}: {error.strerror}") from error
    copied = _write(arguments) if arguments.target is not None else None
    _print(arguments, replayed, copied)
    return codes.DONE if replayed.divergence is None else codes.FOUND


def _write(arguments: Namespace) -> Copied:
    path = parse_file("--to", arguments.target)
    found = MemoryStore()
    for key, entry in records(arguments.file, arguments.until).items():
        found.put(key, entry.record, expect=ABSENT)
    is_new = not path.exists()
    with closing(SqliteStore(path)) as target, Progress() as progress:
        copied = copy(found, target, progress.count)
    if is_new:
        say(f"created the store {path}")
    return copied


def _print(arguments: Namespace, replayed: Replayed, copied: Copied | None) -> None:
    style: Style = arguments.output
    divergence = replayed.divergence
    if style.is_document:
        value = {
            "runs": [run._asdict() for run in replayed.runs],
            "notes": list(replayed.notes),
            "divergence": None if divergence is None else _divergence(divergence),
        }
        write_document(style, value if copied is None else value | {"records": dict(copied.records), **values.audit(copied.audit)})
        return
    say_some(replayed.notes)
    rows = [
        [plain(run.identity), plain(run.version), f"{run.first}-{run.last}", str(run.calls), str(run.writes), run.digest, run.ended]
        for run in replayed.runs
    ]
    write_table("runs", _HEAD, rows)
    calls, writes = sum(run.calls for run in replayed.runs), sum(run.writes for run in replayed.runs)
    done = f"{counted(calls, 'call', 'calls')} and {counted(writes, 'write', 'writes')}"
    if divergence is None:
        print(f"replayed: {done}, all of them equal")
    else:
        for line in str(divergence).split("\n"):
            print(plain(line))
        before = f"ciliumipam replay {arguments.file} --until {divergence.line - 1} --to sqlite:NEW"
        say(f"it diverges; {before} writes the records as they were before into a store that every command can look at")
    if copied is not None:
        print("written: " + ", ".join(f"{count} {kind}" for kind, count in copied.records.items()))
        say_some(f"{finding.severity}: {finding.where}: {finding.what}" for finding in copied.audit.findings)


def _divergence(divergence: Divergence) -> dict[str, object]:
    value: dict[str, object] = divergence._asdict()
    return {name: list(each) if isinstance(each, tuple) else each for name, each in value.items()}
