"""What a client submits, checked by form."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from saeserve.control.handlers.bounds import check_count, check_spec
from saeserve.control.handlers.catalog import checked_job_id
from saeserve.errors import InvalidInput
from saeserve.platform.auth.caller import EVERYONE, Caller

_MAX_TEXT = 256
_MAX_LABELS = 64
_MAX_WAITS = 100
_MAX_ATTEMPTS = 100


@dataclass(frozen=True)
class JobOrder:
    """One SubmitJob call; `spec` as it came, in plain data."""

    spec: Mapping[str, object]
    request_id: str = ""
    validate_only: bool = False
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    owner: str = ""
    priority: int = 0
    waits_for: tuple[str, ...] = ()
    max_attempts: int = 0
    caller: Caller = EVERYONE
    """Who submits, and so whose names and uploads the job may use."""

    def check(self) -> None:
        """Raise InvalidInput for the first field that cannot be."""
        for name in ("request_id", "owner"):
            _check_text(getattr(self, name), name)
        check_spec(self.spec, "spec")
        check_count(self.labels, "labels", _MAX_LABELS)
        for key, value in self.labels.items():
            _check_label(key, value)
        check_count(self.waits_for, "waits_for", _MAX_WAITS)
        for index, job in enumerate(self.waits_for):
            checked_job_id(job, f"waits_for[{index}]")
        if not 0 <= self.max_attempts <= _MAX_ATTEMPTS:
            raise InvalidInput(
                f"{self.max_attempts} attempts cannot be granted",
                field="max_attempts",
                remedy=f"choose 1 to {_MAX_ATTEMPTS}, or 0 for the server's default",
            )

    @property
    def body_sha256(self) -> str:
        """Hash of all that a repeat under the same request id must repeat."""
        body = {
            "spec": self.spec,
            "labels": dict(self.labels),
            "owner": self.owner,
            "priority": self.priority,
            "waits_for": self.waits_for,
            "max_attempts": self.max_attempts,
        }
        return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _check_label(key: str, value: str) -> None:
    if not key:
        raise InvalidInput("a label has no name", field="labels", remedy="name it")
    _check_text(key, "labels")
    _check_text(value, f"labels[{key}]")


def _check_text(text: str, name: str) -> None:
    if len(text) > _MAX_TEXT or not text.isprintable():
        raise InvalidInput(
            f"{name} is longer than {_MAX_TEXT} characters or holds control characters",
            field=name,
            remedy="shorten it",
        )
