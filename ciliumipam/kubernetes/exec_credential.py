"""Credentials from a program that a kubeconfig names, as EKS, GKE, AKS and most sign-on tools have it (`client.authentication.k8s.io`).

The program prints an ExecCredential with a token or a client certificate, and when it expires. It runs when the first request needs it,
again when what it gave has expired, and again when the server answers 401. Written for versions v1 and v1beta1 after Kubernetes'
"client-go credential plugins"; lightkube knows the older versions and tokens only.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_PATIENCE = 60.0


class ExecError(Exception):
    """No credential could be had; the text says why and what to do."""


class Credential(NamedTuple):
    """What the program gave. Empty texts are what it did not give."""

    token: str
    certificate: str
    key: str
    expires: datetime | None


class ExecProgram:
    """The program of one user of a kubeconfig. Thread-safe: several that need a credential at once wait for one run.

    Args:
        spec: The `exec` of the user.
        cluster: The cluster of the context, for programs that ask for it (`provideClusterInfo`).
        folder: Where the kubeconfig stands: a command with a slash in it is relative to that.
    """

    def __init__(self, spec: Mapping[str, Any], cluster: Mapping[str, Any], folder: Path) -> None:
        """Check the specification; nothing runs yet.

        Raises:
            ExecError: It cannot be used.
        """
        self._version = str(spec.get("apiVersion"))
        if self._version not in _VERSIONS:
            raise ExecError(f"exec.apiVersion is {self._version}; {' and '.join(_VERSIONS)} are known: update the program and the kubeconfig")
        command = str(spec.get("command") or "")
        if not command:
            raise ExecError("exec.command is empty")
        if spec.get("interactiveMode") == "Always":
            raise ExecError(f"{command} wants to ask questions (exec.interactiveMode: Always), and nobody is there to answer")
        self._command = [str(folder / command) if "/" in command else command, *map(str, spec.get("args") or ())]
        self._hint = str(spec.get("installHint") or "")
        info: dict[str, Any] = {"apiVersion": self._version, "kind": "ExecCredential", "spec": {"interactive": False}}
        if spec.get("provideClusterInfo"):
            info["spec"]["cluster"] = cluster
        added = {str(each["name"]): str(each["value"]) for each in spec.get("env") or ()}
        self._environment = {**os.environ, **added, "KUBERNETES_EXEC_INFO": json.dumps(info)}
        self._lock = Lock()
        self._last: Credential | None = None

    def credential(self, refused: Credential | None = None) -> Credential:
        """A credential that has not expired, and is another one than the server `refused`.

        Raises:
            ExecError: The program cannot be run, failed, or printed something else.
        """
        with self._lock:
            last = self._last
            if last is None or last == refused or (last.expires is not None and last.expires <= datetime.now(UTC)):
                last = self._last = self._read(self._run())
            return last

    def _run(self) -> str:
        name = self._command[0]
        try:
            done = subprocess.run(  # noqa: S603 - it is what the kubeconfig says
                self._command, env=self._environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE, check=False
            )
        except FileNotFoundError:
            raise ExecError(f"the program {name} of the kubeconfig was not found{'; ' + self._hint if self._hint else ': install it'}") from None
        except subprocess.TimeoutExpired:
            raise ExecError(f"{name} gave no credential within {_PATIENCE:g} s") from None
        except (OSError, UnicodeDecodeError) as error:
            raise ExecError(f"{name} could not be run: {error}") from None
        if done.returncode:
            raise ExecError(f"{name} ended with status {done.returncode}: {done.stderr.strip()[-500:] or 'it printed no reason'}")
        return done.stdout

    def _read(self, printed: str) -> Credential:
        name = self._command[0]
        try:
            document = json.loads(printed)
            version, status = document["apiVersion"], document["status"]
            expires = status.get("expirationTimestamp")
            credential = Credential(
                str(status.get("token") or ""),
                str(status.get("clientCertificateData") or ""),
                str(status.get("clientKeyData") or ""),
                datetime.fromisoformat(expires) if expires else None,
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ExecError(f"{name} did not print an ExecCredential: {type(error).__name__}: {error}") from None
        if version != self._version:
            raise ExecError(f"{name} printed an ExecCredential of {version}, and {self._version} was asked for")
        if not credential.token and not (credential.certificate and credential.key):
            raise ExecError(f"{name} printed an ExecCredential with neither a token nor a certificate and its key")
        return credential


__all__ = ["Credential", "ExecError", "ExecProgram"]
