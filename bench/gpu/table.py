"""A record as text: ceilings, the worst errors, and each race with ratios to ours."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bench.gpu.lab import Record


def lines(data: Record) -> Iterator[str]:
    """The table, line by line; whatever was not measured says so."""
    yield "ceilings"
    for name, found in data.get("ceilings", {}).items():
        if name != "names":
            yield f"  {name:14} {_ceiling(found)}"
    yield "correctness: worst gradient against the CPU, automatic precision, runs"
    for name, found in data.get("correctness", {}).items():
        yield f"  {name:30} {_correct(found)}"
    yield "kernels of TopK's step: ms, error against float64, two runs"
    for name, found in data.get("kernels", {}).items():
        yield f"  {name:20} {_kernel(found)}"
    yield "exported models encode: ms by rows of a batch, difference from plain torch, two runs"
    for name, found in data.get("encoding", {}).items():
        yield f"  {name:20} {_encoded(found)}"
    yield "runs with feed, reports and a checkpoint: tokens/s, share of the bare step, resumed"
    for name, found in data.get("jobs", {}).items():
        yield f"  {name:20} {_job(found)}"
    yield "our steps: ms, of it the host's and the device's, launches"
    for name, found in data.get("profiling", {}).items():
        yield f"  {name:20} {_profile(found)}"
    for race, entries in data.get("speed", {}).items():
        yield f"{race}: ms a step, tokens/s, times ours"
        ours = entries.get("ours", {}).get("ms")
        for name, found in entries.items():
            yield f"  {name:32} {_speed(found, ours)}"


def _unmeasured(found: Record) -> str | None:
    said = (f"{key}: {found[key]}"[:110] for key in ("error", "skipped") if key in found)
    return next(said, None)


def _encoded(found: Record) -> str:
    if text := _unmeasured(found):
        return text
    times = "  ".join(f"{rows}: {ms:.3f}" for rows, ms in found["ms"].items())
    same = "bit-equal" if found["bit_equal"] else "NOT bit-equal"
    return f"{times}  {found['difference']:.1e}  {same}"


def _ceiling(found: Record) -> str:
    if text := _unmeasured(found):
        return text
    rates = [f"{found[key]:8.1f} {key}" for key in ("GB_per_s", "TFLOP_per_s") if key in found]
    return "  ".join([f"{found['ms']:8.3f} ms", *rates])


def _correct(found: Record) -> str:
    if text := _unmeasured(found):
        return text
    if "refused" in found:
        return "strict determinism refuses nothing"
    if "replays" in found:
        differing = found["differ in"]
        bits = f"graphs DIFFER in {differing}" if differing else "bit-equal to a run without"
        return f"{found['replays']} steps replayed, {bits}"
    auto: dict[str, Any] = found["auto"]
    differing = found["two runs differ in"]
    bits = f"two runs DIFFER in {differing}" if differing else "two runs bit-equal"
    worst = max(found["gradients"].values())
    low = max(auto["gradients"].values())
    return f"{worst:.1e}; {auto['is']} {low:.1e}, Jaccard {auto['jaccard']:.6f}; {bits}"


def _kernel(found: Record) -> str:
    if text := _unmeasured(found):
        return text
    error = f"{found['difference']:8.1e}" if "difference" in found else 8 * " "
    sets = f"Jaccard {found['jaccard']:.6f}" if "jaccard" in found else ""
    bits = "" if found.get("bit_equal", True) else "two runs DIFFER"
    return f"{found['ms']:9.3f}  {error}  {sets}{bits}"


def _job(found: Record) -> str:
    if text := _unmeasured(found):
        return text
    differing = found["resumed differs in"]
    bits = f"resumed DIFFERS in {differing}" if differing else "resumed bit-equal"
    return f"{found['tokens_per_s']:12,.0f}  {found['share_of_bare']:5.2f}  {bits}"


def _profile(found: Record) -> str:
    if text := _unmeasured(found):
        return text
    busy = f"{found['busy_ms']:8.3f} {found['launches']:6.0f}" if "busy_ms" in found else ""
    return f"{found['ms']:8.3f} {found['host_ms']:8.3f} {busy}"


def _speed(found: Record, ours: float | None) -> str:
    if text := _unmeasured(found):
        return text
    if "ms" not in found:
        return "no time was left"
    ratio = f"{found['ms'] / ours:6.2f}x" if ours else "     ?"
    return f"{found['ms']:9.3f}  {found['tokens_per_s']:12,.0f}  {ratio}"
