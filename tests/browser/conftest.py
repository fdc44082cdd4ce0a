"""A furnished explorer, and Debian's Chromium."""

from __future__ import annotations

import importlib
import shutil
from collections.abc import Iterator
from typing import Any, cast

import pytest
from tests.fakes.control_server import Control
from tests.fakes.explorer_server import explorer, furnish
from tests.fakes.features import planted
from tests.fakes.valkey import Valkey

from saeserve.client import Client

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
_INSTALL = "pip install playwright axe-playwright-python"


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
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """(address of the explorer, id of a job that trained)."""
    with Valkey(tmp_path_factory.mktemp("v")) as valkey:
        control = Control(tmp_path_factory.mktemp("c"), valkey)
        control.start()
        assert control.server is not None
        with Client(control.server.bound) as client:
            job = furnish(control, client, control.folder)[0].id
        with planted() as inference, explorer(control.server.bound, inference) as parts:
            yield parts.url, job
        control.stop()
