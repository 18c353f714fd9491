"""For every test: a current folder of its own, and processes that find the package the tests import."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator

import pytest

import onebackend_proxy
from onebackend_proxy.acme_settings import OFF

from .authorities import ACME_DIRECTORY

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
