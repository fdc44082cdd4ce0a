"""The README's commands, run as they stand on a real stack; only names of folders and amounts are
others, so that it takes seconds."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
from tests.fakes.real_stack import RealStack
from tests.fakes.tiny_models import WORDS, save_model, tiny_llama
from tests.repo.pages import blocks, lines
from tests.repo.test_layout import ROOT

from saeserve.cli.stack import child_environment

README = ROOT / "README.md"
AMOUNTS = {
    "--max-tokens 200k": "--max-tokens 4k --set context_length=64",
    "--tokens 1M": "--tokens 40k",
    "--tokens 2M": "--tokens 40k",
    "--d-sae 1024": "--d-sae 64",
    "--d-sae 4096": "--d-sae 128",
    "mine:": "root:",
}


class Reader:
    """Somebody who has the README, a model, texts and activations."""

    def __init__(self, stack: RealStack) -> None:
        self.stack = stack
        self.here = stack.folder / "here"
        self.here.mkdir()
        save_model(tiny_llama(), stack.root / "my-lm")
        texts = stack.root / "texts"
        texts.mkdir()
        draw = np.random.default_rng(0)
        for n in range(60):
            (texts / f"{n}.txt").write_text(" ".join(draw.choice(WORDS, 120)))
        rows = draw.normal(size=(3000, 24)).astype(np.float32)
        np.save(self.here / "activations.npy", rows)
        self.environment = child_environment(
            {
                "SAESERVE_CONTROL_ADDRESS": stack.control_address,
                "SAESERVE_INFERENCE_ADDRESS": stack.inference_address,
                "SAESERVE_STORE": str(self.here / "no-store"),
                "SAESERVE_RUN": str(self.here / "no-run"),
            }
        )

    def command(self, line: str) -> str:
        """A line of the README that begins with saeserve; returns what it prints."""
        for shown, here in AMOUNTS.items():
            line = line.replace(shown, here)
        words = line.removeprefix(".venv/bin/").removeprefix("saeserve ").split()
        return self._run([sys.executable, "-m", "saeserve.cli", *words])

    def python(self, code: str) -> str:
        """A Python block of the README."""
        moved = code.replace("/data/interp", str(self.stack.root)).replace(
            "def main():", "w1 w2 w3"
        )
        return self._run([sys.executable, "-c", moved])

    def _run(self, command: list[str]) -> str:
        ended = subprocess.run(
            command,
            env=self.environment,
            cwd=self.here,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert ended.returncode == 0, f"{command}\n{ended.stdout}\n{ended.stderr}"
        return ended.stdout


@pytest.fixture(scope="module")
def reader(make_stack: Callable[[], RealStack]) -> Reader:
    stack = make_stack()
    stack.start_broker()
    stack.control()
    stack.worker()
    stack.inference()
    return Reader(stack)


def _shown(heading: str, *starts: str) -> list[str]:
    """Command lines below a heading whose words begin so."""
    found = [line for block in blocks(README, heading=heading) for line in lines(block)]
    return [line for line in found if line.removeprefix(".venv/bin/saeserve ").startswith(starts)]


def _of(words: str, commands: list[str], printed: list[str]) -> list[str]:
    """What the commands that begin with `words` printed."""
    start = f".venv/bin/saeserve {words}"
    return [each for line, each in zip(commands, printed, strict=True) if line.startswith(start)]


def test_your_own_model(reader: Reader) -> None:
    commands = _shown("Your own model", "submit", "models", "annotate", "steer")
    assert len(commands) == 9
    printed = [reader.command(line) for line in commands]
    reader.command("saeserve models download my-sae evaluated")
    card = (reader.here / "evaluated" / "README.md").read_text()
    assert "\n## Evaluation\n" in card
    assert "| ce_delta_nats |" in card
    assert "| loss_recovered_mean |" in card
    [features] = _of("annotate", commands, printed)
    assert "feature=value" in features
    [texts] = _of("steer", commands, printed)
    assert "as it is" in texts
    listed, shown = _of("models features", commands, printed)
    assert "density" in listed
    assert "12 of models/my-sae" in shown
    [code] = blocks(README, "python", "Your own model")
    assert reader.python(code).strip()


def test_use_it(reader: Reader) -> None:
    commands = _shown("Use it", "datasets import", "submit train --dataset", "models ls", "encode")
    assert len(commands) == 4
    printed = [reader.command(line.replace("my-", "other-")) for line in commands]
    assert "other-sae" in printed[2]


def test_what_a_deployment_holds_is_downloaded(reader: Reader) -> None:
    reader.command("saeserve models export other-sae --format saelens --watch")
    [model] = [line for line in _shown("Use it", "models download") if "@prod" in line]
    line = model.replace("my-sae@prod", "other-sae")
    reader.command(line)
    assert {path.name for path in (reader.here / "here").iterdir()} >= {"model.safetensors"}
