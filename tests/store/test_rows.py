"""Records as rows: nothing is lost, and what a later version wrote beside it does no harm."""

from __future__ import annotations

import datetime
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onebackend_proxy.errors import SettingError
from onebackend_proxy.records import Issuance, Route, RouteTimeouts, WeightedTarget
from onebackend_proxy.store import Vault, schema
from onebackend_proxy.store.engine import make_engine
from onebackend_proxy.store.migrations import migrate
from onebackend_proxy.store.rows import (
    ROUTES,
    certificate_with_key,
    issuance_fields,
    issuance_of,
    replace_certificates,
    route_row,
)

from ..properties import PROPERTY
from .issuing import FULL_ISSUANCE
from .published import a_certificate

TEXT = st.text(max_size=8)
SECONDS = st.none() | st.floats(0, 1e6)
ROUTE = st.builds(
    Route,
    TEXT,
    TEXT,
    st.lists(st.builds(WeightedTarget, TEXT, st.integers(1, 100)), max_size=3).map(tuple),
    TEXT,
    st.builds(RouteTimeouts, SECONDS, SECONDS, SECONDS),
    st.none() | st.integers(0, 9),
    st.booleans(),
)

# In any zone, as far as that has a year.
MOMENT = st.none() | st.datetimes(
    datetime.datetime(2000, 1, 1),
    timezones=st.integers(-1439, 1439).map(
        lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
    ),
    max_value=datetime.datetime(9000, 1, 1),
)
ISSUANCE = st.builds(
    Issuance,
    TEXT,
    st.integers(0, 9),
    *[MOMENT] * 2,
    TEXT,
    TEXT,
    *[MOMENT] * 2,
    TEXT,
    TEXT,
    *[MOMENT] * 3,
    TEXT,
)


def through_the_database(row):
    """As the database gives it back."""
    return row["id"], row["target"], json.loads(json.dumps(row["fields"]))


@PROPERTY
@given(ROUTE)
def test_a_route_comes_back(route):
    assert ROUTES.of(through_the_database(route_row(route))) == route


@PROPERTY
@given(ROUTE)
def test_fields_of_a_later_version_are_overlooked(route):
    key, target, fields = through_the_database(route_row(route))
    later = {**fields, "policy": {"access": [1]}, "timeouts": {**fields.get("timeouts", {}), "handshake": 5}}
    assert ROUTES.of((key, target, later)) == route


def test_a_plain_route_has_no_other_fields():
    assert route_row(Route("a.com", "http://a")) == {"id": "a.com", "target": "http://a", "fields": {}}


@PROPERTY
@given(ISSUANCE)
def test_an_issuance_comes_back(issuance):
    fields = json.loads(json.dumps(issuance_fields(issuance)))
    assert issuance_of(issuance.name, fields) == issuance
    assert issuance_of(issuance.name, {**fields, "later": {"x": [1]}, "serials": []}) == issuance


def test_an_issuance_is_kept_in_words_that_other_programs_read():
    fields = issuance_fields(FULL_ISSUANCE)
    assert fields["tried_at"] == "2026-11-21T12:30:15.123456+00:00"
    assert len(fields) == 13
    assert issuance_fields(Issuance("a.com")) == {}


@pytest.fixture
def connection(tmp_path):
    engine = make_engine(tmp_path / "proxy.sqlite", 0.1)
    with engine.execution_options(writes=True).begin() as connection:
        migrate(connection)
        yield connection
    engine.dispose()


def test_a_key_is_sealed_for_its_certificate_only(connection):
    vault = Vault("a key")
    replace_certificates(connection, vault, [a_certificate("one"), a_certificate("two", private_key="other")])
    found = certificate_with_key(connection, vault, "two")
    assert found is not None and found.private_key == "other"
    with pytest.raises(SettingError, match="OB_ENCRYPTION_KEY"):
        certificate_with_key(connection, Vault("another key"), "two")
    sealed = {row.id: row.sealed_key for row in connection.execute(schema.certificates.select())}
    assert not any(b"other" in each or b"PRIVATE" in each for each in sealed.values())
    connection.execute(schema.certificates.update().values(sealed_key=sealed["one"]))
    with pytest.raises(SettingError, match="OB_ENCRYPTION_KEY"):
        certificate_with_key(connection, vault, "two")
