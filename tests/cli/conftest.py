from __future__ import annotations

import os
import pathlib
from collections.abc import Iterator

import pytest
from click.testing import CliRunner, Result

from onebackend_proxy.cli.config import CliConfig, default_path
from onebackend_proxy.cli.main import cli
from tests.cli.fake_api import FakeApi, running_api


class Oo:
    """Runs `oo` in this process, in a home of its own."""

    def __init__(self, home: pathlib.Path) -> None:
        self.home = home

    def __call__(self, *args: str, input: str | None = None) -> Result:
        result = CliRunner().invoke(cli, list(args), input=input)
        assert "Traceback" not in result.output
        if result.exit_code:
            assert len(result.stderr.splitlines()) == 1, result.stderr
            assert result.stderr.startswith("oo: ")
        return result

    def ok(self, *args: str, input: str | None = None) -> str:
        """Run, expect success, return what went to stdout."""
        result = self(*args, input=input)
        assert result.exit_code == 0, result.output
        return result.stdout

    def refused(self, *args: str, code: int = 1, input: str | None = None) -> str:
        """Run, expect a refusal (or misuse: code 2), return the one line without `oo: `."""
        result = self(*args, input=input)
        assert result.exit_code == code, result.output
        return result.stderr.removeprefix("oo: ").rstrip("\n")

    @property
    def config_path(self) -> pathlib.Path:
        return default_path()

    @property
    def config(self) -> CliConfig:
        return CliConfig.load(self.config_path)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with running_api() as running:
        yield running


@pytest.fixture
def oo(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Oo:
    """`oo` with an empty home and no settings from outside."""
    for name in list(os.environ):
        if name.startswith("OB_"):
            monkeypatch.delenv(name)
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    return Oo(home)


@pytest.fixture
def admin(oo: Oo, api: FakeApi, monkeypatch: pytest.MonkeyPatch) -> Oo:
    """`oo` at the fake API, with the admin's password at hand."""
    monkeypatch.setenv("OB_SERVER_URL", api.url)
    monkeypatch.setenv("OB_ADMIN_PASSWORD", "admin-pass")
    return oo
