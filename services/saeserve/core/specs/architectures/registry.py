"""Every architecture's spec by its name.

A module next to this one whose class has a `name` of its own adds an architecture: no list has to
be kept.
"""

from __future__ import annotations

import importlib
import pkgutil

from saeserve.core.specs import architectures
from saeserve.core.specs.architectures.base import ArchitectureSpec


def _named(spec: type[ArchitectureSpec]) -> dict[str, type[ArchitectureSpec]]:
    """`spec` and its subclasses that have a name of their own."""
    found = {spec.name: spec} if "name" in vars(spec) else {}
    for each in spec.__subclasses__():
        if each.__module__.startswith(architectures.__name__):
            found |= _named(each)
    return found


for _module in pkgutil.iter_modules(architectures.__path__, f"{architectures.__name__}."):
    importlib.import_module(_module.name)

ARCHITECTURE_SPECS: dict[str, type[ArchitectureSpec]] = dict(
    sorted(_named(ArchitectureSpec).items())
)
"""By the name that the API's oneof, TrainSpec's field and the registry of losses have."""
