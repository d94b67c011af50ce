"""What can happen to a firehose connection, and what to do about each.

``classify`` is the one place that tells these apart: a clean close, a broken transport, no peer,
an HTTP answer instead of a websocket, silence, a text or an oversized message, an error frame,
broken framing, a proxy that opens no connection.  None is fatal: the tailer always goes on.
"""

from __future__ import annotations

import random
import ssl
from dataclasses import dataclass
from enum import Enum

from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidHandshake,
    InvalidStatus,
    WebSocketException,
)
from websockets.frames import CloseCode

from consumer.errors import Reason
from consumer.metrics.labels import ReconnectCause
from consumer.network.proxy import ProxyFailed
from consumer.tail.splitter import Unskippable, Unusable, Violation
from procedures.retries import parse_retry_after

FUTURE_CURSOR = "FutureCursor"
OUTDATED_CURSOR = "OutdatedCursor"

_LONGEST_RETRY_AFTER = 600.0  # seconds


class Pace(Enum):
    """What follows; the value is the first pause before a reconnect, in seconds."""

    GO_ON = 0.0  # the connection is still good
    SOON = 0.5  # the next attempt may well succeed
    LATER = 5.0  # the relay refuses us, or is no relay


class Silent(Exception):
    """The socket is half-open: too long without a frame or a pong."""


class RelayError(Exception):
    """The relay sent an error frame, which ends the stream."""

    def __init__(self, name: str, message: str | None) -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name = name


class Denied(Exception):
    """The relay began before the position that it was asked for: it may have another sequence."""


class Garbage(Exception):
    """Too many messages in a row were refused: the relay does not send a firehose."""


# Seconds.  While the relay is away every try is cheap, and what it has when it is back is late by
# the pause; who refuses us is asked less often.
_LONGEST_PAUSE = {Pace.GO_ON: 0.0, Pace.SOON: 15.0, Pace.LATER: 60.0}

# What a connection, or the attempt to make one, may end with through the doing of the relay, or of
# the proxy before it.
ABOUT_RELAY = (
    WebSocketException,
    OSError,
    ProxyFailed,
    Violation,
    Silent,
    RelayError,
    Denied,
    Garbage,
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What happened: the metric label, what to do, and the text for the log.

    ``at_least``: seconds that the relay asked us to wait.  ``denied``: the relay says that
    it does not know our cursor.
    """

    cause: ReconnectCause
    pace: Pace
    detail: str
    at_least: float = 0.0
    denied: bool = False

    def pause(self, attempts: int, chance: random.Random) -> float:
        """Return the seconds to wait before attempt ``attempts`` (from 0), with full jitter."""
        longest = min(self.pace.value * 2.0 ** min(attempts, 16), _LONGEST_PAUSE[self.pace])
        return max(chance.uniform(0.0, longest), self.at_least)


_PLAIN: tuple[tuple[type[Exception], ReconnectCause, Pace], ...] = (
    (Unskippable, ReconnectCause.TOO_BIG, Pace.LATER),
    (Violation, ReconnectCause.PROTOCOL, Pace.LATER),
    (Garbage, ReconnectCause.PROTOCOL, Pace.LATER),
    (Denied, ReconnectCause.DENIED, Pace.SOON),
    (Silent, ReconnectCause.SILENCE, Pace.SOON),
    (ConnectionClosedOK, ReconnectCause.CLOSED, Pace.SOON),
    (ProxyFailed, ReconnectCause.PROXY, Pace.SOON),
    (InvalidHandshake, ReconnectCause.REJECTED, Pace.LATER),
    (ssl.SSLCertVerificationError, ReconnectCause.UNREACHABLE, Pace.LATER),
    # Refused, no such name, no route, no answer in time, TLS: whatever the system says.
    (Exception, ReconnectCause.UNREACHABLE, Pace.SOON),
)


def classify(event: Exception | Unusable, now: float) -> Outcome:
    """Return what ``event`` means: it came from connecting, or from reading a connection.

    ``now`` is in Unix seconds: a relay may give a date in Retry-After.
    """
    match event:
        case Unusable(reason=reason):
            is_text = reason is Reason.FRAME_TEXT
            cause = ReconnectCause.TEXT_FRAME if is_text else ReconnectCause.TOO_BIG
            return Outcome(cause, Pace.GO_ON, event.detail)
        case RelayError(name=name):
            future = name == FUTURE_CURSOR
            pace = Pace.SOON if future else Pace.LATER
            return Outcome(ReconnectCause.ERROR_FRAME, pace, str(event), denied=future)
        case ConnectionClosedError():
            return _closed(event)
        case InvalidStatus(response=response):
            detail = f"HTTP {response.status_code} {response.reason_phrase}"
            wait = _retry_after(response.headers, now)
            return Outcome(ReconnectCause.REJECTED, Pace.LATER, detail, wait)
    return next(
        _outcome(cause, pace, event) for kind, cause, pace in _PLAIN if isinstance(event, kind)
    )


def _outcome(cause: ReconnectCause, pace: Pace, event: Exception) -> Outcome:
    return Outcome(cause, pace, str(event) or type(event).__name__)


def _closed(event: ConnectionClosedError) -> Outcome:
    """Tell a close frame with an error code from a transport that broke."""
    if event.sent is not None and event.sent.code == CloseCode.PROTOCOL_ERROR:
        return _outcome(ReconnectCause.PROTOCOL, Pace.LATER, event)
    if event.rcvd is not None:
        return _outcome(ReconnectCause.CLOSED, Pace.LATER, event)
    return _outcome(ReconnectCause.DROPPED, Pace.SOON, event)


def _retry_after(headers: Headers, now: float) -> float:
    values = headers.get_all("Retry-After")
    return min(parse_retry_after(values[0] if values else None, now) or 0.0, _LONGEST_RETRY_AFTER)
