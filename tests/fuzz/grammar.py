"""Hostile input that is drawn part by part, so that it gets past the first look.

Every ``Grammar`` is a strategy of hypothesis and the judge of what it draws.  The property
tests draw a hundred cases of each; ``make fuzz`` lets atheris choose what is drawn.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import libipld
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from procedures.syntax import DAG_CBOR_PREFIX, RAW_PREFIX
from simulator.frames import TIME
from simulator.repo import START, car, sign_commit, tid
from simulator.tree import Blocks, cid_of, shared_prefix
from tests.fuzz import judges
from tests.fuzz.heads import head
from tests.fuzz.judges import ACCOUNT, PATH, Judge
from tests.fuzz.targets import CLAIMS, token_of


@dataclass(frozen=True)
class Grammar:
    """``drawn`` is hostile input."""

    name: str
    judge: Judge
    drawn: SearchStrategy[bytes]
    seeds: tuple[bytes, ...] = ()

    def fuzzed(self) -> Callable[[bytes], object]:
        """Return what draws a case by the bytes that it is given, and judges it."""

        @settings(database=None, deadline=None, suppress_health_check=list(HealthCheck))
        @given(self.drawn)
        def check(data: bytes) -> None:
            self.judge(data)

        one_input: Callable[[bytes], object] = check.hypothesis.fuzz_one_input  # type: ignore[attr-defined]
        return one_input


# -- DAG-CBOR, in every form that an encoder could choose ---------------------------------------

_CID = DAG_CBOR_PREFIX + bytes(range(32))
# Mostly in the shortest form: else nothing would ever get past it.
_FORMS = st.sampled_from([None] * 12 + [24, 25, 26, 27])
_NUMBERS = st.integers(0, 30) | st.sampled_from(
    [255, 256, 2**16, 2**32 - 1, 2**53, 2**63, 2**64 - 1]
)
_TEXTS = st.sampled_from(["", "a", "b", "$link", "$bytes", "$type", "aa", "é", "\x00"])
_LINKS = st.sampled_from(
    [
        _CID,
        RAW_PREFIX + bytes(32),
        b"\x01\x70" + _CID[2:],
        _CID[:-1],
        _CID + b"x",
        b"\x12\x20" + bytes(32),
    ]
)
_STRINGS = st.binary(max_size=40) | _LINKS


def _written(kind: int, content: bytes, form: int | None) -> bytes:
    return head(kind, len(content), form) + content


_text = st.builds(lambda text, form: _written(3, text.encode(), form), _TEXTS, _FORMS)
_scalar = st.one_of(
    st.builds(head, st.sampled_from([0, 1]), _NUMBERS, _FORMS),
    st.builds(lambda raw, form: _written(2, raw, form), _STRINGS, _FORMS),
    _text,
    st.builds(lambda cid: b"\xd8\x2a" + _written(2, b"\x00" + cid, None), _LINKS),
    st.sampled_from(
        [
            b"\xf4",
            b"\xf5",
            b"\xf6",
            b"\xf7",
            b"\xf8\x20",
            b"\xf9\x00\x00",
            b"\xfb" + bytes(8),
            b"\xff",
        ]
    ),
    st.sampled_from(
        [b"\x61\xff", b"\x62\xc3\x28", b"\xc1\x00", b"\xd8\x2a\x00", b"\x5f\xff", b"\x9f\xff"]
    ),
)


def _array(items: list[bytes], form: int | None) -> bytes:
    return head(4, len(items), form) + b"".join(items)


def _map(pairs: list[tuple[bytes, bytes]], form: int | None, order: str) -> bytes:
    if order == "sorted":
        pairs = sorted(dict(pairs).items(), key=lambda pair: (len(pair[0]), pair[0]))
    return head(5, len(pairs), form) + b"".join(key + value for key, value in pairs)


ITEMS: SearchStrategy[bytes] = st.recursive(
    _scalar,
    lambda inner: st.one_of(
        st.builds(_array, st.lists(inner, max_size=5), _FORMS),
        st.builds(
            _map,
            st.lists(st.tuples(_text, inner), max_size=5),
            _FORMS,
            st.sampled_from(["sorted"] * 6 + ["as drawn"]),
        ),
        st.builds(
            lambda item, depth: b"\x81" * depth + item, inner, st.sampled_from([30, 33, 1_100])
        ),
    ),
    max_leaves=20,
)

# -- frames: the fields of the lexicon, each good, odd or absent --------------------------------

_GOOD: dict[str, Any] = {
    "seq": 7,
    "did": ACCOUNT.did,
    "repo": ACCOUNT.did,
    "rev": tid(START),
    "since": tid(START - 1),
    "time": TIME,
    "commit": _CID,
    "blocks": b"\x3a\xa2",
    "prevData": _CID,
    "active": False,
    "status": "takendown",
    "handle": "a.test",
    "name": "OutdatedCursor",
    "error": "FutureCursor",
}
_OP: dict[str, Any] = {"action": "update", "path": PATH, "cid": _CID, "prev": _CID}
_OF_KIND = {
    "#commit": ("seq", "repo", "rev", "since", "time", "commit", "blocks", "prevData"),
    "#sync": ("seq", "did", "rev", "time", "blocks"),
    "#account": ("seq", "did", "time", "active", "status"),
    "#identity": ("seq", "did", "time", "handle"),
    "#info": ("name",),
    "#other": (),
}


@st.composite
def _fields(draw: st.DrawFn, good: dict[str, Any]) -> bytes:
    """Draw a map with the fields of ``good``, a few of them tampered with, and perhaps one more."""
    odd = draw(st.sets(st.sampled_from(sorted(good)), max_size=2)) if good else set()
    written = {
        name: draw(st.none() | ITEMS) if name in odd else bytes(libipld.encode_dag_cbor(value))
        for name, value in good.items()
    }
    pairs = [(_written(3, name.encode(), None), item) for name, item in written.items() if item]
    if draw(st.booleans()):
        pairs.append((draw(_text), draw(ITEMS)))
    return _map(pairs, draw(_FORMS), draw(st.sampled_from(["sorted"] * 6 + ["as drawn"])))


@st.composite
def _frames(draw: st.DrawFn) -> bytes:
    kind = draw(st.sampled_from(sorted(_OF_KIND)))
    header: bytes = draw(st.just(bytes(libipld.encode_dag_cbor({"op": 1, "t": kind}))) | ITEMS)
    body = draw(_fields({name: _GOOD[name] for name in _OF_KIND[kind]}))
    if kind == "#commit":
        ops = _array(draw(st.lists(_fields(_OP), max_size=3)), draw(_FORMS))
        body = head(5, (body[0] & 31) + 1) + _written(3, b"ops", None) + ops + body[1:]
    return header + body + draw(st.sampled_from([b""] * 8 + [b"\x00", header]))


# -- trees: nodes that name each other, with right hashes and a right signature -----------------

# Of the layers 0 to 2 and 8, several of each.
_KEYS = sorted(
    [f"a.b.c/{n}" for n in range(40)] + ["a.b.c/36b72", "a.b.c/3aeec", "a.b.c/" + "k" * 1018]
)
_RECORD = b"\xa0"


@st.composite
def _node(draw: st.DrawFn, others: list[bytes]) -> bytes:
    """Draw a node whose links lead to ``others``."""
    links = st.none() | st.sampled_from(others)
    values = st.sampled_from([cid_of(_RECORD)] * 8 + others)
    keys = draw(st.lists(st.sampled_from(_KEYS), max_size=4, unique=True).map(sorted))
    entries, previous = [], ""
    for key in keys:
        shared = shared_prefix(previous, key) + draw(st.sampled_from([0] * 12 + [1, -1]))
        at = max(shared, 0)
        entries.append({"k": key[at:].encode(), "p": shared, "t": draw(links), "v": draw(values)})
        previous = key
    return bytes(libipld.encode_dag_cbor({"e": entries, "l": draw(links)}))


@st.composite
def _repositories(draw: st.DrawFn) -> bytes:
    missing = cid_of(b"missing")
    blocks: Blocks = {cid_of(_RECORD): _RECORD}
    links = [missing]
    for _ in range(draw(st.integers(1, 5))):
        block = draw(_node(links))
        blocks[cid_of(block)] = block
        links.append(cid_of(block))
    commit = sign_commit(ACCOUNT, tid(START), links[-1])
    return car(cid_of(commit), {cid_of(commit): commit, **blocks})


# -- JSON: a good object with some fields tampered with -----------------------------------------

_JSON_TEXTS = st.sampled_from(
    ["", "#atproto", "https://a.example", "did:plc:x", "\u202e", "x" * 300]
)
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _JSON_TEXTS | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_JSON_TEXTS, inner, max_size=3),
    max_leaves=8,
)


@st.composite
def _tampered(draw: st.DrawFn, good: Any) -> Any:
    """Draw ``good`` with any of its parts replaced, left out or repeated."""
    if draw(st.integers(0, 9)) == 0:
        return draw(_JSON)
    if isinstance(good, dict):
        kept = {name: value for name, value in good.items() if draw(st.integers(0, 9))}
        return {name: draw(_tampered(value)) for name, value in kept.items()}
    if isinstance(good, list):
        return [draw(_tampered(value)) for value in good for _ in range(draw(st.integers(1, 2)))]
    return good


def _dumped(value: Any) -> bytes:
    return json.dumps(value).encode()  # which writes numbers that JSON does not have, too


_COMMANDS: list[dict[str, Any]] = [
    {"v": 1, "id": "one", "type": "didSync", "did": ACCOUNT.did, "emit": "all"},
    {"type": "didSync", "dids": [ACCOUNT.did, "did:web:a.example"], "emit": "changes"},
    {"type": "didSync", "select": {"collection": "pub.chive.*"}},
    {"type": "reconcile", "select": {"host": "a.example:8443"}},
    {"type": "recordRefresh", "uri": f"at://{ACCOUNT.did}/{PATH}", "requestedBy": ACCOUNT.did},
    {"type": "cancel", "operationId": "one", "requestedAt": "2026-07-04T14:39:14Z"},
]


@st.composite
def _tokens(draw: st.DrawFn) -> bytes:
    header = draw(
        _tampered({"typ": "JWT", "alg": draw(st.sampled_from(["ES256K", "ES256", "none"]))})
    )
    claims = draw(_tampered(CLAIMS))
    return token_of(_dumped(header), _dumped(claims), draw(st.binary(min_size=63, max_size=65)))


GRAMMARS = (
    Grammar("cbor by its grammar", judges.dag_cbor, ITEMS),
    Grammar("record by its grammar", judges.record, ITEMS | _fields({"a": 1, "b": [_CID]})),
    Grammar("frame by its grammar", judges.frame, _frames()),
    Grammar("tree by its grammar", judges.tree, _repositories()),
    Grammar("proof by its grammar", judges.proof, _repositories()),
    Grammar(
        "command by its grammar",
        judges.command,
        st.sampled_from(_COMMANDS).flatmap(_tampered).map(_dumped),
    ),
    Grammar("token by its grammar", judges.token, _tokens()),
    Grammar(
        "document by its grammar",
        judges.document,
        _tampered(ACCOUNT.document("https://a.example")).map(_dumped),
    ),
)
