from __future__ import annotations

import pathlib
import subprocess
import sys

import click
import pytest

from onebackend_proxy.cli import main as main_module
from onebackend_proxy.cli.client import Refusal
from tests.cli.conftest import Oo
from tests.cli.fake_api import FakeApi

RUN = [sys.executable, "-c", "from onebackend_proxy.cli.main import main; main()"]


@pytest.mark.parametrize("words", [(), ("routes",), ("env",)])
def test_nothing_asked_shows_the_help(oo: Oo, words: tuple[str, ...]) -> None:
    from click.testing import CliRunner

    result = CliRunner().invoke(main_module.cli, list(words))
    assert result.exit_code in (0, 2)
    assert "Commands:" in result.output


def test_help_names_the_aliases(oo: Oo) -> None:
    assert "(also: ls)" in oo.ok("routes", "-h")
    assert "(also: route, r)" in oo.ok("--help")
    assert oo.ok("--version").startswith("oo ")
    assert oo.ok("r", "ls", "--help").startswith("Usage: oo routes list")


def test_misuse_is_2(oo: Oo) -> None:
    assert "No such command 'x'" in oo.refused("x", code=2)
    assert oo.refused("routes", "lsit", code=2).endswith("(see: oo routes --help)")
    assert "--nope" in oo.refused("routes", "list", "--nope", code=2)
    assert "not an http" in oo.refused("--url", "ftp://x", "routes", "list", code=2)


def test_a_broken_config_is_one_line(oo: Oo) -> None:
    oo.config_path.parent.mkdir()
    oo.config_path.write_text("environments: [")
    assert f"{oo.config_path}: is not YAML" in oo.refused("routes", "list")


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (Refusal("no\nway"), 1, "no way"),
        (OSError(28, "No space left on device", "/x"), 1, "/x: No space left on device"),
        (OSError("odd"), 1, "input or output: OSError"),
        (click.ClickException("so"), 1, "so"),
        (ValueError("a secret"), 1, "a mistake of this program: ValueError in "),
        (KeyboardInterrupt(), 130, ""),
        (click.Abort(), 130, ""),
    ],
)
def test_every_error_is_one_line(
    admin: Oo, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, expected: str
) -> None:
    def fail(*args: object, **more: object) -> None:
        raise error

    monkeypatch.setattr("onebackend_proxy.cli.session.Session.call", fail)
    from click.testing import CliRunner

    result = CliRunner().invoke(main_module.cli, ["routes", "list"])
    assert result.exit_code == code
    assert result.stderr.strip().removeprefix("oo: ").startswith(expected)
    assert len(result.stderr.strip().splitlines()) == (1 if expected else 0)
    assert "secret" not in result.output


def test_as_a_program(admin: Oo, api: FakeApi) -> None:
    api.routes = [{"id": f"h{n}.com", "target": "http://x"} for n in range(20000)]
    done = subprocess.run([*RUN, "routes", "list", "h1.com"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[1].startswith("h1.com")
    # A reader that goes away early must not see a traceback.
    reading = subprocess.Popen(
        [*RUN, "routes", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert reading.stdout
    assert reading.stderr
    reading.stdout.readline()
    reading.stdout.close()
    assert reading.stderr.read() == ""
    reading.wait()
    reading.stderr.close()


def test_the_version_without_an_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.metadata

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert main_module._version() == "(run from its source)"


def test_a_home_that_is_a_file(oo: Oo, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "file"
    home.write_text("")
    monkeypatch.setenv("HOME", str(home))
    assert "Not a directory" in oo.refused("env", "add", "a", "http://a")
