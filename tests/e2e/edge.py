"""A real proxy with its edge open, certificates that clients trust, and curl as one of those clients."""

from __future__ import annotations

import pathlib
import shutil
import socket
import ssl
import subprocess
from collections.abc import Sequence
from typing import Any

import attrs

from ..tls.making import Made, made, root
from . import programs
from .api import Api
from .proxy_process import ProxyProcess
from .waiting import free_port, wait_until

PATIENCE = 20.0


class Edge(ProxyProcess):
    """A proxy whose http and https ports are open on the loopback interface."""

    def __init__(self, work: pathlib.Path, *options: str, **settings: Any) -> None:
        self.http_port = free_port()
        self.https_port = free_port()
        ports = (
            *("--http", f"tcp:{self.http_port}:interface=127.0.0.1"),
            *("--https", f"tcp:{self.https_port}:interface=127.0.0.1"),
        )
        super().__init__(work, *ports, *options, **settings)
        self.roots = work / f"roots-{self.port}.pem"
        self.roots.write_text(root().pem)
        self._api: Api | None = None

    @property
    def api(self) -> Api:
        """Its API, as the admin."""
        if self._api is None:
            self._api = Api(self.url).login()
        return self._api

    def route(self, id: str, target: str, **policy: Any) -> None:
        """Save a Route."""
        self.api.ok("PUT", "/proxy-svc/routes", {"routes": [{"id": id, "target": target, **policy}]})

    def redirect(self, id: str, target: str, status: int = 308) -> None:
        """Save a Redirect."""
        entry = {"id": id, "target": target, "statusCode": status}
        self.api.ok("PUT", "/proxy-svc/redirects", {"redirects": [entry]})

    def certify(self, *names: str, **more: Any) -> Made:
        """Save a new certificate for these names, by the authority in `roots`."""
        leaf = made(*names, **more)
        self.api.ok("PUT", "/proxy-svc/certs", {"certs": [{"cert": leaf.bundle}]})
        return leaf

    def trust_local(self) -> pathlib.Path:
        """From now on `roots` has the local authority's root, which is made when it is first asked for.

        The file in which it stands alone.
        """
        text = self.api.ok("GET", "/proxy-svc/local-authority")["cert"]
        self.roots.write_text(root().pem + text)
        alone = self.roots.with_name(f"local-root-{self.port}.pem")
        alone.write_text(text)
        return alone

    def curl_command(self, url: str, *options: str) -> list[str]:
        """How curl is started for this URL, whose host is taken to be the edge, on its port of the scheme."""
        port = self.https_port if url.startswith("https:") else self.http_port
        return [
            *(programs.curl(), "--silent", "--show-error", "--path-as-is", "--globoff"),
            *("--max-time", str(PATIENCE), "--cacert", str(self.roots), "--noproxy", "*"),
            *("--connect-to", f"::127.0.0.1:{port}"),
            *options,
            url,
        ]

    def curl(self, url: str, *options: str, host: str = "", check: bool = True) -> Curled:
        """What curl gets for this URL, whose host is taken to be the edge.

        With `host` that stands in the Host field. `check` demands that curl succeeds.
        """
        fields = ["--header", f"Host: {host}"] if host else []
        command = self.curl_command(url, "--include", *fields, *options)
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE + 10)
        errors = done.stderr.decode(errors="replace")
        assert not check or done.returncode == 0, f"curl: {done.returncode} {errors}"
        return Curled.read(done.returncode, errors, done.stdout)


@attrs.frozen
class Curled:
    """How curl ended, and the last answer that it got."""

    exit_code: int
    errors: str
    version: str = ""
    status: int = 0
    headers: dict[str, str] = attrs.Factory(dict)
    body: bytes = b""

    @classmethod
    def read(cls, exit_code: int, errors: str, output: bytes) -> Curled:
        """Take apart what ``curl --include`` wrote."""
        while output.startswith(b"HTTP/"):
            head, _, body = output.partition(b"\r\n\r\n")
            version, status, *_ = head.decode("latin-1").partition("\r\n")[0].split()
            lines = [line.partition(":") for line in head.decode("latin-1").split("\r\n")[1:]]
            headers = {name.lower(): value.strip() for name, _, value in lines}
            found = cls(exit_code, errors, version.removeprefix("HTTP/"), int(status), headers, body)
            if found.status >= 200:
                return found
            output = body
        return cls(exit_code, errors)


def trusting(roots: pathlib.Path | None, protocols: Sequence[str] = ()) -> ssl.SSLContext:
    """A client's context that trusts these roots and no others; without any it looks at no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if roots is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    else:
        context.load_verify_locations(roots)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


def connected(
    port: int, name: str | None, context: ssl.SSLContext, patience: float = PATIENCE
) -> ssl.SSLSocket:
    """A connection on which the handshake for this name is complete; raises `ssl.SSLError` if it fails."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=patience)
    try:
        return context.wrap_socket(plain, server_hostname=name)
    except BaseException:
        plain.close()
        raise


def shown_serial(port: int, name: str) -> int:
    """The serial number of the certificate that a new connection is shown."""
    with connected(port, name, trusting(None)) as connection:
        der = connection.getpeercert(binary_form=True)
    assert der
    from cryptography import x509

    return x509.load_der_x509_certificate(der).serial_number


def s_client(port: int, *options: str, send: str = "", name: str = "x.test") -> tuple[int, str]:
    """The exit code and all output of ``openssl s_client``; without a name, no SNI."""
    program = shutil.which("openssl")
    if program is None:
        raise programs.ProgramMissing("openssl is not on PATH: apt-get install openssl")
    names = ["-servername", name] if name else ["-noservername"]
    done = subprocess.run(
        [program, "s_client", "-connect", f"127.0.0.1:{port}", *names, *options],
        input=send.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=PATIENCE,
    )
    return done.returncode, done.stdout.decode(errors="replace")


def wait_for_certificate(port: int, name: str, serial: int, seconds: float = 5.0) -> None:
    """Until new connections are shown the certificate with this serial number."""

    def is_shown() -> bool:
        try:
            return shown_serial(port, name) == serial
        except ssl.SSLError:
            return False

    wait_until(is_shown, f"{name} shows the certificate {serial:X}", seconds)
