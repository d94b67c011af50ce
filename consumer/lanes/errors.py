"""The error that ends the ownership of a lane."""

from __future__ import annotations

from collections.abc import Collection

from consumer.errors import Transient


class LaneLost(Transient):
    """The lane has another owner, or its row in Postgres is not the one that we know."""


class LanesLost(LaneLost):
    """Of several lanes in one transaction, those with ``numbers`` are lost."""

    def __init__(self, numbers: Collection[int]) -> None:
        listed = ", ".join(map(str, sorted(numbers)))
        super().__init__(f"lane {listed} has another owner, or has moved on")
        self.numbers = frozenset(numbers)
