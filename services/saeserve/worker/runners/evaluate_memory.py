"""What evaluations found is kept, so that the same question is not computed twice.

A file of the store is named by the hash of all that it depends on, and so never out of date:
contents of model and data set, state of the language model's files, settings, release. They lie by
data set, `evaluations/<name>/<hash>.json`, and go with it (control/handlers/garbage).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

import numpy as np

from saeserve.core.evaluation.arms import ArmTable
from saeserve.core.formats.manifest import DatasetManifest
from saeserve.registry.layout import evaluation_key
from saeserve.worker.runners.base import RunContext
from saeserve.worker.runners.evaluate_subject import Subject

FORMAT = 1
"""Raised when what is computed changes."""
Facts = dict[str, Any]


@dataclass(frozen=True)
class Memory:
    """Findings about one data set in the store."""

    context: RunContext
    manifest: DatasetManifest
    reads_language_model: bool

    def report(self, subject: Subject) -> Mapping[str, Any] | None:
        """The whole report of an earlier evaluation of the same model with the same settings."""
        return self._read(self._of_report(subject))

    def keep_report(self, subject: Subject, report: Mapping[str, Any]) -> None:
        """Let later evaluations have the report."""
        self._write(self._of_report(subject), report)

    def arm(self, facts: Facts) -> Mapping[str, ArmTable]:
        """Tables of an arm that knows no model, by quantity; empty where none are kept."""
        found = self._read(self._common() | facts)
        return {name: ArmTable(rows) for name, rows in found.items()} if found else {}

    def keep_arm(self, facts: Facts, tables: Mapping[str, ArmTable]) -> None:
        """Let later evaluations have the arm, unless the language model made no numbers of it."""
        if not all(np.isfinite(table.values()).all() for table in tables.values()):
            return
        rows = {name: table.rows for name, table in tables.items()}
        self._write(self._common() | facts, rows)

    def _of_report(self, subject: Subject) -> Facts:
        asked = subject.spec.to_json()
        settings = {name: asked[name] for name in asked if name not in ("model", "models")}
        known = {"settings": settings, "model": subject.content_sha256, "sources": subject.names}
        return self._common() | known | {"resource": subject.resource}

    def _common(self) -> Facts:
        return {
            "format": FORMAT,
            "release": version("saeserve"),
            "class": self.context.submission.resource_class,
            "dataset": self.manifest.sha256,
            "language_model": self._files() if self.reads_language_model else [],
        }

    def _read(self, facts: Facts) -> Mapping[str, Any] | None:
        data = self.context.store.read(self._key(facts))
        return None if data is None else cast("Mapping[str, Any]", json.loads(data))

    def _write(self, facts: Facts, value: Mapping[str, Any]) -> None:
        self.context.check_fence()
        data = json.dumps(value, allow_nan=False).encode()
        self.context.store.put_if_absent(self._key(facts), data)

    def _key(self, facts: Facts) -> str:
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()
        return evaluation_key(self.manifest.name, digest)

    def _files(self) -> list[tuple[str, int, int]]:
        """Name, size and time of change of the language model's files; hashing them would take
        longer than much of an evaluation."""
        known = self.manifest.language_model
        if known is None:
            return []
        folder = self.context.roots.resolve(known.path, "language_model.path")
        stats = ((path, path.stat()) for path in sorted(folder.iterdir()) if path.is_file())
        return [(path.name, stat.st_size, stat.st_mtime_ns) for path, stat in stats]
