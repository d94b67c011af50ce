"""What all sections of the settings have in common.

A secret ``x`` is given as it is, by a file that is named in ``x_file``, or by a command, in one of
these ways alone.
"""

from __future__ import annotations

from typing import Any, ClassVar, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    SecretStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from consumer.config.secrets import read_secret


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys; ``secrets`` names those of it."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    secrets: ClassVar[tuple[str, ...]] = ()
    _has_secrets: bool = False  # validators run again when a section becomes part of the whole

    @model_validator(mode="after")
    def _each_secret_is_given_once(self) -> Self:
        """Take secrets from their files.  Raises ``ValueError`` if one is given in two ways."""
        for name in () if self._has_secrets else self.secrets:
            ways = [name, f"{name}_file", f"{name}_command"]
            given = [way for way in ways if getattr(self, way, None) is not None]
            if len(given) > 1:
                raise ValueError(f"{' and '.join(given)} are given: leave out all but one")
            if given == [f"{name}_file"] and name in type(self).model_fields:
                secret = SecretStr(read_secret(getattr(self, f"{name}_file")))
                object.__setattr__(self, name, self._checked(name, secret))
        self._has_secrets = True
        return self

    def _checked(self, name: str, secret: SecretStr) -> SecretStr:
        """Return what a file holds if the setting ``name`` could be so; never quote it."""
        kind: Any = type(self).model_fields[name].annotation
        try:
            return TypeAdapter[SecretStr](kind).validate_python(secret)
        except ValidationError as invalid:
            said = invalid.errors()[0]["msg"].removeprefix("Value error, ")
            raise ValueError(f"{name}_file: {said}") from None
