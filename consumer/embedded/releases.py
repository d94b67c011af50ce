"""Releases of Kafka and the locks that name their jars."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Jar:
    """One artifact of the lock: its Maven coordinate and the SHA-256 of the file in hex."""

    coordinate: str
    sha256: str

    @property
    def filename(self) -> str:
        """The name of the file in the cache."""
        _, artifact, version = self.coordinate.split(":")
        return f"{artifact}-{version}.jar"


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Kafka; ``logging`` is the binding that it logs with, ``lock`` names its jars."""

    version: str
    logging: str
    lock: Path

    @property
    def endpoints(self) -> tuple[str, str]:
        """The coordinates from which the lock is resolved.

        The binding is raw ("!"): its dependency management would pin an old Kafka client.
        """
        return f"org.apache.kafka:kafka_2.13:{self.version}", f"{self.logging}!"

    def jars(self) -> list[Jar]:
        """Return the jars of the lock."""
        return [Jar(*line.split()) for line in self.lock.read_text().splitlines()]


CURRENT = Release(
    "4.2.1",
    "org.apache.logging.log4j:log4j-slf4j-impl:2.25.3",
    Path(__file__).with_name("kafka-jars.txt"),
)
"""The release that the embedded stack runs."""
