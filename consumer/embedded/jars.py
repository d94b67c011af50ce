"""Apache Kafka's jars: resolved once into a lock, fetched on first use, shared by all.

The lock (``kafka-jars.txt``, one ``coordinate sha256`` a line) is what jgo resolved from
``ENDPOINTS``; ``python -m consumer.embedded.lock_jars`` makes it again.  Fetching asks jgo for
exactly those artifacts and refuses a file whose hash differs.  A directory in the cache is
complete or absent: files are collected aside and renamed into place, under a lock that
other processes wait for.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests
import structlog
from jgo.maven import Artifact, MavenContext, PythonResolver

from consumer.embedded.process import take_lock
from consumer.embedded.progress import show_progress
from consumer.errors import Fatal, Transient

KAFKA_VERSION = "4.2.1"
# The binding is raw ("!"): its dependency management would pin an old Kafka client.
ENDPOINTS = (
    f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3!",
)
LOCK = Path(__file__).with_name("kafka-jars.txt")
_DOWNLOADS = 4  # at once
TIMEOUT = 60  # seconds without an answer from the repository

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Jar:
    """One artifact of the lock: its Maven coordinate and the SHA-256 of the file in hex."""

    coordinate: str
    sha256: str

    @property
    def filename(self) -> str:
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


def locked() -> list[Jar]:
    """Return the jars of the lock."""
    return [Jar(*line.split()) for line in LOCK.read_text().splitlines()]


def cache_home(override: Path | None = None) -> Path:
    """Return where downloads are kept: ``override``, or ``chive`` in the user's cache."""
    if override is not None:
        return override.absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chive"


async def kafka_jars(cache: Path) -> list[Path]:
    """Return the class path of Kafka, downloading the jars into ``cache`` if they are not there.

    Transient when the repository cannot be reached, Fatal when a file is not what was locked.
    """
    jars = locked()
    identity = hashlib.sha256("\n".join(jar.sha256 for jar in jars).encode()).hexdigest()[:8]
    directory = cache / f"kafka-{KAFKA_VERSION}-{identity}"
    if not _is_there(directory):
        await _install(jars, directory)
    return [directory / jar.filename for jar in jars]


def _is_there(directory: Path) -> bool:
    return directory.is_dir()


async def _install(jars: list[Jar], directory: Path) -> None:
    directory.parent.mkdir(parents=True, exist_ok=True)
    lock = await take_lock(directory.with_name(f"{directory.name}.lock"), deadline=600)
    if lock is None:
        raise Fatal(f"another process has been downloading Kafka to {directory} for 10 minutes")
    try:
        if not _is_there(directory):
            with tempfile.TemporaryDirectory(dir=directory.parent, prefix="kafka-") as staging:
                await _download(jars, Path(staging))
                (Path(staging) / "jars").rename(directory)
    finally:
        os.close(lock)


async def _download(jars: list[Jar], staging: Path) -> None:
    (staging / "jars").mkdir()
    fetch = _Fetch(staging)
    _log.info("downloading kafka", version=KAFKA_VERSION, jars=len(jars), cache=str(staging.parent))
    with show_progress(f"Kafka {KAFKA_VERSION}", total=len(jars)) as progress:
        pending = iter(jars)

        async def lane() -> None:
            for jar in pending:
                await _in_daemon_thread(partial(fetch.one, jar))
                progress.advance(fetch.received)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_DOWNLOADS):
                    group.create_task(lane())
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        finally:
            fetch.cancelled.set()


class _Cancelled(Exception):
    """The caller has gone."""


class _Fetch:
    """Downloads artifacts with jgo into ``staging``, and stops when ``cancelled`` is set."""

    def __init__(self, staging: Path) -> None:
        self.cancelled = threading.Event()
        self.received = 0  # bytes
        self._staging = staging
        self._resolver = PythonResolver(progress_callback=self._counting)
        self._context = MavenContext(
            resolver=self._resolver, repo_cache=staging / "maven", timeout=TIMEOUT
        )

    def _counting(self, _name: str, _size: int) -> AbstractContextManager[Callable[[int], None]]:
        @contextmanager
        def counter() -> Iterator[Callable[[int], None]]:
            yield self._count

        return counter()

    def _count(self, size: int) -> None:
        if self.cancelled.is_set():
            raise _Cancelled
        self.received += size

    def one(self, jar: Jar) -> None:
        """Download one jar and check it."""
        artifact: Artifact = self._context.create_dependency(jar.coordinate).artifact
        try:
            file = self._resolver.download(artifact)
        except (requests.RequestException, RuntimeError) as error:
            raise Transient(f"cannot download {jar.coordinate}: {error}") from error
        if file is None:
            raise Transient(f"cannot download {jar.coordinate}")
        found = hashlib.sha256(file.read_bytes()).hexdigest()
        if found != jar.sha256:
            raise Fatal(f"{jar.coordinate} has SHA-256 {found}, expected {jar.sha256}")
        file.rename(self._staging / "jars" / jar.filename)


async def _in_daemon_thread(work: Callable[[], None]) -> None:
    # A daemon thread: the interpreter does not wait for a download when Ctrl-C ends it.
    outcome: Future[None] = Future()

    def run() -> None:
        try:
            work()
        except Exception as error:  # noqa: BLE001  handed to the awaiting task
            outcome.set_exception(error)
        else:
            outcome.set_result(None)

    threading.Thread(target=run, daemon=True, name="kafka-download").start()
    await asyncio.wrap_future(outcome)
