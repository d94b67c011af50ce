"""Rate limits: token buckets in bounded memory.  Pure: the time is passed in."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

CAPACITY = 50_000
_IPV6_HOST_BITS = 64


@dataclass(frozen=True, slots=True)
class Rate:
    """``burst`` requests at once, and ``per_second`` in the long run."""

    burst: float
    per_second: float

    def at(self, per_second: float) -> Rate:
        """Return the rate of ``per_second``, with a burst in proportion."""
        return Rate(max(1.0, self.burst * per_second / self.per_second), per_second)


class TokenBuckets:
    """One bucket per key; the least recently used keys are forgotten beyond ``capacity``.

    A forgotten key starts with a full bucket again; only a caller with more addresses or accounts
    than ``capacity`` can bring that about.
    """

    def __init__(self, rate: Rate, capacity: int = CAPACITY) -> None:
        self._rate = rate
        self._capacity = capacity
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, key: str, now: float) -> float:
        """Take one from the bucket of ``key`` at ``now`` (monotonic seconds).

        Returns 0 if it was there, else the seconds until there will be one.
        """
        level, since = self._buckets.pop(key, (self._rate.burst, now))
        level = min(self._rate.burst, level + max(0.0, now - since) * self._rate.per_second)
        allowed = level >= 1
        self._buckets[key] = (level - 1 if allowed else level, now)
        if len(self._buckets) > self._capacity:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1 - level) / self._rate.per_second


def address_key(host: str | None) -> str:
    """Return the key of a client's address: of an IPv6 address its network, which one user has."""
    try:
        address = ip_address(host or "")
    except ValueError:
        return host or "-"
    if not isinstance(address, IPv6Address):
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return f"{int(address) >> _IPV6_HOST_BITS:x}/64"
