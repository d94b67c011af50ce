"""``python -m consumer run`` as a process of the demo, with settings of its own."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from consumer.embedded.process import Server
from consumer.errors import Fatal

_CHECKOUT = Path(__file__).parents[1]
_STOP_DEADLINE = 40.0  # seconds; it promises 30


class ConsumerProcess:
    """``async with ConsumerProcess(directory, environment)``: started; stopped at the end.

    ``environment`` holds ``CHIVE_*`` variables; those of our own environment are not handed
    down.  Its log is ``consumer.log`` in ``directory``.
    """

    def __init__(self, directory: Path, environment: Mapping[str, str]) -> None:
        self.exit_status: int | None = None
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CHIVE_")}
        self._server = Server(
            "consumer", directory, environment={**kept, "PYTHONPATH": str(_CHECKOUT), **environment}
        )

    @property
    def log(self) -> Path:
        """Where it logs, as JSON lines."""
        return self._server.log

    async def __aenter__(self) -> Self:
        await self._server.start([sys.executable, "-m", "consumer", "run"])
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def stop(self) -> None:
        """Tell it to drain and stop; ``exit_status`` says how that went."""
        await self._server.stop(_STOP_DEADLINE)
        self.exit_status = self._server.exit_status

    async def ended(self) -> Fatal:
        """Wait until it ends by itself, which it should not; return what to raise."""
        return await self._server.wait_ended()
