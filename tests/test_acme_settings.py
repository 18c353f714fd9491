"""The settings for ACME: what is taken, what is refused, and in which words."""

from __future__ import annotations

import base64
import os
import pathlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.acme_settings import LETS_ENCRYPT, directories, email, hmac_key, name_server
from onebackend_proxy.errors import SettingError
from onebackend_proxy.options import settings_from

from .e2e.proxy_process import command, environment
from .properties import PROPERTY
from .tls.making import root

A, B = "https://a.test/directory", "https://b.test:14000/dir?x=1"


def refused(options, environment=None):
    with pytest.raises(SettingError) as caught:
        settings_from(options, environment or {})
    return caught.value.message


def test_by_variables(tmp_path):
    roots = tmp_path / "roots.pem"
    roots.write_text("commentary\n" + root().pem + root().pem)
    names = {
        "OB_CONTACT_EMAIL": "ada@x.com",
        "OB_PROXY_ACME_DIRECTORY": f"{A}, {B}",
        "OB_PROXY_ACME_CA_FILE": str(roots),
        "OB_PROXY_ACME_EAB_KID": "kid-1",
        "OB_PROXY_ACME_EAB_HMAC_KEY": "aGVsbG8=",
        "OB_PROXY_ACME_PROFILE": "shortlived",
        "OB_PROXY_ACME_RESOLVER": "[::1]:5353",
        "OB_PROXY_ACME_NAMES_PER_HOUR": "7",
    }
    settings = settings_from({}, names)
    assert settings.contact_email == "ada@x.com"
    assert settings.acme_directories == (A, B)
    assert settings.acme_ca_file == roots
    assert (settings.acme_eab_kid, settings.acme_eab_hmac_key) == ("kid-1", "aGVsbG8")
    assert (settings.acme_profile, settings.acme_resolver) == ("shortlived", ("::1", 5353))
    assert settings.limits.acme_names_per_hour == 7
    assert settings_from({"acme-directory": "off"}, names).acme_directories == ()


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("ada@x.com", "ada@x.com"),
        (" a.b+c@Mail.X.com ", "a.b+c@mail.x.com"),
        ("o'neil@x.com", "o'neil@x.com"),
        ("ada@b\u00fccher.test", "ada@xn--bcher-kva.test"),
    ],
)
def test_an_address(text, wanted):
    assert email(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        *("ada", "@x.com", "ada@", "ada@localhost", "a b@x.com", "a@b@x.com", "ada@x..com", ".ada@x.com"),
        *(
            "a..b@x.com",
            "mailto:ada@x.com",
            "Ada <ada@x.com>",
            "ada@x.com,bo@x.com",
            "ada@x.com?to=bo",
            "a%@x.com",
        ),
        *("\u00e4@x.com", f"{'a' * 65}@x.com", "ada@x.com\r\nX: y", "a" * 100_000),
    ],
)
def test_what_is_no_address(text):
    assert (
        refused({"contact-email": text})
        == f"--contact-email: {text!r} is not one mail address such as ada@x.com"
    )


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("off", ()),
        (" off ,", ()),
        (LETS_ENCRYPT, (LETS_ENCRYPT,)),
        (f"{A},{B},,{A},", (A, B)),
        ("https://[::1]:14000/dir", ("https://[::1]:14000/dir",)),
    ],
)
def test_directories(text, wanted):
    assert directories(text) == wanted


@pytest.mark.parametrize(
    "text, said",
    [
        (" , ", "names no directory: give https:// URLs separated by commas, or off"),
        ("a.test", "URL 1 does not begin with https://"),
        (f"{A},http://b.test/", "URL 2 does not begin with https://"),
        (f"{A},off", "URL 2 is off, which stands alone"),
        ("OFF", "URL 1 is off, which stands alone"),
        ("https:///directory", "URL 1 has no host"),
        ("https://a.test:99999/", "URL 1 not a URL"),
        ("https://a.test/#x", "URL 1 must not have a fragment"),
        ("https://a b.test/", "URL 1 has a character that no URL may hold"),
        ("https://ada:s3cret@a.test/", "URL 1 must not carry credentials"),
    ],
)
def test_what_is_no_directory(text, said):
    message = refused({"acme-directory": text})
    assert message.startswith(f"--acme-directory: {said}")
    assert "s3cret" not in message


def test_a_file_of_roots_is_read_before_anything_starts(tmp_path: pathlib.Path):
    path = tmp_path / "roots.pem"
    assert refused({"acme-ca-file": str(path)}) == (
        f"--acme-ca-file: {str(path)!r} cannot be read: No such file or directory"
    )
    for content in (b"", b"\xff\xfe", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        path.write_bytes(content)
        assert refused({}, {"OB_PROXY_ACME_CA_FILE": str(path)}) == (
            f"OB_PROXY_ACME_CA_FILE: {str(path)!r} holds no certificates in PEM that can be read"
        )
    assert "cannot be read: Is a directory" in refused({"acme-ca-file": str(tmp_path)})


def test_an_account_binding_is_both_or_neither():
    no_key = "--acme-eab-kid: is nothing without --acme-eab-hmac-key, which is not given"
    assert refused({"acme-eab-kid": "kid"}) == no_key
    assert refused({"acme-eab-kid": "kid"}, {"OB_PROXY_ACME_EAB_HMAC_KEY": ""}) == no_key
    assert refused({}, {"OB_PROXY_ACME_EAB_HMAC_KEY": "s3cret"}) == (
        "OB_PROXY_ACME_EAB_HMAC_KEY: is nothing without --acme-eab-kid, which is not given"
    )


@pytest.mark.parametrize("key", ["s3cret!", "s3cret+/", "s3cretabc", "s3 cret", "s3cret===", "\u00e4", "="])
def test_what_is_no_key_is_not_repeated(key):
    message = refused({"acme-eab-kid": "kid", "acme-eab-hmac-key": key})
    assert message == "--acme-eab-hmac-key: is not base64url: give the key as the authority shows it"


@PROPERTY
@given(st.binary(min_size=1, max_size=64), st.booleans())
def test_every_key_is_taken_with_its_padding_and_without(key, padded):
    text = base64.urlsafe_b64encode(key).decode()
    assert hmac_key(text if padded else text.rstrip("=")) == text.rstrip("=")


@pytest.mark.parametrize("option", ["acme-eab-kid", "acme-profile"])
@pytest.mark.parametrize("text", ["", "two words", "a\n", "\u00e4", "x" * 256])
def test_what_is_no_word(option, text):
    assert refused({option: text}) == (
        f"--{option}: {text!r} is not a word of at most 255 printable ASCII characters"
    )


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("127.0.0.1:8053", ("127.0.0.1", 8053)),
        ("[2001:DB8::0:53]", ("2001:db8::53", 53)),
        ("[::1]:5353", ("::1", 5353)),
    ],
)
def test_a_name_server(text, wanted):
    assert name_server(text) == wanted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "::1",
        "[::1",
        "ns.x.com",
        "1.2.3",
        "1.2.3.4:",
        "1.2.3.4:0",
        "1.2.3.4:65536",
        "[1.2.3.4]",
        "\u0661.2.3.4",
        ":53",
    ],
)
def test_what_is_no_name_server(text):
    assert refused({"acme-resolver": text}) == (
        f"--acme-resolver: {text!r} is not a name server such as 192.0.2.53, or [2001:db8::53]:5353"
    )


@PROPERTY
@given(st.sampled_from([email, directories, hmac_key, name_server]), st.text(max_size=40))
def test_any_text_is_taken_or_refused(parse, text):
    try:
        value = parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert re.fullmatch(r"[\x20-\x7e]*", str(value))


@pytest.mark.parametrize(
    "url", [LETS_ENCRYPT, "https://10.0.0.1/", "https://localhost.com/", f"https://[::1]/,{LETS_ENCRYPT}"]
)
def test_no_test_asks_an_authority_outside(url):
    with pytest.raises(AssertionError, match="a test would ask a real authority"):
        environment(OB_PROXY_ACME_DIRECTORY=url)
    with pytest.raises(AssertionError, match="a test would ask a real authority"):
        command("--edge", "--acme-directory", url)


def test_tests_may_ask_this_machine():
    url = "https://localhost:14000/dir,https://127.0.0.1/,https://[::1]:1/"
    assert environment(OB_PROXY_ACME_DIRECTORY=url)["OB_PROXY_ACME_DIRECTORY"] == url
    assert environment()["OB_PROXY_ACME_DIRECTORY"] == os.environ["OB_PROXY_ACME_DIRECTORY"] == "off"
    assert command("--acme-directory", url)[-1] == url
