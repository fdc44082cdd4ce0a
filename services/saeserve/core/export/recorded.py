"""Encoding as recordings: one for each bucket of rows and each room for features.

The first WARM - 1 batches of a bucket are encoded as they are. The next one is done on the memory
that a recording reads, padded with rows of zeros to the bucket; then the bucket is recorded, and
the recording has to come to the same bits on the same rows. From then on the host copies the rows
and starts the recording. Where one cannot be made, or comes to something else, everything is
encoded as before.

All of it is queued on the one stream that computes. What a recording wrote is copied there before
the next one is queued, so batches in flight share none of its memory.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from typing_extensions import override

from saeserve.core.export.device_model import DeviceEncoder, Layout, PackedFeatures
from saeserve.core.graphs import Graphs, Replays
from saeserve.core.ops.sparse import SparseRows

_log = logging.getLogger(__name__)
WARM = 3
"""Batches of a bucket until it is recorded."""
LARGEST = 1024
"""Rows of the largest bucket; buckets are powers of two. The work of more rows takes the device
longer than starting it takes the host."""
MOST = 16
"""Recordings that are kept, and so many times as many kinds of batches are counted."""

_Kind = tuple[int, float]


@dataclass
class RecordedEncoder(DeviceEncoder):
    """Encodes by recordings of another encoder."""

    encoder: DeviceEncoder
    graphs: Graphs | None
    """None once recordings were given up."""
    replays: int = 0
    """Batches that were started as recordings."""
    _seen: OrderedDict[_Kind, int] = field(default_factory=OrderedDict[_Kind, int])
    _recordings: OrderedDict[_Kind, Replays[PackedFeatures]] = field(
        default_factory=OrderedDict[_Kind, Replays[PackedFeatures]]
    )

    @property
    @override
    def size_bytes(self) -> int:
        """Memory of the encoder and of its recordings."""
        return self.encoder.size_bytes + (self.graphs.size_bytes if self.graphs else 0)

    @property
    @override
    def room(self) -> float:
        """Entries a row for which there is memory."""
        return self.encoder.room

    @override
    def note(self, needed: float) -> None:
        """Leave it to the encoder."""
        self.encoder.note(needed)

    @override
    def padded(self, x_BD: Tensor) -> SparseRows | None:
        """Leave it to the encoder."""
        return self.encoder.padded(x_BD)

    @override
    def encode(self, x_BD: Tensor) -> PackedFeatures:
        """Features of raw rows, followed by those of rows that pad the bucket."""
        if self.graphs is None or len(x_BD) > LARGEST:
            return self.encoder.encode(x_BD)
        kind = (1 << (len(x_BD) - 1).bit_length(), self.encoder.room)
        if not self._often(kind):
            return self.encoder.encode(x_BD)
        rows_BD = self._rows(self.graphs, kind[0], x_BD)
        if (recording := self._recordings.get(kind)) is None:
            return self._recorded(self.graphs, kind, rows_BD)
        self._recordings.move_to_end(kind)
        self.replays += 1
        made = recording.replay()
        return PackedFeatures(made.buffer.clone(), made.layouts)

    def _often(self, kind: _Kind) -> bool:
        """Count a batch of this kind; whether there were enough."""
        count = self._seen[kind] = self._seen.pop(kind, 0) + 1
        if len(self._seen) > MOST * MOST:
            self._seen.popitem(last=False)
        return count >= WARM

    def _rows(self, graphs: Graphs, bucket: int, x_BD: Tensor) -> Tensor:
        """The rows where recordings read them; zeros in place of what was there before."""
        rows_BD = graphs.memory("rows", torch.Size((bucket, x_BD.shape[1])), x_BD.dtype)
        rows_BD[: len(x_BD)].copy_(x_BD)
        rows_BD[len(x_BD) :].zero_()
        return rows_BD

    def _recorded(self, graphs: Graphs, kind: _Kind, rows_BD: Tensor) -> PackedFeatures:
        """Encode, record it, and see that the recording does the same."""
        encoder = self.encoder
        made = encoder.encode(rows_BD)
        try:
            recording = graphs.capture(lambda: encoder.encode(rows_BD))
            found = recording.replay()
            if encoder.room != kind[1] or found.layouts != made.layouts:
                # An answer that was read meanwhile has changed the room: another time.
                return made
            _require_same(made, found)
        except Exception as error:
            self._give_up(error)
            return made
        self._recordings[kind] = recording
        if len(self._recordings) > MOST:
            self._recordings.popitem(last=False)
        return made

    def _give_up(self, error: Exception) -> None:
        """Encode all that comes one operation after the other."""
        self.graphs = None
        self._recordings.clear()
        self._seen.clear()
        why = f"{type(error).__name__}: {error}"
        message = "GRAPHS_OFF: encoding is not recorded as graphs, so the host may be slower: %s"
        _log.warning(message, why, exc_info=error)


def _require_same(made: PackedFeatures, found: PackedFeatures) -> None:
    """Wait for both; raises RuntimeError where what they mean is not the same bits."""
    pairs = zip(_meant(made), _meant(found), strict=True)
    if not all(torch.equal(one, two) for one, two in pairs):
        raise RuntimeError("a recorded encoding comes to something else")


def _meant(features: PackedFeatures) -> Iterator[Tensor]:
    """The parts of the buffer that mean something: memory after the last entry does not."""
    buffer, start = features.buffer.cpu(), 0
    for layout in features.layouts:
        part = buffer[start : start + layout.size]
        latents, values = layout.size - 2 * layout.room, layout.size - layout.room
        entries = _entries(layout, part)
        yield part[:latents]
        yield part[latents : latents + entries]
        yield part[values : values + entries]
        start += layout.size


def _entries(layout: Layout, part: Tensor) -> int:
    counted = layout.room if layout.k is not None else int(part[1 : 1 + layout.rows].sum())
    return min(counted, layout.room)
