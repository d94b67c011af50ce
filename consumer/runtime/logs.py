"""Structured logs on standard error: JSON for machines, a console form for people.

Modules ask ``structlog.get_logger()`` and log a short event name with fields.  Libraries that
use the standard ``logging`` (aiokafka, uvicorn, asyncio) come out in the same form.

Much of what is logged was written by strangers.  No character of it reaches the terminal or
the log file as a control character: whatever is not printable is shown as an escape, and long
texts are cut.  Only our own tracebacks keep their line breaks.
"""

from __future__ import annotations

import logging
import sys
import time
from collections import defaultdict
from collections.abc import Callable, MutableMapping
from contextlib import suppress
from enum import Enum
from typing import Any, TextIO, cast
from weakref import WeakSet

import orjson
import structlog
from structlog.typing import FilteringBoundLogger, Processor

from consumer.config.settings import LogSettings
from consumer.errors import Transient
from consumer.metrics.labels import Service
from consumer.printable import MAX_TEXT, escape

_MAX_REMEMBERED = 1_000
_MULTILINE = frozenset({"exception", "stack"})

# Libraries that say at INFO what is of no use to an operator, and at DEBUG every frame.
_QUIET = ("aiokafka", "kafka", "httpx", "httpcore", "websockets", "uvicorn", "asyncio", "psycopg")


def _harmless(value: object) -> object:
    """Return ``value`` as plain data: enums as their values, texts cut and escaped."""
    if isinstance(value, Enum):
        value = value.value
    match value:
        case str():
            cut = value if len(value) <= MAX_TEXT else f"{value[:MAX_TEXT]}… ({len(value)} chars)"
            return escape(cut)
        case bool() | int() | float() | None:
            return value
        case dict():
            return {escape(str(k)): _harmless(v) for k, v in value.items()}
        case list() | tuple() | set() | frozenset():
            return [_harmless(v) for v in value]
        case bytes():
            return _harmless(value.hex())
        case _:
            return _harmless(str(value))


def _escape_fields(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    for key, value in event.items():
        if key in _MULTILINE and isinstance(value, str):
            event[key] = escape(value, keep="\n\t")
        elif not key.startswith("_"):
            event[key] = _harmless(value)
    return event


def _in_order(
    _logger: object, _method: str, event: MutableMapping[str, Any]
) -> MutableMapping[str, Any]:
    """Put what the eye looks for in front."""
    first = {key: event[key] for key in ("timestamp", "level", "event") if key in event}
    return {**first, **event}


def _json(event: object, **_: object) -> str:
    return orjson.dumps(event).decode()


def _renderer(settings: LogSettings, stream: TextIO) -> Processor:
    if settings.format == "json" or (settings.format == "auto" and not stream.isatty()):
        return structlog.processors.JSONRenderer(serializer=_json)
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback
    )


class _Stream:
    """A text stream whose reader may go away, or whose disk may fill: logging never fails us."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with suppress(OSError, ValueError):
            return self._stream.write(text)
        return 0

    def flush(self) -> None:
        with suppress(OSError, ValueError):
            self._stream.flush()


def configure(settings: LogSettings, stream: TextIO | None = None) -> None:
    """Send all logs of this process to ``stream`` (standard error) as ``settings`` say."""
    stream = stream or sys.stderr
    level = logging.getLevelNamesMapping()[settings.level.upper()]
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _escape_fields,
        _in_order,
    ]
    renderer = _renderer(settings, stream)
    structlog.configure(
        processors=[*shared, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=cast("TextIO", _Stream(stream))),
        cache_logger_on_first_use=False,
    )
    _route_libraries(shared, renderer, stream, level)


# Libraries that report a service which we wait for ourselves.
_REPORTERS = {"aiokafka": Service.KAFKA, "psycopg": Service.POSTGRES}


class _Calm(logging.Filter):
    """Lets a library speak once a minute, with the count of what it said meanwhile.

    A driver that reconnects many times a second says so each time, in several ways: it gets one
    line for all of them, and none while an ``Outage`` tells of its service.  Other libraries get
    one for each message.  Errors of aiokafka are warnings here: it tries again, and what it
    cannot cure is raised and judged by us.
    """

    def __init__(self, every: float = 60.0, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every = every
        self._clock = clock
        self._said: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        library = record.name.partition(".")[0]
        service = _REPORTERS.get(library)
        if service is not None and _absences[service].waiting:
            return False
        key = (record.name, str(record.msg)) if service is None else (library, "")
        now = self._clock()
        said, more = self._said.get(key, (-self._every, 0))
        if now - said < self._every:
            self._said[key] = (said, more + 1)
            return False
        if record.levelno == logging.ERROR and library == "aiokafka":
            record.levelno, record.levelname = logging.WARNING, "WARNING"
        if len(self._said) >= _MAX_REMEMBERED:
            self._said.clear()
        self._said[key] = (now, 0)
        if more:
            record.msg, record.args = f"{record.getMessage()} ({more} more like this)", ()
        return True


def _route_libraries(
    shared: list[Processor], renderer: Processor, stream: TextIO, level: int
) -> None:
    handler = logging.StreamHandler(_Stream(stream))
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_logger_name, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    handler.addFilter(_Calm())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    logging.captureWarnings(capture=True)
    for name in _QUIET:
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
        library.setLevel(logging.INFO if level == logging.DEBUG else max(level, logging.WARNING))


class _Absence:
    """One thing that is away, and everything in this process that waits for it."""

    def __init__(self) -> None:
        self.waiting: WeakSet[Outage] = WeakSet()
        self.began = 0.0
        self.said = 0.0
        self.attempts = 0


_absences: defaultdict[str, _Absence] = defaultdict(_Absence)  # by what is away


class Outage:
    """Says calmly that something is away: at once, then once a minute, and once when it is back.

    One for each place that waits.  Places that wait for the same thing share their lines: what
    is away is the ``service`` that a ``Transient`` names, else ``what``.  It is back when no
    place waits for it any more.  ``clock`` returns seconds and only moves forward.
    """

    def __init__(
        self,
        log: FilteringBoundLogger,
        what: str,
        *,
        every: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._log = log
        self._what = what
        self._every = every
        self._clock = clock
        self._causes: set[str] = set()

    def again(self, error: object, **fields: object) -> None:
        """Note a failed attempt; log it if it is the first, or the last line is old."""
        what = (isinstance(error, Transient) and error.service) or self._what
        now, absence = self._clock(), _absences[what]
        first = not absence.waiting
        if first:
            absence.began, absence.attempts = now, 0
        absence.waiting.add(self)
        absence.attempts += 1
        self._causes.add(what)
        if not first and now - absence.said < self._every:
            return
        absence.said = now
        away = round(now - absence.began)
        self._log.warning(
            f"{what}_unreachable", error=str(error), attempts=absence.attempts, away=away, **fields
        )

    def over(self, **fields: object) -> None:
        """Note that all is well here; log what is back, if nothing else waits for it."""
        for what in sorted(self._causes):
            absence = _absences[what]
            absence.waiting.discard(self)
            if not absence.waiting:
                away = round(self._clock() - absence.began)
                self._log.info(f"{what}_back", attempts=absence.attempts, away=away, **fields)
        self._causes.clear()
