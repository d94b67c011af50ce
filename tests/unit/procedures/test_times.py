"""Moments as text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from procedures import times


@given(st.integers(min_value=-62_135_596_800_000, max_value=253_402_300_798_999))
def test_milliseconds_survive_the_round_trip(milliseconds: int) -> None:
    text = times.to_text(milliseconds / 1000)
    assert round(times.from_text(text) * 1000) == milliseconds
    assert times.to_text(times.from_text(text)) == text


def test_text_is_what_atproto_writes() -> None:
    assert times.to_text(1783175954.1234) == "2026-07-04T14:39:14.123Z"
    assert times.from_text("2026-07-04T16:39:14.123456789+02:00") == 1783175954.123456


@pytest.mark.parametrize(
    "text",
    [
        "2026-07-04",
        "2026-07-04T14:39:14",
        "2026-07-04 14:39:14Z",
        "2026-07-04t14:39:14z",
        "2026-02-30T14:39:14Z",
        "2026-07-04T24:00:00Z",
        "2026-07-04T14:39:14.Z",
        "2026-07-04T14:39:14-00:00",
        "2026-07-04T14:39:14Z\n",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59.9999Z",
    ],
)
def test_refuses_other_forms(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        times.from_text(text)
