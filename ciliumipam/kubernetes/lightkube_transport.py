"""The default `Transport`: lightkube's TLS and credentials over its HTTP client, by the requests that Kubernetes understands.

Requests go to the client's own transport without the layers for cookies, redirects and cached environments above it, since an API server
has none of these and they cost more than the rest. HTTP/1.1 only: with HTTP/2 and several threads that library loses connections.
"""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Generator, Iterator, Mapping
from contextlib import suppress
from socket import SHUT_RDWR, socket
from threading import Lock
from typing import Any, Final, Self
from urllib.parse import urlencode, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx2
import msgspec
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.models import Cluster, User
from lightkube.core.exceptions import ConfigError

from ciliumipam.errors import StoreRefusedError
from ciliumipam.kubernetes.exec_credential import Credential, ExecError, ExecProgram
from ciliumipam.kubernetes.kubeconfig import Chosen, choose
from ciliumipam.kubernetes.transport import NO_QUERY, Refusal, Response, TransportError

_UNSENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout, httpx2.ProxyError, httpx2.UnsupportedProtocol)
"""After these nothing of the request has left: there was no connection."""
_CONNECT = 10.0
_MOST_CONNECTIONS = 256
_FIELDS: Final = {"as": "Impersonate-User", "as-uid": "Impersonate-Uid"}


def connect(context: str | None = None) -> LightkubeTransport:
    """Connections to the API server of a context of the kubeconfig; without one as `kubeconfig.choose` says. Nothing is asked yet.

    Raises:
        StoreRefusedError: There is no such context, or what it says cannot be used.
    """
    chosen = choose(context)
    try:
        return LightkubeTransport(chosen)
    except (ConfigError, ExecError, OSError, ValueError, msgspec.ValidationError) as error:  # SSLError is an OSError
        raise StoreRefusedError("connect to Kubernetes", f"context {chosen.name!r} of {chosen.source}: {error}") from error


class LightkubeTransport:
    """Connections to one API server."""

    def __init__(self, chosen: Chosen) -> None:
        """Read the credentials; nothing is asked yet."""
        cluster = msgspec.convert(dict(chosen.cluster), Cluster, strict=False)
        fields = {key: value for key, value in chosen.user.items() if key != "exec"}
        user = msgspec.convert(fields, User)
        if fields.get("as-user-extra"):
            raise ConfigError("as-user-extra is not supported: leave it out, or use a context without it")
        self._tls = verify_cluster(cluster, user, lambda name: name)
        self._auth: httpx2.Auth | None = user_auth(user)
        if "exec" in chosen.user:
            self._auth = _ExecAuth(ExecProgram(chosen.user["exec"], chosen.cluster, chosen.source.parent.absolute()), self._tls)
        proxy = chosen.cluster.get("proxy-url")
        self._http = httpx2.HTTPTransport(
            verify=self._tls,
            limits=httpx2.Limits(max_connections=_MOST_CONNECTIONS, max_keepalive_connections=_MOST_CONNECTIONS, keepalive_expiry=30.0),
            proxy=str(proxy) if proxy else _environment_proxy(cluster.server),
        )
        self._server = cluster.server.rstrip("/")
        self._name = chosen.cluster.get("tls-server-name")
        self._headers = [("host", httpx2.URL(self._server).netloc.decode()), ("user-agent", "ciliumipam"), ("accept", "application/json")]
        self._headers += [(header, str(chosen.user[field])) for field, header in _FIELDS.items() if chosen.user.get(field)]
        self._headers += [("Impersonate-Group", str(group)) for group in chosen.user.get("as-groups") or ()]
        self._closed = False

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] = NO_QUERY,
        body: object = None,
        content_type: str = "application/json",
        timeout: float = 30.0,
    ) -> Response:
        """Ask once and wait for the answer."""
        content = None if body is None else msgspec.json.encode(body)
        headers = [*self._headers, ("content-type", content_type)] if content is not None else self._headers
        try:
            answer = self._send(method, path, query, content, headers, timeout, timeout)
            try:
                data = answer.read()
            finally:
                answer.close()
        except (httpx2.HTTPError, RuntimeError, ExecError, ConfigError) as error:
            raise self._failure(error, timeout) from error
        return Response(answer.status_code, answer.headers, _decode(data))

    def stream(self, path: str, *, query: Mapping[str, str] = NO_QUERY, timeout: float) -> _LineStream:
        """GET an answer line by line."""
        headers = [*self._headers, ("accept-encoding", "identity")]  # a compressed stream may hold lines back
        try:
            answer = self._send("GET", path, query, None, headers, timeout, timeout)
            if answer.status_code != 200:
                try:
                    data = answer.read()
                finally:
                    answer.close()
                raise Refusal(Response(answer.status_code, answer.headers, _decode(data)))
        except (httpx2.HTTPError, RuntimeError, ExecError, ConfigError) as error:
            raise self._failure(error, timeout) from error
        return _LineStream(answer, timeout)

    def close(self) -> None:
        """Close all connections."""
        self._closed = True
        self._http.close()

    def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str],
        content: bytes | None,
        headers: list[tuple[str, str]],
        timeout: float,
        silence: float,
    ) -> httpx2.Response:
        if self._closed:
            raise httpx2.UnsupportedProtocol("the connection has been closed")
        url = f"{self._server}{path}?{urlencode(query)}" if query else self._server + path
        extensions: dict[str, Any] = {
            "timeout": {"connect": min(timeout, _CONNECT), "read": silence, "write": timeout, "pool": timeout}
        }
        if self._name:
            extensions["sni_hostname"] = self._name
        request = httpx2.Request(method, url, headers=headers, content=content, extensions=extensions)
        if self._auth is None:
            return self._handle(request)
        flow = self._auth.sync_auth_flow(request)
        try:
            answer = self._handle(next(flow))
            while True:
                try:
                    again = flow.send(answer)
                except StopIteration:
                    return answer
                answer.read()
                answer.close()
                answer = self._handle(again)
        finally:
            flow.close()

    def _handle(self, request: httpx2.Request) -> httpx2.Response:
        return self._http.handle_request(request)

    def _failure(self, error: Exception, timeout: float) -> TransportError:
        at = f"the API server at {self._server}"
        text = str(error) or type(error).__name__
        if isinstance(error, ExecError | ConfigError):
            return TransportError(f"no credentials: {text}", False, True)  # noqa: FBT003 - positional by design
        if self._closed:
            return TransportError("the connection has been closed", not isinstance(error, _UNSENT))
        if isinstance(error, httpx2.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in text:
            advice = "check certificate-authority and server of the kubeconfig"
            return TransportError(f"the certificate of {at} is not trusted: {text}; {advice}", False, True)  # noqa: FBT003 - as above
        if isinstance(error, httpx2.ConnectError) and ("SSL" in text or "TLS" in text):
            return TransportError(f"no TLS with {at}: {text}", False)  # noqa: FBT003 - as above
        if isinstance(error, _UNSENT):
            return TransportError(f"{at} cannot be reached: {text}", False)  # noqa: FBT003 - as above
        if isinstance(error, httpx2.TimeoutException):
            return TransportError(f"{at} was silent for {timeout:g} s", True)  # noqa: FBT003 - as above
        return TransportError(f"the connection to {at} broke: {text}", True)  # noqa: FBT003 - as above


class _LineStream:
    """Lines of one answer."""

    def __init__(self, answer: httpx2.Response, timeout: float) -> None:
        """Read from an answer whose headers have come."""
        self._answer, self._timeout = answer, timeout
        self._lines = _split(answer.iter_bytes())
        self._reading = Lock()
        self._closed = False

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> dict[str, Any]:
        with self._reading:
            if self._closed:
                self._answer.close()
                raise StopIteration
            try:
                line = next(self._lines, None)
            except (httpx2.HTTPError, RuntimeError, ValueError) as error:
                self._answer.close()
                if self._closed:
                    raise StopIteration from None
                silent = isinstance(error, httpx2.TimeoutException)
                reason = f"nothing came for {self._timeout:g} s" if silent else f"the stream broke: {str(error) or type(error).__name__}"
                raise TransportError(reason, False) from error  # noqa: FBT003 - positional by design
            if line is None or self._closed:
                self._answer.close()
                raise StopIteration
            value = _decode(line)
            if not isinstance(value, dict):
                self._answer.close()
                raise TransportError(f"the stream has a line that is no JSON object: {line[:80]!r}", False)  # noqa: FBT003 - as above
            return value

    def close(self) -> None:
        self._closed = True
        with suppress(OSError, AttributeError):  # it is closed already, or has no socket
            # The connection is ended and not closed: a thread that waits in it wakes, and none gets another's file descriptor.
            socket.shutdown(self._answer.extensions["network_stream"].get_extra_info("socket"), SHUT_RDWR)
        if self._reading.acquire(blocking=False):
            try:
                self._answer.close()
            finally:
                self._reading.release()


class _ExecAuth(httpx2.Auth):
    """What a program gives, with each request. A certificate goes into the TLS context, for connections that are made from then on."""

    def __init__(self, program: ExecProgram, tls: ssl.SSLContext) -> None:
        self._program, self._tls = program, tls
        self._lock = Lock()
        self._loaded = ""

    def sync_auth_flow(self, request: httpx2.Request) -> Generator[httpx2.Request, httpx2.Response, None]:
        credential = self._program.credential()
        self._use(credential, request)
        answer = yield request
        if answer.status_code == 401:
            self._use(self._program.credential(refused=credential), request)
            yield request

    def _use(self, credential: Credential, request: httpx2.Request) -> None:
        if credential.token:
            request.headers["Authorization"] = f"Bearer {credential.token}"
        with self._lock:
            if credential.certificate and credential.certificate != self._loaded:
                with tempfile.NamedTemporaryFile() as file:
                    file.write(f"{credential.certificate}\n{credential.key}\n".encode())
                    file.flush()
                    try:
                        self._tls.load_cert_chain(file.name)
                    except OSError as error:
                        raise ExecError(f"its certificate cannot be used: {error}") from error
                self._loaded = credential.certificate


def _environment_proxy(server: str) -> str | None:
    """The proxy that the environment has for this server (`HTTPS_PROXY`, `NO_PROXY`), as for every program."""
    parts = urlsplit(server)
    return None if proxy_bypass(parts.hostname or "") else getproxies().get(parts.scheme)


def _split(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """Lines, each as soon as its end has come."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        yield from filter(None, lines)
    if rest.strip():
        raise ValueError("it ended within a line")


def _decode(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except (msgspec.DecodeError, ValueError):
        return data.decode(errors="replace")
