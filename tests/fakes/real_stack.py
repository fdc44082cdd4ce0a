"""The services as real processes on one machine: a broker, control, workers, inference.

Every process has its own log below `folder`; `RealStack.logs()` shows the end of each.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.fakes.synthetic import write_synthetic

from saeserve.client.client import Client
from saeserve.client.values import Job
from saeserve.jobs.ledger import Ledger
from saeserve.platform.broker import Broker
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.models import ModelRegistry
from saeserve.registry.roots import Roots

LEASE_S = 2.0
START_S = 240.0
LOG_LINES = 40
_FIRST_PORT, _PORTS = 20_000, 12_000
_COUNT = itertools.count(os.getpid() * 101)


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on, nor will before a service of the test does.

    It lies below the ports that the kernel gives out by itself, which other tests ask for at the
    same time; and processes of tests begin at ports far from one another.
    """
    while True:
        port = _FIRST_PORT + next(_COUNT) % _PORTS
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def until(condition: Callable[[], object], seconds: float = 120.0, what: str = "it") -> None:
    """Wait for `condition`; fails when it does not come."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid: int) -> list[int]:
    """Living direct children of a process, whichever of its threads started them."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if int(fields[1]) == pid and fields[0] != "Z":
                found.append(int(entry.name))
    return found


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


@dataclass
class Service:
    """One process of the stack, and where it logs."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path
    ready: dict[str, str]
    """What its ready line says, e.g. `address` and `metrics`."""

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    @property
    def job_processes(self) -> list[int]:
        """Of a worker: the job process that runs now, if one does; none that only waits."""
        return [pid for pid in children(self.pid) if b"worker.job_process" in _command(pid)]

    def stop(self, seconds: float = 120.0) -> int:
        """SIGTERM and wait; kills when it does not end. Exit status."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def kill(self) -> None:
        """SIGKILL, and reap."""
        self.process.kill()
        self.process.wait()

    def text(self) -> str:
        """Its log so far."""
        return self.log.read_text(errors="replace")


@dataclass
class RealStack:
    """A deployment below one folder. Nothing runs until started; `close` ends all of it."""

    folder: Path
    settings: Mapping[str, str] = field(default_factory=dict[str, str])
    """More SAESERVE_ variables, without the prefix, for every process."""
    environment: dict[str, str] = field(default_factory=dict[str, str])
    """Other variables, of the processes that are started next."""

    def __post_init__(self) -> None:
        for name in ("store", "run", "logs", "root"):
            (self.folder / name).mkdir(parents=True)
        self.root = self.folder / "root"
        """Harvests and registrations may read here, as `root:<path>`."""
        self.store = ArtifactStore(self.folder / "store")
        self.ledger = Ledger(self.store)
        self.models = ModelRegistry(self.store)
        self.datasets = DatasetRegistry(self.store, Roots({"root": self.root}))
        self.broker = Broker(self.folder / "run")
        self.control_address = f"127.0.0.1:{free_port()}"
        self.inference_address = f"127.0.0.1:{free_port()}"
        self.services: list[Service] = []
        self.client = Client(self.control_address, self.inference_address)

    def start_broker(self) -> None:
        """Start Valkey on what its folder holds."""
        self.broker.start()

    def kill_broker(self, *, lose_data: bool = False) -> None:
        """SIGKILL Valkey, and delete its data when asked."""
        os.kill(self.broker.pid, signal.SIGKILL)
        self.broker.wait(60)
        self.broker.stop()
        if lose_data:
            shutil.rmtree(self.broker.folder)

    def control(self) -> Service:
        """Start control."""
        return self.start("saeserve.control")

    def inference(self) -> Service:
        """Start inference."""
        return self.start("saeserve.inference")

    def worker(self, **settings: str) -> Service:
        """Start a worker."""
        return self.start("saeserve.worker", **settings)

    def explorer(self, **settings: str) -> Service:
        """Start the explorer; `ready["address"]` is its URL."""
        return self.start("saeserve.explorer", **settings)

    def start(self, module: str, **settings: str) -> Service:
        """Start a service and wait for its ready line."""
        name = module.rpartition(".")[2]
        log = self.folder / "logs" / f"{name}-{len(self.services)}.log"
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", module],
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=stream,
                env=self._environment(settings),
                start_new_session=True,
            )
        service = Service(name, process, log, {})
        self.services.append(service)
        until(lambda: _ready(service), START_S, f"ready line of {name}")
        return service

    def logs(self) -> str:
        """The end of every log, for a failing test."""
        parts = [
            f"--- {service.log.name}\n" + "\n".join(service.text().splitlines()[-LOG_LINES:])
            for service in self.services
        ]
        return "\n".join(parts)

    def close(self) -> None:
        """Stop everything, job processes included."""
        self.client.close()
        for service in reversed(self.services):
            if service.process.poll() is None:
                service.process.terminate()
        for service in reversed(self.services):
            jobs = service.job_processes if service.name == "worker" else []
            try:
                service.stop()
            finally:
                for pid in filter(alive, jobs):
                    os.kill(pid, signal.SIGKILL)
        self.broker.stop()

    def planted(self, name: str = "planted", **options: Any) -> None:  # noqa: ANN401 - passed on
        """Put a READY data set of planted features into the store."""
        self.datasets.create(name)
        shape: dict[str, Any] = {"d": 32, "n_features": 64, "active": 4, "rows": 8192, "seed": 1}
        folder = self.datasets.get(name).folder
        manifest = write_synthetic(folder, name=name, offset=3.0, **{**shape, **options})
        self.datasets.commit(name, manifest.to_bytes())

    def wait(self, job: str, *states: str, seconds: float = 240.0) -> Job:
        """The job, once it is in one of `states` (by default: once it has ended)."""
        deadline = time.monotonic() + seconds
        while True:
            seen = self.client.jobs.get(job)
            if seen.state in states or (not states and seen.done):
                return seen
            assert time.monotonic() < deadline, f"{job} is {seen.state} {seen.progress.step}"
            time.sleep(0.05)

    def wait_for_step(self, job: str, step: int, seconds: float = 240.0) -> None:
        """Until a checkpoint of at least `step` is committed."""
        until(lambda: self.checkpoint(job) >= step, seconds, f"checkpoint {step} of {job}")

    def checkpoint(self, job: str) -> int:
        """The newest committed step of the highest attempt; 0 before the first."""
        key = self.ledger.attempt_key(job, self.ledger.highest_epoch(job)) + "/checkpoints"
        steps = [int(name) for name in self.store.names(key)]
        done = [s for s in steps if self.store.exists(f"{key}/{s}/manifest.json")]
        return max(done, default=0)

    def weights(self, resource: str) -> bytes:
        """The tensors of a published model, as stored."""
        return (self.models.resolve(resource).folder / "model.safetensors").read_bytes()

    def _environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        plain = {key: value for key, value in os.environ.items() if "SAESERVE_" not in key}
        known = {
            "store": str(self.store.root),
            "run": str(self.folder / "run"),
            "roots": f'{{"root": "{self.root}"}}',
            "control_address": self.control_address,
            "inference_address": self.inference_address,
            "control_metrics_address": "127.0.0.1:0",
            "inference_metrics_address": "127.0.0.1:0",
            "worker_metrics_address": "127.0.0.1:0",
            "explorer_address": "127.0.0.1:0",
            "explorer_metrics_address": "127.0.0.1:0",
            "lease_seconds": str(LEASE_S),
            "reconcile_seconds": "0.2",
            "retry_seconds": "0",
            "torch_threads": "1",
            "worker_classes": '["cpu"]',
            **self.settings,
            **settings,
        }
        own = {f"SAESERVE_{key.upper()}": value for key, value in known.items()}
        return plain | self.environment | own


def _ready(service: Service) -> bool:
    for line in service.text().splitlines():
        if " ready " in line and f"saeserve.{service.name}:" in line:
            words = line.split(" ready ", 1)[1].split()
            service.ready = dict(word.split("=", 1) for word in words)
            return True
    status = service.process.poll()
    assert status is None, f"{service.name} ended with {status}:\n{service.text()}"
    return False
