"""`SqliteStore` against the world: other processes, SIGKILL, fork, full disks, and files that are not what they should be."""

from __future__ import annotations

import os
import resource
import selectors
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from threading import Event, Thread
from typing import Any

import pytest

import ciliumipam
from ciliumipam.errors import (
    ConflictError,
    CorruptRecordError,
    StoreClosedError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsupportedVersionError,
)
from ciliumipam.records import Key, Page, Revision
from ciliumipam.store import ABSENT, Write
from ciliumipam.store import sqlite as module
from ciliumipam.store.sqlite import SCHEMA_VERSION, SqliteStore

A, B = Key("address-page", "a"), Key("address-page", "b")
TREE = str(Path(ciliumipam.__file__).parents[1])
PRELUDE = """
import os, signal, sqlite3, sys, threading
from ciliumipam.errors import *
from ciliumipam.records import *
from ciliumipam.store import ABSENT, Write
from ciliumipam.store import sqlite as module
from ciliumipam.store.sqlite import SqliteStore
A, B = Key("address-page", "a"), Key("address-page", "b")
def page(number): return Page(number, 0, (number,) * 256)
def kill(): os.kill(os.getpid(), signal.SIGKILL)
"""


def page(number: int) -> Page:
    return Page(number, 0, (number,) * 256)


def number_of(store: SqliteStore, key: Key) -> int:
    entry = store.get(key)
    assert entry is not None
    assert isinstance(entry.record, Page)
    assert entry.record == page(entry.record.fence)
    return entry.record.fence


def start(script: str, *arguments: object) -> subprocess.Popen[str]:
    """Another Python process, with pipes to all three streams."""
    command = [sys.executable, "-c", PRELUDE + script, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=pipe, text=True, env={**os.environ, "PYTHONPATH": TREE}, start_new_session=True
    )


def run(script: str, *arguments: object) -> str:
    """What another Python process prints, which must end well."""
    process = start(script, *arguments)
    try:
        output, errors = process.communicate(timeout=120)
    except subprocess.TimeoutExpired:  # a deadlock, in it or in a child of its own
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert (process.returncode, errors) == (0, "")
    return output.strip()


@contextmanager
def raw(path: Path) -> Iterator[sqlite3.Connection]:
    """The file without any of our code."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        yield connection


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ipam.db"


@pytest.fixture
def store(path: Path) -> Iterator[SqliteStore]:
    with SqliteStore(path) as store:
        yield store


# ------------------------------------------------------------------------------------------- processes and SIGKILL

WORKER = """
from random import Random
store, chance = SqliteStore(sys.argv[1], synchronous="NORMAL"), Random(int(sys.argv[2]))
while True:
    key = (A, B)[chance.randrange(2)]
    entry = store.get(key)
    number = entry.record.fence + 1
    try:
        revision = store.put(key, page(number), expect=entry.revision)
    except ConflictError:
        continue
    os.write(1, f"{key.name} {number} {revision}\\n".encode())
"""


KILL_AT = """
def is_killed(work, last):
    "Do it in a child that is killed before its statement number `last`; says whether it was."
    child = os.fork()
    if child == 0:
        connect, count = sqlite3.connect, 0
        def trace(statement):
            nonlocal count
            count += 1
            if count > last: kill()
        def traced(*arguments, **options):
            connection = connect(*arguments, **options)
            connection.set_trace_callback(trace)
            return connection
        sqlite3.connect = traced
        work()
        os._exit(0)
    end = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert end in (0, -signal.SIGKILL), end
    return end != 0
"""


@pytest.mark.parametrize("seed", [1, 2])
def test_processes_lose_no_update_and_repeat_no_revision_while_some_are_killed(path: Path, seed: int) -> None:
    chance = Random(seed)
    kills = 0
    told: dict[int, bytes] = {}
    with SqliteStore(path) as store:
        for key in (A, B):
            store.put(key, page(0), expect=ABSENT)
    selector = selectors.DefaultSelector()

    def begin() -> None:
        worker = start(WORKER, path, chance.randrange(1 << 30))
        assert worker.stdout is not None
        told[worker.pid] = b""
        selector.register(worker.stdout.fileno(), selectors.EVENT_READ, worker)

    def end(file: int, worker: subprocess.Popen[str]) -> None:
        """Kill it and hear what it had still told."""
        worker.kill()
        selector.unregister(file)
        while text := os.read(file, 65536):
            told[worker.pid] += text
        _, errors = worker.communicate()
        assert (worker.returncode, errors) == (-signal.SIGKILL, "")

    for _ in range(4):
        begin()
    next_kill = chance.randint(1, 60)
    while (count := sum(text.count(b"\n") for text in told.values())) < 1200:
        for ready, _ in selector.select():
            text = os.read(ready.fd, 65536)
            assert text, ready.data.communicate()[1]  # one that ends by itself says why
            told[ready.data.pid] += text
        if count >= next_kill:
            next_kill = count + chance.randint(1, 60)
            kills += 1
            victim = chance.choice(sorted(selector.get_map().values(), key=lambda ready: ready.data.pid))
            end(victim.fd, victim.data)
            begin()
    for ready in list(selector.get_map().values()):
        end(ready.fd, ready.data)
        kills += 1

    lines = [line.split() for text in told.values() for line in text.decode().splitlines()]
    numbers = [(name, int(number)) for name, number, _ in lines]
    with SqliteStore(path) as store:
        last = {key.name: number_of(store, key) for key in (A, B)}
    assert len(set(numbers)) == len(numbers) >= 1200
    assert len({revision for _, _, revision in lines}) == len(lines)
    assert all(0 < number <= last[name] for name, number in numbers)
    assert sum(last.values()) - len(lines) in range(kills + 1)  # each may die between its commit and its word
    with raw(path) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_process_killed_at_any_statement_of_a_write_leaves_all_of_it_or_nothing(path: Path) -> None:
    script = (
        KILL_AT
        + """
    with SqliteStore(sys.argv[1]) as store:
        store.put_in_order([Write(A, page(0), ABSENT), Write(B, page(0), ABSENT)])
    def write():
        with SqliteStore(sys.argv[1]) as store:
            entries = [(key, store.get(key)) for key in (A, B)]
            store.put_in_order([Write(key, page(entry.record.fence + 1), entry.revision) for key, entry in entries])
    for count in range(100):
        killed = is_killed(write, count)
        with SqliteStore(sys.argv[1]) as store:
            print(killed, store.get(A).record.fence, store.get(B).record.fence)
        if not killed: break
    """.replace("\n    ", "\n")
    )

    *killed, (last, *values) = [line.split() for line in run(script, path).splitlines()]

    assert len(killed) >= 6  # BEGIN, counter, two updates, counter, COMMIT, besides what opening takes
    assert killed == [["True", "0", "0"]] * len(killed)
    assert (last, values) == ("False", ["1", "1"])


def test_a_process_killed_at_any_statement_of_creating_the_file_leaves_one_that_opens(tmp_path: Path) -> None:
    script = (
        KILL_AT
        + """
    for count in range(100):
        path = f"{sys.argv[1]}/{count}.db"
        killed = is_killed(lambda: SqliteStore(path), count)
        with SqliteStore(path) as store:
            store.put(A, page(1), expect=ABSENT)
            print(killed, store.get(A).record.fence)
        if not killed: break
    """.replace("\n    ", "\n")
    )

    *killed, last = [line.split() for line in run(script, tmp_path).splitlines()]

    assert len(killed) > 10
    assert killed == [["True", "1"]] * len(killed)
    assert last == ["False", "1"]


def test_processes_that_create_the_file_at_the_same_time_all_get_it(path: Path) -> None:
    script = """
    print(flush=True)
    sys.stdin.readline()
    with SqliteStore(sys.argv[1]) as store:
        print(store.put(Key("node", sys.argv[2]), NodeRecord(Node("n"), 0.0), expect=ABSENT))
    """.replace("\n    ", "\nfrom ciliumipam.node import Node\n", 1).replace("\n    ", "\n")
    processes = [start(script, path, number) for number in range(6)]
    for process in processes:
        assert process.stdout is not None
        process.stdout.readline()

    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    results = [process.communicate() for process in processes]

    assert [errors for _, errors in results] == [""] * 6
    assert len({revision for revision, _ in results}) == 6
    with SqliteStore(path, must_exist=True) as store:
        assert len(store.scan("node").entries) == 6


def test_a_file_that_another_creates_meanwhile_is_not_created_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    is_new = module._is_new
    others: list[SqliteStore] = []

    def meanwhile(connection: sqlite3.Connection) -> bool:
        found = is_new(connection)
        if not others:
            monkeypatch.setattr(module, "_is_new", is_new)
            others.append(SqliteStore(path))
            others[0].put(A, page(1), expect=ABSENT)
        return found

    monkeypatch.setattr(module, "_is_new", meanwhile)
    with SqliteStore(path) as store:
        assert number_of(store, A) == 1
    others[0].close()


# -------------------------------------------------------------------------------------------------------------- fork


def test_what_a_forked_child_writes_is_not_lost_when_its_parent_closes_the_store(path: Path) -> None:
    """A connection opened in the child beside an inherited one is not locked: the parent's last close takes the log away."""
    script = """
    store = SqliteStore(sys.argv[1])
    revision = store.put(A, page(1), expect=ABSENT)
    child_did, parent_may = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        revision = store.put(A, page(2), expect=revision)
        os.write(child_did[1], b"x")
        os.close(parent_may[1])
        os.read(parent_may[0], 1)
        store.put(A, page(3), expect=revision)
        os._exit(0)
    os.read(child_did[0], 1)
    print(store.get(A).record.fence)
    store.close()
    os.write(parent_may[1], b"x")
    print(os.waitpid(child, 0)[1])
    with SqliteStore(sys.argv[1]) as store:
        print(store.get(A).record.fence)
    """.replace("\n    ", "\n")

    assert run(script, path).split() == ["2", "0", "3"]


def test_a_parent_goes_on_after_a_fork(path: Path, store: SqliteStore) -> None:
    revision = store.put(A, page(1), expect=ABSENT)

    with SqliteStore(path) as other:
        child = os.fork()
        if child == 0:
            os._exit(7)
        revision = store.put(A, page(2), expect=revision)
        other.put(A, page(3), expect=revision)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert number_of(store, A) == 3


def test_a_fork_waits_for_the_writes_of_other_threads_and_both_sides_go_on(path: Path) -> None:
    script = """
    store = SqliteStore(sys.argv[1], synchronous="NORMAL")
    for key in (A, B):
        store.put(key, page(0), expect=ABSENT)
    def add(key):
        while True:
            entry = store.get(key)
            try:
                return store.put(key, page(entry.record.fence + 1), expect=entry.revision)
            except ConflictError:
                pass
    stop, written = threading.Event(), 0
    def write():
        global written
        while not stop.is_set():
            add(A)
            written += 1
    writer = threading.Thread(target=write)
    writer.start()
    ends = []
    for _ in range(12):
        child = os.fork()
        if child == 0:
            add(B)
            os._exit(7)
        add(A)
        ends.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    writer.join()
    assert ends == [7] * 12, ends
    print(store.get(A).record.fence - written, store.get(B).record.fence)
    """.replace("\n    ", "\n")
    quiet = "import warnings; warnings.simplefilter('ignore')\n"  # Python 3.12 on warns of any such fork
    assert run(quiet + script, path).split() == ["12", "12"]


def test_a_closed_store_stays_closed_in_a_child(path: Path) -> None:
    script = """
    store = SqliteStore(sys.argv[1])
    store.close()
    child = os.fork()
    if child == 0:
        try:
            store.get(A)
        except StoreClosedError:
            os._exit(7)
        os._exit(8)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    """.replace("\n    ", "\n")

    assert run(script, path) == "7"


# -------------------------------------------------------------------------------------------------------------- locks

LOCKER = """
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute(sys.argv[2])
connection.execute("DELETE FROM records WHERE 0")
print(flush=True)
sys.stdin.readline()
connection.execute("ROLLBACK")
"""


@contextmanager
def locked(path: Path, begin: str = "BEGIN IMMEDIATE") -> Iterator[subprocess.Popen[str]]:
    """Another process holds the file's lock; it lets go when it hears a line."""
    process = start(LOCKER, path, begin)
    assert process.stdout is not None
    process.stdout.readline()
    try:
        yield process
    finally:
        output, errors = process.communicate("\n" if process.poll() is None else None)
        assert (process.returncode, output, errors) == (0, "", "")


def test_a_file_that_stays_locked_is_unavailable_and_can_be_read_meanwhile(path: Path) -> None:
    with SqliteStore(path, busy_timeout=0.02) as store:
        revision = store.put(A, page(1), expect=ABSENT)
        with locked(path):
            for write in (lambda: store.put(A, page(2), expect=revision), lambda: store.delete(A, expect=revision)):
                with pytest.raises(StoreUnavailableError) as caught:
                    write()
                assert caught.value.reason.startswith(f"{path} has been locked by another process for 0.02 s; find out")
                assert not caught.value.unknown
                assert caught.value.retryable
            assert number_of(store, A) == 1
            assert len(store.scan(A.kind).entries) == 1
            with SqliteStore(path, read_only=True) as reader:
                assert number_of(reader, A) == 1

        store.put(A, page(2), expect=revision)


def test_a_writer_waits_for_the_lock_and_then_writes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SqliteStore(path) as store, locked(path) as other:
        waits: list[float] = []

        def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) == 5:
                other.communicate("\n")

        monkeypatch.setattr(module, "sleep", sleep)
        store.put(A, page(1), expect=ABSENT)

        assert len(waits) == 5
        assert number_of(store, A) == 1
        monkeypatch.setattr(other, "communicate", lambda _: ("", ""))


@pytest.mark.parametrize(
    ("chance", "wanted"),
    [(1.0, [0.5, 1.0, 2.0, 4.0, 5.0, 5.0, 2.5]), (0.25, [0.125, 0.25, 0.5, 1.0] + [1.25] * 14 + [0.625])],
)
def test_waits_grow_by_chance_to_a_bound_and_end_at_the_deadline(
    path: Path, monkeypatch: pytest.MonkeyPatch, chance: float, wanted: list[float]
) -> None:
    now, waits = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        waits.append(round(1000 * seconds, 6))

    with SqliteStore(path, busy_timeout=0.02) as store, locked(path):
        monkeypatch.setattr(module, "sleep", sleep)
        monkeypatch.setattr(module, "monotonic", lambda: now)
        monkeypatch.setattr(module, "_chance", lambda: chance)
        with pytest.raises(StoreUnavailableError):
            store.put(A, page(1), expect=ABSENT)

    assert waits == wanted


def test_all_calls_together_wait_until_the_deadline_of_the_store_and_no_longer(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now, waited = 100.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(module, "sleep", sleep)
    monkeypatch.setattr(module, "monotonic", lambda: now)
    with SqliteStore(path, busy_timeout=0.02, deadline=100.05) as store, locked(path):
        for _ in range(4):
            began = now
            with pytest.raises(StoreUnavailableError) as caught:
                store.put(A, page(1), expect=ABSENT)
            waited.append((round(now - began, 6), caught.value.reason.partition("process ")[2].partition(";")[0]))

    assert waited == [(0.02, "for 0.02 s"), (0.02, "for 0.02 s"), (0.01, "for 0.01 s"), (0.0, "for 0 s")]


def test_a_file_that_is_locked_while_it_is_opened_is_unavailable(path: Path) -> None:
    with raw(path) as connection:  # not in WAL mode, where an exclusive lock keeps readers out
        for statement in module._SCHEMA:
            connection.execute(statement)
    with locked(path, "BEGIN EXCLUSIVE"), pytest.raises(StoreUnavailableError) as caught:
        SqliteStore(path, busy_timeout=0.02)

    assert caught.value.operation == "open"
    with SqliteStore(path) as store:
        store.put(A, page(1), expect=ABSENT)


def test_a_reader_does_not_wait_for_a_commit_of_its_own_process(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    revision = store.put(A, page(1), expect=ABSENT)
    committing, may_commit, commit = Event(), Event(), module._commit

    def slow(connection: sqlite3.Connection, number: int) -> None:
        committing.set()
        assert may_commit.wait(60)
        commit(connection, number)

    monkeypatch.setattr(module, "_commit", slow)
    writer = Thread(target=store.put, args=(A, page(2)), kwargs={"expect": revision})

    def read() -> None:
        assert number_of(store, A) == 1
        assert len(store.scan(A.kind).entries) == 1
        may_commit.set()

    reader = Thread(target=read)
    writer.start()
    assert committing.wait(60)
    reader.start()
    reader.join(60)

    assert may_commit.is_set()
    writer.join()
    assert number_of(store, A) == 2


# ------------------------------------------------------------------------------------------- files that are not ours


def refusal(path: Path | str, **options: Any) -> str:
    with pytest.raises(StoreRefusedError) as caught:
        SqliteStore(path, **options)
    assert caught.value.operation == "open"
    return caught.value.reason


@pytest.mark.parametrize(
    "content",
    [
        b"x",
        b"\n",
        b"hello",
        b"key: value\n" * 1000,
        bytes(4096),
        b"SQLite format 3\x00",
        b"SQLite format 3\x00" + bytes(5000),
    ],
    ids=["byte", "newline", "text", "long-text", "zeros", "header", "header-and-zeros"],
)
@pytest.mark.parametrize(
    "options", [{}, {"must_exist": True}, {"read_only": True}], ids=["create", "must-exist", "read-only"]
)
def test_a_file_that_is_no_database_is_refused_and_not_touched(
    path: Path, content: bytes, options: dict[str, bool]
) -> None:
    path.write_bytes(content)

    reason = refusal(path, **options)

    assert reason in (f"{path} is not a SQLite database", f"{path} is empty: nothing was ever stored in it")
    assert len(content) == 1 or "empty" not in reason
    assert path.read_bytes() == content


def test_an_empty_file_becomes_a_store_if_it_may(path: Path) -> None:
    path.touch()
    empty = f"{path} is empty: nothing was ever stored in it"

    assert refusal(path, must_exist=True) == empty
    assert refusal(path, read_only=True) == empty
    assert path.stat().st_size == 0
    with SqliteStore(path) as store:
        store.put(A, page(1), expect=ABSENT)


def test_a_database_of_another_program_is_refused_and_not_touched(path: Path) -> None:
    for statement in ("CREATE TABLE cats (name)", "PRAGMA application_id = 7"):
        path.unlink(missing_ok=True)
        with raw(path) as connection:
            connection.execute(statement)
        content = path.read_bytes()

        assert refusal(path) == f"{path} is a SQLite database of another program; choose another file"
        assert path.read_bytes() == content


def test_a_newer_store_is_refused_and_not_touched(path: Path) -> None:
    SqliteStore(path).close()
    with raw(path) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    content = path.read_bytes()

    for read_only in (False, True):
        with pytest.raises(UnsupportedVersionError) as caught:
            SqliteStore(path, read_only=read_only)
        assert caught.value.args == (f"the store {path}", str(SCHEMA_VERSION + 1), str(SCHEMA_VERSION))
    assert path.read_bytes() == content


def test_a_directory_is_refused(tmp_path: Path) -> None:
    assert refusal(tmp_path) == f"{tmp_path} is a directory; name a file in it"


@pytest.mark.parametrize("name", ["", "a\x00b"])
def test_what_is_no_path_is_refused(name: str) -> None:
    assert refusal(name) == f"{name!r} is not a path of a file"


def test_an_absent_file_is_created_only_if_it_may(tmp_path: Path) -> None:
    path = tmp_path / "state" / "ciliumipam" / "ipam.db"

    for options in ({"must_exist": True}, {"read_only": True}):
        assert refusal(path, **options) == f"{path} does not exist"
    assert not (tmp_path / "state").exists()
    SqliteStore(path).close()

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_directory_that_cannot_be_created_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    path = tmp_path / "file" / "state" / "ipam.db"
    assert refusal(path) == f"the directory of {path} cannot be created: Not a directory"


@pytest.mark.parametrize("name", ["a b?mode=ro#x%41&'\".db", "grün.db", ":memory:", "\udcff.db"])
def test_any_file_name_is_taken_as_it_is(tmp_path: Path, name: str) -> None:
    with SqliteStore(tmp_path / name) as store:
        store.put(A, page(1), expect=ABSENT)
        assert name in [found.name for found in tmp_path.iterdir()]

    with SqliteStore(os.fspath(tmp_path / name), must_exist=True) as store:
        assert number_of(store, A) == 1


def test_a_relative_path_keeps_its_meaning_when_the_directory_is_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with SqliteStore("ipam.db") as store:
        monkeypatch.chdir("/")
        store.put(A, page(1), expect=ABSENT)

        assert store.path == str(tmp_path / "ipam.db")
        assert repr(store) == f"<SqliteStore {tmp_path / 'ipam.db'}>"
    assert repr(store) == f"<SqliteStore {tmp_path / 'ipam.db'} closed>"


def test_a_file_system_without_shared_memory_is_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda name, **options: connect(f"{name}&vfs=unix-dotfile", **options))

    assert refusal(path) == f"the file system under {path} cannot keep SQLite's log; use a local disk"


# ---------------------------------------------------------------------------------------------- files that are damaged


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("UPDATE records SET body = '{'", "not JSON: "),
        ("UPDATE records SET body = ''", "not JSON: "),
        ("UPDATE records SET body = CAST(x'7bff' AS TEXT)", "body: 'utf-8' codec can't decode byte 0xff in position 1"),
        ("UPDATE records SET revision = 'x'", "revision: not a number: b'x'"),
        ("UPDATE records SET revision = 1.5", "revision: not a number: 1.5"),
        ("UPDATE records SET body = '{\"format\":1}'", "slots: missing"),
    ],
)
def test_a_corrupt_record_is_told_by_its_key(path: Path, store: SqliteStore, statement: str, reason: str) -> None:
    store.put(A, page(1), expect=ABSENT)
    with raw(path) as connection:
        connection.execute(statement)

    for read in (lambda: store.get(A), lambda: store.scan(A.kind)):
        with pytest.raises(CorruptRecordError) as caught:
            read()
        assert caught.value.key == str(A)
        assert caught.value.reason.startswith(reason)


def test_a_body_that_is_no_text_is_corrupt(store: SqliteStore) -> None:
    with pytest.raises(CorruptRecordError) as caught:
        store._entry(A, 1, None)

    assert caught.value.reason == "body: not text"


def test_a_name_that_is_no_text_is_corrupt(path: Path, store: SqliteStore) -> None:
    store.put(A, page(1), expect=ABSENT)
    with raw(path) as connection:
        connection.execute("UPDATE records SET name = CAST(x'ff' AS TEXT)")

    with pytest.raises(CorruptRecordError) as caught:
        store.scan(A.kind)

    assert caught.value.key == "address-page b'\\xff'"


def test_a_record_of_a_newer_format_is_told(path: Path, store: SqliteStore) -> None:
    store.put(A, page(1), expect=ABSENT)
    with raw(path) as connection:
        connection.execute("UPDATE records SET body = replace(body, '\"format\":1', '\"format\":2')")

    with pytest.raises(UnsupportedVersionError) as caught:
        store.get(A)

    assert caught.value.what == f"record {A}"


def test_a_store_without_its_counter_is_refused(path: Path, store: SqliteStore) -> None:
    revision = store.put(A, page(1), expect=ABSENT)
    with raw(path) as connection:
        connection.execute("DELETE FROM counter")

    for call in (
        lambda: store.put(A, page(2), expect=revision),
        lambda: store.delete(A, expect=revision),
        lambda: store.scan(A.kind),
    ):
        with pytest.raises(StoreRefusedError, match="its table 'counter' has no value"):
            call()


def test_a_store_without_its_table_is_refused(path: Path, store: SqliteStore) -> None:
    with raw(path) as connection:
        connection.execute("DROP TABLE records")

    with pytest.raises(StoreRefusedError) as caught:
        store.get(A)

    assert caught.value.args == ("get", f"{path}: no such table: records")


def test_a_damaged_file_is_refused(path: Path) -> None:
    with SqliteStore(path) as store:
        for number in range(200):
            store.put_in_order([Write(Key("address-page", f"{number}.{n}"), page(n), ABSENT) for n in range(5)])
    content = bytearray(path.read_bytes())
    content[4096:] = b"\x5a" * (len(content) - 4096)
    path.write_bytes(content)

    with SqliteStore(path) as store:
        for call in (lambda: store.get(A), lambda: store.scan("node"), lambda: store.put(A, page(1), expect=ABSENT)):
            with pytest.raises(StoreRefusedError) as caught:
                call()
            assert caught.value.reason.startswith(f"{path} is damaged (")


@pytest.mark.parametrize("fate", ["deleted", "moved", "replaced"])
def test_a_file_that_is_gone_takes_nothing_more(path: Path, store: SqliteStore, fate: str) -> None:
    revision = store.put(A, page(1), expect=ABSENT)
    if fate == "replaced":
        with SqliteStore(path.with_name("new.db")) as other:
            other.put(A, page(9), expect=ABSENT)
        path.with_name("new.db").replace(path)
    elif fate == "moved":
        path.rename(path.with_name("old.db"))
    else:
        path.unlink()

    for call in (
        lambda: store.put(A, page(2), expect=revision),
        lambda: store.delete(A, expect=revision),
        lambda: store.get(A),
        lambda: store.scan(A.kind),
    ):
        with pytest.raises(StoreRefusedError) as caught:
            call()
        assert caught.value.reason == f"{path} was moved, deleted or replaced while it was open; open the store again"


# ---------------------------------------------------------------------------------------------------- no room, no right


def test_a_full_disk_is_refused_and_nothing_of_the_write_remains(store: SqliteStore) -> None:
    revision = store.put(A, page(1), expect=ABSENT)
    connection = store._writer.connection
    assert connection is not None
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    connection.execute(f"PRAGMA max_page_count = {pages}")

    with pytest.raises(StoreRefusedError) as caught:
        store.put_in_order(
            [Write(A, page(2), revision), *(Write(Key("block-page", f"{n:0999}"), page(n), ABSENT) for n in range(9))]
        )

    assert caught.value.args == ("put", f"there is no room left for {store.path}; make room on its disk and try again")
    assert number_of(store, A) == 1
    assert store.scan("block-page").entries == ()
    connection.execute("PRAGMA max_page_count = 1000000")
    store.put(A, page(2), expect=revision)


def test_after_an_error_of_the_disk_it_is_not_known_whether_a_write_took_effect(store: SqliteStore) -> None:
    revision = store.put(A, page(1), expect=ABSENT)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            store.put(A, page(2), expect=revision)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    assert caught.value.args == ("put", f"{store.path}: disk I/O error", True)
    assert number_of(store, A) == 1
    store.put(A, page(3), expect=revision)
    assert number_of(store, A) == 3


def test_a_read_only_store_reads_and_refuses_to_write(path: Path) -> None:
    with SqliteStore(path) as writer, SqliteStore(path, read_only=True) as store:
        revision = writer.put(A, page(1), expect=ABSENT)

        assert number_of(store, A) == 1
        assert [key for key, _ in store.scan(A.kind).entries] == [A]
        assert repr(store) == f"<SqliteStore {path} read-only>"
        for call, operation in (
            (lambda: store.put(A, page(2), expect=revision), "put"),
            (lambda: store.put_in_order([]), "put"),
            (lambda: store.delete(A, expect=revision), "delete"),
        ):
            with pytest.raises(StoreRefusedError) as caught:
                call()
            assert caught.value.args == (operation, f"{path} was opened read-only")
        assert number_of(writer, A) == 1


def test_reading_only_changes_nothing_in_the_file(path: Path) -> None:
    with SqliteStore(path) as store:
        store.put(A, page(1), expect=ABSENT)
    content, modified = path.read_bytes(), path.stat().st_mtime_ns

    with SqliteStore(path, read_only=True) as store:
        assert number_of(store, A) == 1

    assert path.read_bytes() == content
    assert path.stat().st_mtime_ns == modified


def test_what_sqlite_cannot_open_with_its_log_is_read_as_it_is_if_there_is_none(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SqliteStore(path) as store:
        store.put(A, page(1), expect=ABSENT)
    connect = sqlite3.connect
    tried: list[str] = []

    def refuse(name: str, *, uri: bool, timeout: float, **_: object) -> sqlite3.Connection:
        tried.append(name.partition("?")[2])
        if "immutable" not in name:
            name += "&vfs=unix-dotfile"  # which cannot read a log
        return connect(name, uri=uri, timeout=timeout)

    monkeypatch.setattr(sqlite3, "connect", refuse)
    with SqliteStore(path, read_only=True) as store:
        assert number_of(store, A) == 1
    assert tried == ["mode=ro", "immutable=1"]
    path.with_name("ipam.db-wal").write_bytes(b"what a killed process left behind")
    refusal(path, read_only=True)


AS_NOBODY = """
from pathlib import Path
if os.getuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for read_only in (False, True):
    try:
        with SqliteStore(sys.argv[1], read_only=read_only) as store:
            print(store.get(A).record.fence)
            store.put(A, page(2), expect=store.get(A).revision)
    except StoreError as error:
        print(error)
"""


@pytest.mark.parametrize(
    ("directory_mode", "file_mode", "with_log", "wanted"),
    [
        (0o555, 0o444, False, ["open: {write}", "1", "put: {path} was opened read-only"]),
        (0o555, 0o444, True, ["open: {open}", "open: {open}"]),
        (0o777, 0o444, False, ["1", "put: {write}", "1", "put: {path} was opened read-only"]),
        (0o777, 0o000, False, ["open: {open}", "open: {open}"]),
    ],
    ids=["read-only-directory", "read-only-directory-with-log", "read-only-file", "unreadable-file"],
)
def test_a_user_without_rights_is_told_so(
    directory_mode: int, file_mode: int, with_log: bool, wanted: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log that cannot be read must not be left out: it has what was written last."""
    monkeypatch.delenv("COVERAGE_PROCESS_CONFIG", raising=False)  # that user may not write what coverage measured either
    with tempfile.TemporaryDirectory() as name:  # pytest's own directories are closed to others
        path = Path(name) / "ipam.db"
        with SqliteStore(path) as store:
            store.put(A, page(1), expect=ABSENT)
        if with_log:
            path.with_name("ipam.db-wal").write_bytes(b"what a killed process left behind")
        path.chmod(file_mode)
        path.parent.chmod(directory_mode)
        try:
            told = run(AS_NOBODY, path).splitlines()
        finally:
            path.parent.chmod(0o777)

    beside = f"{path}, or not create files beside it, where SQLite keeps its log"
    names = {"path": path, "open": f"this user may not open {beside}", "write": f"this user may not write {beside}"}
    assert told == [line if line == "1" else f"store: cannot {line.format(**names)}" for line in wanted]


# ------------------------------------------------------------------------------------------------------------ the rest


def test_commits_wait_for_the_disk_unless_told_otherwise(tmp_path: Path) -> None:
    for options, synchronous in (({}, 2), ({"synchronous": "NORMAL"}, 1)):
        with SqliteStore(tmp_path / "ipam.db", **options) as store:  # type: ignore[arg-type]  # the options differ in type
            store.put_in_order([])
            connection = store._writer.connection
            assert connection is not None
            assert connection.execute("PRAGMA synchronous").fetchone() == (synchronous,)
            assert connection.execute("PRAGMA journal_mode").fetchone() == (b"wal",)


def test_a_list_of_writes_is_one_transaction(store: SqliteStore) -> None:
    store.put_in_order([])
    statements: list[str] = []
    connection = store._writer.connection
    assert connection is not None
    connection.set_trace_callback(statements.append)

    store.put_in_order([Write(Key("address-page", str(n)), page(n), ABSENT) for n in range(5)])
    store.put_in_order([])

    assert [text for text in statements if text.split()[0] in ("BEGIN", "COMMIT")] == ["BEGIN IMMEDIATE", "COMMIT"]


def test_of_a_list_of_writes_with_a_conflict_nothing_is_done(store: SqliteStore) -> None:
    store.put(B, page(1), expect=ABSENT)

    with pytest.raises(ConflictError):
        store.put_in_order([Write(A, page(1), ABSENT), Write(B, page(2), ABSENT)])

    assert store.get(A) is None


def test_a_write_that_is_interrupted_is_undone_and_the_store_goes_on(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "_commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            store.put(A, page(1), expect=ABSENT)

    assert store.get(A) is None
    store.put(A, page(2), expect=ABSENT)


def test_a_connection_that_cannot_roll_back_is_closed() -> None:
    class Broken:
        in_transaction, closed = True, False

        def rollback(self) -> None:
            raise sqlite3.OperationalError

        def close(self) -> None:
            self.closed = True

    side, broken = module._Side(), Broken()
    side.connection = broken  # type: ignore[assignment]  # stands in for a connection
    side.roll_back()

    assert broken.closed
    assert side.connection is None


def test_no_error_of_sqlite_escapes(store: SqliteStore) -> None:
    store.put(A, page(1), expect=ABSENT)
    for side in (store._reader, store._writer):
        assert side.connection is not None
        side.connection.close()

    for call in (
        lambda: store.get(A),
        lambda: store.scan(A.kind),
        lambda: store.put(B, page(2), expect=ABSENT),
        lambda: store.delete(A, expect=Revision("1")),
    ):
        with pytest.raises(StoreRefusedError, match="closed database") as caught:
            call()
        assert isinstance(caught.value.__cause__, sqlite3.ProgrammingError)


def test_a_store_that_could_not_be_opened_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SqliteStore(path).close()
    made: list[SqliteStore] = []

    def interrupted(_: str) -> None:
        made.extend(module._open_stores)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_identity", interrupted)

    with pytest.raises(KeyboardInterrupt):
        SqliteStore(path)

    with pytest.raises(StoreClosedError):
        made[0].get(A)
    assert len(module._open_stores) == 0


def test_after_close_sqlite_has_tidied_up(path: Path) -> None:
    with SqliteStore(path) as store:
        store.put(A, page(1), expect=ABSENT)
        assert store.get(A) is not None

    assert [found.name for found in path.parent.iterdir()] == ["ipam.db"]


def test_a_record_can_be_read_by_a_person_with_the_sqlite_shell(path: Path, store: SqliteStore) -> None:
    store.put(A, Page(1, 2, (3, 0)), expect=ABSENT)

    with raw(path) as connection:
        rows = connection.execute("SELECT kind, name, revision, body FROM records").fetchall()

    assert rows == [("address-page", "a", 1, '{"format":1,"fence":1,"cursor":2,"slots":[\n3,\n0\n]}')]
