"""What the settings for ACME (RFC 8555) may be; every `ValueError` reads on after the name of an option."""

from __future__ import annotations

import base64
import ipaddress
import pathlib
import re

from .addresses import canonical_host, check_redirect_target

LETS_ENCRYPT = "https://acme-v02.api.letsencrypt.org/directory"
OFF = "off"
DNS_PORT = 53
MAX_MAILBOX = 64
"""Characters before the @ (RFC 5321, 4.5.3.1.1)."""
# RFC 5322's atext without what means something in the mailto URL that becomes of it (RFC 6068).
_MAILBOX = re.compile(r"[A-Za-z0-9!#$&'*+/=^_`{|}~-]+(?:\.[A-Za-z0-9!#$&'*+/=^_`{|}~-]+)*")
_WORD = re.compile(r"[!-~]{1,255}")
_BASE64URL = re.compile(r"[A-Za-z0-9_-]+={0,2}")


def email(text: str) -> str:
    """One mail address, nothing before it or around it."""
    mailbox, _at, domain = text.strip().rpartition("@")
    try:
        if len(mailbox) > MAX_MAILBOX or not _MAILBOX.fullmatch(mailbox) or "." not in canonical_host(domain):
            raise ValueError
    except ValueError:
        raise ValueError(f"{text!r} is not one mail address such as ada@x.com") from None
    return f"{mailbox}@{canonical_host(domain)}"


def directories(text: str) -> tuple[str, ...]:
    """URLs separated by commas, in the order in which they are tried, each once; none for ``off``."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    if words == [OFF]:
        return ()
    if not words:
        raise ValueError(f"names no directory: give https:// URLs separated by commas, or {OFF}")
    return tuple(dict.fromkeys(_directory(word, number) for number, word in enumerate(words, 1)))


def _directory(url: str, number: int) -> str:
    # A URL may carry a password: it is told by its place.
    if url.lower() == OFF:
        raise ValueError(f"URL {number} is {OFF}, which stands alone")
    if not url.startswith("https://"):
        raise ValueError(f"URL {number} does not begin with https://")
    try:
        check_redirect_target(url)
    except ValueError as error:
        raise ValueError(f"URL {number} {error}") from None
    if "#" in url:
        raise ValueError(f"URL {number} must not have a fragment")
    return url


def ca_file(text: str) -> pathlib.Path:
    """A file of PEM certificates that can be read, by its absolute path."""
    from cryptography import x509

    try:
        path = pathlib.Path(text).expanduser().absolute()
        x509.load_pem_x509_certificates(path.read_bytes())
    except OSError as error:
        raise ValueError(f"{text!r} cannot be read: {error.strerror}") from None
    except (ValueError, RuntimeError):
        raise ValueError(f"{text!r} holds no certificates in PEM that can be read") from None
    return path


def word(text: str) -> str:
    """Printable ASCII without spaces, as names that an authority gives are."""
    if not _WORD.fullmatch(text):
        raise ValueError(f"{text!r} is not a word of at most 255 printable ASCII characters")
    return text


def hmac_key(text: str) -> str:
    """A key in base64url (RFC 4648, 5), given back without padding; no error repeats it."""
    key = text.strip()
    try:
        if not _BASE64URL.fullmatch(key):
            raise ValueError
        key = key.rstrip("=")
        base64.urlsafe_b64decode(key + "=" * (-len(key) % 4))
    except ValueError:
        raise ValueError("is not base64url: give the key as the authority shows it") from None
    return key


def name_server(text: str) -> tuple[str, int]:
    """Address and port of ``ADDRESS[:PORT]``, where an IPv6 address stands in brackets."""
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::([0-9]{1,5}))?", text.strip(), re.ASCII)
    try:
        if found is None:
            raise ValueError
        address = ipaddress.IPv6Address(found[1]) if found[1] else ipaddress.IPv4Address(found[2])
        port = int(found[3] or DNS_PORT)
        if not 0 < port < 65536:
            raise ValueError
    except ValueError:
        raise ValueError(
            f"{text!r} is not a name server such as 192.0.2.53, or [2001:db8::53]:5353"
        ) from None
    return str(address), port
