"""No unit test sees the settings of its environment, and none makes a label of its input."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

import consumer.worker.report  # noqa: F401  # closes a label
from consumer import metrics


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take every setting out of the environment."""
    for name in os.environ:
        if name.startswith("CHIVE_"):
            monkeypatch.delenv(name)


def _series() -> set[tuple[str, frozenset[tuple[str, str]]]]:
    """Return the series of ours but those of lanes and roots, which come and go."""
    return {
        (sample.name, frozenset(sample.labels.items()))
        for family in metrics.REGISTRY.collect()
        for sample in family.samples
        if family.name.startswith("chive_") and not sample.labels.keys() & {"lane", "root"}
    }


@pytest.fixture(scope="session", autouse=True)
def only_known_series() -> Iterator[None]:
    """Check when all tests are done that none of their hostile input became a series."""
    known = _series()
    yield
    assert _series() - known == set()
