"""Published models: immutable, content-hashed versions and the aliases that point at them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from saeserve.errors import FailedPrecondition, NotFound, ServiceError
from saeserve.platform.store import ArtifactStore
from saeserve.registry.aliases import Aliases
from saeserve.registry.announcements import Announcements
from saeserve.registry.bundles import Bundles
from saeserve.registry.layout import version_key
from saeserve.registry.names import checked_name
from saeserve.registry.publishing import publish_version
from saeserve.registry.references import (
    Reference,
    checked_alias,
    parse_reference,
    resource_of,
)
from saeserve.registry.refusals import bad_reference, in_use
from saeserve.registry.version import (
    CONFIG,
    MANIFEST,
    Claim,
    ModelVersion,
    read_config,
    read_manifest,
)
from saeserve.registry.visibility import Visibility, bury

Users = Callable[[str], Sequence[str]]
"""Ids of the jobs that use a version (by resource name) now; given by who knows the jobs."""


class ModelRegistry:
    """Versions below models/<name>/versions/<n>/ and aliases below models/<name>/aliases/."""

    def __init__(self, store: ArtifactStore, clock: Callable[[], float] = time.time) -> None:
        self._store = store
        self._clock = clock
        self._aliases = Aliases(store)
        self._announcements = Announcements(store)
        self._visible = Visibility(store)
        self._bundles = Bundles(store)

    def resolve(self, reference: str, field: str = "model") -> ModelVersion:
        """The version that `reference` means now.

        Raises InvalidInput for a text that is not a reference, NotFound for what does not exist,
        FailedPrecondition for a model whose first version a job is making and FormatError for a
        version that this release cannot read.
        """
        wanted = parse_reference(reference, field)
        return self.load(wanted.name, self._number(wanted, field), field)

    def locate(self, reference: str, field: str = "model") -> str:
        """Resource name of the version that `reference` means now; reads no manifest.

        Cheap enough for every request. Raises as `resolve` does, but for FormatError.
        """
        wanted = parse_reference(reference, field)
        number = self._number(wanted, field)
        if not self._visible.of(wanted.name, number):
            raise self._missing(wanted.name, number, field)
        return resource_of(wanted.name, number)

    def announce(self, name: str, job: str) -> None:
        """Say that `job` will publish a version of `name`, for whoever asks before it has."""
        self._announcements.add(checked_name(name, "model"), job)

    def publish(self, name: str, job: str, index: int, folder: Path) -> str:
        """Copy `folder` (config.json, model.safetensors, and README.md if there is one) in as a
        new version; its resource name.

        The same (job, index) is published once, whoever calls again and however often. The
        version is seen once the job's result names it (or the store holds no such job). Raises
        InvalidInput for a bad name, FormatError for a folder that is not an exported model,
        Unavailable when the disk is full.
        """
        checked_name(name, "model")
        claim = Claim(job=job, index=index)
        number = publish_version(self._store, name, claim, folder, self._clock())
        return resource_of(name, number)

    def keys(self, name: str = "") -> list[tuple[str, int]]:
        """(name, version) of every version, by name, newest first; opens no file."""
        names = [checked_name(name, "name")] if name else self._store.names("models")
        return [(each, n) for each in names for n in reversed(self._visible.numbers(each))]

    def list(self, name: str = "") -> list[ModelVersion]:
        """Every version, or every version of `name`, by name, newest first."""
        return [self.load(each, version) for each, version in self.keys(name)]

    def load(self, name: str, version: int, field: str = "model") -> ModelVersion:
        """One version. Raises NotFound and FormatError as `resolve` does."""
        manifest = self._store.read(version_key(name, version, MANIFEST))
        config = self._store.read(version_key(name, version, CONFIG))
        if manifest is None or config is None or not self._visible.of(name, version):
            raise self._missing(name, version, field)
        resource = resource_of(name, version)
        stored = read_manifest(manifest, f"{resource}/{MANIFEST}")
        return ModelVersion(
            resource=resource,
            name=name,
            version=version,
            folder=self._store.path(resource),
            config=read_config(config, f"{resource}/{CONFIG}"),
            content_sha256=stored.content_sha256,
            size_bytes=stored.size_bytes,
            created=stored.created,
            job=stored.job,
            aliases=self._aliases.pointing_at(name, version),
        )

    def set_alias(self, name: str, alias: str, version: int) -> ModelVersion:
        """Point `alias` at a version, atomically, and return that version."""
        checked_name(name, "name")
        checked_alias(alias, "alias")
        self.load(name, version, "version")
        self._aliases.point(name, alias, version)
        return self.load(name, version, "version")

    def delete_alias(self, name: str, alias: str) -> None:
        """Remove an alias. Raises NotFound when it is not there."""
        self._aliases.remove(checked_name(name, "name"), checked_alias(alias, "alias"))

    def delete_version(self, reference: str, users: Users, *, force: bool = False) -> None:
        """Delete the version that `reference` names by number, and the bundles of its features; its
        number is not used again.

        Raises FailedPrecondition naming the aliases and `users` that hold it, unless forced; then
        its aliases go with it.
        """
        wanted = _one_version(reference)
        resource = resource_of(wanted.name, wanted.version)
        if not self._visible.of(wanted.name, wanted.version):
            raise self._missing(wanted.name, wanted.version, "model")
        aliases = self._aliases.pointing_at(wanted.name, wanted.version)
        if not force:
            _refuse_if_used(resource, aliases, users(resource))
        for alias in aliases:
            self._aliases.remove(wanted.name, alias)
        bury(self._store, wanted.name, wanted.version)
        # Last: a collect job looks for the version again once its bundle has appeared.
        self._bundles.remove(wanted.name, wanted.version)

    def _number(self, wanted: Reference, field: str) -> int:
        if wanted.version:
            return wanted.version
        if wanted.alias:
            return self._aliases.target(wanted.name, wanted.alias, field)
        newest = self._visible.newest(wanted.name)
        if newest is None:
            raise self._missing(wanted.name, 0, field)
        return newest

    def _missing(self, name: str, version: int, field: str) -> ServiceError:
        there = ", ".join(str(n) for n in self._visible.numbers(name))
        training = self._announcements.live(name)
        if there:
            message, remedy = f"model {name} has no version {version}", f"there are: {there}"
        elif training:
            return FailedPrecondition(
                f"model {name} is still being made by job {training[0]}",
                code="MODEL_IN_TRAINING",
                field=field,
                remedy="wait for that job",
            )
        else:
            message, remedy = f"there is no model {name}", "a train job publishes it"
        return NotFound(message, code="MODEL_NOT_FOUND", field=field, remedy=remedy)


def _one_version(reference: str) -> Reference:
    wanted = parse_reference(reference)
    if not wanted.version:
        raise bad_reference(
            f"{reference!r} does not name one version",
            field="model",
            remedy="write name@version or models/<name>/versions/<n>",
        )
    return wanted


def _refuse_if_used(resource: str, aliases: Sequence[str], jobs: Sequence[str]) -> None:
    holders = [f"alias {alias}" for alias in aliases] + [f"job {job}" for job in jobs]
    if holders:
        raise in_use(
            f"{resource} is used by {', '.join(holders)}",
            field="model",
            remedy="move the alias and wait for the jobs, or delete with force",
        )
