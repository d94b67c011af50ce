"""The floor, measured all the time beside a load.

``python -m bench.beside FILE`` pays for some commits of FILE every half second and prints the time
and the µs of CPU for each.  What else runs on a machine makes CPU time dearer for everybody: a cost
that is divided by the floor of the same seconds can be compared with one of a quiet machine.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import cycle, islice
from pathlib import Path

from bench import cached
from bench.processes import running
from bench.pure import Floor, floor_of
from consumer.embedded.process import Server

_START_SECONDS = 60.0
_EVERY = 0.5  # seconds
_COMMITS, _WARM = 150, 50  # of a turn, and before it: the caches are somebody else's by then
_SAMPLE = 2_000  # different commits


class FloorBeside:
    """The process that measures, and what it has found."""

    def __init__(self, server: Server) -> None:
        self.server = server

    async def has_begun(self) -> bool:
        """Tell whether there is a first result."""
        return self.server.log.stat().st_size > 0

    def between(self, begun: float, ended: float) -> float | None:
        """Return the mean floor in µs between two Unix times, None if it was never measured."""
        turns = (line.split() for line in self.server.log.read_text().splitlines())
        found = [float(spent) for at, spent in turns if begun <= float(at) <= ended]
        return statistics.fmean(found) if found else None


@asynccontextmanager
async def floor_beside(traffic: Path, directory: Path) -> AsyncIterator[FloorBeside]:
    """Measure the floor during the block, on commits of the file ``traffic``."""
    async with running("floor", directory, "-m", "bench.beside", str(traffic)) as server:
        floor = FloorBeside(server)
        await server.wait_ready(floor.has_begun, _START_SECONDS)
        yield floor


def _turn(floors: list[Floor]) -> float:
    for floor in floors[:_WARM]:
        floor.pay()
    began = time.process_time()
    for floor in floors[_WARM:]:
        floor.pay()
    return (time.process_time() - began) / (len(floors) - _WARM) * 1e6


def _main(path: Path) -> None:
    parts = cached.read(path)
    keys = json.loads(next(parts))["keys"]
    sample = [floor_of(frame, keys) for frame in islice(parts, _SAMPLE)]
    if not sample:
        sys.exit(f"there are no commits in {path}")
    floors = cycle(sample)
    while True:
        spent = _turn(list(islice(floors, _WARM + _COMMITS)))
        print(f"{time.time():.3f} {spent:.2f}", flush=True)
        time.sleep(_EVERY)


if __name__ == "__main__":
    _main(Path(sys.argv[1]))
