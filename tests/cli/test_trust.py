from __future__ import annotations

import datetime
import json
import pathlib

import pytest

from onebackend_proxy.cli import trust as trust_module
from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.trust_stores import read_root
from onebackend_proxy.tls.authority import LocalAuthority
from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi
from tests.tls.making import now

PEM = LocalAuthority.make(now()).root_pem
PATH = "/proxy-svc/local-authority"


@pytest.fixture
def proxy(admin: Oo, api: FakeApi) -> Oo:
    """`oo` at a proxy that has a local authority."""
    api.script("GET", PATH, 200, {"cert": PEM})
    return admin


def test_it_says_what_it_is_and_how_to_trust_it(proxy: Oo) -> None:
    root = read_root(PEM)
    out = proxy.ok("trust")
    for text in (root.name, root.sha256, f"until              {root.not_after}"):
        assert text in out
    for way in (
        "curl --cacert root.pem",
        "update-ca-certificates",
        "update-ca-trust",
        "security",
        "certutil",
    ):
        assert way in out
    assert "BEGIN" not in out


def test_json(proxy: Oo) -> None:
    root = read_root(PEM)
    shown = {"cert": PEM, "name": root.name, "sha256": root.sha256, "notAfter": root.not_after}
    assert json.loads(proxy.ok("trust", "--json")) == shown


def test_the_certificate_alone(proxy: Oo) -> None:
    assert proxy.ok("trust", "--print") == PEM


def test_out(proxy: Oo, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "root.pem"
    assert proxy.ok("trust", "--out", str(file)) == f"wrote {file}\n"
    assert file.read_text() == PEM


def test_out_to_where_nobody_may_write(proxy: Oo, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "none" / "root.pem"
    assert proxy.refused("trust", "--out", str(file)) == f"{file}: No such file or directory"


def test_a_file_in_the_place_of_the_server(oo: Oo, tmp_path: pathlib.Path) -> None:
    file = tmp_path / "root.pem"
    file.write_text(PEM)
    for words in ((str(file),), ("-",)):
        assert oo.ok("trust", "--print", "--from", *words, input=PEM) == PEM
    file.write_bytes(b"\x30\x82")
    assert oo.refused("trust", "--from", str(file)) == f"{file}: is not PEM: it has a byte that is not ASCII"


@pytest.mark.parametrize(
    "words", [("--print", "--install"), ("--out", "x", "--print"), ("--install", "--uninstall")]
)
def test_one_thing_at_a_time(admin: Oo, api: FakeApi, words: tuple[str, ...]) -> None:
    assert admin.refused("trust", *words, code=2).startswith("give one of --print, --out, --install and")
    assert api.seen == []


@pytest.mark.parametrize("said", [{}, [], {"cert": 5}])
def test_what_no_proxy_of_ours_would_answer(admin: Oo, api: FakeApi, said: object) -> None:
    api.script("GET", PATH, 200, said)
    assert admin.refused("trust") == f"{api.url} did not send a certificate: is it a 1Backend proxy?"


def test_without_an_edge(admin: Oo, api: FakeApi) -> None:
    api.script("GET", PATH, 404, {"error": "the edge is off: there is no local authority"})
    assert admin.refused("trust") == "the edge is off: there is no local authority"


def test_nothing_is_installed_that_came_in_the_clear(
    proxy: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trust_module, "in_the_clear", lambda url: True)
    assert proxy.refused("trust", "--install").startswith(f"{api.url} is asked in the clear")
    # To look at it does no harm.
    api.script("GET", PATH, 200, {"cert": PEM})
    assert proxy.ok("trust", "--print") == PEM


@pytest.mark.parametrize("option", ["--install", "--uninstall"])
def test_all_stores_are_changed_even_if_one_cannot_be(
    proxy: Oo, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    told = []

    def nss(machine, root, install, tell):
        raise Refusal("certutil failed")

    def system(machine, root, install, tell):
        told.append((root.pem, install))
        tell("wrote a file")

    monkeypatch.setattr(trust_module, "change_nss", nss)
    monkeypatch.setattr(trust_module, "change_system", system)
    result = proxy("trust", option)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "wrote a file\n", "oo: certutil failed\n")
    assert told == [(PEM, option == "--install")]


def test_a_store_that_cannot_even_be_found(
    proxy: Oo, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    def nss(machine, root, install, tell):
        (tmp_path / "none").stat()

    monkeypatch.setattr(trust_module, "change_nss", nss)
    monkeypatch.setattr(trust_module, "change_system", lambda machine, root, install, tell: tell("done"))
    result = proxy("trust", "--install")
    missing = f"oo: {tmp_path / 'none'}: No such file or directory\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "done\n", missing)


def test_a_root_that_has_ended_can_only_be_taken_out(monkeypatch: pytest.MonkeyPatch) -> None:
    done = []
    for name in ("change_nss", "change_system"):
        monkeypatch.setattr(trust_module, name, lambda machine, root, install, tell: done.append(install))
    ended = read_root(LocalAuthority.make(now() - datetime.timedelta(days=3651)).root_pem)
    with pytest.raises(Refusal, match=f"the certificate ended on {ended.not_after}: it is not to be trusted"):
        trust_module._change(ended, True)
    trust_module._change(ended, False)
    assert done == [False, False]


def test_every_store_that_cannot_be_changed_is_told(
    proxy: Oo, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(machine, root, install, tell):
        raise Refusal("no")

    for name in ("change_nss", "change_system"):
        monkeypatch.setattr(trust_module, name, fail)
    with pytest.raises(Refusal):
        trust_module._change(read_root(PEM), True)
    assert capsys.readouterr().err == "oo: no\n"
