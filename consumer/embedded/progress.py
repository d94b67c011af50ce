"""Progress of a download: a bar where people watch, a log line now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bar

_EVERY = 5.0  # seconds between log lines

_log = structlog.get_logger()


class Progress(Protocol):
    """Told of every finished part."""

    def advance(self, received: int) -> None:
        """Count one more part; ``received`` is the number of bytes so far."""


class _Lines:
    def __init__(self, name: str, total: int) -> None:
        self._name, self._total = name, total
        self._done = 0
        self._said = time.monotonic()

    def advance(self, received: int) -> None:
        self._done += 1
        if self._done == self._total or time.monotonic() - self._said >= _EVERY:
            self._said = time.monotonic()
            _log.info(
                "download_progressed",
                what=self._name,
                done=f"{self._done}/{self._total}",
                megabytes=round(received / 1e6, 1),
            )


class _Bar:
    def __init__(self, bar: Bar, name: str, total: int) -> None:
        self._bar = bar
        self._task = bar.add_task(name, total=total, size="")

    def advance(self, received: int) -> None:
        self._bar.update(self._task, advance=1, size=f"{received / 1e6:.1f} MB")


@contextmanager
def show_progress(name: str, total: int) -> Iterator[Progress]:
    """Show the progress of fetching ``total`` parts of ``name`` on standard error."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(name, total)
        return
    columns = (
        TextColumn("downloading {task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[size]}"),
        TimeElapsedColumn(),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        yield _Bar(bar, name, total)
