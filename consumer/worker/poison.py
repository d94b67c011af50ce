"""Inputs that kill their worker: how often, and what then.  Pure.

``lanes.stalls`` counts the owners that died while they worked on the input at the lane's
position.  In the normal course that costs nothing: an owner that leaves in good order marks the
lane as released, so that whoever claims a lane that is *not* released knows that its last owner
died, and writes that down before its own first batch.  A batch that commits sets the count to 0.

After ``DEATHS`` deaths inputs are taken one by one, and each is noted before it is tried.  If
the owner dies again, the input that is noted is the culprit, and goes to the dead letter.
"""

from __future__ import annotations

from enum import IntEnum

DEATHS = 3


class Alone(IntEnum):
    """``lanes.stalls`` while one input is tried alone: from which source it came."""

    FIREHOSE = DEATHS + 1
    BACKFILL = DEATHS + 2
    PARKED = DEATHS + 3


class PoisonGuard:
    """How carefully an owner goes on, from what its predecessors left in ``stalls``.

    ``unclean_takeover``: the last owner died.  ``span``: how many inputs are tried alone after
    that, enough to get past a whole batch.
    """

    def __init__(self, stalls: int, *, unclean_takeover: bool, span: int) -> None:
        self._written = stalls
        self._count = min(stalls, DEATHS)
        if unclean_takeover:
            self._count = min(self._count + 1, DEATHS)
        self.quarantined = Alone(stalls) if unclean_takeover and stalls > DEATHS else None
        self._left = span if self._count == DEATHS and self.quarantined is None else 0

    @property
    def alone(self) -> bool:
        """Whether one input is to be taken at a time."""
        return self._left > 0

    def before(self, source: Alone) -> int | None:
        """Return the count to write before a round (alone: from ``source``) is tried, if any."""
        if self.quarantined is not None:
            return None
        count = source if self.alone else self._count
        if count == self._written:
            return None
        self._written = count
        return count

    def after(self) -> int:
        """Return the count to write with the round, which is then done."""
        self._left = max(0, self._left - 1)
        self.quarantined = None
        self._count = self._written = DEATHS if self._left else 0
        return self._count
