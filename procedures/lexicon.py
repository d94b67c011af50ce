"""Check values against a lexicon, with the part of the schema language that is used.  Pure.

Specification: https://atproto.com/specs/lexicon.  Known types: object, array, string (formats,
enum, length), integer, boolean, ref.  A lexicon with another type is refused when it is loaded,
not when a request comes.  Members that a schema does not name are ignored, as specified.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from importlib.resources import files
from typing import Any

from procedures import syntax, times

Schema = Mapping[str, Any]

_SHOWN = 64  # characters of a wrong value in a message
_MAX_TEXT = 16_384  # bytes of a text without a maxLength
_KNOWN_TYPES = frozenset({"object", "array", "string", "integer", "boolean", "ref"})


class Invalid(ValueError):
    """A value breaks its schema; the message names the member and what was expected."""


def _parses(parse: Callable[[str], object]) -> Callable[[str], bool]:
    def is_valid(text: str) -> bool:
        try:
            parse(text)
        except ValueError:
            return False
        return True

    return is_valid


_FORMATS: Mapping[str, Callable[[str], bool]] = {
    "did": lambda text: len(text) <= syntax.MAX_DID and syntax.is_did(text),
    "at-uri": _parses(syntax.parse_at_uri),
    "cid": _parses(syntax.parse_cid),
    "datetime": _parses(times.from_text),
}


def _check_text(schema: Schema, value: object, where: str) -> None:
    if not isinstance(value, str):
        raise Invalid(f"{where} must be a string")
    limit = schema.get("maxLength", _MAX_TEXT)
    if len(value.encode()) > limit:
        raise Invalid(f"{where} must not be longer than {limit} bytes")
    if "enum" in schema and value not in schema["enum"]:
        raise Invalid(f"{where} must be one of: {', '.join(schema['enum'])}")
    expected = schema.get("format")
    if expected is not None and not _FORMATS[expected](value):
        raise Invalid(f"{where} must be in the format {expected}, not {value[:_SHOWN]!r}")


def _check_integer(schema: Schema, value: object, where: str) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise Invalid(f"{where} must be an integer")
    match schema.get("minimum"), schema.get("maximum"):
        case int(low), int(high) if not low <= value <= high:
            raise Invalid(f"{where} must be from {low} to {high}")
        case int(low), None if value < low:
            raise Invalid(f"{where} must be {low} or more")
        case None, int(high) if value > high:
            raise Invalid(f"{where} must be {high} or less")


class Lexicons:
    """A set of lexicons that may refer to one another.

    Raises ``ValueError`` for a definition of an unknown type or format.
    """

    def __init__(self, documents: Iterable[Mapping[str, Any]]) -> None:
        self._defs: dict[str, Schema] = {
            f"{document['id']}#{name}": _absolute(definition, document["id"])
            for document in documents
            for name, definition in document["defs"].items()
        }
        for reference, definition in self._defs.items():
            _require_known(definition, reference, self._defs)

    def main(self, nsid: str) -> Schema:
        """Return the definition of a method.  Raises ``KeyError`` if there is none."""
        return self._defs[f"{nsid}#main"]

    def check(self, schema: Schema, value: object, where: str) -> None:
        """Check ``value``, which messages call ``where``.

        Raises ``Invalid`` unless it fits ``schema``.
        """
        match schema["type"]:
            case "object":
                self._check_object(schema, value, where)
            case "array":
                self._check_array(schema, value, where)
            case "string":
                _check_text(schema, value, where)
            case "integer":
                _check_integer(schema, value, where)
            case "boolean":
                if not isinstance(value, bool):
                    raise Invalid(f"{where} must be true or false")
            case _:
                self.check(self._defs[schema["ref"]], value, where)

    def _check_object(self, schema: Schema, value: object, where: str) -> None:
        if not isinstance(value, dict):
            raise Invalid(f"{where} must be an object")
        for name in schema.get("required", ()):
            if name not in value:
                raise Invalid(f"{where} must have the member {name!r}")
        nullable = schema.get("nullable", ())
        for name, member in schema["properties"].items():
            if name in value and not (value[name] is None and name in nullable):
                self.check(member, value[name], name)

    def _check_array(self, schema: Schema, value: object, where: str) -> None:
        if not isinstance(value, list):
            raise Invalid(f"{where} must be an array")
        for index, item in enumerate(value):
            self.check(schema["items"], item, f"{where}[{index}]")

    def parameters(self, schema: Schema | None, pairs: Iterable[tuple[str, str]]) -> dict[str, Any]:
        """Return the typed parameters of a query string, with defaults; ignore unknown ones.

        Raises ``Invalid`` for a parameter that is missing, wrong or given twice.
        """
        properties = {} if schema is None else schema["properties"]
        found: dict[str, Any] = {}
        for name, text in pairs:
            if name not in properties:
                continue
            if name in found:
                raise Invalid(f"{name} is given twice")
            found[name] = _typed(properties[name], text, name)
            self.check(properties[name], found[name], name)
        for name in () if schema is None else schema.get("required", ()):
            if name not in found:
                raise Invalid(f"{name} is missing")
        defaults = {n: p["default"] for n, p in properties.items() if "default" in p}
        return defaults | found


def _typed(schema: Schema, text: str, name: str) -> object:
    if schema["type"] == "boolean":
        return {"true": True, "false": False}.get(text, text)
    if schema["type"] != "integer":
        return text
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= _SHOWN):
        raise Invalid(f"{name} must be an integer")
    return int(text)


def _absolute(schema: Any, nsid: str) -> Any:
    """Return a definition in which every reference names its document."""
    match schema:
        case {"ref": str() as reference, **rest} if reference.startswith("#"):
            return {**rest, "ref": nsid + reference}
        case dict():
            return {name: _absolute(member, nsid) for name, member in schema.items()}
        case list():
            return [_absolute(member, nsid) for member in schema]
        case _:
            return schema


def _require_known(schema: Schema, where: str, defs: Mapping[str, Schema]) -> None:
    if schema["type"] in {"query", "procedure"}:
        bodies = [schema.get("input", {}), schema.get("output", {})]
        parts = [body["schema"] for body in bodies if "schema" in body]
        parts += schema.get("parameters", {"properties": {}})["properties"].values()
        for part in parts:
            _require_known(part, where, defs)
        return
    unknown_format = schema.get("format", "did") not in _FORMATS
    if schema["type"] not in _KNOWN_TYPES or unknown_format or schema.get("ref", where) not in defs:
        raise ValueError(f"{where}: {json.dumps(schema)[:200]} is not understood")
    for member in (*schema.get("properties", {}).values(), *filter(None, [schema.get("items")])):
        _require_known(member, where, defs)


def load() -> Lexicons:
    """Return the lexicons that come with this package."""
    folder = files("procedures") / "lexicons"
    documents = [json.loads(file.read_text()) for file in folder.iterdir()]
    return Lexicons(documents)
