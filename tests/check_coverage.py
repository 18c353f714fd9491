"""Fail if one file is covered below the floor: a good average must not hide a bad file.

Usage: ``python tests/check_coverage.py coverage.json``
"""

from __future__ import annotations

import json
import pathlib
import sys

FLOOR = 80.0


def main(path: str) -> int:
    files = json.loads(pathlib.Path(path).read_text())["files"]
    low = {
        name: data["summary"]["percent_covered"]
        for name, data in sorted(files.items())
        if data["summary"]["percent_covered"] < FLOOR
    }
    for name, percent in low.items():
        print(f"check_coverage: {name} is covered by {percent:.1f}%, less than {FLOOR:.0f}%")
    if not files:
        print("check_coverage: nothing was measured")
        return 1
    return 1 if low else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
