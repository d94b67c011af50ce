"""Fixtures of the tests that go through a proxy."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest
import structlog

from consumer.config.settings import LogSettings
from consumer.runtime import logs


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Give everything that is logged."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs._absences.clear()  # of earlier tests
    logs.configure(LogSettings(format="json", level="debug"), stream)
    yield stream
    structlog.reset_defaults()
    logging.captureWarnings(capture=False)
    root.handlers[:] = handlers
    root.setLevel(level)
