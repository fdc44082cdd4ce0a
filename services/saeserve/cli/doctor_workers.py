"""What the doctor finds of the deployment's workers, wherever they run."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from saeserve.cli.figures import listed, size
from saeserve.cli.finding import Finding
from saeserve.cli.output import client_of
from saeserve.cli.settings import CliSettings
from saeserve.client.errors import ClientError
from saeserve.client.server import ResourceClass

ANSWER_SECONDS = 5.0
_START = "start one: saeserve up, or python -m saeserve.worker"


def workers(settings: CliSettings) -> Iterator[Finding]:
    """A line for each resource class, as control knows its live workers."""
    try:
        with client_of(settings, timeout=ANSWER_SECONDS) as client:
            classes = client.server.workers()
    except ClientError as error:
        yield Finding("workers", "warn", f"not known: {error.message}", error.remedy)
        return
    served = any(each.machines for each in classes)
    for each in classes:
        yield _finding(each, served)


def _finding(each: ResourceClass, served: bool) -> Finding:
    subject = f"workers of class {each.name}"
    waiting = f"{each.queued} queued" if each.queued else "nothing queued"
    if each.machines:
        return Finding(subject, "ok", f"{_machines(each)}; {waiting}")
    seen = f"none was heard of; {waiting}"
    if each.queued or not served:
        return Finding(subject, "warn", seen, f"its jobs stay QUEUED; {_START}")
    return Finding(subject, "ok", seen)


def _machines(each: ResourceClass) -> str:
    """Machines of a kind once, with their number: a GPU by the name that torch gives it."""
    kinds = Counter((one.kind, one.memory_bytes) for one in each.machines)
    return listed(f"{number} × {kind}, {size(memory)}" for (kind, memory), number in kinds.items())
