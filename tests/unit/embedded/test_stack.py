"""Places that the embedded servers cannot use are named with their settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from consumer.embedded.stack import EmbeddedStack
from consumer.errors import Fatal


@pytest.mark.parametrize("place", ["file", "file/below"])
async def test_a_data_directory_that_cannot_be_made_is_named(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Fatal, match=rf"/{place} cannot be written to .*set data_dir"):
        await EmbeddedStack(tmp_path / place).__aenter__()
