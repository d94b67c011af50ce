"""The order of the tests: those that may last longest first, so that no process ends alone.

A test that needs more time than others says so with its own timeout; that is the measure.
"""

from __future__ import annotations

import pytest


@pytest.hookimpl(trylast=True)  # others add timeouts
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by timeout; the order in a file stays otherwise."""
    items.sort(key=_timeout, reverse=True)


def _timeout(item: pytest.Item) -> float:
    marker = item.get_closest_marker("timeout")
    return float(marker.args[0]) if marker else 0.0
