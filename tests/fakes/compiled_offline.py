"""Compiles the kernels in Triton for an H100 on any machine, and prints what resources they take.

`python -m tests.fakes.compiled_offline` prints a JSON object: kernel and sizes -> registers, bytes
of stack, local and shared memory. With `--names` a list: the kernels that the modules launch.
TRITON_INTERPRET must not be set.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from saeserve.core.kernels import gpu
from saeserve.core.kernels.gpu import update

TYPES = {"F": "*fp32", "H": "*fp16", "I": "*i32", "L": "*i64", "n": "i32", "x": "fp32"}
"""Of pointers by capital letters, of numbers by small ones."""
TARGET = GPUTarget("cuda", 90, 32)
Case = tuple[Any, str, int, dict[str, int | bool]]
"""Kernel, types of the other arguments in their order, warps, constants."""


def cases() -> Iterator[Case]:
    """Every kernel, with the sizes of rows in use."""
    for width in (768, 4096):
        block, warps = update.block_of(width).values()
        for unit in (False, True):
            yield update.measure_kernel, "FFFFnn", warps, {"UNIT": unit, "BLOCK": block}
        for unit, shadow in ((True, False), (False, True), (False, False)):
            sizes = {"UNIT": unit, "SHADOW": shadow, "BLOCK": block}
            yield update.move_kernel, "FFFFFFHFFnnxxxxxxx", warps, sizes
    yield update.clip_kernel, "FFnx", 4, {"BLOCK": 1024}


def launched() -> set[str]:
    """Names of the kernels that the package's modules start by `kernel[grid](...)`."""
    found: set[str] = set()
    for listed in pkgutil.iter_modules(gpu.__path__, f"{gpu.__name__}."):
        tree = ast.parse(inspect.getsource(importlib.import_module(listed.name)))
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Subscript):
                found.add(ast.unparse(node.func.value))
    return found


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
    """Print the report, or the names."""
    if "--names" in sys.argv:
        sys.stdout.write(json.dumps(sorted(launched())))
        return
    found = {f"{case[0].__name__} {case[3]} warps {case[2]}": resources(case) for case in cases()}
    sys.stdout.write(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
