"""Finds etcd, kube-apiserver and kubectl where envtest finds them, and else builds them."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import NamedTuple

from ciliumipam.testing import go_build

ASSETS = "KUBEBUILDER_ASSETS"
PACKAGES = {
    "etcd": "go.etcd.io/etcd/server/v3",
    "kube-apiserver": "k8s.io/kubernetes/cmd/kube-apiserver",
    "kubectl": "k8s.io/kubernetes/cmd/kubectl",
}
_KUBERNETES = re.compile(r"^\s*k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", re.MULTILINE)


class ServersMissingError(RuntimeError):
    """The programs are not there, and cannot be built."""


class Binaries(NamedTuple):
    """The three programs that a control plane needs."""

    etcd: Path
    kube_apiserver: Path
    kubectl: Path


def find_binaries(module: Path | None = None) -> Binaries:
    """Find the programs, or build them.

    Each is looked for as envtest of controller-runtime does it: `TEST_ASSET_ETCD` (`..._KUBE_APISERVER`, `..._KUBECTL`) names the
    file, else `KUBEBUILDER_ASSETS` the folder. Then come those on `PATH`, but only all three together: a kubectl alone is the one for
    somebody's cluster, of whatever version. What is still missing is built with Go, once (5 minutes on two cores), and kept.

    Args:
        module: The Go module that pins what is built. By default `tests/servers` of the checkout that this file lies in; an
            installed kit has none, since its `go.sum` alone would be as long as the kit.

    Raises:
        ServersMissingError: A variable names no program; or there is nothing to build from.
        GoBuildError: Building failed, or there is no Go.
    """
    found = {name: path for name in PACKAGES if (path := _named(name))}
    if len(found) < len(PACKAGES):
        on_path = {name: Path(program) for name in PACKAGES if (program := shutil.which(name))}
        if len(on_path) == len(PACKAGES):
            found = {**on_path, **found}
    for name in PACKAGES:
        if name not in found:
            found[name] = _build(name, module or _checkout())
    return Binaries(found["etcd"], found["kube-apiserver"], found["kubectl"])


def skip_reason() -> str:
    """Why a test that needs the servers is skipped here; empty where it has to run."""
    if all(_named(name) for name in PACKAGES) or all(shutil.which(name) for name in PACKAGES):
        return ""
    why = go_build.skip_reason()
    return why and f"no etcd, kube-apiserver and kubectl: neither {ASSETS} nor PATH has them, and {why}"


def _named(name: str) -> Path | None:
    """What the variables say, if they say anything."""
    variable = f"TEST_ASSET_{name.upper().replace('-', '_')}"
    given = os.environ.get(variable)
    if not given:
        if not (folder := os.environ.get(ASSETS)):
            return None
        variable, given = ASSETS, os.path.join(folder, name)  # noqa: PTH118 - `which` takes text
    if not shutil.which(given):
        raise ServersMissingError(
            f"{variable} says that {name} is {given}, which is no program. Correct the variable, or unset it to have {name} looked for elsewhere."
        )
    return Path(given).absolute()


def _checkout() -> Path:
    module = Path(__file__).parents[3] / "tests" / "servers"
    if not (module / "go.mod").is_file():
        raise ServersMissingError(
            f"no etcd, kube-apiserver and kubectl: set {ASSETS} to a folder that has all three (`setup-envtest use -p path` prints one), "
            f"or name the folder of a Go module to build them from; the one in a checkout of this project is tests/servers."
        )
    return module


def _build(name: str, module: Path) -> Path:
    flags = "-s -w"
    if name != "etcd":  # without this the server says that it is v0.0.0, and kubectl warns of the difference
        match = _KUBERNETES.search((module / "go.mod").read_text())
        if match is None:
            raise ServersMissingError(
                f"{module / 'go.mod'} requires no version of k8s.io/kubernetes, so {name} cannot be built from it"
            )
        version = {"gitVersion": match[1], "gitMajor": match[2], "gitMinor": match[3]}
        flags += "".join(f" -X k8s.io/component-base/version.{key}={value}" for key, value in version.items())
    return go_build.go_build(module, PACKAGES[name], flags=[f"-ldflags={flags}"], name=name)
