"""The GPU benchmark goes through all of its code with tiny shapes on the CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from bench.gpu import table
from bench.gpu.lab import Lab, relative
from torch import device, nan, tensor

pytestmark = pytest.mark.timeout(1800)
ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def record(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """In a process of its own, since it forbids numba."""
    out = tmp_path_factory.mktemp("gpu") / "record.json"
    # A minute of one core; what a busy machine has no time left for would be missing.
    words = ["--device", "cpu", "--tiny", "--budget", "1700", "--out", str(out)]
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", *words],
        cwd=ROOT,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=1750,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(out.read_text())
    assert done.stdout.endswith("\n".join(table.lines(found)) + "\n")
    return found


def test_ceilings_are_measured(record: dict[str, Any]) -> None:
    ceilings = record["ceilings"]
    assert {"names", "copy", "mm S1 fp16", "mm S3 fp32", "topk S1", "adam S3"} <= set(ceilings)
    assert not [name for name, found in ceilings.items() if "error" in found or "skipped" in found]


def test_every_architecture_is_compared(record: dict[str, Any]) -> None:
    found = record["correctness"]
    names = ("topk", "batchtopk", "matryoshka", "jumprelu", "relu", "gated")
    assert set(names) <= set(found)
    for name, case in found.items():
        assert "error" not in case, (name, case)
        if name.endswith("graphs"):
            assert case["differ in"] == []
        elif not name.endswith("strict"):
            assert max(case["gradients"].values()) <= 1e-6
            assert case["two runs differ in"] == []
            assert case["finite"]


def test_what_is_compiled_first_and_profiled_last(record: dict[str, Any]) -> None:
    assert next(iter(record["compiling"].values()))["process_s"] > 0
    for name, case in record["profiling"].items():
        assert case["ms"] >= case["host_ms"] > 0, (name, case)


def test_every_kernel_is_compared(record: dict[str, Any]) -> None:
    found = record["kernels"]
    tasks = ("centre", "encode", "choice", "reconstruction", "segments", "update")
    assert set(found) == {f"S1 {task}" for task in tasks}
    for name, case in found.items():
        assert "error" not in case, (name, case)
        assert case.get("difference", 0.0) <= (1e-6 if "centre" in name else 1e-3)
        assert case.get("bit_equal", True)
        assert case.get("jaccard", 1.0) == 1.0


def test_encoders_agree_with_plain_torch(record: dict[str, Any]) -> None:
    assert set(record["encoding"]) == {"S1 topk", "S2 topk", "S3 threshold"}
    for name, case in record["encoding"].items():
        assert "error" not in case, (name, case)
        assert case["difference"] <= 1e-6
        assert case["bit_equal"]
        assert case["rows_per_s"] > 0


def test_a_resumed_run_is_the_undisturbed_one(record: dict[str, Any]) -> None:
    for case in record["jobs"].values():
        assert case["resumed differs in"] == []
        assert case["share_of_bare"] > 0


def test_ours_and_every_peer_stand_in_each_race(record: dict[str, Any]) -> None:
    peers = ("SAELens", "dictionary_learning")
    races = record["speed"]
    for race in races.values():
        assert race["ours"]["tokens_per_s"] > 0
    for name in ("S1 topk", "S2 topk", "S1 batchtopk", "S1 matryoshka", "S3 jumprelu"):
        assert {f"{peer} autocast" for peer in peers} <= set(races[name])
    assert "sparsify fp32" in record["speed"]["S1 topk"]


def test_a_failure_is_recorded_and_the_next_measurement_runs(tmp_path: Path) -> None:
    lab = Lab(device("cpu"), tiny=True, out=tmp_path / "r.json", ends=float("inf"))
    into: dict[str, Any] = {}
    lab.data["part"] = into

    def fails() -> dict[str, Any]:
        raise ValueError("no memory")

    lab.attempt(into, "bad", fails)
    lab.attempt(into, "good", lambda: {"ms": 1.0})
    saved = json.loads(lab.out.read_text())["part"]
    assert saved["bad"]["error"] == "ValueError: no memory"
    assert saved["good"]["ms"] == 1.0


def test_what_has_no_time_left_is_said_to_be_skipped(tmp_path: Path) -> None:
    lab = Lab(device("cpu"), tiny=True, out=tmp_path / "r.json", ends=0.0)
    into: dict[str, Any] = {}
    lab.attempt(into, "late", lambda: {"ms": 1.0})
    assert "skipped" in into["late"]


def test_relative_keeps_nan() -> None:
    assert relative(tensor([nan]), tensor([1.0])) != relative(tensor([1.0]), tensor([1.0]))
    assert relative(tensor([3.0]), tensor([2.0])) == 0.5
