"""Moments as text: written in ISO 8601, read in the three forms that arrive.  Pure.

Inside, a moment is Unix seconds as ``float``; text exists only in JSON and HTTP headers.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

# The atproto datetime: RFC 3339 with a capital T, seconds and a zone, never "-00:00".
_DATETIME = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,20})?(Z|[+-][0-9]{2}:[0-9]{2})"
)
_MAX_DATETIME = 64
_MICROSECONDS = 6
# The years 1 to 9999 in UTC, the last second left out: what is read can be written again.
_FIRST, _LAST = -62_135_596_800.0, 253_402_300_799.0


def to_text(moment: float) -> str:
    """Return ``moment`` (Unix seconds) as ``2026-07-04T14:39:14.123Z``, rounded to milliseconds."""
    milliseconds = round(moment * 1000)
    seconds, rest = divmod(milliseconds, 1000)
    return f"{datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()}.{rest:03d}Z"


def from_text(text: str) -> float:
    """Return the Unix seconds of an atproto datetime (RFC 3339).  Raises ``ValueError``."""
    match = _DATETIME.fullmatch(text) if len(text) <= _MAX_DATETIME else None
    if match is None or text.endswith("-00:00"):
        raise ValueError(f"not a datetime: {text[:_MAX_DATETIME]!r}")
    fraction = match[1] or ""
    # More digits than microseconds are legal and carry nothing here.
    plain = text.replace(fraction, fraction[: 1 + _MICROSECONDS], 1) if fraction else text
    moment = datetime.fromisoformat(plain).timestamp()
    if not _FIRST <= moment < _LAST:
        raise ValueError(f"out of range: {text!r}")
    return moment


def from_iso(text: str) -> float:
    """Return the Unix seconds of any ISO 8601 date and time; without a zone it is UTC.

    For what others write without keeping to the atproto datetime.  Raises ``ValueError``.
    """
    return _unix(datetime.fromisoformat(text))


def from_http(text: str) -> float:
    """Return the Unix seconds of an HTTP date (RFC 9110).  Raises ``ValueError``."""
    try:
        return _unix(parsedate_to_datetime(text))
    except OverflowError as error:
        raise ValueError(f"out of range: {text[:_MAX_DATETIME]!r}") from error


def _unix(moment: datetime) -> float:
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
