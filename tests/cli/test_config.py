from __future__ import annotations

import copy
import pathlib
import stat
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.config import CliConfig, KeptToken, editing

# As 1Backend's own `oo` writes it, with keys that we know nothing of.
THEIRS = """\
selectedEnvironment: local
somethingNew: [1, 2]
environments:
  local:
    url: http://127.0.0.1:11337
    shortName: local
    description: ''
    selectedUser: ada
    colour: blue
    users:
      ada:
        slug: ada
        selectedAppHost: unnamed
        nick: a
        tokensByAppHost:
          unnamed: tok-en
"""


@pytest.fixture
def path(tmp_path: pathlib.Path) -> pathlib.Path:
    return tmp_path / ".1backend" / "cliConfig.yaml"


def test_reading_creates_nothing(path: pathlib.Path) -> None:
    assert CliConfig.load(path).environments == {}
    assert not path.parent.exists()


def test_the_first_write_has_the_local_environment(path: pathlib.Path) -> None:
    with editing(path):
        pass
    assert yaml.safe_load(path.read_text()) == {
        "environments": {
            "local": {
                "url": "http://127.0.0.1:11337",
                "shortName": "local",
                "description": "the proxy on this machine",
                "users": {},
            }
        },
        "selectedEnvironment": "local",
    }
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [one.name for one in path.parent.iterdir()] == ["cliConfig.yaml"]


def test_unknown_keys_are_kept(path: pathlib.Path) -> None:
    path.parent.mkdir()
    path.write_text(THEIRS)
    with editing(path) as config:
        config.keep_token("http://127.0.0.1:11337", KeptToken("local", "bob", "shop", "t2"))
    expected = yaml.safe_load(THEIRS)
    expected["environments"]["local"]["selectedUser"] = "bob"
    expected["environments"]["local"]["users"]["bob"] = {
        "slug": "bob",
        "tokensByAppHost": {"shop": "t2"},
        "selectedAppHost": "shop",
    }
    assert yaml.safe_load(path.read_text()) == expected
    assert CliConfig.load(path).token("local") == KeptToken("local", "bob", "shop", "t2")


def test_nothing_changed_is_nothing_written(path: pathlib.Path) -> None:
    path.parent.mkdir()
    path.write_text(THEIRS + "# a comment\n")
    with editing(path):
        pass
    assert path.read_text().endswith("# a comment\n")


def test_a_link_stays_a_link(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path.parent.mkdir()
    real = tmp_path / "real.yaml"
    real.write_text(THEIRS)
    path.symlink_to(real)
    with editing(path) as config:
        config.data["selectedEnvironment"] = ""
    assert path.is_symlink()
    assert CliConfig.load(real).selected == ""


def test_a_failure_while_editing_writes_nothing(path: pathlib.Path) -> None:
    with pytest.raises(Refusal), editing(path) as config:
        config.add("x", "http://x")
        raise Refusal("no")
    assert not path.exists()


def test_a_token_is_not_in_the_repr() -> None:
    assert "secret" not in repr(KeptToken("local", "ada", "unnamed", "secret"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a", "expected a mapping"),
        ("token: [", "is not YAML: line 1: expected the node content"),
        ("a: b: secret", "is not YAML: line 1: mapping values are not allowed here"),
        ("a: 2026-99-99", "is not YAML: ValueError"),
        ("environments: [a]", "environments: expected a mapping"),
        ("selectedEnvironment: [a]", "selectedEnvironment: expected text"),
        ("environments: {1: {url: x}}", "environments.1: expected text"),
        ("environments: {a: b}", "environments.a: expected a mapping"),
        ("environments: {a: {}}", "environments.a.url: expected text"),
        ("environments: {a: {url: x, selectedUser: 1}}", "environments.a.selectedUser: expected text"),
        ("environments: {a: {url: x, users: 1}}", "environments.a.users: expected a mapping"),
        ("environments: {a: {url: x, users: {b: }}}", "environments.a.users.b: expected a mapping"),
        (
            "environments: {a: {url: x, users: {b: {tokensByAppHost: {c: 1}}}}}",
            "environments.a.users.b.tokensByAppHost.c: expected text",
        ),
    ],
)
def test_a_broken_file_is_one_clear_line(path: pathlib.Path, text: str, expected: str) -> None:
    path.parent.mkdir()
    path.write_text(text)
    with pytest.raises(Refusal) as caught:
        CliConfig.load(path)
    assert str(caught.value).startswith(f"{path}: {expected}")
    assert "secret" not in str(caught.value)


def test_a_file_that_is_none(path: pathlib.Path, tmp_path: pathlib.Path) -> None:
    path.mkdir(parents=True)
    with pytest.raises(Refusal, match="cannot be read: Is a directory"):
        CliConfig.load(path)
    other = tmp_path / "latin.yaml"
    other.write_bytes(b"\xff\xfe\xfd")
    with pytest.raises(Refusal, match="is not UTF-8 text"):
        CliConfig.load(other)
    with pytest.raises(Refusal, match="cannot be used"), editing(other / "x" / "cliConfig.yaml"):
        pass


def test_a_folder_that_takes_no_file(path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **more: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp", full)
    with pytest.raises(Refusal, match="cannot be written: No space left on device"), editing(path):
        pass


def test_a_bad_url_in_the_file_is_named() -> None:
    config = CliConfig({"environments": {"a": {"url": "ftp://x"}}})
    with pytest.raises(Refusal, match=r"environments\.a\.url: 'ftp://x' is not an http"):
        config.url_of("a")
    assert config.name_for("http://x") is None


TWO_LOGINS = {
    "environments": {
        "a": {
            "url": "http://a",
            "selectedUser": "ada",
            "users": {
                "ada": {"slug": "ada", "nick": "a", "tokensByAppHost": {"shop": "t1", "unnamed": "t2"}},
                "bob": {"slug": "bob", "tokensByAppHost": {"unnamed": "t3"}},
            },
        }
    }
}


def test_one_token_is_forgotten_and_the_last_one_unselects_its_user() -> None:
    config = CliConfig(copy.deepcopy(TWO_LOGINS))
    config.forget_token(KeptToken("a", "ada", "shop", "t1"))
    assert config.token("a") == KeptToken("a", "ada", "unnamed", "t2")
    config.forget_token(KeptToken("a", "ada", "unnamed", "t2"))
    environment = config.environments["a"]
    assert "selectedUser" not in environment
    assert environment["users"]["ada"] == {"slug": "ada", "nick": "a", "tokensByAppHost": {}}
    assert environment["users"]["bob"] == TWO_LOGINS["environments"]["a"]["users"]["bob"]  # type: ignore[index]


@pytest.mark.parametrize("kept", [("x", "ada", "shop"), ("a", "eve", "shop"), ("a", "ada", "none")])
def test_forgetting_what_is_not_there_changes_nothing(kept: tuple[str, str, str]) -> None:
    config = CliConfig(copy.deepcopy(TWO_LOGINS))
    config.forget_token(KeptToken(*kept, "t"))
    assert config.data == TWO_LOGINS


def test_the_last_token_of_another_leaves_the_selection() -> None:
    config = CliConfig(copy.deepcopy(TWO_LOGINS))
    config.forget_token(KeptToken("a", "bob", "unnamed", "t3"))
    assert config.environments["a"]["selectedUser"] == "ada"


_names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12)


@given(name=_names, slug=_names, app=_names, token=_names, description=st.text(max_size=20))
def test_what_is_kept_is_found_again(
    tmp_path_factory: Any, name: str, slug: str, app: str, token: str, description: str
) -> None:
    path = tmp_path_factory.mktemp("home") / "cliConfig.yaml"
    kept = KeptToken(name, slug, app, token)
    with editing(path) as config:
        if name not in config.environments:
            config.add(name, "http://there:5", description)
    with editing(path) as config:
        config.keep_token("http://there:5", kept)
    found = CliConfig.load(path)
    assert found.token(name) == kept
    assert found.token(name, app) == kept
    assert found.token(name, app + "x") is None
