from __future__ import annotations

import json
import pathlib

import pytest

from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi

KEY = "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"
CHAIN = "-----BEGIN CERTIFICATE-----\npublic\n-----END CERTIFICATE-----\n"
ONE = {
    "id": "singulatron.com",
    "cert": CHAIN,
    "commonName": "singulatron.com",
    "dnsNames": ["singulatron.com", "www.singulatron.com"],
    "issuer": "E6",
    "serialNumber": "343948151111",
    "notBefore": "2025-08-09T13:22:44.000Z",
    "notAfter": "2025-11-07T23:59:59.000Z",
    "createdAt": "2025-06-08T00:00:00.000Z",
    "updatedAt": "2025-08-09T14:22:44.123Z",
}
TWO = {"id": "a.com", "serialNumber": "8384", "updatedAt": "2025-08-09T16:22:44+02:00", "notAfter": "soon"}
TABLE = """\
CERT ID                     CREATED AT   UPDATED AT            COMMON NAME       ISSUER   NOT BEFORE   NOT AFTER    SERIAL
a.com                       -            2025-08-09 14:22:44   -                 -        -            -            8384
singulatron.com             2025-06-08   2025-08-09 14:22:44   singulatron.com   E6       2025-08-09   2025-11-07   34394815…
"""  # noqa: E501


@pytest.fixture
def files(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a chain, a key, and a bundle of both."""
    for name, text in (("chain.pem", CHAIN), ("key.pem", KEY), ("both.pem", KEY + CHAIN)):
        (tmp_path / name).write_text(text)
    return tmp_path


@pytest.mark.parametrize("words", [("certs", "list"), ("cert", "ls")])
def test_the_table_is_1backends(admin: Oo, api: FakeApi, words: tuple[str, ...]) -> None:
    api.certs = [ONE, TWO]
    assert admin.ok(*words) == TABLE


def test_list_of_ids_and_json(admin: Oo, api: FakeApi) -> None:
    api.certs = [ONE, TWO]
    assert json.loads(admin.ok("certs", "list", "a.com", "--json")) == {"certs": [TWO]}
    assert api.seen[-1].body == {"ids": ["a.com"]}


def test_each_file_is_a_certificate(admin: Oo, api: FakeApi, files: pathlib.Path) -> None:
    both = str(files / "both.pem")
    api.script("PUT", "/proxy-svc/certs", 200, {"certs": [ONE, TWO]})
    assert admin.ok("certs", "save", both, "-", input=CHAIN + KEY) == (
        "saved singulatron.com for singulatron.com, www.singulatron.com until 2025-11-07\n"
        "saved a.com until -\n"
    )
    assert api.seen[-1].body == {"certs": [{"cert": KEY + CHAIN}, {"cert": CHAIN + KEY}]}


def test_a_key_in_a_file_of_its_own(admin: Oo, api: FakeApi, files: pathlib.Path) -> None:
    chain, key = str(files / "chain.pem"), str(files / "key.pem")
    out = admin.ok("certs", "save", chain, chain, "--key", key, "--json")
    [sent] = api.seen[-1].body["certs"]
    assert [line for line in sent["cert"].splitlines() if line] == (CHAIN + CHAIN + KEY).splitlines()
    assert "secret" not in out


def test_errors_name_the_file_and_hold_no_key(admin: Oo, api: FakeApi, files: pathlib.Path) -> None:
    both, chain, key = str(files / "both.pem"), str(files / "chain.pem"), str(files / "key.pem")
    api.script("PUT", "/proxy-svc/certs", 400, {"error": "certs[1].cert: has no private key"})
    assert admin.refused("certs", "save", both, chain) == f"{chain}: cert: has no private key"
    api.script("PUT", "/proxy-svc/certs", 400, {"error": "certs[0].cert: is broken"})
    assert admin.refused("certs", "save", both, chain, "--key", key) == f"{both}, {chain}: cert: is broken"
    (files / "der.crt").write_bytes(b"\x30\x82")
    assert admin.refused("certs", "save", str(files / "der.crt")) == (
        f"{files / 'der.crt'}: is not PEM: it has a byte that is not ASCII"
    )
    (files / "long.pem").write_text("x" * (1024 * 1024 + 1))
    assert "is longer than 1024 KiB" in admin.refused("certs", "save", str(files / "long.pem"))
    assert admin.refused("certs", "save", "/proc/self/mem").startswith("/proc/self/mem: ")


def test_a_key_that_goes_in_the_clear_is_warned_of(
    admin: Oo, files: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = str(files / "both.pem")
    admin.ok("login", "hello-svc", "hello-pass")
    assert admin("certs", "save", bundle).stderr == ""
    monkeypatch.setattr("onebackend_proxy.cli.session.on_this_machine", lambda url: False)
    assert "private keys go there in the clear" in admin("certs", "save", bundle).stderr


def test_delete(admin: Oo, api: FakeApi) -> None:
    api.certs = [ONE, TWO]
    for word, one in (("rm", "a.com"), ("delete", "singulatron.com")):
        assert admin.ok("certs", word, one) == f"deleted {one}\n"
    assert api.certs == []


@pytest.mark.parametrize("words", [("save",), ("save", "/nowhere.pem"), ("save", "/etc"), ("delete",)])
def test_misuse_sends_nothing(admin: Oo, api: FakeApi, words: tuple[str, ...]) -> None:
    admin.refused("certs", *words, code=2)
    assert api.seen == []
