"""No unit test sees the settings of whoever runs it."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every setting out of the environment."""
    for name in os.environ:
        if name.startswith("CHIVE_"):
            monkeypatch.delenv(name)
