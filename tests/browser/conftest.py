"""An explorer of real services with something of everything, and Debian's Chromium."""

from __future__ import annotations

import importlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, cast

import pytest
from tests.fakes.real_stack import RealStack
from tests.fakes.tiny_models import WORDS, save_model, tiny_llama

from saeserve.client.values import Job

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
_INSTALL = "pip install playwright axe-playwright-python"
HARVEST = {
    "dataset": "acts",
    "language_model": {"path": "root:lm"},
    "texts": [{"path": "root:text.txt"}],
    "sites": [{"hook": "resid_post", "layer": 1}],
    "context_length": 32,
}
TRAIN = {"dataset": "acts", "topk": {"k": 4}, "d_sae": 64, "tokens": 40_000, "batch_size": 512}


@dataclass(frozen=True)
class Site:
    """Where the explorer is, and ids of jobs by what they are."""

    url: str
    jobs: dict[str, str]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    """The browser; fails naming what is not installed."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.fail("there is no chromium on PATH: apt install chromium")
    try:
        api = cast(Any, importlib.import_module("playwright.sync_api"))
    except ModuleNotFoundError:
        pytest.fail(f"the package playwright is not installed: {_INSTALL}")
    with api.sync_playwright() as running:
        browser = running.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def axe() -> Any:  # noqa: ANN401 - the package has no types
    """The accessibility checker; fails naming what is not installed."""
    try:
        return cast(Any, importlib.import_module("axe_playwright_python.sync_playwright")).Axe()
    except ModuleNotFoundError:
        pytest.fail(f"the package axe-playwright-python is not installed: {_INSTALL}")


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    stack = RealStack(tmp_path_factory.mktemp("s") / "x")
    try:
        stack.start_broker()
        stack.control()
        stack.worker()
        stack.inference()
        jobs = _furnish(stack)
        yield Site(stack.explorer().ready["address"], jobs)
    finally:
        stack.close()


def _furnish(stack: RealStack) -> dict[str, str]:
    """Run a job of every kind on a tiny language model, and leave one that waits."""
    (stack.root / "lm").mkdir()
    save_model(tiny_llama(), stack.root / "lm")
    draw = random.Random(0)
    text = "\n\n".join(
        " ".join(draw.choices(WORDS, weights=range(60, 0, -1), k=90)) for _ in range(120)
    )
    (stack.root / "text.txt").write_text(text)
    made = {"harvest": _ran(stack, {"harvest": HARVEST}).id}
    for seed in (0, 1):
        spec = {"train": TRAIN | {"model": "sae", "seed": seed}}
        made["train"] = _ran(stack, spec).id
        made["collect"] = _ran(stack, {"collect": {"model": "sae", "dataset": "acts"}}).id
    bare = TRAIN | {"model": "bare", "topk": {"k": 2}, "d_sae": 32, "tokens": 8192}
    _ran(stack, {"train": bare})
    made["evaluate"] = _ran(stack, {"evaluate": {"model": "sae@2", "dataset": "acts"}}).id
    texts = {"model": "sae@2", "dataset": "acts"}
    edit = {"feature": 5, "add": 30.0}
    prompts = {"prompts": ["w1 w2 w3"], "edits": [edit], "max_new_tokens": 24, "temperature": 1.0}
    made["generate"] = _ran(stack, {"generate": texts | prompts}).id
    words = {"texts": ["w1 w2 w3 w40 w5 w6 w17 w8 w9 w10"], "features": 4}
    made["annotate"] = _ran(stack, {"annotate": texts | words}).id
    long = {"texts": [" ".join(WORDS)]}
    made["failed"] = _ended(stack, {"annotate": texts | long}).id
    made["waits"] = stack.client.jobs.submit(
        {"train": TRAIN | {"model": "sae", "device": "cuda"}}
    ).id
    return made


def _ended(stack: RealStack, spec: dict[str, Any]) -> Job:
    return stack.wait(stack.client.jobs.submit(spec).id, seconds=300)


def _ran(stack: RealStack, spec: dict[str, Any]) -> Job:
    job = _ended(stack, spec)
    assert job.state == "SUCCEEDED", job.error
    return job
