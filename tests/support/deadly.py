"""A worker's process that dies of one frame, as of a fault in native code.

``python -m tests.support.deadly DIGEST LANE…`` works on these lanes, without a group, and ends at
once when it reads the frame with this SHA-256 in hex.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
from unittest import mock

from consumer import services
from consumer.config import sources
from consumer.lanes.publisher import Publisher
from consumer.scope import Scope
from consumer.worker import verdicts
from consumer.worker.incoming import IncomingFrame
from consumer.worker.lane import Resources, run_lane
from consumer.worker.verdicts import ReadFrame, Rules

DIED = 77  # the exit code

_read = verdicts.read


async def _work(digest: str, lanes: list[int]) -> None:
    def read(frame: IncomingFrame, rules: Rules) -> ReadFrame:
        if hashlib.sha256(frame.frame).hexdigest() == digest:
            os._exit(DIED)
        return _read(frame, rules)

    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with services.opened(sources.load(), stop) as found:
        scope = Scope(found.settings.scope.collections)
        servers = found.client, found.topics, found.database
        resources = Resources(found.settings, *servers, Publisher(*servers), scope)
        with mock.patch.object(verdicts, "read", read):
            await asyncio.gather(*(run_lane(lane, resources, stop) for lane in lanes))


if __name__ == "__main__":
    asyncio.run(_work(sys.argv[1], [int(lane) for lane in sys.argv[2:]]))
