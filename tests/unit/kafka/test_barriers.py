"""Whose barrier it is."""

from __future__ import annotations

import pytest

from consumer.kafka.transaction import opener_of


@pytest.mark.parametrize(
    ("barrier", "opener"),
    [
        (b"publisher-0a 6fd3", "publisher-0a"),
        (b"6fd3", None),  # of an earlier version
        (b"", None),
        (b"\xff 6fd3", "\N{REPLACEMENT CHARACTER}"),
    ],
)
def test_a_barrier_names_the_producer_that_committed_it(barrier: bytes, opener: str | None) -> None:
    assert opener_of(barrier) == opener
