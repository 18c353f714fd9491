"""Addresses of instances and targets: parsed once, strictly, into one canonical form.

The URL grammar is RFC 3986's; what a proxy cannot connect to is refused with a message that says why.
"""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import SplitResult, urlsplit

import attrs
import idna

DEFAULT_PORTS = {"http": 80, "https": 443}
_SLUG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_UNFIT = re.compile(r"[\x00-\x20\x7f-\x9f\"<>\\^`{|}]")
_LITERAL = re.compile(r"\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\](?::.*)?")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_DOT_SEGMENT = re.compile(r"/(?:\.|%2e){1,2}(?:/|\Z)", re.IGNORECASE)
_PORT = re.compile(r":([0-9]*)\Z")
_ORIGIN = re.compile(r"(?:[A-Za-z][A-Za-z0-9+.-]*://)?[^/?#]*")
_KINDS = ("service", "unix")
MAX_SLUG = 64
MAX_URL = 2048
MAX_SOCKET = 107
"""Bytes of the path of a Unix socket: the kernel's own limit (unix(7))."""


@attrs.frozen
class Address:
    """Where one instance or target listens: `scheme` is http or https, `path` is "" or "/...".

    `host` is lower-case ASCII: a name, an IPv4 address, or an IPv6 address without brackets. A Unix socket
    has no host and port 0, and `socket` is its path. `verify` says whether the certificate must be right,
    where there is one.
    """

    scheme: str
    host: str
    port: int
    path: str = ""
    socket: str = ""
    verify: bool = True

    @property
    def authority(self) -> str:
        """``host:port`` or ``unix:/PATH``, the form that logs show."""
        return f"unix:{self.socket}" if self.socket else f"{bracketed(self.host)}:{self.port}"

    @property
    def url(self) -> str:
        """The canonical URL: the default port and a trailing slash left out."""
        if self.socket:
            return f"unix:{self.socket}"
        port = "" if DEFAULT_PORTS[self.scheme] == self.port else f":{self.port}"
        return f"{self.scheme}://{bracketed(self.host)}{port}{self.path}"


def is_slug(text: str) -> bool:
    """Whether `text` may name a service or an account."""
    return len(text) <= MAX_SLUG and _SLUG.fullmatch(text) is not None


def bracketed(host: str) -> str:
    """The host as a URL spells it: IPv6 addresses in brackets (RFC 3986, 3.2.2)."""
    return f"[{host}]" if ":" in host else host


def canonical_host(text: str) -> str:
    """Lower-case ASCII of a host name or IP address, without trailing dot or brackets.

    Raises `ValueError` that says what is wrong. International names become A-labels (RFC 5891).
    """
    host = text.strip().removesuffix(".")
    if not host:
        raise ValueError("the host is empty")
    if host.startswith("[") and host.endswith("]"):
        try:
            # A zone (RFC 6874) means something on one machine only, and Python lets any character into it.
            address = ipaddress.IPv6Address("" if "%" in host else host[1:-1])
        except ValueError:
            raise ValueError(f"{host!r} is not an IPv6 address") from None
        mapped = address.ipv4_mapped
        if mapped is not None:
            # Python 3.13 began to write these with dots; what is kept must not depend on that.
            return f"::ffff:{int(mapped) >> 16:x}:{int(mapped) & 0xFFFF:x}"
        return address.compressed
    if not host.isascii():
        try:
            host = idna.encode(host, uts46=True).decode("ascii")
        except idna.IDNAError as error:
            raise ValueError(f"{text!r} is not a host name: {error}") from None
    host = host.lower()
    labels = host.split(".")
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise ValueError(f"{text!r} is not a host name")
    if labels[-1].isdigit():
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise ValueError(f"{text!r} is not an IPv4 address") from None
    return host


def without_port(authority: str) -> str:
    """``HOST`` of ``HOST`` or ``HOST:PORT``; raises `ValueError` for a port over 65535."""
    found = None if authority.endswith("]") else _PORT.search(authority)
    if found is None:
        return authority
    if len(found[1].lstrip("0")) > 5 or int(found[1] or 0) > 65535:
        raise ValueError("has a port over 65535")
    return authority[: found.start()]


def _split(text: str) -> tuple[SplitResult, int | None]:
    if len(text) > MAX_URL:
        raise ValueError(f"longer than {MAX_URL} characters")
    unfit = _UNFIT.search(text)
    if unfit:
        raise ValueError(f"has a character that no URL may hold: {unfit.group()!r}")
    # The library's own messages repeat what may be a password: ``http://user:pass/word@host``.
    try:
        parts = urlsplit(text)
    except ValueError:
        raise ValueError("not a URL: its host is none") from None
    if "[" in parts.netloc and not _LITERAL.fullmatch(parts.netloc.rpartition("@")[2]):
        raise ValueError("not a URL: what stands in brackets is not an IPv6 address")
    try:
        port = parts.port
    except ValueError:
        raise ValueError("not a URL: its port is not a number up to 65535") from None
    return parts, port


def parse_instance_url(url: str) -> Address:
    """Parse the URL of an instance: http or https, a host, nothing but an optional port and path.

    Raises `ValueError` that names what is wrong, and never repeats credentials.
    """
    if "://" not in url:
        raise ValueError("has no scheme: write http://HOST:PORT or https://HOST:PORT")
    parts, port = _split(url)
    if "@" in parts.netloc:
        raise ValueError("must not carry credentials")
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError(f"has the scheme {parts.scheme!r}: only http and https can be proxied")
    if not parts.hostname:
        raise ValueError("has no host")
    if parts.query or "?" in url:
        raise ValueError("must not have a query")
    if parts.fragment or "#" in url:
        raise ValueError("must not have a fragment")
    if port == 0:
        raise ValueError("has port 0")
    host = canonical_host(f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname)
    if not parts.path.isascii():
        raise ValueError("has a path that is not ASCII: percent-encode it")
    return Address(parts.scheme, host, port or DEFAULT_PORTS[parts.scheme], parts.path.rstrip("/"))


def service_of(target: str) -> str | None:
    """The slug of ``service:SLUG``, None for another kind of target; raises `ValueError` for no slug."""
    kind, colon, slug = target.strip().partition(":")
    if kind != "service" or not colon:
        return None
    if not is_slug(slug):
        raise ValueError(f"names {slug!r}, which is not a service slug")
    return slug


def parse_target(text: str, verify: bool = True) -> Address:
    """Parse a target that is an address: what `check_target` takes, but for ``service:SLUG``.

    `verify` is whether its certificate must be right, if it is https. Raises `ValueError` that names what is
    wrong.
    """
    target = text.strip()
    if not target:
        raise ValueError("is empty")
    kind, colon, path = target.partition(":")
    if kind == "service" and colon:
        raise ValueError("names a service, where an address is needed")
    if kind == "unix" and colon:
        if not path.startswith("/") or _UNFIT.search(path) or len(path.encode()) > MAX_SOCKET:
            raise ValueError(f"needs an absolute path of at most {MAX_SOCKET} bytes after unix:")
        return Address("http", "", 0, socket=path)
    if colon and kind not in _KINDS and kind.lower() in _KINDS:
        raise ValueError(f"begins with {kind}: where {kind.lower()}: is meant")
    if kind.lower() in DEFAULT_PORTS and path.startswith("/") and not path.startswith("//"):
        raise ValueError(f"has one slash behind {kind}: where there are two")
    address = parse_instance_url(target if "://" in target else f"http://{target}")
    if _BAD_ESCAPE.search(address.path):
        raise ValueError("has a path with a broken percent-encoding")
    if _DOT_SEGMENT.search(address.path):
        raise ValueError("has a path with a dot segment")
    return address if verify or address.scheme != "https" else attrs.evolve(address, verify=False)


def check_target(text: str) -> str:
    """Check a Route's target and return it as it is to be kept.

    It is ``http(s)://HOST[:PORT][/PATH]``, the same without a scheme, ``unix:/PATH`` or
    ``service:SLUG``. Raises `ValueError` that names what is wrong.
    """
    target = text.strip()
    if service_of(target) is None:
        parse_target(target)
    return target


def auth_target(url: str) -> tuple[str, str]:
    """Take the URL of a service that is asked who may come in apart: its target, and the request target.

    It is ``http(s)://HOST[:PORT]``, the same without a scheme, ``service:SLUG`` or ``unix:/PATH:``, and
    behind it ``/PATH?QUERY``; without that it is ``/``. Raises `ValueError` that names what is wrong, and
    never repeats credentials.
    """
    text = url.strip()
    if text.startswith("unix:/"):
        socket, colon, rest = text.partition(":/")[2].partition(":/")
        target, rest = f"unix:/{socket}", colon[1:] + rest
    else:
        found = _ORIGIN.match(text)
        target = found.group() if found else ""
        if target.lower() in ("http:", "https:"):
            # One slash is missing: the rule for targets says so.
            check_target(text)
        rest = text[len(target) :]
    _check_request_target(rest)
    return check_target(target), rest if rest.startswith("/") else f"/{rest}"


def _check_request_target(text: str) -> None:
    """Refuse a path and query that cannot be sent as they are."""
    if len(text) > MAX_URL:
        raise ValueError(f"longer than {MAX_URL} characters")
    if "#" in text:
        raise ValueError("must not have a fragment")
    if not text.isascii():
        raise ValueError("has a path or query that is not ASCII: percent-encode it")
    if _UNFIT.search(text):
        raise ValueError("has a character in its path or query that no URL may hold")
    if _BAD_ESCAPE.search(text):
        raise ValueError("has a broken percent-encoding")


def check_redirect_target(text: str) -> str:
    """Check a Redirect's target, an http(s) URL or an absolute path, and return it to be kept.

    Raises `ValueError` that names what is wrong.
    """
    target = text.strip()
    if not target:
        raise ValueError("is empty")
    parts, port = _split(target)
    if target.startswith("/"):
        if target.startswith("//"):
            raise ValueError("must not begin with two slashes: that names another host")
        return target
    if parts.scheme not in DEFAULT_PORTS:
        raise ValueError("must be an http:// or https:// URL, or a path that begins with /")
    if "@" in parts.netloc:
        raise ValueError("must not carry credentials")
    if not parts.hostname:
        raise ValueError("has no host")
    if port == 0:
        raise ValueError("has port 0")
    canonical_host(f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname)
    return target
