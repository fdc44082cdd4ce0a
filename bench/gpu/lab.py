"""What all measurements share: shapes, the clock, the record, rows."""

from __future__ import annotations

import gc
import json
import math
import os
import statistics
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Record = dict[str, Any]
ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Shape:
    """Widths of an SAE, latents a row, and rows a step."""

    d: int
    m: int
    k: int
    batch: int


SHAPES = {
    "S1": Shape(768, 24_576, 32, 8192),
    "S2": Shape(4096, 65_536, 64, 8192),
    "S3": Shape(2304, 16_384, 64, 8192),
    "S2 wide": Shape(4096, 65_536, 64, 32_768),
}
"""A small model's residual stream with a wide dictionary; that of a model of 8 B parameters, by
8,192 and by 32,768 rows a step; Gemma 2 2B's with 16,384 latents."""
TINY = dict.fromkeys(SHAPES, Shape(96, 256, 4, 32))
"""The same code in seconds on a CPU; its times mean nothing."""


@dataclass
class Lab:
    """One run. Measurements go through `attempt`, which writes the record after each."""

    device: torch.device
    tiny: bool
    out: Path
    ends: float
    """time.monotonic() at which everything has to be over."""
    data: Record = field(default_factory=dict[str, Any])
    part_ends: float = math.inf

    @property
    def cuda(self) -> bool:
        """Whether this runs on a CUDA device."""
        return self.device.type == "cuda"

    @property
    def shapes(self) -> dict[str, Shape]:
        """Shapes by name."""
        return TINY if self.tiny else SHAPES

    def left(self) -> float:
        """Seconds left in this part."""
        return min(self.part_ends, self.ends) - time.monotonic()

    def sync(self) -> None:
        """Wait for the device."""
        if self.cuda:
            torch.cuda.synchronize()

    def free(self) -> None:
        """Give cached device memory back."""
        gc.collect()
        if self.cuda:
            torch.cuda.empty_cache()

    def peak_bytes(self) -> int | None:
        """The most that was allocated since `reset_peak`; None on a CPU."""
        return torch.cuda.max_memory_allocated() if self.cuda else None

    def reset_peak(self) -> None:
        """Begin a new measurement of peak memory."""
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def save(self) -> None:
        """Write the record; a reader sees the old or the new one, never half."""
        self.out.parent.mkdir(parents=True, exist_ok=True)
        part = self.out.with_suffix(".part")
        part.write_text(json.dumps(self.data, indent=1) + "\n")
        os.replace(part, self.out)

    def attempt(
        self, into: Record, name: str, what: Callable[[], Record], needs_s: float = 1.0
    ) -> None:
        """Put the result of `what`, or its failure, or that time was short, under `name`."""
        if self.left() < needs_s:
            into[name] = {"skipped": f"{self.left():.1f} s left, {needs_s:.1f} needed"}
            return
        began = time.monotonic()
        try:
            into[name] = what()
        except Exception as error:
            into[name] = failure(error)
            print(f"!! {name}: {into[name]['error'][:300]}", flush=True)
        into[name]["took_s"] = round(time.monotonic() - began, 2)
        self.save()

    def part(self, name: str, seconds: float, what: Callable[[], None]) -> None:
        """Run a part of at most `seconds`; its failure is recorded and the next part goes on."""
        began = time.monotonic()
        self.part_ends = began + seconds * (30 if self.tiny else 1)
        print(f"== {name} ({self.ends - began:.0f} s left)", flush=True)
        try:
            what()
        except Exception as error:
            self.data[f"failed {name}"] = failure(error)
            print(f"!! {name}: {error}"[:500], flush=True)
        self.data.setdefault("seconds", {})[name] = round(time.monotonic() - began, 1)
        self.free()
        self.save()

    def times_ms(self, what: Callable[[int], object], reps: int, first: int = 0) -> list[float]:
        """Milliseconds of what(first), what(first + 1), …: CUDA events, or the host's clock."""
        if not self.cuda:
            return [_host_ms(what, first + n) for n in range(reps)]
        marks = [torch.cuda.Event(enable_timing=True) for _ in range(reps + 1)]
        marks[0].record()
        for n in range(reps):
            what(first + n)
            marks[n + 1].record()
        self.sync()
        return [a.elapsed_time(b) for a, b in pairwise(marks)]

    def ms(self, what: Callable[[int], object], budget_s: float = 0.3, most: int = 40) -> Record:
        """Median milliseconds of what(i); i counts the calls, so that inputs can rotate."""
        if self.tiny:
            return spread(self.times_ms(what, 1))
        self.times_ms(what, 2)
        (once,) = self.times_ms(what, 1, 2)
        reps = max(3, min(most, int(budget_s * 1e3 / max(once, 1e-3))))
        return spread(self.times_ms(what, reps, 3))


def _host_ms(what: Callable[[int], object], n: int) -> float:
    began = time.perf_counter()
    what(n)
    return 1e3 * (time.perf_counter() - began)


def spread(times: list[float]) -> Record:
    """Median, smallest and largest of some times."""
    middle = statistics.median(times)
    return {"ms": middle, "min_ms": min(times), "max_ms": max(times), "reps": len(times)}


def failure(error: Exception) -> Record:
    """What a record says of an exception."""
    text = "".join(traceback.format_exception(error)).replace(f"{ROOT}/", "")
    return {"error": f"{type(error).__name__}: {error}"[:1500], "traceback": text[-3500:]}


def batches(x: Tensor, size: int) -> list[Tensor]:
    """`x` cut into blocks of `size` rows."""
    return [x[start : start + size] for start in range(0, len(x), size)]


def relative(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted| in float64 on the CPU; NaN stays NaN."""
    a, b = found.detach().double().cpu(), wanted.detach().double().cpu()
    scale = float(b.square().sum().sqrt())
    gap = float((a - b).square().sum().sqrt())
    return gap / scale if scale else gap


def planted_rows(rows: int, d: int, device: torch.device, seed: int = 1) -> Tensor:
    """float32 [rows, d]: sparse sums of unevenly frequent directions and some noise, centred, mean
    norm sqrt(d), as the project's preprocessing leaves rows."""
    draws = torch.Generator(device=device).manual_seed(seed)
    many = max(64, min(16_384, 4 * d))
    directions = torch.randn(many, d, generator=draws, device=device)
    directions /= directions.square().sum(1, keepdim=True).sqrt()
    # Frequencies fall as a power: some features stand in a large share of rows, most in few.
    weights = (torch.arange(many, device=device) + 20.0) ** -0.9
    blocks: list[Tensor] = []
    for start in range(0, rows, 8192):
        size = min(8192, rows - start)
        chosen = torch.multinomial(weights.expand(size, many), 24, generator=draws)
        sizes = torch.rand(chosen.shape, generator=draws, device=device) + 0.5
        blocks.append(
            torch.nn.functional.embedding_bag(
                chosen, directions, per_sample_weights=sizes, mode="sum"
            )
        )
    x = torch.cat(blocks)
    x += 0.3 * torch.randn(rows, d, generator=draws, device=device) * d**-0.5
    x -= x.mean(0)
    return x * (math.sqrt(d) / x.square().sum(1).sqrt().mean())
