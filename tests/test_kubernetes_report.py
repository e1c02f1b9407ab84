"""What the operator says: conditions as a pure function, Events on the real API server, log lines, probes and metrics."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ciliumipam import Ipam, MemoryStore, Node, NodeSelector, PoolSpec
from ciliumipam.cli.logs import fields_of, log_to_stderr
from ciliumipam.errors import InvalidRequestError
from ciliumipam.health import Health, HealthServer
from ciliumipam.kubernetes.api import Api
from ciliumipam.kubernetes.conditions import TYPES, status_of
from ciliumipam.kubernetes.events import EVENTS, REFRESH, EventQueue, Said
from ciliumipam.kubernetes.lightkube_transport import connect
from ciliumipam.kubernetes.metrics import OperatorMetrics
from ciliumipam.kubernetes.report import ClusterReporter
from ciliumipam.kubernetes.reporter import Reporters, Round, Subject, subject_of
from ciliumipam.requests import PoolStatus
from ciliumipam.testing.control_plane import ControlPlane

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
EVERY = NodeSelector.everything()

# ---------------------------------------------------------------------------------------------------- conditions


def status(*, nodes: int = 0, **fields: Any) -> PoolStatus:
    ipam = Ipam(MemoryStore())
    spec = PoolSpec(**{"name": "p", "cidrs": ["10.0.0.0/23"], "selector": EVERY, **fields})
    draining, waiting = spec.draining, PoolSpec(**{"name": "p", "cidrs": ["10.0.0.0/23"], "selector": EVERY, **fields, "draining": False})
    ipam.apply([waiting], [Node(f"n-{i}") for i in range(nodes)])
    if draining:
        ipam.apply([spec])
    return ipam.pools()[0]


def said(pool: PoolStatus | None, previous: dict[str, Any] | None = None, now: datetime = NOON, **more: Any) -> dict[str, tuple[str, str]]:
    return {each["type"]: (each["status"], each["reason"]) for each in status_of(pool, 3, previous, now, **more)["conditions"]}


def test_a_pool_with_room_is_ready() -> None:
    assert said(status(nodes=1)) == {
        "Ready": ("True", "Serving"),
        "Conflicting": ("False", "Disjoint"),
        "Exhausted": ("False", "Available"),
        "Draining": ("False", "Serving"),
    }


def test_a_pool_without_a_free_block_is_exhausted_and_says_what_to_do() -> None:
    found = status_of(status(nodes=2), 1, None, NOON)["conditions"]

    assert [(each["type"], each["status"], each["reason"]) for each in found[:3]] == [
        ("Ready", "False", "NoBlockLeft"), ("Conflicting", "False", "Disjoint"), ("Exhausted", "True", "NoBlockLeft"),
    ]  # fmt: skip
    assert found[0]["message"] == (
        "No IPv4 block is left: 0 of 2 IPv4 blocks are free. Add a CIDR to the pool, use a longer block length,"
        " or take blocks back from nodes that are gone."
    )


def test_a_draining_pool_says_what_is_still_held_and_then_that_it_can_be_deleted() -> None:
    assert said(status(nodes=1, draining=True))["Ready"] == ("False", "Draining")
    assert said(status(nodes=1, draining=True))["Draining"] == ("True", "Draining")
    assert said(status(draining=True))["Draining"] == ("True", "Drained")


def test_a_conflicting_pool_names_the_older_one() -> None:
    found = status_of(status()._replace(conflicting="older"), 1, None, NOON)["conditions"]

    assert (found[0]["status"], found[0]["reason"]) == ("False", "Overlap")
    assert "It overlaps the older pool 'older'" in found[1]["message"]


def test_a_broken_pool_is_not_ready_and_nothing_else_is_known_of_it() -> None:
    found = status_of(None, 1, None, NOON, "spec.cidrs: it is required")

    assert [each["status"] for each in found["conditions"]] == ["False", "Unknown", "Unknown", "Unknown"]
    assert found["conditions"][0]["message"] == "It serves nobody: spec.cidrs: it is required"
    assert "ipv4" not in found


def test_counts_are_told_by_family_as_far_as_the_api_can_count() -> None:
    found = status_of(status(nodes=1, cidrs=["10.0.0.0/23", "fd00::/8"], block_length_v6=128), 1, None, NOON)

    assert found["ipv4"] == {"blocks": 2, "held": 1, "available": 1, "cooling": 0, "largestFree": 24}
    assert (found["ipv6"]["blocks"], found["ipv6"]["held"], found["ipv6"]["available"]) == ((1 << 63) - 1, 1, (1 << 63) - 1)


POOLS = st.builds(
    lambda nodes, draining, conflicting: status(nodes=nodes, draining=draining)._replace(conflicting=conflicting),
    st.integers(0, 3), st.booleans(), st.sampled_from((None, "other")),
)  # fmt: skip


@given(pools=st.lists(POOLS | st.none(), min_size=1, max_size=6))
def test_a_time_changes_when_a_condition_turns_and_only_then_and_the_same_again_is_equal(pools: list[PoolStatus | None]) -> None:
    previous: dict[str, Any] | None = None
    for hours, pool in enumerate(pools):
        now = NOON + timedelta(hours=hours)
        found = status_of(pool, hours, previous, now, "" if pool is not None else "broken")
        before = {each["type"]: each for each in (previous or {"conditions": []})["conditions"]}
        assert tuple(each["type"] for each in found["conditions"]) == TYPES
        for each in found["conditions"]:
            known = before.get(each["type"])
            stands = known is not None and known["status"] == each["status"]
            assert each["lastTransitionTime"] == (known["lastTransitionTime"] if stands and known else f"{now:%Y-%m-%dT%H:%M:%SZ}")
        assert status_of(pool, hours, found, now + timedelta(minutes=1), "" if pool is not None else "broken") == found
        previous = found


def test_conditions_of_others_are_kept() -> None:
    theirs = {"type": "Approved", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z", "reason": "Yes", "message": ""}

    assert status_of(status(), 1, {"conditions": [theirs]}, NOON)["conditions"][-1] == theirs


# -------------------------------------------------------------------------------- Events, on the real API server


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def api(control_plane: ControlPlane) -> Iterator[Api]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", str(control_plane.kubeconfig))
        transport = connect()
    yield Api(transport)
    transport.close()


@pytest.fixture
def node() -> Subject:
    name = f"events-{uuid4().hex[:8]}"
    return Subject("cilium.io/v2", "CiliumNode", name, f"uid-of-{name}")


def events_of(api: Api, subject: Subject) -> list[dict[str, Any]]:
    found = api.list(EVENTS._replace(namespace="default")).items
    return sorted((each for each in found if each["regarding"]["name"] == subject.name), key=lambda each: str(each["note"]))


def waiting(node: Subject, why: str = "no pool selects it") -> Said:
    return Said(node, "Warning", "Waiting", "Allocate", why)


def test_what_is_said_again_and_again_is_one_event_and_one_write(api: Api, node: Subject) -> None:
    clock = Clock()
    queue = EventQueue(api, "operator-0", clock=clock)

    assert queue.say(waiting(node))
    assert queue.write() == 1
    assert [queue.say(waiting(node)) for _ in range(50)] == [False] * 50
    assert queue.write() == 0
    clock.now += REFRESH
    assert queue.say(waiting(node))
    assert queue.write() == 1

    (event,) = events_of(api, node)
    assert (event["note"], event["type"], event["reason"], event["series"]["count"]) == ("no pool selects it", "Warning", "Waiting", 52)
    assert event["regarding"] == {"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "name": node.name, "uid": node.uid}
    assert (event["reportingController"], event["reportingInstance"]) == ("ciliumipam.io/operator", "operator-0")


def test_kubectl_shows_the_event_of_the_object(api: Api, node: Subject, control_plane: ControlPlane) -> None:
    queue = EventQueue(api, "operator-0", clock=Clock())
    queue.say(waiting(node))
    queue.write()

    found = f"involvedObject.uid={node.uid}"  # by which `kubectl describe` finds it
    shown = control_plane.kubectl("get", "events", "--field-selector", found, "-o", "jsonpath={.items[*].message}")

    assert shown == "no pool selects it"


def test_other_words_replace_the_event(api: Api, node: Subject) -> None:
    queue = EventQueue(api, "operator-0", clock=Clock())
    for words in ("no pool selects it", "pool green is full"):
        assert queue.say(waiting(node, words))
        assert queue.write() == 1

    assert [event["note"] for event in events_of(api, node)] == ["pool green is full"]


def test_an_operator_that_was_restarted_counts_the_event_up_that_is_there(api: Api, node: Subject) -> None:
    for instance in ("operator-0", "operator-1", "operator-2"):
        queue = EventQueue(api, instance, clock=Clock())
        queue.say(waiting(node))
        assert queue.write() == 1

    (event,) = events_of(api, node)
    assert event["series"]["count"] == 3


def test_an_event_that_the_server_has_forgotten_is_written_again(api: Api, node: Subject) -> None:
    clock = Clock()
    queue = EventQueue(api, "operator-0", clock=clock)
    queue.say(waiting(node))
    queue.write()
    api.delete(EVENTS._replace(namespace="default"), waiting(node).name)

    clock.now += REFRESH
    queue.say(waiting(node))
    queue.write()

    assert len(events_of(api, node)) == 1


def test_several_conflicts_of_one_node_are_several_events(api: Api, node: Subject) -> None:
    queue = EventQueue(api, "operator-0", clock=Clock())
    for block in ("10.0.0.0/24", "10.0.1.0/24"):
        queue.say(Said(node, "Warning", "Conflict", "Adopt", f"{block} is of another", block))
    queue.write()

    assert [event["note"] for event in events_of(api, node)] == ["10.0.0.0/24 is of another", "10.0.1.0/24 is of another"]


def test_a_flood_is_cut_off_and_goes_on_when_there_is_room(api: Api, node: Subject) -> None:
    clock = Clock()
    queue = EventQueue(api, "operator-0", clock=clock, rate=1.0, burst=2)

    def say_all() -> None:
        for number in range(5):
            queue.say(Said(node, "Warning", f"Reason{number}", "Allocate", f"note {number}"))

    say_all()
    assert (queue.write(), queue.left_out) == (2, 3)
    clock.now += 1.0
    say_all()  # the next round says it again
    assert queue.write() == 1
    assert [event["note"] for event in events_of(api, node)] == ["note 0", "note 1", "note 2"]


def test_a_note_that_is_too_long_is_cut_to_what_the_server_takes(api: Api, node: Subject) -> None:
    queue = EventQueue(api, "x" * 300, clock=Clock())
    queue.say(waiting(node, "ä" * 2000))
    queue.write()

    (event,) = events_of(api, node)
    assert event["note"] == "ä" * 510 + "..."


def test_what_no_longer_stands_is_forgotten(api: Api, node: Subject) -> None:
    queue = EventQueue(api, "operator-0", clock=Clock())
    queue.say(waiting(node))
    assert queue.stands(node, "Waiting")

    queue.forget(node, "Waiting")

    assert not queue.stands(node, "Waiting")
    assert queue.write() == 0


def test_an_event_of_an_object_in_a_namespace_is_in_that_namespace(api: Api, node: Subject) -> None:
    queue = EventQueue(api, "operator-0", clock=Clock())
    queue.say(waiting(node._replace(namespace="kube-system")))
    queue.write()

    found = api.get(EVENTS._replace(namespace="kube-system"), waiting(node._replace(namespace="kube-system")).name)
    assert found is not None
    assert found["regarding"]["namespace"] == "kube-system"


def test_orphans_are_told_by_one_event_of_their_node(api: Api, node: Subject) -> None:
    reporter = ClusterReporter(api, "me")
    for _ in range(3):
        reporter.orphaned(node, ["10.0.0.0/24", "10.0.1.0/24"], "p")
        reporter.flush()

    assert [(event["reason"], event["note"]) for event in events_of(api, node)] == [
        (
            "Orphaned",
            "pool p is gone or no longer covers 10.0.0.0/24, 10.0.1.0/24: the node keeps what it has, and nobody else gets it until the node goes",
        )
    ]


def test_a_subject_is_read_out_of_an_object() -> None:
    metadata = {"name": "n", "uid": "u", "namespace": "x"}

    assert subject_of({"apiVersion": "v1", "kind": "Thing", "metadata": metadata}) == Subject("v1", "Thing", "n", "u", "x")
    assert str(subject_of({"apiVersion": "v1", "kind": "Thing", "metadata": metadata})) == "Thing x/n"
    assert str(Subject("v1", "Node", "n")) == "Node n"


# --------------------------------------------------------------------------------------- probes, metrics, log lines


def ask(port: int, path: str) -> tuple[int, str]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def test_probes_answer_with_a_status_and_a_sentence() -> None:
    health = [Health(is_well=True, says="leader")]
    server = HealthServer("127.0.0.1", 0, healthz=lambda: health[0], readyz=lambda: Health(is_well=False, says="not yet"))
    try:
        assert ask(server.port, "/healthz?verbose") == (200, "leader\n")
        assert ask(server.port, "/readyz") == (503, "not yet\n")
        assert ask(server.port, "/metrics") == (404, "known here: /healthz, /readyz\n")
        health[0] = Health(is_well=False, says="stuck")
        assert ask(server.port, "/healthz") == (503, "stuck\n")
        assert server.is_alive
        with pytest.raises(InvalidRequestError, match=f"cannot listen on 127.0.0.1:{server.port}: .*another --listen"):
            HealthServer("127.0.0.1", server.port, healthz=lambda: health[0], readyz=lambda: health[0])
    finally:
        server.close()
    assert not server.is_alive


def test_metrics_tell_what_the_operator_did_and_how_its_pools_stand() -> None:
    metrics = OperatorMetrics()
    reporter = Reporters(metrics)
    ipam = Ipam(MemoryStore(), observer=metrics.observer)
    ipam.apply([PoolSpec(name="green", cidrs=["10.0.0.0/16"], selector=EVERY)], [Node("n-1")])
    node = Subject("v1", "Node", "n-1")

    reporter.leads(True)
    reporter.node_waits(node, "why")
    reporter.adopted(node, "10.0.0.0/24", "green")
    reporter.conflict(node, "10.0.0.0/24", "why")
    reporter.node_gone("n-1", ["10.0.0.0/24"])
    reporter.node_written("ok", 0.1)
    reporter.node_written("conflict", 0.1)
    reporter.block_given(node, ["10.0.0.0/24"])
    reporter.pool_broken({"kind": "CIDRPool", "metadata": {"name": "x"}}, "why")
    reporter.pools([], ipam.pools())
    reporter.not_followed("nodes")
    reporter.round_done(Round(1.5, 10, 3, 0.5))
    reporter.round_done(Round(0.5, 0, 0, 0.5, OSError))
    metrics.show(ipam)

    found = dict(line.rsplit(" ", 1) for line in metrics.exposition().decode().splitlines() if not line.startswith("#"))
    expected = {
        "leading": "1.0", "nodes": "10.0", "nodes_waiting": "3.0", "pools_broken": "1.0", 'rounds_total{outcome="ok"}': "1.0",
        'rounds_total{outcome="failed"}': "1.0", "round_seconds_sum": "2.0", "queue_seconds_sum": "1.0", "blocks_adopted_total": "1.0",
        'node_writes_total{outcome="ok"}': "1.0", 'node_writes_total{outcome="conflict"}': "1.0", "node_write_seconds_count": "2.0",
        "conflicts_total": "1.0", "nodes_gone_total": "1.0", 'follow_failures_total{resource="nodes"}': "1.0",
    }  # fmt: skip
    assert {name: found[f"ciliumipam_operator_{name}"] for name in expected} == expected
    assert found['ciliumipam_pool_blocks_held{family="ipv4",pool="green"}'] == "1.0"
    assert found['ciliumipam_calls_total{call="apply",outcome="ok"}'] == "1.0"
    metrics.show(None)
    assert "ciliumipam_pool_blocks_held" not in metrics.exposition().decode()


def test_every_metric_of_the_operator_is_documented_in_its_own_words() -> None:
    page = (Path(__file__).parent.parent / "docs/reference/metrics.md").read_text()
    helps = [line.split(" ", 3)[2:] for line in OperatorMetrics().exposition().decode().splitlines() if line.startswith("# HELP ciliumipam_operator")]

    assert len({name for name, _ in helps}) >= 12
    for name, what in helps:
        assert name.endswith("_created") or any(f"| `{name}` |" in line and line.endswith(f"| {what} |") for line in page.splitlines()), name


def test_log_lines_are_for_people_or_have_a_field_for_each_value_that_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("ciliumipam.operator")
    try:
        log_to_stderr("json")
        log.info("node=%s write=%s took=%.1fs of 100%% %s", "n-1", "ok", 0.25, "node=other")
        log_to_stderr("text")
        log.warning("node=%s waits: %s", "n-1", "no\npool")
    finally:
        logging.getLogger("ciliumipam").handlers, logging.getLogger("ciliumipam").propagate = [], True

    first, second = capsys.readouterr().err.splitlines()
    value = json.loads(first)
    assert {name: value[name] for name in ("node", "write", "took", "level", "message", "reason")} == {
        "reason": "node=other",
        "node": "n-1", "write": "ok", "took": 0.25, "level": "info", "message": "node=n-1 write=ok took=0.2s of 100% node=other",
    }  # fmt: skip
    assert second.endswith("Z WARNING node=n-1 waits: no\\npool")


def test_a_record_without_values_has_no_fields() -> None:
    assert fields_of(logging.LogRecord("x", 20, "", 0, "node=none", (), None)) == {}
