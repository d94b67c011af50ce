"""Fuzzing under atheris, which prefers input that reaches new code; one process a target.

A finding is left in ``.fuzz/``; what reached new code stays in ``.fuzz/corpus/``, for later runs
to begin with.
"""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

FINDINGS = Path(".fuzz")
_EXECUTED = re.compile(r"stat::number_of_executed_units:\s*(\d+)")
_SHOWN = 2_000  # characters of the traceback, and of what libFuzzer says


@dataclass(frozen=True, slots=True)
class Guided:
    """``cases`` were tried; ``finding`` is what was said of one, if there was one."""

    cases: int
    finding: str | None


def available() -> bool:
    """Tell whether atheris is installed: there is none for every machine."""
    return find_spec("atheris") is not None


def guided(name: str, seconds: float, seed: int) -> Guided:
    """Run the target or grammar ``name`` for a while."""
    argv = [sys.executable, "-m", "tests.fuzz.libfuzzer", name, f"{seconds:.0f}", f"{seed}"]
    ended = subprocess.run(argv, capture_output=True, text=True, errors="replace", check=False)
    executed = _EXECUTED.search(ended.stderr)
    finding = None if ended.returncode == 0 else ended.stdout[-_SHOWN:] + ended.stderr[-_SHOWN:]
    return Guided(int(executed[1]) if executed else 0, finding)


def corpus(name: str) -> list[bytes]:
    """Return what earlier runs of ``name`` found worth keeping."""
    return [path.read_bytes() for path in sorted(folder_of(name).glob("*"))]


def folder_of(name: str) -> Path:
    """Return where the corpus of ``name`` is kept."""
    return FINDINGS / "corpus" / name.replace(" ", "-")
