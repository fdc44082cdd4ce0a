"""Triton's interpreter with less work of its own for the same numbers.

An operation of a kernel computes some hundred numbers in these tests, so that nearly all time goes
into what the interpreter does before and after it calls numpy. What is the same at each operation
is kept here, and what nobody reads is left out; the numbers are those of the interpreter.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest

Untyped = Any
"""What is Triton's, whose interpreter declares no types."""


def hasten(patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Change the interpreter until `patch` is undone; before that, call what this returns."""
    interpreter: Untyped = import_module("triton.runtime.interpreter")
    core: Untyped = import_module("triton.language.core")
    restore = _replace_once(interpreter, core, patch)
    _leave_out_unread_checks(interpreter, patch)
    _keep_block_types(core, patch)
    _keep_sizes(core, patch)
    _keep_numpy_types(interpreter, patch)
    _compare_identities_first(interpreter, core, patch)
    return restore


def _replace_once(
    interpreter: Untyped, core: Untyped, patch: pytest.MonkeyPatch
) -> Callable[[], None]:
    """The interpreter replaces the functions of `triton.language` at every launch and again at
    every call of a helper. They stay replaced instead, each by one function in place of two."""
    nothing, semantic = interpreter._LangPatchScope(), interpreter.interpreter_semantic

    def replace_one(
        place: Untyped, name: str, member: Untyped, _builder: object, scope: Untyped
    ) -> None:
        scope.set_attr(place, name, _bound(getattr(member, "__wrapped__", member), semantic))

    patch.setattr(interpreter, "_patch_attr", replace_one)
    # Both modules that a kernel's or a helper's globals may hold.
    both = SimpleNamespace(__globals__={"tl": import_module("triton.language"), "core": core})
    scope = interpreter._patch_lang(both)

    def replaced(_function: object) -> object:
        return nothing

    patch.setattr(interpreter, "_patch_lang", replaced)
    return scope.restore


def _bound(function: Callable[..., Any], semantic: object) -> Callable[..., Any]:
    def call(*arguments: Untyped, **options: Untyped) -> Untyped:
        options["_semantic"] = semantic
        return function(*arguments, **options)

    return call


def _leave_out_unread_checks(interpreter: Untyped, patch: pytest.MonkeyPatch) -> None:
    """Results of integers are computed a second time, in 64 bits, for an assertion that the
    interpreter leaves out unless it debugs."""
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))


def _keep_block_types(core: Untyped, patch: pytest.MonkeyPatch) -> None:
    """Types do not change once they are made, so equal ones are one object."""
    made: dict[tuple[Any, ...], Any] = {}
    base: Untyped = core.block_type

    class Kept(base):
        def __new__(cls, element_ty: Untyped, shape: Untyped) -> Untyped:
            key = element_ty.name, *[core._unwrap_if_constexpr(size) for size in shape]
            if key not in made:
                made[key] = object.__new__(cls)
                base.__init__(made[key], element_ty, shape)
            return made[key]

        def __init__(self, element_ty: Untyped, shape: Untyped) -> None:
            """Leave what `__new__` found as it is."""

    for module in (core, import_module("triton.language")):
        patch.setattr(module, "block_type", Kept)


def _keep_sizes(core: Untyped, patch: pytest.MonkeyPatch) -> None:
    """Tensors of one shape share it, as constants."""
    sizes: dict[str, tuple[Any, Any]] = {}
    shapes: dict[tuple[int, ...], tuple[Any, Any]] = {}

    def sizes_of(shape: tuple[int, ...]) -> tuple[Any, Any]:
        constants = core.tuple([core.constexpr(size) for size in shape])
        return shapes.setdefault(shape, (core.constexpr(math.prod(shape)), constants))

    def initialise(self: Untyped, handle: Untyped, type: Untyped) -> None:
        self.handle, self.type, self.dtype = handle, type, type.scalar
        if type.name not in sizes:
            sizes[type.name] = sizes_of(tuple(type.shape) if type.is_block() else ())
        self.numel, self.shape = sizes[type.name]

    patch.setattr(core.tensor, "__init__", initialise)


def _keep_numpy_types(interpreter: Untyped, patch: pytest.MonkeyPatch) -> None:
    """The table of types is written again at each look into it."""
    found: dict[str, Any] = {}
    look: Untyped = interpreter._get_np_dtype

    def numpy_type(type: Untyped) -> Untyped:
        if type.name not in found:
            found[type.name] = look(type)
        return found[type.name]

    patch.setattr(interpreter, "_get_np_dtype", numpy_type)


def _compare_identities_first(
    interpreter: Untyped, core: Untyped, patch: pytest.MonkeyPatch
) -> None:
    """Most types that are compared are one object, and most operands have one shape."""
    semantic: Untyped = interpreter.TritonSemantic
    equal, broadcast = core.dtype.__eq__, semantic.broadcast_impl_value

    def equal_type(self: Untyped, other: Untyped) -> bool:
        return self is other or equal(self, other)

    def broadcast_both(self: Untyped, lhs: Untyped, rhs: Untyped) -> Untyped:
        # `_keep_sizes` has them share it.
        return (lhs, rhs) if lhs.shape is rhs.shape else broadcast(self, lhs, rhs)

    patch.setattr(core.dtype, "__eq__", equal_type)
    patch.setattr(semantic, "broadcast_impl_value", broadcast_both)
