"""Keeps the paths of this machine out of answers to clients."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Self


class PathCover:
    """Replaces folders in texts by what clients know them as: keys of the store, and roots."""

    def __init__(self, names: Mapping[Path, str]) -> None:
        """`names` are what stands in the place of a folder and the slash after it."""
        spelled = {
            str(spelling): name
            for folder, name in names.items()
            for spelling in (folder.absolute(), folder.resolve())
        }
        self._names = {folder: name for folder, name in spelled.items() if folder != "/"}
        # The longest first: a root may lie in another, or in the store.
        folders = "|".join(map(re.escape, sorted(self._names, key=len, reverse=True)))
        self._pattern = (
            re.compile(rf"(?<![\w./-])({folders})(?:/|(?![\w-]|\.\w))") if folders else None
        )

    @classmethod
    def of(cls, store: Path, roots: Mapping[str, Path]) -> Self:
        """Cover a service's store, whose files become keys, and its roots, which become `name:`."""
        return cls({store: "store/", **{root: f"{name}:" for name, root in roots.items()}})

    def covered(self, text: str) -> str:
        """`text` without the folders."""
        if self._pattern is None:
            return text
        return self._pattern.sub(lambda found: self._names[found[1]], text)
