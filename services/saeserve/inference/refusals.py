"""What requests are refused for in more than one place: one function for each code."""

from __future__ import annotations

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
    message: str = "the answer is larger than a message may be", field: str = ""
) -> InvalidInput:
    """The refusal of a request or answer that no message can hold."""
    remedy = "send fewer rows a request"
    return InvalidInput(message, code="TOO_LARGE", field=field, remedy=remedy)
