"""Which of several relays is read.  Pure.

The relays are in order of preference.  The next one is read when the current one could not be
read for ``failover_after`` seconds; a relay is not unwell because it is quiet.  A preferred
one is read again when it has answered every probe for ``return_after`` seconds.  So there
are at least as many seconds between two switches as the shorter of the two, and a relay that
fails as soon as it is read comes back no more often than once in both together.

Times are in seconds of one monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

_PROBES = 10  # in ``return_after``


class Failover:
    """The decision for one tailer; ``current`` is the relay that is read.

    ``in_vain``: it was switched to, and could not be read since.
    ``relays`` are different URLs, at least one; ``current`` is one of them.
    """

    def __init__(
        self,
        relays: Sequence[str],
        current: str,
        now: float,
        *,
        failover_after: float,
        return_after: float,
    ) -> None:
        self.current = current
        self.in_vain = False
        self._relays = tuple(relays)
        self._failover_after = failover_after
        self._return_after = return_after
        self._read_at = now
        self._well_since: dict[str, float] = {}  # of preferred relays, by their probes
        self._probed_at: dict[str, float] = {}

    def read(self, now: float) -> None:
        """Note that the current relay is read: frames come, or it is quiet and answers pings."""
        self._read_at, self.in_vain = now, False

    def probed(self, relay: str, now: float, *, well: bool) -> None:
        """Note the result of a probe of a relay that ``to_probe`` named."""
        self._probed_at[relay] = now
        if well:
            self._well_since.setdefault(relay, now)
        else:
            self._well_since.pop(relay, None)

    def to_probe(self, now: float) -> list[str]:
        """Return the relays that are preferred to the current one and due to be probed."""
        every = self._return_after / _PROBES
        return [
            relay
            for relay in self._preferred()
            if relay not in self._probed_at or now - self._probed_at[relay] >= every
        ]

    def choose(self, now: float) -> str:
        """Return the relay that is to be read now."""
        for relay in self._preferred():
            since = self._well_since.get(relay)
            if since is not None and now - since >= self._return_after:
                return relay
        if now - self._read_at < self._failover_after:
            return self.current
        return self._relays[(self._relays.index(self.current) + 1) % len(self._relays)]

    def switch(self, relay: str, now: float) -> None:
        """Read ``relay`` from now on; what probes said of it and of others no longer counts."""
        self.current, self._read_at, self.in_vain = relay, now, True
        self._well_since.clear()
        self._probed_at.clear()

    def _preferred(self) -> tuple[str, ...]:
        return self._relays[: self._relays.index(self.current)]


def last_read(epochs: Mapping[str, int], relays: Sequence[str]) -> str:
    """Return the relay to begin with: the one that was read last, or else the first.

    ``epochs`` are those of the stored cursors, by URL.
    """
    newest = max(epochs, key=lambda relay: epochs[relay], default=relays[0])
    return newest if newest in relays else relays[0]
