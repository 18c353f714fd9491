from __future__ import annotations

import contextlib
import datetime
import socket
import ssl
import subprocess
import threading
import time

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.tls.authority import LEAF_LIFE, ROOT_LIFE, LocalAuthority, is_local
from onebackend_proxy.tls.certificates import covers, read_bundle

from ..properties import PROPERTY
from . import making
from .making import DAY, authority, made, record

NOW = making.now()
AUTHORITY = LocalAuthority.make(NOW)
HOSTS = ["localhost", "a.localhost", "a.b.localhost", "127.0.0.1", "192.168.1.20", "::1", "fe80::1"]
HOUR = datetime.timedelta(hours=1)


def leaf_of(certificate):
    return x509.load_pem_x509_certificate(certificate.chain.encode())


@pytest.mark.parametrize("host", [*HOSTS, "[::1]", "x" * 63 + ".localhost", "_a.localhost", "::ffff:7f00:1"])
def test_what_is_local(host):
    assert is_local(host)


@pytest.mark.parametrize(
    "host",
    [
        "",
        "x.com",
        "localhost.com",
        "xlocalhost",
        ".localhost",
        "a..localhost",
        "*.localhost",
        "localhost.",
        "LOCALHOST",
        "a b.localhost",
        "../localhost",
        "1.2.3",
        "127.1",
        "::g",
        "fe80::1%eth0",
        "[127.0.0.1",
    ],
)
def test_what_is_not_local(host):
    assert not is_local(host)
    with pytest.raises(ValueError, match="is not localhost, below it, or an IP address"):
        AUTHORITY.issue(host, NOW)


@pytest.mark.parametrize("host", [*HOSTS, "[::1]"])
def test_what_is_issued_passes_our_own_checks(host):
    issued = AUTHORITY.issue(host, NOW)
    assert issued.names == (host.strip("[]"),)
    assert covers(issued, host)
    read = read_bundle(issued.private_key + issued.chain, NOW, id=issued.id)
    assert read == issued
    assert issued.not_after == NOW + LEAF_LIFE
    assert issued.not_before == NOW - HOUR


def test_no_two_are_the_same():
    one, other = AUTHORITY.issue("localhost", NOW), LocalAuthority.make(NOW).issue("a.localhost", NOW)
    assert one.serial != other.serial != AUTHORITY.issue("localhost", NOW).serial
    # But for the key, which never leaves this process: making one takes longer than all else.
    assert one.private_key == other.private_key


def test_the_root():
    root = x509.load_pem_x509_certificate(AUTHORITY.root_pem.encode())
    assert root.not_valid_after_utc == AUTHORITY.not_after == NOW + ROOT_LIFE
    [name] = (str(each.value) for each in root.subject)
    assert name in repr(AUTHORITY)
    assert name.startswith(f"onebackend-proxy local authority {NOW:%Y-%m-%d} ")
    assert socket.gethostname() not in name
    assert root.subject != x509.load_pem_x509_certificate(LocalAuthority.make(NOW).root_pem.encode()).subject
    extensions = {type(each.value): each for each in root.extensions}
    basic = extensions[x509.BasicConstraints]
    assert (basic.critical, basic.value.ca, basic.value.path_length) == (True, True, 0)
    constraints = extensions[x509.NameConstraints]
    assert constraints.critical
    assert {str(each.value) for each in constraints.value.permitted_subtrees} == {
        "localhost",
        "0.0.0.0/0",
        "::/0",
    }
    usage = extensions[x509.KeyUsage]
    assert usage.critical
    assert usage.value.key_cert_sign
    assert not usage.value.digital_signature


def test_it_is_kept_as_text():
    again = LocalAuthority.from_pem(AUTHORITY.to_pem())
    assert again.to_pem() == AUTHORITY.to_pem()
    root = x509.load_pem_x509_certificate(again.root_pem.encode())
    leaf_of(again.issue("localhost", NOW)).verify_directly_issued_by(root)
    assert "PRIVATE" not in again.root_pem
    assert "PRIVATE" in again.to_pem()


@pytest.mark.parametrize(
    "text",
    [
        "",
        AUTHORITY.root_pem,
        AUTHORITY.to_pem()[:-40],
        AUTHORITY.to_pem() + making.root().pem,
        making.root().key_pem + AUTHORITY.root_pem,
        made("x.com").bundle,
        made("x.com", self_signed=True).bundle,
        authority("", kind="P-256", organization="Tests").bundle,
        authority("RSA", kind="RSA-2048").bundle,
    ],
)
def test_another_text_is_none(text):
    with pytest.raises(ValueError):
        LocalAuthority.from_pem(text)


def test_it_issues_until_it_ends():
    end = NOW + ROOT_LIFE
    assert AUTHORITY.issue("localhost", end - DAY).not_after == end
    with pytest.raises(ValueError, match=f"^the local authority ended on {end:%Y-%m-%d}$"):
        AUTHORITY.issue("localhost", end)


def test_issuing_takes_no_time():
    AUTHORITY.issue("localhost", NOW)
    took = []
    for number in range(50):
        began = time.process_time()
        AUTHORITY.issue(f"{number}.localhost", NOW)
        took.append(time.process_time() - began)
    assert sorted(took)[25] < 0.001


@PROPERTY
@given(
    st.text(max_size=30)
    | st.sampled_from(["", "a", "a.b", "*", "x.com\0"]).map("{}.localhost".format)
    | st.ip_addresses().map(str)
)
def test_any_host(host):
    if is_local(host):
        assert covers(AUTHORITY.issue(host, NOW), host)
    else:
        with pytest.raises(ValueError):
            AUTHORITY.issue(host, NOW)


# What real clients think of it.


def forged(name):
    """What somebody who stole the root would make, by its name and key."""
    [key, root] = AUTHORITY._key, AUTHORITY._root
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(root.subject)
        .public_key(making.known_key().public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .add_extension(making.alternative_names([name]), critical=True)
        .add_extension(AUTHORITY._identifier, critical=False)
    )
    return making.Made(builder.sign(key, hashes.SHA256()), making.known_key())


def verify(folder, pem, *options):
    (folder / "root.pem").write_text(AUTHORITY.root_pem)
    (folder / "leaf.pem").write_text(pem)
    command = ["openssl", "verify", "-x509_strict", "-purpose", "sslserver", "-CAfile", "root.pem"]
    ran = subprocess.run([*command, *options, "leaf.pem"], cwd=folder, capture_output=True, text=True)
    return ran.stdout + ran.stderr


@pytest.mark.parametrize("host", HOSTS)
def test_openssl_in_its_strict_mode(tmp_path, host):
    which = "-verify_hostname" if "localhost" in host else "-verify_ip"
    pem = AUTHORITY.issue(host, NOW).chain
    assert verify(tmp_path, pem, which, host) == "leaf.pem: OK\n"
    assert "mismatch" in verify(tmp_path, pem, "-verify_hostname", "other.localhost")
    assert verify(tmp_path, AUTHORITY.root_pem, "-purpose", "any") == "leaf.pem: OK\n"


@pytest.mark.parametrize("name", ["x.com", "localhost.com", "notlocalhost"])
def test_a_stolen_root_is_good_for_no_domain(tmp_path, name):
    assert "permitted subtree violation" in verify(tmp_path, forged(name).pem)


@contextlib.contextmanager
def serving(folder, private_key, chain, family=socket.AF_INET):
    """An https server of the standard library with this certificate; its port."""
    (folder / "served.pem").write_text(private_key + chain)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "served.pem")
    listening = socket.socket(family)
    with listening:
        listening.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listening.listen()

        def serve():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                with contextlib.suppress(OSError), connection:
                    connection.settimeout(10)
                    with context.wrap_socket(connection, server_side=True) as secured:
                        secured.recv(65536)
                        secured.sendall(
                            b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
                        )

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            # Closing it would not wake who waits in accept().
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.fixture
def root_file(tmp_path):
    path = tmp_path / "root.pem"
    path.write_text(AUTHORITY.root_pem)
    return str(path)


def curl(root_file, url, *options):
    command = ["curl", "-sS", "--max-time", "10", "--noproxy", "*", "--cacert", root_file, *options, url]
    return subprocess.run(command, capture_output=True, text=True)


def python_client(root_file, port, host):
    context = ssl.create_default_context(cafile=root_file)
    # The default from Python 3.13 on.
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    with socket.create_connection(("127.0.0.1", port), 10) as connection:
        return context.wrap_socket(connection, server_hostname=host)


@pytest.mark.parametrize("host", ["localhost", "a.b.localhost", "127.0.0.1"])
def test_curl_python_and_requests(tmp_path, root_file, host):
    issued = AUTHORITY.issue(host, NOW)
    with serving(tmp_path, issued.private_key, issued.chain) as port:
        url = f"https://{host}:{port}/"
        assert curl(root_file, url, "--resolve", f"{host}:{port}:127.0.0.1").stdout == "ok"
        with python_client(root_file, port, host) as secured:
            assert secured.version() == "TLSv1.3"
        if host != "a.b.localhost":
            # Whether that resolves is for the system to say.
            with requests.Session() as session:
                session.trust_env = False
                assert session.get(url, verify=root_file, timeout=10).text == "ok"
                with pytest.raises(requests.exceptions.SSLError):
                    session.get(url, timeout=10)


def test_curl_over_ipv6(tmp_path, root_file):
    issued = AUTHORITY.issue("::1", NOW)
    try:
        with serving(tmp_path, issued.private_key, issued.chain, socket.AF_INET6) as port:
            assert curl(root_file, f"https://[::1]:{port}/").stdout == "ok"
    except OSError:
        pytest.skip("this machine has no IPv6")


def test_clients_refuse_what_a_stolen_root_signed(tmp_path, root_file):
    made = forged("x.com")
    with serving(tmp_path, made.key_pem, made.pem) as port:
        ran = curl(root_file, f"https://x.com:{port}/", "--resolve", f"x.com:{port}:127.0.0.1")
        assert ran.returncode == 60
        assert "permitted subtree violation" in ran.stderr
        with pytest.raises(ssl.SSLCertVerificationError, match="permitted subtree violation"):
            python_client(root_file, port, "x.com")


def test_another_root_is_another(tmp_path, root_file):
    stranger = LocalAuthority.make(NOW).issue("localhost", NOW)
    with serving(tmp_path, stranger.private_key, stranger.chain) as port:
        assert curl(root_file, f"https://localhost:{port}/").returncode == 60


def test_the_test_certificates_are_good_too(tmp_path):
    """They are what everybody's tests show to real clients."""
    leaf = made("x.com", common_name="x.com")
    kept = record("y.com", "*.y.com")
    (tmp_path / "root.pem").write_text(making.root().pem)
    for name, key, chain in (("x.com", leaf.key_pem, leaf.chain), ("a.y.com", kept.private_key, kept.chain)):
        with serving(tmp_path, key, chain) as port:
            ran = curl(
                str(tmp_path / "root.pem"), f"https://{name}:{port}/", "--resolve", f"{name}:{port}:127.0.0.1"
            )
            assert ran.stdout == "ok", ran.stderr
