"""`ScratchControlPlane`: an API server and its etcd of one's own, on free ports of the loopback address, to be killed and restored at will."""

from __future__ import annotations

import base64
import fcntl
import json
import secrets
import shutil
import urllib.request
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkdtemp
from typing import Self

from ciliumipam.testing.control_plane.access import ADMIN, ControlPlane, User
from ciliumipam.testing.control_plane.binaries import Binaries, find_binaries
from ciliumipam.testing.control_plane.server import Lease, Port, Server


class ScratchControlPlane(ControlPlane):
    """A control plane that is started on entering a `with`, and gone after it, or when this process dies, however it dies.

        with ScratchControlPlane(tmp_path) as plane:
            plane.kubectl("apply", "-f", "-", input=manifest)
            plane.etcd.restart()

    It has an API server and etcd and no controllers: no garbage collection, no deletion of namespaces, no scheduler; RBAC is on.
    Ports stay the same over restarts. Stopping is killing: what it kept is of no interest any more.
    """

    etcd: Server
    apiserver: Server

    def __init__(
        self,
        folder: Path,
        binaries: Binaries | None = None,
        *,
        users: Iterable[User] = (),
        etcd_flags: Sequence[str] = (),
        apiserver_flags: Sequence[str] = (),
    ) -> None:
        """Prepare one; nothing runs yet.

        Args:
            folder: Where it keeps its files; made if it is not there. What an earlier one left there is gone on from.
            binaries: The programs; by default what `find_binaries` finds.
            users: Whom the API server knows beside admin. It reads them only when it starts.
            etcd_flags: More flags for etcd; of the same flag the last one counts. `--unsafe-no-fsync=false` for honest times.
            apiserver_flags: More flags for kube-apiserver, such as `--etcd-compaction-interval=10s` or `--min-request-timeout=5`.
        """
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._ports = [Port(), Port(), Port()]
        serving, clients, peers = (port.number for port in self._ports)
        everybody = [ADMIN, *users]
        super().__init__(
            folder, binaries or find_binaries(), serving, {user.name: secrets.token_hex(16) for user in everybody}
        )
        self._lease = Lease(folder / "lease")
        self._write_secrets(everybody)
        etcd_url = f"http://127.0.0.1:{clients}"
        self.etcd = Server(
            "etcd",
            [
                str(self.binaries.etcd),
                f"--data-dir={self._data}",
                f"--listen-client-urls={etcd_url}",
                f"--advertise-client-urls={etcd_url}",
                f"--listen-peer-urls=http://127.0.0.1:{peers}",
                "--socket-reuse-port=true",
                "--unsafe-no-fsync=true",  # the machine does not lose power in a test, and kill -9 loses nothing that was written
                *etcd_flags,
            ],
            lease=self._lease,
            log=folder / "etcd.log",
            ready=lambda: _answers(f"{etcd_url}/health"),
        )
        key = folder / "service-accounts.key"
        self.apiserver = Server(
            "kube-apiserver",
            [
                str(self.binaries.kube_apiserver),
                f"--etcd-servers={etcd_url}",
                f"--cert-dir={self.certificate.parent}",
                f"--secure-port={serving}",
                "--permit-port-sharing=true",
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",  # else it looks for a default route, which a sandbox may lack
                "--endpoint-reconciler-type=none",  # a loopback address is refused as an endpoint
                "--service-cluster-ip-range=10.255.255.0/24",
                "--service-account-issuer=https://kubernetes.default.svc",
                f"--service-account-key-file={key}",
                f"--service-account-signing-key-file={key}",
                "--authorization-mode=RBAC",
                f"--token-auth-file={folder / 'tokens.csv'}",
                "--disable-admission-plugins=ServiceAccount",  # no controller creates default accounts
                *apiserver_flags,
            ],
            lease=self._lease,
            log=folder / "kube-apiserver.log",
            ready=self._is_ready,
        )

    def start(self) -> None:
        """Start etcd and the API server, and wait until both are ready.

        Raises:
            ServerError: One of them did not get ready; nothing is left running.
        """
        try:
            self.etcd.start()
            self.apiserver.start()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End both, at once. The files stay."""
        self.apiserver.kill()
        self.etcd.kill()

    def close(self) -> None:
        """End both, and give the ports back. The files stay."""
        self.stop()
        self.leave()

    def leave(self) -> None:
        """Need it no longer, and wait until nobody else who holds a lease on it does."""
        self._lease.end()
        for server in (self.apiserver, self.etcd):
            server.wait_for_the_end()
        for port in self._ports:
            port.give_up()

    def snapshot(self, name: str) -> Path:
        """Keep a copy of all that etcd has, as a backup. etcd is killed for it and started again, the API server is not."""
        copy = self.folder / f"snapshot-{name}"
        was_running = self.etcd.running
        self.etcd.kill()  # asked to stop, it waits ten seconds for the API server to let go
        shutil.copytree(self._data, copy)
        if was_running:
            self.etcd.start()
            self.apiserver.wait_until_ready()
        return copy

    def restore(self, snapshot: Path) -> None:
        """Make etcd what it was when the snapshot was taken, as from a backup: both servers are stopped and started.

        Revisions go on from those of that time, so that numbers that clients have seen already come again for other changes.
        """
        self.stop()
        shutil.rmtree(self._data)
        shutil.copytree(snapshot, self._data)
        self.start()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def _data(self) -> Path:
        return self.folder / "etcd"

    def _is_ready(self) -> bool:
        # The server says that it is ready shortly before it has made the first namespaces.
        return self.certificate.exists() and all(
            self.get(path)[0] == 200 for path in ("/readyz", "/api/v1/namespaces/default")
        )

    def _write_secrets(self, users: Sequence[User]) -> None:
        lines = [
            f'{self.tokens[user.name]},{user.name},{number},"{",".join(user.groups)}"\n'
            for number, user in enumerate(users)
        ]
        for name, text in (("tokens.csv", "".join(lines)), ("service-accounts.key", _signing_key())):
            path = self.folder / name
            path.touch(mode=0o600)
            path.write_text(text)


@contextmanager
def shared(folder: Path, binaries: Binaries | None = None) -> Iterator[ControlPlane]:
    """The control plane of all processes that name this folder: whoever comes first starts it, and it ends after the last.

    Leaving it takes as long as others use it, where this process is the one that started it: it then deletes its files.
    """
    folder = folder.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    mine: ScratchControlPlane | None = None
    with ExitStack() as leases:
        with (folder / "start.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            plane = _attach(folder / "shared.json", leases)
            if plane is None:
                plane = mine = ScratchControlPlane(Path(mkdtemp(prefix="run-", dir=folder)), binaries)
                mine.start()
                _tell(folder / "shared.json", mine)
        yield plane
    if mine is not None:
        mine.leave()
        shutil.rmtree(mine.folder)


def _attach(state: Path, leases: ExitStack) -> ControlPlane | None:
    """The one that somebody else started, if it still runs."""
    if not state.exists():
        return None
    told = json.loads(state.read_text())
    plane = ControlPlane(Path(told["folder"]), Binaries(*map(Path, told["binaries"])), told["port"], told["tokens"])
    if not plane.folder.exists():
        return None
    leases.enter_context(Lease(plane.folder / "lease"))  # from here on it does not end, if it has not already
    return plane if plane.get("/readyz")[0] == 200 else None


def _tell(state: Path, plane: ControlPlane) -> None:
    state.touch(mode=0o600)
    told = {
        "folder": str(plane.folder),
        "binaries": list(map(str, plane.binaries)),
        "port": plane.port,
        "tokens": plane.tokens,
    }
    state.write_text(json.dumps(told))


def _signing_key() -> str:
    """A key that signs the tokens of service accounts: on the curve P-256, as RFC 5915 writes it, without the public half.

    The servers compute that half; so a random number is all that is needed, and no package for cryptography.
    """
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    number = (1 + secrets.randbelow(order - 1)).to_bytes(32)
    curve = bytes.fromhex("a00a06082a8648ce3d030107")
    inside = b"\x02\x01\x01\x04\x20" + number + curve
    der = b"\x30" + bytes([len(inside)]) + inside
    return f"-----BEGIN EC PRIVATE KEY-----\n{base64.encodebytes(der).decode()}-----END EC PRIVATE KEY-----\n"


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:  # noqa: S310 - the URL is ours
            return bool(response.status == 200)
    except OSError:
        return False
