"""A real ACME server for tests: pebble, with pebble-challtestsrv as its DNS, in processes of their own.

``with start_pebble(folder) as pebble:`` is strict, refuses 30 % of good nonces, and does not sleep.
`pebble.directory` is the URL; `pebble.ca_file` is what makes its TLS certificate trusted, `pebble.root()`
what makes the certificates trusted that it issues. It validates at `http_port` and `tls_port`, wherever
its DNS points: to 127.0.0.1 unless told otherwise.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import pathlib
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pytest
import requests

from tests.e2e.waiting import end, free_port, wait_until
from tests.pebble_programs import Programs, find_programs
from tests.tls.making import made, root

DAY = 24 * 60 * 60


class _Process:
    """One process, whose output goes to a file."""

    def __init__(self, command: Sequence[str], log: pathlib.Path, variables: Mapping[str, str]) -> None:
        self._log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [*command],
                env={**os.environ, **variables},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )

    def check(self) -> None:
        """Raise `ConnectionError` that has its output, if it has ended."""
        if self._process.poll() is not None:
            said = self._log.read_text(errors="replace")[-4000:]
            raise ConnectionError(f"{self._process.args!r} has ended: {said}")

    def end(self, *, kill: bool = False) -> None:
        """Have it ended when this returns."""
        if kill:
            self._process.kill()
        end(self._process)


class Names:
    """What pebble's DNS server answers; set through pebble-challtestsrv's own interface."""

    def __init__(self, programs: Programs, folder: pathlib.Path) -> None:
        port, self._management = free_port(), free_port()
        self.address = f"127.0.0.1:{port}"
        # Debian's has another name for it, and no DNS over HTTPS.
        newest = programs.version == "newest"
        command = [str(programs.names), "-dnsserver" if newest else "-dns01", self.address]
        command += ["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""]
        for unused in ("http01", "https01", "tlsalpn01", *(["doh"] if newest else [])):
            command += [f"-{unused}", ""]
        command += ["-management", f"127.0.0.1:{self._management}"]
        self._process = _Process(command, folder / "names.log", {})
        wait_until(self._answers, "pebble-challtestsrv answers")

    def _answers(self) -> bool:
        self._process.check()
        with contextlib.suppress(requests.ConnectionError):
            self._call("clear-request-history", type="http", host="none")
            return True
        return False

    def _call(self, path: str, **said: Any) -> None:
        url = f"http://127.0.0.1:{self._management}/{path}"
        requests.post(url, json=said, timeout=5).raise_for_status()

    def set_default(self, address: str) -> None:
        """Answer this IPv4 address ("": none) for each name that nothing else is set for."""
        self._call("set-default-ipv4", ip=address)

    def set_a(self, host: str, *addresses: str) -> None:
        """These IPv4 addresses; none: only those by default."""
        self._call("clear-a", host=host)
        if addresses:
            self._call("add-a", host=host, addresses=addresses)

    def set_aaaa(self, host: str, *addresses: str) -> None:
        """These IPv6 addresses; none: none."""
        self._call("clear-aaaa", host=host)
        if addresses:
            self._call("add-aaaa", host=host, addresses=addresses)

    def set_caa(self, host: str, *policies: tuple[str, str]) -> None:
        """These pairs of tag and value, such as ``("issue", "ca.example")``. Pebble does not ask for them."""
        self._call("clear-caa", host=host)
        if policies:
            self._call(
                "add-caa", host=host, policies=[{"tag": tag, "value": value} for tag, value in policies]
            )

    def set_cname(self, host: str, target: str) -> None:
        """An alias; "" takes it back."""
        if target:
            self._call("set-cname", host=host, target=target)
        else:
            self._call("clear-cname", host=host)

    def set_txt(self, host: str, value: str) -> None:
        """One more text; "" takes all back. `host` ends with a dot."""
        if value:
            self._call("set-txt", host=host, value=value)
        else:
            self._call("clear-txt", host=host)

    def set_servfail(self, host: str, fails: bool = True) -> None:
        """Whether asking for `host` fails."""
        self._call("set-servfail" if fails else "clear-servfail", host=host)

    def stop(self) -> None:
        """End it."""
        self._process.end()


class Pebble:
    """One running pebble. Its root and all that it keeps are new each time that it starts."""

    def __init__(
        self,
        programs: Programs,
        folder: pathlib.Path,
        *,
        http_port: int,
        tls_port: int,
        names: Names | None,
        dns: str,
        validity: int | Mapping[str, int],
        variables: Mapping[str, str],
        settings: Mapping[str, Any],
    ) -> None:
        self.version = programs.version
        self.http_port, self.tls_port, self.dns = http_port, tls_port, dns
        self._names, self._programs, self._variables = names, programs, variables
        self._folder = folder
        self._settings = {**settings, **_validity(validity, programs.version)}
        self.ca_file = folder / "pebble-ca.pem"
        self.ca_file.write_text(root().pem)
        leaf = made("localhost", "127.0.0.1", ends=_later())
        (folder / "pebble-chain.pem").write_text(leaf.chain)
        (folder / "pebble-key.pem").write_text(leaf.key_pem)
        self._port = self._management = 0
        self._process: _Process | None = None

    @property
    def directory(self) -> str:
        """The URL of its directory; the same after it was started again."""
        return f"https://localhost:{self._port}/dir"

    @property
    def names(self) -> Names:
        """What its own DNS server answers; there is none where the test brought one."""
        assert self._names is not None, "the test brought its own DNS server"
        return self._names

    def log(self) -> str:
        """All that it has written."""
        return (self._folder / "pebble.log").read_text(errors="replace")

    def start(self) -> Pebble:
        """Start it, at the same port as before, and wait until it answers."""
        attempts = 1 if self._port else 5
        while True:
            try:
                self._start_once(fresh=not self._port)
            except ConnectionError as error:
                # Somebody took the port between our looking and its listening.
                attempts -= 1
                if not attempts or "address already in use" not in str(error):
                    raise
                self._port = 0
            else:
                return self

    def _start_once(self, *, fresh: bool) -> None:
        if fresh:
            self._port, self._management = free_port(), free_port()
        settings = {
            "listenAddress": f"127.0.0.1:{self._port}",
            "managementListenAddress": f"127.0.0.1:{self._management}",
            "certificate": str(self._folder / "pebble-chain.pem"),
            "privateKey": str(self._folder / "pebble-key.pem"),
            "httpPort": self.http_port,
            "tlsPort": self.tls_port,
            **self._settings,
        }
        config = self._folder / "pebble.json"
        config.write_text(json.dumps({"pebble": settings}))
        command = [str(self._programs.pebble), "-config", str(config), "-strict", "-dnsserver", self.dns]
        self._process = _Process(command, self._folder / "pebble.log", self._variables)
        wait_until(self._answers, "pebble answers")

    def _answers(self) -> bool:
        assert self._process is not None
        self._process.check()
        try:
            self.root()
            return requests.get(self.directory, verify=str(self.ca_file), timeout=5).ok
        except requests.exceptions.ConnectionError:
            return False

    def stop(self) -> None:
        """End it, and leave its DNS server running."""
        if self._process is not None:
            self._process.end()

    def kill(self) -> None:
        """End it in the middle of what it does."""
        if self._process is not None:
            self._process.end(kill=True)

    def _manage(self, method: str, path: str, **more: Any) -> requests.Response:
        url = f"https://localhost:{self._management}/{path}"
        answer = requests.request(method, url, verify=str(self.ca_file), timeout=5, **more)
        answer.raise_for_status()
        return answer

    def root(self) -> str:
        """The root of the certificates that it issues, in PEM."""
        return self._manage("GET", "roots/0").text

    def status(self, serial: str) -> str:
        """``Valid`` or ``Revoked``: the certificate with this hexadecimal serial."""
        return str(self._manage("GET", f"cert-status-by-serial/{serial.lower()}").json()["Status"])

    def set_renewal_window(
        self, pem: str, start: datetime.datetime, end: datetime.datetime, **more: Any
    ) -> None:
        """From now on suggest this window for the certificate (RFC 9773); only the newest pebble can."""
        window = {"start": _timestamp(start), "end": _timestamp(end)}
        self.set_renewal_answer(pem, json.dumps({"suggestedWindow": window, **more}))

    def set_renewal_answer(self, pem: str, answer: str) -> None:
        """As `set_renewal_window`, with any answer, also one that is no JSON."""
        self._manage("POST", "set-renewal-info/", json={"certificate": pem, "ariResponse": answer})


def _timestamp(moment: datetime.datetime) -> str:
    return moment.astimezone(datetime.UTC).isoformat().replace("+00:00", "Z")


def _later() -> datetime.datetime:
    """Tests under faketime live up to 90 days ahead."""
    return datetime.datetime.now(datetime.UTC).replace(microsecond=0) + datetime.timedelta(days=365)


def _validity(validity: int | Mapping[str, int], version: str) -> dict[str, Any]:
    """Debian's knows no profiles; the newest takes a profile at random for an order that names none."""
    profiles = {"default": validity} if isinstance(validity, int) else validity
    if version == "debian":
        return {"certificateValidityPeriod": profiles["default"]}
    return {
        "profiles": {
            name: {"description": f"certificates for {seconds} seconds", "validityPeriod": seconds}
            for name, seconds in profiles.items()
        }
    }


@contextlib.contextmanager
def start_pebble(
    folder: pathlib.Path,
    *,
    version: str = "",
    http_port: int = 0,
    tls_port: int = 0,
    dns: str = "",
    validity: int | Mapping[str, int] = 90 * DAY,
    nonce_reject: int = 30,
    authorization_reuse: int = 0,
    eab_keys: Mapping[str, str] | None = None,
    retry_after: tuple[int, int] = (0, 0),
    sleep: int = 0,
    always_valid: bool = False,
    caa_identities: Sequence[str] = ("pebble.letsencrypt.org",),
    blocked: Sequence[str] = (),
) -> Iterator[Pebble]:
    """Run pebble in `folder`, which exists, until the context ends.

    `version` is ``newest``, ``debian`` or "" for the newest there is; what is missing fails the test (on a
    machine that is no CI, a version that is asked for by name skips it). `validity` is in seconds, of one
    profile called ``default`` or of each profile. `nonce_reject` is in percent, and so is
    `authorization_reuse`. With `eab_keys`, identifiers to base64url keys, accounts need one. `retry_after`
    is what pending authorizations and processing orders say, in seconds (0: nothing), and `sleep` how long it
    waits at most before it validates. `always_valid` takes every answer to a challenge for right. `dns` is
    the ``host:port`` of another DNS server.
    """
    programs = find_programs(version)
    variables = {
        "PEBBLE_WFE_NONCEREJECT": str(nonce_reject),
        # It compares so that 0 is one in a hundred: orders for one name may meet a proof that was given.
        "PEBBLE_AUTHZREUSE": str(authorization_reuse),
        **({"PEBBLE_VA_SLEEPTIME": str(sleep)} if sleep else {"PEBBLE_VA_NOSLEEP": "1"}),
        **({"PEBBLE_VA_ALWAYS_VALID": "1"} if always_valid else {}),
    }
    settings = {
        "externalAccountBindingRequired": eab_keys is not None,
        "externalAccountMACKeys": dict(eab_keys or {}),
        "retryAfter": {"authz": retry_after[0], "order": retry_after[1]},
        "caaIdentities": [*caa_identities],
        "domainBlocklist": [*blocked],
    }
    names = None if dns else Names(programs, folder)
    try:
        pebble = Pebble(
            programs,
            folder,
            http_port=http_port or free_port(),
            tls_port=tls_port or free_port(),
            names=names,
            dns=names.address if names else dns,
            validity=validity,
            variables=variables,
            settings=settings,
        )
        try:
            yield pebble.start()
        except (AssertionError, pytest.fail.Exception):
            print(f"--- pebble's log ends with:\n{pebble.log()[-8000:]}")
            raise
        finally:
            pebble.stop()
    finally:
        if names is not None:
            names.stop()
