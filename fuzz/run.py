"""Fuzz each target for so many seconds (60), from the seeds here; what breaks a rule stays in fuzz/found."""

from __future__ import annotations

import pathlib
import subprocess
import sys
import tempfile

HERE = pathlib.Path(__file__).resolve().parent
TARGETS = ("clients", "services")


def main(seconds: int) -> int:
    """Exit code 1 if a target found something."""
    found = HERE / "found"
    found.mkdir(exist_ok=True)
    failed = []
    for target in TARGETS:
        with tempfile.TemporaryDirectory() as corpus:
            options = [f"-max_total_time={seconds}", "-max_len=3000", "-timeout=20", "-print_final_stats=1"]
            options += [f"-dict={HERE / 'http.dict'}", f"-artifact_prefix={found}/{target}-"]
            # New inputs go to the first directory: the seeds stay as they are.
            inputs = [corpus, str(HERE / "seeds" / target)]
            command = [sys.executable, str(HERE / "target.py"), target, *options, *inputs]
            if subprocess.run(command, cwd=HERE.parent).returncode:
                failed.append(target)
    print("broken rules: " + ", ".join(failed) if failed else "no rule broken")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 60))
