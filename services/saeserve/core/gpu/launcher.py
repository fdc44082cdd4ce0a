"""The C module through which Triton starts kernels, built ahead for machines without a compiler.

Triton compiles kernels by itself, but what hands them to the driver is a C module that it builds
where it runs first. `python -m saeserve.core.gpu.launcher` builds that into this environment, with
a C compiler and Python's headers (Debian: gcc, libc6-dev, python3-dev), without a GPU or a driver.
Images are built with it; where no compiler is found, it is taken.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from importlib.util import find_spec
from pathlib import Path

NAME = "cuda_utils"
"""Triton's name of the module."""
DRIVER = "libcuda.so.1"
COMPILERS = ("gcc", "clang")


def compiler() -> str | None:
    """A C compiler that Triton would use."""
    return next((name for name in COMPILERS if shutil.which(name)), None)


def built() -> Path:
    """Where the module for this environment's Python and Triton is, if it has been built."""
    source = hashlib.sha256((_backend() / "driver.c").read_bytes()).hexdigest()[:16]
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    return Path(sys.prefix) / "lib" / "saeserve" / f"{NAME}-{source}{suffix}"


def take() -> bool:
    """Let Triton have the module that was built ahead; False where there is none."""
    path = built()
    if not path.is_file():
        return False
    import triton

    def copied(_name: str, _source: str, folder: str, *_more: object) -> str:
        # Triton asks for the path of a file in its own folder, and keeps what is in it.
        return shutil.copy(path, folder)

    triton.knobs.build.impl = copied
    return True


def build() -> Path:
    """Build the module. Raises FileNotFoundError without a compiler, CalledProcessError where it
    fails."""
    cc = compiler()
    if cc is None:
        raise FileNotFoundError(f"no C compiler: none of {', '.join(COMPILERS)} is on PATH")
    path, backend = built(), _backend()
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        # The driver is the host's: an empty library of its name is enough to refer to it.
        driver = Path(folder) / DRIVER
        _run(cc, "-shared", "-x", "c", "/dev/null", f"-Wl,-soname,{DRIVER}", "-o", str(driver))
        headers = (backend / "include", Path(sysconfig.get_path("include")))
        _run(
            *(cc, str(backend / "driver.c"), "-O3", "-shared", "-fPIC", "-o", str(path)),
            *(f"-I{each}" for each in headers),
            *("-Wl,--no-as-needed", str(driver)),
        )
    return path


def _backend() -> Path:
    """Triton's folder for NVIDIA's GPUs; found without importing it, which takes a second."""
    found = find_spec("triton")
    if found is None or found.origin is None:
        raise FileNotFoundError("Triton is not installed")
    return Path(found.origin).parent / "backends" / "nvidia"


def _run(*command: str) -> None:
    subprocess.run(command, check=True)


if __name__ == "__main__":
    sys.stdout.write(f"{build()}\n")
