"""The examples of the documentation, as a reader copies them, and what it says that comes of them."""

from __future__ import annotations

import pathlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping

from .edge import PATIENCE, Edge
from .proxy_process import ADMIN_PASSWORD, environment

DOCS = pathlib.Path(__file__).parent.parent.parent / "docs"
OO = [sys.executable, "-c", "from onebackend_proxy.cli.main import main; main()"]


def code_blocks(page: str, kind: str) -> list[str]:
    """The examples of this kind on this page."""
    text = (DOCS / page).read_text()
    found = re.findall(rf"^\.\. code-block:: {kind}\n\n((?:   .*\n|\n)+)", text, re.MULTILINE)
    return [re.sub(r"^   ", "", each, flags=re.MULTILINE).rstrip() + "\n" for each in found]


def write_files(page: str, folder: pathlib.Path, instead: Mapping[str, str]) -> None:
    """Write each YAML example whose first line is ``# NAME`` to that file; addresses are those of a test."""
    for text in code_blocks(page, "yaml"):
        named = re.match(r"# (\S+\.yaml)\n", text)
        if named is not None:
            for theirs, ours in instead.items():
                text = text.replace(theirs, ours)
            (folder / named[1]).write_text(text)


def commands(page: str) -> Iterator[tuple[list[str], list[str]]]:
    """Each command of the page's console examples, and the lines that are shown behind it."""
    for block in code_blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = part.partition("\n")
            yield shlex.split(command), [line for line in shown.splitlines() if line]


def run(edge: Edge, command: list[str], folder: pathlib.Path, code: int = 0) -> str:
    """What an `oo` or a curl of the page writes, also why it fails where it ends with this other code.

    The hosts of its URLs are taken to be the edge.
    """
    program, *words = command
    if program == "oo":
        words = [*OO, *words]
    else:
        assert program == "curl", command
        *options, url = words
        words = edge.curl_command(url, *options)
    settings = {"OB_SERVER_URL": edge.url, "OB_ADMIN_PASSWORD": ADMIN_PASSWORD, "HOME": str(folder)}
    done = subprocess.run(
        words, cwd=folder, env=environment(**settings), capture_output=True, text=True, timeout=2 * PATIENCE
    )
    assert done.returncode == code, f"{command}: {done.stderr}"
    return done.stdout + done.stderr if code else done.stdout


def assert_as_shown(page: str, edge: Edge, folder: pathlib.Path) -> None:
    """Run all commands of the page: what is shown behind one stands in its output, in this order."""
    examples = list(commands(page))
    assert examples
    for command, shown in examples:
        output = run(edge, command, folder)
        lines = iter(line.strip() for line in output.splitlines())
        for line in shown:
            assert line.strip() in lines, f"{command}: no {line!r} in\n{output}"
