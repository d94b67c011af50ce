"""The settings of ``[retries]``: the numbers of the rules in ``procedures.retries``."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from consumer.config.section import Section
from consumer.config.types import NonNegative, Seconds
from procedures.retries import DEFAULT as _RETRIES
from procedures.retries import Backoff, RetryPolicy, Throttle


class RetrySettings(Section):
    """How long what failed waits before it is tried again (``procedures.retries``).

    ``…_first`` and ``…_longest`` are the first and the longest wait: it doubles in between.
    """

    asked_for_first: Seconds = _RETRIES.asked_for.first
    automatic_first: Seconds = _RETRIES.automatic.first
    attempt_longest: Seconds = _RETRIES.asked_for.longest
    give_up_after: Seconds = _RETRIES.give_up_after
    behind_give_up_after: Seconds = _RETRIES.behind_give_up_after
    check_give_up_after: Seconds = _RETRIES.check_give_up_after
    at_once: NonNegative = _RETRIES.at_once
    throttle_free: Annotated[NonNegative, Field(le=1_000)] = _RETRIES.throttle.free
    throttle_window: Seconds = _RETRIES.throttle.window
    throttle_first: Seconds = _RETRIES.throttle.backoff.first
    throttle_longest: Seconds = _RETRIES.throttle.backoff.longest
    renewal_first: Seconds = _RETRIES.renewal.first
    renewal_longest: Seconds = _RETRIES.renewal.longest
    host_first: Seconds = _RETRIES.host.first
    host_longest: Seconds = _RETRIES.host.longest
    directory_longest: Seconds = _RETRIES.directory.longest
    busy_host: Seconds = _RETRIES.busy_host.longest
    deferral: Annotated[float, Field(ge=0, le=10)] = _RETRIES.deferral
    lookup_first: Seconds = _RETRIES.lookup.first
    lookup_longest: Seconds = _RETRIES.lookup.longest
    listing_first: Seconds = _RETRIES.listing.first
    listing_longest: Seconds = _RETRIES.listing.longest
    unsupported_listing: Seconds = _RETRIES.unsupported_listing
    longest_retry_after: Seconds = _RETRIES.longest_retry_after

    def policy(self) -> RetryPolicy:
        """Return the rules that these settings give."""
        return RetryPolicy(
            asked_for=Backoff(self.asked_for_first, self.attempt_longest),
            automatic=Backoff(self.automatic_first, self.attempt_longest),
            give_up_after=self.give_up_after,
            behind_give_up_after=self.behind_give_up_after,
            check_give_up_after=self.check_give_up_after,
            at_once=self.at_once,
            throttle=Throttle(
                self.throttle_free,
                self.throttle_window,
                Backoff(self.throttle_first, self.throttle_longest, jitter=0.0),
            ),
            renewal=Backoff(self.renewal_first, self.renewal_longest),
            host=Backoff(self.host_first, self.host_longest),
            directory=Backoff(self.host_first, self.directory_longest),
            busy_host=Backoff(self.busy_host, self.busy_host),
            deferral=self.deferral,
            lookup=Backoff(self.lookup_first, self.lookup_longest),
            listing=Backoff(self.listing_first, self.listing_longest),
            unsupported_listing=self.unsupported_listing,
            longest_retry_after=self.longest_retry_after,
        )
