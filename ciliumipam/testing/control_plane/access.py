"""`ControlPlane`: what somebody needs to use a control plane that runs, whoever started it."""

from __future__ import annotations

import json
import os
import ssl
import subprocess
from dataclasses import dataclass
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from ciliumipam.testing.control_plane.binaries import Binaries


class KubectlError(RuntimeError):
    """A kubectl command failed.

    Attributes:
        code: Its exit code.
        stderr: What it said.
    """

    def __init__(self, arguments: tuple[str, ...], code: int, stderr: str) -> None:
        super().__init__(f"kubectl {' '.join(arguments)} ended with {code}: {stderr.strip()}")
        self.code = code
        self.stderr = stderr


@dataclass(frozen=True, slots=True)
class User:
    """Somebody whom the API server knows by a token, with no rights but those that RBAC gives to the name and the groups."""

    name: str
    groups: tuple[str, ...] = ()


ADMIN = User("admin", ("system:masters",))


@dataclass
class ControlPlane:
    """An API server that runs, and the ways to reach it. It may be shared, so its processes cannot be touched through this.

    Attributes:
        folder: Where its files are.
        binaries: The programs; `binaries.kubectl` fits the server.
        port: Where the API server listens on 127.0.0.1.
        tokens: The token of each user, by name.
    """

    folder: Path
    binaries: Binaries
    port: int
    tokens: dict[str, str]

    @property
    def url(self) -> str:
        """Where the API server is."""
        return f"https://127.0.0.1:{self.port}"

    @property
    def certificate(self) -> Path:
        """The API server's certificate, signed by itself: what a client trusts."""
        return self.folder / "certificates" / "apiserver.crt"

    @property
    def private_key(self) -> Path:
        """The key of `certificate`, for something of the tests that stands in for the API server."""
        return self.folder / "certificates" / "apiserver.key"

    @property
    def kubeconfig(self) -> Path:
        """A kubeconfig of the user admin, who may do everything. Its one context is called `ciliumipam`."""
        return self.kubeconfig_of(ADMIN.name)

    def kubeconfig_of(self, user: str) -> Path:
        """A kubeconfig of one of the users that the API server was started with.

        Raises:
            KeyError: There is no such user.
        """
        return self.write_kubeconfig(f"user-{user}", self.tokens[user])

    def kubeconfig_of_service_account(self, namespace: str, name: str) -> Path:
        """A kubeconfig of a service account that exists, with a token valid for a day, without a restart of anything.

        To RBAC it is the user `system:serviceaccount:<namespace>:<name>`.

        Raises:
            KubectlError: There is no such account.
        """
        token = self.kubectl("create", "token", name, "--namespace", namespace, "--duration=24h").strip()
        return self.write_kubeconfig(f"account-{namespace}-{name}", token)

    def write_kubeconfig(self, name: str, token: str, *, url: str = "") -> Path:
        """Write a kubeconfig for a token, at a proxy's `url` if one stands in between.

        It is JSON, which is YAML as well, so that writing it needs no package.
        """
        certificate = {"certificate-authority": str(self.certificate)}
        content = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "ciliumipam", "cluster": {"server": url or self.url, **certificate}}],
            "users": [{"name": name, "user": {"token": token}}],
            "contexts": [{"name": "ciliumipam", "context": {"cluster": "ciliumipam", "user": name}}],
            "current-context": "ciliumipam",
        }
        path = self.folder / f"{name}.kubeconfig"
        text = json.dumps(content, indent=2) + "\n"
        if not path.exists() or path.read_text() != text:
            written = path.with_suffix(f".{os.getpid()}")  # somebody may be reading it
            written.touch(mode=0o600)
            written.write_text(text)
            written.replace(path)
        return path

    def kubectl(self, *arguments: str, input: str = "", kubeconfig: Path | None = None) -> str:  # noqa: A002 - as subprocess calls it
        """Run kubectl and return what it printed.

        Args:
            arguments: The command's.
            input: What it reads, for `-f -`.
            kubeconfig: Who asks; admin by default.

        Raises:
            KubectlError: It failed.
        """
        environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
        done = subprocess.run(  # noqa: S603 - the arguments are the caller's
            [
                str(self.binaries.kubectl),
                f"--kubeconfig={kubeconfig or self.kubeconfig}",
                f"--cache-dir={self.folder / 'kubectl-cache'}",
                *arguments,
            ],
            input=input,
            capture_output=True,
            text=True,
            check=False,
            env={**environment, "KUBERC": "off"},  # neither somebody's kubeconfig nor their aliases
        )
        if done.returncode:
            raise KubectlError(arguments, done.returncode, done.stderr)
        return done.stdout

    def get(self, path: str) -> tuple[int, Any]:
        """The status and the body of a GET as admin; 0 and the error's text where nobody answers.

        For tests and waiting only: plain, without retries, with nothing of the library that is tested.
        """
        try:
            context = ssl.create_default_context(cafile=str(self.certificate))
            connection = HTTPSConnection("127.0.0.1", self.port, timeout=10, context=context)
            try:
                connection.request("GET", path, headers={"Authorization": f"Bearer {self.tokens[ADMIN.name]}"})
                response = connection.getresponse()
                body = response.read()
                return response.status, json.loads(body) if body.startswith(b"{") else body.decode()
            finally:
                connection.close()
        except (OSError, HTTPException) as error:
            return 0, str(error)
