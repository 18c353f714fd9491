from __future__ import annotations

import json
import os
import pathlib
import pty
import subprocess
import sys

import pytest

from onebackend_proxy.passwords import check_hash, check_password
from tests.cli.conftest import Oo

PASSWORD = "correct horse \u00e9"


@pytest.mark.parametrize("words", [(), ("--algorithm", "scrypt"), ("--algorithm", "bcrypt")])
def test_a_line_of_standard_input_is_hashed(oo: Oo, words: tuple[str, ...]) -> None:
    said = oo.ok("hash-password", *words, input=f"{PASSWORD}\nnot this\n")
    assert said.count("\n") == 1 and PASSWORD not in said
    hashed = said.rstrip("\n")
    check_hash(hashed)
    assert check_password(PASSWORD, hashed)
    assert hashed.startswith("$2b$" if "bcrypt" in words else "scrypt$")


def test_as_json(oo: Oo) -> None:
    said = json.loads(oo.ok("hash-password", "--json", input=PASSWORD))
    assert check_password(PASSWORD, said["passwordHash"])


def test_what_cannot_be_hashed(oo: Oo) -> None:
    assert "password is missing" in oo.refused("hash-password", input="\n", code=2)
    assert "password is missing" in oo.refused("hash-password", input="", code=2)
    assert "bcrypt reads 72 bytes" in oo.refused("hash-password", "--algorithm", "bcrypt", input="x" * 73)
    assert "NUL" in oo.refused("hash-password", input="a\0b")
    assert "md5" in oo.refused("hash-password", "--algorithm", "md5", input="x", code=2)


def at_a_terminal(tmp_path: pathlib.Path, *lines: str) -> tuple[int, str, str]:
    """The exit code, what went to stdout, and what the terminal showed."""
    here, there = pty.openpty()
    with os.fdopen(here, "rb+", buffering=0) as terminal:
        process = subprocess.Popen(
            [sys.executable, "-c", "from onebackend_proxy.cli.main import main; main()", "hash-password"],
            stdin=there,
            stdout=subprocess.PIPE,
            stderr=there,
            env={**os.environ, "HOME": str(tmp_path)},
            start_new_session=True,
            text=True,
        )
        os.close(there)
        screen = b""
        for line in lines:
            while not screen.endswith(b": "):
                screen += terminal.read(1)
            terminal.write(line.encode() + b"\n")
            screen += b"|"
        out, _none = process.communicate(timeout=30)
        try:
            screen += terminal.read(4096)
        except OSError:
            pass
    return process.returncode, out, screen.decode()


def test_at_a_terminal_it_is_asked_for_twice_and_not_shown(tmp_path: pathlib.Path) -> None:
    code, out, screen = at_a_terminal(tmp_path, "hunter22", "hunter22")
    assert code == 0 and check_password("hunter22", out.strip())
    assert "hunter22" not in screen and "Password: " in screen and "The same again: " in screen


def test_two_that_differ_are_refused(tmp_path: pathlib.Path) -> None:
    code, out, screen = at_a_terminal(tmp_path, "hunter22", "hunter23")
    assert (code, out) == (1, "")
    assert "oo: these are two passwords, not one twice" in screen and "hunter" not in screen
