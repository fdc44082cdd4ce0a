"""A new architecture is five pieces, and everything works with it: tried in a copy of the tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.toy.pieces import GENERATED, PIECES, add

ROOT = Path(__file__).parents[2]
COPIED = ("services/saeserve", "tests", "protos", "pyproject.toml")
LEFT_OUT = {"stores", "containers", "interop", "slow", "integration"}
KERNELS = {".nbi", ".nbc"}
CURVE = "tests/golden/toy.txt"
# The suites over all architectures: gradients, resume, sweep, resampling, continuing, specs.
SUITES = (
    "tests/contract/test_architectures.py",
    "tests/unit/core/training/test_resampling.py",
    "tests/unit/core/training/test_sweep.py",
    "tests/unit/core/training/test_continuing.py",
    "tests/unit/core/specs/test_fitted.py",
    "tests/unit/core/specs/test_field_sources.py",
)
# These have no architecture in their names.
WHOLE = ("tests/toy/walk.py", "tests/repo/test_specs_match_protos.py")


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree with the toy; of what is not tracked only compiled kernels."""
    root = tmp_path_factory.mktemp("copy")
    for path in _files(ROOT):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / path, root / path)
    add(root)
    return root


def test_the_suites_over_all_architectures_pass_with_the_toy(copy: Path) -> None:
    _run(copy, "-m", "tests.golden.rewrite", "toy")
    pytest_of = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
    _run(copy, *pytest_of, "-k", "toy", *SUITES)
    _run(copy, *pytest_of, *WHOLE)


def test_five_pieces_are_all_that_was_written(copy: Path) -> None:
    changed = {
        str(path)
        for path in _files(copy)
        if path.suffix not in KERNELS
        and not ((ROOT / path).is_file() and _same(ROOT / path, copy / path))
    }
    assert changed | {CURVE} == PIECES | GENERATED


def _files(root: Path) -> list[Path]:
    found = [
        path
        for top in COPIED
        for path in ([root / top] if (root / top).is_file() else (root / top).rglob("*"))
        if _kept(path) and path.is_file()
    ]
    relative = [path.relative_to(root) for path in found]
    return [path for path in relative if not LEFT_OUT & set(path.parts[:2])]


def _kept(path: Path) -> bool:
    """Whether it is a file of the tree or a compiled kernel. Modules are compiled at any time by
    tests that run beside this one, through files of other names that come and go."""
    return path.parent.name != "__pycache__" or path.suffix in KERNELS


def _same(left: Path, right: Path) -> bool:
    return left.read_bytes() == right.read_bytes()


def _run(root: Path, *arguments: str) -> None:
    environment = {**os.environ, "PYTHONPATH": f"{root / 'services'}:{root}"}
    done = subprocess.run(
        [sys.executable, *arguments], cwd=root, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
