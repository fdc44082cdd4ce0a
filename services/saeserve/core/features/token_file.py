"""The tokens of a bundle, read as they are asked for."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

from saeserve.errors import DamagedError

_ITEM = np.dtype("<i4")


class TokenFile:
    """`tokens.npy`, open; threads may share it.

    It is not mapped into memory: a file on a network's disk that is deleted elsewhere would then
    end the process, where reading gives an error.
    """

    def __init__(self, path: Path) -> None:
        """Raises OSError and ValueError for a file that is not there or not int32 [tokens]."""
        self._handle = os.open(path, os.O_RDONLY)
        try:
            self._begin, self.size = self._header()
        except BaseException:
            self.close()
            raise

    def part(self, start: int, stop: int) -> npt.NDArray[np.int32]:
        """Tokens start .. stop. Raises DamagedError where the file does not have them."""
        if not 0 <= start <= stop <= self.size:
            raise _unreadable(f"there are no tokens {start} .. {stop} among {self.size}")
        wanted = (stop - start) * _ITEM.itemsize
        try:
            data = os.pread(self._handle, wanted, self._begin + start * _ITEM.itemsize)
            return np.frombuffer(data, _ITEM, stop - start)
        except (OSError, ValueError) as error:
            raise _unreadable(str(error)) from error

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._handle)

    def _header(self) -> tuple[int, int]:
        """Where the tokens begin in the file, and how many there are."""
        with open(self._handle, "rb", closefd=False) as file:
            version = np.lib.format.read_magic(file)
            if version != (1, 0):
                raise ValueError(f"npy files of version {version} hold no tokens")
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            begin = file.tell()
        if dtype != _ITEM or len(shape) != 1:
            raise ValueError(f"it holds {dtype} {list(shape)}")
        stated = begin + shape[0] * _ITEM.itemsize
        if os.fstat(self._handle).st_size != stated:
            raise ValueError(f"it has {os.fstat(self._handle).st_size} bytes, not {stated}")
        return begin, int(shape[0])


def _unreadable(why: str) -> DamagedError:
    return DamagedError(
        f"the tokens of the feature bundle cannot be read: {why}",
        remedy="collect the features of the model again",
    )
