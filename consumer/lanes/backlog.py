"""The metrics of a lane's backlog: how many outbox rows wait for Kafka, and since when."""

from __future__ import annotations

from collections import deque

from consumer import metrics


class Backlog:
    """Follows what is decided and what is published.  Times are Unix seconds."""

    def __init__(self, lane: int) -> None:
        self._lane = lane
        self._decided: deque[tuple[int, float]] = deque()  # the newest out_seq, and when
        self._published = 0

    @property
    def empty(self) -> bool:
        """Whether nothing waits."""
        return not self._decided

    def decided(self, out_seq: int, now: float) -> None:
        """Note that rows up to ``out_seq`` wait."""
        if out_seq > max(self._published, self._decided[-1][0] if self._decided else 0):
            self._decided.append((out_seq, now))
            self._show()

    def published(self, out_seq: int) -> None:
        """Note that rows up to ``out_seq`` are in Kafka."""
        self._published = out_seq
        while self._decided and self._decided[0][0] <= out_seq:
            self._decided.popleft()
        self._show()

    def end(self) -> None:
        """Remove the lane from the metrics: this process publishes it no more."""
        metrics.OUTBOX_DEPTH.remove(self._lane)
        metrics.OUTBOX_AGE.drop(self._lane)

    def _show(self) -> None:
        newest = self._decided[-1][0] if self._decided else self._published
        metrics.OUTBOX_DEPTH.labels(self._lane).set(newest - self._published)
        if self._decided:
            metrics.OUTBOX_AGE.since(self._decided[0][1], self._lane)
        else:
            metrics.OUTBOX_AGE.settled(self._lane)
