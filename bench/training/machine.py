"""What the figures hold for: the kind of machine and the software, never a name."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
from pathlib import Path
from typing import Any

from bench.results import environment

PACKAGES = ("sae-lens", "dictionary-learning", "eai-sparsify", "torch", "numba", "numpy")
FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile")
AMX = "amx_bf16"


def machine() -> dict[str, Any]:
    """CPU model, features, cores and memory; versions of what takes part."""
    info = Path("/proc/cpuinfo").read_text()
    flags = set(first(info, "flags").split())
    return {
        **environment(),
        "cpu": first(info, "model name"),
        "features": [name for name in FEATURES if name in flags],
        "cores": os.cpu_count(),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "packages": _versions(),
    }


def first(info: str, key: str) -> str:
    """The first value of a key in /proc/cpuinfo, or ""."""
    for line in info.splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""


def _versions() -> dict[str, str]:
    """Versions of what is installed; the peers are not where services run."""
    found: dict[str, str] = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
