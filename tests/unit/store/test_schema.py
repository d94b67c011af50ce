from __future__ import annotations

import pytest

from consumer.store.schema import migrations, schema_of


def test_the_default_prefix_names_the_schema() -> None:
    assert schema_of("chive.") == "chive"


@pytest.mark.parametrize("prefix", ["pg_catalog.", "public.", "information_schema."])
def test_schemas_of_postgres_itself_are_never_used(prefix: str) -> None:
    assert schema_of(prefix).startswith("x_")


def test_different_prefixes_have_different_schemas() -> None:
    prefixes = ["a.", "a", "a.b.", "a_b.", "a-b.", "x" * 64, "x" * 63 + ".", "x" * 63 + "y"]
    assert len({schema_of(prefix) for prefix in prefixes}) == len(prefixes)
    assert all(len(schema_of(prefix).encode()) <= 63 for prefix in prefixes)


def test_migrations_are_numbered_in_order_and_each_number_once() -> None:
    versions = [m.version for m in migrations()]
    assert versions == sorted(set(versions))
    assert versions[0] == 1
