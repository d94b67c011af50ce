"""Searches for repositories: which listing at which source is next, and what answers mean.  Pure.

A search is of one listing at one source.  The sources of a listing are tried in order, until one
has been read to its end.  A search ends in one of three ways:

- ``completed``: its last page was read;
- ``unsupported``: the source says that it does not serve the listing;
- ``incomplete``: a page could not be read even in the smallest piece, a cursor came twice, or the
  source was away for too long.  ``detail`` names the reason and the cursor.

Every search ends: a cursor that came before ends it, and without a page it ends after
``SearchRules.give_up_after``.  Times are Unix seconds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from consumer.known_collections import expanded
from consumer.scope import EVERYTHING, Repos, Scope
from procedures.retries import DAY, MINUTE, Backoff

HOSTS = "#hosts"
"""The listing of a relay's hosts; each host's ``*`` is a search of its own."""
SWEEP = "#sweep"
"""All repositories, for their revisions."""
REGISTERED = "registered"
"""In place of the source that names a host: a command named it."""

_HASH_BYTES = 8
_WINDOW = 32  # cursors; longer circles are found by the mark
_LIMITS = {EVERYTHING: 1_000, SWEEP: 1_000, HOSTS: 1_000}
_COLLECTION_LIMIT = 2_000
_SMALLER = 10  # the share of a page that is tried after one that fails
_MAX_PAGES = 1_000_000
_SHOWN = 100
_WAITS = Backoff(1.0, 3_600.0)
PAGE_WAITS = Backoff(1.0, MINUTE)
"""Between requests for a page that may be the reason that it fails."""


class SearchState(StrEnum):
    """Where a search is; the last three are its ends."""

    OPEN = "open"
    COMPLETED = "completed"
    INCOMPLETE = "incomplete"
    UNSUPPORTED = "unsupported"


class AnswerKind(StrEnum):
    """What a source said when it was asked for a page."""

    PAGE = "page"
    ABSENT = "absent"  # the listing is not served here
    REFUSED = "refused"  # status 400 with a name that has no meaning by itself
    BROKEN = "broken"  # an error, or no answer in time: the page may be the reason
    AWAY = "away"  # no connection, or busy: the page is not the reason


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    ``detail`` has the source's words.  Of a page: how many entries it ``named``, and the next
    ``cursor`` (None: the last page).  ``name`` is the error's.  ``retry_after`` is in seconds.
    """

    kind: AnswerKind
    detail: str = ""
    named: int = 0
    cursor: str | None = None
    name: str = ""
    retry_after: float = 0.0


@dataclass(frozen=True, slots=True)
class SearchRules:
    """The numbers of the decisions; times in seconds.

    ``tries``
        After this many failures a page is asked for in a smaller piece.
    ``refusals``, ``refused_for``
        A refusal that repeats this often over this time means "not served here".
    ``down_after``
        The next source is asked as well when one has given no page for this time.
    ``give_up_after``
        A search without a page for this time ends.
    ``repeat_every``, ``sweep_every``
        When a completed search is opened again.
    ``try_again_after``
        When a search that ended otherwise is opened again.
    ``waits``
        Between requests for a page that fails; ``page_waits`` when the page may be the reason.
    ``registered_repos``
        A registered host is read as far as its page with that many repositories.
    """

    tries: int = 3
    refusals: int = 3
    refused_for: float = 30.0
    down_after: float = 600.0
    give_up_after: float = DAY
    repeat_every: float = 7 * DAY
    sweep_every: float = DAY
    try_again_after: float = DAY
    waits: Backoff = _WAITS
    page_waits: Backoff = PAGE_WAITS
    registered_repos: int = 1_000


@dataclass(frozen=True, slots=True)
class Search:
    """One listing at one source; ``source`` is an origin.

    ``named_by``: the source whose ``#hosts`` names this one, or ``REGISTERED``; None for a source
    of the settings.
    ``epoch``: the relay's when the search was opened.  ``limit``: entries of a page.  ``found``
    counts entries, ``failed`` requests without a page; ``failures`` those since the last page,
    and ``tries`` of these with this ``limit``.  ``due``: when the next page may be asked for; of
    a search that has ended, when it is opened again.
    """

    source: str
    listing: str
    named_by: str | None = None
    state: SearchState = SearchState.OPEN
    operation: str | None = None
    epoch: int = 0
    cursor: str | None = None
    limit: int = _COLLECTION_LIMIT
    seen: bytes = b""
    pages: int = 0
    found: int = 0
    failed: int = 0
    failures: int = 0
    tries: int = 0
    failing_since: float | None = None
    refusal: str | None = None
    refusals: int = 0
    refused_since: float | None = None
    detail: str = ""
    due: float = 0.0

    @property
    def ended(self) -> bool:
        return self.state is not SearchState.OPEN


def opened(
    source: str, listing: str, epoch: int, now: float, named_by: str | None = None
) -> Search:
    """Return a new search, due at once."""
    limit = _LIMITS.get(listing, _COLLECTION_LIMIT)
    return Search(source, listing, named_by, epoch=epoch, limit=limit, due=now)


def listings(scope: Scope, known: Sequence[str] = ()) -> tuple[str, ...]:
    """Return the listings that name the repositories of ``scope``.

    A listing is of one collection: a wildcard stands for the built-in and ``known`` ones it covers.
    """
    if scope.repos is Repos.ALL or EVERYTHING in scope.collections:
        return (HOSTS,)
    return () if scope.repos is Repos.LISTED else expanded(scope, known)


def plan(
    wanted: Sequence[str],
    sources: Sequence[str],
    known: Mapping[tuple[str, str], Search],
    epoch: int,
    now: float,
    rules: SearchRules,
) -> tuple[Search, ...]:
    """Return the searches that are opened, opened again, or given up now.

    ``known`` are the searches at ``sources`` so far, by source and listing; ``epoch`` is the
    relay's.  Where no source serves ``#hosts``, ``*`` is searched in its place.

    A source that does not have the method for listings of collections is not asked for the others.
    """
    changed = _spared(wanted, known, now, rules)
    known = {**known, **{(each.source, each.listing): each for each in changed}}
    for listing in wanted:
        at = [known.get((source, listing)) for source in sources]
        steps = _walk(listing, sources, at, epoch, now, rules)
        changed += steps
        if listing == HOSTS and not steps and not any(_serves(one, now, rules) for one in at):
            at = [known.get((source, EVERYTHING)) for source in sources]
            changed += _walk(EVERYTHING, sources, at, epoch, now, rules)
    return tuple(changed)


def _spared(
    wanted: Sequence[str],
    known: Mapping[tuple[str, str], Search],
    now: float,
    rules: SearchRules,
) -> list[Search]:
    """Return the searches that end unasked: their source lacks the method of their listings.

    All listings of collections are one method.  A source lacks it when it said so of one of them
    after the search was opened, and has given no page of another.
    """
    of_collections = [
        each for each in known.values() if each.listing in wanted and each.listing not in _LIMITS
    ]
    serving = {each.source for each in of_collections if each.pages}
    answers = {
        each.source: each
        for each in sorted(of_collections, key=lambda one: one.due)
        if each.state is SearchState.UNSUPPORTED
        and each.refusal is None
        and each.source not in serving
    }
    return [
        _ended(each, SearchState.UNSUPPORTED, said.detail, now, rules)
        for each in of_collections
        if not (each.ended or each.failed)
        and (said := answers.get(each.source)) is not None
        and said.due - rules.try_again_after >= each.due
    ]


def _serves(search: Search | None, now: float, rules: SearchRules) -> bool:
    """Tell whether the search was read to the last page, or may be."""
    if search is None or search.state is SearchState.COMPLETED:
        return search is not None
    return not search.ended and not is_down(search, now, rules)


def _walk(
    listing: str,
    sources: Sequence[str],
    known: Sequence[Search | None],
    epoch: int,
    now: float,
    rules: SearchRules,
) -> list[Search]:
    down: list[Search] = []
    for source, search in zip(sources, known, strict=True):
        if search is None or _is_stale(search, epoch, now):
            return [opened(source, listing, epoch, now)]
        if search.state is SearchState.COMPLETED:
            given_up = "another source was read in its place"
            return [
                _ended(each, SearchState.INCOMPLETE, f"{each.detail}; {given_up}", now, rules)
                for each in down
            ]
        if not search.ended:
            if not is_down(search, now, rules):
                return []
            down.append(search)
    return []


def _is_stale(search: Search, epoch: int, now: float) -> bool:
    """Tell whether a search has ended and is to be opened again.

    What a source does not serve does not depend on the relay's epoch.  A sweep compares what is
    known, and a new epoch doubts all of that already.
    """
    if not search.ended:
        return False
    if search.due <= now:
        return True
    by_epoch = search.state is not SearchState.UNSUPPORTED and search.listing != SWEEP
    return by_epoch and search.epoch < epoch


def is_down(search: Search, now: float, rules: SearchRules) -> bool:
    """Tell whether the source has given no page for so long that the next one is asked."""
    since = search.failing_since
    return since is not None and now - since > rules.down_after


def after(search: Search, answer: Answer, now: float, chance: float, rules: SearchRules) -> Search:
    """Return an open search after one request; ``chance`` is a random number in [0, 1)."""
    if answer.kind is AnswerKind.PAGE:
        return _after_page(search, answer, now, rules)
    if answer.kind is AnswerKind.ABSENT:
        # A source that has given a page serves the listing.
        state = SearchState.INCOMPLETE if search.pages else SearchState.UNSUPPORTED
        absent = replace(_failed(search), refusal=None, refusals=0, refused_since=None)
        return _ended(absent, state, answer.detail, now, rules)
    failed = replace(
        _failed(search),
        failing_since=now if search.failing_since is None else search.failing_since,
        detail=answer.detail,
    )
    if answer.kind is AnswerKind.REFUSED:
        return _after_refusal(failed, answer, now, chance, rules)
    failed = replace(failed, refusal=None, refusals=0, refused_since=None)
    if answer.kind is AnswerKind.BROKEN:
        return _after_broken(failed, answer, now, chance, rules)
    return _later(failed, answer, rules.waits, now, chance, rules)


def _failed(search: Search) -> Search:
    return replace(search, failed=search.failed + 1, failures=search.failures + 1)


def _after_page(search: Search, answer: Answer, now: float, rules: SearchRules) -> Search:
    read = replace(
        search,
        pages=search.pages + 1,
        found=search.found + answer.named,
        failures=0,
        tries=0,
        failing_since=None,
        refusal=None,
        refusals=0,
        refused_since=None,
        detail="",
        due=now,
    )
    if answer.cursor is None:
        return _ended(replace(read, cursor=None), SearchState.COMPLETED, "", now, rules)
    seen = _remembered(search, answer.cursor)
    if seen is None:
        detail = f"the cursor {answer.cursor[:_SHOWN]!r} came a second time"
        return _ended(read, SearchState.INCOMPLETE, detail, now, rules)
    if search.named_by == REGISTERED and read.found >= rules.registered_repos:
        detail = f"it has more than {rules.registered_repos:,} repositories: a relay should read it"
        return _ended(read, SearchState.INCOMPLETE, detail, now, rules)
    if read.pages >= _MAX_PAGES:
        detail = f"there are more than {_MAX_PAGES} pages"
        return _ended(read, SearchState.INCOMPLETE, detail, now, rules)
    largest = _LIMITS.get(search.listing, _COLLECTION_LIMIT)
    limit = min(largest, search.limit * _SMALLER)
    return replace(read, cursor=answer.cursor, seen=seen, limit=limit)


def _remembered(search: Search, cursor: str) -> bytes | None:
    """Return the remembered cursors with ``cursor``; None if it is one of them.

    The first hash is the mark: the cursor of the last page whose number is a power of two.  By
    it a circle of any length is found within three times its length (Brent's algorithm); the
    others are the newest cursors.
    """
    own = hashlib.blake2b(cursor.encode("utf-8", "surrogatepass"), digest_size=_HASH_BYTES).digest()
    hashes = [search.seen[at : at + _HASH_BYTES] for at in range(0, len(search.seen), _HASH_BYTES)]
    if own in hashes:
        return None
    number = search.pages + 1
    mark = own if number & (number - 1) == 0 or not hashes else hashes[0]
    return b"".join([mark, *[*hashes[1:], own][-_WINDOW:]])


def _after_refusal(
    search: Search, answer: Answer, now: float, chance: float, rules: SearchRules
) -> Search:
    repeated = search.refusal == answer.name
    since = search.refused_since if repeated and search.refused_since is not None else now
    refusals = search.refusals + 1 if repeated else 1
    refused = replace(search, refusal=answer.name, refusals=refusals, refused_since=since)
    if refusals >= rules.refusals and now - since >= rules.refused_for:
        state = SearchState.INCOMPLETE if search.pages else SearchState.UNSUPPORTED
        return _ended(refused, state, answer.detail, now, rules)
    return _later(refused, answer, rules.page_waits, now, chance, rules)


def _after_broken(
    search: Search, answer: Answer, now: float, chance: float, rules: SearchRules
) -> Search:
    tries = search.tries + 1
    if tries < rules.tries:
        tried = replace(search, tries=tries)
    elif search.limit > 1:
        tried = replace(search, tries=0, limit=max(1, search.limit // _SMALLER))
    else:
        where = "the first page" if search.cursor is None else f"cursor {search.cursor[:_SHOWN]!r}"
        detail = f"the page at {where} cannot be read: {answer.detail}"
        return _ended(search, SearchState.INCOMPLETE, detail, now, rules)
    return _later(tried, answer, rules.page_waits, now, chance, rules)


def _later(
    search: Search, answer: Answer, waits: Backoff, now: float, chance: float, rules: SearchRules
) -> Search:
    since = now if search.failing_since is None else search.failing_since
    if now - since >= rules.give_up_after:
        detail = f"no page in {now - since:,.0f} s: {answer.detail}"
        return _ended(search, SearchState.INCOMPLETE, detail, now, rules)
    wait = max(waits.wait(search.failures, chance), answer.retry_after)
    return replace(search, due=now + wait)


def postponed(search: Search, detail: str, seconds: float, now: float) -> Search:
    """Return a search that waits because of us: nothing was asked."""
    return replace(search, detail=detail, due=now + seconds)


def cancelled(search: Search, now: float, rules: SearchRules) -> Search:
    """Return a search that a command has stopped."""
    return _ended(search, SearchState.INCOMPLETE, "cancelled", now, rules)


def read_by_relay(search: Search, now: float, rules: SearchRules) -> Search:
    """Return the search of a registered host that the relay reads: it has ended unread."""
    return _ended(search, SearchState.COMPLETED, "the relay reads this host", now, rules)


def registered_again(search: Search, now: float) -> Search | None:
    """Return the search of a registered host as opened again; None: it is not time.

    The relay's epoch says nothing about a host that no relay reads.
    """
    if not search.ended or search.due > now:
        return None
    return opened(search.source, search.listing, search.epoch, now, REGISTERED)


def _ended(
    search: Search, state: SearchState, detail: str, now: float, rules: SearchRules
) -> Search:
    again = rules.try_again_after
    if state is SearchState.COMPLETED:
        again = rules.sweep_every if search.listing == SWEEP else rules.repeat_every
    return replace(search, state=state, detail=detail, due=now + again)


def unread_hosts(
    wanted: Sequence[str], known: Iterable[Search], now: float, rules: SearchRules
) -> int | None:
    """Return how many hosts' listings could not be read, once all that are ``wanted`` were.

    None while a search of ``known``, at sources or at hosts, goes on, and as long as no source
    gives one of the listings to its end.  One that is down is not waited for.
    """
    searches = [each for each in known if each.listing != SWEEP]
    if any(not (each.ended or is_down(each, now, rules)) for each in searches):
        return None
    completed = [each for each in searches if each.state is SearchState.COMPLETED]
    read = {each.listing for each in completed if each.named_by is None}
    if EVERYTHING in read:
        read.add(HOSTS)
    if not read.issuperset(wanted):
        return None
    return sum(each.named_by is not None for each in searches) - sum(
        each.named_by is not None for each in completed
    )


def asked_for(reason: str) -> tuple[str | None, str | None]:
    """Return the collection and the source that the operation of a command names, None: all.

    ``reason`` is the subject of ``procedures.messages.Discover``.
    """
    parts = dict(part.partition("=")[::2] for part in reason.split())
    collection, source = parts.get("collection", EVERYTHING), parts.get("source", EVERYTHING)
    return (
        None if collection == EVERYTHING else collection,
        None if source == EVERYTHING else source,
    )
