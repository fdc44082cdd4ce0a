"""Models, exports, checkpoints and logs out of a real stack by the command line, and models in."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest
from tests.fakes.real_stack import RealStack, until

from saeserve.cli.stack import child_environment
from saeserve.core.export.format import load_model

LARGE = 48 * 2**20
COMMAND = [sys.executable, "-m", "saeserve.cli"]


class Deployment:
    """A stack whose store is out of the command line's reach, and a model that it trained."""

    def __init__(self, stack: RealStack) -> None:
        self.stack = stack
        self.here = stack.folder / "elsewhere"
        self.here.mkdir()
        self.environment = child_environment(
            {
                "SAESERVE_CONTROL_ADDRESS": stack.control_address,
                "SAESERVE_STORE": str(self.here / "no-store"),
                "SAESERVE_RUN": str(self.here / "no-run"),
                "COLUMNS": "200",
            }
        )
        stack.planted()
        self.job = stack.client.jobs.submit(
            {"train": {"dataset": "planted", "model": "sae", "topk": {"k": 4}, "d_sae": 64}
             | {"tokens": 40960, "batch_size": 512, "checkpoint_every_steps": 20}}
        ).id  # fmt: skip
        assert stack.wait(self.job).state == "SUCCEEDED"

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`saeserve words…`, running."""
        return subprocess.Popen(
            [*COMMAND, *words],
            env=self.environment,
            cwd=self.here,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str) -> str:
        """What `saeserve words…` prints; it must succeed."""
        process = self.start(*words)
        output, told = process.communicate(timeout=300)
        assert process.returncode == 0, told
        return output

    def json(self, *words: str) -> Any:  # noqa: ANN401 - whatever the command prints
        """The JSON that a command prints."""
        return json.loads(self.run(*words, "--json"))


@pytest.fixture(scope="module")
def deployment(stack: RealStack) -> Deployment:
    return Deployment(stack)


def test_a_model_is_downloaded_whole(deployment: Deployment) -> None:
    done = deployment.json("models", "download", "sae")
    assert done["resource"] == "models/sae/versions/1"
    folder = deployment.here / done["folder"]
    stored = deployment.stack.models.resolve("sae").folder
    assert {path.name for path in folder.iterdir()} == {path.name for path in stored.iterdir()}
    weights = (folder / "model.safetensors").read_bytes()
    assert weights == deployment.stack.weights("models/sae/versions/1")
    assert load_model(folder).config.d_sae == 64
    again = deployment.start("models", "download", "sae")
    _, told = again.communicate(timeout=300)
    assert again.returncode == 1
    assert "sae-1 exists already" in told


def test_logs_events_and_checkpoints_are_downloaded(deployment: Deployment) -> None:
    log = deployment.run("jobs", "logs", deployment.job)
    assert f"train job {deployment.job}: attempt 1 starts" in log
    assert "attempt 1 ends: FINISHED" in log
    lines = deployment.run("jobs", "logs", deployment.job, "--events").splitlines()
    assert json.loads(lines[0])["type"] == "attempt_started"
    deployment.run("jobs", "download", deployment.job, "logs")
    found = deployment.here / "logs" / "1"
    assert (found / "log.txt").read_text() == log
    assert (found / "events.jsonl").read_text().splitlines() == lines
    deployment.run("jobs", "download", deployment.job, "newest", "--checkpoint")
    manifest = json.loads((deployment.here / "newest" / "manifest.json").read_text())
    step = str(manifest["step"])
    deployment.run("jobs", "download", deployment.job, "same", "--step", step)
    assert {path.name for path in (deployment.here / "same").iterdir()} >= set(manifest["files"])


def test_an_export_goes_out_and_a_killed_upload_comes_back_in(deployment: Deployment) -> None:
    deployment.run("models", "export", "sae", "--format", "saelens", "--watch")
    deployment.run("models", "download", "sae", "out", "--format", "saelens")
    folder = deployment.here / "out"
    (folder / "notes.bin").write_bytes(os.urandom(LARGE))
    words = ("models", "import", "back", "./out", "--format", "saelens", "--watch")
    uploads = deployment.stack.store.path("uploads")
    process = deployment.start(*words)
    # The other files are small: theirs may be whole before the signal arrives.
    until(lambda: any(uploads.rglob("notes.bin*.part")) or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=300)
    [part] = uploads.rglob("*.part")
    assert part.stat().st_size < LARGE
    deployment.run(*words)
    assert deployment.json("models", "show", "back")["d_sae"] == 64
    until(lambda: not list(uploads.iterdir()), what="the end of the upload")
    sent, came = (
        load_model(deployment.stack.models.resolve(name).folder) for name in ("sae", "back")
    )
    assert (sent.W_dec - came.W_dec).abs().max() < 1e-6


def test_what_is_not_there_is_told_in_a_line(deployment: Deployment) -> None:
    for words, text in (
        (
            ("models", "import", "x", "./nowhere", "--format", "saelens"),
            "no file ./nowhere on this",
        ),
        (("models", "download", "sae", "x", "--format", "sparsify"), "is not exported as sparsify"),
        (("models", "download", "nothing"), "nothing"),
        (("jobs", "logs", deployment.job, "--attempt", "9"), "no log.txt of attempt 9"),
        (("jobs", "download", deployment.job, "x", "--step", "7"), "no checkpoint of step 7"),
        (("jobs", "download", "j-1", "x"), "is not a job id"),
    ):
        process = deployment.start(*words)
        _, told = process.communicate(timeout=300)
        assert process.returncode == 1
        assert text in told
        assert "Traceback" not in told
    assert not list(deployment.here.glob("x*"))


def test_the_doctor_is_content_with_a_deployment_elsewhere(deployment: Deployment) -> None:
    deployment.stack.inference()
    deployment.environment["SAESERVE_INFERENCE_ADDRESS"] = deployment.stack.inference_address
    found = {each["subject"]: each for each in deployment.json("doctor")}
    assert "fail" not in {each["verdict"] for each in found.values()}
    assert "not on this machine" in found["broker"]["detail"]
    assert not (deployment.here / "no-store").exists()
