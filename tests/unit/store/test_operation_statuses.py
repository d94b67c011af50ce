"""One module writes the statuses of operations."""

from __future__ import annotations

import re
from pathlib import Path

import consumer

ROOT = Path(consumer.__file__).parent
_UPDATE = re.compile(r"UPDATE operations SET(.*?)(?:\bWHERE\b|\bFROM\b|\"\"\")", re.DOTALL)


def test_only_write_updates_a_status() -> None:
    writers = {
        path.relative_to(ROOT).as_posix()
        for path in ROOT.rglob("*.py")
        for assignments in _UPDATE.findall(path.read_text())
        if re.search(r"\bstatus\s*=", assignments)
    }
    assert writers == {"store/operations/write.py"}
