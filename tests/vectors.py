"""The public test vectors, where ``CHIVE_VECTORS`` says they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_FOLDER = os.environ.get("CHIVE_VECTORS")
_REASON = "CHIVE_VECTORS is not set"
_NOT_RUN = "not run"

needs_vectors = pytest.mark.skipif(_FOLDER is None, reason=_REASON)


def pytest_report_teststatus(report: pytest.TestReport) -> tuple[str, str, str] | None:
    """Count the tests without their vectors apart from those that are skipped."""
    if report.skipped and isinstance(report.longrepr, tuple) and _REASON in report.longrepr[2]:
        return _NOT_RUN, "s", "NOT RUN"
    return None


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say in one line how many tests were not run."""
    count = len(terminalreporter.stats.get(_NOT_RUN, ()))
    if count:
        tests = "1 test was" if count == 1 else f"{count} tests were"
        terminalreporter.write_line(f"{tests} not run: {_REASON}")


def lines(name: str) -> list[str]:
    """Return the entries of a vector file of one entry a line, without its comments."""
    if _FOLDER is None:
        return []
    text = (Path(_FOLDER) / name).read_text(encoding="utf-8")
    return [line for line in text.split("\n") if line and not line.startswith("# ")]


def entries(name: str) -> list[dict[str, Any]]:
    """Return the entries of a JSON vector file, which is a list of objects."""
    if _FOLDER is None:
        return []
    loaded: list[dict[str, Any]] = json.loads((Path(_FOLDER) / name).read_text(encoding="utf-8"))
    return loaded
