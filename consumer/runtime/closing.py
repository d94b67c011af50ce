"""Objects that are used in an ``async with`` block, at whose end they are closed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Self


class Closing(ABC):
    """An object that holds connections until ``close()``."""

    @abstractmethod
    async def close(self) -> None:
        """Release what the object holds; it must not be used afterwards."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
