"""Inner products that vectorise and still have one order of summation.

A product of two rows is summed in `LANES` partial sums: number l takes the elements l, l + LANES,
and so on, each by a fused multiply-add. Then the upper half of the partial sums is added to the
lower half until one is left, and the elements beyond the last whole group of `LANES` are added one
by one. The order, and so every bit, is written into the LLVM code. It depends neither on what the
optimiser does with it, which differs between a process that compiles a kernel and one that loads
it, nor on the width of the processor's vectors.

Shape suffixes: N elements of a row.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

from saeserve.core.kernels.compiled import Array, available, helper, intrinsic

LANES = 16
Number = Any
"""An element of an array: numpy's stubs leave its type open, numba does not."""
Code = Any
"""A type, value or builder of numba or llvmlite, which have no stubs."""

ir: Code = importlib.import_module("llvmlite.ir") if available() else None
types: Code = importlib.import_module("numba.types") if available() else None
cgutils: Code = importlib.import_module("numba.core.cgutils") if available() else None


@intrinsic
def fma(_context: Code, a: Code, b: Code, c: Code) -> Code:
    """a · b + c, rounded once; all three of one floating-point type."""
    if not (isinstance(a, types.Float) and a == b == c):
        return None

    def generate(_context: Code, builder: Code, _signature: Code, args: Code) -> Code:
        return _fma(builder, *args)

    return a(a, b, c), generate


@intrinsic
def dot(_context: Code, y_N: Code, a_N: Code) -> Code:
    """<y, a> in the arrays' type."""
    return _products((y_N, a_N), [(0, 1)])


@intrinsic
def four_dots(_context: Code, y_N: Code, a_N: Code, b_N: Code, c_N: Code, d_N: Code) -> Code:
    """<y, a>, <y, b>, <y, c>, <y, d>, each as `dot` has it."""
    return _products((y_N, a_N, b_N, c_N, d_N), [(0, 1), (0, 2), (0, 3), (0, 4)])


@intrinsic
def moments(_context: Code, g_N: Code, w_N: Code) -> Code:
    """<g, g>, <g, w>, <w, w> in float64."""
    return _products((g_N, w_N), [(0, 0), (0, 1), (1, 1)], types.float64)


@intrinsic
def round_row(_context: Code, w_N: Code, low_N: Code) -> Code:
    """low = w rounded to bfloat16, as the int16 of its bits, and with it <w, w> and
    <w - low, w - low> in float64; `w_N` is float32."""
    rows = isinstance(low_N, types.Array) and (low_N.ndim, low_N.layout) == (1, "C")
    if not (rows and _is_row(w_N) and (w_N.dtype, low_N.dtype) == (types.float32, types.int16)):
        return None
    return _generated((w_N, low_N), [(0, 0), (1, 1)], types.float64, _Rounding)


@intrinsic
def square(_context: Code, w_N: Code) -> Code:
    """<w, w> in float64."""
    return _products((w_N,), [(0, 0)], types.float64)


@helper
def add(y_N: Array, by_a: Number, a_N: Array) -> None:
    """y += by_a · a."""
    for n in range(y_N.size):
        y_N[n] = fma(by_a, a_N[n], y_N[n])


@helper
def add_four(
    y_N: Array,
    by_a: Number,
    a_N: Array,
    by_b: Number,
    b_N: Array,
    by_c: Number,
    c_N: Array,
    by_d: Number,
    d_N: Array,
) -> None:
    """y += by_a · a + by_b · b + by_c · c + by_d · d."""
    for n in range(y_N.size):
        upper = fma(by_a, a_N[n], fma(by_b, b_N[n], y_N[n]))
        y_N[n] = fma(by_c, c_N[n], fma(by_d, d_N[n], upper))


@helper
def next_four(of_N: Array, place: int) -> tuple[Number, Number, Number, Number]:
    """Four consecutive elements."""
    return of_N[place], of_N[place + 1], of_N[place + 2], of_N[place + 3]


def _products(
    arrays: tuple[Code, ...], pairs: Sequence[tuple[int, int]], sum_type: Code = None
) -> Code:
    """Signature and code of the inner products of pairs of arrays, which are equally long, in
    sums of `sum_type`, which is the arrays' own if none is given."""
    first = arrays[0]
    if not all(_is_row(array) and array.dtype == first.dtype for array in arrays):
        return None
    return _generated(arrays, pairs, sum_type or first.dtype, _Sums)


def _generated(
    arrays: tuple[Code, ...],
    pairs: Sequence[tuple[int, int]],
    element: Code,
    kind: type[_Sums],
) -> Code:
    """The same in sums of the type `element`, by code of this kind."""
    answer = element if len(pairs) == 1 else types.UniTuple(element, len(pairs))

    def generate(context: Code, builder: Code, signature: Code, args: Code) -> Code:
        rows = [
            context.make_array(array)(context, builder, value)
            for array, value in zip(signature.args, args, strict=True)
        ]
        length = cgutils.unpack_tuple(builder, rows[0].shape)[0]
        sums = kind(builder, [row.data for row in rows], pairs, context.get_value_type(element))
        found = sums.over(length)
        return found[0] if len(pairs) == 1 else context.make_tuple(builder, answer, found)

    return answer(*arrays), generate


def _is_row(kind: Code) -> bool:
    """Whether numba's type is of one contiguous row of floating-point numbers."""
    return (
        isinstance(kind, types.Array)
        and (kind.ndim, kind.layout) == (1, "C")
        and isinstance(kind.dtype, types.Float)
    )


class _Sums:
    """The LLVM code of inner products of rows that are read once for all pairs."""

    def __init__(self, builder: Code, rows: Sequence[Code], pairs: Code, element: Code) -> None:
        self._builder, self._rows, self._pairs, self._element = builder, rows, pairs, element

    def over(self, length: Code) -> list[Code]:
        """The products' values."""
        builder, lanes = self._builder, length.type(LANES)
        whole = builder.sub(length, builder.urem(length, lanes))
        partial = self._accumulate(length.type(0), whole, LANES, None)
        return self._accumulate(whole, length, 1, [self._folded(sums) for sums in partial])

    def _accumulate(
        self, start: Code, stop: Code, step: int, sums: list[Code] | None
    ) -> list[Code]:
        builder = self._builder
        kind = self._element if step == 1 else ir.VectorType(self._element, step)
        values = sums or [ir.Constant(kind, None)] * len(self._pairs)
        slots = [cgutils.alloca_once_value(builder, value) for value in values]
        with cgutils.for_range_slice(builder, start, stop, start.type(step)) as (place, _count):
            loaded = self._elements(place, kind)
            for slot, (one, other) in zip(slots, self._pairs, strict=True):
                builder.store(_fma(builder, loaded[one], loaded[other], builder.load(slot)), slot)
        return [builder.load(slot) for slot in slots]

    def _elements(self, place: Code, kind: Code) -> list[Code]:
        """Elements of each row from `place` on, in the sums' type."""
        return [self._widened(self._load(row, place, kind), kind) for row in self._rows]

    def _load(self, row: Code, place: Code, kind: Code) -> Code:
        """Elements from `place` on, as many as `kind` has."""
        pointer = self._pointer(row, place, kind)
        return self._builder.load(pointer, align=8 if row.type.pointee == ir.DoubleType() else 4)

    def _pointer(self, row: Code, place: Code, kind: Code) -> Code:
        """To as many elements as `kind` has, in the type that they are stored in."""
        builder, source = self._builder, _like(kind, row.type.pointee)
        return builder.bitcast(builder.gep(row, [place]), source.as_pointer())

    def _widened(self, value: Code, kind: Code) -> Code:
        return value if value.type == kind else self._builder.fpext(value, kind)

    def _folded(self, lanes: Code) -> Code:
        """The sum of a vector's elements, the upper half added to the lower until one is left."""
        builder, width = self._builder, LANES
        while width > 1:
            width //= 2
            lower, upper = (
                builder.shuffle_vector(
                    lanes,
                    lanes,
                    ir.Constant(ir.VectorType(ir.IntType(32), width), list(range(at, at + width))),
                )
                for at in (0, width)
            )
            lanes = builder.fadd(lower, upper)
        return builder.extract_element(lanes, ir.IntType(32)(0))


class _Rounding(_Sums):
    """Products of two rows, w and room for its bfloat16: of w and of what rounding takes away."""

    def _elements(self, place: Code, kind: Code) -> list[Code]:
        builder, (row, low) = self._builder, self._rows
        exact = self._load(row, place, kind)
        rounded = self._rounded(exact)
        upper = builder.trunc(rounded, _like(kind, low.type.pointee))
        builder.store(upper, self._pointer(low, place, kind), align=2)
        bits = builder.shl(rounded, ir.Constant(rounded.type, _each(rounded.type, 16)))
        lost = builder.fsub(exact, builder.bitcast(bits, exact.type))
        return [self._widened(exact, kind), self._widened(lost, kind)]

    def _rounded(self, exact: Code) -> Code:
        """The upper halves of float32, ties to even; NaN stays one."""
        builder, kind = self._builder, _like(exact.type, ir.IntType(32))

        def number(value: int) -> Code:
            return ir.Constant(kind, _each(kind, value))

        bits = builder.bitcast(exact, kind)
        odd = builder.and_(builder.lshr(bits, number(16)), number(1))
        nearest = builder.add(bits, builder.add(odd, number(0x7FFF)))
        is_nan = builder.fcmp_unordered("uno", exact, exact)
        return builder.select(is_nan, number(0x7FC0), builder.lshr(nearest, number(16)))


def _like(kind: Code, element: Code) -> Code:
    """A number of the type `element`, or a vector of them, as `kind` is."""
    return ir.VectorType(element, kind.count) if isinstance(kind, ir.VectorType) else element


def _each(kind: Code, value: int) -> int | list[int]:
    return [value] * kind.count if isinstance(kind, ir.VectorType) else value


def _fma(builder: Code, a: Code, b: Code, c: Code) -> Code:
    """A call of LLVM's fused multiply-add for numbers or vectors."""
    kind, many = a.type, ""
    if isinstance(kind, ir.VectorType):
        kind, many = kind.element, f"v{kind.count}"
    bits = 64 if kind == ir.DoubleType() else 32
    signature = ir.FunctionType(a.type, [a.type] * 3)
    name = f"llvm.fma.{many}f{bits}"
    return builder.call(cgutils.get_or_insert_function(builder.module, signature, name), [a, b, c])
