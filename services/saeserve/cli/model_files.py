"""What goes to the server with a local model's files, so that it can tell what they are of."""

from __future__ import annotations

import json
import re
from itertools import takewhile
from pathlib import Path
from typing import cast

_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_FOLDERS = 4
_SEED = re.compile(r"seed\d+")
_RUN_CONFIG = "config.json"


def sent_folders(local: Path) -> tuple[str, ...]:
    """The last names of a local path: releases write layer and place into the names of their
    folders. The Hub's cache has two folders of its own between them."""
    if not local.exists():
        return ()
    place, home = local.absolute(), Path.home()
    parts = list((place.relative_to(home) if place.is_relative_to(home) else place).parts)
    if "snapshots" in parts:
        at = parts.index("snapshots")
        del parts[at : at + 2]
    kept = takewhile(_PLAIN.fullmatch, reversed(parts[-_FOLDERS:]))
    sent = tuple(reversed(list(kept)))
    return sent if sent or local.is_dir() else (local.name,)


def sent_beside(local: Path, name: str) -> dict[str, Path]:
    """The config of sparsify's run, which lies above the folders of its hooks and says whether
    they are transcoders, by its name in an upload where `local` is called `name`."""
    if not local.is_dir():
        return {}
    levels = 2 if _SEED.fullmatch(local.absolute().name) else 1
    above = name.split("/")[:-levels]
    path = local.absolute().parents[levels - 1] / _RUN_CONFIG
    return {"/".join((*above, _RUN_CONFIG)): path} if above and _is_run_config(path) else {}


def _is_run_config(path: Path) -> bool:
    """Another file of that name stays here."""
    try:
        value: object = json.loads(path.read_text())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(value, dict) and isinstance(cast("dict[str, object]", value).get("sae"), dict)
