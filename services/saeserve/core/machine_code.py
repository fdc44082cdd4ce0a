"""The files in which numba keeps machine code, so that several processes may save at once.

numba's own (`numba.core.caching.IndexDataCacheFile`, 0.65) reads the index, takes the first free
number for a new signature, writes the index, and then the file of that number. Two processes that
save other signatures of a function at once take the same number, and one's entry then points at
the other's code. So does an entry whose process was killed before it wrote the file, where one of
an earlier state of the sources has the number. Here a file is named for what it holds.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
from collections.abc import Generator
from pathlib import Path
from typing import Any, Self

from numba.core.caching import IndexDataCacheFile


class KeptCode(IndexDataCacheFile):
    """An index of signatures, and a file for the machine code of each."""

    @classmethod
    def in_place_of(cls, file: IndexDataCacheFile, sources: str) -> Self:
        """The same index; its code is of these sources besides those that numba knows of."""
        base = file._index_name.removesuffix(".nbi")
        return cls(file._cache_path, base, (*file._source_stamp, sources))

    def save(self, key: Any, data: Any) -> None:  # noqa: ANN401 - numba's
        """Keep a signature's code: first its file, then its entry in the index."""
        with self._alone():
            kept = self._load_index() | {key: self._name(key)}
            self._save_data(kept[key], data)
            self._save_index(kept)
            self._remove_all_but(set(kept.values()))

    def _name(self, key: Any) -> str:  # noqa: ANN401 - numba's
        digest = hashlib.sha256(repr((self._source_stamp, key)).encode()).hexdigest()
        return self._data_name(int(digest[:15], 16))

    @contextlib.contextmanager
    def _alone(self) -> Generator[None]:
        """Hold the folder, so that no entry of another process is lost.

        Where the file system has no locks, a lost entry costs one more compilation.
        """
        handle = os.open(self._cache_path, os.O_RDONLY)
        try:
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            os.close(handle)

    def _remove_all_but(self, names: set[str]) -> None:
        """Remove the code of earlier sources; a process that still looks for it compiles."""
        start = self._index_name.removesuffix("nbi")
        for path in Path(self._cache_path).iterdir():
            if path.name.startswith(start) and path.suffix == ".nbc" and path.name not in names:
                path.unlink(missing_ok=True)
