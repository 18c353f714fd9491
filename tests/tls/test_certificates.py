from __future__ import annotations

import base64
import contextlib
import datetime
import itertools
import math
import re
import subprocess
import tempfile
import time

import attrs
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.tls.certificates import CertificateTable, certificate_name, covers, read_bundle
from onebackend_proxy.tls.pem import MAX_CERTIFICATES, MAX_TEXT, blocks

from ..properties import PROPERTY
from . import making
from .making import DAY, TRADITIONAL, authority, key_pem, known_key, made, record

# Of serial numbers that are not positive, which are refused.
pytestmark = pytest.mark.filterwarnings("ignore:Parsed a serial number")

NOW = making.now()
X = made("x.com", "www.x.com")
OTHER = made("y.com")
BLOCK = re.compile(r"-----BEGIN [A-Z ]+-----\n.*?-----END [A-Z ]+-----\n", re.DOTALL)


def refused(text, **more):
    with pytest.raises(ValueError) as caught:
        read_bundle(text, NOW, **more)
    message = str(caught.value)
    assert len(message) < 400
    assert no_secret_of(text, message)
    return message


def no_secret_of(text, message):
    lines = {line.strip() for line in text.splitlines() if len(line.strip()) > 20 and "-----" not in line}
    return not any(line in message for line in lines)


def pem_with(label, data=b"anything"):
    body = base64.b64encode(data).decode() if isinstance(data, bytes) else data
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def test_a_bundle():
    certificate = read_bundle(X.bundle, NOW)
    assert certificate.id == certificate.common_name == "x.com"
    assert certificate.names == ("x.com", "www.x.com")
    assert certificate.chain == X.pem + making.intermediate().pem
    assert certificate.private_key == X.key_pem
    assert certificate.issuer == "Test Intermediate"
    assert int(certificate.serial, 16) == X.certificate.serial_number
    assert certificate.serial == certificate.serial.upper()
    assert certificate.not_before == X.certificate.not_valid_before_utc
    assert certificate.not_after == X.certificate.not_valid_after_utc
    assert certificate.created_at == certificate.updated_at == NOW
    assert certificate.private_key not in repr(certificate)


def test_in_any_order():
    """Also with the root, with a certificate twice, with commentary and with other line ends."""
    parts = [X.key_pem, X.pem, making.intermediate().pem, making.root().pem]
    expected = "".join(parts[1:])
    for order in itertools.permutations(parts):
        assert read_bundle("".join(order), NOW).chain == expected
    spoilt = "\ufeffsubject=CN = x.com\r\n".join([*parts, *parts[1:]]).replace("\n", "\r\n   ")
    assert read_bundle(spoilt, NOW).chain == expected


def test_a_long_chain_is_put_in_order():
    above = [authority("Root")]
    for number in range(6):
        above.append(authority(f"Level {number}", above[-1]))
    leaf = made("x.com", issuer=above[-1])
    expected = [leaf, *reversed(above)]
    text = leaf.key_pem + "".join(each.pem for each in sorted(expected, key=lambda each: each.pem))
    assert read_bundle(text, NOW).chain == "".join(each.pem for each in expected)


def test_a_cross_signed_root_stands_before_its_twin():
    old, new = authority("Old Root"), authority("New Root")
    extensions = [(each.value, each.critical) for each in new.certificate.extensions]
    crossed = making.signed(extensions, new.key, old, common_name="New Root", organization="Tests")
    leaf = made("x.com", issuer=new)
    for order in itertools.permutations([leaf.key_pem, new.pem, crossed.pem, leaf.pem]):
        assert read_bundle("".join(order), NOW).chain == leaf.pem + crossed.pem + new.pem


def test_the_renewed_one_of_the_same_key_is_not_alone():
    renewed = made("x.com", key=X.key, ends=NOW + 200 * DAY)
    assert "does not belong to the chain: without a common name" in refused(X.bundle + renewed.pem)


def test_a_certificate_that_signed_itself():
    lone = made("x.com", self_signed=True, common_name="me", organization="mine")
    certificate = read_bundle(lone.bundle, NOW)
    assert (certificate.common_name, certificate.issuer, certificate.chain) == ("me", "me", lone.pem)


def test_an_issuer_without_a_common_name():
    issuer = authority("", organization="Only Organization")
    assert read_bundle(made("x.com", issuer=issuer).bundle, NOW).issuer == "Only Organization"


def test_names_are_fit_for_a_terminal():
    certificate = record("x.com", common_name="a\x1b[31m\nb")
    assert certificate.common_name == "a?[31m?b"


@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA-2048", "Ed25519"])
def test_kinds_of_keys(kind):
    leaf = made("x.com", key=known_key(kind))
    forms = [leaf.key_pem]
    if kind != "Ed25519":
        forms.append(key_pem(leaf.key, TRADITIONAL))
    for form in forms:
        assert read_bundle(leaf.pem + form, NOW).private_key == leaf.key_pem


@pytest.mark.parametrize(
    "kind, message",
    [
        ("RSA-1024", "has a private key of 1024 bits: RSA needs 2048 to 8192"),
        ("P-224", "has a private key on the curve secp224r1: use P-256, P-384 or P-521"),
        ("secp256k1", "has a private key on the curve secp256k1: use P-256, P-384 or P-521"),
        ("DSA-1024", "has a private key that is neither RSA nor ECDSA nor Ed25519"),
        ("Ed448", "has a private key that is neither RSA nor ECDSA nor Ed25519"),
    ],
)
def test_keys_that_clients_refuse(kind, message):
    assert refused(X.pem + key_pem(known_key(kind))) == message


def test_a_weak_key_above():
    weak = authority("Weak", making.root(), kind="RSA-1024")
    leaf = made("x.com", issuer=weak)
    assert "an authority's certificate with a key of 1024 bits" in refused(leaf.bundle)


def test_a_key_of_another_kind_above():
    leaf = made("x.com", issuer=authority("Odd", making.root(), kind="Ed448"))
    assert refused(leaf.bundle) == (
        "has an authority's certificate with a key that is neither RSA nor ECDSA nor Ed25519"
    )


def test_another_key_for_a_certificate_that_says_little():
    """It does not say that it is no authority's."""
    lone = making.signed([(making.alternative_names(["x.com"]), True)], known_key())
    assert refused(lone.pem + X.key_pem) == "has a private key that does not match the certificate"


def with_old_signature(made, number, digest):
    """The same, signed with another digest and RSA: no library makes that now, but the `openssl` command."""
    oid, new = bytes.fromhex("2a864886f70d01010b"), bytes.fromhex("2a864886f70d0101") + bytes([number])
    text = made.certificate.tbs_certificate_bytes.replace(oid, new)
    with tempfile.NamedTemporaryFile() as file:
        file.write(key_pem((made.issuer or made).key).encode())
        file.flush()
        command = ["openssl", "dgst", f"-{digest}", "-sign", file.name]
        signature = subprocess.run(command, input=text, check=True, capture_output=True).stdout
    der = made.certificate.public_bytes(serialization.Encoding.DER).replace(oid, new)
    der = der.replace(made.certificate.signature, signature)
    return attrs.evolve(made, certificate=x509.load_der_x509_certificate(der))


@pytest.mark.parametrize("number, digest", [(4, "md5"), (5, "sha1")])
def test_old_signatures(number, digest):
    message = f"has a certificate signed with {digest.upper()}, which clients refuse"
    issuer = authority("A", kind="RSA-2048")
    leaf = with_old_signature(made("x.com", issuer=issuer), number, digest)
    assert refused(leaf.bundle) == refused(leaf.bundle + issuer.pem) == message
    lone = with_old_signature(made("x.com", key=known_key("RSA-2048"), self_signed=True), number, digest)
    assert refused(lone.bundle) == message


def test_an_old_signature_above_the_leaf_but_not_on_a_root():
    root = with_old_signature(authority("Root", kind="RSA-2048"), 5, "sha1")
    leaf = made("x.com", issuer=root)
    assert read_bundle(leaf.bundle + root.pem, NOW).chain == leaf.pem + root.pem
    between = with_old_signature(authority("Between", root), 5, "sha1")
    leaf = made("x.com", issuer=between)
    assert refused(leaf.bundle) == "has an authority's certificate signed with SHA1, which clients refuse"


def test_a_signature_of_no_known_kind():
    issuer = authority("A", kind="RSA-2048")
    leaf = with_old_signature(made("x.com", issuer=issuer), 0x63, "sha256")
    assert refused(leaf.bundle) == "has a certificate with a signature of no known kind"


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is not PEM: it has no -----BEGIN ...----- block"),
        ("hello", "is not PEM: it has no -----BEGIN ...----- block"),
        (" " * (MAX_TEXT + 1), "is longer than 64 KiB"),
        (X.pem, "holds no private key"),
        (X.key_pem, "holds no certificate"),
        (X.bundle + X.key_pem, "holds more than one private key"),
        (
            X.key_pem + making.intermediate().pem,
            "holds no certificate of a server, only those of authorities",
        ),
        (X.pem + key_pem(known_key()), "has a private key that does not match the certificate"),
        (
            X.pem + key_pem(X.key, password=b"secret"),
            "has a private key that is encrypted: decrypt it first (openssl pkey)",
        ),
        (
            X.pem + key_pem(X.key, TRADITIONAL, b"secret"),
            "has a private key that is encrypted: decrypt it first (openssl pkey)",
        ),
        (
            X.bundle + authority("Stranger").pem,
            "holds a certificate that does not belong to the chain: Stranger",
        ),
        (X.key_pem + X.pem * (MAX_CERTIFICATES + 1), "holds more than 10 certificates"),
        (
            X.bundle + pem_with("CERTIFICATE REQUEST"),
            "holds what is neither certificate nor key: block 4 (CERTIFICATE REQUEST)",
        ),
        (
            X.bundle + pem_with("secret\x1b[31m"),
            "holds what is neither certificate nor key: block 4 (unknown)",
        ),
        (X.key_pem + pem_with("CERTIFICATE"), "has a broken certificate (block 2)"),
        (X.pem + pem_with("PRIVATE KEY"), "has a broken private key (block 2)"),
        (X.pem + pem_with("PRIVATE KEY", ""), "has a broken block: number 2 (PRIVATE KEY) is not base64"),
        (
            X.key_pem + pem_with("CERTIFICATE", "MII*"),
            "has a broken block: number 2 (CERTIFICATE) is not base64",
        ),
        (
            X.key_pem + pem_with("CERTIFICATE", "MIIé"),
            "has a broken block: number 2 (CERTIFICATE) is not base64",
        ),
        (X.key_pem + X.pem[:-30], "has a broken block: number 2 has no end"),
        (X.key_pem + X.pem[30:], "has a broken block: number 2 has no beginning"),
        (X.key_pem[:-30] + X.pem, "has a broken block: number 1 has no end of its own"),
        (
            X.bundle.replace("END PRIVATE", "END RSA PRIVATE"),
            "has a broken block: number 1 has no end of its own",
        ),
    ],
)
def test_what_is_wrong_is_said(text, message):
    assert refused(text) == message


def test_parameters_beside_the_key_are_no_matter():
    text = pem_with("EC PARAMETERS") + X.bundle + pem_with("DH PARAMETERS")
    assert read_bundle(text, NOW) == read_bundle(X.bundle, NOW)


def test_an_expired_certificate():
    ended = datetime.datetime(2025, 3, 1, 12, 30, tzinfo=datetime.UTC)
    assert refused(made("x.com", begins=ended - DAY, ends=ended).bundle) == (
        "has a certificate that expired on 2025-03-01 12:30 UTC"
    )
    assert "expired" in refused(made("x.com", begins=NOW - DAY, ends=NOW).bundle)
    read_bundle(made("x.com", ends=NOW + datetime.timedelta(seconds=1)).bundle, NOW)


def test_a_certificate_of_tomorrow():
    read_bundle(made("x.com", begins=NOW + DAY).bundle, NOW)
    begins = datetime.datetime(2999, 3, 1, 12, 30, tzinfo=datetime.UTC)
    assert refused(made("x.com", begins=begins).bundle) == (
        "has a certificate that begins on 2999-03-01 12:30 UTC only"
    )
    assert "begins on" in refused(made("x.com", begins=NOW + DAY + datetime.timedelta(seconds=1)).bundle)


def test_a_serial_number_that_is_none():
    """RFC 5280, 4.1.2.2: they are positive. What is shown of it would be a lie."""
    der = X.certificate.public_bytes(serialization.Encoding.DER)
    number = X.certificate.serial_number
    serial = number.to_bytes(number.bit_length() // 8 + 1, "big")
    for spoilt in (b"\x80" + serial[1:], bytes(len(serial))):
        pem = pem_with("CERTIFICATE", der.replace(serial, spoilt))
        assert refused(X.key_pem + pem) == "has a broken certificate (block 2)"


def test_names_in_canonical_form():
    names = ["X.com", "*.X.com", "xn--bcher-kva.example", "a_b.x.com", "127.0.0.1", "::1", "x.com"]
    assert record(*names).names == (
        "x.com",
        "*.x.com",
        "xn--bcher-kva.example",
        "a_b.x.com",
        "127.0.0.1",
        "::1",
    )


@pytest.mark.parametrize(
    "name",
    [
        ".",
        "x.com.",
        " x.com",
        "x..com",
        "-x.com",
        "*",
        "*.",
        "*.*.x.com",
        "w*.x.com",
        "x.*.com",
        "x.com:443",
        "",
        "http://x.com",
        "x com",
        "x/y",
        "../x",
        "a\0b",
        "a" * 64 + ".com",
        "x." * 127 + "x",
        "127.1",
        "[::1]",
        "127.0.0.1",
        "::1",
        "*.127.0.0.1",
    ],
)
def test_what_is_no_host_name(name):
    """Addresses neither: browsers do not look for them there."""
    alternative = x509.SubjectAlternativeName([x509.DNSName("y.com"), x509.DNSName(name)])
    leaf = making.signed([(alternative, True)], known_key())
    assert refused(leaf.bundle) == f"has a certificate for {name[:253]!r}, which is not a host name"


def test_a_common_name_is_no_name():
    message = "has a certificate without a DNS name or IP address (subjectAltName)"
    assert refused(made(common_name="x.com").bundle) == message
    mail = x509.SubjectAlternativeName([x509.RFC822Name("a@x.com")])
    assert refused(making.signed([(mail, True)], known_key()).bundle) == message


def test_certificates_of_clients():
    bundle = made("x.com", purpose=ExtendedKeyUsageOID.CLIENT_AUTH).bundle
    assert refused(bundle) == (
        "has a certificate that is not for servers (its extended key usage has no serverAuth)"
    )
    for purpose in (None, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE):
        read_bundle(made("x.com", purpose=purpose).bundle, NOW)


def test_the_id_is_one_of_the_names():
    text = made("x.com", "*.x.com", "10.0.0.1", "::1").bundle
    ids = {"": "x.com", "X.com.": "x.com", "*.x.com": "*.x.com", "10.0.0.1": "10.0.0.1", "::1": "::1"}
    assert {id: read_bundle(text, NOW, id=id).id for id in ids} == ids
    assert refused(text, id="y.com") == "is not for y.com, but for x.com, *.x.com, 10.0.0.1 and 1 more"
    assert refused(text, id="a.x.com").startswith("is not for a.x.com")
    assert refused(X.bundle, id="y.com") == "is not for y.com, but for x.com, www.x.com"
    assert refused(text, id="../x") == "'../x' is not a host name"
    with pytest.raises(ValueError, match="wildcard before an IP address"):
        certificate_name("*.10.0.0.1")


RSA_NUMBERS = ("p", "q", "d", "dmp1", "dmq1", "iqmp")


def der(tag, body):
    length = len(body)
    if length < 128:
        return bytes((tag, length)) + body
    size = (length.bit_length() + 7) // 8
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + body


def rsa_pem(n, e, p, q, d, dmp1, dmq1, iqmp):
    """A key in PKCS 1 (RFC 8017, A.1.2), whatever its numbers."""
    numbers = (0, n, e, d, p, q, dmp1, dmq1, iqmp)
    parts = [der(2, each.to_bytes(each.bit_length() // 8 + 1, "big")) for each in numbers]
    return pem_with("RSA PRIVATE KEY", der(0x30, b"".join(parts)))


def numbers_of(key):
    numbers = key.private_numbers()
    public = numbers.public_numbers
    return {"n": public.n, "e": public.e} | {name: getattr(numbers, name) for name in RSA_NUMBERS}


RIGHT = numbers_of(known_key("RSA-2048"))
RSA = made("x.com", key=known_key("RSA-2048"))


def belong(p, q):
    """All numbers of a key with these two, prime or not."""
    e = RIGHT["e"]
    while math.gcd(e, (p - 1) * (q - 1)) * math.gcd(p, q) != 1:
        p, q = p + 6, q + 2
    d = pow(e, -1, (p - 1) * (q - 1))
    exponents = {"d": d, "dmp1": d % (p - 1), "dmq1": d % (q - 1)}
    return {"n": p * q, "e": e, "p": p, "q": q, **exponents, "iqmp": pow(q, -1, p)}


@pytest.mark.parametrize("name", RSA_NUMBERS)
def test_an_rsa_key_with_a_wrong_number(name):
    assert read_bundle(RSA.pem + rsa_pem(**RIGHT), NOW).private_key == RSA.key_pem
    n, right = RIGHT["n"], RIGHT[name]
    for wrong in (0, 1, 2, right + 1, right + 2, right - 2, n):
        assert refused(RSA.pem + rsa_pem(**{**RIGHT, name: wrong})) == "has a broken private key (block 2)"


def test_an_rsa_key_with_wrong_numbers_that_agree_in_part():
    p, q = RIGHT["p"] - 1, RIGHT["q"] - 1
    for changes in (
        {**numbers_of(making.new_key("RSA-2048")), "n": RIGHT["n"]},
        {"p": 1, "q": RIGHT["n"]},
        {"d": RIGHT["d"] + q},
        {"d": RIGHT["d"] + p},
        {"d": RIGHT["d"] + q, "dmp1": (RIGHT["d"] + q) % p},
        {"d": RIGHT["d"] + p, "dmq1": (RIGHT["d"] + p) % q},
        belong(1 << 1030, RIGHT["q"]),
    ):
        assert refused(RSA.pem + rsa_pem(**{**RIGHT, **changes})) == "has a broken private key (block 2)"


def test_an_rsa_key_of_numbers_that_are_not_prime():
    """Their product is right, and each exponent fits; only what it signs tells."""
    text = rsa_pem(**belong(3 * (1 << 1022 | 0b1001), 3 * (1 << 1022 | 0b100101) + 2))
    [block] = blocks(text)
    key = serialization.load_der_private_key(block.der(), None, unsafe_skip_rsa_key_validation=True)
    assert refused(made("x.com", key=key).pem + text) == (
        "has a broken private key: what it signs cannot be verified"
    )


def test_an_rsa_key_that_is_too_long():
    text = rsa_pem(**belong(3 * (1 << 4096 | 0b1001), 3 * (1 << 4096 | 0b100101) + 2))
    assert refused(X.pem + text) == "has a private key of 8196 bits: RSA needs 2048 to 8192"


def test_large_rsa_keys_are_read_in_no_time():
    """Looking for primes, as the library does unless told otherwise, holds everything up for 0.3 s."""
    leaf = made("x.com", key=known_key("RSA-4096"))
    began = time.process_time()
    read_bundle(leaf.bundle, NOW)
    assert time.process_time() - began < 0.1


def test_hostile_texts_take_no_time():
    began = time.process_time()
    for text in (
        "-----BEGIN CERTIFICATE-----" * 2300,
        "-----BEGIN " * 5900,
        "-----BEGIN A-----" + "-----END " * 7000,
        pem_with("A") * 1500,
    ):
        refused(text)
    assert time.process_time() - began < 0.5


def test_what_openssl_makes(tmp_path):
    """As people do it by hand: `req -x509` says CA:TRUE, and writes the key in PKCS 8."""
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", "key.pem", "-out", "cert.pem", "-days", "30", "-subj", "/CN=x.com"]
    subprocess.run(
        [*command, "-addext", "subjectAltName=DNS:x.com"], cwd=tmp_path, check=True, capture_output=True
    )
    text = (tmp_path / "cert.pem").read_text() + (tmp_path / "key.pem").read_text()
    assert read_bundle(text, making.now()).names == ("x.com",)
    for command in (["ecparam", "-name", "prime256v1", "-genkey"], ["genrsa", "-traditional", "2048"]):
        key = subprocess.run(["openssl", *command], check=True, capture_output=True, text=True).stdout
        loaded = serialization.load_pem_private_key(BLOCK.findall(key)[-1].encode(), None)
        leaf = made("x.com", key=loaded)
        assert read_bundle(key + leaf.chain, NOW).private_key == leaf.key_pem


def lines_changed(text):
    """The text with lines lost, twice, in another place, or with another letter."""
    lines = text.splitlines(keepends=True)
    at = st.integers(0, len(lines) - 1)
    letter = st.characters(codec="utf-8") | st.sampled_from("A=-\n")
    return st.one_of(
        at.map(lambda n: "".join(lines[:n] + lines[n + 1 :])),
        st.tuples(at, at).map(lambda both: "".join([*lines[: both[0]], lines[both[1]], *lines[both[0] :]])),
        st.tuples(st.integers(0, len(text) - 1), letter).map(
            lambda change: text[: change[0]] + change[1] + text[change[0] + 1 :]
        ),
        st.integers(0, len(text)).map(lambda n: text[:n]),
    )


@pytest.mark.parametrize("kind", ["P-256", "RSA-2048", "Ed25519"])
def test_a_spoilt_bundle_is_refused_or_whole(kind):
    whole = made("x.com", key=known_key(kind))
    expected = read_bundle(whole.bundle, NOW)

    @PROPERTY
    @given(lines_changed(whole.bundle))
    def spoilt(text):
        try:
            found = read_bundle(text, NOW)
        except ValueError as error:
            assert no_secret_of(text, str(error))
        else:
            assert found.private_key == expected.private_key
            # Nobody is asked who signed the intermediate: the root is not there.
            assert found.chain.startswith(whole.pem)

    spoilt()


@PROPERTY
@given(
    st.binary(max_size=200),
    st.sampled_from(["PRIVATE KEY", "RSA PRIVATE KEY", "EC PRIVATE KEY", "CERTIFICATE"]),
)
def test_any_bytes_in_a_block_are_refused(data, label):
    refused(X.bundle + pem_with(label, data) if label == "CERTIFICATE" else X.pem + pem_with(label, data))


def changed(certificate, data):
    """One byte of it is another."""
    text = bytearray(certificate.public_bytes(serialization.Encoding.DER))
    # Before the signature stands how many of its last bits do not count: the same signature, if they are 0.
    unused = len(text) - len(certificate.signature) - 1
    at = data.draw(st.integers(0, len(text) - 1).filter(lambda at: at != unused))
    text[at] ^= data.draw(st.integers(1, 255))
    return pem_with("CERTIFICATE", bytes(text))


@PROPERTY
@given(st.data())
def test_any_change_of_the_leaf_is_seen(data):
    """Or else it is alone: its issuer, who could tell, is not there."""
    text = X.key_pem + changed(X.certificate, data)
    refused(text + making.intermediate().pem)
    with contextlib.suppress(ValueError):
        assert read_bundle(text, NOW).names


@PROPERTY
@given(st.data())
def test_what_was_once_another_certificate_is_refused(data):
    refused(X.bundle + changed(OTHER.certificate, data))


@PROPERTY
@given(
    st.text(max_size=300)
    | st.lists(st.sampled_from([*BLOCK.findall(X.bundle), "-----BEGIN A-----", "\n"])).map("".join)
)
def test_any_text(text):
    try:
        assert blocks(text)
        assert read_bundle(text, NOW).names == ("x.com", "www.x.com")
    except ValueError as error:
        assert no_secret_of(text, str(error))


A = record("x.com")


def certificate(id, *names, begins=-1, ends=90, updated=0):
    return attrs.evolve(
        A,
        id=id,
        names=names or (id,),
        not_before=NOW + begins * DAY,
        not_after=NOW + ends * DAY,
        updated_at=NOW + updated * DAY,
    )


def found(host, *certificates, when=0):
    several = [
        CertificateTable(order).find(host, NOW + when * DAY) for order in itertools.permutations(certificates)
    ]
    assert len(set(several)) == 1
    return several[0]


def test_a_name_is_found():
    one, wild, other = (
        certificate("x.com", "x.com", "10.0.0.1", "::1"),
        certificate("*.x.com"),
        certificate("y.com"),
    )
    table = CertificateTable([one, wild, other])
    assert table.find("x.com", NOW) is table.find("10.0.0.1", NOW) is one
    assert table.find("::1", NOW) is table.find("[::1]", NOW) is one
    assert table.find("a.x.com", NOW) is wild
    for host in ("", "com", "a.b.x.com", "z.com", "ax.com", "*.y.com", "10.0.0.2", "0.0.1", ".", "x.com."):
        assert table.find(host, NOW) is None
    assert repr(table) == "<CertificateTable: 5 names>"
    assert CertificateTable().find("x.com", NOW) is None


def test_an_exact_name_goes_before_a_wildcard():
    exact, wild = certificate("a.x.com", ends=5), certificate("*.x.com", ends=50)
    assert found("a.x.com", exact, wild) is exact
    assert found("b.x.com", exact, wild) is wild
    # Valid goes before exact, and with nothing valid the exact one tells more.
    assert found("a.x.com", exact, wild, when=6) is wild
    assert found("a.x.com", exact, wild, when=60) is exact


def test_of_several_what_is_valid_then_what_ends_last():
    old, new = certificate("1", "x.com", ends=5), certificate("2", "x.com", ends=50)
    later = certificate("3", "x.com", begins=10, ends=90)
    assert found("x.com", old, new, later) is new
    assert found("x.com", old, later) is old
    assert found("x.com", old, later, when=5) is later
    assert found("x.com", old, new, later, when=10) is later
    assert found("x.com", old, new, when=60) is new
    first, last = certificate("4", "x.com"), certificate("5", "x.com", updated=1)
    assert found("x.com", first, last) is last


def test_what_a_certificate_covers():
    one = certificate("x.com", "x.com", "*.y.com", "10.0.0.1", "::1")
    for host in ("x.com", "a.y.com", "10.0.0.1", "::1", "[::1]"):
        assert covers(one, host)
    for host in ("", "a.x.com", "y.com", "a.b.y.com", "10.0.0.2", "::2", "localhost", "."):
        assert not covers(one, host)


HOST = st.lists(st.sampled_from(["a", "b", "x", "com"]), min_size=1, max_size=4).map(".".join)
NAMES = st.lists(HOST | HOST.map("*.{}".format), min_size=1, max_size=3, unique=True)


@PROPERTY
@given(st.lists(st.tuples(NAMES, st.integers(-3, 3), st.integers(-3, 6))), HOST)
def test_the_table_agrees_with_a_search(several, host):
    all_of_them = [
        certificate(str(number), *names, begins=begins, ends=ends)
        for number, (names, begins, ends) in enumerate(several)
    ]
    fit = [each for each in all_of_them if covers(each, host)]
    shown = CertificateTable(all_of_them).find(host, NOW)
    if not fit:
        assert shown is None
    else:
        best = max(
            fit,
            key=lambda each: (
                each.not_before <= NOW < each.not_after,
                host in each.names,
                each.not_after,
                each.id,
            ),
        )
        assert shown is best


def test_a_thousand_are_read_in_no_time():
    several = [certificate(f"{n}.com", f"{n}.com", f"*.{n}.com") for n in range(1000)]
    took = []
    for _ in range(5):
        began = time.process_time()
        CertificateTable(several)
        took.append(time.process_time() - began)
    assert min(took) < 0.02
