from __future__ import annotations

from uuid import UUID, uuid4

import pytest

from consumer.errors import Fatal
from consumer.lanes import marker
from consumer.lanes.marker import NOTHING, Marker

STAMP = UUID("6d0a5f8e-0f7c-4b39-9d55-0d6ec8f3c001")


@pytest.mark.parametrize("out_seq", [0, 1, 2**53])
def test_round_trip(out_seq: int) -> None:
    for each in (Marker(out_seq), Marker(out_seq, STAMP)):
        assert marker.decode(marker.encode(each)) == each


def test_the_form_is_published() -> None:
    assert marker.encode(Marker(7)) == b'{"out_seq":7}'
    assert (
        marker.encode(Marker(7, STAMP))
        == b'{"out_seq":7,"stamp":"6d0a5f8e-0f7c-4b39-9d55-0d6ec8f3c001"}'
    )
    assert marker.key_of(3) == b"3"


@pytest.mark.parametrize(
    "value",
    [b"", b"7", b"{}", b'{"out_seq":"7"}', b'{"out_seq":-1}', b'{"out_seq":1,"stamp":"x"}'],
)
def test_a_marker_that_no_publisher_wrote_is_fatal(value: bytes) -> None:
    with pytest.raises(Fatal):
        marker.decode(value)


@pytest.mark.parametrize(
    ("found", "decided", "known", "trimmed"),
    [
        (NOTHING, 0, None, 0),
        (NOTHING, 5, None, 0),
        (Marker(5, STAMP), 5, STAMP, 5),
        (Marker(5, STAMP), 9, STAMP, 3),
        (Marker(5), 5, None, 0),
    ],
)
def test_one_history(found: Marker, decided: int, known: UUID | None, trimmed: int) -> None:
    assert marker.contradiction(found, decided, known, trimmed) is None


@pytest.mark.parametrize(
    ("found", "decided", "known", "trimmed", "restored"),
    [
        (Marker(5, STAMP), 0, None, 0, "PostgreSQL"),  # emptied
        (Marker(6, STAMP), 5, None, 5, "PostgreSQL"),
        (Marker(6), 5, None, 5, "PostgreSQL"),
        (Marker(5, STAMP), 9, uuid4(), 3, "PostgreSQL"),  # restored, and decided on
        (Marker(5, STAMP), 9, None, 3, "PostgreSQL"),
        (Marker(4, STAMP), 9, STAMP, 5, "Kafka"),
        (NOTHING, 5, None, 5, "Kafka"),
    ],
)
def test_another_history_is_named(
    found: Marker, decided: int, known: UUID | None, trimmed: int, restored: str
) -> None:
    said = marker.contradiction(found, decided, known, trimmed)
    assert said is not None
    assert f"{restored} was restored" in said or "it was restored" in said
    assert restored in said
