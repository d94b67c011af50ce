"""``pub.chive.admin.getFirehoseStatus``: what it answers.  Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from procedures import times


@dataclass(frozen=True, slots=True)
class FirehoseState:
    """How far the relay was read; ``seq`` None: no frame has come, ``relay`` None: no tailer reads.

    ``time`` is that of the frame, ``since`` that of the last change of ``connected``; both are in
    Unix seconds.  ``reason``: why the relay is not connected.
    """

    seq: int | None = None
    time: float | None = None
    relay: str | None = None
    connected: bool = False
    since: float | None = None
    reason: str | None = None


class Firehose(Protocol):
    """The reading of the firehose."""

    async def state(self, now: float) -> FirehoseState:
        """Return how far it is at ``now`` (Unix seconds); raise ``Unavailable``."""


def answer(state: FirehoseState, letters: int, now: float) -> dict[str, Any]:
    """Return the output; ``letters`` are the dead letters that are listed."""
    output: dict[str, Any] = {"dlqCount": letters, "timestamp": times.to_text(now)}
    known = {
        "cursor": state.seq,
        "cursorTime": None if state.time is None else times.to_text(state.time),
        "relay": state.relay,
        "connected": state.connected,
        "since": None if state.since is None else times.to_text(state.since),
        "reason": state.reason,
    }
    return output | {name: value for name, value in known.items() if value is not None}
