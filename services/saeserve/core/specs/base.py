"""The base of every spec, and the one place where a bad one becomes a readable error."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from saeserve.core.errors import SpecError


class Spec(BaseModel):
    """A frozen value with named, typed fields; unknown fields are refused.

    Field names equal those of `protos/saeserve/v1/spec.proto`, so converters need no table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, value: Mapping[str, Any], field: str) -> Self:
        """Build from plain JSON data; `field` names the value in errors.

        Raises SpecError for the first thing that is wrong.
        """
        try:
            return cls.model_validate(dict(value))
        except ValidationError as error:
            raise spec_error(error, field) from None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data that `parse` reads back; unset fields are left out."""
        return self.model_dump(mode="json", exclude_none=True)


def spec_error(error: ValidationError, field: str) -> SpecError:
    """Turn pydantic's first complaint into ours."""
    first = error.errors(include_url=False)[0]
    path = ".".join(filter(None, [field, *(str(part) for part in first["loc"])]))
    if first["type"] == "extra_forbidden":
        return SpecError(path, "there is no such field", remedy="remove it or correct its name")
    if first["type"] == "missing":
        return SpecError(path, "is required", remedy="set it")
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SpecError):
        return cause
    message = str(cause) if cause is not None else first["msg"]
    return SpecError(path, f"{message}; got {first.get('input')!r}", remedy="correct the value")
