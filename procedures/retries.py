"""When a failed attempt is tried again: backoff with jitter, ``Retry-After`` honoured.  Pure.

The wait doubles from the first one to an hour, half of it random, so that what failed together
does not come back together.  A host's ``Retry-After`` is a lower bound: nothing is sent earlier
than it asked, but no host can silence us for more than a day.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

HOUR = 3_600.0
DAY = 24 * HOUR
_MAX_DOUBLINGS = 32
_MAX_DIGITS = 12


@dataclass(frozen=True, slots=True)
class RetryRule:
    """Seconds: the first wait, the longest, and how long an operation is tried in all."""

    first: float
    ceiling: float = HOUR
    give_up_after: float = DAY


ASKED_FOR = RetryRule(first=1.0)
AUTOMATIC = RetryRule(first=60.0)


def rule_of(*, automatic: bool) -> RetryRule:
    """Return the rule for what the system asked of itself, or for what somebody asked for."""
    return AUTOMATIC if automatic else ASKED_FOR


def delay(rule: RetryRule, attempts: int, jitter: float, retry_after: float | None = None) -> float:
    """Return the seconds to wait after attempt number ``attempts`` (from 1) has failed.

    ``jitter`` is a random number in [0, 1); ``retry_after`` what the host asked for.
    """
    doublings = min(max(attempts - 1, 0), _MAX_DOUBLINGS)
    whole = min(rule.first * 2.0**doublings, rule.ceiling)
    return max(whole / 2 * (1 + jitter), min(retry_after or 0.0, DAY))


def parse_retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110, both forms).

    None if it is missing or says nothing that can be understood; never negative.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MAX_DIGITS])
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.fromtimestamp(now, UTC)).total_seconds())
