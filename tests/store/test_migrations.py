from __future__ import annotations

import json

import pytest
import sqlalchemy as sa

from onebackend_proxy.errors import SettingError
from onebackend_proxy.records import Route
from onebackend_proxy.store import Vault, schema
from onebackend_proxy.store.engine import make_engine
from onebackend_proxy.store.migrations import MIGRATIONS, migrate
from onebackend_proxy.store.rows import CERTIFICATES, ROUTES, all_of, certificate_with_key

from .published import a_certificate, listed


@pytest.fixture
def engine(tmp_path):
    engine = make_engine(tmp_path / "proxy.sqlite", 0.1)
    yield engine
    engine.dispose()


def written(engine):
    return engine.execution_options(writes=True).begin()


def shape_of(engine):
    """Tables, columns, keys and indexes as the database itself tells them."""
    inspector = sa.inspect(engine)
    return {
        table: (
            [
                (column["name"], repr(column["type"]), column["nullable"], column["primary_key"])
                for column in inspector.get_columns(table)
            ],
            sorted(tuple(unique["column_names"]) for unique in inspector.get_unique_constraints(table)),
            sorted(tuple(index["column_names"]) for index in inspector.get_indexes(table)),
            sorted(
                (tuple(f["constrained_columns"]), f["referred_table"])
                for f in inspector.get_foreign_keys(table)
            ),
        )
        for table in inspector.get_table_names()
    }


def test_the_steps_lead_to_the_schema(engine, tmp_path):
    with written(engine) as connection:
        migrate(connection)
    other = make_engine(tmp_path / "other.sqlite", 0.1)
    with written(other) as connection:
        schema.metadata.create_all(connection)
    assert shape_of(engine) == shape_of(other)
    assert len(shape_of(engine)) == len(schema.metadata.tables)
    other.dispose()


def test_a_second_time_changes_nothing(engine):
    for _ in range(2):
        with written(engine) as connection:
            migrate(connection)
            assert connection.scalar(sa.select(schema.schema_version.c.version)) == len(MIGRATIONS)


def test_only_the_steps_that_lack_are_taken(engine):
    taken = []
    steps = [lambda _connection, n=n: taken.append(n) for n in range(3)]
    for known in (1, 1, 3):
        with written(engine) as connection:
            migrate(connection, steps[:known])
    assert taken == [0, 1, 2]


def test_routes_of_the_first_schema_are_read_with_defaults(engine):
    with written(engine) as connection:
        migrate(connection, MIGRATIONS[:1])
        connection.exec_driver_sql("INSERT INTO routes VALUES ('a.com', 'http://a')")
    with written(engine) as connection:
        migrate(connection)
        assert all_of(connection, ROUTES) == (Route("a.com", "http://a"),)


def test_certificates_of_the_second_schema_are_those_that_somebody_saved(engine):
    vault, saved = Vault("a key"), a_certificate()
    with written(engine) as connection:
        migrate(connection, MIGRATIONS[:2])
        row = [
            saved.id,
            json.dumps(saved.names),
            saved.chain,
            vault.seal(f"certificate {saved.id}", saved.private_key.encode()),
            saved.common_name,
            saved.issuer,
            saved.serial,
            *(
                f"{moment:%Y-%m-%d %H:%M:%S.%f}"
                for moment in (saved.not_before, saved.not_after, saved.created_at, saved.updated_at)
            ),
        ]
        connection.exec_driver_sql(
            f"INSERT INTO certificates VALUES ({', '.join('?' * len(row))})", tuple(row)
        )
        connection.exec_driver_sql("INSERT INTO journal VALUES (1, 'certificates', 'cert-1')")
    with written(engine) as connection:
        migrate(connection)
        assert all_of(connection, CERTIFICATES) == (listed(saved),)
        assert certificate_with_key(connection, vault, saved.id) == saved
        assert connection.execute(sa.select(schema.journal)).all() == [(1, "certificates", "cert-1")]
        for table in (schema.issuances, schema.orders, schema.challenges):
            assert connection.execute(sa.select(table)).all() == []


def test_a_newer_database_is_refused(engine):
    with written(engine) as connection:
        migrate(connection, [lambda connection: None] * 7)
    wanted = r"written by a newer version of the proxy \(schema 7, this one knows 3\)"
    with pytest.raises(SettingError, match=wanted), written(engine) as connection:
        migrate(connection)


def test_a_step_that_fails_leaves_nothing_behind(engine):
    def broken(connection):
        connection.exec_driver_sql("CREATE TABLE half (x)")
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), written(engine) as connection:
        migrate(connection, [*MIGRATIONS, broken])
    assert sa.inspect(engine).get_table_names() == []


def test_the_tables_can_be_spelled_for_postgresql():
    from sqlalchemy.dialects import postgresql
    from sqlalchemy.schema import CreateTable

    for table in schema.metadata.sorted_tables:
        assert "CREATE TABLE" in str(CreateTable(table).compile(dialect=postgresql.dialect()))
