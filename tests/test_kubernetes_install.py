"""`ciliumipam crds --install`, `ciliumipam deploy`, and what each of the accounts may do, on a real API server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

from ciliumipam.cli.main import main
from ciliumipam.cli.parser import build_parser
from ciliumipam.cli.yaml_input import parse_yaml
from ciliumipam.demand import Demand
from ciliumipam.errors import StoreRefusedError
from ciliumipam.kubernetes.api import Api, Resource
from ciliumipam.kubernetes.cilium_crds import PAIR
from ciliumipam.kubernetes.crds import CIDR_LEDGER, CIDR_POOL, MANAGED
from ciliumipam.kubernetes.deploy import manifests
from ciliumipam.kubernetes.guard import CILIUM_NODES
from ciliumipam.kubernetes.install import DEFINITIONS, OURS, Installed, install
from ciliumipam.kubernetes.kubeconfig import Chosen
from ciliumipam.kubernetes.lease import Lease
from ciliumipam.kubernetes.lightkube_transport import LightkubeTransport
from ciliumipam.kubernetes.node_sources import CiliumNodeSource
from ciliumipam.kubernetes.objects import LEDGERS, POOLS
from ciliumipam.kubernetes.operator import Operator
from ciliumipam.kubernetes.promises import BLOCKS
from ciliumipam.kubernetes.promises import LEASE as LEASE_NOTE
from ciliumipam.kubernetes.rbac import BOUND, GRANTS, LEASE, Grant, roles
from ciliumipam.kubernetes.service import OperatorService
from ciliumipam.kubernetes.transport import Refusal, Response
from ciliumipam.testing.control_plane import Binaries, ControlPlane, KubectlError, ScratchControlPlane

Talk = Callable[[str], LightkubeTransport]
HERE = "rbac-test"


def talker(plane: ControlPlane, opened: list[LightkubeTransport]) -> Talk:
    """Makes connections as somebody in whose name the admin asks; as the admin for ""."""

    def talk(user: str) -> LightkubeTransport:
        access = {"token": plane.tokens["admin"]} | ({"as": user} if user else {})
        cluster = {"server": plane.url, "certificate-authority": str(plane.certificate)}
        opened.append(LightkubeTransport(Chosen("test", plane.kubeconfig, cluster, access)))
        return opened[-1]

    return talk


@pytest.fixture(scope="module")
def talk(control_plane: ControlPlane) -> Iterator[Talk]:
    opened: list[LightkubeTransport] = []
    yield cache(talker(control_plane, opened))
    for each in opened:
        each.close()


@pytest.fixture(scope="module")
def empty(server_binaries: Binaries, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScratchControlPlane]:
    """A control plane of its own, since the others share definitions that are taken away here."""
    with ScratchControlPlane(tmp_path_factory.mktemp("empty"), server_binaries) as plane:
        yield plane


def names(*definitions: dict[str, Any]) -> list[str]:
    return [each["metadata"]["name"] for each in definitions]


# ------------------------------------------------------------------------------------------------------ install


def test_definitions_are_installed_updated_and_left_alone(
    empty: ScratchControlPlane, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KUBECONFIG", str(empty.kubeconfig))
    opened: list[LightkubeTransport] = []
    transport = talker(empty, opened)("")
    api = Api(transport)
    pool, ledger, config, node = names(*OURS, *PAIR)

    # Nothing of ours without the definitions, and the error says what to do.
    with pytest.raises(StoreRefusedError, match="ciliumipam crds --install"):
        api.get(POOLS, "green")

    # A cluster with Cilium: its node is there, so neither of the pair is installed.
    theirs = deepcopy(PAIR[1]) | {"metadata": {"name": node, "labels": {"io.cilium.k8s.crd.schema.version": "1.31.11"}}}
    assert transport.request("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", body=theirs).status == 201
    before = empty.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{node}")[1]["metadata"]["uid"]
    assert main(["crds", "--install"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"{pool}: installed",
        f"{ledger}: installed",
        f"{config}: left alone, since the cluster has {node} of somebody else; it is not there either, and whoever brought that one brings it",
        f"{node}: left alone, since it was not installed by ciliumipam",
    ]
    found = empty.get(f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{node}")[1]
    assert (found["metadata"]["uid"], found["metadata"]["labels"]) == (before, theirs["metadata"]["labels"])

    # What was installed is served at once, to kubectl as well.
    manifest = {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": "green"}}
    spec = {"cidrs": ["10.0.0.0/16"], "nodeSelector": {}}
    assert empty.kubectl("apply", "-f", "-", input=json.dumps(manifest | {"spec": spec})) == "cidrpool.ciliumipam.io/green created\n"

    # An older form of ours is brought up to date, and pools stay.
    old = api.get(DEFINITIONS, pool)
    assert old is not None
    old["spec"]["versions"][0]["additionalPrinterColumns"] = []
    old["metadata"]["annotations"] = {"kept": "yes"}
    api.replace(DEFINITIONS, old)
    assert [*install(transport, cilium=False)] == [Installed(pool, "updated"), Installed(ledger, "unchanged")]
    new = api.get(DEFINITIONS, pool)
    assert new is not None
    assert new["spec"]["versions"][0]["additionalPrinterColumns"] == CIDR_POOL["spec"]["versions"][0]["additionalPrinterColumns"]
    assert new["metadata"]["annotations"] == {"kept": "yes"}
    assert api.get(POOLS, "green") is not None

    # Without the label it is somebody else's, and the exit code says that we cannot do what was asked.
    empty.kubectl("label", "crd", pool, f"{next(iter(MANAGED))}-")
    assert main(["crds", "--install", "--no-cilium", "-o", "json"]) == 3
    assert json.loads(capsys.readouterr().out) == {
        "items": [
            {"name": pool, "outcome": "left alone", "reason": "it was not installed by ciliumipam"},
            {"name": ledger, "outcome": "unchanged", "reason": ""},
        ]
    }

    # A cluster without Cilium.
    empty.kubectl("delete", "crd", pool, ledger, node)
    assert [each.outcome for each in install(transport)] == ["installed"] * 4
    assert [each.outcome for each in install(transport)] == ["unchanged"] * 4
    seed = Path(__file__).parent.parent / "docs" / "examples" / "seed" / "node-1-ipam-config.yaml"
    assert empty.kubectl("apply", "-f", str(seed)) == "ciliumnodeconfig.cilium.io/node-1-ipam-config created\n"

    # Names that another definition of the group has already.
    empty.kubectl("delete", "crd", pool)
    other = deepcopy(CIDR_POOL)
    other["metadata"]["name"] = "others.ciliumipam.io"
    other["spec"]["names"] |= {"plural": "others", "singular": "other", "kind": "Other", "listKind": "OtherList"}
    api.create(DEFINITIONS, other)
    empty.kubectl("wait", "--for=condition=Established", "crd/others.ciliumipam.io")
    with pytest.raises(StoreRefusedError, match=r'its names are taken: "cpool" is already in use'):
        [*install(transport, cilium=False, deadline=20)]
    transport.close()


def test_who_may_not_install_is_told_which_right_lacks(talk: Talk) -> None:
    with pytest.raises(StoreRefusedError, match=r'resources: \["customresourcedefinitions"\], verbs: \["get"\]'):
        [*install(talk("nobody"))]


# -------------------------------------------------------------------------------------------------- the command


def test_the_command_prints_the_definitions_that_are_safe_to_apply_beside_cilium(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["crds"]) == 0
    printed = [document for _, document in parse_yaml("crds", capsys.readouterr().out)]
    assert printed == [CIDR_POOL, CIDR_LEDGER]

    assert main(["crds", "--cilium", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"apiVersion": "v1", "kind": "List", "items": [*OURS, *PAIR]}

    assert main(["crds", "-o", "jsonpath={.items[*].spec.names.kind}"]) == 0
    assert capsys.readouterr().out == "CIDRPool CIDRLedger"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["crds", "--store", "kubernetes:"], "--store goes with --install; without it the definitions are printed"),
        (["crds", "--install", "--store", "sqlite:x.db"], "--store 'sqlite:x.db' is no cluster; write kubernetes:[CONTEXT]"),
        (["deploy", "--image", "x", "--", "--write-to=pod"], "argument --write-to: invalid choice: 'pod'"),
        (["deploy", "--image", "x", "--namespace", "A"], "'A' is not a valid namespace: allowed are lower-case letters"),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert sentence in capsys.readouterr().err


def test_the_server_takes_the_manifests_of_the_operator(control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--image", "registry.example.com/ciliumipam:1", "--namespace", "default", "--", "--write-to=node"]) == 0
    printed = capsys.readouterr().out

    told = control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=printed).splitlines()

    assert [line.partition(" ")[0] for line in told] == [
        "namespace/default",
        "serviceaccount/ciliumipam-operator",
        "serviceaccount/ciliumipam-checker",
        "clusterrole.rbac.authorization.k8s.io/ciliumipam-operator",
        "clusterrolebinding.rbac.authorization.k8s.io/ciliumipam-operator",
        "role.rbac.authorization.k8s.io/ciliumipam-operator",
        "rolebinding.rbac.authorization.k8s.io/ciliumipam-operator",
        "clusterrole.rbac.authorization.k8s.io/ciliumipam-checker",
        "clusterrolebinding.rbac.authorization.k8s.io/ciliumipam-checker",
        "role.rbac.authorization.k8s.io/ciliumipam-checker",
        "rolebinding.rbac.authorization.k8s.io/ciliumipam-checker",
        "clusterrole.rbac.authorization.k8s.io/ciliumipam-admin",
        "clusterrole.rbac.authorization.k8s.io/ciliumipam-installer",
        "deployment.apps/ciliumipam-operator",
        "poddisruptionbudget.policy/ciliumipam-operator",
    ]
    assert all(line.endswith("(server dry run)") for line in told)
    deployment = next(document for _, document in parse_yaml("printed", printed) if document["kind"] == "Deployment")  # type: ignore[index]  # a manifest
    assert deployment["spec"]["template"]["spec"]["containers"][0]["args"][-1] == "--write-to=node"  # type: ignore[index]  # a manifest


def test_the_server_takes_the_manifests_of_agents_too(control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["deploy", "--image", "x", "--namespace", "default", "--agents"]) == 0
    printed = capsys.readouterr().out

    told = control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=printed).splitlines()

    assert [line.partition(" ")[0] for line in told if "ciliumipam-agent" in line] == [
        "serviceaccount/ciliumipam-agent",
        "clusterrole.rbac.authorization.k8s.io/ciliumipam-agent",
        "clusterrolebinding.rbac.authorization.k8s.io/ciliumipam-agent",
        "daemonset.apps/ciliumipam-agent",
    ]
    found = {document["kind"]: document["spec"]["template"]["spec"] for _, document in parse_yaml("printed", printed) if document["kind"] in ("Deployment", "DaemonSet")}  # type: ignore[index]  # manifests
    assert found["Deployment"]["containers"][0]["args"][-2:] == ["--stop-after=60", "--grace=150"]
    (agent,) = found["DaemonSet"]["containers"]
    for arguments in (found["Deployment"]["containers"][0]["args"], [each.replace("$(NODE)", "n1") for each in agent["args"]]):
        build_parser().parse_args(arguments)


@pytest.mark.parametrize(
    ("options", "operator", "agent"),
    [
        (["--write-to=node"], ["--write-to=node", "--stop-after=60", "--grace=150"], ["--write-to=node", "--stop-after=60"]),
        (["--stop-after=10", "--grace=50"], ["--stop-after=10", "--grace=50"], []),
    ],
)
def test_agents_are_deployed_as_the_options_of_the_operator_say(
    options: list[str], operator: list[str], agent: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "--image", "x", "-o", "json", "--agents", "--", *options]) == 0
    items = {each["kind"]: each for each in json.loads(capsys.readouterr().out)["items"]}
    (ours,) = items["Deployment"]["spec"]["template"]["spec"]["containers"]
    (theirs,) = items["DaemonSet"]["spec"]["template"]["spec"]["containers"]

    assert ours["args"][3:] == operator
    assert theirs["args"][6:] == agent
    assert main(["deploy", "--image", "x", "--agents", "--", "--grace=149"]) == 2
    assert "it has to be at least 150 s" in capsys.readouterr().err


def test_the_operator_may_read_the_kinds_of_pools_that_its_options_name(capsys: pytest.CaptureFixture[str]) -> None:
    for options, expected in (([], set()), (["--", "--pools-from=CIDRPool", "--pools-from=ClusterCIDR"], {"clustercidrs"})):
        assert main(["deploy", "--image", "x", "-o", "json", *options]) == 0
        items = json.loads(capsys.readouterr().out)["items"]
        role = next(each for each in items if each["kind"] == "ClusterRole" and each["metadata"]["name"] == "ciliumipam-operator")
        known = {name for grant in GRANTS["operator"] for name in grant.resources}
        assert {name for rule in role["rules"] for name in rule["resources"]} - known == expected


def test_a_fault_in_the_manifests_would_be_found(control_plane: ControlPlane) -> None:
    objects = manifests("x", "default")
    objects[-2]["spec"]["template"]["spec"]["hostNetworks"] = True

    with pytest.raises(KubectlError, match=r'unknown field "(spec.template.spec.)?hostNetworks"'):
        control_plane.kubectl(
            *("apply", "--dry-run=server", "--validate=strict", "-f", "-"),
            input=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects}),
        )


def test_a_service_monitor_selects_the_service_that_comes_with_it(control_plane: ControlPlane) -> None:
    *others, service, monitor = manifests("x", "default", service_monitor=True)

    assert others == manifests("x", "default")
    assert (service["kind"], monitor["apiVersion"], monitor["kind"]) == ("Service", "monitoring.coreos.com/v1", "ServiceMonitor")
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert selected <= service["metadata"]["labels"].items()
    assert monitor["spec"]["endpoints"][0]["port"] == service["spec"]["ports"][0]["name"]
    pod = next(each for each in others if each["kind"] == "Deployment")["spec"]["template"]
    assert service["spec"]["selector"].items() <= pod["metadata"]["labels"].items()
    control_plane.kubectl("apply", "--dry-run=server", "--validate=strict", "-f", "-", input=json.dumps(service))


# --------------------------------------------------------------------------------------------------------- RBAC


VERSIONS = {
    "ciliumipam.io": "v1alpha1",
    "cilium.io": "v2",
    "events.k8s.io": "v1",
    "coordination.k8s.io": "v1",
    "apiextensions.k8s.io": "v1",
}
NAMESPACED = {"events": "default", "ciliumnodeconfigs": "default"}


def request_of(grant: Grant, resource: str, verb: str) -> tuple[str, str, dict[str, str], Any]:
    """A call that a grant allows: method, path, query and body. It changes nothing."""
    plural, _, subresource = resource.partition("/")
    group = f"/apis/{grant.group}/{VERSIONS[grant.group]}" if grant.group else "/api/v1"
    place = HERE if grant.namespace == "." else grant.namespace or NAMESPACED.get(plural, "")
    path = f"{group}{f'/namespaces/{place}' if place else ''}/{plural}"
    name = grant.names[0] if grant.names else "rbac-test"
    one = f"{path}/{name}{f'/{subresource}' if subresource else ''}"
    return {
        "get": ("GET", one, {}, None),
        "list": ("GET", path, {"limit": "1"}, None),
        "watch": ("GET", path, {"watch": "true", "resourceVersionMatch": "Exact"}, None),  # not valid, so it ends at once
        "create": ("POST", path, {"dryRun": "All"}, {"metadata": {"name": name}}),
        "update": ("PUT", one, {"dryRun": "All"}, {"metadata": {"name": name}}),
        "patch": ("PATCH", one, {"dryRun": "All"}, {}),
        "delete": ("DELETE", one, {"dryRun": "All"}, None),
    }[verb]


def test_every_rule_allows_what_it_says_and_without_it_just_that_is_refused(talk: Talk) -> None:
    """Authorization comes before anything else: whatever is not 403 was allowed, be it that there is no such object."""
    admin = talk("")
    [*install(admin)]
    items: list[dict[str, Any]] = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": HERE}}]
    try:
        lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": {"name": LEASE, "namespace": HERE}}
        items.append(lease)  # to update what is not there is to create it
        for account, grants in GRANTS.items():
            items += bound_to(f"rbac-{account}", grants)
            for number, left_out in enumerate(grants):
                items += bound_to(f"rbac-{account}-{number}", [each for each in grants if each is not left_out])
        for item in items:
            answer = admin.request("POST", path_of(item), query={"fieldValidation": "Strict"}, body=item)
            assert answer.status == 201, answer

        for account, grants in GRANTS.items():
            for number, grant in enumerate(grants):
                others = [each for each in grants if each is not grant]
                refused = 0
                for resource in grant.resources:
                    for verb in grant.verbs:
                        ask(talk, f"rbac-{account}", grant, resource, verb, allowed=True)
                        still = any(covers(each, grant, resource, verb) for each in others)
                        ask(talk, f"rbac-{account}-{number}", grant, resource, verb, allowed=still)
                        refused += not still
                assert refused, f"the rule {number} of {account} is there for nothing"
    finally:
        for item in reversed(items):
            admin.request("DELETE", f"{path_of(item)}/{item['metadata']['name']}")


def path_of(item: dict[str, Any]) -> str:
    place = f"/namespaces/{item['metadata']['namespace']}" if "namespace" in item["metadata"] else ""
    root = f"/apis/{item['apiVersion']}" if "/" in item["apiVersion"] else f"/api/{item['apiVersion']}"
    return f"{root}{place}/{item['kind'].lower()}s"


def covers(grant: Grant, asked: Grant, resource: str, verb: str) -> bool:
    return (
        grant.group == asked.group
        and resource in grant.resources
        and verb in grant.verbs
        and grant.namespace in ("", asked.namespace)
        and (not grant.names or grant.names == asked.names)
    )


def bound_to(user: str, grants: Iterable[Grant]) -> Iterator[dict[str, Any]]:
    """The roles as they are printed, under names of their own and bound to a user."""
    printed = [each for each in roles("operator", HERE, grants) if not each["kind"].endswith("Binding")]
    for role in printed:
        metadata = role["metadata"] | {"name": user, "labels": {}}
        yield role | {"metadata": metadata}
        yield {
            "apiVersion": role["apiVersion"],
            "kind": f"{role['kind']}Binding",
            "metadata": metadata,
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role["kind"], "name": user},
            "subjects": [{"kind": "User", "apiGroup": "rbac.authorization.k8s.io", "name": user}],
        }


def ask(talk: Talk, user: str, grant: Grant, resource: str, verb: str, *, allowed: bool) -> None:
    method, path, query, body = request_of(grant, resource, verb)
    transport = talk(user)
    content_type = "application/merge-patch+json" if verb == "patch" else "application/json"
    # the server learns of new roles a moment after they were written
    statuses = (transport.request(method, path, query=query, body=body, content_type=content_type).status for _ in range(500))
    assert any((status != 403) == allowed for status in statuses), f"{user}: {verb} {resource}"


class Noting:
    """A transport that keeps what was forbidden."""

    def __init__(self, inner: LightkubeTransport) -> None:
        self.inner = inner
        self.forbidden: list[str] = []

    def request(self, method: str, path: str, **options: Any) -> Response:
        answer = self.inner.request(method, path, **options)
        if answer.status == 403:
            self.forbidden.append(f"{method} {path}: {answer.body}")
        return answer

    def stream(self, path: str, **options: Any) -> Any:
        try:
            return self.inner.stream(path, **options)
        except Refusal as refusal:
            self.forbidden += [path] if refusal.response.status == 403 else []
            raise

    def close(self) -> None:
        self.inner.close()


def wait_for(what: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("write_to", ["cilium", "node"])
def test_with_its_own_rights_the_operator_gives_and_takes_back_and_the_checker_checks(
    empty: ScratchControlPlane,
    write_to: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    opened: list[LightkubeTransport] = []
    talk = talker(empty, opened)
    admin = Api(talk(""))
    empty.kubectl("delete", "crd", "--ignore-not-found", "others.ciliumipam.io")
    [*install(talk(""))]
    place, name, kind = f"run-{write_to}", f"{write_to}-1", Resource("", "v1", "nodes", "Node")
    manifest = {"apiVersion": "v1", "kind": "List", "items": manifests("x", place)}
    empty.kubectl("apply", "-f", "-", input=json.dumps(manifest))
    cidr = "10.9.0.0/24" if write_to == "cilium" else "10.9.1.0/24"
    pool = {"cidrs": [cidr], "nodeSelector": {"matchLabels": {"for": name}}}
    admin.create(POOLS, {"apiVersion": "ciliumipam.io/v1alpha1", "kind": "CIDRPool", "metadata": {"name": name}, "spec": pool})
    metadata = {"name": name, "labels": {"for": name}}
    resources = [kind, CILIUM_NODES] if write_to == "cilium" else [kind]
    for each in resources:
        version = f"{each.group}/{each.version}".strip("/")
        admin.create(each, {"apiVersion": version, "kind": each.kind, "metadata": metadata, "spec": {}})

    transport = Noting(talk(f"system:serviceaccount:{place}:ciliumipam-operator"))
    api, stop = Api(transport), Event()
    lease = Lease(api, place, LEASE, "me", duration=3.0, renew=2.0, retry=0.1)
    service = OperatorService(api, lambda reporter: Operator(transport, write_to=write_to, grace=0, reporter=reporter), "me", lease=lease)
    thread = Thread(target=service.run, args=(stop,))
    wait_for(lambda: transport.inner.request("GET", f"/apis/coordination.k8s.io/v1/namespaces/{place}/leases/{LEASE}").status == 404)
    wait_for(lambda: transport.inner.request("GET", "/apis/ciliumipam.io/v1alpha1/cidrpools").status == 200)  # rules of the cluster come by another way
    thread.start()
    try:
        def blocks() -> object:
            spec = (admin.get(resources[-1], name) or {}).get("spec", {})
            return spec.get("ipam", {}).get("podCIDRs") if write_to == "cilium" else spec.get("podCIDRs")

        wait_for(lambda: blocks() == [cidr])
        wait_for(lambda: (admin.get(POOLS, name) or {}).get("status", {}).get("ipv4", {}).get("held") == 1)

        account = {"as": f"system:serviceaccount:{place}:ciliumipam-checker"}
        config = json.loads(empty.kubeconfig.read_text())
        config["users"][0]["user"] |= account
        (tmp_path / "kubeconfig").write_text(json.dumps(config))
        monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
        for command in (["check"], ["get", "pools"], ["get", "nodes"], ["explain", name], ["export"]):
            code = main([*command, "--store", "kubernetes:"])
            assert code == 0, (command, capsys.readouterr())
        for each in resources:
            admin.delete(each, name)
        wait_for(lambda: (admin.get(POOLS, name) or {}).get("status", {}).get("ipv4", {}).get("held") == 0)
    finally:
        stop.set()
        thread.join()
        for opener in opened:
            opener.close()
    assert transport.forbidden == []


def test_with_its_own_rights_an_agent_registers_its_node_asks_and_hands_back(talk: Talk) -> None:
    admin, name = talk(""), "agent-run"
    [*install(admin)]
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
    items = [node, *bound_to("rbac-agent-run", GRANTS["agent"])]
    transport = Noting(talk("rbac-agent-run"))
    try:
        for item in items:
            assert admin.request("POST", path_of(item), body=item).status == 201
        wait_for(lambda: transport.inner.request("GET", "/api/v1/nodes/agent-run").status == 200)
        source = CiliumNodeSource(Api(transport), name, register=True)
        assert source.confirm().blocks == ()
        source.request((Demand("", 4, 8),))
        said = {"podCIDRs": ["10.7.0.0/28"], "pools": {"allocated": [{"pool": "p", "cidrs": ["10.7.0.0/28"]}]}}
        notes = {BLOCKS: '{"10.7.0.0/28":7}', LEASE_NOTE: '{"stopAfter":60}'}
        Api(admin).patch(CILIUM_NODES, name, {"metadata": {"annotations": notes}, "spec": {"ipam": said}})
        (block,) = source.confirm().blocks
        source.hand_back(block.leased)
        assert source.confirm().blocks == ()
        assert transport.forbidden == []
    finally:
        items.append({"apiVersion": "cilium.io/v2", "kind": "CiliumNode", "metadata": {"name": name}})
        for item in reversed(items):
            admin.request("DELETE", f"{path_of(item)}/{item['metadata']['name']}")


def test_a_refusal_names_the_rule_that_lacks(talk: Talk) -> None:
    api = Api(talk("nobody"))
    for call, rule in (
        (lambda: api.get(POOLS, "a"), 'apiGroups: ["ciliumipam.io"], resources: ["cidrpools"], verbs: ["get"]'),
        (lambda: api.list(LEDGERS), 'apiGroups: ["ciliumipam.io"], resources: ["cidrledgers"], verbs: ["list"]'),
        (
            lambda: api.patch(Resource("cilium.io", "v2", "ciliumnodes", "CiliumNode"), "a", {}, subresource="status"),
            'apiGroups: ["cilium.io"], resources: ["ciliumnodes/status"], verbs: ["patch"]',
        ),
        (
            lambda: api.get(Resource("coordination.k8s.io", "v1", "leases", "Lease", HERE), LEASE),
            'apiGroups: ["coordination.k8s.io"], resources: ["leases"], verbs: ["get"]',
        ),
    ):
        with pytest.raises(StoreRefusedError) as caught:
            call()
        assert str(caught.value).endswith(f"the RBAC rule that lacks: {rule}")


def test_nobody_gets_more_than_a_list_of_verbs_on_a_list_of_resources() -> None:
    for grants in GRANTS.values():
        for grant in grants:
            assert "*" not in (grant.group, *grant.resources, *grant.verbs)
            assert grant.why
    assert set(BOUND) == {"operator", "checker", "agent"}
    assert {name for grant in GRANTS["agent"] for name in grant.resources} == {"ciliumnodes", "nodes"}
    assert {verb for grant in GRANTS["checker"] for verb in grant.verbs} == {"get", "list"}
