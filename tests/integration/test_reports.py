"""Reports: the explorer's pages as files, over a real control service."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import pytest
from tests.fakes.control_server import Control
from tests.fakes.explorer_server import HOSTILE, furnish
from tests.fakes.features import planted
from tests.fakes.valkey import Valkey

from saeserve.client import Client
from saeserve.client.errors import NotFoundError, PreconditionError, UnavailableError
from saeserve.client.values import Job
from saeserve.explorer import report_files
from saeserve.explorer.report_files import write_report

_LINKS = re.compile(r' (?:href|src|srcset)="([^"]*)"')


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory, valkey: Valkey) -> Iterator[Control]:
    service = Control(tmp_path_factory.mktemp("c"), valkey)
    service.start()
    yield service
    service.stop()


@pytest.fixture(scope="module")
def client(control: Control) -> Iterator[Client]:
    assert control.server is not None
    with planted() as inference, Client(control.server.bound, inference) as client:
        yield client


@pytest.fixture(scope="module")
def jobs(client: Client, control: Control) -> tuple[Job, Job, Job]:
    return furnish(control, client, control.folder)


def test_a_report_needs_no_server(
    client: Client, jobs: tuple[Job, Job, Job], tmp_path: Path
) -> None:
    train, evaluate, _ = jobs
    out = tmp_path / "a" / "report"
    written = write_report(client, [train.id, evaluate.id], out, features=3)
    pages = {path.name: path.read_text() for path in out.glob("*.html")}
    assert len(pages) == written.pages
    for name, page in pages.items():
        for link in map(unescape, _LINKS.findall(page)):
            assert link.startswith("#") or (out / link).is_file(), f"{name} links to {link}"
        assert "<form" not in page
        assert HOSTILE not in page
    index = pages["index.html"]
    assert train.id in index
    assert "0.03" in index, "the evaluation's FVU"
    files = json.loads((out / "report.json").read_text())
    assert sum("/features/" in address for address in files) >= 3
    assert (out / files["/models/sae@1/density.svg"]).read_text().startswith("<?xml")


def test_an_earlier_report_is_replaced_and_nothing_else_is(
    client: Client, jobs: tuple[Job, Job, Job], tmp_path: Path
) -> None:
    first = write_report(client, [jobs[0].id], tmp_path / "report", features=0)
    (first.folder / "of-the-first").touch()
    write_report(client, ["sae@1"], tmp_path / "report", features=0)
    assert not (tmp_path / "report" / "of-the-first").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["report"]
    (tmp_path / "thesis").mkdir()
    with pytest.raises(PreconditionError, match="not written as a report"):
        write_report(client, ["sae@1"], tmp_path / "thesis")
    with pytest.raises(NotFoundError):
        write_report(client, ["j-absent"], tmp_path / "other")
    assert {path.name for path in tmp_path.iterdir()} == {"report", "thesis"}


def test_a_page_that_fails_leaves_no_report(
    client: Client, jobs: tuple[Job, Job, Job], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(report_files, "ADDRESS", "/there-is-no-such-page")
    with pytest.raises(UnavailableError, match="there-is-no-such-page"):
        write_report(client, [jobs[0].id], tmp_path / "report", features=0)
    assert list(tmp_path.iterdir()) == []
