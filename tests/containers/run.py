"""`make test-containers`: the real images, run by the real docker-compose.yml, lose nothing.

Builds the images, starts the deployment as `make up` does (under a name of its own, on the usual
ports), trains over TLS with a token, kills each container in the middle of a job, and compares the
weights with those of an undisturbed run. Prints a table; exits with 1 when anything was not as it
should be. Needs the right to signal the containers' processes, so root as a rule.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import astuple, dataclass

import numpy as np
from tests.containers import images
from tests.containers.deployment import SERVED, Deployment, firing, targets
from tests.containers.engine import ENGINE, ROOT, CommandFailed, kill, logs, restarted, run, waited
from tests.containers.training import (
    ARCHITECTURES,
    D_IN,
    ended,
    patiently,
    spec,
    wait_for_step,
    weights,
    write_activations,
)

from saeserve.client import Client
from saeserve.client.errors import ClientError

FOLDER = ROOT / "build/containers"
_BROKEN_OFF = (CommandFailed, ClientError, subprocess.SubprocessError, OSError)


@dataclass
class Row:
    """A line of the table; what was not reached stays a dash."""

    disturbed: str
    back: str = "-"
    goes_on: str = "-"
    encodes: str = "-"
    attempts: str = "-"
    job: str = "-"
    weights: str = "-"
    bits: str = "-"


_COLUMNS = Row(
    disturbed="killed",
    back="healthy again",
    goes_on="job runs again",
    encodes="encodes",
    attempts="attempts",
    job="job",
    weights="weights",
    bits="bits",
)


@dataclass
class Findings:
    """What was wrong, and the table."""

    wrong: list[str]
    rows: list[Row]

    def expect(self, right: bool, what: str) -> None:
        """Note `what` unless `right`."""
        say(f"{'ok   ' if right else 'WRONG'} {what}")
        if not right:
            self.wrong.append(what)

    def part(self, what: str, check: Callable[[], None]) -> None:
        """Run a part of the checks; the others run too where it breaks off."""
        try:
            check()
        except _BROKEN_OFF as error:
            self.expect(False, f"{what} broke off: {type(error).__name__}: {error}")

    def row(self, disturbed: str) -> Row:
        """A new line of the table, to be filled in as the figures come."""
        self.rows.append(Row(disturbed))
        return self.rows[-1]


def say(line: str) -> None:
    """A line of the report, with the time."""
    sys.stdout.write(f"{time.strftime('%H:%M:%S')} {line}\n")
    sys.stdout.flush()


def main() -> int:
    """Exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--no-build", action="store_true", help="take the images that are there")
    parser.add_argument("--keep", action="store_true", help="leave the deployment running")
    parser.add_argument("--tokens", type=int, default=3_000_000, help="length of each job")
    asked = parser.parse_args()
    if not asked.no_build:
        say("building images")
        images.build()
    deployment = Deployment(FOLDER, images.stand_ins())
    findings = Findings([], [])
    say("starting")
    try:
        findings.part("the deployment", lambda: start(deployment, findings, asked.tokens))
    finally:
        # What was found so far, also where something ends the run.
        report(findings)
        if not asked.keep:
            deployment.down()
    return 1 if findings.wrong else 0


def start(deployment: Deployment, findings: Findings, tokens: int) -> None:
    """`make up`, and the checks of what then runs."""
    deployment.up()
    check(deployment, findings, tokens)


def check(deployment: Deployment, findings: Findings, tokens: int) -> None:
    """All that is expected of a deployment."""
    write_activations(deployment.data / "acts.npy")
    findings.part("confinement", lambda: confinement(deployment, findings))
    findings.part("no driver", lambda: without_driver(deployment, findings))
    findings.part("strangers", lambda: strangers(deployment, findings))
    findings.part("tokens", lambda: tokens_come_and_go(deployment, findings))
    with deployment.client() as client:
        client.datasets.register("acts", ["data:acts.npy"])
        train(client, findings, {"ingest": {"dataset": "acts"}})
        disturbed(deployment, client, findings, "nothing", tokens)
        findings.expect(not firing(), f"alerts before anything was killed: {firing() or 'none'}")
        for service in SERVED:
            findings.part(
                f"{service} killed",
                lambda name=service: disturbed(deployment, client, findings, name, tokens),
            )
        findings.part("without Valkey", lambda: without_valkey(deployment, client, findings))
        findings.part("two workers", lambda: two_workers(deployment, client, findings, tokens))
        for architecture in ARCHITECTURES:
            job = spec(f"smoke-{architecture}", architecture, 200_000)
            findings.part(architecture, lambda job=job: train(client, findings, job))
    findings.part("Prometheus", lambda: scraped(findings))
    for service in SERVED:
        # podman-compose leaves the second worker's container after a scale back to one.
        for container in deployment.containers(service):
            findings.expect("Traceback" not in logs(container), f"log of {container}")


def train(client: Client, findings: Findings, job: dict[str, object]) -> None:
    """A job that has to succeed."""
    found = ended(client, client.jobs.submit(job).id)
    why = f": {found.error.message}" if found.error else ""
    findings.expect(found.state == "SUCCEEDED", f"job {next(iter(job))} {found.state}{why}")


def disturbed(
    deployment: Deployment, client: Client, findings: Findings, service: str, tokens: int
) -> None:
    """Train, kill a service's container in the middle, and compare the weights with those of the
    first row, whose job was left alone."""
    row, model = findings.row(service), f"disturbed-{service}"
    job = client.jobs.submit(spec(model, "topk", tokens)).id
    wait_for_step(client, job, tokens // 512 // 4)
    if service in SERVED:
        killed(deployment, client, row, job)
    if service == "worker":
        waited("WorkerLost fires", lambda: "WorkerLost" in firing())
    found = ended(client, job)
    row.attempts, row.job = str(found.attempt), found.state
    findings.expect(found.state == "SUCCEEDED", f"job with {service} killed: {found.state}")
    row.encodes = f"{encodes(client, findings, model):.1f} s"
    same_weights(client, findings, row, model)


def killed(deployment: Deployment, client: Client, row: Row, job: str) -> None:
    """Kill the row's service, and wait until it is healthy and the job goes on."""
    service = row.disturbed
    pid, step = deployment.pid(service), client.jobs.get(job).progress.step
    begun = time.monotonic()
    container = deployment.container(service)
    kill(container)
    if service == "worker":
        # What it still reported before it died does not count as running again.
        step = client.jobs.get(job).progress.step
    waited(f"{service} restarts", lambda: restarted(container, pid))
    waited(f"{service} is healthy", lambda: deployment.healthy(service))
    row.back = f"{time.monotonic() - begun:.1f} s"
    wait_for_step(client, job, step + 1)
    row.goes_on = f"{time.monotonic() - begun:.1f} s"


def same_weights(client: Client, findings: Findings, row: Row, model: str) -> None:
    """The model's weights are those of the undisturbed run, which is the first row."""
    row.weights = weights(client, model)
    same = row.weights == findings.rows[0].weights
    row.bits = "equal" if same else "DIFFER"
    findings.expect(same, f"weights of {model}")


def encodes(client: Client, findings: Findings, model: str) -> float:
    """The inference service, which may be on its way back, encodes with the model; seconds until
    it did."""
    rows = np.ones((4, D_IN), np.float32)
    found: list[int] = []

    def answered() -> bool:
        features = patiently(lambda: client.encode(model, rows))
        if features is not None:
            found.append(len(features.indices))
        return bool(found)

    took = waited(f"{model} encodes", answered)
    findings.expect(found[0] > 0, f"{model} encodes")
    return took


def without_valkey(deployment: Deployment, client: Client, findings: Findings) -> None:
    """Services that start while Valkey is absent wait for it, and all is served once it comes."""
    row = findings.row("valkey absent")
    deployment.disconnect("valkey")
    before = {service: deployment.pid(service) for service in ("control", "worker")}
    for service, pid in before.items():
        container = deployment.container(service)
        kill(container)
        waited(f"{service} restarts", lambda c=container, p=pid: restarted(c, p))
    started = {service: deployment.pid(service) for service in before}
    time.sleep(20)
    for service, pid in started.items():
        findings.expect(deployment.pid(service) == pid, f"{service} lives without Valkey")
    deployment.connect("valkey")
    begun = time.monotonic()
    model = spec("after-valkey", "topk", 200_000)
    submitted: list[str] = []

    def taken() -> bool:
        job = patiently(lambda: client.jobs.submit(model))
        submitted.extend([job.id] if job else [])
        return bool(submitted)

    waited("a job is taken", taken)
    wait_for_step(client, submitted[0], 1)
    row.goes_on = f"{time.monotonic() - begun:.1f} s"
    found = ended(client, submitted[0])
    row.attempts, row.job = str(found.attempt), found.state
    findings.expect(found.state == "SUCCEEDED", "a job after Valkey came")


def two_workers(deployment: Deployment, client: Client, findings: Findings, tokens: int) -> None:
    """With --scale worker=2 two jobs run at once; a worker that is gone leaves its job to the
    other."""
    deployment.scale("worker", 2)
    names = deployment.containers("worker")
    findings.expect(len(names) == 2, f"--scale worker=2 makes {len(names)} containers")
    jobs = [client.jobs.submit(spec(f"side-{n}", "topk", tokens)).id for n in range(2)]
    for job in jobs:
        wait_for_step(client, job, 1)
    before = [client.jobs.get(job) for job in jobs]
    states = [job.state for job in before]
    findings.expect(states == ["RUNNING"] * 2, f"two workers have two jobs: {', '.join(states)}")
    begun = time.monotonic()
    # Stopped for good: as an operator's wish, it is not restarted.
    run([ENGINE, "kill", "--signal", "KILL", names[-1]])
    rows = [findings.row(f"1 of 2 workers, job {n + 1}") for n in range(2)]
    for row, job in zip(rows, before, strict=True):
        wait_for_step(client, job.id, job.progress.step + 1)
        row.goes_on = f"{time.monotonic() - begun:.1f} s"
    for n, (row, job) in enumerate(zip(rows, jobs, strict=True)):
        found = ended(client, job)
        row.attempts, row.job = str(found.attempt), found.state
        findings.expect(found.state == "SUCCEEDED", f"job {n + 1}, one of two workers killed")
        same_weights(client, findings, row, f"side-{n}")
    deployment.scale("worker", 1)


def confinement(deployment: Deployment, findings: Findings) -> None:
    """No rights, a read-only root, threads by the CPU limit, a command line in two images."""
    for service in ("control", "inference", "worker"):
        status = run(deployment.inside(service, "cat", "/proc/self/status"))
        findings.expect("CapEff:\t0000000000000000" in status, f"{service} has no capability")
        findings.expect("Uid:\t10001" in status, f"{service} is not root")
        try:
            run(deployment.inside(service, "touch", "/opt/x"))
            findings.expect(False, f"the root of {service} is read-only")
        except CommandFailed:
            findings.expect(True, f"the root of {service} is read-only")
    asked = "from saeserve.worker.settings import WorkerSettings as S; print(S.load().threads)"
    threads = run(deployment.inside("worker", "python", "-c", asked)).strip()
    findings.expect(threads == "1", f"a worker with 1 CPU takes {threads} thread(s)")
    listed = run(deployment.inside("control", "saeserve", "token", "ls", "--json"))
    findings.expect("admin" in listed, "control's image has the command line")
    shown = deployment.compose("--profile", "client", "run", "--rm", "-T", "client", "jobs", "ls")
    findings.expect("Traceback" not in shown, "the client's image lists jobs")


def without_driver(deployment: Deployment, findings: Findings) -> None:
    """A worker of class gpu does not start where torch sees no GPU."""
    settings = ['SAESERVE_WORKER_CLASSES=["gpu"]', "SAESERVE_WORKER_METRICS_ADDRESS=127.0.0.1:0"]
    command = ["env", *settings, "python", "-m", "saeserve.worker"]
    try:
        run(deployment.inside("worker", *command), timeout_s=120)
        findings.expect(False, "a worker of class gpu ends without a GPU")
    except CommandFailed as error:
        right = "exit code 2" in str(error) and "torch sees no GPU" in str(error)
        findings.expect(right, "a worker of class gpu says that there is no GPU, and ends with 2")


def strangers(deployment: Deployment, findings: Findings) -> None:
    """Without a token, and without TLS, nothing is answered."""
    for what, client in (
        ("a token", deployment.client(token="")),
        ("TLS", deployment.client(token="", ca=False)),
    ):
        with client:
            try:
                list(client.jobs.list())
                findings.expect(False, f"control refuses callers without {what}")
            except ClientError as error:
                code = {"a token": "UNAUTHENTICATED", "TLS": "UNAVAILABLE"}[what]
                findings.expect(error.code == code, f"without {what}: {error.code}")


def tokens_come_and_go(deployment: Deployment, findings: Findings) -> None:
    """A token is made in control's container, as README shows it, and revoked there; control goes
    on running."""
    pid, command = deployment.pid("control"), ("saeserve", "token")
    asked = ("create", "--scope", "read", "--owner", "alice")
    text = run(deployment.inside("control", *command, *asked)).strip()
    with deployment.client(token=text) as client:
        findings.expect(list(client.jobs.list()) == [], "a token made in the container lets in")
        run(deployment.inside("control", *command, "revoke", text.split("_")[1]))

        def refused() -> bool:
            try:
                list(client.jobs.list())
            except ClientError as error:
                return error.code == "UNAUTHENTICATED"
            return False

        took = waited("the revoked token is refused", refused)
    same = deployment.pid("control") == pid
    findings.expect(same, f"the token was revoked within {took:.1f} s, without a restart")


def scraped(findings: Findings) -> None:
    """Prometheus has reached every target, and says so of each job."""

    waited(
        "Prometheus reaches all targets", lambda: all(each["health"] == "up" for each in targets())
    )
    jobs = {each["labels"]["job"] for each in targets()}
    findings.expect({"control", "inference", "worker"} <= jobs, f"scraped: {sorted(jobs)}")
    say(f"alerts at the end: {firing() or 'none'}")


def report(findings: Findings) -> None:
    """The table, and what was wrong."""
    rows: list[tuple[str, ...]] = [astuple(row) for row in (_COLUMNS, *findings.rows)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        cells = (cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        sys.stdout.write("  ".join(cells).rstrip() + "\n")
    for each in findings.wrong:
        sys.stdout.write(f"WRONG {each}\n")
    sys.stdout.write(f"{len(findings.wrong)} wrong\n")


if __name__ == "__main__":
    sys.exit(main())
