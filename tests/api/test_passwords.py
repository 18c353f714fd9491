from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onebackend_proxy.api.passwords import DEFAULT_COST, Cost, check_password, decoy, hash_password

from .support import CHEAP


@settings(max_examples=50)
@given(st.text(st.characters(exclude_characters="\0")), st.text())
@example("", "\0")
@example("a", "a\0")
def test_only_the_same_password_fits(one, other):
    encoded = hash_password(one, CHEAP)
    assert check_password(one, encoded)
    assert check_password(other, encoded) == (one == other)


def test_no_password_has_a_nul():
    with pytest.raises(ValueError, match="NUL"):
        hash_password("a good password\0", CHEAP)


def test_the_default_cost_works_and_is_in_the_string():
    encoded = hash_password("secret")
    assert encoded.startswith("scrypt$ln=15,r=8,p=1$")
    assert check_password("secret", encoded)
    assert DEFAULT_COST.memory > 32 * 1024 * 1024


def test_the_cost_may_be_raised_later():
    encoded = hash_password("secret", Cost(ln=3, r=4, p=2))
    assert encoded.startswith("scrypt$ln=3,r=4,p=2$")
    assert check_password("secret", encoded)


def test_each_hash_has_its_own_salt():
    assert hash_password("secret", CHEAP) != hash_password("secret", CHEAP)


def test_a_known_vector():
    # RFC 7914, 12: the first 32 bytes for "password" and "NaCl" with N=1024, r=8, p=16.
    encoded = "scrypt$ln=10,r=8,p=16$TmFDbA==$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWI="
    assert check_password("password", encoded)


def test_a_decoy_is_nobodys():
    assert decoy(CHEAP).startswith("scrypt$ln=2,r=8,p=1$")
    assert not check_password("", decoy(CHEAP))


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "scrypt$x",
        "bcrypt$ln=2,r=8,p=1$YQ==$YQ==",
        "scrypt$ln=2,r=8,p=1$a$YQ==",
        "scrypt$ln=30,r=8,p=1$YQ==$YQ==",
    ],
)
def test_what_is_no_hash_of_ours_is_an_error_without_the_hash_in_it(encoded):
    with pytest.raises(ValueError) as caught:
        check_password("secret", encoded)
    assert "YQ" not in str(caught.value)
