"""A real name server that takes updates, for tests: Knot or BIND, as docs/dns-01.rst sets them up.

``with start_nameserver(folder, "x.test") as server:`` serves these zones on a port of its own;
`server.setting` is the ``--acme-dns`` for it, and `server.resolver` the ``--acme-resolver``.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator

import dns.exception
import dns.message
import dns.query
import dns.rdatatype
import pytest

from tests.debian import apt_install
from tests.e2e.waiting import end, free_port, wait_until

PAGE = pathlib.Path(__file__).parent.parent / "docs" / "dns-01.rst"
PROGRAMS = {"knot": "knotd", "bind": "named"}
PACKAGES = {"knot": "knot", "bind": "bind9"}
SECRET = "c2l4dGVlbiBieXRlcyBhbmQgc2l4dGVlbiBtb3JlIQ=="
ZONE = """\
$TTL 5
@ SOA ns hostmaster 1 60 60 600 1
@ NS ns
@ A 127.0.0.1
* A 127.0.0.1
ns A 127.0.0.1
{records}
"""
KNOT = """\
server:
    rundir: {folder}
    listen: 127.0.0.1@{port}
database:
    storage: {folder}
log:
  - target: stderr
    any: info
{example}
"""
BIND = """\
options {{
    directory "{folder}";
    listen-on port {port} {{ 127.0.0.1; }};
    listen-on-v6 {{ none; }};
    pid-file none;
    session-keyfile none;
    recursion no;
    notify no;
    dnssec-validation no;
}};
controls {{ }};
{example}
"""


def code_blocks(kind: str) -> list[str]:
    """The examples of this kind in docs/dns-01.rst, as a reader copies them."""
    found = re.findall(rf"^\.\. code-block:: {kind}\n\n((?:   .*\n|\n)+)", PAGE.read_text(), re.MULTILINE)
    return [re.sub(r"^   ", "", each, flags=re.MULTILINE).rstrip() + "\n" for each in found]


def _example(kind: str, zones: dict[str, str], folder: pathlib.Path) -> str:
    """The page's example, with these zones for its ``x.com`` and this folder for its folders."""
    [text] = (
        [each for each in code_blocks("none") if "named" in each or "include" in each]
        if kind == "bind"
        else code_blocks("yaml")
    )
    before, start, zone = text.partition("zone:\n" if kind == "knot" else 'zone "x.com"')
    repeated = zone if kind == "knot" else start + zone
    text = before + (start if kind == "knot" else "")
    text += "".join(repeated.replace("x.com", each) for each in zones)
    for path in ("/etc/bind/", f"/var/lib/{kind}/"):
        text = text.replace(path, f"{folder}/")
    return text.replace("SECRET", SECRET)


class NameServer:
    """One running name server, at 127.0.0.1 and `port`."""

    host = "127.0.0.1"

    def __init__(self, kind: str, program: str, folder: pathlib.Path, zones: dict[str, str]) -> None:
        self.kind, self._folder, self._zones = kind, folder, zones
        self.port = free_port()
        self.key_file = folder / "acme.key"
        self.key_file.touch(mode=0o600)
        self.key_file.write_text(f'key "acme" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n')
        for zone, records in zones.items():
            (folder / f"{zone}.zone").write_text(ZONE.format(records=records))
        example = _example(kind, zones, folder)
        config = folder / "name-server.conf"
        text = KNOT if kind == "knot" else BIND
        config.write_text(text.format(folder=folder, port=self.port, example=example))
        # AppArmor holds a named in its own place to its own folders.
        copy = shutil.copy(program, folder)
        options = ["-c", str(config)] if kind == "knot" else ["-g", "-c", str(config)]
        self._command = [copy, *options]
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def resolver(self) -> tuple[str, int]:
        """Where to ask for records."""
        return self.host, self.port

    @property
    def address(self) -> str:
        """``host:port``."""
        return f"{self.host}:{self.port}"

    @property
    def setting(self) -> str:
        """For ``--acme-dns``."""
        return f"rfc2136:{self.host}\\:{self.port}:key={self.key_file}"

    def log(self) -> str:
        """All that it has written."""
        return (self._folder / "name-server.log").read_text(errors="replace")

    def start(self) -> NameServer:
        """Start it, at the same port as before, and wait until it answers for all zones."""
        with (self._folder / "name-server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(self._answers, f"{self._command[0]} answers")
        return self

    def _answers(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise AssertionError(f"{self._command} has ended: {self.log()[-4000:]}")
        with contextlib.suppress(OSError, dns.exception.DNSException):
            return all(self.records(zone, "SOA") for zone in self._zones)
        return False

    def records(self, name: str, kind: str) -> list[str]:
        """What it answers by itself, aliases left out."""
        query = dns.message.make_query(name, kind)
        answer = dns.query.tcp(query, self.host, 5.0, self.port)
        wanted = dns.rdatatype.from_text(kind)
        return [each.to_text() for rrset in answer.answer if rrset.rdtype == wanted for each in rrset]

    def texts(self, name: str) -> set[str]:
        """The TXT records at `name`."""
        return {each.strip('"') for each in self.records(name, "TXT")}

    def pause(self) -> None:
        """Have it hang: its port is open, and nobody answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Have it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            end(self._process)


@contextlib.contextmanager
def start_nameserver(
    folder: pathlib.Path, *zones: str, kind: str = "", **records: str
) -> Iterator[NameServer]:
    """Run a name server for these zones in `folder`, which is made, until the context ends.

    `kind` is ``knot``, ``bind`` or "" for the first that there is; what is missing fails the test (on a
    machine that is no CI, one that is asked for by name skips it). `records` are more lines of the zone file
    of a zone, a ``_`` for each dot of its name.
    """
    found = find_nameserver(kind)
    folder.mkdir(parents=True)
    contents = {zone: records.pop(zone.replace(".", "_"), "") for zone in zones}
    assert not records, f"no such zones: {records}"
    server = NameServer(*found, folder, contents)
    try:
        yield server.start()
    except (AssertionError, pytest.fail.Exception):
        print(f"--- the name server's log ends with:\n{server.log()[-4000:]}")
        raise
    finally:
        server.stop()


def find_nameserver(kind: str = "") -> tuple[str, str]:
    """Its kind and the path of its program, installed now if need be."""
    kinds = (kind,) if kind else tuple(PROGRAMS)
    for each in kinds:
        program = _program(each)
        if program is not None:
            return each, program
    said = []
    for each in kinds:
        said.append(apt_install(PACKAGES[each]))
        program = _program(each)
        if program is not None:
            return each, program
    text = f"no name server that these tests need: {'; '.join(said)}"
    print(text, file=sys.stderr, flush=True)
    if kind and "CI" not in os.environ:
        pytest.skip(text)
    pytest.fail(text, pytrace=False)


def _program(kind: str) -> str | None:
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/usr/local/sbin"])
    return shutil.which(PROGRAMS[kind], path=path)
