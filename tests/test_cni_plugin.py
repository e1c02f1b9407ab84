"""The CNI plugin, call by call: the installed executable as a process of its own, as a runtime starts it."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from ciliumipam import Ipam, Node, NodeSelector, PoolSpec
from ciliumipam.agent import LedgerSource, NodeAgent, Terms
from ciliumipam.audit import audit
from ciliumipam.boot import this_moment
from ciliumipam.cni.install import install, script
from ciliumipam.errors import InvalidRequestError
from ciliumipam.lease import Moment
from ciliumipam.store.sqlite import SqliteStore
from tests.cni_calls import Answer, addresses, call, environment, network


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bin")
    install(folder)
    return folder / "ciliumipam-cni"


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "node.db"


def held(store: Path) -> dict[str, list[str]]:
    with SqliteStore(store, read_only=True) as opened:
        assert list(audit(opened).findings) == []
        found: dict[str, list[str]] = {}
        for each in Ipam(opened).allocations():
            found.setdefault(each.owner, []).append(str(each.address))
    return found


def refused(answer: Answer, code: int, *words: str) -> None:
    assert answer.code == 1, answer
    assert answer.said["code"] == code, answer
    for word in words:
        assert word in f"{answer.said['msg']} {answer.said.get('details', '')}", answer


# ----------------------------------------------------------------------------------------------------------------- ADD


def test_add_gives_an_address_of_each_family_with_the_length_of_its_block_its_gateway_routes_and_dns(program: Path, store: Path) -> None:
    config = network(store, routes=[{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd07:1::9", "mtu": 1400}], dns={"nameservers": ["10.7.1.53"]})
    assert call(program, "ADD", config) == Answer(
        0,
        {
            "cniVersion": "1.1.0",
            "ips": [{"address": "10.7.1.2/24", "gateway": "10.7.1.1"}, {"address": "fd07:1::2/64", "gateway": "fd07:1::1"}],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0", "gw": "fd07:1::9", "mtu": 1400}],
            "dns": {"nameservers": ["10.7.1.53"]},
        },
        "",
    )


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"])
def test_up_to_0_4_0_an_address_names_its_family(program: Path, store: Path, version: str) -> None:
    said = call(program, "ADD", network(store, version=version)).said
    assert said["cniVersion"] == version
    assert [each.get("version") for each in said["ips"]] == (["4", "6"] if version < "1" else [None, None])
    assert not any("interface" in each for each in said["ips"])


def test_add_is_idempotent_and_another_interface_is_another_attachment(program: Path, store: Path) -> None:
    first = addresses(call(program, "ADD", network(store)))
    assert addresses(call(program, "ADD", network(store))) == first
    second = addresses(call(program, "ADD", network(store), interface="net1"))
    assert set(first).isdisjoint(second)
    assert sorted(held(store)) == ["gateway:10.7.1.0/24", "gateway:fd07:1::/64", "pods/c1/eth0", "pods/c1/net1"]


def test_the_label_is_the_pod(program: Path, store: Path) -> None:
    call(program, "ADD", network(store), arguments="IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u;ODD=1")
    with SqliteStore(store, read_only=True) as opened:
        assert {each.label for each in Ipam(opened).allocations() if each.owner == "pods/c1/eth0"} == {"shop/web-0"}


@pytest.mark.parametrize("way", ["CNI_ARGS", "runtimeConfig", "args"])
def test_an_address_that_is_asked_for_is_given_and_the_other_family_as_well(program: Path, store: Path, way: str) -> None:
    config, arguments = network(store), ""
    if way == "CNI_ARGS":
        arguments = "IP=10.7.1.77/24"
    elif way == "runtimeConfig":
        config["runtimeConfig"] = {"ips": ["10.7.1.77/24"]}
    else:
        config["args"] = {"cni": {"ips": ["10.7.1.77"]}}
    assert addresses(call(program, "ADD", config, arguments=arguments)) == ["10.7.1.77/24", "fd07:1::2/64"]


@pytest.mark.parametrize("asked", ["10.7.1.77", "10.7.1.1", "10.9.9.9", "10.7.1.0", "10.7.1.200"])
def test_an_address_that_cannot_be_had_leaves_nothing_behind(program: Path, store: Path, asked: str) -> None:
    config = network(store, reserved=["10.7.1.200"])
    call(program, "ADD", config, "other", arguments="IP=10.7.1.77")
    refused(call(program, "ADD", config, arguments=f"IP={asked}"), 100, asked)
    assert "pods/c1/eth0" not in held(store)


def test_both_families_or_none(program: Path, store: Path) -> None:
    config = network(store, blocks=["10.7.1.0/24", "fd07:1::/126"])  # two addresses, one of which is the gateway
    assert addresses(call(program, "ADD", config, "a")) == ["10.7.1.2/24", "fd07:1::2/126"]
    refused(call(program, "STATUS", config), 50, "IPv6")
    for _ in range(3):
        refused(call(program, "ADD", config, "b"), 11, "IPv6")
        refused(call(program, "ADD", config, "b", arguments="IP=10.7.1.9"), 11, "IPv6")
    assert set(held(store)) == {"gateway:10.7.1.0/24", "gateway:fd07:1::/126", "pods/a/eth0"}


@pytest.mark.parametrize(
    ("gateway", "told", "first"),
    [(None, ["10.7.1.1", "fd07:1::1"], ".2"), (False, [None, None], ".1"), (["169.254.1.1"], ["169.254.1.1", None], ".1")],
)
def test_a_gateway_is_the_first_address_or_none_or_the_given_one(program: Path, store: Path, gateway: Any, told: list[Any], first: str) -> None:
    more = {} if gateway is None else {"gateway": gateway}
    answer = call(program, "ADD", network(store, **more))
    assert [each.get("gateway") for each in answer.said["ips"]] == told
    assert addresses(answer)[0] == f"10.7.1{first}/24"


def test_dns_comes_out_of_a_resolvers_file_as_with_host_local(program: Path, store: Path, tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("# a\n;b\nnameserver 10.0.0.1\nnameserver ::1 # c\nsearch a.example b.example\nsearch c.example\noptions ndots:5\ndomain x\ndomain y\nodd\n")
    said = call(program, "ADD", network(store, resolvConf=str(file))).said
    assert said["dns"] == {
        "nameservers": ["10.0.0.1", "::1"], "search": ["a.example", "b.example", "c.example"], "options": ["ndots:5"], "domain": "y",
    }  # fmt: skip
    refused(call(program, "ADD", network(store, resolvConf="/nowhere")), 5, "/nowhere")


def test_on_a_node_of_a_store_the_blocks_are_those_that_the_store_says(program: Path, store: Path) -> None:
    refused(call(program, "ADD", network(store, node="n1")), 102, "does not exist")
    with SqliteStore(store) as opened:
        pool = PoolSpec(name="p", cidrs=["10.8.0.0/16"], selector=NodeSelector.everything(), block_length_v4=30)
        Ipam(opened).apply([pool], [Node("n1")])
    assert addresses(call(program, "ADD", network(store, node="n1"))) == ["10.8.0.2/30"]
    refused(call(program, "ADD", network(store, node="n1"), "c2"), 11, "ciliumipam grow n1")
    with SqliteStore(store) as opened:
        Ipam(opened).grow("n1", 2)
    answer = call(program, "ADD", network(store, node="n1"), "c2")
    assert answer.said["ips"] == [{"address": "10.8.0.6/30", "gateway": "10.8.0.5"}]


def test_a_node_that_the_store_does_not_know_is_named(program: Path, store: Path) -> None:
    with SqliteStore(store) as opened:
        Ipam(opened).apply([], [Node("n1")])
    refused(call(program, "ADD", network(store, node="n2")), 103, "n2")
    refused(call(program, "ADD", network(store, node="n1")), 11, "n1")
    refused(call(program, "STATUS", network(store, node="n1")), 50, "n1")


def test_blocks_may_be_added_to_a_configuration_and_taken_out_of_it(program: Path, store: Path) -> None:
    small = network(store, blocks=["10.7.1.0/30"])
    assert addresses(call(program, "ADD", small, "a")) == ["10.7.1.2/30"]
    refused(call(program, "ADD", small, "b"), 11)
    both = network(store, blocks=["10.7.1.0/30", "10.7.2.0/24"])
    assert addresses(call(program, "ADD", both, "b")) == ["10.7.2.2/24"]
    moved = network(store, blocks=["10.7.2.0/24"])
    assert addresses(call(program, "ADD", moved, "a")) == ["10.7.1.2/30"], "who has an address keeps it"
    assert call(program, "DEL", moved, "a").code == 0
    assert addresses(call(program, "ADD", moved, "a")) == ["10.7.2.3/24"]
    refused(call(program, "ADD", network(store, blocks=["10.7.2.0/25"]), "z"), 7, "10.7.2.0/25", "10.7.2.0/24")


KILLED = """
import os, signal, sys
from ciliumipam.store.sqlite import SqliteStore
calls, when = 0, sys.argv[2]
def kill_in(put):
    def counted(*given, **more):
        global calls
        calls += 1
        if calls == int(sys.argv[1]) and when == "before": os.kill(os.getpid(), signal.SIGKILL)
        done = put(*given, **more)
        if calls == int(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)
        return done
    return counted
SqliteStore.put_in_order = kill_in(SqliteStore.put_in_order)
from ciliumipam.cni import plugin
plugin.main()
"""


@pytest.mark.parametrize("when", ["before", "after"])
def test_the_next_add_goes_on_where_one_was_killed_that_adopted_blocks(program: Path, tmp_path: Path, when: str) -> None:
    half_done = 0
    for number in range(1, 20):
        store = tmp_path / f"{number}.db"
        config = network(store, blocks=["10.7.1.0/24", "10.7.2.0/24", "fd07:1::/64"])
        done = subprocess.run(
            [sys.executable, "-c", KILLED, str(number), when], input=json.dumps(config), env=os.environ | environment("ADD"),
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        if store.exists():
            with SqliteStore(store) as opened:
                half_done += bool(Ipam(opened).pools()) and not Ipam(opened).blocks()
        assert addresses(call(program, "ADD", config, "other"))[1].startswith("fd07:1::")
        with SqliteStore(store) as opened:
            assert {str(each.prefix) for each in Ipam(opened).blocks()} == {"10.7.1.0/24", "10.7.2.0/24", "fd07:1::/64"}
        assert addresses(call(program, "ADD", config))[1].startswith("fd07:1::")
        assert {"pods/c1/eth0", "pods/other/eth0"} <= set(held(store))
        if done.returncode == 0:
            break
    else:
        pytest.fail("it never came to its end")
    assert half_done, "none was killed between the pool and its blocks"


class Clock:
    """The time of the agent's machine, so that a confirmation can be an old one."""

    def __init__(self) -> None:
        self.boot, self.ago = "", 0.0

    def moment(self) -> Moment:
        now = this_moment()
        return Moment(self.boot or now.boot, now.seconds - self.ago)


@pytest.mark.skipif(not this_moment().boot, reason="this system has no boot id, so no lease ever holds here")
@pytest.mark.parametrize(("boot", "ago", "words"), [("", 3600.0, "was last confirmed 36"), ("another-boot", 0.0, "the machine was started since")])
def test_without_a_lease_that_holds_nothing_new_is_given_and_what_is_held_goes_away(
    program: Path, store: Path, tmp_path: Path, boot: str, ago: float, words: str
) -> None:
    clock = Clock()
    pool = PoolSpec(name="p", cidrs=["10.8.0.0/16"], selector=NodeSelector.everything(), block_length_v4=28)
    with SqliteStore(tmp_path / "shared.db") as shared, SqliteStore(store) as own:
        Ipam(shared).apply([pool])
        terms = Terms(stop_after=600, return_after=3600, timeout=30)
        agent = NodeAgent(LedgerSource(shared, Node("n1"), terms), own, "n1", moment=clock.moment)

        def confirm(boot: str, ago: float) -> None:
            clock.boot, clock.ago = boot, ago
            while agent.round().changed:
                pass

        confirm("", 0.0)
        config = network(store, node="n1")
        results = {each: call(program, "ADD", config, each) for each in ("a", "b", "c")}
        assert [addresses(each) for each in results.values()] == [["10.8.0.2/28"], ["10.8.0.3/28"], ["10.8.0.4/28"]]
        assert call(program, "STATUS", config).code == 0

        confirm(boot, ago)
        refused(call(program, "ADD", config, "new"), 11, "may not rely on its blocks", words, "ciliumipam agent")
        refused(call(program, "ADD", config, "new", arguments="IP=10.8.0.9"), 11, words)
        refused(call(program, "ADD", config, "a"), 11, words)
        refused(call(program, "STATUS", config), 51, words)
        assert call(program, "CHECK", config | {"prevResult": results["a"].said}, "a") == Answer(0, None, "")
        assert call(program, "DEL", config, "b") == Answer(0, None, "")
        assert set(held(store)) == {"gateway:10.8.0.0/28", "pods/a/eth0", "pods/c/eth0"}
        valid = [{"containerID": "a", "ifname": "eth0"}]
        assert call(program, "GC", config | {"cni.dev/valid-attachments": valid}) == Answer(0, None, "")
        assert set(held(store)) == {"gateway:10.8.0.0/28", "pods/a/eth0"}

        confirm("", 0.0)
        assert call(program, "STATUS", config).code == 0
        assert addresses(call(program, "ADD", config, "new")) == ["10.8.0.5/28"]


# --------------------------------------------------------------------------------------------------- DEL, GC, CHECK, STATUS


def test_del_is_happy_when_nothing_is_there_and_makes_no_store(program: Path, store: Path) -> None:
    assert call(program, "DEL", network(store)) == Answer(0, None, "")
    assert not store.exists()
    call(program, "ADD", network(store))
    for _ in range(2):
        assert call(program, "DEL", network(store, routes="a slip", odd=1)) == Answer(0, None, "")
    assert "pods/c1/eth0" not in held(store)
    assert call(program, "DEL", network(store), CNI_NETNS="") == Answer(0, None, "")


def test_gc_frees_what_is_not_valid_and_only_of_this_network(program: Path, store: Path) -> None:
    for name in ("pods", "pods2"):
        for container in ("a", "b", "c"):
            call(program, "ADD", network(store, name=name), container)
    valid = [{"containerID": "a", "ifname": "eth0"}, {"containerID": "b", "ifname": "eth1"}, {"containerID": "gone", "ifname": "eth0"}]
    assert call(program, "GC", network(store) | {"cni.dev/valid-attachments": valid}) == Answer(0, None, "")
    others = {"gateway:10.7.1.0/24", "gateway:fd07:1::/64", "pods2/a/eth0", "pods2/b/eth0", "pods2/c/eth0"}
    assert set(held(store)) == others | {"pods/a/eth0"}
    assert call(program, "GC", network(store) | {"cni.dev/valid-attachments": None}) == Answer(0, None, "")
    assert set(held(store)) == others


def test_gc_that_does_not_say_what_is_valid_frees_nothing(program: Path, store: Path) -> None:
    call(program, "ADD", network(store))
    refused(call(program, "GC", network(store)), 7, "cni.dev/valid-attachments", "nothing was released")
    assert "pods/c1/eth0" in held(store)


def test_check_compares_what_is_held_with_the_result(program: Path, store: Path) -> None:
    config = network(store)
    result = call(program, "ADD", config).said
    assert call(program, "CHECK", config | {"prevResult": result}) == Answer(0, None, "")
    refused(call(program, "CHECK", config), 7, "prevResult")
    wrong = result | {"ips": [{"address": "10.7.1.9/24"}, result["ips"][1]]}
    refused(call(program, "CHECK", config | {"prevResult": wrong}), 101, "10.7.1.9")
    refused(call(program, "CHECK", config | {"prevResult": result | {"ips": result["ips"][:1]}}), 101, "fd07:1::2")
    with SqliteStore(store) as opened:
        Ipam(opened).force_release("fd07:1::2")
    refused(call(program, "CHECK", config | {"prevResult": result}), 101, "does not hold fd07:1::2; it holds 10.7.1.2")
    call(program, "DEL", config)
    refused(call(program, "CHECK", config | {"prevResult": result}), 101, "10.7.1.2")


def test_status_writes_nothing_and_says_when_the_node_is_full(program: Path, store: Path) -> None:
    config = network(store, blocks=["10.7.1.0/29"])
    for container in range(5):
        assert call(program, "STATUS", config) == Answer(0, None, "")
        call(program, "ADD", config, f"c{container}")
    refused(call(program, "STATUS", config), 50, "no address is left", "10.7.1.0/29")
    call(program, "DEL", config)
    before = held(store)
    assert call(program, "STATUS", config) == Answer(0, None, "")
    assert held(store) == before


def test_in_the_list_of_plugins_it_acts_only_for_gc_and_status(program: Path, store: Path) -> None:
    config = network(store) | {"type": "ciliumipam-cni"}
    call(program, "ADD", network(store))
    result = {"cniVersion": "1.1.0", "interfaces": [{"name": "eth0"}], "ips": [], "dns": {}}
    assert call(program, "ADD", config | {"prevResult": result}) == Answer(0, result, "")
    refused(call(program, "ADD", config), 7, "makes no interfaces")
    assert call(program, "DEL", config | {"prevResult": result}) == Answer(0, None, "")
    assert "pods/c1/eth0" in held(store)
    assert call(program, "GC", config | {"cni.dev/valid-attachments": []}).code == 0
    assert "pods/c1/eth0" not in held(store)


# ----------------------------------------------------------------------------------------------------- versions and errors


def test_version_says_which_versions_are_spoken(program: Path) -> None:
    said = {"cniVersion": "0.4.0", "supportedVersions": ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]}
    assert call(program, "VERSION", {"cniVersion": "0.4.0"}) == Answer(0, said, "")
    assert call(program, "VERSION", "").said["cniVersion"] == "1.1.0"


@pytest.mark.parametrize(
    ("command", "version", "code"),
    [("ADD", "0.2.0", 1), ("ADD", None, 1), ("ADD", 7, 1), ("CHECK", "0.3.1", 1), ("GC", "1.0.0", 1), ("STATUS", "1.0.0", 1)],
)
def test_a_version_in_which_a_command_is_not_is_code_1(program: Path, store: Path, command: str, version: Any, code: int) -> None:
    config = network(store)
    config["cniVersion"] = version
    if version is None:
        del config["cniVersion"]
    refused(call(program, command, config), code, "version" if command == "ADD" else command)


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ({"store": "kubernetes:"}, 7, ("ipam.store", "sqlite:/var/lib")),
        ({"store": "sqlite:here.db"}, 7, ("ipam.store", "absolute")),
        ({"node": "n"}, 7, ("either 'node'", "'blocks'")),
        ({"blocks": []}, 7, ("ipam.blocks", "empty")),
        ({"blocks": ["10.7.1.1/24"]}, 7, ("ipam.blocks[0]", "10.7.1.0/24")),
        ({"blocks": ["10.7.0.0/16", "10.7.1.0/24"]}, 7, ("10.7.1.0/24",)),
        ({"blocks": "10.7.1.0/24"}, 7, ("ipam.blocks", "a list")),
        ({"reserved": ["10.9.0.1"]}, 7, ("10.9.0.1",)),
        ({"gateway": "10.7.1.300"}, 7, ("ipam.gateway", "10.7.1.300")),
        ({"gateway": ["10.7.1.1", "10.7.1.2"]}, 7, ("one address of each family",)),
        ({"gatway": "10.7.1.1"}, 2, ("ipam.gatway", '"10.7.1.1"', "did you mean 'gateway'")),
        ({"routes": [{"dst": "10.0.0.1/8"}]}, 7, ("ipam.routes[0].dst", "10.0.0.0/8")),
        ({"routes": [{"dst": "0.0.0.0/0", "via": "x"}]}, 2, ("ipam.routes[0].via", '"x"')),
        ({"routes": [{"dst": "0.0.0.0/0", "mtu": -1}]}, 7, ("ipam.routes[0].mtu",)),
        ({"dns": {"nameserver": "x"}}, 2, ("ipam.dns.nameserver", "nameservers")),
        ({"dns": {}, "resolvConf": "/x"}, 7, ("either 'dns' or 'resolvConf'",)),
        ({"deadlineSeconds": 0}, 7, ("ipam.deadlineSeconds",)),
        ({"deadlineSeconds": True}, 7, ("ipam.deadlineSeconds",)),
    ],
)
def test_what_is_wrong_with_a_configuration_is_named(program: Path, store: Path, change: dict[str, Any], code: int, words: tuple[str, ...]) -> None:
    config = network(store)
    config["ipam"].update(change)
    refused(call(program, "ADD", config), code, *words)
    assert not store.exists() or held(store) == {}


def test_the_rest_of_what_can_be_wrong_has_its_code(program: Path, store: Path) -> None:
    config = network(store)
    refused(call(program, "ADD", "{"), 6, "not JSON")
    refused(call(program, "ADD", "[]"), 6, "a list")
    refused(call(program, "ADD", config | {"name": "a/b"}), 7, "name", "a/b")
    refused(call(program, "ADD", config | {"ipam": None}), 7, "ipam")
    refused(call(program, "ADD", config | {"runtimeConfig": {"ipRanges": []}}), 2, "runtimeConfig.ipRanges")
    refused(call(program, "ADD", config | {"runtimeConfig": {"ips": ["x"]}}), 7, "runtimeConfig.ips")
    refused(call(program, "FROB", config), 4, "CNI_COMMAND", "FROB")
    refused(call(program, "ADD", config, container="../x"), 4, "CNI_CONTAINERID")
    refused(call(program, "ADD", config, interface="much-too-long-a-name"), 4, "CNI_IFNAME")
    refused(call(program, "ADD", config, CNI_NETNS=""), 4, "CNI_NETNS")
    refused(call(program, "ADD", config, arguments="ODD=1"), 4, "CNI_ARGS", "ODD")
    refused(call(program, "ADD", config, arguments="IP=x"), 4, "CNI_ARGS", "IP")
    refused(call(program, "ADD", config, arguments="=;x"), 4, "CNI_ARGS")
    store.write_text("no database, but longer than the smallest one " * 20)
    refused(call(program, "ADD", config), 102, str(store))


def test_an_error_is_an_object_in_the_version_of_the_call(program: Path, store: Path) -> None:
    said = call(program, "ADD", network(store, version="0.3.1", odd=1)).said
    assert said["cniVersion"] == "0.3.1"
    assert sorted(said) == ["cniVersion", "code", "details", "msg"]


# ------------------------------------------------------------------------------------------------------- time and process


def test_a_call_ends_at_its_deadline_though_the_store_is_locked(program: Path, store: Path) -> None:
    config = network(store, deadlineSeconds=1)
    call(program, "ADD", config, "before")
    lock = sqlite3.connect(store, isolation_level=None)
    lock.execute("BEGIN EXCLUSIVE")
    answer = call(program, "ADD", config)
    lock.execute("ROLLBACK")
    lock.close()
    refused(answer, 11)
    assert addresses(call(program, "ADD", config)) == ["10.7.1.3/24", "fd07:1::3/64"]


def test_a_call_ends_at_its_deadline_though_nothing_else_goes_on(store: Path) -> None:
    code = (
        "import os, time; from ciliumipam.cni import plugin, config\n"
        "plugin._add = lambda *given: time.sleep(20)\n"  # a system call that does not come back in time
        "plugin.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        input=json.dumps(network(store, deadlineSeconds=0.5)), env=os.environ | environment("ADD"), capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1, "it ended at its deadline and not when the system call came back"
    assert json.loads(done.stdout)["code"] == 11
    assert "0.5" in json.loads(done.stdout)["details"]


def test_a_fault_of_ours_is_an_error_object_and_its_trace_is_on_standard_error(store: Path) -> None:
    code = "from ciliumipam.cni import plugin\ndef broken(*given): print('noise'); raise KeyError('oops')\nplugin._add = broken\nplugin.main()"
    done = subprocess.run(
        [sys.executable, "-c", code], input=json.dumps(network(store)), env=os.environ | environment("ADD"), capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, json.loads(done.stdout)["code"]) == (1, 999)
    assert "noise" in done.stderr
    assert "oops" in done.stderr


def test_a_call_loads_nothing_that_it_does_not_need(program: Path, store: Path) -> None:
    lines = script().splitlines()
    told = f"import os; end = os._exit; os._exit = lambda code: (os.write(2, '\\n'.join(sys.modules).encode()), end(code))\n{lines[-1]}"
    code = "\n".join(["import sys", *(each for each in lines if each.startswith(("sys.path", "from "))), told])
    for command in ("ADD", "DEL", "STATUS"):
        call(program, "ADD", network(store), "before")
        done = subprocess.run(
            [sys.executable, "-IS", "-c", code], input=json.dumps(network(store)), env=environment(command), capture_output=True, text=True, timeout=60, check=False
        )
        loaded = set(done.stderr.split())
        assert "ciliumipam.one_shot" in loaded
        packages = {".".join(each.split(".")[:2]) if each.startswith("ciliumipam.") else each.split(".")[0] for each in loaded}
        assert packages & {
            "argparse", "asyncio", "ciliumipam.cli", "ciliumipam.kubernetes", "ciliumipam.manifest", "ciliumipam.testing", "hypothesis", "http",
            "lightkube", "logging", "netaddr", "pathlib", "pytest", "site", "socket", "subprocess", "tabulate", "urllib", "yaml",
        } == set()  # fmt: skip


def test_a_thousand_adds_at_once_of_which_some_are_killed_give_nothing_twice_and_gc_leaves_no_leak(program: Path, store: Path) -> None:
    config = network(store, blocks=["10.7.0.0/20", "fd07:1::/64"])
    call(program, "STATUS", config)

    def runtime(n: int) -> dict[str, Any]:
        command = [sys.executable, "-m", "tests.cni_runtime", str(program), json.dumps(config), str(n), "1000", "16"]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True, timeout=280, check=True)
        return dict(json.loads(done.stdout))

    with ThreadPoolExecutor(16) as pool:
        told = {int(n): each for some in pool.map(runtime, range(16)) for n, each in some.items()}
    assert sorted(told) == list(range(1000))
    for each in told.values():
        assert each["said"] is not None or (each["doomed"] and each["killed"]), each
    answered = {n: addresses(Answer(0, each["said"], "")) for n, each in told.items() if each["said"] is not None}
    given = [each for some in answered.values() for each in some]
    assert len(given) == len(set(given)) == 2 * len(answered), "no address was told twice"
    now = held(store)
    for n, some in answered.items():
        assert sorted(now.get(f"pods/c{n}/eth0", [])) == sorted(each.partition("/")[0] for each in some), "what was told is held"

    kept = [n for n in answered if n % 50]  # the others went while the runtime was down
    valid = [{"containerID": f"c{n}", "ifname": "eth0"} for n in kept]
    assert call(program, "GC", config | {"cni.dev/valid-attachments": valid}).code == 0
    left = {owner for owner in held(store) if not owner.startswith("gateway:")}
    assert left == {f"pods/c{n}/eth0" for n in kept}, "what was killed has left nothing"


# -------------------------------------------------------------------------------------------------------------- installing


def test_what_is_not_ours_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "ciliumipam-cni").write_text("somebody's\n")
    with pytest.raises(InvalidRequestError, match=r"was not written by 'ciliumipam-cni install'"):
        install(tmp_path)
    with pytest.raises(InvalidRequestError, match="is no directory"):
        install(tmp_path / "nowhere")
    assert install(tmp_path, "other").startswith(f"wrote {tmp_path}/other: ")
    assert install(tmp_path, "other").startswith(f"replaced {tmp_path}/other: ")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["ciliumipam-cni", "other"]
    assert (tmp_path / "ciliumipam-cni").read_text() == "somebody's\n"


def test_an_interpreter_in_a_folder_with_a_space_is_no_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "it's a folder"
    folder.mkdir()
    (folder / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))
    assert '"supportedVersions"' in install(tmp_path)


def test_a_module_in_the_folder_of_the_caller_is_not_loaded(program: Path, store: Path, tmp_path: Path) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong json')\n")
    env = environment("ADD") | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run([program], input=json.dumps(network(store)), env=env, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")

