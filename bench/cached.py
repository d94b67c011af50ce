"""Files in the user's cache: parts, each behind its length, made once."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from consumer.embedded.jars import cache_home

_SIMULATOR = Path(__file__).parents[1] / "simulator"
_LENGTH = struct.Struct(">I")


def path_of(parameters: Mapping[str, object], maker: Path, suffix: str) -> Path:
    """Return the file for ``parameters`` and the code that decides its content.

    ``maker`` is the source file that makes the content from the simulator's; ``suffix`` has no dot.
    """
    digest = hashlib.sha256(json.dumps(dict(parameters)).encode())
    for source in (*sorted(_SIMULATOR.glob("*.py")), maker):
        digest.update(source.read_bytes())
    return cache_home() / "bench" / f"{digest.hexdigest()[:16]}.{suffix}"


def write(path: Path, parts: Iterable[bytes]) -> None:
    """Write ``parts`` to ``path``, which then holds all of them or does not exist."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    with partial.open("wb") as file:
        file.writelines(_framed(parts))
    partial.replace(path)


def read(path: Path) -> Iterator[bytes]:
    """Yield the parts that ``write`` has written to ``path``."""
    with path.open("rb") as file:
        while head := file.read(_LENGTH.size):
            yield file.read(*_LENGTH.unpack(head))


def _framed(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        yield _LENGTH.pack(len(part))
        yield part
