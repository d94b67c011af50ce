"""When what failed is tried again: every such wait, by name.  Pure.

Times are seconds.  ``RetryPolicy`` holds the rules of one deployment; the settings of
``[retries]`` name them one by one.  Everything that waits asks a rule of the policy; SQL gets
the rule's numbers as parameters (``steps``), never a formula of its own.

A wait doubles from the first one to the longest; a share of it is random, so that what failed
together does not come back together.  A host's ``Retry-After`` is a lower bound: nothing is sent
earlier than it asked, but no host can silence the system for longer than a bound.
"""

from __future__ import annotations

from dataclasses import dataclass

from procedures import times

MINUTE = 60.0
HOUR = 3_600.0
DAY = 24 * HOUR
_MAX_DOUBLINGS = 32
_MAX_DIGITS = 12


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waits after consecutive failures: ``first``, then doubling up to ``longest``, in seconds.

    ``jitter`` is the share of each wait, from 0 to 1, that is random.
    """

    first: float
    longest: float
    jitter: float = 0.5

    def wait(self, failures: int, chance: float) -> float:
        """Return the seconds to wait after failure number ``failures`` in a row (from 1).

        ``chance`` is a random number in [0, 1): 0 gives the shortest wait.
        """
        return self._whole(failures) * (1 - self.jitter + self.jitter * chance)

    @property
    def steps(self) -> tuple[float, ...]:
        """The waits without jitter after 1, 2, … failures, in seconds; the last one repeats."""
        steps = [self._whole(1)]
        while steps[-1] < self.longest and len(steps) <= _MAX_DOUBLINGS:
            steps.append(self._whole(len(steps) + 1))
        return tuple(steps)

    def _whole(self, failures: int) -> float:
        doublings = min(max(failures - 1, 0), _MAX_DOUBLINGS)
        return min(self.first * 2.0**doublings, self.longest)


@dataclass(frozen=True, slots=True)
class Throttle:
    """Work for one account: ``free`` times within ``window`` seconds at once, later ones wait."""

    free: int
    window: float
    backoff: Backoff

    @property
    def steps(self) -> tuple[float, ...]:
        """The waits, in seconds, after 0, 1, 2, … within the window; the last one repeats."""
        return (0.0,) * self.free + self.backoff.steps


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """The rules of one deployment.

    ``asked_for``, ``automatic``
        Between attempts of an operation that was asked for, and of an automatic one.
    ``give_up_after``
        An operation fails when it would be tried for longer than this since its first attempt.
    ``check_give_up_after``
        The same for one of a reconcile: the sweep goes on asking.
    ``behind_give_up_after``
        The same for one of many that were asked for together, since it was asked for: it must not
        keep the place of others for long, and those that failed can be asked for again.
    ``at_once``
        The number of attempts repeated without a wait when something came in between.
    ``throttle``
        Before automatic syncs of one DID.
    ``renewal``
        Before another automatic sync, after one that failed or was cancelled; of a listed
        repository as well.
    ``host``, ``directory``
        While the circuit of a host that failed is open: it is not asked.
    ``busy_host``
        Before a host that had no slot free is asked again.
    ``deferral``
        What waits for a host waits up to this share longer, so that not all come back at once.
    ``lookup``, ``listing``
        Between attempts of a lookup, and of a page of a listing, without a result.
    ``unsupported_listing``
        Before a source is asked again for a listing that it does not serve, or not to its end.
    ``longest_retry_after``
        What a host asks for by ``Retry-After`` counts up to this.
    """

    asked_for: Backoff = Backoff(1.0, HOUR)
    automatic: Backoff = Backoff(MINUTE, HOUR)
    give_up_after: float = DAY
    behind_give_up_after: float = 15 * MINUTE
    check_give_up_after: float = MINUTE
    at_once: int = 3
    throttle: Throttle = Throttle(3, HOUR, Backoff(10.0, HOUR, jitter=0.0))
    renewal: Backoff = Backoff(MINUTE, DAY)
    host: Backoff = Backoff(1.0, HOUR)
    directory: Backoff = Backoff(1.0, MINUTE)
    busy_host: Backoff = Backoff(1.0, 1.0)
    deferral: float = 0.5
    lookup: Backoff = Backoff(1.0, HOUR)
    listing: Backoff = Backoff(1.0, HOUR)
    unsupported_listing: float = DAY
    longest_retry_after: float = HOUR

    def attempt_wait(
        self, attempts: int, chance: float, retry_after: float | None = None, *, automatic: bool
    ) -> float:
        """Return the seconds to wait after attempt ``attempts`` (from 1) of an operation failed.

        ``chance`` is a random number in [0, 1); ``retry_after`` the seconds the host asked for.
        """
        backoff = self.automatic if automatic else self.asked_for
        return max(backoff.wait(attempts, chance), self.honoured(retry_after))

    def honoured(self, retry_after: float | None) -> float:
        """Return how many of the seconds that a host asked for are waited: 0 for None."""
        return min(retry_after or 0.0, self.longest_retry_after)

    def deferred(self, seconds: float, chance: float) -> float:
        """Return the seconds to wait for a host that may be asked again in ``seconds``."""
        return seconds * (1 + self.deferral * chance)


DEFAULT = RetryPolicy()
"""The rules without settings of a deployment's own; their numbers are the settings' defaults."""


def parse_retry_after(header: str | None, now: float) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks for (RFC 9110, both forms).

    None if it is missing or cannot be understood; never negative.  ``now`` is Unix seconds.
    """
    text = (header or "").strip()
    if text.isascii() and text.isdigit():
        return float(text[:_MAX_DIGITS])
    try:
        return max(0.0, times.from_http(text) - now)
    except ValueError:
        return None
