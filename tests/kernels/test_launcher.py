"""What Triton starts kernels with is built ahead of its use, and loads without a compiler."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="Triton is not installed")

from saeserve.core.gpu import launcher

LOADED = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("cuda_utils", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
assert {"launch", "load_binary", "get_device_properties"} <= set(dir(module)), dir(module)
"""
TAKEN = """
import shutil, sys
from pathlib import Path
from saeserve.core.gpu import device, launcher
launcher.built = lambda: Path(sys.argv[1])
assert launcher.compiler() is None
assert launcher.take()
from triton.runtime.build import compile_module_from_src
module = compile_module_from_src("int nothing;", "cuda_utils")
assert hasattr(module, "launch")
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Generator[Path]:
    if launcher.compiler() is None:
        pytest.skip("there is no C compiler on this machine, which building the module takes")
    folder = tmp_path_factory.mktemp("launcher")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "prefix", str(folder))
        yield launcher.build()


@pytest.fixture(scope="module")
def environment(module: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """One with a driver's library in which every function is missing its body, and no compiler."""
    folder = tmp_path_factory.mktemp("driver")
    listed = subprocess.run(
        ["nm", "--dynamic", "--undefined-only", str(module)],
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.split()[-1] for line in listed.stdout.splitlines()]
    source = "".join(f"int {name}(void) {{ return 999; }}\n" for name in names if name[:2] == "cu")
    assert source
    (folder / "driver.c").write_text(source)
    command = [str(launcher.compiler()), "-shared", "-fPIC", str(folder / "driver.c")]
    subprocess.run([*command, "-o", str(folder / launcher.DRIVER)], check=True)
    cache = tmp_path_factory.mktemp("cache")
    return os.environ | {
        "LD_LIBRARY_PATH": str(folder),
        "PATH": "",
        "TRITON_CACHE_DIR": str(cache),
    }


def runs(program: str, module: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        [sys.executable, "-c", program, str(module)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_module_refers_to_the_hosts_driver(module: Path) -> None:
    listed = subprocess.run(
        ["readelf", "--dynamic", str(module)], capture_output=True, text=True, check=True
    )
    assert f"[{launcher.DRIVER}]" in listed.stdout


def test_the_module_loads(module: Path, environment: dict[str, str]) -> None:
    runs(LOADED, module, environment)


def test_triton_takes_it_where_no_compiler_is_found(
    module: Path, environment: dict[str, str]
) -> None:
    runs(TAKEN, module, environment)


def test_where_it_was_not_built_triton_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))
    assert not launcher.take()
