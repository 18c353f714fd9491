from __future__ import annotations

from functools import partial

import bcrypt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from onebackend_proxy.passwords import (
    DEFAULT_COST,
    Cost,
    check_hash,
    check_password,
    decoy,
    decoy_like,
    hash_password,
)

from .api.support import CHEAP


@settings(max_examples=50)
@given(st.text(st.characters(exclude_characters="\0")), st.text())
@example("", "\0")
@example("a", "a\0")
def test_only_the_same_password_fits(one, other):
    encoded = hash_password(one, cost=CHEAP)
    assert check_password(one, encoded)
    assert check_password(other, encoded) == (one == other)


def test_no_password_has_a_nul():
    with pytest.raises(ValueError, match="NUL"):
        hash_password("a good password\0", cost=CHEAP)


def test_the_default_cost_works_and_is_in_the_string():
    encoded = hash_password("secret")
    assert encoded.startswith("scrypt$ln=15,r=8,p=1$")
    assert check_password("secret", encoded)
    assert DEFAULT_COST.memory > 32 * 1024 * 1024


def test_the_cost_may_be_raised_later():
    encoded = hash_password("secret", cost=Cost(ln=3, r=4, p=2))
    assert encoded.startswith("scrypt$ln=3,r=4,p=2$")
    assert check_password("secret", encoded)


def test_each_hash_has_its_own_salt():
    assert hash_password("secret", cost=CHEAP) != hash_password("secret", cost=CHEAP)


def test_a_known_vector():
    # RFC 7914, 12: the first 32 bytes for "password" and "NaCl" with N=1024, r=8, p=16.
    encoded = "scrypt$ln=10,r=8,p=16$TmFDbA==$/bq+HJ00cgB4VucZDQHp/nxq18vII3gw53N2Y0s3MWI="
    assert check_password("password", encoded)


def test_a_decoy_is_nobodys():
    assert decoy(CHEAP).startswith("scrypt$ln=2,r=8,p=1$")
    assert not check_password("", decoy(CHEAP))


# Of no password that we know.
BCRYPTED = "$2y$05$G1jQeHvFtU5FDLWT2hSvxOUx4VAEjjvmJEs8X4VVnVbIcZ7xVAkGS"


@pytest.mark.parametrize("version", ["2a", "2b", "2y"])
def test_bcrypt_as_others_write_it(version):
    encoded = bcrypt.hashpw(b"secret", bcrypt.gensalt(4)).decode().replace("2b", version, 1)
    check_hash(encoded)
    assert check_password("secret", encoded)
    assert not check_password("secreT", encoded)
    assert not check_password("secret\0", encoded)


def test_a_known_vector_of_bcrypt():
    # Of Openwall's crypt_blowfish.
    encoded = "$2a$05$CCCCCCCCCCCCCCCCCCCCC.E5YPO9kmyuRGyh0XouQYb4YMJKvyOeW"
    assert check_password("U*U", encoded)
    assert not check_password("U*U*", encoded)


def test_bcrypt_can_be_made():
    encoded = hash_password("käse", "bcrypt")
    assert encoded.startswith("$2b$12$")
    assert check_password("käse", encoded)


def test_what_bcrypt_does_not_read_fits_nothing():
    longest = "ä" * 36
    encoded = bcrypt.hashpw(longest.encode(), bcrypt.gensalt(4)).decode()
    assert check_password(longest, encoded)
    assert not check_password(longest + "x", encoded)
    with pytest.raises(ValueError, match="72 bytes"):
        hash_password(longest + "x", "bcrypt")
    assert check_password(longest + "x", hash_password(longest + "x", cost=CHEAP))


def test_another_algorithm_is_refused():
    with pytest.raises(ValueError, match="scrypt, bcrypt"):
        hash_password("secret", "md5")


def test_a_decoy_costs_what_the_real_one_costs():
    of_ours = decoy_like(hash_password("secret", cost=Cost(ln=3, r=4, p=2)))
    assert of_ours.startswith("scrypt$ln=3,r=4,p=2$")
    of_others = decoy_like(BCRYPTED)
    assert of_others.startswith("$2y$05$")
    for each in (of_ours, of_others):
        check_hash(each)
        assert not check_password("secret", each)


GOOD = hash_password("secret", cost=CHEAP)


@pytest.mark.parametrize(
    "encoded",
    [
        "",
        "scrypt$x",
        GOOD + "\n",
        GOOD.replace("scrypt", "bcrypt"),
        GOOD.replace("ln=2", "ln=0"),
        GOOD.replace("ln=2", "ln=30"),
        GOOD.replace("ln=2,r=8,p=1", "ln=18,r=8,p=99"),
        GOOD.replace("r=8", "r=0"),
        GOOD.replace("p=1", "p=0"),
        GOOD[:-4],
        GOOD[:-4] + "====",
        GOOD.replace("p=1$", "p=1$=YQ="),
        BCRYPTED.replace("$05$", "$15$"),
        BCRYPTED.replace("$05$", "$03$"),
        BCRYPTED.replace("2y", "2x"),
        BCRYPTED.replace("hSvxOUx", "hSvxAUx"),
        BCRYPTED[:-1],
        "$apr1$abcdefgh$0123456789",
        "{SHA}5en6G6MezRroT3XKqkdPOmY/BfQ=",
        "secret",
    ],
)
def test_what_cannot_be_checked_is_an_error_without_the_hash_in_it(encoded):
    for check in (check_hash, partial(check_password, "secret"), decoy_like):
        with pytest.raises(ValueError) as caught:
            check(encoded)
        assert not encoded or encoded[-20:] not in str(caught.value)
