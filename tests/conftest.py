"""For every test: a current folder of its own, processes that find the package the tests import, and no
authority that anybody else uses.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Any

import pytest

import onebackend_proxy
from onebackend_proxy.acme_settings import OFF
from onebackend_proxy.tls.acme.fetching import Fetching, Reply
from onebackend_proxy.tls.acme.problems import Unreachable

from .authorities import ACME_DIRECTORY, is_harmless

# Before anything imports them: a failed assertion in there is to show its values too.
pytest.register_assert_rewrite(
    "tests.conformance",
    "tests.differential",
    "tests.differential_clients",
    "tests.differential_services",
    "tests.wire",
)


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Trial's ``mktemp`` makes files in the current folder, and must not litter the checkout."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("here"))
        patch.setenv("PYTHONPATH", str(pathlib.Path(onebackend_proxy.__file__).parent.parent))
        patch.setenv(ACME_DIRECTORY, OFF)
        yield


_asked: list[str] = []


@pytest.fixture(scope="session", autouse=True)
def _authorities() -> Iterator[None]:
    """No authority outside this machine is reached from this process."""
    fetch = Fetching.fetch

    async def checked(self: Fetching, method: bytes, url: str, *args: Any, **more: Any) -> Reply:
        if not is_harmless(url):
            _asked.append(url)
            raise Unreachable("tests ask no real authority")
        return await fetch(self, method, url, *args, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Fetching, "fetch", checked)
        yield


@pytest.fixture(autouse=True)
def _asks_no_authority() -> Iterator[None]:
    """A test that would have asked one fails, whatever became of the attempt."""
    _asked.clear()
    yield
    assert not _asked, f"a test would ask a real authority: {_asked[0]}"
