"""Write a small artifact store with one document of each kind, as this release makes them.

`python -m tests.stores.make tests/stores/NAME` is run when a format on disk changes; older stores
stay, and tests/integration/test_stores.py reads each of them.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from tests.fakes.real_stack import RealStack

ROOT = Path(__file__).parents[2]
D_IN, ROWS = 8, 512
STEPS, BATCH, EVERY = 40, 32, 10


def train_spec(model: str, **changes: Any) -> dict[str, Any]:  # noqa: ANN401 - any field
    fields: dict[str, Any] = {
        "dataset": "acts",
        "model": model,
        "topk": {"k": 2},
        "d_sae": 16,
        "tokens": STEPS * BATCH,
        "batch_size": BATCH,
        "checkpoint_every_steps": EVERY,
        "log_every_steps": EVERY,
        "eval_rows": 32,
    }
    given = (fields | changes).items()
    return {"train": {name: value for name, value in given if value is not None}}


def make(stack: RealStack) -> None:
    """Fill the stack's store; ends with a killed worker, so that one job is left running."""
    stack.start_broker()
    control = stack.control()
    worker = stack.worker()
    rows = np.random.default_rng(0).standard_normal((ROWS, D_IN)).astype(np.float32)
    file = stack.folder / "acts.npy"
    np.save(file, rows)
    client = stack.client
    for name in ("acts", "uploaded"):
        client.datasets.upload(name, file)

    def done(spec: dict[str, Any], state: str = "SUCCEEDED") -> None:
        ended = stack.wait(client.jobs.submit(spec).id)
        assert ended.state == state, ended

    done({"ingest": {"dataset": "acts"}})
    done(train_spec("topk"))
    done(train_spec("topk", seed=1))
    done(train_spec("jumprelu", topk=None, jumprelu={"initial_l0": 4}))
    done(train_spec("swept", topk={}, sweep={"k": [2, 4]}))
    done(train_spec("diverged", optimizer={"lr": 1e30}), "FAILED")
    client.models.set_alias("topk", "prod", 1)
    done({"export_model": {"model": "topk@prod", "format": "saelens"}})
    running = client.jobs.submit(train_spec("running", tokens=3000 * BATCH)).id
    stack.wait_for_step(running, 2 * EVERY)
    cancelled = client.jobs.submit(train_spec("cancelled")).id
    client.jobs.cancel(cancelled)
    stack.wait(cancelled)
    client.jobs.submit(train_spec("queued"))
    (process,) = worker.job_processes
    worker.kill()
    os.kill(process, signal.SIGKILL)
    control.stop()


def main(target: Path) -> None:
    """Write the store to `target`, which must not exist."""
    with tempfile.TemporaryDirectory() as folder:
        stack = RealStack(Path(folder) / "x", {"lease_seconds": "600"})
        try:
            make(stack)
        finally:
            stack.close()
        shutil.copytree(stack.store.root, target)
        for log in target.rglob("log.txt"):
            # Tracebacks name files of the machine that made the store.
            log.write_text(log.read_text().replace(str(ROOT), "/source").replace(folder, "/stack"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
