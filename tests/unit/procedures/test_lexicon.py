"""Values against a lexicon."""

from __future__ import annotations

from typing import Any

import pytest

from procedures.lexicon import Invalid, Lexicons
from tests.unit.procedures.strategies import DID, URI

CID = "bafyreie5737gdxlw5i64vzichcalba3z2v5n6icifvx5xytvske7mr3hpm"


def _document(schema: dict[str, Any], nsid: str = "a.b.c") -> dict[str, Any]:
    return {"id": nsid, "defs": {"main": schema, "thing": {"type": "object", "properties": {}}}}


def _check(schema: dict[str, Any], value: object) -> None:
    lexicons = Lexicons([_document(schema)])
    lexicons.check(lexicons.main("a.b.c"), value, "it")


def _string(**rules: object) -> dict[str, Any]:
    return {"type": "string", **rules}


OBJECT = {
    "type": "object",
    "required": ["a"],
    "nullable": ["b"],
    "properties": {"a": {"type": "integer", "minimum": 0, "maximum": 9}, "b": _string()},
}


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (_string(), ""),
        (_string(maxLength=2), "ü"),
        (_string(enum=["x", "y"]), "y"),
        (_string(knownValues=["x"]), "z"),
        (_string(format="did"), DID),
        (_string(format="at-uri"), URI),
        (_string(format="cid"), CID),
        (_string(format="datetime"), "2026-07-04T14:39:14Z"),
        ({"type": "boolean"}, False),
        ({"type": "array", "items": _string()}, ["a", "b"]),
        ({"type": "ref", "ref": "#thing"}, {}),
        (OBJECT, {"a": 0}),
        (OBJECT, {"a": 9, "b": None, "unknown": object()}),
    ],
)
def test_accepts(schema: dict[str, Any], value: object) -> None:
    _check(schema, value)


@pytest.mark.parametrize(
    ("schema", "value", "message"),
    [
        (_string(), 1, "it must be a string"),
        (_string(), None, "it must be a string"),
        (_string(), "x" * 20_000, "it must not be longer than 16384 bytes"),
        (_string(maxLength=2), "üx", "it must not be longer than 2 bytes"),
        (_string(enum=["x", "y"]), "z", "it must be one of: x, y"),
        (_string(format="did"), "alice.test", "it must be in the format did, not 'alice.test'"),
        (_string(format="did"), "did:plc:" + "x" * 3_000, "it must be in the format did"),
        (_string(format="at-uri"), URI + "/", "it must be in the format at-uri"),
        (_string(format="at-uri"), "at://" + "x" * 9_000, "it must be in the format at-uri"),
        (_string(format="cid"), CID[:-1], "it must be in the format cid"),
        (_string(format="datetime"), "today", "it must be in the format datetime"),
        ({"type": "boolean"}, 1, "it must be true or false"),
        ({"type": "array", "items": _string()}, {}, "it must be an array"),
        ({"type": "array", "items": _string()}, ["a", 1], r"it\[1\] must be a string"),
        ({"type": "ref", "ref": "#thing"}, [], "it must be an object"),
        (OBJECT, [], "it must be an object"),
        (OBJECT, {}, "it must have the member 'a'"),
        (OBJECT, {"a": True}, "a must be an integer"),
        (OBJECT, {"a": 1.0}, "a must be an integer"),
        (OBJECT, {"a": 10}, "a must be from 0 to 9"),
        ({"type": "integer", "maximum": 9}, 10, "it must be 9 or less"),
        ({"type": "integer", "minimum": 0}, -1, "it must be 0 or more"),
        (OBJECT, {"a": None}, "a must be an integer"),
    ],
)
def test_refuses(schema: dict[str, Any], value: object, message: str) -> None:
    with pytest.raises(Invalid, match=message):
        _check(schema, value)


PARAMETERS = {
    "type": "params",
    "required": ["id"],
    "properties": {
        "id": _string(),
        "limit": {"type": "integer", "minimum": 1, "maximum": 100, "default": 50},
    },
}


def test_parameters_are_typed_and_have_defaults() -> None:
    lexicons = Lexicons([])
    assert lexicons.parameters(PARAMETERS, [("id", "1"), ("x", "y")]) == {"id": "1", "limit": 50}
    assert lexicons.parameters(PARAMETERS, [("id", "1"), ("limit", "7")])["limit"] == 7
    assert lexicons.parameters(None, [("x", "y")]) == {}


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "id is missing"),
        ([("id", "1"), ("id", "2")], "id is given twice"),
        ([("id", "1"), ("limit", "ten")], "limit must be an integer"),
        ([("id", "1"), ("limit", "")], "limit must be an integer"),
        ([("id", "1"), ("limit", "9" * 5_000)], "limit must be an integer"),
        ([("id", "1"), ("limit", "0")], "limit must be from 1 to 100"),
    ],
)
def test_wrong_parameters(pairs: list[tuple[str, str]], message: str) -> None:
    with pytest.raises(Invalid, match=message):
        Lexicons([]).parameters(PARAMETERS, pairs)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "union", "refs": []},
        {"type": "ref", "ref": "#nowhere"},
        _string(format="handle"),
        {"type": "array", "items": {"type": "blob"}},
        {"type": "query", "output": {"schema": {"type": "unknown"}}},
        {"type": "query", "parameters": {"properties": {"a": {"type": "bytes"}}}},
    ],
)
def test_what_is_not_understood_is_refused_when_loaded(schema: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="is not understood"):
        Lexicons([_document(schema)])
