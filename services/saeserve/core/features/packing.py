"""Examples, logits and neighbours of one feature as bytes, and back."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from saeserve.errors import DamagedError

EXAMPLE = np.dtype(
    [
        ("position", "<i8"),
        ("value", "<f4"),
        ("group", "u1"),
        ("left", "u1"),
        ("right", "u1"),
        ("used", "u1"),
    ]
)
TOP, UNIFORM, INTERVAL = 0, 1, 2
"""Values of `group`. The interval of an example is the octave of its magnitude."""


class Examples(NamedTuple):
    """N examples, and the entries of all their windows one after the other."""

    records: npt.NDArray[np.void]
    """EXAMPLE [N]."""
    offsets: npt.NDArray[np.int8]
    activations: npt.NDArray[np.float32]


class Ranked(NamedTuple):
    """Ids (of tokens or latents) and an amount for each, most important first."""

    ids: npt.NDArray[np.int64]
    amounts: npt.NDArray[np.float32]


def pack_examples(examples: Examples) -> bytes:
    """u32 number of examples; EXAMPLE records; i8 offsets; f32 activations of all windows."""
    return b"".join(
        (
            np.asarray(len(examples.records), "<u4").tobytes(),
            examples.records.astype(EXAMPLE, copy=False).tobytes(),
            examples.offsets.astype("i1", copy=False).tobytes(),
            examples.activations.astype("<f4", copy=False).tobytes(),
        )
    )


def unpack_examples(data: bytes) -> Examples:
    """Reverse `pack_examples`. Raises DamagedError for another length."""
    count = int(np.frombuffer(data[:4], "<u4")[0]) if len(data) >= 4 else -1
    at = 4 + count * EXAMPLE.itemsize
    if count < 0 or at > len(data):
        raise _damaged("examples")
    records = np.frombuffer(data[4:at], EXAMPLE)
    used = int(records["used"].sum())
    if len(data) != at + 5 * used:
        raise _damaged("examples")
    offsets = np.frombuffer(data[at : at + used], "i1")
    return Examples(records, offsets, np.frombuffer(data[at + used :], "<f4"))


def of_group(examples: Examples, group: int, most: int) -> Examples:
    """The first `most` examples of a group, in their order."""
    picked = np.flatnonzero(examples.records["group"] == group)[:most]
    chosen = np.zeros(len(examples.records), bool)
    chosen[picked] = True
    entries = np.repeat(chosen, examples.records["used"])
    return Examples(
        examples.records[picked], examples.offsets[entries], examples.activations[entries]
    )


def pack_ranked(ids: npt.NDArray[np.integer], amounts: npt.NDArray[np.floating]) -> bytes:
    """i32 ids, then f32 amounts of the same shape."""
    return ids.astype("<i4").tobytes() + amounts.astype("<f4").tobytes()


def unpack_ranked(data: bytes, lists: int = 1) -> list[Ranked]:
    """Reverse `pack_ranked` of arrays [lists, n]. Raises DamagedError for another length."""
    if len(data) % (8 * lists):
        raise _damaged("ranked ids")
    half = len(data) // 2
    ids = np.frombuffer(data[:half], "<i4").astype(np.int64).reshape(lists, -1)
    amounts = np.frombuffer(data[half:], "<f4").reshape(lists, -1)
    return [Ranked(*pair) for pair in zip(ids, amounts, strict=True)]


def _damaged(what: str) -> DamagedError:
    return DamagedError(
        f"the {what} of a feature have another length than they state",
        remedy="collect the features of the model again",
    )
