"""Accounts, instances, environments and free calls."""

from __future__ import annotations

import datetime
import json
import stat

import click
import pytest

from onebackend_proxy.cli.instances import ago
from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi


class TestLogin:
    def test_a_login_is_kept_for_its_server(self, oo: Oo, api: FakeApi) -> None:
        out = oo.ok("login", "hello-svc", "hello-pass", "--url", api.url)
        assert out == f"logged in as hello-svc at {api.url}\n"
        assert stat.S_IMODE(oo.config_path.stat().st_mode) == 0o600
        oo.ok("routes", "list", "--url", api.url)
        assert api.seen[-1].token == "hello-svc-token-1"
        assert oo.config.selected == "local"
        assert oo.config.url_of("local") == "http://127.0.0.1:11337"
        name = oo.config.name_for(api.url)
        assert name == api.url.removeprefix("http://")
        oo.ok("env", "switch", name)
        assert "slug:   hello-svc\n" in oo.ok("whoami")

    def test_what_is_missing_is_read(self, oo: Oo, api: FakeApi) -> None:
        oo.ok("--url", api.url, "login", input="hello-svc\nhello-pass\n")
        oo.ok("--url", api.url, "login", "hello-svc", input="hello-pass\n")
        assert api.seen[0].body == api.seen[1].body
        text = oo.refused("--url", api.url, "login", "hello-svc", code=2, input="\n")
        assert text.startswith("password is missing")

    def test_at_a_terminal_the_password_is_hidden(
        self, oo: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = []

        def prompt(text: str, hide_input: bool, err: bool) -> str:
            asked.append((text, hide_input))
            return "hello-pass"

        class Terminal:
            def isatty(self) -> bool:
                return True

        monkeypatch.setattr(click, "prompt", prompt)
        monkeypatch.setattr("onebackend_proxy.cli.accounts.sys.stdin", Terminal(), raising=False)
        from onebackend_proxy.cli.accounts import ask

        assert ask("Password", hidden=True) == "hello-pass"
        assert ask("Slug") == "hello-pass"
        assert asked == [("Password", True), ("Slug", False)]

    def test_a_wrong_password_keeps_nothing(self, oo: Oo, api: FakeApi) -> None:
        text = oo.refused("login", "hello-svc", "secret-pass", "--url", api.url)
        assert text == "wrong slug or password"
        assert not oo.config_path.exists()

    def test_the_app_host_is_asked_for_and_kept(self, oo: Oo, api: FakeApi) -> None:
        oo.ok("login", "hello-svc", "hello-pass", "--url", api.url, "-a", "shop")
        assert api.seen[0].body["appHost"] == "shop"
        name = oo.config.name_for(api.url)
        assert name
        kept = oo.config.token(name)
        assert kept is not None
        assert kept.app_host == "shop"

    def test_a_name_taken_by_another_server_is_left_alone(self, oo: Oo, api: FakeApi) -> None:
        short = api.url.removeprefix("http://")
        oo.ok("env", "add", short, "https://elsewhere.example")
        oo.ok("login", "hello-svc", "hello-pass", "--url", api.url)
        assert oo.config.url_of(short) == "https://elsewhere.example"
        assert oo.config.token(short) is None
        assert oo.config.name_for(api.url) == api.url

    def test_json(self, oo: Oo, api: FakeApi) -> None:
        out = oo.ok("login", "hello-svc", "hello-pass", "--url", api.url, "--json")
        assert json.loads(out)["token"]["id"] == "tok-1"


class TestLogout:
    def test_the_kept_login_is_forgotten_and_the_admin_is_back(self, admin: Oo, api: FakeApi) -> None:
        admin.ok("login", "hello-svc", "hello-pass")
        assert "slug:   hello-svc\n" in admin.ok("whoami")
        assert admin.ok("logout") == f"logged out: the login of hello-svc at {api.url} is forgotten\n"
        assert "hello-svc-token" not in admin.config_path.read_text()
        assert "slug:   1backend\n" in admin.ok("whoami")

    def test_only_the_login_at_that_server(self, oo: Oo, api: FakeApi) -> None:
        other = api.url.replace("127.0.0.1", "localhost")
        for url in (api.url, other):
            oo.ok("login", "hello-svc", "hello-pass", "--url", url)
        assert oo.ok("logout", "--url", other, "--json") == "{}\n"
        assert "not logged in" in oo.refused("whoami", "--url", other)
        assert "slug:   hello-svc\n" in oo.ok("whoami", "--url", api.url)

    def test_without_a_login_nothing_is_written(self, oo: Oo, api: FakeApi) -> None:
        expected = f"you are not logged in at {api.url}: there is nothing to forget\n"
        assert oo.ok("logout", "--url", api.url) == expected
        assert not oo.config_path.exists()


class TestAccounts:
    def test_whoami(self, admin: Oo, api: FakeApi) -> None:
        assert admin.ok("whoami") == (
            f"slug:   1backend\nname:   Ada\nid:     usr-1\nroles:  user-svc:user\nserver: {api.url}\n"
        )
        assert json.loads(admin.ok("whoami", "--json"))["user"]["id"] == "usr-1"
        api.script("POST", "/user-svc/self", 200, [])
        assert "did not say who you are" in admin.refused("whoami")

    def test_token_is_one_that_works(self, oo: Oo, api: FakeApi) -> None:
        oo.ok("login", "hello-svc", "hello-pass", "--url", api.url)
        api.valid.clear()
        out = oo.ok("token", "--url", api.url).strip()
        assert out in api.valid
        assert json.loads(oo.ok("token", "--url", api.url, "--json")) == {"token": out}

    @pytest.mark.parametrize("words", [("users", "register"), ("u", "register"), ("register",)])
    def test_register_makes_up_a_password_and_shows_it(
        self, admin: Oo, api: FakeApi, words: tuple[str, ...]
    ) -> None:
        first, second = admin.ok(*words, "shop", "--name", "The shop").splitlines()
        sent = api.seen[-1]
        assert sent.token == "1backend-token-1"
        assert sent.body["slug"] == "shop"
        assert sent.body["name"] == "The shop"
        assert sent.body["appHost"] == "unnamed"
        assert len(sent.body["password"]) >= 24
        assert first == "registered shop"
        assert second == f"password: {sent.body['password']}   (shown this once)"
        assert not admin.config_path.exists()

    def test_register_as_json_has_the_password_too(self, admin: Oo, api: FakeApi) -> None:
        said = json.loads(admin.ok("register", "shop", "--json"))
        assert said["password"] == api.seen[-1].body["password"]
        assert said["token"]["token"]

    def test_register_with_a_password(self, admin: Oo, api: FakeApi) -> None:
        assert admin.ok("register", "shop", "--password", "long enough") == "registered shop\n"
        assert api.seen[-1].body == {"appHost": "unnamed", "slug": "shop", "password": "long enough"}

    def test_register_without_a_login_is_for_the_server_to_judge(self, oo: Oo, api: FakeApi) -> None:
        assert oo.refused("register", "shop", "--url", api.url) == "this needs a login"
        assert api.seen[-1].token is None


class TestInstances:
    def test_list(self, admin: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> None:
        beat = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=3, minutes=5)
        api.instances = [
            {"id": "inst-2", "url": "http://b:1", "status": "Unknown", "slug": "b"},
            {
                "id": "inst-1",
                "url": "http://a:1",
                "status": "Healthy",
                "slug": "a-svc",
                "lastHeartbeat": beat.isoformat(),
            },
        ]
        expected = (
            "INSTANCE ID                 URL          STATUS    OWNER SLUG   LAST HEARTBEAT\n"
            "inst-1                      http://a:1   Healthy   a-svc        3h ago\n"
            "inst-2                      http://b:1   Unknown   b            -\n"
        )
        for words in (("instances", "list"), ("instance", "ls"), ("i", "ls")):
            assert admin.ok(*words) == expected
        admin.ok("i", "ls", "--slug", "a b")
        assert api.seen[-1].query == [("slug", "a b")]
        assert json.loads(admin.ok("i", "ls", "--json")) == {"instances": api.instances}

    def test_ago(self) -> None:
        now = datetime.datetime(2026, 11, 21, 12, 0, 30, tzinfo=datetime.UTC)
        for moment, expected in (
            ("2026-11-21T12:00:18Z", "12s ago"),
            ("2026-11-21T12:00:18.5+00:00", "11s ago"),
            ("2026-11-21T13:58:30+02:00", "2m ago"),
            ("2026-11-21T09:00:31Z", "2h ago"),
            ("2026-11-10T12:00:30Z", "11d ago"),
            ("2026-11-21T12:01:00Z", "0s ago"),
            ("2026-11-21T12:00:18", "-"),
            ("yesterday", "-"),
            (None, "-"),
        ):
            assert ago(moment, now) == expected

    def test_register(self, admin: Oo, api: FakeApi) -> None:
        assert admin.ok("instances", "register", "http://a:1") == "registered http://a:1 for 1backend\n"
        assert api.seen[-1].body == {"url": "http://a:1"}
        out = admin.ok("i", "register", "http://a:1", "--slug", "shop", "--id", "inst-9")
        assert out == "registered http://a:1 for shop\n"
        assert api.seen[-1].body == {"url": "http://a:1", "slug": "shop", "id": "inst-9"}
        assert admin.ok("i", "register", "http://a:1", "--json") == "{}\n"
        admin.ok("login", "hello-svc", "hello-pass")
        assert admin.ok("i", "register", "http://a:1") == "registered http://a:1 for hello-svc\n"

    def test_remove(self, admin: Oo, api: FakeApi) -> None:
        assert admin.ok("i", "rm", "a", "b/c") == "removed a\nremoved b/c\n"
        assert [one.path for one in api.seen[-2:]] == [
            "/registry-svc/instance/a",
            "/registry-svc/instance/b%2Fc",
        ]
        assert admin.ok("i", "delete", "a", "--json") == "{}\n"
        api.script("DELETE", "/registry-svc/instance/x", 404, {"error": "no instance x"})
        assert admin.refused("i", "remove", "x", "y") == "no instance x"
        assert not api.calls("/registry-svc/instance/y")


class TestEnvironments:
    def test_add_list_switch_remove(self, oo: Oo, api: FakeApi) -> None:
        assert oo.ok("env", "add", "prod", "HTTPS://Example.com/", "the real one") == (
            "added prod: https://example.com\n"
        )
        lines = oo.ok("environments", "ls").splitlines()
        assert (
            lines[0] == "ENVIRONMENT                 URL                      SELECTED   USER   DESCRIPTION"
        )
        assert lines[1].split(None, 3) == [
            "local",
            "http://127.0.0.1:11337",
            "yes",
            "the proxy on this machine",
        ]
        assert lines[2].split(None, 2) == ["prod", "https://example.com", "the real one"]
        assert oo.ok("env", "select", "prod") == "selected prod: https://example.com\n"
        assert oo.config.selected == "prod"
        oo.ok("env", "rm", "prod")
        assert oo.config.selected == ""
        assert list(oo.config.environments) == ["local"]

    def test_a_list_shows_no_token_and_creates_nothing(self, oo: Oo, api: FakeApi) -> None:
        oo.ok("env", "list")
        assert not oo.config_path.exists()
        oo.ok("login", "hello-svc", "hello-pass", "--url", api.url)
        for words in (("env", "ls"), ("env", "ls", "--json")):
            out = oo.ok(*words)
            assert "hello-svc" in out
            assert "token" not in out

    def test_adding_twice_is_refused(self, oo: Oo) -> None:
        oo.ok("env", "add", "a", "http://a")
        assert "oo env remove a" in oo.refused("env", "add", "a", "http://b")
        assert oo.config.url_of("a") == "http://a"

    def test_bad_input(self, oo: Oo) -> None:
        assert "not an http" in oo.refused("env", "add", "a", "ftp://a", code=2)
        assert "the name is empty" in oo.refused("env", "add", " ", "http://a", code=2)
        assert "no environment 'x'" in oo.refused("env", "switch", "x")
        assert "no environment 'x'" in oo.refused("env", "remove", "x")
        assert not oo.config_path.exists()

    def test_env_picks_the_server(self, oo: Oo, api: FakeApi) -> None:
        oo.ok("env", "add", "fake", api.url)
        oo.ok("-e", "fake", "login", "hello-svc", "hello-pass")
        oo.ok("routes", "list", "--env", "fake")
        assert api.seen[-1].token == "hello-svc-token-1"
        assert list(oo.config.environments) == ["local", "fake"]


class TestCalls:
    def test_get(self, admin: Oo, api: FakeApi) -> None:
        api.script("GET", "/registry-svc/x", 200, {"ä": [1]})
        out = admin.ok("get", "/registry-svc/x?a=0", "--b-c=1", "--b-c", "true", "--json", "v")
        assert out == '{\n  "ä": [\n    1\n  ]\n}\n'
        assert api.seen[-1].query == [("a", "0"), ("b-c", "1"), ("b-c", "true"), ("json", "v")]
        assert api.seen[-1].body is None

    def test_put_post_delete(self, admin: Oo, api: FakeApi) -> None:
        # The last two are 1Backend's own options elsewhere on the line: here they are fields.
        admin.ok("put", "--url", api.url, "registry-svc/instance", "--url=http://a:1", "--env", "x")
        assert (api.seen[-1].method, api.seen[-1].body) == ("PUT", {"url": "http://a:1", "env": "x"})
        admin.ok("post", "/proxy-svc/routes", "--ids:=[]", "--user-id=5", "--user-id=6")
        assert api.seen[-1].body == {"ids": [], "user": [{"id": 5}, {"id": 6}]}
        admin.ok("delete", "/proxy-svc/routes", '--ids:=["a"]')
        assert (api.seen[-1].method, api.seen[-1].body) == ("DELETE", {"ids": ["a"]})
        assert admin.ok("delete", "/registry-svc/instance/a") == ""
        assert api.seen[-1].body is None

    def test_a_service_may_answer_in_what_it_likes(self, admin: Oo, api: FakeApi) -> None:
        api.script("GET", "/hello-svc/x", 200, raw="grüß dich\n".encode())
        assert admin.ok("get", "/hello-svc/x") == "grüß dich\n"

    def test_misuse(self, admin: Oo, api: FakeApi) -> None:
        assert "PATH is a path" in admin.refused("get", "http://x/y", code=2)
        assert "has no value" in admin.refused("post", "/x", "--a", code=2)
        assert "has no value" in admin.refused("get", "/x", "--a", code=2)
        assert "Missing argument 'PATH'" in admin.refused("delete", code=2)
        assert api.seen == []
