"""`SqliteStore`: records in one SQLite file, for everything that runs on one machine; several processes and threads at once.

* **Durable**: a write-ahead log with `synchronous=FULL`. What was acknowledged survives SIGKILL at any point, and power loss.
* **One writer at a time**: every write is one `BEGIN IMMEDIATE` transaction, one commit for a whole `put_in_order`. Whoever finds the
  file locked waits, in growing and random steps, and fails only after `busy_timeout`. Readers wait for nobody.
* **Revisions** are the values of one counter in the file, raised in the transaction that writes. They are never used twice.
* **Two connections**: a reader does not wait for the sync to disk of a writer of its own process.
* **fork**: SQLite's locks belong to a process, and a connection opened in the child still believes in the locks that its parent held:
  the file can be taken away under it, and what it commits is lost. So all connections are closed before every `os.fork` and opened
  again on demand, on both sides.
* **A file that is moved, deleted or replaced** while it is open takes nothing more: the writes would go to a file that nobody else sees.

The file is opened by SQLite only. Reading it by other means, and be it to look at its first bytes, would drop the locks that other
connections of this process hold on it: POSIX locks end with the first `close` of any descriptor of the file.
"""

# ruff: noqa: PTH100, PTH103, PTH110, PTH112, PTH116, PTH120, PTH202
# pathlib takes longer to import than all of SQLite.

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from math import inf
from threading import Lock
from time import monotonic, sleep
from types import TracebackType
from typing import Final, Literal, Self, TypeVar
from weakref import WeakSet

from ciliumipam.codec import Codec, room
from ciliumipam.errors import (
    ConflictError,
    CorruptRecordError,
    StoreClosedError,
    StoreError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsupportedVersionError,
)
from ciliumipam.records import Entry, Key, Kind, Record, Revision
from ciliumipam.store import ABSENT, Expect, Listing, Write

APPLICATION_ID: Final = 0x43495041
"""Marks our files in SQLite's header ("CIPA")."""
SCHEMA_VERSION: Final = 1
"""The newest layout of tables that this version reads and writes; kept in SQLite's `user_version`."""

_T = TypeVar("_T")
_SCHEMA = (
    (
        "CREATE TABLE records (kind TEXT NOT NULL, name TEXT NOT NULL, revision INTEGER NOT NULL, body TEXT NOT NULL,"
        " PRIMARY KEY (kind, name))"
    ),
    "CREATE TABLE counter (value INTEGER NOT NULL)",
    "INSERT INTO counter VALUES (0)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_GET = "SELECT revision, body FROM records WHERE kind = ? AND name = ?"
_SCAN = "SELECT value, name, revision, body FROM counter LEFT JOIN records ON kind = ? ORDER BY name"
_INSERT = "INSERT OR IGNORE INTO records (revision, body, kind, name) VALUES (?, ?, ?, ?)"
_UPDATE = "UPDATE records SET revision = ?, body = ? WHERE kind = ? AND name = ? AND CAST(revision AS TEXT) = ?"
_DELETE = "DELETE FROM records WHERE kind = ? AND name = ? AND CAST(revision AS TEXT) = ?"
_DECODED = 256
"""Rows whose records are kept: one and the same pool, node and claims are read before each allocation. Equal bytes, equal record."""
_FIRST_WAIT, _LONGEST_WAIT = 0.0005, 0.005
_BUSY = frozenset((sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL))
_SMALLEST_DATABASE = 512
_PLAIN = frozenset(b"/._-0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")


class _Side:
    """One connection and its lock; the connection is opened when first needed."""

    def __init__(self) -> None:
        """Not open yet."""
        self.lock = Lock()
        self.connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the connection; SQLite rolls back what it had not committed."""
        connection, self.connection = self.connection, None
        if connection is not None:
            connection.close()

    def roll_back(self) -> None:
        """End what was left half done; a connection that cannot even do that is closed."""
        if self.connection is not None and self.connection.in_transaction:
            try:
                self.connection.rollback()
            except sqlite3.Error:
                self.close()


class SqliteStore:
    """A store in a file. Thread-safe, process-safe, safe across `os.fork`; a context manager that closes itself.

    Attributes:
        path: The file, absolute.
        read_only: Whether every write is refused.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        busy_timeout: float = 30.0,
        deadline: float | None = None,
        synchronous: Literal["FULL", "NORMAL"] = "FULL",
        read_only: bool = False,
        must_exist: bool = False,
    ) -> None:
        """Open the file, or create it and its last missing directories (the innermost for this user only).

        Args:
            path: The database file. SQLite keeps two more beside it, `-wal` and `-shm`.
            busy_timeout: Seconds to wait for a lock of another process before a call fails.
            deadline: When to wait no longer, by `time.monotonic`, for all calls together: for a store that is opened for one task.
            synchronous: "NORMAL" does not wait for the disk: the last acknowledged writes may be gone after power loss, and only then.
            read_only: Refuse writes, and create no store. Where this user may not create files beside it either, the file is read as it
                is, provided that nobody has left a log: do not keep such a store open while others write.
            must_exist: Refuse to create the file.

        Raises:
            StoreRefusedError: The file is absent and may not be created, is not ours, is damaged, or may not be used by this user.
            UnsupportedVersionError: A newer version of this library wrote it.
            StoreUnavailableError: It stayed locked.
        """
        self.path = _absolute(path)
        self.read_only = read_only
        self._busy_timeout = busy_timeout
        self._deadline = inf if deadline is None else deadline
        self._synchronous = synchronous
        self._codec = Codec()
        self._decoded: dict[Key, tuple[tuple[object, object], Entry]] = {}
        self._reader, self._writer = _Side(), _Side()
        self._closed = False
        self._file: tuple[int, int] | None = None
        create = not (must_exist or read_only)
        _check_file(self.path, create=create)
        with _registry:
            _open_stores.add(self)
        try:
            self._run("open", self._reader, lambda _: None, create=create)
            self._file = _identity(self.path)
        except BaseException:
            self.close()
            raise

    def get(self, key: Key) -> Entry | None:
        """The record of a key, or None. O(log n)."""
        rows = self._run("get", self._reader, lambda connection: connection.execute(_GET, key).fetchall())
        if not rows:
            return None
        known = self._decoded.get(key)
        if known is not None and known[0] == rows[0]:
            return known[1]
        entry = self._entry(key, *rows[0])
        if len(self._decoded) >= _DECODED:
            self._decoded.clear()
        self._decoded[key] = rows[0], entry
        return entry

    def room(self, key: Key) -> tuple[int, ...] | None:
        """The slots of a page that nobody holds; None where only reading it can tell. O(log n)."""
        rows = self._run("get", self._reader, lambda connection: connection.execute(_GET, key).fetchall())
        return room(_text(key, "body", rows[0][1])) if rows else None

    def scan(self, kind: Kind) -> Listing:
        """Every record of a kind. O(n) in the records of that kind."""
        rows = self._run("scan", self._reader, lambda connection: connection.execute(_SCAN, (kind,)).fetchall())
        if not rows:
            raise self._without_counter("scan")
        found = []
        for _, name, revision, body in rows:
            if name is not None:
                key = Key(kind, _text(Key(kind, repr(name)), "name", name))
                found.append((key, self._entry(key, revision, body)))
        return Listing(tuple(found), Revision(str(rows[0][0])))

    def put(self, key: Key, record: Record, *, expect: Expect) -> Revision:
        """Create or replace a record in a transaction of its own. O(log n), and one sync to disk."""
        return self.put_in_order((Write(key, record, expect),))[0]

    def put_in_order(self, writes: Sequence[Write]) -> list[Revision]:
        """Do all writes in one transaction: all of them, or none."""
        rows = [(key, self._codec.encode(key, record), expect) for key, record, expect in writes]

        def write(connection: sqlite3.Connection) -> list[Revision]:
            if not rows:
                return []
            revision = first = self._begin(connection, "put")
            for key, body, expect in rows:
                revision += 1
                if expect is ABSENT:
                    done = connection.execute(_INSERT, (revision, body, *key))
                else:
                    done = connection.execute(_UPDATE, (revision, body, *key, expect))
                if done.rowcount != 1:
                    raise _conflict(connection, key, expect)
            _commit(connection, revision)
            return [Revision(str(number)) for number in range(first + 1, revision + 1)]

        return self._run("put", self._writer, write)

    def delete(self, key: Key, *, expect: Revision) -> None:
        """Remove a record. O(log n), and one sync to disk."""

        def write(connection: sqlite3.Connection) -> None:
            revision = self._begin(connection, "delete")
            if connection.execute(_DELETE, (*key, str(expect))).rowcount != 1:
                raise _conflict(connection, key, expect)
            _commit(connection, revision + 1)

        self._run("delete", self._writer, write)

    def close(self) -> None:
        """Close the file, after the calls that are under way. Every later call is refused."""
        with self._reader.lock, self._writer.lock:
            self._closed = True
            self._reader.close()
            self._writer.close()
        with _registry:
            _open_stores.discard(self)

    def __enter__(self) -> Self:
        """The store itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()

    def __repr__(self) -> str:
        """Which file, and what may be done with it."""
        state = " closed" if self._closed else " read-only" if self.read_only else ""
        return f"<SqliteStore {self.path}{state}>"

    # ------------------------------------------------------------------------------------------------- transactions

    def _run(
        self, operation: str, side: _Side, work: Callable[[sqlite3.Connection], _T], *, create: bool = False
    ) -> _T:
        """Do `work` on a connection, again while the file is locked; the one place where SQLite's errors become ours."""
        since: float | None = None
        wait = _FIRST_WAIT
        while True:
            try:
                with side.lock:
                    return self._attempt(operation, side, work, create=create)
            except sqlite3.Error as error:
                if _code(error) not in _BUSY:
                    raise self._translate(operation, error, writing=side is self._writer) from error
                now = monotonic()
                since = now if since is None else since
                give_up = min(since + self._busy_timeout, self._deadline)
                if now >= give_up:
                    reason = (
                        f"{self.path} has been locked by another process for {max(0.0, give_up - since):.3g} s;"
                        " find out which one has it open (fuser, lsof) and why it does not go on"
                    )
                    raise StoreUnavailableError(operation, reason) from error
            except UnicodeEncodeError as error:
                raise StoreRefusedError(operation, f"a name cannot be stored: {error}") from error
            sleep(min(_chance() * wait, max(0.0, give_up - now)))
            wait = min(2 * wait, _LONGEST_WAIT)

    def _attempt(self, operation: str, side: _Side, work: Callable[[sqlite3.Connection], _T], *, create: bool) -> _T:
        if self._closed:
            raise StoreClosedError(operation)
        if side is self._writer and self.read_only:
            raise StoreRefusedError(operation, f"{self.path} was opened read-only")
        if self._file is not None and _identity(self.path) != self._file:
            side.close()
            raise StoreRefusedError(
                operation, f"{self.path} was moved, deleted or replaced while it was open; open the store again"
            )
        if side.connection is None:
            side.connection = self._connect(create=create)
        try:
            return work(side.connection)
        except BaseException:
            side.roll_back()
            raise

    def _begin(self, connection: sqlite3.Connection, operation: str) -> int:
        """Begin to write; returns the last revision that was given out."""
        connection.execute("BEGIN IMMEDIATE")
        rows = connection.execute("SELECT value FROM counter").fetchall()
        if len(rows) != 1 or type(rows[0][0]) is not int:
            raise self._without_counter(operation)
        return int(rows[0][0])

    def _without_counter(self, operation: str) -> StoreError:
        return StoreRefusedError(
            operation, f"{self.path} is damaged: its table 'counter' has no value; restore it from a backup"
        )

    def _entry(self, key: Key, revision: object, body: object) -> Entry:
        if type(revision) is not int:
            raise CorruptRecordError(str(key), f"revision: not a number: {revision!r}")
        return Entry(self._codec.decode(key, _text(key, "body", body)), Revision(str(revision)))

    # -------------------------------------------------------------------------------------------------- connections

    def _connect(self, *, create: bool) -> sqlite3.Connection:
        if not self.read_only:
            return self._open("mode=rwc" if create else "mode=rw", create=create)
        try:
            return self._open("mode=ro")
        except sqlite3.Error as error:
            # SQLite cannot read a log without a place for its index; without a log the file alone is everything
            if _code(error) not in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY) or _size(self.path + "-wal"):
                raise
        return self._open("immutable=1")

    def _open(self, option: str, *, create: bool = False) -> sqlite3.Connection:
        uri = f"file:{_quote(self.path)}?{option}"
        connection = sqlite3.connect(uri, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        connection.text_factory = bytes  # bytes that are not UTF-8 are a corrupt record, not an error of the connection
        try:
            self._prepare(connection, create=create)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection, *, create: bool) -> None:
        """Check that the file is ours, or make it so where it is new."""
        if _is_new(connection):
            if not create:
                raise StoreRefusedError("open", f"{self.path} is empty: nothing was ever stored in it")
            connection.execute("BEGIN IMMEDIATE")
            if 0 < _size(self.path) < _SMALLEST_DATABASE:  # SQLite takes a single byte for nothing
                raise StoreRefusedError("open", f"{self.path} is not a SQLite database")
            if _is_new(connection):  # else another process was faster
                for statement in _SCHEMA:
                    connection.execute(statement)
            connection.execute("COMMIT")
        if _pragma(connection, "application_id") != APPLICATION_ID:
            raise StoreRefusedError("open", f"{self.path} is a SQLite database of another program; choose another file")
        version = _pragma(connection, "user_version")
        if version > SCHEMA_VERSION:
            raise UnsupportedVersionError(f"the store {self.path}", str(version), str(SCHEMA_VERSION))
        if not self.read_only:
            if connection.execute("PRAGMA journal_mode = WAL").fetchone() != (b"wal",):
                reason = f"the file system under {self.path} cannot keep SQLite's log; use a local disk"
                raise StoreRefusedError("open", reason)
            connection.execute(f"PRAGMA synchronous = {self._synchronous}")

    def _translate(self, operation: str, error: sqlite3.Error, *, writing: bool) -> StoreError:
        code = _code(error)
        if code == sqlite3.SQLITE_IOERR:
            return StoreUnavailableError(operation, f"{self.path}: {error}", writing)
        reason = _REASONS.get(code, "{path}: {error}").format(path=self.path, error=error)
        return StoreRefusedError(operation, reason)


_REASONS: dict[int, str] = {
    sqlite3.SQLITE_NOTADB: "{path} is not a SQLite database",
    sqlite3.SQLITE_CORRUPT: "{path} is damaged ({error}); keep a copy of it and restore it from a backup",
    sqlite3.SQLITE_FULL: "there is no room left for {path}; make room on its disk and try again",
    sqlite3.SQLITE_READONLY: "this user may not write {path}, or not create files beside it, where SQLite keeps its log",
    sqlite3.SQLITE_CANTOPEN: "this user may not open {path}, or not create files beside it, where SQLite keeps its log",
}


def _code(error: sqlite3.Error) -> int:
    """SQLite's primary result code; 0 for an error of Python's own."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF


def _chance() -> float:
    """From 0 to 1; loading `random` takes longer than a one-shot call."""
    return int.from_bytes(os.urandom(2)) / 65536


def _absolute(path: str | os.PathLike[str]) -> str:
    text = os.fspath(path)
    if not text or "\0" in text:
        raise StoreRefusedError("open", f"{text!r} is not a path of a file")
    return os.path.abspath(text)


def _check_file(path: str, *, create: bool) -> None:
    """Say what SQLite would not say clearly, and create the directory."""
    if os.path.isdir(path):
        raise StoreRefusedError("open", f"{path} is a directory; name a file in it")
    if os.path.exists(path):
        return
    if not create:
        raise StoreRefusedError("open", f"{path} does not exist")
    try:
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    except OSError as error:
        raise StoreRefusedError("open", f"the directory of {path} cannot be created: {error.strerror}") from error


def _identity(path: str) -> tuple[int, int] | None:
    """Which file a path names now; None for none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _quote(path: str) -> str:
    """A path for use in a URI, whatever bytes it has."""
    return "".join(chr(byte) if byte in _PLAIN else f"%{byte:02x}" for byte in os.fsencode(path))


def _is_new(connection: sqlite3.Connection) -> bool:
    tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    return tables == 0 and _pragma(connection, "application_id") == 0


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _commit(connection: sqlite3.Connection, revision: int) -> None:
    connection.execute("UPDATE counter SET value = ?", (revision,))
    connection.execute("COMMIT")


def _conflict(connection: sqlite3.Connection, key: Key, expect: Expect) -> ConflictError:
    rows = connection.execute(_GET, key).fetchall()
    wanted = "nothing" if expect is ABSENT else f"revision {expect}"
    return ConflictError(str(key), wanted, f"revision {rows[0][0]}" if rows else "nothing")


def _text(key: Key, column: str, value: object) -> str:
    try:
        if isinstance(value, bytes):
            return value.decode()
    except UnicodeDecodeError as error:
        raise CorruptRecordError(str(key), f"{column}: {error}") from error
    raise CorruptRecordError(str(key), f"{column}: not text")


# --------------------------------------------------------------------------------------------------------------- fork

_registry = Lock()
_open_stores: WeakSet[SqliteStore] = WeakSet()
_parked: list[SqliteStore] = []


def _before_fork() -> None:
    _registry.acquire()
    for store in sorted(_open_stores, key=id):
        for side in (store._reader, store._writer):  # noqa: SLF001 - this is the store's own module
            side.lock.acquire()
            side.close()
        _parked.append(store)


def _after_fork() -> None:
    while _parked:
        store = _parked.pop()
        store._writer.lock.release()  # noqa: SLF001 - this is the store's own module
        store._reader.lock.release()  # noqa: SLF001 - this is the store's own module
    _registry.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
