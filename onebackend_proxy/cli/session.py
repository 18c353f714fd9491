"""Which server, whose token, and what to do when the token has ended."""

from __future__ import annotations

import pathlib
import socket
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

import attrs

from onebackend_proxy.cli.client import Answer, Client, Query, Refusal, canonical_url, is_loopback
from onebackend_proxy.cli.config import DEFAULT_APP_HOST, DEFAULT_URL, CliConfig, KeptToken, editing
from onebackend_proxy.folder import ADMIN_PASSWORD, read_secret
from onebackend_proxy.records import ADMIN_SLUG, BUILT_IN_SLUGS


@attrs.frozen
class Server:
    """A server's canonical URL, and the environment that its tokens are kept in, if there is one."""

    url: str
    environment: str | None


def choose_server(
    url: str | None, environment: str | None, variable: str | None, config: CliConfig
) -> Server:
    """Choose: `--url`, else `--env`, else OB_SERVER_URL, else the selected environment, else the default."""
    if url is not None:
        return _server_at(canonical_url(url), config)
    if environment is not None:
        return Server(config.url_of(environment), environment)
    if variable:
        try:
            return _server_at(canonical_url(variable), config)
        except ValueError as error:
            raise Refusal(f"OB_SERVER_URL: {error}") from None
    if config.selected:
        return Server(config.url_of(config.selected), config.selected)
    return _server_at(DEFAULT_URL, config)


def _server_at(url: str, config: CliConfig) -> Server:
    return Server(url, config.name_for(url))


def on_this_machine(url: str) -> bool:
    """Tell whether the server runs here: a loopback host, or this host's own name."""
    own = socket.gethostname().lower()
    return is_loopback(url) or (urlsplit(url).hostname or "") in (own, own.partition(".")[0])


def in_the_clear(url: str) -> bool:
    """Tell whether others on the way to the server can read what is said, and change it."""
    return url.startswith("http:") and not on_this_machine(url)


def admin_password(environ: Mapping[str, str], folder: pathlib.Path) -> tuple[str, str] | None:
    """Return the admin's password and where it came from, or None where we may not read it."""
    if environ.get("OB_ADMIN_PASSWORD"):
        return environ["OB_ADMIN_PASSWORD"], "OB_ADMIN_PASSWORD"
    path = folder / ADMIN_PASSWORD
    try:
        password = read_secret(path)
    except (OSError, UnicodeDecodeError):
        return None
    return (password, str(path)) if password else None


def token_of(said: Any, url: str) -> str:
    """Take the token out of an answer to a login; Refusal if it has none."""
    record = said.get("token") if isinstance(said, dict) else None
    token = record.get("token") if isinstance(record, dict) else None
    if not isinstance(token, str) or not token:
        raise Refusal(f"{url} answered a login without a token: is it a 1Backend proxy?")
    return token


def _new_name(url: str, config: CliConfig) -> str:
    """Name an environment after its host, or after all of its URL where that name is taken by another."""
    short = urlsplit(url).netloc
    return url if short in config.environments else short


class Session:
    """Calls to one server in somebody's name.

    The token is the one kept for that server. Without one, on the server's own machine, it is the
    admin's, by the password that only the admin may read; that token is never kept, and it goes
    to the built-in services only, so that no service behind the proxy ever sees it.
    """

    def __init__(
        self,
        server: Server,
        config_path: pathlib.Path,
        *,
        app_host: str | None,
        environ: Mapping[str, str],
        folder: pathlib.Path,
        warn: Callable[[str], None],
    ) -> None:
        self.url = server.url
        self.client = Client(server.url)
        self._server = server
        self._config_path = config_path
        self._app_host = app_host
        self._environ = environ
        self._folder = folder
        self._warn = warn
        self._admin: str | None = None
        config = CliConfig.load(config_path)
        self._kept = config.token(server.environment, app_host) if server.environment else None

    @property
    def app_host(self) -> str:
        """The app to log in to: as asked, else that of the kept login, else 1Backend's default."""
        return self._app_host or (self._kept.app_host if self._kept else DEFAULT_APP_HOST)

    @property
    def token(self) -> str | None:
        """The token that the last call went with, or the next would."""
        return self._kept.token if self._kept else self._admin

    @property
    def slug(self) -> str | None:
        """Whose token that is; None where there is none."""
        if self._kept is not None:
            return self._kept.slug
        return ADMIN_SLUG if self._admin is not None else None

    def call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Query = (),
        anonymous: bool = False,
    ) -> Any:
        """Send one request with a token and return its JSON; `anonymous`: go without where there is none."""
        return self.send(method, path, body, query=query, anonymous=anonymous).checked().json()

    def send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        query: Query = (),
        anonymous: bool = False,
    ) -> Answer:
        """Like `call`, but return the answer whatever its status."""
        token = self._token_for(path)
        if token is None and not anonymous:
            raise Refusal(self._no_login())
        answer = self.client.send(method, path, body, query=query, token=token)
        if answer.status == 401 and self._kept is not None:
            token = self._renew(path)
            answer = self.client.send(method, path, body, query=query, token=token)
        return attrs.evolve(answer, asked_as=self._asked_as(token))

    def _asked_as(self, token: str | None) -> str:
        if token is None:
            return "you are not logged in: oo login SLUG"
        if self._kept is None:
            return f"oo asked as {ADMIN_SLUG}: oo login SLUG"
        if self._kept.slug == ADMIN_SLUG:
            return f"you are logged in as {ADMIN_SLUG}: oo login SLUG"
        way = f"you are logged in as {self._kept.slug}: oo login {ADMIN_SLUG}"
        return f"{way}, or oo logout" if on_this_machine(self.url) else way

    def _no_login(self) -> str:
        # Where nothing listens, that is the thing to say, and nobody would need a login yet.
        self.client.send("GET", "/user-svc/public-key")
        why = f"you are not logged in at {self.url}: oo login SLUG"
        if not on_this_machine(self.url):
            return why
        path = self._folder / ADMIN_PASSWORD
        return f"{why} (nor can {path} be read; if the proxy has another folder, name it in OB_FOLDER)"

    def login(self, slug: str, password: str) -> Any:
        """Log in, keep the token, select the account; return the API's answer."""
        said = self._log_in(slug, password).checked().json()
        token = token_of(said, self.url)
        with editing(self._config_path) as config:
            name = self._server.environment or config.name_for(self.url) or _new_name(self.url, config)
            self._kept = KeptToken(name, slug, self.app_host, token)
            config.keep_token(self.url, self._kept)
        return said

    def logout(self) -> str | None:
        """Forget the kept token; return whose it was, or None where none was kept."""
        if self._kept is None:
            return None
        kept, self._kept = self._kept, None
        with editing(self._config_path) as config:
            config.forget_token(kept)
        return kept.slug

    def _log_in(self, slug: str, password: str) -> Answer:
        body = {"appHost": self.app_host, "slug": slug, "password": password, "device": "cli"}
        return self.client.send("POST", "/user-svc/login", body)

    def _token_for(self, path: str) -> str | None:
        if self._kept is not None:
            return self._kept.token
        return self._admin_token(path)

    def _admin_token(self, path: str) -> str | None:
        segments = path.partition("?")[0].split("/")
        if segments[1] not in BUILT_IN_SLUGS or ".." in segments or not on_this_machine(self.url):
            return None
        if self._admin is None:
            found = admin_password(self._environ, self._folder)
            if found is None:
                return None
            password, source = found
            answer = self._log_in(ADMIN_SLUG, password)
            if answer.status == 401:
                raise Refusal(
                    f"{self.url} refuses the password in {source} for {ADMIN_SLUG}: oo login SLUG", 401
                )
            self._admin = token_of(answer.checked().json(), self.url)
        return self._admin

    def _renew(self, path: str) -> str:
        """Replace the kept token, which the server no longer takes, by another, or refuse."""
        assert self._kept is not None
        kept = self._kept
        answer = self.client.send("POST", "/user-svc/refresh-token", {}, token=kept.token)
        if answer.ok:
            self._kept = attrs.evolve(kept, token=token_of(answer.json(), self.url))
            self._keep(self._kept)
            return self._kept.token
        if answer.status == 429 or answer.status >= 500:
            answer.checked()
        self._kept = None
        token = self._admin_token(path)
        if token is None:
            raise Refusal(f"your login at {self.url} has ended: oo login {kept.slug}", 401)
        self._warn(f"the login of {kept.slug} at {self.url} has ended: going on as {ADMIN_SLUG}")
        return token

    def _keep(self, kept: KeptToken) -> None:
        try:
            with editing(self._config_path) as config:
                # Somebody may have logged in as another meanwhile: replace this token, select nothing.
                user = (config.environments.get(kept.environment, {}).get("users") or {}).get(kept.slug)
                if user is not None and user.get("tokensByAppHost"):
                    user["tokensByAppHost"][kept.app_host] = kept.token
        except Refusal as error:
            self._warn(f"the new token is not kept: {error}")
