"""`~/.1backend/cliConfig.yaml`: environments (servers) and the tokens kept for each.

The file may be shared with 1Backend's own `oo`: keys that we do not know are kept as they are.
"""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import pathlib
import tempfile
from collections.abc import Iterator
from typing import Any

import attrs
import yaml

from onebackend_proxy.cli.client import Refusal, canonical_url, one_line
from onebackend_proxy.folder import default_folder

DEFAULT_URL = "http://127.0.0.1:11337"
DEFAULT_ENVIRONMENT = "local"
DEFAULT_APP_HOST = "unnamed"


@attrs.frozen
class KeptToken:
    """One login found in the file: in which environment, whose, for which app."""

    environment: str
    slug: str
    app_host: str
    token: str = attrs.field(repr=False)


class CliConfig:
    """The content of the file; a missing file is an empty one."""

    def __init__(self, data: dict[str, Any] | None = None, where: str = "cliConfig.yaml") -> None:
        self.data = data if data is not None else {}
        self._where = where
        self._check()

    @classmethod
    def load(cls, path: pathlib.Path) -> CliConfig:
        """Read the file; Refusal if it cannot be read or is not what we expect."""
        try:
            text = path.read_text("utf-8")
        except FileNotFoundError:
            return cls(where=str(path))
        except OSError as error:
            raise Refusal(f"{path}: cannot be read: {error.strerror}") from None
        except UnicodeDecodeError:
            raise Refusal(f"{path}: is not UTF-8 text") from None
        try:
            data = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise Refusal(f"{path}: is not YAML: {_yaml_problem(error)}") from None
        if data is not None and not isinstance(data, dict):
            raise Refusal(f"{path}: expected a mapping")
        return cls(data, str(path))

    @property
    def environments(self) -> dict[str, dict[str, Any]]:
        """All environments by name."""
        found: dict[str, dict[str, Any]] | None = self.data.get("environments")
        return {} if found is None else found

    @property
    def selected(self) -> str:
        """The name of the selected environment, or an empty string."""
        return str(self.data.get("selectedEnvironment") or "")

    def url_of(self, name: str) -> str:
        """Return an environment's canonical URL; Refusal if there is no such name or its URL is bad."""
        if name not in self.environments:
            known = ", ".join(sorted(self.environments)) or "none"
            raise Refusal(f"there is no environment {name!r} (there is: {known}): oo env add NAME URL")
        try:
            return canonical_url(self.environments[name]["url"])
        except ValueError as error:
            raise Refusal(f"{self._where}: environments.{name}.url: {error}") from None

    def name_for(self, url: str) -> str | None:
        """Return the environment for a canonical URL, the selected one first; None if there is none."""
        names = sorted(self.environments, key=lambda name: name != self.selected)
        for name in names:
            with contextlib.suppress(ValueError):
                if canonical_url(self.environments[name]["url"]) == url:
                    return name
        return None

    def token(self, name: str, app_host: str | None = None) -> KeptToken | None:
        """Return the selected user's token in an environment, for `app_host` or the selected app."""
        environment = self.environments[name]
        users = environment.get("users") or {}
        slug = environment.get("selectedUser")
        user = users.get(slug) if isinstance(slug, str) else None
        if not isinstance(slug, str) or not user:
            return None
        app = app_host or user.get("selectedAppHost") or DEFAULT_APP_HOST
        token = (user.get("tokensByAppHost") or {}).get(app)
        return KeptToken(name, slug, app, token) if token else None

    def add(self, name: str, url: str, description: str = "") -> dict[str, Any]:
        """Add an environment and return it."""
        added: dict[str, Any] = {"url": url, "shortName": name, "description": description, "users": {}}
        if self.data.get("environments") is None:
            self.data["environments"] = {}
        self.environments[name] = added
        return added

    def keep_token(self, url: str, kept: KeptToken) -> None:
        """Keep a token in its environment, made for `url` if need be, and select its user."""
        environment = self.environments.get(kept.environment)
        if environment is None:
            environment = self.add(kept.environment, url)
        if not environment.get("users"):
            environment["users"] = {}
        user = environment["users"].get(kept.slug)
        if user is None:
            user = environment["users"][kept.slug] = {"slug": kept.slug}
        if user.get("tokensByAppHost") is None:
            user["tokensByAppHost"] = {}
        user["tokensByAppHost"][kept.app_host] = kept.token
        user["selectedAppHost"] = kept.app_host
        environment["selectedUser"] = kept.slug

    def forget_token(self, kept: KeptToken) -> None:
        """Forget a token, if it is there; its user is selected no more when that was the last one."""
        environment = self.environments.get(kept.environment, {})
        user = (environment.get("users") or {}).get(kept.slug, {})
        tokens = user.get("tokensByAppHost") or {}
        tokens.pop(kept.app_host, None)
        if not tokens and environment.get("selectedUser") == kept.slug:
            del environment["selectedUser"]

    def _check(self) -> None:
        """Refuse what the methods above could not walk through."""
        self._expect(self.data.get("selectedEnvironment"), str, "selectedEnvironment")
        self._expect(self.data.get("environments"), dict, "environments")
        for name, environment in self.environments.items():
            place = f"environments.{name}"
            self._expect(name, str, place)
            self._required(environment, dict, place)
            self._required(environment.get("url"), str, f"{place}.url")
            self._expect(environment.get("selectedUser"), str, f"{place}.selectedUser")
            self._expect(environment.get("users"), dict, f"{place}.users")
            for slug, user in (environment.get("users") or {}).items():
                self._check_user(user, f"{place}.users.{slug}")

    def _check_user(self, user: Any, place: str) -> None:
        self._required(user, dict, place)
        self._expect(user.get("selectedAppHost"), str, f"{place}.selectedAppHost")
        self._expect(user.get("tokensByAppHost"), dict, f"{place}.tokensByAppHost")
        for app, token in (user.get("tokensByAppHost") or {}).items():
            self._expect(app, str, f"{place}.tokensByAppHost.{app}")
            self._expect(token, str, f"{place}.tokensByAppHost.{app}")

    def _expect(self, value: Any, kind: type[str] | type[dict[Any, Any]], place: str) -> None:
        if value is not None:
            self._required(value, kind, place)

    def _required(self, value: Any, kind: type[str] | type[dict[Any, Any]], place: str) -> None:
        if not isinstance(value, kind):
            name = "text" if kind is str else "a mapping"
            raise Refusal(f"{self._where}: {place}: expected {name}")


def default_path() -> pathlib.Path:
    """Return where the file lies: in the user's own folder, wherever a proxy keeps its data."""
    return default_folder() / "cliConfig.yaml"


@contextlib.contextmanager
def editing(path: pathlib.Path) -> Iterator[CliConfig]:
    """Read the file, let the caller change it, write it back in one piece; nobody else edits meanwhile."""
    # Whoever keeps the file elsewhere and links to it wants the file changed, not the link.
    path = pathlib.Path(os.path.realpath(path))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.parent, os.O_RDONLY)
    except OSError as error:
        raise Refusal(f"{path.parent}: cannot be used: {error.strerror}") from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        config = CliConfig.load(path)
        before = copy.deepcopy(config.data)
        if not config.environments:
            config.add(DEFAULT_ENVIRONMENT, DEFAULT_URL, "the proxy on this machine")
            config.data.setdefault("selectedEnvironment", DEFAULT_ENVIRONMENT)
        yield config
        if config.data != before:
            # Not allow_unicode: PyYAML writes a line break such as U+0085 as it is, and reads a space.
            _write(path, yaml.safe_dump(config.data, sort_keys=False))
    finally:
        os.close(lock)


def _write(path: pathlib.Path, text: str) -> None:
    try:
        # mkstemp makes it 0600 from the start: it holds tokens.
        fd, name = tempfile.mkstemp(prefix=".cliConfig-", dir=path.parent)
    except OSError as error:
        raise Refusal(f"{path}: cannot be written: {error.strerror}") from None
    try:
        with open(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise Refusal(f"{path}: cannot be written: {error.strerror}") from None


def _yaml_problem(error: Exception) -> str:
    """Say where, but quote nothing: the lines around may hold tokens."""
    mark = getattr(error, "problem_mark", None)
    problem = one_line(str(getattr(error, "problem", None) or type(error).__name__))
    return f"line {mark.line + 1}: {problem}" if mark is not None else problem
