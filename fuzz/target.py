"""One fuzz target, ``clients`` or ``services``; libFuzzer's options and inputs follow.

With ``--show FILE`` instead, say what an input stands for, and run it once without atheris.
"""

from __future__ import annotations

import pathlib
import sys
from typing import Any

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))


def _parts(name: str) -> tuple[Any, Any]:
    from tests import differential_clients, differential_services

    return {
        "clients": (differential_clients.ClientRun, differential_clients.run_client),
        "services": (differential_services.ServiceRun, differential_services.run_service),
    }[name]


def show(name: str, path: str) -> None:
    """Run one input, as a test would."""
    what, run = _parts(name)
    decoded = what.decoded(pathlib.Path(path).read_bytes())
    print(decoded, flush=True)
    run(decoded)
    print("all rules hold")


def fuzz(name: str, options: list[str]) -> None:
    """Let atheris make inputs until one breaks a rule."""
    import atheris

    with atheris.instrument_imports(include=["onebackend_proxy"]):
        what, run = _parts(name)

    def one(data: bytes) -> None:
        if len(data) < 3:
            return
        decoded = what.decoded(data)
        try:
            run(decoded)
        except BaseException:
            print(f"\n{decoded!r}\nbreaks a rule. The input is in the file named below; to see it again:")
            print(f"    python fuzz/target.py {name} --show FILE", flush=True)
            raise

    atheris.Setup([sys.argv[0], *options], one)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[2:3] == ["--show"]:
        show(sys.argv[1], sys.argv[3])
    else:
        fuzz(sys.argv[1], sys.argv[2:])
