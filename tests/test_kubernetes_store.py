"""`KubernetesStore` on a real API server: the contract of all stores, what the objects look like, and what it survives."""

from __future__ import annotations

import base64
import json
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from threading import Event as Flag
from time import monotonic, sleep
from typing import Any

import pytest

from ciliumipam.codec import Codec
from ciliumipam.errors import (
    ConflictError,
    RevisionExpiredError,
    StoreRefusedError,
    StoreUnavailableError,
    UnsupportedVersionError,
)
from ciliumipam.kubernetes import object_watch
from ciliumipam.kubernetes.api import Api, Resource
from ciliumipam.kubernetes.crds import CIDR_LEDGER, CIDR_POOL
from ciliumipam.kubernetes.kubeconfig import choose
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport
from ciliumipam.kubernetes.objects import LEDGERS, POOLS, object_name, to_object
from ciliumipam.kubernetes.store import KubernetesStore
from ciliumipam.kubernetes.transport import Response, Transport
from ciliumipam.pool import PoolSpec
from ciliumipam.records import Entry, Key, PoolRecord, Revision
from ciliumipam.store import ABSENT, Change, Expect, Store
from ciliumipam.testing.api_proxy import WRITES, Cut, EndWatch, FaultProxy
from ciliumipam.testing.conformance import StoreConformance
from ciliumipam.testing.conformance.reader import Reader
from ciliumipam.testing.control_plane import Binaries, ScratchControlPlane, User
from ciliumipam.testing.faults import VirtualTime
from ciliumipam.testing.faulty_transport import Fault, FaultyTransport
from ciliumipam.testing.racing import together
from ciliumipam.testing.record_strategies import EXAMPLES, number_of, numbered

DEFINITIONS = Resource("apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition")
CONTEXT = "ciliumipam"


def open_transport(kubeconfig: Path) -> LightkubeTransport:
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("KUBECONFIG", str(kubeconfig))
        return LightkubeTransport(choose(CONTEXT))


def until(holds: Callable[[], object], what: str, patience: float = 60.0) -> None:
    end = monotonic() + patience
    while not holds():
        assert monotonic() < end, f"{what} did not come true within {patience:g} s"
        sleep(0.05)


def install(api: Api) -> None:
    for definition in (CIDR_POOL, CIDR_LEDGER):
        api.create(DEFINITIONS, definition)

    def established(definition: dict[str, Any]) -> bool:
        found = api.get(DEFINITIONS, definition["metadata"]["name"]) or {}
        conditions = found.get("status", {}).get("conditions") or ()
        return any(each["type"] == "Established" and each["status"] == "True" for each in conditions)

    for definition in (CIDR_POOL, CIDR_LEDGER):
        until(partial(established, definition), f"{definition['metadata']['name']} is established")


@pytest.fixture(scope="module")
def plane(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchControlPlane]:
    """Of this module alone: the contract wants an empty store, and the API server is restarted."""
    with ScratchControlPlane(tmp_path_factory.mktemp("plane"), server_binaries, users=[User("nobody")]) as plane:
        with closing(open_transport(plane.kubeconfig)) as transport:
            install(Api(transport))
        yield plane


@pytest.fixture(scope="module")
def transport(plane: ScratchControlPlane) -> Iterator[Transport]:
    with closing(open_transport(plane.kubeconfig)) as transport:
        yield transport


@pytest.fixture(scope="module")
def proxy(plane: ScratchControlPlane) -> Iterator[FaultProxy]:
    with FaultProxy(plane) as proxy:
        yield proxy


@pytest.fixture
def empty(transport: Transport) -> Transport:
    """The transport to a server without any record."""
    for resource in (POOLS, LEDGERS):
        path = f"/apis/{resource.group}/{resource.version}/{resource.plural}"
        if Api(transport).list(resource).items:
            assert transport.request("DELETE", path).status == 200
    return transport


class TestOnARealServer(StoreConformance):
    """The contract, unchanged. The server is asked over a socket for each call, so that fewer of them race."""

    rounds = 10
    many = 250

    @pytest.fixture
    def store(self, empty: Transport) -> Iterator[Store]:
        with KubernetesStore(empty, api=Api(empty, page=100)) as store:
            yield store

    @pytest.fixture
    def peer(self, store: Store, plane: ScratchControlPlane) -> Iterator[Store]:
        transport = open_transport(plane.kubeconfig)
        with KubernetesStore(transport, api=Api(transport, page=100), owned=True) as peer:
            yield peer

    @pytest.fixture
    def losses(self, store: Store, empty: Transport, proxy: FaultProxy) -> Sequence[Callable[[], AbstractContextManager[Store]]]:
        faulty = FaultyTransport(empty)

        def losing(*faults: Fault, reads: bool = False, ever: bool = False) -> Callable[[], AbstractContextManager[Store]]:
            @contextmanager
            def enter() -> Iterator[Store]:
                time = VirtualTime()  # the waiting between two tries is not what is tested
                api = Api(faulty, deadline=5.0, sleep=time.sleep, clock=time)
                with faulty.playing(*faults, reads=reads, ever=ever):
                    yield KubernetesStore(faulty, api=api)

            return enter

        def cutting(*cuts: Cut) -> Callable[[], AbstractContextManager[Store]]:
            @contextmanager
            def enter() -> Iterator[Store]:
                for cut in cuts:
                    proxy.plant(cut, verbs=WRITES)
                try:
                    with KubernetesStore(open_transport(proxy.kubeconfig), owned=True) as cut_off:
                        yield cut_off
                finally:
                    proxy.clear()

            return enter

        once = [losing(fault) for fault in Fault] + [cutting(Cut(when)) for when in ("before", "after", "torn")]
        ever = [losing(fault, reads=True, ever=True) for fault in (Fault.LOST, Fault.VANISHED, Fault.TIMED_OUT, Fault.SHED, Fault.UNSENT)]
        return [*once, *ever, losing(Fault.LATE, Fault.LOST), losing(Fault.VANISHED, Fault.BROKEN)]

    @pytest.fixture
    def forget(self, store: Store, plane: ScratchControlPlane) -> Callable[[], None]:
        return plane.apiserver.restart  # it remembers changes in its memory only


# ------------------------------------------------------------------------------------------------------------- objects

PAGE = Key("block-page", "10.0.0.0/10")


@pytest.fixture
def store(empty: Transport) -> Iterator[KubernetesStore]:
    with KubernetesStore(empty) as store:
        yield store


@pytest.fixture
def api(empty: Transport) -> Api:
    return Api(empty)


def test_a_record_of_a_newer_version_is_refused_and_the_others_are_read(store: KubernetesStore, api: Api) -> None:
    store.put(PAGE, numbered(1), expect=ABSENT)
    other = Key("block-page", "10.64.0.0/10")
    store.put(other, numbered(2), expect=ABSENT)
    api.patch(LEDGERS, object_name(PAGE), {"spec": {"record": '{"format":2,"fence":1,"slots":"rle:256"}'}})
    refused = "record block-page 10.0.0.0/10 has format 2, this version reads up to 1; use a newer ciliumipam"

    assert number_of(store.get(other)) == 2
    for call in (lambda: store.get(PAGE), lambda: store.scan("block-page")):
        with pytest.raises(UnsupportedVersionError) as caught:
            call()
        assert str(caught.value) == refused
    assert store.scan("block-claims").entries == ()


def test_what_others_wrote_on_a_pool_stays_when_it_is_put(store: KubernetesStore, plane: ScratchControlPlane) -> None:
    manifest = {
        "apiVersion": "ciliumipam.io/v1alpha1",
        "kind": "CIDRPool",
        "metadata": {"name": "green", "labels": {"team": "net"}, "annotations": {"note": "of ours"}},
        "spec": {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}, "priority": 4},
    }
    plane.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    key = Key("pool", "green")
    found = store.get(key)
    assert found is not None
    record = found.record
    assert isinstance(record, PoolRecord)
    created = plane.kubectl("get", "cidrpool", "green", "-o", "jsonpath={.metadata.creationTimestamp}")
    assert record.since == datetime.fromisoformat(created).timestamp()

    store.put(
        key, record._replace(spec=PoolSpec(name="green", cidrs=["10.0.0.0/15"], selector=record.spec.selector)), expect=found.revision
    )

    after = json.loads(plane.kubectl("get", "cidrpool", "green", "-o", "json"))
    assert after["spec"] == {"cidrs": ["10.0.0.0/15"], "nodeSelector": {}}
    assert after["metadata"]["labels"] == {"team": "net"}
    assert after["metadata"]["annotations"]["note"] == "of ours"
    again = store.get(key)
    assert again is not None
    assert isinstance(again.record, PoolRecord)
    assert again.record.since == record.since
    with pytest.raises(ConflictError):
        store.put(key, record, expect=found.revision)


def test_a_pool_edited_with_kubectl_between_reading_and_writing_is_a_conflict(store: KubernetesStore, plane: ScratchControlPlane) -> None:
    key, record = EXAMPLES[0]
    revision = store.put(key, record, expect=ABSENT)
    plane.kubectl("label", "cidrpool", key.name, "team=net")

    with pytest.raises(ConflictError):
        store.put(key, record, expect=revision)


def test_what_kubectl_shows_of_a_page_is_a_slot_on_each_line(store: KubernetesStore, plane: ScratchControlPlane) -> None:
    key, page = next(each for each in EXAMPLES if each[0].kind == "block-page")
    store.put(key, page, expect=ABSENT)

    shown = plane.kubectl("get", "cidrledger", object_name(key), "-o", "yaml")

    assert (
        '  record: |-\n    {"format":1,"fence":1,"cursor":4,"slots":[\n    0,\n    {"split":2},\n    ["10.0.0.0/22",3,"node-1","green",-1.0],\n'
        in shown
    )


@pytest.mark.parametrize(("record", "who"), [('"' * 1_000_000, "etcdserver"), ("\x01" * 600_000, "limit is 3145728")])
def test_an_object_that_is_too_large_is_a_clear_error(api: Api, record: str, who: str) -> None:
    obj = to_object(PAGE, numbered(1), Codec())
    obj["spec"]["record"] = record

    with pytest.raises(
        StoreRefusedError, match=rf"create cidrledgers\.ciliumipam\.io {object_name(PAGE)}: the object is too large .*{who}"
    ):
        api.create(LEDGERS, obj)


def test_a_kind_that_the_server_does_not_know_asks_for_its_definition(empty: Transport) -> None:
    with pytest.raises(
        StoreRefusedError, match=r"has no cidrpools\.ciliumipam\.io of version v9; install or update its definition: ciliumipam crds"
    ):
        Api(empty).list(POOLS._replace(version="v9"))


def test_who_may_nothing_is_told_which_rule_lacks(plane: ScratchControlPlane) -> None:
    with KubernetesStore(open_transport(plane.kubeconfig_of("nobody")), owned=True) as store:
        calls: dict[str, Callable[[], object]] = {
            "get": lambda: store.get(PAGE),
            "list": lambda: store.scan("block-page"),
            "create": lambda: store.put(PAGE, numbered(1), expect=ABSENT),
            "update": lambda: store.put(PAGE, numbered(1), expect=Revision("5")),
            "delete": lambda: store.delete(PAGE, expect=Revision("5")),
        }
        for verb, call in calls.items():
            with pytest.raises(StoreRefusedError) as caught:
                call()
            assert str(caught.value).endswith(
                f'RBAC rule that lacks: apiGroups: ["ciliumipam.io"], resources: ["cidrledgers"], verbs: ["{verb}"]'
            )


# ----------------------------------------------------------------------------------------------------- what it survives


def test_a_lost_answer_is_found_out_by_the_token_of_the_write(empty: Transport) -> None:
    faulty, time = FaultyTransport(empty), VirtualTime()
    store = KubernetesStore(faulty, api=Api(faulty, sleep=time.sleep, clock=time))
    revision: Expect = ABSENT
    for number, fault in enumerate(
        (Fault.LOST, Fault.LOST, Fault.BROKEN, Fault.TIMED_OUT, Fault.LATE, Fault.VANISHED, Fault.SHED, Fault.AWAY)
    ):
        with faulty.playing(fault):
            revision = store.put(PAGE, numbered(number), expect=revision)

        assert store.get(PAGE) == Entry(numbered(number), revision), fault
    assert faulty.befallen == 8


def test_a_listing_whose_token_expired_begins_anew(plane: ScratchControlPlane, empty: Transport) -> None:
    store = KubernetesStore(empty)
    for number in range(5):
        store.put(Key("block-page", str(number)), numbered(number), expect=ABSENT)

    class Forgetting:
        """After the first answer the server forgets everything that was."""

        def __init__(self) -> None:
            self.statuses: list[int] = []

        def request(self, *args: Any, **kwargs: Any) -> Response:
            response = empty.request(*args, **kwargs)
            self.statuses.append(response.status)
            if len(self.statuses) == 1:
                store.put(Key("block-page", "3"), numbered(33), expect=store.scan("block-page").entries[3][1].revision)
                compact(plane)
                plane.apiserver.restart()
            return response

        stream = close = None

    forgetting: Any = Forgetting()
    entries = KubernetesStore(forgetting, api=Api(forgetting, page=2)).scan("block-page").entries

    assert [number_of(entry) for _, entry in entries] == [0, 1, 2, 33, 4]
    assert 410 in forgetting.statuses


def compact(plane: ScratchControlPlane) -> None:
    """Make etcd forget what was, as it does every five minutes."""
    [url] = [argument.partition("=")[2] for argument in plane.etcd.command if argument.startswith("--listen-client-urls=")]

    def ask(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(url + path, json.dumps(body).encode())  # noqa: S310 - etcd of the test
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310 - as above
            found: dict[str, Any] = json.load(answer)
        return found

    revision = ask("/v3/kv/range", {"key": base64.b64encode(b"x").decode()})["header"]["revision"]
    ask("/v3/kv/compaction", {"revision": revision, "physical": True})


def test_counting_and_watching_survive_restarts_of_both_servers(plane: ScratchControlPlane, empty: Transport) -> None:
    goal = 60
    key = Key("block-page", "counted")
    store = KubernetesStore(empty)
    store.put(key, numbered(0), expect=ABSENT)
    expired = 0
    reached = [Flag() for _ in range(3)]

    def count() -> list[int]:
        """Adds one, over and over; what remains open is found out by reading."""
        mine: list[int] = []
        with KubernetesStore(open_transport(plane.kubeconfig), owned=True) as own:
            while (number := number_of(entry := own.get(key)) + 1) <= goal and entry is not None:
                try:
                    own.put(key, numbered(number), expect=entry.revision)
                except (ConflictError, StoreUnavailableError):
                    continue
                mine.append(number)
                for part in range(4 * number // goal):
                    reached[min(part, 2)].set()
        return mine

    def disturb() -> list[int]:
        disturbances: tuple[Callable[[], object], ...] = (plane.etcd.restart, plane.apiserver.restart, plane.etcd.restart)
        for flag, disturbance in zip(reached, disturbances, strict=True):
            assert flag.wait(60)
            disturbance()
        return []

    def follow() -> list[int]:
        """Lists and watches, and lists again where a watch says that it cannot go on."""
        nonlocal expired
        seen: list[int] = []
        while True:
            listing = store.scan("block-page")
            seen.append(number_of(listing.entries[0][1]))
            with closing(store.watch("block-page", listing.revision)) as watch:
                try:
                    while seen[-1] < goal:
                        seen.append(number_of(next(watch).entry))
                except RevisionExpiredError:
                    expired += 1
                    continue
                return seen

    *counted, _, seen = together(count, count, disturb, follow)
    told = [number for mine in counted for number in mine]

    assert len(set(told)) == len(told), "two writers were told that they had written the same number"
    assert seen == sorted(seen)
    assert len(seen) - len(set(seen)) <= expired, "a change was told twice"
    assert expired <= 3, "nothing is forgotten but when one of the servers comes back"
    assert expired or sorted(set(seen)) == list(range(seen[0], goal + 1)), "a change was left out"
    assert number_of(store.get(key)) == goal


def test_a_server_that_is_silent_is_given_up_and_found_again(plane: ScratchControlPlane, empty: Transport) -> None:
    store = KubernetesStore(empty, api=Api(empty, silence=0.5))
    revision = store.put(PAGE, numbered(0), expect=ABSENT)
    watch = store.watch("block-page", store.scan("block-page").revision)
    reader = Reader(watch, patience=60.0)
    first = store.put(PAGE, numbered(1), expect=revision)
    assert number_of(reader.next().entry) == 1
    hasty = KubernetesStore(empty, api=Api(empty, deadline=1.0))

    plane.apiserver.pause()
    try:
        with pytest.raises(StoreUnavailableError) as caught:
            hasty.put(PAGE, numbered(2), expect=first)
        assert caught.value.unknown
    finally:
        plane.apiserver.resume()

    done = False
    while not done:  # what was sent to the sleeper may be executed when it wakes, or be dropped
        with suppress(ConflictError):
            entry = store.get(PAGE)
            assert entry is not None
            store.put(PAGE, numbered(3), expect=entry.revision)
            done = True
    assert [number_of(change.entry) for change in reader.until_it(lambda change: number_of(change.entry) == 3)] in ([2, 3], [3])
    watch.close()


def test_a_watch_goes_on_when_the_server_ends_it(monkeypatch: pytest.MonkeyPatch, empty: Transport) -> None:
    monkeypatch.setattr(object_watch, "_LIVES", (1, 1))
    faulty = FaultyTransport(empty)
    store = KubernetesStore(faulty)
    watch = store.watch("block-page", store.scan("block-page").revision)
    reader = Reader(watch, patience=60.0)
    revision: Expect = ABSENT

    def times() -> int:
        return sum(method == "WATCH" for method, _ in faulty.asked)

    def opened(often: int) -> bool:
        return times() >= often

    for number in range(3):
        until(partial(opened, times() + 1), "the watch is opened again")
        revision = store.put(PAGE, numbered(number), expect=revision)
        assert number_of(reader.next().entry) == number
    watch.close()

    assert isinstance(reader.end(), StopIteration)


def test_a_watch_that_is_cut_torn_or_closed_leaves_out_nothing(proxy: FaultProxy, empty: Transport) -> None:
    writer = KubernetesStore(empty)
    with KubernetesStore(open_transport(proxy.kubeconfig), owned=True) as store:
        for number, end in enumerate((EndWatch(1, "cut"), EndWatch(1, "torn"), EndWatch(1, "clean"))):
            proxy.plant(end, verbs=["watch"])
            reader = Reader(store.watch("block-page", store.scan("block-page").revision), patience=60.0)
            keys = [Key("block-page", f"{number}-{n}") for n in range(4)]
            changes = [Change(key, Entry(numbered(number), writer.put(key, numbered(number), expect=ABSENT))) for key in keys]

            assert reader.until(keys[-1]) == changes, end
            proxy.clear()


def test_after_a_restore_from_a_backup_a_watch_says_so_instead_of_leaving_out_changes(
    plane: ScratchControlPlane, empty: Transport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(object_watch, "_LONGEST_PAUSE", 0.5)
    store = KubernetesStore(empty)
    revision = store.put(PAGE, numbered(1), expect=ABSENT)
    backup = plane.snapshot("before")
    for number in range(2, 42):  # more than the servers write by themselves when they start
        revision = store.put(PAGE, numbered(number), expect=revision)
    watch = store.watch("block-page", store.scan("block-page").revision)
    reader = Reader(watch, patience=60.0)

    plane.restore(backup)

    assert isinstance(reader.end(), RevisionExpiredError)
    assert number_of(store.get(PAGE)) == 1
    with pytest.raises(ConflictError):
        store.put(PAGE, numbered(42), expect=revision)
