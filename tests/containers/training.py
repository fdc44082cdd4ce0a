"""The jobs that are disturbed: all of one spec, so that their weights have to agree."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from tests.containers.engine import waited

from saeserve.client import Client
from saeserve.client.errors import ClientError
from saeserve.client.values import Job

D_IN, D_SAE, ROWS = 128, 1024, 40_000
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "topk": {"k": 8},
    "batchtopk": {"k": 8},
    "matryoshka": {"k": 8},
    "relu": {},
    "gated": {},
    "jumprelu": {},
}
Answer = TypeVar("Answer")
_AWAY = {"UNAVAILABLE", "DEADLINE_EXCEEDED"}


def write_activations(path: Path) -> None:
    """Sparse sums of planted directions, readable by the containers' user."""
    random = np.random.default_rng(0)
    directions = random.standard_normal((256, D_IN)).astype(np.float32)
    weights = random.random((ROWS, 256)) * (random.random((ROWS, 256)) < 0.03)
    np.save(path, weights.astype(np.float32) @ directions)
    path.chmod(0o644)


def spec(model: str, architecture: str, tokens: int) -> dict[str, Any]:
    """A train job; models of equal architecture and tokens are equal."""
    return {
        "train": {
            "dataset": "acts",
            "model": model,
            architecture: ARCHITECTURES[architecture],
            "d_sae": D_SAE,
            "tokens": tokens,
            "batch_size": 512,
            "checkpoint_every_steps": 200,
            "seed": 7,
        }
    }


def patiently(call: Callable[[], Answer]) -> Answer | None:
    """What a call answers; None while the service is away."""
    try:
        return call()
    except ClientError as error:
        if error.code not in _AWAY:
            raise
        return None


def wait_for_step(client: Client, job: str, step: int) -> float:
    """Seconds until a job has done `step` steps, or has ended."""

    def reached() -> bool:
        found = patiently(lambda: client.jobs.get(job))
        return found is not None and (found.done or found.progress.step >= step)

    return waited(f"{job} at step {step}", reached)


def ended(client: Client, job: str) -> Job:
    """A job that has ended; services may be away meanwhile."""
    last: list[Job] = []

    def done() -> bool:
        found = patiently(lambda: client.jobs.get(job))
        if found is not None and found.done:
            last.append(found)
        return bool(last)

    waited(f"{job} ends", done, deadline_s=3600)
    return last[0]


def weights(client: Client, model: str) -> str:
    """A digest of a model's tensors, as a download gives them."""
    with tempfile.TemporaryDirectory() as folder:
        client.transfers.download(model, Path(folder) / "model")
        raw = (Path(folder) / "model/model.safetensors").read_bytes()
    # Behind the header, which names more than tensors.
    start = 8 + int.from_bytes(raw[:8], "little")
    return hashlib.sha256(raw[start:]).hexdigest()[:12]
