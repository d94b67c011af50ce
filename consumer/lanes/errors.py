"""Errors of lanes."""

from __future__ import annotations

from consumer.errors import Transient


class LaneLost(Transient):
    """The lane has another owner, or its row in Postgres is not the one that we know."""
