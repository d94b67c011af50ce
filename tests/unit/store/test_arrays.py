"""The encoding is compared with psycopg's own, which knows PostgreSQL's format."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from psycopg.adapt import PyFormat, Transformer
from psycopg.types.array import ListBinaryDumper

from consumer.store.arrays import Bigints, Booleans, Byteas, Column, Doubles, Texts


def encoded_by_psycopg(values: Sequence[Any], sample: object) -> bytes:
    transformer = Transformer()
    dumper = transformer.get_dumper([sample], PyFormat.BINARY)
    assert isinstance(dumper, ListBinaryDumper)
    return bytes(dumper.dump(list(values)) or b"")


@pytest.mark.parametrize(
    ("column", "values", "sample"),
    [
        (Texts, ["a", "", "ü€𝄞", "x" * 5000], "a"),
        (Byteas, [b"", b"\x00\xff", b"x" * 5000], b"a"),
        (Bigints, [2**62, 0, -1, -(2**63)], 2**62),
        (Doubles, [0.0, -1.5, 1e300], 1.0),
        (Booleans, [True, False, True], True),
    ],
)
def test_a_column_is_encoded_as_psycopg_would(
    column: type[Column], values: Sequence[Any], sample: object
) -> None:
    mine = column(values).payload  # type: ignore[arg-type, call-arg]
    theirs = encoded_by_psycopg(values, sample)
    # psycopg sets the has-null flag exactly, we always set it; the server ignores it.
    assert mine[:4] + theirs[4:8] + mine[8:] == theirs


@pytest.mark.parametrize("column", [Texts, Byteas, Bigints, Doubles, Booleans])
def test_an_empty_column_has_no_dimensions(column: type[Column]) -> None:
    payload = column([]).payload  # type: ignore[call-arg]
    assert payload[:4] == b"\x00\x00\x00\x00"
    assert int.from_bytes(payload[8:12], "big") == column.element_oid
    assert len(payload) == 12


def test_null_is_the_length_minus_one() -> None:
    assert Texts([None]).payload.endswith(b"\xff\xff\xff\xff")
