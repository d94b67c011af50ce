"""How much of a lane's outbox is not yet in Kafka, and since when: metrics only."""

from __future__ import annotations

from collections import deque

from consumer import metrics


class Backlog:
    """Follows what was decided (``grows``) and what was published (``shrinks``); Unix seconds."""

    def __init__(self, lane: int) -> None:
        self._lane = lane
        self._steps: deque[tuple[int, float]] = deque()  # the newest out_seq, by time
        self._position = 0

    def grows(self, out_seq: int, now: float) -> None:
        """Note that rows up to ``out_seq`` are waiting."""
        if out_seq > max(self._position, self._steps[-1][0] if self._steps else 0):
            self._steps.append((out_seq, now))
            self._show()

    def shrinks(self, position: int) -> None:
        """Note that rows up to ``position`` are in Kafka."""
        self._position = position
        while self._steps and self._steps[0][0] <= position:
            self._steps.popleft()
        self._show()

    def end(self) -> None:
        """Forget the lane: its backlog is somebody else's."""
        metrics.OUTBOX_DEPTH.remove(self._lane)
        metrics.OUTBOX_AGE.drop(self._lane)

    def _show(self) -> None:
        newest = self._steps[-1][0] if self._steps else self._position
        metrics.OUTBOX_DEPTH.labels(self._lane).set(newest - self._position)
        if self._steps:
            metrics.OUTBOX_AGE.since(self._steps[0][1], self._lane)
        else:
            metrics.OUTBOX_AGE.settled(self._lane)
