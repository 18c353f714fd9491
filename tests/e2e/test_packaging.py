"""What pip installs: a wheel from this checkout holds every module, the plugin, and the `oo` command."""

from __future__ import annotations

import os
import pathlib
import subprocess
import sys
import venv
import zipfile

import pytest

TOP = pathlib.Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> pathlib.Path:
    """A wheel built the way ``pip install .`` builds it, from a copy that holds what git holds."""
    source = tmp_path_factory.mktemp("source") / "checkout"
    for path in tracked_files():
        target = source / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((TOP / path).read_bytes())
    out = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "-w", str(out), str(source)]
    done = subprocess.run(build, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, "pip could not build the wheel:\n" + done.stderr
    return next(out.glob("*.whl"))


def tracked_files() -> list[pathlib.Path]:
    """The files a wheel is made of; found without git, which an unpacked archive has not."""
    found = [TOP / name for name in ("setup.cfg", "pyproject.toml", "README.rst", "LICENSE")]
    found += [TOP / "twisted" / "plugins" / "onebackend_proxy_plugin.py"]
    found += [path for path in (TOP / "onebackend_proxy").rglob("*") if path.suffix in (".py", ".typed")]
    return [path.relative_to(TOP) for path in found]


def test_every_module_is_in_the_wheel(wheel):
    packed = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.as_posix() for path in tracked_files() if path.suffix == ".py"}
    assert len(modules) > 10
    assert modules - packed == set()
    assert "onebackend_proxy/py.typed" in packed
    assert "twisted/plugins/__init__.py" not in packed, "it would shadow Twisted's own plugins"
    assert not [name for name in packed if name.startswith(("tests/", "docs/"))]


def test_an_installed_wheel_makes_twistd_know_the_proxy(wheel, tmp_path):
    """Unpacked into a folder of its own, as pip does it, and found without the checkout."""
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    run = "from twisted.scripts.twistd import run; run()"
    # A cache that cannot be written must not show: a read-only site-packages is common.
    (site / "twisted" / "plugins" / "dropin.cache").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", run, "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "onebackend-proxy" in done.stdout
    assert "Traceback" not in done.stdout + done.stderr


def test_oo_is_installed_as_a_command(wheel, tmp_path):
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False, system_site_packages=False)
    python = environment / "bin" / "python"
    # -I: pip must not take the checkout, which PYTHONPATH names in tests, for an installed package.
    install = [sys.executable, "-I", "-m", "pip", "--python", str(python), "install", "--quiet", "--no-deps"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run([*install, str(wheel)], env=clean, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    # Its dependencies are those of the environment the tests run in.
    dependencies = os.pathsep.join(path for path in sys.path if path.endswith("site-packages"))
    done = subprocess.run(
        [str(environment / "bin" / "oo"), "--help"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": dependencies},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    for group in ("routes", "redirects", "instances", "users", "login", "demo"):
        assert group in done.stdout
