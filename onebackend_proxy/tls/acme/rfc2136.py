"""Dynamic update (RFC 2136) signed by TSIG (RFC 8945): how BIND, Knot, PowerDNS and others take records."""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import os
import pathlib
import re
import socket
import stat
from collections.abc import Callable, Iterator
from typing import Any

import attrs
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.query
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rdtypes.ANY.TXT
import dns.tsig
import dns.update
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool
from zope.interface import implementer

from ...addresses import bracketed, canonical_host, without_port
from .dns import IDnsProvider
from .nameservers import PORT
from .problems import AcmeError

SECONDS = 5.0
"""For an answer by UDP, and then again by TCP."""
DEFAULT_TTL = "60"
MAX_TTL = 86_400
MAX_KEY_FILE = 65_536
MOST_ADDRESSES = 3
"""Of the name server, if its name has more."""
ALGORITHMS = ("hmac-sha1", "hmac-sha224", "hmac-sha256", "hmac-sha384", "hmac-sha512")
_COMMENT = re.compile(r"//[^\n]*|#[^\n]*|/\*.*?\*/", re.DOTALL)
_KEY = re.compile(r'\s*key\s+"?([^"\s{};]+)"?\s*\{([^{}]*)\}\s*;\s*')
_STATEMENT = re.compile(r'\s*([a-z]+)\s+"?([^"\s;]+)"?\s*;\s*')


@attrs.frozen
class TsigKey:
    """A key that a name server knows under the same name."""

    name: str
    algorithm: str
    secret: bytes = attrs.field(repr=False)


def rfc2136(reactor: Any, server: str, *, key: str, zone: str = "", ttl: str = DEFAULT_TTL) -> IDnsProvider:
    """The provider of ``rfc2136:SERVER[\\:PORT]:key=FILE[:zone=ZONE][:ttl=SECONDS]``.

    Raises `ValueError` that says what is wrong with the words or the key file.
    """
    host, port = _host_and_port(server)
    if not (ttl.isascii() and ttl.isdigit() and len(ttl) <= 5 and 0 < int(ttl) <= MAX_TTL):
        raise ValueError(f"ttl {ttl!r} is not a number of seconds from 1 to {MAX_TTL}")
    found = read_key(pathlib.Path(key).expanduser()) if key else None
    if found is None:
        raise ValueError("key names no file")
    return Rfc2136(reactor, host, port, found, canonical_host(zone) if zone else "", int(ttl))


def _host_and_port(text: str) -> tuple[str, int]:
    with contextlib.suppress(ValueError):
        return str(ipaddress.ip_address(text)), PORT
    host = without_port(text)
    port = text[len(host) + 1 :] if host != text else str(PORT)
    if not 0 < int(port or 0) < 65536:
        raise ValueError(f"{text!r} is not a name server such as ns1.x.com or 192.0.2.53\\:5353")
    return canonical_host(host), int(port)


def read_key(path: pathlib.Path) -> TsigKey:
    """The one key in a file as ``tsig-keygen`` writes it; raises `ValueError`, which has no secret in it."""
    try:
        # A pipe would wait for its writer.
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:
            about = os.fstat(file.fileno())
            text = file.read(MAX_KEY_FILE).decode() if stat.S_ISREG(about.st_mode) else ""
    except OSError as error:
        raise ValueError(f"the key file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        text = ""
    mode = stat.S_IMODE(about.st_mode)
    if mode & 0o007:
        raise ValueError(
            f"the key file {path} is open to everybody on this machine (mode {mode:04o}): "
            f"chmod o= {path}, and make a new key if others may have read it"
        )
    try:
        return parse_key(text)
    except ValueError as error:
        raise ValueError(f"the key file {path} {error}") from None


def parse_key(text: str) -> TsigKey:
    """The key of ``key "NAME" { algorithm hmac-sha256; secret "BASE64"; };``.

    Raises `ValueError` that reads on after the name of a file, and has no secret in it.
    """
    found = _KEY.fullmatch(_COMMENT.sub(" ", text))
    if found is None:
        raise ValueError(
            'does not hold one key, and only that: key "NAME" { algorithm hmac-sha256; secret "..."; };'
        )
    name, body = found.groups()
    statements = dict(_STATEMENT.findall(body))
    if _STATEMENT.sub("", body).strip() or set(statements) != {"algorithm", "secret"}:
        raise ValueError("has a key with something else than one algorithm and one secret")
    algorithm = statements["algorithm"].lower().removesuffix(".")
    if algorithm not in ALGORITHMS:
        raise ValueError(f"has a key with algorithm {algorithm[:40]!r}, not one of {', '.join(ALGORITHMS)}")
    try:
        secret = base64.b64decode(statements["secret"], validate=True)
        dns.name.from_text(name)
    except ValueError:
        raise ValueError("has a secret that is not base64") from None
    except dns.exception.DNSException:
        raise ValueError(f"has a key with a name that is none: {name[:40]!r}") from None
    if not secret:
        raise ValueError("has an empty secret")
    return TsigKey(name, algorithm, secret)


@implementer(IDnsProvider)
class Rfc2136:
    """Sends updates for its zones to one primary name server, `host`, in the reactor's threads.

    `zone` is "" where the server is to be asked in which zone a name is.
    """

    def __init__(
        self, reactor: Any, host: str, port: int, key: TsigKey, zone: str = "", ttl: int = 60
    ) -> None:
        self._reactor = reactor
        self._host, self._port = host, port
        self._key = key
        self._zone = zone
        self._ttl = ttl

    def __repr__(self) -> str:
        return f"<Rfc2136 at {self._server}>"

    @property
    def _server(self) -> str:
        return f"{bracketed(self._host)}:{self._port}"

    def present(self, name: str, value: str) -> Deferred[None]:
        """See `IDnsProvider`; fails with `AcmeError` that says what to look at."""
        return self._in_thread(name, lambda update, owner: update.add(owner, self._ttl, _text(value)))

    def remove(self, name: str, value: str) -> Deferred[None]:
        """See `IDnsProvider`; fails as `present` does."""
        return self._in_thread(name, lambda update, owner: update.delete(owner, _text(value)))

    def _in_thread(self, name: str, change: Callable[..., None]) -> Deferred[None]:
        done: Deferred[None] = deferToThreadPool(
            self._reactor, self._reactor.getThreadPool(), self._update, name, change
        )
        return done

    def _update(self, name: str, change: Callable[..., None]) -> None:
        """Blocks, all in all at most `SECONDS` for each try, address and question."""
        with self._in_words():
            owner = dns.name.from_text(name)
            zone = dns.name.from_text(self._zone) if self._zone else self._zone_of(owner)
            if not owner.is_subdomain(zone):
                raise AcmeError(f"{name} is not in the zone {self._zone} that --acme-dns names")
            update = dns.update.UpdateMessage(zone)
            change(update, owner)
            key = self._key
            update.use_tsig(dns.tsig.Key(key.name, key.secret, key.algorithm))
            reply = self._ask(update)
        if reply.rcode() != dns.rcode.NOERROR:
            raise AcmeError(self._why_not(reply.rcode(), name, zone.to_text(omit_final_dot=True)))
        if not reply.had_tsig:
            raise AcmeError(f"{self._server} does not sign its answer: it may be from somebody else")

    def _zone_of(self, owner: dns.name.Name) -> dns.name.Name:
        query = dns.message.make_query(owner, "SOA", flags=0)
        reply = self._ask(query)
        for rrset in [*reply.answer, *reply.authority]:
            if rrset.rdtype == dns.rdatatype.SOA and owner.is_subdomain(rrset.name):
                return rrset.name
        raise AcmeError(
            f"{self._server} does not say which zone {owner.to_text(omit_final_dot=True)} is in "
            f"({dns.rcode.to_text(reply.rcode())}): is it the server for it? If it is, name the zone (zone=)"
        )

    def _ask(self, message: dns.message.Message) -> dns.message.Message:
        error: OSError | None = None
        for address in self._addresses():
            try:
                return _ask(message, address, self._port)
            except OSError as caught:
                error = caught
        assert error is not None
        raise error

    def _addresses(self) -> list[str]:
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_DGRAM)
        return list(dict.fromkeys(str(each[4][0]) for each in found))[:MOST_ADDRESSES]

    @contextlib.contextmanager
    def _in_words(self) -> Iterator[None]:
        name = self._key.name
        try:
            yield
        except dns.tsig.PeerBadKey:
            # Knot says so, too, where no acl allows the change.
            words = f"does not know the key {name}, or does not allow it this (BADKEY): look there at "
            words += "the key's name and algorithm, and at the zone's acl"
        except dns.tsig.PeerBadSignature:
            words = f"has another secret for the key {name} (BADSIG): compare it with the key file"
        except (dns.tsig.PeerBadTime, dns.tsig.BadTime):
            words = "has another time than this machine (BADTIME): over five minutes apart, set both clocks"
        except dns.tsig.BadSignature:
            words = f"signs its answer with another secret for the key {name} than the key file has"
        except TimeoutError:
            words = f"does not answer, neither by UDP nor by TCP, within {SECONDS:g} s each"
        except OSError as error:
            words = f"cannot be reached: {error.strerror or error}"
        except dns.exception.DNSException as error:
            words = f"gives an answer that cannot be used: {error}"
        else:
            return
        raise AcmeError(f"the name server {self._server} {words}")

    def _why_not(self, rcode: dns.rcode.Rcode, name: str, zone: str) -> str:
        reasons = {
            dns.rcode.NOTAUTH: f"is not the primary of the zone {zone}: look at the server and zone= given",
            dns.rcode.REFUSED: f"does not let the key {self._key.name} change TXT records at {name}: look at "
            f"what it allows the key in the zone {zone} (update-policy, allow-update, acl)",
            dns.rcode.NOTZONE: f"says that {name} is not in its zone {zone}: look at zone=",
            dns.rcode.SERVFAIL: f"could not change the zone {zone}: its log says why; often it may not write "
            "the file of the zone",
        }
        words = reasons.get(rcode, f"does not take the change of {name}")
        return f"the name server {self._server} {words} ({dns.rcode.to_text(rcode)})"


def _text(value: str) -> dns.rdtypes.ANY.TXT.TXT:
    return dns.rdtypes.ANY.TXT.TXT(dns.rdataclass.IN, dns.rdatatype.TXT, [value.encode("ascii")])


def _ask(message: dns.message.Message, address: str, port: int) -> dns.message.Message:
    """Its answer, by UDP or else by TCP; what was sent twice changes nothing twice."""
    wire = message.to_wire()
    try:
        reply = _read(_by_udp(wire, address, port), message)
        if not reply.flags & dns.flags.TC:
            return reply
    except dns.tsig.PeerError:
        raise
    except (OSError, dns.exception.DNSException):
        # Lost, or there is a wall, or it is from somebody else.
        pass
    return _read(_by_tcp(wire, address, port), message)


def _by_udp(wire: bytes, address: str, port: int) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.settimeout(SECONDS)
        # Connected, so that it hears of a closed port at once, and of nobody else.
        sock.connect((address, port))
        sock.send(wire)
        return sock.recv(65_535)


def _by_tcp(wire: bytes, address: str, port: int) -> bytes:
    with socket.create_connection((address, port), SECONDS) as sock, sock.makefile("rb") as stream:
        sock.sendall(len(wire).to_bytes(2) + wire)
        return stream.read(int.from_bytes(stream.read(2)))


def _read(wire: bytes, message: dns.message.Message) -> dns.message.Message:
    """The answer, checked if it is signed; the library would tell nothing of one that lacks a signature."""
    try:
        reply = dns.message.from_wire(wire)
    except dns.message.UnknownTSIGKey:
        reply = dns.message.from_wire(wire, keyring=message.keyring, request_mac=message.mac)
    if not message.is_response(reply):
        raise dns.query.BadResponse
    return reply
