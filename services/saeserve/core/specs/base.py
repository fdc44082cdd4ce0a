"""The base of every spec, and the one place where a bad one becomes a readable error."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self, cast

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, InitErrorDetails, core_schema
from typing_extensions import override

from saeserve.errors import SpecError, SpecErrors

_EVERY_ERROR = object()
"""Context of a validation that goes on after a SpecError, to find the others."""


class _Found(ValueError):
    """Carries a SpecError past pydantic, which goes on with the other fields."""

    def __init__(self, error: SpecError) -> None:
        super().__init__(error.message)
        self.error = error


class Spec(BaseModel):
    """A frozen value with named, typed fields; unknown fields are refused.

    Field names equal those of `protos/saeserve/v1/spec.proto`, so converters need no table.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def parse(cls, value: Mapping[str, Any], field: str) -> Self:
        """Build from plain JSON data; `field` names the value in errors.

        Raises SpecError that names every field that is wrong; where all of them are right by
        themselves, what does not fit together, as far as it is independent.
        """
        try:
            return cls.model_validate(dict(value), context=_EVERY_ERROR)
        except ValidationError as error:
            raise spec_error(error, field) from None

    @classmethod
    def missing(cls, value: Mapping[str, Any]) -> SpecError | None:
        """What `value` lacks apart from its required fields, such as one of several alternatives;
        asked only where some field is wrong, since the spec's own checks have not run then."""
        del value
        return None

    def to_json(self) -> dict[str, Any]:
        """Plain JSON data that `parse` reads back; unset fields are left out."""
        return self.model_dump(mode="json", exclude_none=True)

    @classmethod
    @override
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        def validate(
            value: object,
            inner: core_schema.ValidatorFunctionWrapHandler,
            info: core_schema.ValidationInfo[object],
        ) -> object:
            return _validated(cls, value, inner, every_error=info.context is _EVERY_ERROR)

        return core_schema.with_info_wrap_validator_function(validate, handler(source))


def refuse_together(*checks: Callable[[], object]) -> None:
    """Run checks that do not depend on each other. Raises the SpecErrors of all of them as one."""
    found: list[SpecError] = []
    for check in checks:
        try:
            check()
        except SpecError as error:
            found.append(error)
    if found:
        raise found[0] if len(found) == 1 else SpecErrors(found)


def _validated(
    kind: type[Spec], value: object, inner: Callable[[object], object], *, every_error: bool
) -> object:
    try:
        return inner(value)
    except SpecError as error:
        if every_error:
            raise _Found(error) from None
        raise
    except ValidationError as error:
        lacks = None
        if every_error and isinstance(value, Mapping):
            lacks = kind.missing(cast("Mapping[str, Any]", value))
        if lacks is None:
            raise
        raise _joined(error, lacks) from None


def _joined(error: ValidationError, lacks: SpecError) -> ValidationError:
    """`error` with what else the value lacks, unless it says so already."""
    found = error.errors(include_url=False)
    causes = [each.get("ctx", {}).get("error") for each in found]
    said = [cause.error.parts for cause in causes if isinstance(cause, _Found)]
    if any(part.message == lacks.message for parts in said for part in parts):
        return error
    lines = [_line(each) for each in found]
    lines.append(InitErrorDetails(type="value_error", input=None, ctx={"error": _Found(lacks)}))
    return ValidationError.from_exception_data(error.title, lines)


def _line(found: Any) -> InitErrorDetails:  # noqa: ANN401 - a typed dict of pydantic_core
    """An error as it was found, to be raised once more."""
    known = InitErrorDetails(type=found["type"], loc=found["loc"], input=found["input"])
    if "ctx" in found:
        known["ctx"] = found["ctx"]
    return known


def spec_error(error: ValidationError, field: str) -> SpecError:
    """Turn pydantic's complaints into ours."""
    lines = error.errors(include_url=False)
    # A list whose items are wrong counts as too short as well.
    deeper = {line["loc"][:length] for line in lines for length in range(len(line["loc"]))}
    found = [
        _one(line, field)
        for line in lines
        if line["type"] != "too_short" or line["loc"] not in deeper
    ]
    return found[0] if len(found) == 1 else SpecErrors(found)


def _one(found: Any, field: str) -> SpecError:  # noqa: ANN401 - a typed dict of pydantic_core
    path = ".".join(filter(None, [field, *(str(part) for part in found["loc"])]))
    if found["type"] == "extra_forbidden":
        return SpecError(path, "there is no such field", remedy="remove it or correct its name")
    if found["type"] == "missing":
        return SpecError(path, "is required", remedy="set it")
    cause = found.get("ctx", {}).get("error")
    if isinstance(cause, _Found):
        return cause.error
    if isinstance(cause, SpecError):
        return cause
    message = str(cause) if cause is not None else found["msg"]
    return SpecError(path, f"{message}; got {found.get('input')!r}", remedy="correct the value")
