"""What can be downloaded from a control server, made by hand, and clients that are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.fakes.control_server import Control
from tests.fakes.registry import write_export

from saeserve.client import Client
from saeserve.jobs.layout import attempt_key
from saeserve.jobs.record import Lease

SIZE = 5 * 2**20 + 12345
"""Bytes of a large file: some chunks and a bit."""

_DOWNLOAD = "client.transfers.download(sys.argv[2], sys.argv[3], tell)"
_UPLOAD = "client.transfers.upload({'model': pathlib.Path(sys.argv[2])}, tell)"
_SCRIPT = """
import os, pathlib, signal, sys, time
from saeserve.client import Client
def arrived():
    return any(part.stat().st_size for part in pathlib.Path(sys.argv[3]).rglob("*.part"))
def tell(name, done, total):
    if done > total // 2:
        # What was sent may still be in the client's buffers.
        while {waits} and not arrived():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
client = Client(sys.argv[1])
{call}
"""


def content(size: int = SIZE, seed: int = 1) -> bytes:
    """Bytes that differ everywhere."""
    return (seed.to_bytes(4, "little") + os.urandom(1021)) * (size // 1025 + 1)


def killed_download(address: str, resource: str, folder: Path) -> None:
    """A client process that is killed when more than half has arrived."""
    _killed(_DOWNLOAD, address, resource, str(folder))


def killed_upload(address: str, folder: Path, uploads: Path) -> None:
    """Likewise with an upload, once the server has a part of it in its folder `uploads`."""
    _killed(_UPLOAD, address, str(folder), str(uploads), waits=True)


def _killed(call: str, *words: str, waits: bool = False) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT.format(call=call, waits=waits), *words],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def client_of(control: Control) -> Client:
    """An SDK client of the server."""
    assert control.server is not None
    return Client(control.server.bound)


def publish(control: Control) -> str:
    """A model with a large file of weights; its folder in the store."""
    export = write_export(control.folder / "export")
    (export / "model.safetensors").write_bytes(content())
    return control.models.publish("sae", "j-made", 0, export)


def export(control: Control, seed: int = 1) -> str:
    """An export of version 1 of `sae`."""
    folder = control.store.path("exports/sae/1/saelens")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cfg.json").write_text("{}")
    (folder / "sae_weights.safetensors").write_bytes(content(seed=seed))
    return "exports/sae/1/saelens"


def attempt(control: Control) -> Lease:
    """A job whose first attempt has begun."""
    control.ready()
    job = control.submit().job.id
    claim = control.ledger.claim(job, "worker", time.time())
    return Lease(job=job, epoch=claim.epoch, owner="worker")


def checkpoint(control: Control, lease: Lease, step: int = 50) -> str:
    """A committed checkpoint with a folder in it; the resource of the newest."""

    def write(folder: Path) -> None:
        (folder / "state.json").write_text("{}")
        (folder / "parts").mkdir()
        (folder / "parts" / "weights.safetensors").write_bytes(content(seed=step))

    control.ledger.checkpoint_sink(lease).commit(step, write)
    return f"jobs/{lease.job}/checkpoints"


def logs(control: Control, lease: Lease) -> str:
    """Events and a large log of the attempt."""
    folder = control.store.path(attempt_key(lease.job, lease.epoch))
    (folder / "log.txt").write_bytes(content())
    (folder / "events.jsonl").write_text('{"type": "log"}\n')
    return f"jobs/{lease.job}/logs"
