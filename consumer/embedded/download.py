"""Download the locked jars with jgo: several at once, checked, until the caller is cancelled."""

from __future__ import annotations

import asyncio
import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

import structlog
from jgo.maven import Artifact, MavenContext, PythonResolver

from consumer.embedded.progress import show_progress
from consumer.embedded.releases import Jar
from consumer.errors import Fatal, Transient

TIMEOUT = 60  # seconds without an answer from the repository
_AT_ONCE = 4
_ATTEMPTS = 3
_POLL = 0.02  # seconds

_log = structlog.get_logger()


async def download(version: str, jars: list[Jar], staging: Path) -> None:
    """Put ``jars`` of Kafka ``version`` into the directory ``jars`` of ``staging``.

    Raises ``Transient`` if one cannot be downloaded, ``Fatal`` if its hash differs from the lock.
    """
    (staging / "jars").mkdir()
    fetch = _Fetch(staging)
    _log.info("kafka_download_started", version=version, jars=len(jars), cache=str(staging.parent))
    with show_progress(f"Kafka {version}", total=len(jars)) as progress:
        pending = iter(jars)

        async def lane() -> None:
            for jar in pending:
                await _in_daemon_thread(partial(fetch.one, jar))
                progress.advance(fetch.received)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(lane())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            fetch.cancelled.set()


class _Cancelled(Exception):
    """The caller no longer waits."""


class _Fetch:
    """Downloads artifacts into ``staging``, and stops when ``cancelled`` is set."""

    def __init__(self, staging: Path) -> None:
        self.cancelled = threading.Event()
        self.received = 0  # bytes
        self._staging = staging
        self._resolver = PythonResolver(progress_callback=self._counting)
        self._context = MavenContext(
            resolver=self._resolver, repo_cache=staging / "maven", timeout=TIMEOUT
        )

    def one(self, jar: Jar) -> None:
        """Download one jar and check it.  Raises ``Transient`` or ``Fatal``."""
        artifact: Artifact = self._context.create_dependency(jar.coordinate).artifact
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                file = self._download(artifact)
                break
            # The errors of requests, which jgo does not translate, are OSErrors.
            except (RuntimeError, OSError) as error:
                if attempt == _ATTEMPTS:
                    raise Transient(f"cannot download {jar.coordinate}: {error}") from error
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != jar.sha256:
            raise Fatal(
                f"{jar.coordinate} has SHA-256 {found}, expected {jar.sha256}: "
                "do not use this Maven repository or mirror"
            )
        file.rename(self._staging / "jars" / jar.filename)

    def _download(self, artifact: Artifact) -> Path:
        if artifact.cached_path:
            artifact.cached_path.unlink(missing_ok=True)  # part of an earlier attempt
        file = self._resolver.download(artifact)
        if file is None:
            raise RuntimeError("jgo found no file")
        return file

    def _counting(self, _name: str, _size: int) -> AbstractContextManager[Callable[[int], None]]:
        @contextmanager
        def counter() -> Iterator[Callable[[int], None]]:
            yield self._count

        return counter()

    def _count(self, size: int) -> None:
        if self.cancelled.is_set():
            raise _Cancelled
        self.received += size


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    # A daemon thread that is polled: neither the loop nor the interpreter waits for a download
    # when Ctrl-C ends them.
    failures: list[Exception] = []

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  handed to the task
            failures.append(error)

    thread = threading.Thread(target=run, daemon=True, name="kafka-download")
    thread.start()
    while thread.is_alive():  # noqa: ASYNC110  a thread has no event
        await asyncio.sleep(_POLL)
    if failures:
        raise failures[0]
