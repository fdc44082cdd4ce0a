"""What each install holds: control, client and CLI run without torch, images with their extra.

The worker's extra is no case: transformers believes the metadata of what is made unimportable.
Every module is imported in a process in which all that its extra does not bring is unimportable.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
SERVICES = ROOT / "services"
TORCH = {"torch", "safetensors", "transformers"}
SCRIPT = """
import importlib, importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in absent:
            raise ModuleNotFoundError(f"{name} is not installed", name=name)

absent, modules = (set(text.split(",")) for text in sys.argv[1:3])
sys.meta_path.insert(0, Absent())
for module in sorted(modules):
    try:
        importlib.import_module(module)
    except ImportError as error:
        sys.exit(f"{module}: {error}")
"""
# Importing these runs them.
PROGRAMS = {"saeserve.platform.process"}
INSTALLS = {
    "": ["client"],
    "cli": ["client", "cli", "platform"],
    "control": [
        "control",
        "jobs",
        "registry",
        "platform",
        "core.specs",
        "core.formats",
        "core.planning",
    ],
    "inference": ["inference"],
    "explorer": ["client", "explorer", "platform"],
}


def distributions(requirement: Requirement) -> Iterator[str]:
    """The distribution itself and all that it needs here."""
    seen: set[tuple[str, str]] = set()
    waiting = [requirement]
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        for extra in ("", *wanted.extras):
            if (name, extra) not in seen:
                seen.add((name, extra))
                waiting += needs(name, extra)
        yield name


@cache
def needs(name: str, extra: str) -> list[Requirement]:
    if name == "saeserve":
        return own_needs(extra)
    try:
        found = [Requirement(text) for text in requires(name) or ()]
    except PackageNotFoundError:
        # For other platforms, or an alternative that is not installed here.
        return []
    return [each for each in found if each.marker is None or each.marker.evaluate({"extra": extra})]


def own_needs(extra: str) -> list[Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    texts = project["optional-dependencies"][extra] if extra else project["dependencies"]
    return [Requirement(text) for text in texts]


@cache
def installed() -> dict[str, list[str]]:
    """Distributions of every importable name."""
    return {name: list(of) for name, of in packages_distributions().items() if name.isidentifier()}


@cache
def absent(extra: str) -> set[str]:
    """Importable names that an install of `saeserve[extra]` does not bring."""
    held = set(distributions(Requirement(f"saeserve[{extra}]")))
    return {
        module
        for module, names in installed().items()
        if held.isdisjoint(canonicalize_name(name) for name in names)
    }


def modules(room: str) -> Iterator[str]:
    for path in (SERVICES / "saeserve" / room.replace(".", "/")).rglob("*.py"):
        name = ".".join(path.relative_to(SERVICES).with_suffix("").parts)
        if name not in PROGRAMS:
            yield name.removesuffix(".__init__")


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60
    )


@pytest.mark.parametrize("extra", INSTALLS, ids=lambda extra: extra or "default")
def test_modules_import_with_what_their_install_brings(extra: str) -> None:
    wanted = {name for room in INSTALLS[extra] for name in modules(room)}
    done = python("-c", SCRIPT, ",".join(absent(extra)), ",".join(wanted))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("extra", ["", "cli", "control", "explorer"])
def test_installs_without_torch_bring_none(extra: str) -> None:
    assert absent(extra) >= TORCH


def test_the_import_hook_tells_what_is_absent() -> None:
    done = python("-c", SCRIPT, ",".join(absent("control")), "saeserve.core.export.format")
    assert done.returncode != 0
    assert "is not installed" in done.stderr


def test_the_command_line_runs_without_torch() -> None:
    script = (
        SCRIPT + "sys.argv = ['saeserve', '--help']; module = sys.modules[module]; module.main()"
    )
    done = python("-c", script, ",".join(absent("cli")), "saeserve.cli.__main__")
    assert done.returncode == 0, done.stderr
    assert "submit" in done.stdout
