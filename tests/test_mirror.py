"""Mirrors, against a server whose every answer may come late: they never go back, and end where the server is."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam.errors import (
    InvalidNameError,
    IpamError,
    NotInstalledError,
    RevisionExpiredError,
    StoreRefusedError,
    StoreUnavailableError,
)
from ciliumipam.kubernetes import mirror as mirror_module
from ciliumipam.kubernetes.answers import Resource
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.mirror import Mirror, newer
from ciliumipam.kubernetes.object_watch import Event

Keep = Callable[[dict[str, Any]], Any]
THINGS = Resource("example.org", "v1", "things", "Thing")
OLD_THINGS = THINGS._replace(version="v1beta1")


def thing(name: str, revision: int, value: str) -> dict[str, Any]:
    return {"metadata": {"name": name, "resourceVersion": str(revision)}, "spec": value}


def read(obj: Mapping[str, Any]) -> str:
    if obj["spec"] == "broken":
        raise InvalidNameError("thing", obj["metadata"]["name"], "it is broken")
    return str(obj["spec"])


class Server:
    """What a server has, and has had. It answers listings; what happened after one is played to the mirror by hand."""

    def __init__(self) -> None:
        self.count = 0
        self.things: dict[str, dict[str, Any]] = {}
        self.events: list[Event] = []
        self.installed = {THINGS}

    def put(self, name: str, value: str) -> dict[str, Any]:
        self.count += 1
        kind = "MODIFIED" if name in self.things else "ADDED"
        self.things[name] = thing(name, self.count, value)
        self.events.append(Event(cast("Any", kind), self.things[name]))
        return self.things[name]

    def delete(self, name: str) -> None:
        if name in self.things:
            self.count += 1
            self.events.append(Event("DELETED", thing(name, self.count, self.things.pop(name)["spec"])))

    def collect(self, resource: Resource, keep: Keep) -> tuple[list[Any], str]:
        if resource not in self.installed:
            raise NotInstalledError("list", "it is not there")
        return [keep(each) for each in self.things.values()], str(self.count)


def mirror_of(server: Server, *resources: Resource) -> tuple[Mirror[str], list[str]]:
    told: list[str] = []
    return Mirror(cast("Api", server), resources or (THINGS,), read, lambda: told.append("changed")), told


def values(mirror: Mirror[str]) -> dict[str, str | IpamError]:
    return {name: known.value for name, known in mirror.all().items()}


def play(mirror: Mirror[str], event: Event) -> None:
    """What its thread does with an event of its watch."""
    if event.type == "DELETED":
        mirror.forget(event.object["metadata"]["name"], event.object["metadata"]["resourceVersion"])
    else:
        mirror.learn(event.object)


NAMES = st.sampled_from("ab")


@given(st.data())
def test_whatever_comes_late_a_mirror_never_goes_back_and_ends_where_the_server_is(data: st.DataObject) -> None:
    server = Server()
    mirror, _ = mirror_of(server)
    mirror.refresh()
    played = 0
    answers: list[dict[str, Any]] = []
    seen: dict[str, int] = {}
    for _ in range(data.draw(st.integers(0, 25))):
        match data.draw(st.sampled_from(["put", "own", "delete", "play", "answer", "refresh"])):
            case "put":
                server.put(data.draw(NAMES), data.draw(st.sampled_from("xyz")))
            case "own":
                answers.append(server.put(data.draw(NAMES), data.draw(st.sampled_from("xyz"))))
            case "delete":
                server.delete(data.draw(NAMES))
            case "play" if played < len(server.events):
                play(mirror, server.events[played])
                played += 1
            case "answer" if answers:
                mirror.learn(answers.pop(data.draw(st.integers(0, len(answers) - 1))), own=True)
            case "refresh":
                mirror.refresh()  # while its watch is behind
            case _:
                continue
        for name, known in mirror.all().items():
            assert int(known.revision) >= seen.get(name, 0)
            seen[name] = int(known.revision)
    for event in server.events[played:]:
        play(mirror, event)
    for answer in answers:
        mirror.learn(answer, own=True)

    assert values(mirror) == {name: each["spec"] for name, each in server.things.items()}


def test_only_what_matters_is_told_and_nothing_that_this_process_did_itself() -> None:
    server = Server()
    mirror, told = mirror_of(server)
    server.put("a", "x")
    mirror.refresh()
    assert told == ["changed"]
    before = mirror.get("a")
    assert before is not None

    mirror.learn(server.put("a", "x"))
    after = mirror.get("a")
    assert after is not None
    assert (after.revision, told) == ("2", ["changed"])
    assert after.value is before.value

    mirror.learn(server.put("a", "y"), own=True)
    assert told == ["changed"]
    mirror.learn(server.put("a", "z"))
    assert told == ["changed"] * 2


def test_an_object_that_cannot_be_read_stops_no_other() -> None:
    server = Server()
    server.put("bad", "broken")
    server.put("good", "x")
    mirror, told = mirror_of(server)

    mirror.refresh()

    found = values(mirror)
    assert str(found.pop("bad")) == "'bad' is not a valid thing: it is broken"
    assert found == {"good": "x"}
    told.clear()
    mirror.learn(server.put("bad", "broken"))
    assert told == []


def test_a_listing_that_is_overtaken_by_a_write_of_ones_own_takes_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.put("changed", "x")
    mirror, _ = mirror_of(server)
    mirror.refresh()
    honest = server.collect

    def overtaken(resource: Resource, keep: Keep) -> tuple[list[Any], str]:
        answer = honest(resource, keep)
        mirror.learn(server.put("changed", "y"), own=True)
        mirror.learn(server.put("new", "z"), own=True)
        return answer

    monkeypatch.setattr(server, "collect", overtaken)

    mirror.refresh()

    assert values(mirror) == {"changed": "y", "new": "z"}


def test_a_server_that_was_restored_from_an_older_backup_is_believed() -> None:
    server = Server()
    for value in "uvwxyz":
        server.put("a", value)
    server.put("gone", "x")
    mirror, _ = mirror_of(server)
    mirror.refresh()
    server.count, server.things = 2, {"a": thing("a", 2, "v")}

    mirror.refresh()

    assert values(mirror) == {"a": "v"}
    mirror.learn(server.put("a", "new"))
    assert values(mirror) == {"a": "new"}


def test_of_a_resource_the_first_version_that_is_installed_counts_and_none_is_empty() -> None:
    server = Server()
    server.put("a", "x")
    mirror, _ = mirror_of(server, OLD_THINGS, THINGS)
    server.installed.clear()

    mirror.refresh()
    assert (mirror.installed, values(mirror), mirror.synced.is_set()) == (None, {}, True)

    server.installed.add(THINGS)
    mirror.refresh()
    assert (mirror.installed, values(mirror)) == (THINGS, {"a": "x"})


def test_a_resource_that_was_there_is_not_believed_to_be_gone() -> None:
    server = Server()
    server.put("a", "x")
    mirror, _ = mirror_of(server)
    mirror.refresh()
    server.installed.clear()

    with pytest.raises(StoreUnavailableError, match="not installed any more"):
        mirror.refresh()

    assert values(mirror) == {"a": "x"}


def test_a_resource_that_must_be_there_is_waited_for() -> None:
    server = Server()
    server.installed.clear()
    mirror: Mirror[str] = Mirror(cast("Api", server), (THINGS,), read, lambda: None, required=True)
    mirror.refresh()
    assert not mirror.synced.is_set()

    server.installed.add(THINGS)
    mirror.refresh()
    assert mirror.synced.is_set()


@pytest.mark.parametrize(("left", "right", "expected"), [("10", "9", True), ("9", "10", False), ("9", "9", False), ("x", "9", False)])
def test_revisions_are_compared_as_numbers(left: str, right: str, expected: bool) -> None:
    assert newer(left, right) is expected


def test_a_listing_that_is_overtaken_by_a_deletion_brings_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()
    server.put("gone", "x")
    server.put("again", "x")
    mirror, _ = mirror_of(server)
    mirror.refresh()
    honest = server.collect

    def overtaken(resource: Resource, keep: Keep) -> tuple[list[Any], str]:
        answer = honest(resource, keep)
        before = len(server.events)
        server.delete("gone")
        server.delete("again")
        server.put("again", "y")
        for event in server.events[before:]:
            play(mirror, event)
        return answer

    monkeypatch.setattr(server, "collect", overtaken)

    mirror.refresh()

    assert values(mirror) == {"again": "y"}
    monkeypatch.setattr(server, "collect", honest)
    mirror.learn(server.put("gone", "z"))
    mirror.refresh()
    assert values(mirror) == {"again": "y", "gone": "z"}


class Watched:
    """A watch that tells what it is told to, and then how it ends."""

    def __init__(self, events: list[Event], end: Exception | None = None) -> None:
        self._events, self._end = iter(events), end

    def __iter__(self) -> Iterator[Event]:
        yield from self._events
        if self._end is not None:
            raise self._end

    def close(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("refusal", [StoreRefusedError("watch", "403"), RevisionExpiredError("things", "1")])
def test_a_server_that_lists_and_refuses_every_watch_is_asked_ever_less_often(monkeypatch: pytest.MonkeyPatch, refusal: Exception) -> None:
    server = Server()
    mirror, _ = mirror_of(server)
    pauses: list[float] = []

    def wait(seconds: float) -> bool:
        pauses.append(seconds)
        if len(pauses) == 9:
            mirror.end()
        return False

    monkeypatch.setattr(server, "watch", lambda resource, revision: Watched([], refusal), raising=False)
    monkeypatch.setattr(mirror._stopped, "wait", wait)

    mirror._run()

    assert pauses[0] < 0.5
    assert pauses[-1] >= 15


def test_names_of_what_is_gone_are_not_remembered_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mirror_module, "_MOST_GONE", 5)
    server = Server()
    mirror, _ = mirror_of(server)
    mirror.refresh()
    late: list[dict[str, Any]] = []
    for number in range(20):
        late.append(server.put(f"n{number}", "x"))
        server.delete(f"n{number}")
    server.put("stays", "x")
    monkeypatch.setattr(server, "watch", lambda resource, revision: Watched(server.events), raising=False)

    mirror.installed = THINGS
    mirror._follow("1")
    for each in late:
        mirror.learn(each)  # answers that were on their way for long

    assert values(mirror) == {"stays": "x"}
    assert len(mirror._gone) <= 6


def test_what_nobody_foresaw_stops_neither_other_objects_nor_the_mirror(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    server = Server()
    server.put("good", "x")
    server.things["odd"] = {"metadata": {"name": "odd", "resourceVersion": "1"}}  # no spec, of which the reader knows nothing
    mirror, _ = mirror_of(server)
    failed: list[str] = []
    shown: list[str] = []
    ends: list[Exception] = [TypeError("'int' object is not subscriptable"), AttributeError("no such thing")]
    known: list[set[str]] = []

    def watch(_: Resource, revision: str) -> Watched:
        known.append(set(mirror.all()))
        if not ends:
            mirror.end()
            return Watched([])
        server.put(f"after {len(ends)}", "y")
        return Watched([], ends.pop(0))

    def wait(_: float) -> bool:
        shown.append(mirror.trouble)
        return False

    monkeypatch.setattr(server, "watch", watch, raising=False)
    monkeypatch.setattr(mirror._stopped, "wait", wait)

    mirror.start(failed.append)
    assert mirror._thread is not None
    mirror._thread.join(10)

    assert known == [{"good", "odd"}, {"good", "odd", "after 2"}, {"good", "odd", "after 2", "after 1"}]
    assert str(values(mirror)["odd"]) == "store: cannot read things odd: KeyError: 'spec'"
    assert shown[:2] == [
        "things cannot be followed: TypeError: 'int' object is not subscriptable",
        "things cannot be followed: AttributeError: no such thing",
    ]
    assert failed == ["things", "things"]
    assert [record.exc_info is not None for record in caplog.records if "failures=" in record.message] == [True, True]


def test_a_mirror_says_what_is_wrong_until_its_watch_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("ciliumipam.kubernetes.mirror.time.monotonic", lambda: now[0])
    server = Server()
    server.put("a", "x")
    mirror, _ = mirror_of(server)
    mirror._failed(StoreRefusedError("list things", "you may not"))
    assert mirror.trouble == "things cannot be followed: store: cannot list things: you may not"

    shown: list[str] = []

    class Lasting(Watched):
        def __iter__(self) -> Iterator[Event]:
            for seconds in (1.0, 3.0):
                now[0] += seconds
                shown.append(mirror.trouble)
            yield from ()

    monkeypatch.setattr(server, "watch", lambda resource, revision: Lasting([]), raising=False)
    mirror.refresh()
    mirror._follow("1")

    assert shown == ["things cannot be followed: store: cannot list things: you may not", ""]
    assert mirror.trouble == ""
