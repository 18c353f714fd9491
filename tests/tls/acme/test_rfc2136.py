"""Updates, against a real name server: what it takes, and what is said when it does not."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import socket
import subprocess
from typing import Any

import dns.rcode
import dns.tsig
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zope.interface.verify import verifyObject

from onebackend_proxy.errors import ProxyError
from onebackend_proxy.tls.acme import rfc2136
from onebackend_proxy.tls.acme.dns import IDnsProvider, dns_provider
from onebackend_proxy.tls.acme.rfc2136 import ALGORITHMS, parse_key, read_key

from ...e2e.waiting import free_port
from ...nameserver import SECRET, NameServer, start_nameserver
from ...properties import PROPERTY
from .threads import Threadless, result_of

pytestmark = pytest.mark.once

NAME = "_acme-challenge.x.test"
KEY = f'key "acme" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'
OTHER_SECRET = "YW5vdGhlciBzZWNyZXQgb2YgdGhpcnR5LXR3byBieXQ="


@pytest.fixture(scope="module", params=["knot", "bind"])
def server(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param) / "n"
    with start_nameserver(folder, "x.test", "sub.x.test", "y.test", kind=request.param) as server:
        yield server


def provider(server: NameServer, **words: str) -> Any:
    named = "".join(f":{name}={word}" for name, word in words.items())
    text = server.setting.partition(":key=")[0] if "key" in words else server.setting
    return dns_provider(text + named, Threadless())


def words_of(done: Any) -> str:
    with pytest.raises(ProxyError) as caught:
        result_of(done)
    assert SECRET not in repr(caught.value) + caught.value.detail
    return caught.value.message


def key_file(tmp_path: pathlib.Path, text: str = KEY, mode: int = 0o600) -> pathlib.Path:
    path = tmp_path / "some.key"
    path.write_text(text)
    path.chmod(mode)
    return path


def test_texts_stand_beside_each_other_and_go_one_by_one(server):
    sut = provider(server)
    assert verifyObject(IDnsProvider, sut)
    for value in ("first", "second", "second"):
        result_of(sut.present(NAME, value))
    assert server.texts(NAME) == {"first", "second"}
    result_of(sut.remove(NAME, "first"))
    result_of(sut.remove(NAME, "never-there"))
    assert server.texts(NAME) == {"second"}
    result_of(sut.remove(NAME, "second"))
    assert server.texts(NAME) == set()


def test_the_nearest_zone_is_found(server):
    sut = provider(server)
    for name in ("_acme-challenge.a.b.x.test", "_acme-challenge.a.sub.x.test", "sub.x.test"):
        result_of(sut.present(name, "v"))
        assert server.texts(name) == {"v"}
        result_of(sut.remove(name, "v"))


def test_a_zone_that_is_named_is_not_looked_for(server, monkeypatch):
    sut = provider(server, zone="X.test.", ttl="7")
    monkeypatch.setattr(sut, "_zone_of", None)
    result_of(sut.present(NAME, "v"))
    assert server.texts(NAME) == {"v"}
    result_of(sut.remove(NAME, "v"))


def test_a_zone_that_does_not_have_the_name(server):
    said = words_of(provider(server, zone="y.test").present(NAME, "v"))
    assert said == f"{NAME} is not in the zone y.test that --acme-dns names"


def test_a_zone_that_the_server_does_not_have(server):
    assert "(REFUSED)" in words_of(provider(server).present("_acme-challenge.z.example", "v"))
    said = words_of(provider(server, zone="z.example").present("_acme-challenge.z.example", "v"))
    assert said.endswith(
        "is not the primary of the zone z.example: look at the server and zone= given (NOTAUTH)"
    )


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (KEY.replace('"acme"', '"acne"'), r"does not know the key acne, "),
        (KEY.replace("sha256", "sha512"), r"does not know the key acme, "),
        (KEY.replace(SECRET, OTHER_SECRET), r"has another secret for the key acme \(BADSIG\)"),
    ],
    ids=["name", "algorithm", "secret"],
)
def test_wrong_keys(server, tmp_path, key, said):
    sut = provider(server, key=str(key_file(tmp_path, key)))
    assert re.search(said, words_of(sut.present(NAME, "v")))
    assert server.texts(NAME) == set()


def test_clocks_that_differ(server, monkeypatch):
    import time as real

    class Later:
        def __getattr__(self, name):
            return getattr(real, name)

        def time(self):
            return real.time() + 3600

    monkeypatch.setattr("dns.message.time", Later())
    assert "(BADTIME): over five minutes apart" in words_of(provider(server).present(NAME, "v"))


def test_what_the_key_may_not_change(server, monkeypatch):
    import dns.rdata

    monkeypatch.setattr(rfc2136, "_text", lambda value: dns.rdata.from_text("IN", "A", "192.0.2.1"))
    said = words_of(provider(server).present(NAME, "v"))
    if server.kind == "knot":
        assert "or does not allow it this (BADKEY)" in said
    else:
        assert "does not let the key acme change TXT records at" in said
        assert said.endswith("(REFUSED)")


def test_one_that_hangs_and_goes_on(server, monkeypatch):
    monkeypatch.setattr(rfc2136, "SECONDS", 0.2)
    server.pause()
    try:
        said = words_of(provider(server, zone="x.test").present(NAME, "late"))
    finally:
        server.resume()
    assert said == (
        f"the name server {server.address} does not answer, neither by UDP nor by TCP, within 0.2 s each"
    )
    monkeypatch.setattr(rfc2136, "SECONDS", 5.0)
    # Both that it has heard meanwhile are done now; once more changes nothing.
    result_of(provider(server).present(NAME, "late"))
    result_of(provider(server).remove(NAME, "late"))
    assert server.texts(NAME) == set()


def test_one_that_is_down(tmp_path):
    port = free_port()
    sut = dns_provider(rf"rfc2136:127.0.0.1\:{port}:key={key_file(tmp_path)}", Threadless())
    assert words_of(sut.present(NAME, "v")) == (
        f"the name server 127.0.0.1:{port} cannot be reached: Connection refused"
    )


def test_a_name_that_has_no_address(tmp_path):
    sut = dns_provider(f"rfc2136:ns.invalid:key={key_file(tmp_path)}", Threadless())
    assert words_of(sut.remove(NAME, "v")).startswith("the name server ns.invalid:53 cannot be reached: ")


def test_the_next_address_of_its_name_is_tried(server, monkeypatch):
    def getaddrinfo(host, port, *more, **named):
        if host != "ns.x.test":
            return found(host, port, *more, **named)
        return [(2, 2, 17, "", (each, port)) for each in ("127.0.0.2", "127.0.0.1")]

    found = socket.getaddrinfo
    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    text = rf"rfc2136:ns.x.test\:{server.port}:key={server.key_file}"
    result_of(dns_provider(text, Threadless()).present(NAME, "v"))
    result_of(provider(server).remove(NAME, "v"))


def test_tcp_where_udp_is_walled_off(server, monkeypatch):
    def walled(*arguments):
        raise TimeoutError

    monkeypatch.setattr(rfc2136, "_by_udp", walled)
    result_of(provider(server).present(NAME, "v"))
    assert server.texts(NAME) == {"v"}
    result_of(provider(server).remove(NAME, "v"))


def test_an_answer_that_is_not_signed_is_not_believed(server, monkeypatch):
    def unsigned(message, address, port):
        reply = asked(message, address, port)
        reply.tsig = None
        return reply

    asked = rfc2136._ask
    monkeypatch.setattr(rfc2136, "_ask", unsigned)
    assert "does not sign its answer" in words_of(provider(server, zone="x.test").present(NAME, "v"))
    monkeypatch.undo()
    result_of(provider(server).remove(NAME, "v"))


@pytest.mark.parametrize("rcode", [dns.rcode.NOTZONE, dns.rcode.SERVFAIL, dns.rcode.NOTIMP])
def test_every_refusal_says_who_and_what(server, rcode):
    said = provider(server)._why_not(rcode, NAME, "x.test")
    assert said.startswith(f"the name server {server.address} ")
    assert said.endswith(f"({dns.rcode.to_text(rcode)})")


def test_a_key_as_tsig_keygen_writes_it(tmp_path):
    with contextlib.suppress(FileNotFoundError):
        text = subprocess.run(["tsig-keygen", "-a", "hmac-sha512", "acme"], check=True, capture_output=True)
        key = read_key(key_file(tmp_path, text.stdout.decode()))
        assert (key.name, key.algorithm, len(key.secret)) == ("acme", "hmac-sha512", 64)
    key = parse_key(
        "// made by hand\nkey acme. { # one\n secret " + SECRET + "; /* x\n */ algorithm HMAC-SHA1.; };"
    )
    assert (key.name, key.algorithm) == ("acme.", "hmac-sha1")
    assert dns.tsig.Key(key.name, key.secret, key.algorithm).algorithm == dns.tsig.HMAC_SHA1
    assert "sixteen" not in repr(key)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "does not hold one key"),
        (KEY + KEY, "does not hold one key"),
        (SECRET, "does not hold one key"),
        (KEY.replace("hmac-sha256", "hmac-md5"), "algorithm 'hmac-md5', not one of hmac-sha1"),
        (KEY.replace(SECRET, SECRET[1:]), "secret that is not base64"),
        (KEY.replace(SECRET, "===="), "secret"),
        (KEY.replace("secret", "sekret"), "something else than one algorithm and one secret"),
        (KEY.replace("algorithm", "secret"), "something else than one algorithm and one secret"),
        (KEY.replace("acme", "a..b"), "name that is none"),
    ],
)
def test_files_that_are_no_key(tmp_path, text, said):
    path = key_file(tmp_path, text)
    with pytest.raises(ValueError, match=said) as caught:
        read_key(path)
    assert SECRET[1:] not in str(caught.value)
    assert str(path) in str(caught.value)


@given(st.text(max_size=60) | st.text(alphabet='key "{};algorithmsecret-\n/*#=', max_size=60))
@PROPERTY
def test_any_text_is_a_key_or_is_told_what_it_is_not(text):
    for whole in (text, KEY.replace("acme", text), KEY.replace(SECRET, text)):
        try:
            key = parse_key(whole)
        except ValueError as error:
            assert "sha512" in str(error) or len(str(error)) < 200
        else:
            assert key.name
            assert key.secret
            assert key.algorithm in ALGORITHMS


@pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o644])
def test_a_key_that_is_open_to_everybody(tmp_path, mode):
    path = key_file(tmp_path, mode=mode)
    with pytest.raises(
        ValueError, match=rf"is open to everybody on this machine \(mode {mode:04o}\): chmod o= "
    ):
        read_key(path)
    path.chmod(0o640)
    assert read_key(path).name == "acme"


def test_key_files_that_cannot_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"none\.key cannot be read: No such file"):
        read_key(tmp_path / "none.key")
    with pytest.raises(ValueError, match=r"cannot be read: Is a directory|does not hold one key"):
        tmp_path.chmod(0o700)
        read_key(tmp_path)
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(ValueError, match="does not hold one key"):
        read_key(pipe)
    path = key_file(tmp_path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="does not hold one key"):
        read_key(path)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("192.0.2.53", "192.0.2.53:53"),
        (r"192.0.2.53\:5353", "192.0.2.53:5353"),
        (r"2001\:db8\:\:53", "[2001:db8::53]:53"),
        (r"[2001\:db8\:\:53]\:5353", "[2001:db8::53]:5353"),
        ("NS1.x.com", "ns1.x.com:53"),
    ],
)
def test_servers(tmp_path, words, shown):
    sut = dns_provider(f"rfc2136:{words}:key={key_file(tmp_path)}", Threadless())
    assert repr(sut) == f"<Rfc2136 at {shown}>"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "is not a host name|is empty"),
        (r"ns1\:", "is not a name server"),
        (r"ns1\:0", "is not a name server"),
        (r"ns1\:70000", "port over 65535"),
        ("ns 1", "is not a host name"),
        ("ns1:ttl=0", "ttl '0' is not a number of seconds"),
        ("ns1:ttl=1h", "ttl '1h' is not a number of seconds"),
        ("ns1:ttl=90000", "from 1 to 86400"),
        ("ns1:zone=a b", "is not a host name"),
        ("ns1:zone=.", "is empty"),
    ],
)
def test_words_that_are_wrong(tmp_path, words, said):
    with pytest.raises(ValueError, match=f"^rfc2136: .*(?:{said})"):
        dns_provider(f"rfc2136:{words}:key={key_file(tmp_path)}", Threadless())


def test_a_key_is_needed():
    with pytest.raises(
        ValueError, match=r"missing a required .*argument: 'key'; it is rfc2136:SERVER:key=KEY"
    ):
        dns_provider("rfc2136:ns1", Threadless())
    with pytest.raises(ValueError, match="key names no file"):
        dns_provider("rfc2136:ns1:key=", Threadless())
