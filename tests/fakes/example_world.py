"""What the examples in the SDK's docstrings use: a running deployment, files, and names."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from tests.fakes.bundle_store import put_bundle
from tests.fakes.certificates import Authority
from tests.fakes.control_server import Control, run_to_the_end
from tests.fakes.inference_server import in_thread, settings_of
from tests.fakes.peers import weights, write_saelens
from tests.fakes.small_model import small_model
from tests.fakes.valkey import Valkey

import saeserve.client
from saeserve.client import Client
from saeserve.client.values import Job
from saeserve.core.export.format import save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.core.planning.machine import Machine
from saeserve.jobs.layout import attempt_key
from saeserve.registry.bundles import bundle_key

D = 16
YAML = "train: {dataset: my-acts, model: my-sae, d_sae: 64, tokens: 4096, topk: {k: 2}}\n"
CURVES = "model,step,tokens,time,attempt,fvu\nmy-sae,1,4096,0.0,1,0.5\n"
BUNDLE = "j-bundle"
TOKEN = f"sae_{'0' * 16}_{'0' * 64}"


class World:
    """Control and inference on one store; `here` is the folder that examples run in."""

    def __init__(self, control: Control, inference: str, here: Path) -> None:
        assert control.server is not None
        self.addresses = {
            "control.example:7070": control.server.bound,
            "inference.example:7071": inference,
        }
        self.here = here
        self._control = control
        self._prepared: dict[str, Callable[[], object]] = {
            "Datasets.upload": lambda: self._without("my-acts", "pairs"),
            "Datasets.register": lambda: self._without("my-acts"),
            "Datasets.received": self._half_an_upload,
            "Jobs.cancel": self._submit,
            "Client.generate": self._texts,
            "Client.annotate": self._texts,
        }

    @contextmanager
    def names(self, example: str) -> Generator[dict[str, Any]]:
        """Yield the names that the example of `example` may use, its deployment put in order."""
        with Client(*self.addresses.values()) as self._client:
            for job in self._client.jobs.list(states=["QUEUED"]):
                self._client.jobs.cancel(job.id)
            self._restore()
            prepared = self._prepared.get(example, self._ended_job)()
            rows = np.random.default_rng(0).normal(size=(128, D)).astype(np.float32)
            features = self._client.encode("my-sae@prod", rows)
            yield {
                **vars(saeserve.client),
                "Path": Path,
                "client": self._client,
                "activations": rows,
                "x": rows,
                "y": rows,
                "features": features,
                "reconstructions": self._client.reconstruct("my-sae@prod", rows),
                "job": prepared if isinstance(prepared, Job) else None,
            }

    def _restore(self) -> None:
        """Bring back what an earlier example has deleted."""
        control = self._control
        if not control.datasets.exists("my-acts") or self._dataset_state() != "READY":
            self._without("my-acts")
            control.ready("my-acts", d=D)
        for index in range(3):
            control.models.publish("my-sae", "j-made", index, self.here.parent / "model")
        control.models.set_alias("my-sae", "prod", 2)
        if not control.store.exists(bundle_key("my-sae", 2, BUNDLE)):
            put_bundle(control.store, control.models, "my-sae@prod", BUNDLE)

    def _dataset_state(self) -> str:
        return self._client.datasets.get("my-acts").state

    def _without(self, *datasets: str) -> None:
        for name in datasets:
            if self._control.datasets.exists(name):
                self._client.datasets.delete(name, force=True)

    def _half_an_upload(self) -> None:
        self._without("my-acts")
        self._client.datasets.upload("my-acts", self.here / "activations.npy")

    def _texts(self) -> None:
        """Make my-acts a harvested data set, and run the job of the example to its end."""
        self._without("my-acts")
        self._control.ready("my-acts", d=D, language_model="files:lm")
        threading.Thread(target=self._run_next, daemon=True).start()

    def _run_next(self) -> None:
        with Client(*self.addresses.values()) as client:
            for _ in range(600):
                for job in client.jobs.list(states=["QUEUED"], kinds=["generate", "annotate"]):
                    run_to_the_end(self._control, job.id)
                    return
                time.sleep(0.05)

    def _submit(self) -> Job:
        return self._client.jobs.submit(self.here / "job.yaml")

    def _ended_job(self) -> Job:
        """Return a job that has succeeded and left a log."""
        job = self._submit()
        run_to_the_end(self._control, job.id)
        folder = self._control.store.path(attempt_key(job.id, 1))
        (folder / "log.txt").write_text("step 0\n")
        (folder / "metrics").mkdir()
        (folder / "metrics/metrics.csv").write_text(CURVES)
        return self._client.jobs.get(job.id)


@contextmanager
def world(folder: Path, valkey: Valkey) -> Generator[World]:
    """Run control and inference, and write the files that examples name."""
    here = folder / "here"
    here.mkdir()
    _write_files(here)
    save_model(small_model(TopKActivation(k=4), d_in=D, d_sae=2048), folder / "model")
    control = Control(folder, valkey)
    control.start()
    (control.root / "activations.npy").write_bytes((here / "activations.npy").read_bytes())
    machine = Machine(kind="processor", memory_bytes=2**36)
    control.index().announce("cpu", "worker", machine, 600.0)
    try:
        with in_thread(settings_of(control.settings.store)) as inference:
            yield World(control, inference.server.bound, here)
    finally:
        control.stop()


def _write_files(here: Path) -> None:
    rows = np.random.default_rng(1).normal(size=(64, D)).astype(np.float32)
    for name in ("activations.npy", "x.npy"):
        np.save(here / name, rows)
    (here / "job.yaml").write_text(YAML)
    write_saelens(here / "folder", weights())
    (here / "token").write_text(TOKEN)
    Authority(here)
