"""Triton's interpreter with less work of its own for the same numbers.

A kernel's operation computes some hundred numbers here, so nearly all time is what the interpreter
does around numpy. What it computes again at each operation and is the same each time is kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import pytest


def hasten(patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Change the interpreter until `patch` is undone; then call what this returns."""
    interpreter: Any = import_module("triton.runtime.interpreter")
    core: Any = import_module("triton.language.core")
    restore = _replace_once(interpreter, core, patch)
    _leave_out_unread_checks(interpreter, patch)
    _keep_types(interpreter, core, patch)
    return restore


def _replace_once(interpreter: Any, core: Any, patch: pytest.MonkeyPatch) -> Callable[[], None]:
    """The interpreter replaces the functions of `triton.language` at every launch and again at
    every call of a helper. They stay replaced instead, each by one function and not by three."""
    nothing, semantic = interpreter._LangPatchScope(), interpreter.interpreter_semantic

    def replace_one(module: Any, name: str, member: Any, _builder: object, scope: Any) -> None:
        scope.set_attr(module, name, _without_builder(getattr(member, "__wrapped__", member), semantic))

    patch.setattr(interpreter, "_patch_attr", replace_one)
    # A kernel's or a helper's globals may hold either of the two modules.
    both = SimpleNamespace(__globals__={"tl": import_module("triton.language"), "core": core})
    scope = interpreter._patch_lang(both)
    patch.setattr(interpreter, "_patch_lang", lambda _function: nothing)
    return scope.restore


def _without_builder(function: Callable[..., Any], semantic: object) -> Callable[..., Any]:
    def call(*arguments: Any, **options: Any) -> Any:
        options["_semantic"] = semantic
        return function(*arguments, **options)

    return call


def _leave_out_unread_checks(interpreter: Any, patch: pytest.MonkeyPatch) -> None:
    """Sums and products of integers are computed again in 64 bits for an assertion that is left out
    where kernels are not debugged."""
    builder = interpreter.interpreter_builder
    assert not builder.options.debug
    patch.setattr(builder, "options", replace(builder.options, sanitize_overflow=False))


def _keep_types(interpreter: Any, core: Any, patch: pytest.MonkeyPatch) -> None:
    """Types of tiles do not change once they are made, nor do the sizes that tensors read there."""
    types, sizes, numpys = {}, {}, {}

    class Kept(core.block_type):
        """Makes one object of equal arguments."""

        def __new__(cls, element_ty: Any, shape: Any) -> Any:
            key = element_ty.name, *[core._unwrap_if_constexpr(size) for size in shape]
            if key not in types:
                types[key] = super().__new__(cls)
                core_init(types[key], element_ty, shape)
            return types[key]

        def __init__(self, element_ty: Any, shape: Any) -> None:
            """Leaves what `__new__` found as it is."""

    def tensor_init(self: Any, handle: Any, type: Any) -> None:  # noqa: A002
        self.handle, self.type, self.dtype = handle, type, type.scalar
        if type.name not in sizes:
            shape = type.shape if type.is_block() else ()
            as_constants = core.tuple([core.constexpr(size) for size in shape])
            sizes[type.name] = core.constexpr(math.prod(shape)), as_constants
        self.numel, self.shape = sizes[type.name]

    def numpy_type(type: Any) -> Any:  # noqa: A002
        if type.name not in numpys:
            numpys[type.name] = found(type)
        return numpys[type.name]

    def equal(self: Any, other: Any) -> bool:
        return self is other or right_equal(self, other)

    def broadcast(self: Any, lhs: Any, rhs: Any) -> Any:
        if lhs.type.is_block() and rhs.type.is_block() and lhs.type.shape.values == rhs.type.shape.values:
            return lhs, rhs
        return right_broadcast(self, lhs, rhs)

    right_equal, right_broadcast = core.dtype.__eq__, type(interpreter.interpreter_semantic).broadcast_impl_value
    patch.setattr(core.dtype, "__eq__", equal)
    patch.setattr(type(interpreter.interpreter_semantic), "broadcast_impl_value", broadcast)
    core_init, found = core.block_type.__init__, interpreter._get_np_dtype
    for module in (core, import_module("triton.language")):
        patch.setattr(module, "block_type", Kept)
    patch.setattr(core.tensor, "__init__", tensor_init)
    patch.setattr(interpreter, "_get_np_dtype", numpy_type)
