"""Stores: the codec on a full page, and put and get on both stores against a bare one-row commit of the same bytes.

Commits are measured in turn, one of each kind, so that a disk that is busy for a while is busy for all of them; figures are medians.
Times of the disk depend on where the temporary directory lies (`TMPDIR`): in memory a commit costs nothing, and the ratio says
little. The page is the first one of a /24 with all of its 256 slots held by owners as a CNI plugin names them.
"""

from __future__ import annotations

import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from statistics import median

from ciliumipam.codec import Codec
from ciliumipam.records import ClaimPage, Holding, Key, Page, Record
from ciliumipam.store import ABSENT, Expect, Store, SupportsOrderedPuts, Write
from ciliumipam.store.memory import MemoryStore
from ciliumipam.store.sqlite import SqliteStore

Row = tuple[str, float, str]

PAGE, CLAIMS = Key("address-page", "10.0.1.0/24"), Key("address-claims", "node-1/0f")


def full_page(family: int) -> Page:
    first, length = (0x0A000100, 32) if family == 4 else (0xFD00 << 112, 128)
    slots = tuple(
        Holding(
            4 if family == 4 else 6,
            first + n,
            length,
            n + 1,
            f"cni/{n:064x}/eth0",
            f"default/web-{n}",
            1732354000.25 + n,
        )
        for n in range(256)
    )
    return Page(1, 5, slots)


def released(page: Page) -> Page:
    """The page with one slot free."""
    return page._replace(slots=(*page.slots[:100], 101, *page.slots[101:]))


def claims(page: Page, count: int) -> ClaimPage:
    return ClaimPage({slot.holder: (slot,) for slot in page.slots[:count] if isinstance(slot, Holding)})


def turns(works: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    """Median microseconds of each work, done in turn."""
    spent: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            work()
            spent[name].append(time.perf_counter() - start)
    return {name: median(times) * 1e6 for name, times in spent.items()}


def alternate(codec: Codec, *pairs: tuple[Key, list[Record]]) -> Callable[[], object]:
    """Encodes for each key one record after the other."""

    def work() -> None:
        for key, records in pairs:
            records.reverse()
            codec.encode(key, records[0])

    return work


def codec_rows(family: int, rounds: int) -> list[Row]:
    page = full_page(family)
    codec, reader = Codec(), Codec()
    texts = [codec.encode(PAGE, page), codec.encode(PAGE, released(page))]
    cold = iter([full_page(family) for _ in range(rounds)])  # holdings that no memory has seen, though they are equal

    def encode_new() -> None:
        page = next(cold)
        Codec().encode(
            PAGE,
            page._replace(slots=tuple(slot._replace(label="x") for slot in page.slots if isinstance(slot, Holding))),
        )

    def decode_changed() -> None:
        texts.reverse()
        reader.decode(PAGE, texts[0])

    works: dict[str, Callable[[], object]] = {
        "encode, never seen before": encode_new,
        "encode, one slot changed": alternate(codec, (PAGE, [page, released(page)])),
        "decode, never seen before": lambda: Codec().decode(PAGE, texts[0]),
        "decode, one slot changed": decode_changed,
    }
    rows = [(f"codec, full IPv{family} page: {name}", value, "µs") for name, value in turns(works, rounds).items()]
    return [*rows, (f"codec, full IPv{family} page: size", float(len(texts[0])), "bytes")]


class Changes:
    """Keeps putting records in turn into one store, and knows the revisions."""

    def __init__(self, store: Store, records: dict[Key, list[Record]]) -> None:
        self.store, self.records = store, records
        self.expect: dict[Key, Expect] = dict.fromkeys(records, ABSENT)

    def put(self) -> None:
        """All keys in one go."""
        assert isinstance(self.store, SupportsOrderedPuts)
        for records in self.records.values():
            records.reverse()
        writes = [Write(key, records[0], self.expect[key]) for key, records in self.records.items()]
        self.expect = dict(zip(self.records, self.store.put_in_order(writes), strict=True))


class Bare:
    """The same bytes in one row of a table, committed without anything of ours."""

    def __init__(self, path: Path, texts: list[str]) -> None:
        self.texts = texts
        self.connection = sqlite3.connect(path, isolation_level=None)
        for statement in (
            "PRAGMA journal_mode = WAL",
            "PRAGMA synchronous = FULL",
            "CREATE TABLE bare (name TEXT PRIMARY KEY, body TEXT)",
        ):
            self.connection.execute(statement)
        self.connection.execute("INSERT INTO bare VALUES ('a', '')")

    def commit(self) -> None:
        self.texts.reverse()
        self.connection.execute("UPDATE bare SET body = ? WHERE name = 'a'", (self.texts[0],))


def store_rows(rounds: int) -> list[Row]:
    page = full_page(4)
    one: dict[Key, list[Record]] = {PAGE: [page, released(page)]}
    two: dict[Key, list[Record]] = {CLAIMS: [claims(page, 5), claims(page, 4)], **one}
    codec = Codec()
    bytes_one = [codec.encode(PAGE, record) for record in one[PAGE]]
    bytes_two = ["".join(codec.encode(key, records[n]) for key, records in two.items()) for n in (0, 1)]
    with (
        tempfile.TemporaryDirectory() as name,
        SqliteStore(Path(name) / "one.db") as sqlite_one,
        SqliteStore(Path(name) / "two.db") as sqlite_two,
        closing(MemoryStore()) as memory,
    ):
        bares = [Bare(Path(name) / f"bare-{n}.db", texts) for n, texts in enumerate((bytes_one, bytes_two))]
        changes = [Changes(sqlite_one, dict(one)), Changes(sqlite_two, dict(two)), Changes(memory, dict(two))]
        works: dict[str, Callable[[], object]] = {
            "bare commit of a page": bares[0].commit,
            "sqlite: put a page": changes[0].put,
            "bare commit of a page and a claim page": bares[1].commit,
            "sqlite: put a claim page and a page in one go": changes[1].put,
            "memory: put a claim page and a page in one go": changes[2].put,
            "sqlite: get a page": lambda: sqlite_one.get(PAGE),
            "sqlite: get a claim page": lambda: sqlite_two.get(CLAIMS),
            "memory: get a page": lambda: memory.get(PAGE),
        }
        figures = turns(works, rounds)
        for bare in bares:
            bare.connection.close()
    bare_one, put_one, bare_two, put_two = list(figures.values())[:4]
    return [
        *((name, value, "µs") for name, value in figures.items()),
        ("sqlite put a page ÷ bare commit", put_one / bare_one, "x"),
        ("sqlite put both in one go ÷ bare commit", put_two / bare_two, "x"),
    ]


def restore_rows(pages: int) -> list[Row]:
    """Reading a whole store, as a process does that starts."""
    with tempfile.TemporaryDirectory() as name, SqliteStore(Path(name) / "ipam.db") as store:
        page = full_page(4)
        store.put_in_order([Write(Key("address-page", str(n)), page, ABSENT) for n in range(pages)])
        start = time.perf_counter()
        SqliteStore(Path(name) / "ipam.db").scan("address-page")
        spent = time.perf_counter() - start
        start = time.perf_counter()
        with SqliteStore(Path(name) / "ipam.db") as again:
            again.get(Key("address-page", "0"))
        opened = time.perf_counter() - start
    return [
        (f"sqlite: open and scan {pages} full pages", spent * 1e3, "ms"),
        ("sqlite: open, get one full page, close", opened * 1e3, "ms"),
    ]


def run(quick: bool = False) -> list[Row]:  # noqa: FBT001, FBT002 - all benchmarks here have this signature
    """(label, value, unit) of every measurement."""
    rounds = 40 if quick else 1000
    return [*codec_rows(4, rounds), *codec_rows(6, rounds), *store_rows(rounds), *restore_rows(40 if quick else 400)]


if __name__ == "__main__":
    for label, value, unit in run(quick="--quick" in sys.argv[1:]):
        print(f"{label:<64} {value:>10.2f} {unit}")
