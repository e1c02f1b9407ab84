"""What the verbs make of each answer: what is asked again, what is not, which error comes out. Against a transport that plays a script.

What a real server answers is in `test_kubernetes_store.py`; here are answers that it gives too seldom to wait for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from threading import Event as Flag
from threading import Thread
from typing import Any, Self

import pytest

from ciliumipam.errors import ConflictError, IpamError, NotFoundError, RevisionExpiredError, StoreRefusedError, StoreUnavailableError
from ciliumipam.kubernetes.api import WRITE, Api, Resource
from ciliumipam.kubernetes.object_watch import ObjectWatch
from ciliumipam.kubernetes.transport import NO_QUERY, Refusal, Response, TransportError
from ciliumipam.testing.faults import VirtualTime

THINGS = Resource("example.org", "v1", "things", "Thing")
LOST = TransportError("the answer was lost", True)
UNSENT = TransportError("connection refused", False)


def status(code: int, reason: str = "", message: str = "no", *, retry: str = "", **details: Any) -> Response:
    body = {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details or None}
    return Response(code, {"retry-after": retry} if retry else {}, body)


def ok(**fields: Any) -> Response:
    return Response(200, {}, fields)


def thing(token: str = "t1", revision: str = "5", **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "a", "resourceVersion": revision, "annotations": {WRITE: token}}, "spec": spec or {"x": 1}}


class Lines:
    """A stream that tells what it was given, then ends, fails, or waits to be closed."""

    def __init__(self, *lines: dict[str, Any] | TransportError | None) -> None:
        self.lines = list(lines)
        self.closed = Flag()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        if not self.lines or self.closed.is_set():
            raise StopIteration
        line = self.lines.pop(0)
        if isinstance(line, TransportError):
            raise line
        if line is None:
            assert self.closed.wait(30)
            raise StopIteration
        return line

    def close(self) -> None:
        self.closed.set()


class Script:
    """A transport that gives these answers in this order, the last of them for ever."""

    def __init__(self, *answers: Response | TransportError, streams: tuple[Lines | Response | TransportError, ...] = ()) -> None:
        self.answers, self.streams = list(answers), list(streams)
        self.asked: list[tuple[str, str, dict[str, str], Any]] = []

    def request(
        self, method: str, path: str, *, query: Mapping[str, str] = NO_QUERY, body: object = None, content_type: str = "", timeout: float = 0.0
    ) -> Response:
        self.asked.append((method, path, dict(query), body))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, TransportError):
            raise answer
        return answer

    def stream(self, path: str, *, query: Mapping[str, str] = NO_QUERY, timeout: float) -> Lines:
        self.asked.append(("WATCH", path, dict(query), timeout))
        answer = self.streams.pop(0) if len(self.streams) > 1 else self.streams[0]
        if isinstance(answer, TransportError):
            raise answer
        if isinstance(answer, Response):
            raise Refusal(answer)
        return answer

    def close(self) -> None:
        pass

    @property
    def methods(self) -> list[str]:
        return [method for method, *_ in self.asked]


def timed(script: Script, deadline: float = 30.0) -> tuple[Api, VirtualTime]:
    time = VirtualTime()
    return Api(script, deadline=deadline, sleep=time.sleep, clock=time), time


WRITES: dict[str, Callable[[Api], object]] = {
    "create": lambda api: api.create(THINGS, thing()),
    "replace": lambda api: api.replace(THINGS, thing()),
    "patch": lambda api: api.patch(THINGS, "a", {"spec": {}}),
    "delete": lambda api: api.delete(THINGS, "a", revision="5"),
}
READS: dict[str, Callable[[Api], object]] = {"get": lambda api: api.get(THINGS, "a"), "list": lambda api: api.list(THINGS)}
FINE = ok(metadata={"name": "a", "resourceVersion": "6"}, items=[])

# ------------------------------------------------------------------------------------------------- what is asked again


@pytest.mark.parametrize("call", [*WRITES.values(), *READS.values()], ids=[*WRITES, *READS])
@pytest.mark.parametrize(
    "answer",
    [status(429, "TooManyRequests", retry="3"), status(503, "ServiceUnavailable", retry="3"), UNSENT],
    ids=["429", "503-retry-after", "unsent"],
)
def test_what_was_surely_not_executed_is_asked_again(call: Callable[[Api], object], answer: Response | TransportError) -> None:
    script = Script(answer, answer, FINE)
    api, time = timed(script)

    call(api)

    assert len(script.asked) == 3
    if isinstance(answer, Response):
        assert 6.0 < time.now < 7.0, "it did not wait for what the server asked for, twice 3 s"
    else:
        assert 0.0 < time.now < 1.0


@pytest.mark.parametrize("call", READS.values(), ids=READS)
@pytest.mark.parametrize("answer", [status(500), status(502), status(503), status(504, "Timeout", retry="1"), LOST], ids=["500", "502", "503", "504", "lost"])
def test_a_read_is_asked_again_whatever_became_of_it(call: Callable[[Api], object], answer: Response | TransportError) -> None:
    script = Script(answer, answer, FINE)

    call(timed(script)[0])

    assert len(script.asked) == 3


@pytest.mark.parametrize("call", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("answer", [status(500), status(502), status(503), status(504, "Timeout", retry="1"), LOST], ids=["500", "502", "503", "504", "lost"])
def test_of_a_write_that_may_have_been_executed_nobody_is_told_anything_else(
    call: Callable[[Api], object], answer: Response | TransportError
) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        call(timed(Script(answer))[0])

    assert caught.value.unknown


def test_pauses_grow_and_end_at_the_deadline() -> None:
    script = Script(UNSENT)
    api, time = timed(script, deadline=10.0)

    with pytest.raises(StoreUnavailableError) as caught:
        api.get(THINGS, "a")

    assert 8.0 <= time.now <= 10.0
    assert 8 <= len(script.asked) <= 20
    assert not caught.value.unknown
    assert str(caught.value) == f"store: get things.example.org a failed: connection refused (asked {len(script.asked)} times within 10 s)"


def test_who_is_told_to_come_after_the_deadline_is_not_kept_waiting() -> None:
    script = Script(status(429, retry="60"))
    api, time = timed(script)

    with pytest.raises(StoreUnavailableError):
        api.create(THINGS, thing())

    assert (len(script.asked), time.now) == (1, 0.0)


def test_what_cannot_get_better_is_refused_at_once() -> None:
    script = Script(TransportError("the certificate is not trusted", False, True))

    with pytest.raises(StoreRefusedError, match="the certificate is not trusted"):
        timed(script)[0].get(THINGS, "a")
    assert len(script.asked) == 1


# --------------------------------------------------------------------------------------------------- lost answers


def test_a_creation_that_was_executed_is_known_again_by_its_token() -> None:
    script = Script(LOST, ok(**thing("t1", "9")))

    assert timed(script)[0].create(THINGS, thing("t1"))["metadata"]["resourceVersion"] == "9"
    assert script.methods == ["POST", "GET"]


@pytest.mark.parametrize("found", [ok(**thing("t2", "9")), ok(**thing("t1", "9", x=2)), status(404, "NotFound", name="a"), status(500)], ids=["other", "edited", "none", "500"])
def test_a_creation_that_cannot_be_known_again_stays_open_and_is_not_repeated(found: Response) -> None:
    script = Script(LOST, found)

    with pytest.raises(StoreUnavailableError) as caught:
        timed(script)[0].create(THINGS, thing("t1"))

    assert caught.value.unknown
    assert script.methods.count("POST") == 1


def test_a_replacement_is_asked_for_again_until_it_is_decided() -> None:
    script = Script(LOST, status(504), LOST, ok(**thing("t1", "9")))

    assert timed(script)[0].replace(THINGS, thing("t1"))["metadata"]["resourceVersion"] == "9"
    assert script.methods == ["PUT"] * 4
    assert {id(body) for *_, body in script.asked} == {id(script.asked[0][3])}


def test_a_replacement_that_was_executed_is_known_again_by_its_token() -> None:
    script = Script(LOST, status(409, "Conflict"), ok(**thing("t1", "9")))

    assert timed(script)[0].replace(THINGS, thing("t1"))["metadata"]["resourceVersion"] == "9"
    assert script.methods == ["PUT", "PUT", "GET"]


@pytest.mark.parametrize("found", [ok(**thing("t2", "9")), status(404, "NotFound", name="a")], ids=["other", "none"])
def test_a_replacement_that_another_one_followed_stays_open(found: Response) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        timed(Script(LOST, status(409, "Conflict"), found))[0].replace(THINGS, thing("t1"))

    assert caught.value.unknown


def test_without_a_token_nothing_is_known_again() -> None:
    plain = thing()
    del plain["metadata"]["annotations"]

    with pytest.raises(StoreUnavailableError):
        timed(Script(LOST, status(409, "Conflict"), ok(**plain)))[0].replace(THINGS, plain)


def test_a_conflict_without_a_loss_before_it_is_one() -> None:
    script = Script(status(409, "Conflict"))

    with pytest.raises(ConflictError):
        timed(script)[0].replace(THINGS, thing("t1"))
    assert script.methods == ["PUT"]


def test_a_deletion_under_a_condition_is_asked_for_again() -> None:
    script = Script(LOST, ok())

    timed(script)[0].delete(THINGS, "a", uid="u", revision="5")

    assert script.methods == ["DELETE", "DELETE"]
    assert script.asked[1][3]["preconditions"] == {"uid": "u", "resourceVersion": "5"}


@pytest.mark.parametrize("then", [status(404, "NotFound", name="a"), status(409, "Conflict"), LOST], ids=["404", "409", "lost"])
def test_a_deletion_that_cannot_be_known_again_stays_open(then: Response | TransportError) -> None:
    with pytest.raises(StoreUnavailableError) as caught:
        timed(Script(LOST, then))[0].delete(THINGS, "a", revision="5")

    assert caught.value.unknown


def test_a_deletion_without_a_condition_is_never_repeated() -> None:
    script = Script(LOST, ok())

    with pytest.raises(StoreUnavailableError):
        timed(script)[0].delete(THINGS, "a")
    assert script.methods == ["DELETE"]


# ------------------------------------------------------------------------------------------------------------- answers

ERRORS: list[tuple[Callable[[Api], object], Response, type[IpamError], str]] = [
    (WRITES["create"], status(409, "AlreadyExists"), ConflictError, "things.example.org a changed meanwhile: expected nothing, found an object of this name"),
    (WRITES["replace"], status(409, "Conflict"), ConflictError, "things.example.org a changed meanwhile: expected revision 5, found another revision"),
    (WRITES["replace"], status(404, "NotFound", name="a"), ConflictError, "things.example.org a changed meanwhile: expected revision 5, found nothing"),
    (WRITES["patch"], status(404, "NotFound", name="a"), NotFoundError, "no Thing 'a'"),
    (WRITES["delete"], status(404, "NotFound", name="a"), ConflictError, "things.example.org a changed meanwhile: expected revision 5, found nothing"),
    (
        READS["list"],
        Response(404, {}, "404 page not found"),
        StoreRefusedError,
        "store: cannot list things.example.org: the API server has no things.example.org of version v1;"
        " install or update its definition: ciliumipam crds --install",
    ),
    (
        READS["get"],
        status(403, "Forbidden", 'things.example.org "a" is forbidden: User "u" cannot get resource "things"'),
        StoreRefusedError,
        'store: cannot get things.example.org a: not permitted: things.example.org "a" is forbidden: User "u" cannot get resource "things";'
        ' the RBAC rule that lacks: apiGroups: ["example.org"], resources: ["things"], verbs: ["get"]',
    ),
    (
        lambda api: api.patch(THINGS, "a", {}, subresource="status"),
        status(403, "Forbidden", "User u cannot patch"),
        StoreRefusedError,
        "store: cannot patch things.example.org/status a: not permitted: User u cannot patch;"
        ' the RBAC rule that lacks: apiGroups: ["example.org"], resources: ["things/status"], verbs: ["patch"]',
    ),
    (WRITES["create"], status(403, "Forbidden", "exceeded quota"), StoreRefusedError, "store: cannot create things.example.org a: the API server forbids it: exceeded quota"),
    (
        READS["get"],
        status(401, "Unauthorized", "Unauthorized"),
        StoreRefusedError,
        "store: cannot get things.example.org a: the API server does not accept the credentials (401 Unauthorized): log in again, or use another context",
    ),
    (
        WRITES["create"],
        status(400, "BadRequest", 'strict decoding error: unknown field "spec.y"'),
        StoreRefusedError,
        'store: cannot create things.example.org a: the definition of things.example.org in the cluster is of another version: strict decoding error:'
        ' unknown field "spec.y"; install or update its definition: ciliumipam crds --install',
    ),
    (WRITES["create"], status(422, "Invalid", "spec.x: Invalid value"), StoreRefusedError, "store: cannot create things.example.org a: the API server refuses it (422): spec.x: Invalid value"),
    (
        WRITES["replace"],
        status(500, "", "etcdserver: request is too large"),
        StoreRefusedError,
        "store: cannot update things.example.org a: the object is too large for the API server or for etcd (1.5 MiB): etcdserver: request is too large",
    ),
    (
        WRITES["create"],
        Response(413, {}, "Request entity too large: limit is 3145728"),
        StoreRefusedError,
        "store: cannot create things.example.org a: the object is too large for the API server or for etcd (1.5 MiB):"
        " Request entity too large: limit is 3145728",
    ),
]


@pytest.mark.parametrize(("call", "answer", "kind", "sentence"), ERRORS, ids=[f"{n}-{each[1].status}" for n, each in enumerate(ERRORS)])
def test_an_answer_that_stays_the_same_is_an_error_of_ours(
    call: Callable[[Api], object], answer: Response, kind: type[IpamError], sentence: str
) -> None:
    script = Script(answer)

    with pytest.raises(IpamError) as caught:
        call(timed(script)[0])

    assert type(caught.value) is kind
    assert str(caught.value) == sentence
    assert len(script.asked) == 1


def test_an_object_that_is_not_there_is_none() -> None:
    assert timed(Script(status(404, "NotFound", name="a")))[0].get(THINGS, "a") is None


def test_a_proxys_page_is_no_object() -> None:
    with pytest.raises(StoreUnavailableError, match="no JSON object: <html>log in"):
        timed(Script(Response(200, {}, "<html>log in</html>")))[0].get(THINGS, "a")


def test_every_write_is_strict_and_goes_where_it_belongs() -> None:
    script = Script(FINE)
    api, _ = timed(script)
    config = Resource("cilium.io", "v2alpha1", "ciliumnodeconfigs", "CiliumNodeConfig", "kube-system")
    api.create(config, thing())
    api.replace(THINGS, thing(), "status")
    api.patch(Resource("", "v1", "nodes", "Node"), "a/b", {}, subresource="status")
    api.get(config, "x")

    assert [(method, path, query) for method, path, query, _ in script.asked] == [
        ("POST", "/apis/cilium.io/v2alpha1/namespaces/kube-system/ciliumnodeconfigs", {"fieldValidation": "Strict"}),
        ("PUT", "/apis/example.org/v1/things/a/status", {"fieldValidation": "Strict"}),
        ("PATCH", "/api/v1/nodes/a%2Fb/status", {"fieldValidation": "Strict"}),
        ("GET", "/apis/cilium.io/v2alpha1/namespaces/kube-system/ciliumnodeconfigs/x", {}),
    ]


# ------------------------------------------------------------------------------------------------------------ listings


def page(names: str, revision: str, token: str = "") -> Response:
    return ok(metadata={"resourceVersion": revision, "continue": token}, items=[{"metadata": {"name": name}} for name in names])


def test_a_listing_is_read_in_pages_and_its_objects_say_what_they_are() -> None:
    script = Script(page("ab", "7", "t1"), page("cd", "7", "t2"), page("e", "7"))

    listed = timed(script)[0].list(THINGS, labels="k=v")

    assert [item["metadata"]["name"] for item in listed.items] == list("abcde")
    assert {(item["apiVersion"], item["kind"]) for item in listed.items} == {("example.org/v1", "Thing")}
    assert listed.revision == "7"
    assert [query for _, _, query, _ in script.asked] == [
        {"labelSelector": "k=v", "limit": "500"},
        {"labelSelector": "k=v", "limit": "500", "continue": "t1"},
        {"labelSelector": "k=v", "limit": "500", "continue": "t2"},
    ]


def test_a_listing_that_expired_begins_anew_and_shows_one_moment() -> None:
    script = Script(page("ab", "7", "t1"), status(410, "Expired"), page("xy", "9", "t2"), page("z", "9"))

    listed = timed(script)[0].list(THINGS)

    assert [item["metadata"]["name"] for item in listed.items] == list("xyz")
    assert listed.revision == "9"


def test_a_listing_that_expires_each_time_is_read_in_one_answer() -> None:
    script = Script(page("a", "7", "t1"), status(410, "Expired"), page("a", "8", "t2"), status(410, "Expired"), page("abc", "9"))

    assert len(timed(script)[0].list(THINGS).items) == 3
    assert script.asked[-1][2] == {}


# ------------------------------------------------------------------------------------------------------------- watches


def event(kind: str, revision: str, name: str = "a") -> dict[str, Any]:
    return {"type": kind, "object": {"metadata": {"name": name, "resourceVersion": revision}}}


class Patience(Flag):
    """The flag by which a watch waits; it notes how long it would, and passes the time."""

    def __init__(self, time: VirtualTime) -> None:
        super().__init__()
        self.time = time
        self.waits: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.waits.append(timeout or 0.0)
        self.time.sleep(timeout or 0.0)
        return self.is_set()


def watching(script: Script, deadline: float = 30.0) -> tuple[ObjectWatch, Patience]:
    api, time = timed(script, deadline)
    watch = api.watch(THINGS, "5", labels="k=v")
    watch._closed = patience = Patience(time)
    return watch, patience


NOW = page("", "100")


def asked(script: Script) -> list[str]:
    return [query["resourceVersion"] for method, _, query, _ in script.asked if method == "WATCH"]


def test_a_watch_asks_for_bookmarks_and_for_an_end() -> None:
    script = Script(NOW, streams=(Lines(event("ADDED", "6")),))
    watch, _ = watching(script)
    next(watch)

    method, path, query, silence = script.asked[-1]
    assert (method, path, silence) == ("WATCH", "/apis/example.org/v1/things", 70.0)
    assert 240 <= int(query.pop("timeoutSeconds")) <= 480
    assert query == {"watch": "true", "allowWatchBookmarks": "true", "labelSelector": "k=v", "resourceVersion": "5"}


def test_a_watch_goes_on_after_a_clean_close_where_a_bookmark_left_it() -> None:
    script = Script(NOW, streams=(Lines(event("ADDED", "6"), event("BOOKMARK", "8")), Lines(event("DELETED", "9"))))
    watch, patience = watching(script)

    assert [next(watch).type, watch.revision, next(watch).type, watch.revision] == ["ADDED", "6", "DELETED", "9"]
    assert asked(script) == ["5", "8"]
    assert len(patience.waits) == 1
    assert 0.05 <= patience.waits[0] <= 0.4


def test_a_server_that_closes_at_once_each_time_is_not_asked_in_a_hot_loop() -> None:
    script = Script(NOW, streams=(*[Lines()] * 30, Lines(event("ADDED", "6"))))
    watch, patience = watching(script)

    assert next(watch).type == "ADDED"
    assert len(patience.waits) == 30
    assert all(wait >= 2.5 for wait in patience.waits[8:])
    assert max(patience.waits) <= 5.0


def test_a_watch_goes_on_after_silence_and_after_broken_streams() -> None:
    silent = TransportError("nothing came for 70 s", False)
    script = Script(NOW, streams=(Lines(event("ADDED", "6"), silent), LOST, status(500), status(429, retry="2"), Lines({"type": "?"}), Lines(event("ADDED", "7"))))
    watch, patience = watching(script)

    assert [next(watch).type, next(watch).type] == ["ADDED", "ADDED"]
    assert asked(script) == ["5", "6", "6", "6", "6", "6"]
    assert len(patience.waits) == 5
    assert any(wait > 2.0 for wait in patience.waits)


@pytest.mark.parametrize(
    "gone",
    [status(410, "Expired"), Lines({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"}})],
    ids=["status", "event"],
)
def test_a_revision_that_is_too_old_has_expired_and_is_not_asked_for_again(gone: Any) -> None:
    script = Script(NOW, streams=(gone,))
    watch, _ = watching(script)

    with pytest.raises(RevisionExpiredError) as caught:
        next(watch)

    assert caught.value.args == ("things.example.org", "5")
    assert asked(script) == ["5"]


def test_an_error_event_that_says_come_later_is_no_end() -> None:
    error = {"type": "ERROR", "object": {"kind": "Status", "code": 500, "message": "etcd is slow"}}
    watch, _ = watching(Script(NOW, streams=(Lines(error), Lines(event("ADDED", "6")))))

    assert next(watch).type == "ADDED"


def test_a_server_that_was_set_back_expires_the_watch_instead_of_leaving_out_changes() -> None:
    script = Script(page("", "4"), streams=(Lines(None),))
    watch, _ = watching(script)

    with pytest.raises(RevisionExpiredError):
        next(watch)
    assert asked(script) == []


@pytest.mark.parametrize("revision", ["", "0", "-1", "07", "1 ", "x", "\u0661", "5.0"])
def test_what_is_no_revision_has_expired(revision: str) -> None:
    with pytest.raises(RevisionExpiredError):
        timed(Script(NOW))[0].watch(THINGS, revision)


def test_a_watch_that_is_not_permitted_says_which_rule_lacks() -> None:
    watch, _ = watching(Script(NOW, streams=(status(403, "Forbidden", "User u cannot watch"),)))

    with pytest.raises(StoreRefusedError, match=r'resources: \["things"\], verbs: \["watch"\]'):
        next(watch)


def test_a_server_that_stays_away_is_told_of_at_the_deadline() -> None:
    watch, patience = watching(Script(UNSENT), deadline=20.0)

    with pytest.raises(StoreUnavailableError, match="watch things.example.org failed: connection refused"):
        next(watch)
    assert 20.0 < patience.time.now < 30.0
    assert watch.revision == "5"


def test_a_watch_that_waits_ends_when_it_is_closed() -> None:
    stream = Lines(None)
    api, _ = timed(Script(NOW, streams=(stream,)))
    watch = api.watch(THINGS, "5")
    ended: list[str] = []

    def read() -> None:
        ended.extend(each.type for each in watch)
        ended.append("end")

    reader = Thread(target=read)
    reader.start()
    while watch._stream is None:
        pass
    watch.close()
    watch.close()
    reader.join(30)

    assert ended == ["end"]
    assert stream.closed.is_set()


def test_a_watch_that_rests_ends_when_it_is_closed() -> None:
    script = Script(UNSENT)
    watch, patience = watching(script)
    patience.time.after(1.0, watch.close)

    assert list(watch) == []
    assert patience.time.now < 8.0


