"""Compiles the kernels in Triton for an H100 on any machine, and prints what resources they take.

`python -m tests.fakes.compiled_offline` prints a JSON object (`Compiled`). TRITON_INTERPRET must
not be set.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import multiprocessing
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, TypedDict

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saeserve.core import gpu, gpu_dense
from saeserve.core.gpu import (
    batch_choice,
    batch_cut,
    batch_lists,
    choice,
    choice_lists,
    choice_long,
    choice_short,
    columns,
    measures,
    prefixes,
    reconstruction,
    rows,
    scalars,
    segments,
    sorted_entries,
    thresholds,
    totals,
    update,
)
from saeserve.core.gpu.launch import launch
from saeserve.core.gpu_dense import choice as dense_choice
from saeserve.core.gpu_dense import gated as dense_gated
from saeserve.core.gpu_dense import jumprelu as dense_jumprelu
from saeserve.core.gpu_dense import jumprelu_fire as dense_jumprelu_fire
from saeserve.core.gpu_dense import relu as dense_relu
from saeserve.core.gpu_dense import rows as dense_rows
from saeserve.core.gpu_dense import weights as dense_weights

TYPES = {
    "F": "*fp32",
    "H": "*fp16",
    "I": "*i32",
    "L": "*i64",
    "D": "*fp64",
    "n": "i32",
    "x": "fp32",
}
"""Of pointers by capital letters, of numbers by small ones."""
THRESHOLD_TYPES = "HFFFFFIFILIFnnnxx"
TARGET = GPUTarget("cuda", 90, 32)
Case = tuple[Any, str, int, dict[str, int | bool]]
"""Kernel, types of the other arguments in their order, warps, constants."""


class Compiled(TypedDict):
    """What the program prints."""

    used: dict[str, dict[str, int]]
    """Registers, bytes of stack, local and shared memory, by kernel, types and sizes."""
    launched: list[str]
    """The kernels that the modules launch."""


def update_cases() -> Iterator[Case]:
    """Rows of 768 and of 4,096 numbers."""
    for width in (768, 4096):
        block, warps = update.block_of(width).values()
        for unit in (False, True):
            yield update.measure_kernel, "FFFFnn", warps, {"UNIT": unit, "BLOCK": block}
        for unit, shadow in ((True, False), (True, True), (False, True), (False, False)):
            sizes = {"UNIT": unit, "SHADOW": shadow, "BLOCK": block}
            yield update.move_kernel, "FFFFFFFHFFFFnnx", warps, sizes
    yield update.clip_kernel, "FFnx", 32, {"BLOCK": update.CLIPPED}
    yield scalars.write_kernel, "Fnxxxxxxxx", 1, {}


def choice_cases() -> Iterator[Case]:
    """Shapes d 768, m 24,576, k 32, d 4,096, m 65,536, k 64, and the widest rows that are encoded;
    after a product and without one."""
    for width, latents, k in ((768, 24_576, 32), (4096, 65_536, 64), (8192, 65_536, 64)):
        block, warps = update.block_of(width).values()
        for likely in (True, False):
            how = {"LIKELY": likely, "BLOCK": rows.ROWS}
            yield rows.errors_kernel, "FFFFnxxx", 4, how
        yield rows.round_kernel, "FFFHFFFFn", warps, {"CENTRE": True, "BLOCK": block}
        group = choice.group_width(latents, k)
        groups = triton.next_power_of_2(triton.cdiv(latents, group))
        found: dict[str, int | bool] = {"WIDTH": group}
        sizes = {"AT_ONCE": choice.AT_ONCE // group, "GROUPS": groups}
        yield choice_lists.groups_kernel, "HFIIIFnnnxxx", 4, found | sizes
        sizes = {"STEP": choice.ENTRIES // group, "BLOCK": block}
        sizes |= {"CAPACITY": triton.next_power_of_2(k + choice.ENTRIES)}
        warps = choice_long.WARPS
        short = choice_short.launch_of(k, width)
        short_warps = short.pop("num_warps")
        for parted in (False, True):
            how = {"EXACT": False, "PARTED": parted}
            long = found | sizes | how | {"ROWS": choice_long.ROWS}
            yield choice_long.choose_kernel, "IHIIFFFFIFFInnnnnn", warps, long
            rest = {name: sizes[name] for name in ("STEP", "CAPACITY")} | short | found
            for only_open in {False, not parted}:
                how |= {"ONLY_OPEN": only_open}
                types = "HFIIFFFFIFIFInnnnnxx"
                yield choice_short.short_kernel, types, short_warps, rest | how
        sizes = {"AT_ONCE": thresholds.AT_ONCE, "BLOCK": block}
        warps = thresholds.launch_of(width)["num_warps"]
        yield thresholds.above_kernel, THRESHOLD_TYPES, warps, sizes | {"EXACT": False}
    sizes = {"AT_ONCE": thresholds.AT_ONCE, "BLOCK": 1, "EXACT": True}
    yield thresholds.above_kernel, "F" + THRESHOLD_TYPES[1:], 4, sizes
    sizes = {"AT_ONCE": choice.AT_ONCE // 32, "GROUPS": 1024, "WIDTH": 32}
    yield choice_lists.groups_kernel, "FFIIIFnnnxxx", 4, sizes
    sizes = {"STEP": choice.ENTRIES // 32, "BLOCK": 1, "CAPACITY": 4096, "WIDTH": 32}
    warps = choice_long.WARPS
    how = {"EXACT": True, "PARTED": False, "ROWS": choice_long.ROWS}
    yield choice_long.choose_kernel, "IFIIFFFFIFFInnnnnn", warps, sizes | how


def batch_cases() -> Iterator[Case]:
    """Shapes d 768, m 24,576, k 32 and d 4,096, m 65,536, k 64, after a product; and without."""
    for kind, latents, k in (("H", 24_576, 32), ("H", 65_536, 64), ("F", 24_576, 32)):
        width = choice.group_width(latents, k)
        groups = triton.next_power_of_2(triton.cdiv(latents, width))
        sizes: dict[str, int | bool] = {"WIDTH": width}
        at_once = {"AT_ONCE": choice.AT_ONCE // width}
        yield batch_lists.maxima_kernel, f"{kind}Inn", 4, sizes | at_once
        block: dict[str, int | bool] = {"GROUPS": groups}
        yield batch_lists.group_digits_kernel, "IFLLnnxxx", 4, block | {"PASS": 1}
        step = {"STEP": choice.ENTRIES // width}
        yield batch_lists.hits_kernel, f"{kind}FILLIIFInnnxx", 4, sizes | step | block
        fixed: dict[str, int | bool] = {"TILE": batch_choice.WIDEST_TILE}
        fixed |= {"MANY": batch_choice.EXACT_AT_ONCE, "EXACT": kind == "F"}
        source, warps = f"{kind}IIFLFFF", batch_choice.WARPS
        yield batch_lists.collect_kernel, f"{source}IFnnnn", warps, sizes | step | fixed
        fixed |= sizes | {"BLOCK": batch_choice.BLOCK}
        yield batch_cut.list_digits_kernel, f"{source}FLLnnnnn", warps, fixed | {"PASS": 1}
        yield batch_cut.tally_kernel, f"{source}FLLInnnnn", warps, fixed
        yield batch_cut.keep_kernel, f"{source}IFLLIIFInnnnnn", warps, fixed
    yield batch_cut.plan_kernel, "LLIIIFnn", 4, {"BLOCK": batch_choice.ROWS_AT_ONCE}
    yield prefixes.prefixes_kernel, "IIIInn", 4, {"STEPS": 16, "BLOCK": prefixes.BLOCK}


def entry_cases() -> Iterator[Case]:
    """Tiles of columns serve any width."""
    tile, many = reconstruction.WIDEST_TILE, reconstruction.AT_ONCE
    sizes: dict[str, int | bool] = {"TILE": tile, "AT_ONCE": many}
    for low, kind in ((True, "H"), (False, "F")):
        fixed = sizes | {"EXPONENT": reconstruction.EXPONENT, "LOW": low}
        for nested, detach in ((False, False), (True, False), (True, True)):
            types = f"FII{kind}FFFF{kind}FFFnnnxxn"
            how = fixed | {"NESTED": nested, "DETACH": detach}
            yield reconstruction.reconstruct_kernel, types, reconstruction.WARPS, how
    for even in (True, False):
        sizes = {"EVEN": even, "STEPS": 20, "BAG_STEPS": 16, "BLOCK": sorted_entries.BLOCK}
        yield sorted_entries.arrange_kernel, "ILFFIIFFInnnnnn", 4, sizes
    window, warps = {"WINDOW": segments.WINDOW, "TILE": tile}, segments.WARPS
    for low, kind in ((True, "H"), (False, "F")):
        how = {**window, "AT_ONCE": segments.AT_ONCE, "LOW": low, "SCALED": tile}
        types = f"IIIFF{kind}FF{kind}FFFFFFFLDFFFnnnnnnnn"
        yield segments.sum_kernel, types, warps, how
        # Triton compiles numbers that are 1 in.
        yield segments.sum_kernel, types[:-1], warps, how | {"groups": 1}
    yield segments.join_kernel, "IIFFFFFLDFFFnnnn", warps, window
    for unit in (True, False):
        yield measures.norms_kernel, "DFFnn", 4, {"UNIT": unit, "BLOCK": measures.BLOCK}


def total_cases() -> Iterator[Case]:
    """Blocks serve any shape."""
    tile = {"EACH": columns.EACH, "AT_ONCE": columns.AT_ONCE, "TILE": columns.TILE}
    for moments in (True, False):
        yield columns.columns_kernel, "FFFnnnnx", 4, {"MOMENTS": moments, **tile}
    tile = {"AT_ONCE": columns.PARTS, "TILE": columns.NARROW}
    yield columns.joined_kernel, "FDnn", 4, tile
    yield columns.joined_kernel, "FFnn", 4, tile
    block, warps = {"BLOCK": totals.BLOCK}, totals.WARPS
    yield totals.losses_kernel, "FFFFDFnnnnxxn", warps, block
    yield totals.batch_kernel, "DDLDnnn", warps, block
    yield totals.silent_kernel, "LLLnn", 4, {"BLOCK": totals.LATENTS}


def dense_cases() -> Iterator[Case]:
    """Tiles serve any shape; in float16 and in float32."""
    sizes: dict[str, int | bool] = {"BITS": dense_choice.BITS}
    first = sizes | {"EACH": dense_choice.EACH, "COLUMNS": dense_choice.COLUMNS}
    first |= {"DEVIATIONS": rows.DEVIATIONS}
    second = sizes | {"WORDS": dense_choice.WORDS, "TILE": dense_choice.TILE}
    warps = dense_choice.SETTLE_WARPS
    yield dense_relu.relu_settle_kernel, "HIFFFFnnn", warps, second
    yield dense_gated.gated_settle_kernel, "HIFFFFFFnnnn", warps, second
    yield dense_jumprelu_fire.jumprelu_settle_kernel, "HHIFFFFFFFnnnnx", warps, second
    for low in (True, False):
        kind, fire = "H" if low else "F", first | {"LOW": low}
        warps = dense_choice.WARPS
        yield dense_relu.relu_fire_kernel, f"{kind}I" + 10 * "F" + "nnxx", warps, fire
        yield dense_gated.gated_fire_kernel, f"{kind}I" + 12 * "F" + "nnxx", warps, fire
        types = f"{kind}{kind}I" + 13 * "F" + "nnxxx"
        yield dense_jumprelu_fire.jumprelu_fire_kernel, types, warps, fire
        for module, kernel, types in (
            (dense_relu, dense_relu.relu_back_kernel, 5 * "F" + "nnx"),
            (dense_gated, dense_gated.gated_back_kernel, 6 * "F" + "nnx"),
            (dense_jumprelu, dense_jumprelu.jumprelu_back_kernel, 10 * "F" + "nnxx"),
        ):
            back = {"EACH": module.BACK_ROWS, "COLUMNS": module.BACK_COLUMNS}
            if module is dense_jumprelu:
                back |= {"LOW": low}
            yield kernel, 2 * kind + types, module.BACK_WARPS, back
    sizes = {"EXPONENT": dense_rows.EXPONENT, "CHUNK": dense_rows.CHUNK}
    yield dense_rows.scale_kernel, "FFn", 4, sizes
    tile = {"TILE": dense_rows.TILE}
    yield dense_rows.scaled_kernel, "FHFFFFFn", dense_rows.WARPS, tile
    yield dense_rows.error_kernel, "FFFFFFnn", dense_rows.WARPS, tile
    yield dense_weights.finish_kernel, "FFFFnnn", dense_weights.WARPS, {"TILE": dense_weights.TILE}


def launched() -> set[str]:
    """Names of the kernels that the package's modules start, by `launch` or `kernel[grid](...)`."""
    found: set[str] = set()
    for listed in (*_modules(gpu), *_modules(gpu_dense)):
        tree = ast.parse(inspect.getsource(importlib.import_module(listed.name)))
        if listed.name != launch.__module__:
            found |= {name for node in ast.walk(tree) if (name := _kernel_of(node))}
    return found


def _modules(package: ModuleType) -> Iterator[pkgutil.ModuleInfo]:
    return pkgutil.iter_modules(package.__path__, f"{package.__name__}.")


def _kernel_of(node: ast.AST) -> str:
    """The kernel that a call starts; empty for anything else."""
    match node:
        case ast.Call(func=ast.Name(id="launch"), args=[kernel, *_]):
            return ast.unparse(kernel)
        case ast.Call(func=ast.Subscript(value=kernel)):
            return ast.unparse(kernel)
        case _:
            return ""


def resources(case: Case) -> dict[str, int]:
    """What the compiled kernel takes, by the cuobjdump that comes with Triton."""
    kernel, types, warps, constants = case
    names: list[str] = kernel.arg_names
    kinds = dict(zip([n for n in names if n not in constants], types, strict=True))
    signature = {n: "constexpr" if n in constants else TYPES[kinds[n]] for n in names}
    place = {name: index for index, name in enumerate(names)}
    # The launcher finds out that addresses are multiples of 16.
    aligned = [n for n in names if signature[n].startswith("*")]
    attributes = {(place[n],): [["tt.divisibility", 16]] for n in aligned}
    fixed = {(place[name],): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, fixed, attributes)
    built = triton.compile(source, target=TARGET, options={"num_warps": warps})
    return _read(built.asm["cubin"]) | {"shared": built.metadata.shared}


def _read(cubin: bytes) -> dict[str, int]:
    tool = next(Path(triton.__file__).parent.glob("backends/nvidia/bin/cuobjdump"))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run(
            [tool, "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    assert found, text
    return dict(zip(("registers", "stack", "local"), map(int, found.groups()), strict=True))


def main() -> None:
    """Print the report."""
    with multiprocessing.get_context("fork").Pool() as processes:
        used = dict(processes.imap_unordered(report, range(len(every_case()))))
    sys.stdout.write(json.dumps(Compiled(used=used, launched=sorted(launched())), indent=1))


@cache
def every_case() -> list[tuple[str, Case]]:
    """All of them by name, in one order; what is launched alike for several sizes comes once."""
    first = (*update_cases(), *choice_cases(), *batch_cases())
    cases = (*first, *entry_cases(), *total_cases(), *dense_cases())
    return list({_name(case): case for case in cases}.items())


def _name(case: Case) -> str:
    kernel, types, warps, sizes = case
    return f"{kernel.__name__} {types} {dict(sorted(sizes.items()))} warps {warps}"


def report(number: int) -> tuple[str, dict[str, int]]:
    """Name and resources of a case; kernels cannot be sent to another process, numbers can."""
    name, case = every_case()[number]
    return name, resources(case)


if __name__ == "__main__":
    main()
