"""What requests are refused for in more than one place: one function for each code."""

from __future__ import annotations

from collections.abc import Sequence

from saeserve.errors import InvalidInput


def overflow(message: str, field: str, remedy: str) -> InvalidInput:
    """The refusal of rows whose result a type cannot hold."""
    return InvalidInput(message, code="OVERFLOW", field=field, remedy=remedy)


def outside_float32() -> InvalidInput:
    """The refusal of rows whose features or outputs float32 cannot hold."""
    return overflow(
        "the activations are so large that the result leaves float32",
        "activations.data",
        "send raw activations of the site that the model was trained on",
    )


def too_large(
    message: str = "the answer is larger than a message may be",
    field: str = "",
    remedy: str = "send fewer rows a request",
) -> InvalidInput:
    """The refusal of a request or answer that no message can hold."""
    return InvalidInput(message, code="TOO_LARGE", field=field, remedy=remedy)


def bad_count(message: str, field: str, remedy: str) -> InvalidInput:
    """The refusal of too many or too few of something."""
    return InvalidInput(message, code="BAD_COUNT", field=field, remedy=remedy)


def checked_count(count: int, most: int, field: str, default: int) -> int:
    """`count`, or `default` where it is 0. Raises InvalidInput for more than `most`, or less than
    none."""
    if not 0 <= count <= most:
        remedy = f"choose 1 to {most}, or leave it unset"
        raise bad_count(f"{count} cannot be returned", field, remedy)
    return count or default


def bad_order(order: str, known: Sequence[str]) -> InvalidInput:
    """The refusal of an order that features cannot have."""
    return InvalidInput(
        f"features cannot be ordered by {order!r}",
        code="BAD_ORDER",
        field="order_by",
        remedy=f"choose one of {', '.join(known)}",
    )


def no_such_feature(resource: str, d_sae: int, feature: int, field: str) -> InvalidInput:
    """The refusal of a feature that the model does not have."""
    return InvalidInput(
        f"{resource} has {d_sae} features; there is no {feature}",
        code="NO_SUCH_FEATURE",
        field=field,
        remedy=f"choose 0 to {d_sae - 1}",
    )
