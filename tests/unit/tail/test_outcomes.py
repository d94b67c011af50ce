"""Every fate of a connection is told apart."""

from __future__ import annotations

import random
import socket
import ssl
from email.utils import formatdate

import pytest
from websockets.datastructures import Headers
from websockets.exceptions import (
    ConnectionClosedError,
    ConnectionClosedOK,
    InvalidMessage,
    InvalidStatus,
)
from websockets.frames import Close
from websockets.http11 import Response

from consumer.errors import Reason
from consumer.metrics.labels import ReconnectCause
from consumer.tail.outcomes import Denied, Garbage, Outcome, Pace, RelayError, Silent, classify
from consumer.tail.splitter import Unskippable, Unusable, Violation

OK = Close(1000, "")
NOW = 1_783_175_954.0


def status(code: int, retry_after: str | None = None) -> InvalidStatus:
    headers = Headers({} if retry_after is None else {"Retry-After": retry_after})
    return InvalidStatus(Response(code, "reason", headers))


@pytest.mark.parametrize(
    ("event", "cause", "pace"),
    [
        (ConnectionClosedOK(OK, OK, True), ReconnectCause.CLOSED, Pace.SOON),
        (
            ConnectionClosedError(Close(1013, "try later"), OK, True),
            ReconnectCause.CLOSED,
            Pace.LATER,
        ),
        (ConnectionClosedError(None, None), ReconnectCause.DROPPED, Pace.SOON),
        (ConnectionClosedError(None, Close(1002, "bad")), ReconnectCause.PROTOCOL, Pace.LATER),
        (ConnectionRefusedError(111, "refused"), ReconnectCause.UNREACHABLE, Pace.SOON),
        (socket.gaierror(-2, "no such name"), ReconnectCause.UNREACHABLE, Pace.SOON),
        (TimeoutError(), ReconnectCause.UNREACHABLE, Pace.SOON),
        (ssl.SSLError(1, "handshake"), ReconnectCause.UNREACHABLE, Pace.SOON),
        (ssl.SSLCertVerificationError(1, "expired"), ReconnectCause.UNREACHABLE, Pace.LATER),
        (status(503), ReconnectCause.REJECTED, Pace.LATER),
        (InvalidMessage("no HTTP"), ReconnectCause.REJECTED, Pace.LATER),
        (Silent("30 s"), ReconnectCause.SILENCE, Pace.SOON),
        (Violation("masked"), ReconnectCause.PROTOCOL, Pace.LATER),
        (Unskippable("2 GB"), ReconnectCause.TOO_BIG, Pace.LATER),
        (Garbage("10,000"), ReconnectCause.PROTOCOL, Pace.LATER),
        (Denied("it begins at seq 7"), ReconnectCause.DENIED, Pace.SOON),
        (RelayError("ConsumerTooSlow", "bye"), ReconnectCause.ERROR_FRAME, Pace.LATER),
        (RelayError("FutureCursor", None), ReconnectCause.ERROR_FRAME, Pace.SOON),
        (Unusable(Reason.FRAME_TEXT, "hi", b"hi"), ReconnectCause.TEXT_FRAME, Pace.GO_ON),
        (Unusable(Reason.FRAME_TOO_BIG, "9 MB", b""), ReconnectCause.TOO_BIG, Pace.GO_ON),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_classify(event: Exception | Unusable, cause: ReconnectCause, pace: Pace) -> None:
    outcome = classify(event, NOW)
    assert (outcome.cause, outcome.pace) == (cause, pace)
    assert outcome.detail


def test_only_a_cursor_of_the_future_is_denied() -> None:
    assert classify(RelayError("FutureCursor", "ahead"), NOW).denied
    assert not classify(RelayError("ConsumerTooSlow", ""), NOW).denied


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("7", 7.0),
        ("86400", 600.0),
        ("-1", 0.0),
        ("soon", 0.0),
        ("²", 0.0),
        (None, 0.0),
        (formatdate(NOW + 60, usegmt=True), 60.0),
        (formatdate(NOW - 60, usegmt=True), 0.0),
    ],
)
def test_retry_after_is_obeyed_within_reason(value: str | None, seconds: float) -> None:
    outcome = classify(status(429, value), NOW)
    assert outcome.at_least == seconds
    assert outcome.pause(0, random.Random(1)) >= seconds


def test_the_first_of_several_retry_after_counts() -> None:
    event = status(429, "7")
    event.response.headers["Retry-After"] = "8"
    assert classify(event, NOW).at_least == 7.0


@pytest.mark.parametrize(
    ("pace", "limits"),
    [
        (Pace.SOON, [(0, 0.5), (1, 1.0), (3, 4.0), (7, 15.0), (10_000, 15.0)]),
        (Pace.LATER, [(0, 5.0), (1, 10.0), (7, 60.0), (10_000, 60.0)]),
    ],
)
def test_pauses_grow_to_a_limit_with_full_jitter(
    pace: Pace, limits: list[tuple[int, float]]
) -> None:
    outcome = Outcome(ReconnectCause.DROPPED, pace, "")
    chance = random.Random(7)
    for attempts, longest in limits:
        pauses = [outcome.pause(attempts, chance) for _ in range(500)]
        assert 0 <= min(pauses) < longest * 0.1
        assert longest * 0.9 < max(pauses) <= longest
