"""The oldest Kafka that is supported, for the tests on real services.

With ``TEST_KAFKA=oldest`` these run on it instead of the embedded stack's, on the same JRE (25).
``python -m tests.support.oldest_kafka`` writes its lock again.
"""

from __future__ import annotations

import os
from pathlib import Path

from consumer.embedded.lock_jars import write
from consumer.embedded.releases import CURRENT, Release

OLDEST = Release(
    "3.6.2", "ch.qos.reload4j:reload4j:1.2.25", Path(__file__).with_name("oldest-kafka-jars.txt")
)


def wanted() -> Release:
    """Return the release that the tests are to run on."""
    return OLDEST if os.environ.get("TEST_KAFKA") == "oldest" else CURRENT


if __name__ == "__main__":
    write(OLDEST)
