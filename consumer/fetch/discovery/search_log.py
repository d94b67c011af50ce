"""What an operator is told about searches."""

from __future__ import annotations

import math
import time

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
