"""The guard against poison pills: inputs that crash their worker.  Pure.

The crash count of a lane (column ``lanes.stalls``) is the number of owners that crashed while
they worked on the input at the lane's position.  It costs nothing as long as no owner crashes: an
owner that stops in good order releases its lane, so an owner that claims a lane that is not
released knows that the last owner crashed.  It writes the count down before its own first
batch.  A batch that commits sets the count to 0.

A crash shows nothing of a single input: the process may have been killed, or have died of what
another lane was doing.  So after ``CRASHES`` crashes inputs are taken one at a time, with no
batch of another lane of the process beside it (``turns``), and the source of each is written down
before it is tried.  An owner that crashes then leaves a suspect, which the next owner tries first.
Only an input that ``ALONE_CRASHES`` owners in succession crashed of, each alone with it, is the
poison pill: it is quarantined, that is, it becomes a dead letter without being read.
"""

from __future__ import annotations

from enum import IntEnum

CRASHES = 3
ALONE_CRASHES = 2


class Alone(IntEnum):
    """The crash count while one input is tried alone for the first time: its source.

    Each further time the count is higher by the number of sources.
    """

    FIREHOSE = CRASHES + 1
    BACKFILL = CRASHES + 2
    PARKED = CRASHES + 3


class PoisonGuard:
    """How carefully an owner works, from the crash count that its predecessors left.

    ``unclean_takeover``: the last owner crashed.  ``span``: how many inputs are tried alone
    after that, enough to get past a whole batch.

    ``quarantined`` is the source whose next input is the poison pill, if one was found, and
    ``suspect`` the source whose next input was tried alone when the last owner crashed.
    """

    def __init__(self, crash_count: int, *, unclean_takeover: bool, span: int) -> None:
        self._written = crash_count
        self._count = min(crash_count, CRASHES)
        if unclean_takeover:
            self._count = min(self._count + 1, CRASHES)
        self.quarantined: Alone | None = None
        self.suspect: Alone | None = None
        self._crashes_alone = 0
        if unclean_takeover and crash_count > CRASHES:
            before, source = divmod(crash_count - Alone.FIREHOSE, len(Alone))
            self._crashes_alone = before + 1
            self.suspect = Alone(Alone.FIREHOSE + source)
        if self._crashes_alone >= ALONE_CRASHES:
            self.quarantined, self.suspect = self.suspect, None
        self._left = span if self._count == CRASHES and self.quarantined is None else 0

    @property
    def alone(self) -> bool:
        """Whether to take one input at a time, and no batch of another lane beside it."""
        return self._left > 0

    def before(self, source: Alone) -> int | None:
        """Return the crash count to write before a batch is tried, None if it is written.

        ``source`` is that of an input that is tried alone.
        """
        if self.quarantined is not None:
            return None
        count = source + self._crashes_alone * len(Alone) if self.alone else self._count
        if count == self._written:
            return None
        self._written = count
        return count

    def after(self) -> int:
        """Return the crash count to write with the batch; it is done then."""
        self._left = max(0, self._left - 1)
        self.quarantined = self.suspect = None
        self._crashes_alone = 0
        self._count = self._written = CRASHES if self._left else 0
        return self._count
