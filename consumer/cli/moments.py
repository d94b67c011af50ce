"""Moments as people write them: ISO 8601, or how long ago.  Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_AGO = re.compile(r"(?:[0-9]{1,9}[smhdw])+")


def moment(text: str, now: float) -> float:
    """Return the moment that ``text`` names, in Unix seconds, not before 1970.

    ``text`` is ``now``, a duration before ``now`` such as ``90s``, ``2h`` or ``1d12h``, or a date
    or time in ISO 8601, in UTC if it names no zone.  Raises ``ValueError`` for anything else.
    """
    if text == "now":
        return now
    if _AGO.fullmatch(text):
        parts = re.findall("([0-9]+)([a-z])", text)
        return max(0.0, now - sum(int(number) * _SECONDS[unit] for number, unit in parts))
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(
            f"'{text}' is neither a time such as 2026-07-04T14:30Z, nor a duration such as 90s, "
            "15m, 2h or 7d, nor 'now'"
        ) from None
    return max(0.0, (found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp())
