"""What the settings say about discovery: its sources, and the numbers of its rules."""

from __future__ import annotations

from dataclasses import replace
from urllib.parse import urlsplit

from consumer.config import types
from consumer.config.settings import DEFAULT_SOURCES, Settings
from consumer.fetch.listings import origin_of
from consumer.state.discovery import PAGE_WAITS, SearchRules


def sources_of(settings: Settings) -> tuple[str, ...]:
    """Return the origins of the sources, in order of preference.

    Where requests may go to loopback, or the relay is there, nothing else is asked by default:
    development never reaches the public network.
    """
    relay = origin_of(settings.relay.url)
    given = settings.discovery.sources
    if given is None:
        local = settings.network.allow_loopback or types.is_loopback(urlsplit(relay).hostname or "")
        given = (types.RELAY,) if local else DEFAULT_SOURCES
    return tuple(dict.fromkeys(relay if name == types.RELAY else name for name in given))


def search_rules(settings: Settings) -> SearchRules:
    """Return the rules that the settings give."""
    retries = settings.retries
    waits = settings.retries.policy().listing
    return SearchRules(
        repeat_every=settings.discovery.repeat_every,
        sweep_every=settings.discovery.sweep_every,
        try_again_after=retries.unsupported_listing,
        waits=waits,
        page_waits=replace(waits, longest=min(waits.longest, PAGE_WAITS.longest)),
        registered_repos=settings.discovery.registered_repos,
    )
