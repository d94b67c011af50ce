"""What an operator is told about searches."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence

import structlog

from consumer.state.discovery import Answer, AnswerKind, Search, SearchState

_WARN_EVERY = 60.0

_log = structlog.get_logger()


class SearchLog:
    """Logs what an operator should know, once for each source and kind."""

    def __init__(self) -> None:
        self._said: set[str] = set()
        self._warned: dict[str, float] = {}  # by source, monotonic seconds

    def tell(self, search: Search, answer: Answer) -> None:
        """Log what ``answer`` made of ``search``."""
        own = search.named_by is None
        if search.state is SearchState.UNSUPPORTED:
            if own and search.source not in self._said:
                self._said.add(search.source)
                _log.warning(
                    "listing_unsupported",
                    listing=search.listing,
                    source=search.source,
                    error=search.detail,
                )
        elif search.state is SearchState.INCOMPLETE:
            _log.warning(
                "listing_incomplete",
                listing=search.listing,
                source=search.source,
                cursor=search.cursor,
                pages=search.pages,
                error=search.detail,
            )
        elif search.state is SearchState.COMPLETED:
            _log.info(
                "listing_completed",
                listing=search.listing,
                source=search.source,
                pages=search.pages,
                found=search.found,
            )
        elif answer.kind is not AnswerKind.PAGE and own and self._may_warn(search.source):
            _log.warning(
                "listing_postponed",
                listing=search.listing,
                source=search.source,
                error=search.detail,
            )

    def _may_warn(self, source: str) -> bool:
        """Tell whether to warn that ``source`` fails: at once, then once in ``_WARN_EVERY``."""
        now = time.monotonic()
        if now - self._warned.get(source, -math.inf) < _WARN_EVERY:
            return False
        self._warned[source] = now
        return True


class UnservedLog:
    """Logs which listings no source serves: one line for those that end together.

    A relay that serves none is asked for one after the other.
    """

    def __init__(self, sources: Sequence[str]) -> None:
        self._sources = sources
        self._unserved: dict[str, str] = {}  # why, by listing
        self._since = 0.0  # monotonic seconds

    def add(self, unserved: Mapping[str, str]) -> None:
        """Note the listings that no source serves, each with its error."""
        if unserved and not self._unserved:
            self._since = time.monotonic()
        self._unserved |= unserved

    def tell(self, *, at_once: bool) -> None:
        """Log what was noted, ``at_once`` or once the first of it is ``_WARN_EVERY`` old."""
        waited = time.monotonic() - self._since >= _WARN_EVERY
        if self._unserved and (at_once or waited):
            _log.warning(
                "listing_unserved",
                listings=sorted(self._unserved),
                sources=list(self._sources),
                error=next(iter(self._unserved.values())),
                meaning="repositories that write nothing new are not found",
            )
            self._unserved = {}
