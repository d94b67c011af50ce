"""The environment of a machine behind a proxy that is dead."""

from __future__ import annotations

import pytest

from tests.support.proxy import LOOPBACK

VARIABLES = ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy", "socks_proxy")


def set_proxies(monkeypatch: pytest.MonkeyPatch, scheme: str, port: int) -> None:
    """Name a proxy of ``scheme`` at ``port`` on loopback in every usual variable."""
    for name in VARIABLES:
        for spelling in (name, name.upper()):
            monkeypatch.setenv(spelling, f"{scheme}://{LOOPBACK}:{port}")
    for spelling in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(spelling, raising=False)
