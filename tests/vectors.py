"""The public test vectors, where ``CHIVE_VECTORS`` says they are."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

_FOLDER = os.environ.get("CHIVE_VECTORS")

needs_vectors = pytest.mark.skipif(_FOLDER is None, reason="CHIVE_VECTORS is not set")


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
