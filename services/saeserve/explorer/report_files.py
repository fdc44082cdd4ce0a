"""Writes a report: the pages of jobs and models as files that a browser opens without a server."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from saeserve.client import Client
from saeserve.client.errors import PreconditionError, UnavailableError
from saeserve.explorer.application import STATIC, pages_of
from saeserve.explorer.formats import segment
from saeserve.explorer.in_process import page_of
from saeserve.explorer.metrics import ExplorerMetrics
from saeserve.explorer.models import reference_of
from saeserve.explorer.report_index import ADDRESS, Report, report_of, router_of
from saeserve.explorer.static_pages import INDEX, file_of, links_of, relinked

_MARK = "report.json"
"""Names the addresses of all files: a folder that has it is a report, and may be replaced."""
_FEATURE = re.compile(r"/models/[^/]+/features/\d+")
_OK, _CONFLICT, _NOT_FOUND = 200, 409, 404


@dataclass(frozen=True)
class Written:
    """A report on the disk."""

    folder: Path
    pages: int


@dataclass(frozen=True)
class _Plan:
    """Addresses of the pages that are written, in their order, and other addresses of them."""

    pages: dict[str, None]
    aliases: dict[str, str]

    def file(self, address: str) -> str | None:
        """The file of an address, None for a page that is left out."""
        known = self.aliases.get(address, address)
        if known == ADDRESS:
            return INDEX
        written = known in self.pages or known.startswith("/static/") or _is_picture(known)
        return file_of(known) if written else None

    def add(self, *addresses: str) -> None:
        """Have pages written."""
        self.pages.update(dict.fromkeys(addresses))


@dataclass(frozen=True)
class _OneClient:
    """Everything is seen with the eyes of who asks for the report."""

    one: Client

    def client(self, token: str) -> Client:  # noqa: ARG002 - callers have none
        """Whoever asked for the report, whatever the token."""
        return self.one


def write_report(
    client: Client,
    names: Sequence[str],
    folder: Path,
    *,
    features: int = 100,
) -> Written:
    """Write the pages of jobs (by id) and models (by reference) into `folder`, with the densest
    `features` of each model whose features were collected. The folder appears when it is whole;
    an earlier report there is replaced.

    Raises ClientError, PreconditionError for a folder that holds something else.
    """
    _check_free(folder)
    report = report_of(client, names)
    metrics = ExplorerMetrics(CollectorRegistry())
    app = pages_of(_OneClient(client), metrics, exported=True)
    app.include_router(router_of(report))
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = folder.with_name(f".{folder.name}.{uuid4().hex[:8]}.partial")
    try:
        pages = asyncio.run(_write(app, report, partial, features))
        _put(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Written(folder, pages)


def _check_free(folder: Path) -> None:
    if folder.exists() and not (folder / _MARK).is_file():
        raise PreconditionError(
            f"{folder} exists, and was not written as a report",
            reason="FOLDER_EXISTS",
            remedy="name a folder that does not exist, or one that holds an earlier report",
        )


def _put(partial: Path, folder: Path) -> None:
    old = partial.with_suffix(".old")
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


async def _write(app: FastAPI, report: Report, folder: Path, features: int) -> int:
    folder.mkdir()
    for file in STATIC.iterdir():
        shutil.copyfile(file, folder / file.name)
    plan = await _planned(app, report, features)
    pictures: dict[str, None] = {}
    for address in plan.pages:
        page = await _fetched(app, address)
        pictures.update(dict.fromkeys(filter(_is_picture, links_of(page))))
        (folder / str(plan.file(address))).write_text(relinked(page, plan.file), encoding="utf-8")
    for address in pictures:
        drawn = await _fetched(app, address)
        (folder / file_of(address)).write_text(drawn, encoding="utf-8")
    files = {address: plan.file(address) for address in [*plan.pages, *pictures]}
    (folder / _MARK).write_text(json.dumps(files, indent=1) + "\n", encoding="utf-8")
    return len(plan.pages)


def _is_picture(address: str) -> bool:
    """Whether it is a plot; pictures of the style are copied as they are."""
    return address.partition("?")[0].endswith(".svg") and not address.startswith("/static/")


async def _planned(app: FastAPI, report: Report, features: int) -> _Plan:
    plan = _Plan({ADDRESS: None}, {"/": ADDRESS})
    for job in report.jobs:
        at = f"/jobs/{segment(job.id)}"
        plan.add(at, f"{at}/curves")
    for each in report.models:
        at = f"/models/{segment(reference_of(each.model))}"
        plan.add(at)
        await _plan_features(app, plan, f"{at}/features", features)
    return plan


async def _plan_features(app: FastAPI, plan: _Plan, at: str, features: int) -> None:
    """Lists of features, page by page, until they name enough; and those features."""
    found: list[str] = []
    async for address, page in _lists(app, at):
        plan.aliases.setdefault(at, address)
        plan.add(address)
        found += [each for each in links_of(page) if _FEATURE.fullmatch(each)]
        if len(found) >= features:
            break
    plan.add(*found[:features])


async def _lists(app: FastAPI, at: str) -> AsyncIterator[tuple[str, str]]:
    """Addresses and texts of the lists; none for a model whose features were not collected."""
    address: str | None = f"{at}?sort=density&page=1"
    while address is not None:
        answer = await page_of(app, address)
        if address.endswith("page=1") and answer.status in (_CONFLICT, _NOT_FOUND):
            return
        page = await _fetched(app, address)
        yield address, page
        number = int(address.rpartition("=")[2]) + 1
        following = f"{at}?sort=density&page={number}"
        address = following if following in links_of(page) else None


async def _fetched(app: FastAPI, address: str) -> str:
    answer = await page_of(app, address)
    if answer.status != _OK:
        raise UnavailableError(
            f"the page {address} could not be made: HTTP {answer.status}",
            reason="PAGE_FAILED",
            remedy="look at it in the explorer, which says why, and write the report again",
        )
    return answer.body.decode()
