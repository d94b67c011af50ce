"""Apache Kafka's jars: resolved once into a lock, fetched on first use, shared by all.

The lock (``kafka-jars.txt``, one ``coordinate sha256`` a line) is what jgo resolved from the
endpoints of a release; ``python -m consumer.embedded.lock_jars`` makes it again.  Fetching asks
jgo for exactly those artifacts and refuses a file whose hash differs.  A directory in the cache
is complete or absent: files are collected aside and renamed into place, under a lock that other
processes wait for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path
from tempfile import mkdtemp

from consumer.embedded.process import take_lock
from consumer.embedded.releases import CURRENT, Jar, Release
from consumer.errors import Fatal


def cache_home(override: Path | None = None) -> Path:
    """Return where downloads are kept: ``override``, or ``chive`` in the user's cache."""
    if override is not None:
        return override.absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chive"


async def kafka_jars(cache: Path, release: Release = CURRENT) -> list[Path]:
    """Return the class path of a release, its jars downloaded into ``cache`` if need be.

    Raises ``Transient`` if the repository cannot be reached, ``Fatal`` if a file's hash differs
    from the lock.
    """
    jars = release.jars()
    identity = hashlib.sha256("\n".join(jar.sha256 for jar in jars).encode()).hexdigest()[:8]
    directory = cache / f"kafka-{release.version}-{identity}"
    if not _is_there(directory):
        await _install(release.version, jars, directory)
    return [directory / jar.filename for jar in jars]


def _is_there(directory: Path) -> bool:
    return directory.is_dir()


async def _install(version: str, jars: list[Jar], directory: Path) -> None:
    # jgo is slow to import, and needed once on a machine.
    from consumer.embedded.download import download  # noqa: PLC0415

    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        lock = await take_lock(directory.with_name(f"{directory.name}.lock"), deadline=600)
    except OSError as error:
        raise Fatal(
            f"{directory.parent} cannot be written to ({error.strerror}): set cache_dir to a place "
            "for the download of the embedded Kafka, or kafka.bootstrap_servers and postgres.dsn"
        ) from error
    if lock is None:
        raise Fatal(
            f"another process has been downloading Kafka to {directory} for 10 minutes; "
            "end it and start again"
        )
    try:
        if not _is_there(directory):
            for partial in directory.parent.glob(f"{directory.name}.*.partial"):
                shutil.rmtree(partial, ignore_errors=True)  # of an interrupted download
            # A name of its own: a thread of a failed download may still write where it began.
            staging = Path(mkdtemp(".partial", f"{directory.name}.", directory.parent))
            await download(version, jars, staging)
            (staging / "jars").rename(directory)
            shutil.rmtree(staging)
    finally:
        os.close(lock)
