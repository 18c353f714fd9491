from __future__ import annotations

import pathlib
import socket

import pytest

from onebackend_proxy.cli import session as session_module
from onebackend_proxy.cli.client import Refusal
from onebackend_proxy.cli.config import CliConfig, KeptToken, editing
from onebackend_proxy.cli.session import (
    admin_password,
    choose_server,
    in_the_clear,
    on_this_machine,
    token_of,
)
from onebackend_proxy.folder import kept_secret
from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi, Scripted, Seen

LIST = ("routes", "list")


@pytest.fixture
def ada(oo: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> str:
    """A kept login of ada at the fake API; returns its token."""
    monkeypatch.setenv("OB_SERVER_URL", api.url)
    token = api.new_token("ada")
    with editing(oo.config_path) as config:
        config.keep_token(api.url, KeptToken("there", "ada", "unnamed", token))
    return token


def kept(oo: Oo, app: str = "unnamed") -> str:
    token = oo.config.token("there", app)
    assert token is not None
    return token.token


def not_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "on_this_machine", lambda url: False)


def test_a_kept_token_is_used(oo: Oo, api: FakeApi, ada: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OB_ADMIN_PASSWORD", "admin-pass")
    oo.ok(*LIST)
    assert [one.token for one in api.seen] == [ada]


def test_a_kept_token_never_goes_to_another_server(oo: Oo, api: FakeApi, ada: str) -> None:
    other = api.url.replace("127.0.0.1", "localhost")
    assert "not logged in" in oo.refused(*LIST, "--url", other)
    assert [(one.path, one.token) for one in api.seen] == [("/user-svc/public-key", None)]


def test_an_ended_token_is_refreshed_once_and_kept(oo: Oo, api: FakeApi, ada: str) -> None:
    api.valid.clear()
    oo.ok(*LIST)
    assert [one.path.rpartition("/")[2] for one in api.seen] == ["routes", "refresh-token", "routes"]
    assert api.seen[1].token == ada
    assert kept(oo) == api.seen[2].token != ada
    api.seen.clear()
    oo.ok(*LIST)
    assert len(api.seen) == 1


def test_refreshed_and_refused_again_is_told(oo: Oo, api: FakeApi, ada: str) -> None:
    for _ in range(2):
        api.script("POST", "/proxy-svc/routes", 401, {"error": "not you"})
    assert oo.refused(*LIST) == "not you"
    assert len(api.calls("/user-svc/refresh-token")) == 1


def test_a_login_that_has_ended_says_how_to_go_on(
    oo: Oo, api: FakeApi, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.valid.clear()
    api.refreshable.clear()
    assert oo.refused(*LIST) == f"your login at {api.url} has ended: oo login ada"
    monkeypatch.setenv("OB_ADMIN_PASSWORD", "admin-pass")
    not_local(monkeypatch)
    assert "has ended" in oo.refused(*LIST)
    assert api.calls("/user-svc/login") == []


def test_an_ended_login_falls_back_to_the_admin_and_says_so(
    oo: Oo, api: FakeApi, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.valid.clear()
    api.refreshable.clear()
    monkeypatch.setenv("OB_ADMIN_PASSWORD", "admin-pass")
    result = oo(*LIST)
    assert result.exit_code == 0
    assert result.stderr == f"oo: the login of ada at {api.url} has ended: going on as 1backend\n"
    assert kept(oo) == ada


@pytest.mark.parametrize("status", [429, 503])
def test_a_refresh_that_fails_for_now_ends_no_login(oo: Oo, api: FakeApi, ada: str, status: int) -> None:
    api.valid.clear()
    api.script("POST", "/user-svc/refresh-token", status, {"error": "not now"})
    assert oo.refused(*LIST) == "not now"
    assert kept(oo) == ada


def test_a_refreshed_token_that_cannot_be_kept_still_serves(
    oo: Oo, api: FakeApi, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    api.valid.clear()
    monkeypatch.setattr("os.replace", full)
    result = oo(*LIST)
    assert result.exit_code == 0
    assert "the new token is not kept" in result.stderr
    assert "No space left" in result.stderr
    assert [path.name for path in oo.config_path.parent.iterdir()] == ["cliConfig.yaml"]


def test_the_admin_by_variable(admin: Oo, api: FakeApi) -> None:
    admin.ok(*LIST)
    login, listing = api.seen
    assert login.body == {
        "appHost": "unnamed",
        "slug": "1backend",
        "password": "admin-pass",
        "device": "cli",
    }
    assert listing.token == "1backend-token-1"
    assert not admin.config_path.exists()


@pytest.mark.parametrize("by_variable", [True, False])
def test_the_admin_by_file(
    oo: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path, by_variable: bool
) -> None:
    folder = tmp_path / "data" if by_variable else oo.home / ".1backend"
    folder.mkdir()
    (folder / "admin-password").write_text("admin-pass\n")
    if by_variable:
        monkeypatch.setenv("OB_FOLDER", str(folder))
    oo.ok(*LIST, "--url", api.url)


def test_the_admin_is_for_this_machine_only(admin: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
    not_local(monkeypatch)
    assert admin.refused(*LIST) == f"you are not logged in at {api.url}: oo login SLUG"
    assert [(one.path, one.token) for one in api.seen] == [("/user-svc/public-key", None)]


def test_a_wrong_admin_password_names_where_it_came_from(
    admin: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OB_ADMIN_PASSWORD", "wrong-one")
    text = admin.refused(*LIST)
    assert text == f"{api.url} refuses the password in OB_ADMIN_PASSWORD for 1backend: oo login SLUG"
    api.script("POST", "/user-svc/login", 429, {"error": "too many logins"})
    assert admin.refused(*LIST) == "too many logins"


def test_where_nothing_listens_that_is_what_it_says(oo: Oo) -> None:
    with socket.socket() as bound:
        # Bound, and not listening: nobody else gets the port meanwhile.
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}"
        text = oo.refused(*LIST, "--url", url)
    assert text.startswith(f"cannot connect to {url} (Connection refused): is the proxy running?")


def test_without_anything_it_says_what_to_do(oo: Oo, api: FakeApi) -> None:
    text = oo.refused(*LIST, "--url", api.url)
    assert text.startswith(f"you are not logged in at {api.url}: oo login SLUG (nor can ")
    assert str(oo.home / ".1backend" / "admin-password") in text


def test_the_admins_token_goes_to_built_in_services_only(admin: Oo, api: FakeApi) -> None:
    for path in ("/hello-svc/x", "/user-svc/../hello-svc/x", "/user-svcx/x"):
        assert admin.refused("get", path) == "this needs a login"
    assert {one.token for one in api.seen} == {None}
    assert admin.refused("get", "/user-svc/x") == "no such path"


def test_a_login_removed_meanwhile_is_not_brought_back(
    oo: Oo, api: FakeApi, ada: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    api.valid.clear()
    answer = api.answer

    def removing(seen: Seen) -> Scripted:
        if seen.path == "/user-svc/refresh-token":
            with editing(oo.config_path) as config:
                config.environments["there"]["users"] = {}
        return answer(seen)

    monkeypatch.setattr(api, "answer", removing)
    oo.ok(*LIST)
    assert oo.config.environments["there"]["users"] == {}


def test_a_damaged_token_is_not_shown(oo: Oo, api: FakeApi, ada: str) -> None:
    with editing(oo.config_path) as config:
        config.keep_token(api.url, KeptToken("there", "ada", "unnamed", "se\ncret"))
    assert oo.refused(*LIST) == f"the token kept for {api.url} is damaged: oo login SLUG"


def test_app_hosts_have_tokens_of_their_own(oo: Oo, api: FakeApi, ada: str) -> None:
    with editing(oo.config_path) as config:
        config.keep_token(api.url, KeptToken("there", "ada", "shop", api.new_token("ada")))
    oo.ok(*LIST)
    assert api.seen[-1].token == kept(oo, "shop")
    oo.ok(*LIST, "-a", "unnamed")
    assert api.seen[-1].token == ada
    assert "not logged in" in oo.refused(*LIST, "--app-host", "other")


class TestForbidden:
    """A 403 says as whom oo asked, and how to change it."""

    @pytest.fixture(autouse=True)
    def forbidden(self, api: FakeApi) -> None:
        for path in ("/proxy-svc/routes", "/shop-svc/x"):
            for method in ("POST", "GET"):
                api.script(method, path, 403, {"error": "no"})

    def test_logged_in(self, oo: Oo, ada: str) -> None:
        assert oo.refused(*LIST) == "no, and you are logged in as ada: oo login 1backend, or oo logout"

    def test_a_login_that_was_renewed(self, oo: Oo, api: FakeApi, ada: str) -> None:
        api.script("GET", "/other-svc/x", 401, {"error": "ended"})
        api.script("GET", "/other-svc/x", 403, {"error": "no"})
        assert "no, and you are logged in as ada: " in oo.refused("get", "/other-svc/x")
        assert api.seen[-1].token == kept(oo) != ada

    def test_elsewhere_a_logout_would_not_help(
        self, oo: Oo, ada: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        not_local(monkeypatch)
        assert oo.refused(*LIST) == "no, and you are logged in as ada: oo login 1backend"

    def test_the_admin(self, admin: Oo) -> None:
        assert admin.refused(*LIST) == "no, and oo asked as 1backend: oo login SLUG"
        admin.ok("login", "1backend", "admin-pass")
        assert admin.refused("get", "/shop-svc/x") == "no, and you are logged in as 1backend: oo login SLUG"

    def test_nobody(self, admin: Oo) -> None:
        assert admin.refused("get", "/shop-svc/x") == "no, and you are not logged in: oo login SLUG"


class TestChoosing:
    config = CliConfig(
        {
            "selectedEnvironment": "one",
            "environments": {"two": {"url": "https://One/"}, "one": {"url": "https://one:443"}},
        }
    )

    def test_the_order(self) -> None:
        def chosen(url: str | None, environment: str | None, variable: str | None) -> tuple[str, str | None]:
            server = choose_server(url, environment, variable, self.config)
            return server.url, server.environment

        assert chosen("http://x", None, "http://y") == ("http://x", None)
        assert chosen(None, None, "http://y/") == ("http://y", None)
        assert chosen(None, "two", "http://y") == ("https://one", "two")
        assert chosen(None, None, None) == ("https://one", "one")
        assert chosen("https://one", None, None) == ("https://one", "one")
        assert choose_server(None, None, "", CliConfig()).url == "http://127.0.0.1:11337"

    def test_a_bad_variable_is_named(self) -> None:
        with pytest.raises(Refusal, match="OB_SERVER_URL: 'x' is not an http"):
            choose_server(None, None, "x", self.config)

    def test_an_unknown_environment_names_the_known(self) -> None:
        with pytest.raises(Refusal, match=r"no environment 'x' \(there is: one, two\)"):
            choose_server(None, "x", None, self.config)

    def test_url_and_env_together_are_misuse(self, oo: Oo) -> None:
        assert "not both" in oo.refused(*LIST, "--url", "http://x", "-e", "y", code=2)


def test_what_this_machine_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "Box.example.com")
    here = [
        "http://localhost",
        "http://a.localhost:1",
        "http://127.1.2.3",
        "http://[::1]:5",
        "http://box",
        "https://box.example.com",
    ]
    there = ["http://example.com", "http://10.0.0.1", "http://box.example.org", "http://127.0.0.1.evil.com"]
    assert all(on_this_machine(url) for url in here)
    assert not any(on_this_machine(url) for url in there)
    assert [in_the_clear(url) for url in (*there, "https://example.com")] == [True, True, True, True, False]
    assert not any(in_the_clear(url) for url in here)


def test_an_unreadable_password_file_is_none(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "admin-password"
    assert admin_password({"OB_ADMIN_PASSWORD": ""}, tmp_path) is None
    path.write_bytes(b"\xff")
    assert admin_password({}, tmp_path) is None
    path.write_text("\n")
    assert admin_password({}, tmp_path) is None
    path.write_text(" x y \r\n")
    assert admin_password({}, tmp_path) == ("x y", str(path))
    assert admin_password({}, tmp_path) == (kept_secret(path), str(path))


@pytest.mark.parametrize("said", [None, [], {}, {"token": "x"}, {"token": {}}, {"token": {"token": ""}}])
def test_a_login_answer_without_a_token(said: object) -> None:
    with pytest.raises(Refusal, match="without a token"):
        token_of(said, "http://x")
