"""The gateway's own identity."""

from __future__ import annotations

import pytest

from procedures.service import Service


@pytest.mark.parametrize(
    ("did", "endpoint", "url"),
    [
        ("did:web:chive.example", None, "https://chive.example"),
        ("did:web:localhost%3A8099", None, "http://localhost:8099"),
        ("did:web:chive.example", "https://sync.chive.example", "https://sync.chive.example"),
        ("did:plc:chive", None, None),
        ("did:web:chive.example:with:path", None, None),
    ],
)
def test_the_endpoint(did: str, endpoint: str | None, url: str | None) -> None:
    assert Service(did, endpoint=endpoint).url == url


def test_the_document() -> None:
    assert Service("did:web:localhost%3A8099", ("chive", "sync")).document() == {
        "@context": ["https://www.w3.org/ns/did/v1"],
        "id": "did:web:localhost%3A8099",
        "service": [
            {
                "id": "#chive",
                "type": "ChiveSyncService",
                "serviceEndpoint": "http://localhost:8099",
            },
            {
                "id": "#sync",
                "type": "ChiveSyncService",
                "serviceEndpoint": "http://localhost:8099",
            },
        ],
    }
    assert Service("did:plc:chive").document() is None


def test_the_audiences() -> None:
    assert Service("did:web:chive.example").audiences == {
        "did:web:chive.example",
        "did:web:chive.example#chive_appview",
        "did:web:chive.example#chive",
    }
