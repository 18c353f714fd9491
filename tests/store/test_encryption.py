from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.errors import SettingError
from onebackend_proxy.store.encryption import Vault

VAULT = Vault("a key")


@given(st.binary(), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_is_sealed_opens_again(value, name):
    sealed = VAULT.seal(name, value)
    assert value not in sealed or len(value) < 4
    assert Vault("a key").open(name, sealed) == value


def test_sealing_twice_gives_different_bytes():
    assert VAULT.seal("name", b"value") != VAULT.seal("name", b"value")


@pytest.mark.parametrize(
    "vault, name, change",
    [
        (Vault("another key"), "name", lambda sealed: sealed),
        (VAULT, "other name", lambda sealed: sealed),
        (VAULT, "name", lambda sealed: sealed[:-1] + bytes([sealed[-1] ^ 1])),
        (VAULT, "name", lambda sealed: b"\x02" + sealed[1:]),
        (VAULT, "name", lambda sealed: sealed[:5]),
        (VAULT, "name", lambda sealed: b""),
    ],
)
def test_anything_else_names_the_setting(vault, name, change):
    with pytest.raises(SettingError, match="OB_ENCRYPTION_KEY"):
        vault.open(name, change(VAULT.seal("name", b"value")))


def test_an_empty_key_is_refused():
    with pytest.raises(SettingError, match="OB_ENCRYPTION_KEY is empty"):
        Vault("")


def test_the_key_is_not_shown():
    assert "a key" not in repr(VAULT)
