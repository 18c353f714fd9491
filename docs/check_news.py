"""Run `towncrier check` against the main branch, whatever it is called in this clone."""

from __future__ import annotations

import pathlib
import subprocess
import sys

TOP = pathlib.Path(__file__).resolve().parent.parent
CANDIDATES = ("origin/main", "main")


def known(branch: str) -> bool:
    """Say whether git knows this branch here (it knows none in an unpacked archive)."""
    command = ["git", "rev-parse", "--verify", "--quiet", f"{branch}^{{commit}}"]
    return subprocess.run(command, cwd=TOP, capture_output=True).returncode == 0


def main() -> int:
    """Return towncrier's exit code; with nothing to compare with, say so and pass."""
    branch = next(filter(known, CANDIDATES), None)
    if branch is None:
        print(f"check_news: none of {', '.join(CANDIDATES)} is known to git here; nothing to compare with")
        return 0
    config = str(TOP / "docs" / "towncrier.toml")
    command = [sys.executable, "-m", "towncrier", "check", "--config", config, "--dir", str(TOP)]
    return subprocess.run([*command, "--compare-with", branch], cwd=TOP).returncode


if __name__ == "__main__":
    sys.exit(main())
