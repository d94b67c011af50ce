"""What atproto does not read in a DID document may be any JSON."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.fetch.test_documents import document, method, parsed, service

GOOD = parsed(document())

_KEYS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | _KEYS
)
_JSON = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_KEYS, inner, max_size=4),
    max_leaves=12,
)
_READ = {"id", "type", "publicKeyMultibase", "serviceEndpoint"}


def _is_read(entry: Any) -> bool:
    return isinstance(entry, dict) and "#atproto" in str(entry.get("id"))


_OTHERS = st.lists(_JSON.filter(lambda entry: not _is_read(entry)), max_size=4)
_EXTRA = st.dictionaries(_KEYS.filter(lambda key: key not in _READ), _JSON, max_size=4)


@st.composite
def _entries(draw: st.DrawFn, entry: dict[str, Any]) -> list[Any]:
    """Return a list of entries with ``entry`` in it, which has other fields as well."""
    kept = {key: value for key, value in entry.items() if key in _READ}
    return [*draw(_OTHERS), draw(_EXTRA) | kept, *draw(_OTHERS)]


@given(
    whole=st.dictionaries(_KEYS, _JSON, max_size=6),
    methods=_entries(method()),
    services=_entries(service()),
    before=st.lists(_JSON.filter(lambda name: not str(name).startswith("at://")), max_size=4),
    after=st.lists(_JSON, max_size=4),
)
def test_what_is_not_read_changes_nothing(
    whole: dict[str, Any],
    methods: list[Any],
    services: list[Any],
    before: list[Any],
    after: list[Any],
) -> None:
    read = json.loads(
        document(
            verificationMethod=methods,
            service=services,
            alsoKnownAs=[*before, "at://alice.example", *after],
        )
    )
    assert parsed(json.dumps(whole | read).encode()) == GOOD
