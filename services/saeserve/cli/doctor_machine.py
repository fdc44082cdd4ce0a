"""What the doctor finds of this machine's GPU and worker."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import urllib.request
from pathlib import Path

from saeserve.cli.figures import size
from saeserve.cli.finding import Finding

ANSWER_SECONDS = 2.0
PROBE = (sys.executable, "-m", "saeserve.worker.probe")
WORKER_INFO = re.compile(r'^saeserve_worker_info{classes="([^"]*)",gpu="([^"]*)"} 1', re.MULTILINE)


def accelerator() -> Finding:
    """What torch sees, for that is what jobs compute on; asked in a process of its own."""
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", "ok", "torch is not installed here, so no job runs here")
    asked = subprocess.run(PROBE, capture_output=True, text=True, check=False)
    if asked.returncode:
        last = asked.stderr.strip().rpartition("\n")[2]
        return Finding("gpu", "fail", f"torch cannot be imported: {last}", "install torch again")
    seen = json.loads(asked.stdout)
    if (device := seen["accelerator"]) is not None:
        memory = size(device["memory_bytes"])
        return Finding("gpu", "ok", f"torch {seen['torch']} sees {device['name']}, {memory}")
    if shutil.which("nvidia-smi"):
        remedy = "install a CUDA build of torch that fits the driver"
        return Finding("gpu", "warn", f"torch {seen['torch']} sees none; NVIDIA driver", remedy)
    return Finding("gpu", "ok", f"torch {seen['torch']} sees none; CPU with {_instructions()}")


def _instructions() -> str:
    info = Path("/proc/cpuinfo")
    flags = info.read_text() if info.exists() else ""
    named = [flag for flag in ("amx_bf16", "avx512_bf16", "avx512f", "avx2") if flag in flags]
    return ", ".join(named) or "no AVX"


def worker(address: str) -> Finding:
    """The worker of this machine, as its metrics describe it."""
    try:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=ANSWER_SECONDS) as answer:
            found = WORKER_INFO.search(answer.read().decode())
    except (OSError, ValueError):
        remedy = "saeserve up starts one; a worker elsewhere cannot be seen from here"
        return Finding("worker", "warn", f"no answer at {address}", remedy)
    if found is None:
        return Finding(
            "worker", "warn", f"{address} is not the address of a worker", "set the address of one"
        )
    return Finding("worker", "ok", f"{address}: classes {found[1]}; GPU {found[2]}")
