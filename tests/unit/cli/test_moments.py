"""Moments as people write them."""

from __future__ import annotations

import pytest

from consumer.cli.moments import moment

NOW = 1_783_175_954.123  # 2026-07-04T14:39:14.123Z


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("now", NOW),
        ("90s", NOW - 90),
        ("15m", NOW - 900),
        ("2h", NOW - 7_200),
        ("1d12h", NOW - 129_600),
        ("1w", NOW - 604_800),
        ("999999999w", 0),
        ("2026-07-04", 1_783_123_200),
        ("2026-07-04T14:39:14.123Z", NOW),
        ("2026-07-04T14:39:14", 1_783_175_954),
        ("2026-07-04 16:39:14+02:00", 1_783_175_954),
        ("0001-01-01", 0),
    ],
)
def test_moments(text: str, seconds: float) -> None:
    assert moment(text, NOW) == pytest.approx(seconds, abs=1e-6)


@pytest.mark.parametrize("text", ["", "2", "2 h", "-2h", "2y", "yesterday", "2026-02-30", "h"])
def test_nonsense(text: str) -> None:
    with pytest.raises(ValueError, match="is neither a time"):
        moment(text, NOW)
