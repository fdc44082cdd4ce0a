"""Which model versions can be seen: those that the result of their job names."""

from __future__ import annotations

from saeserve.platform.store import ArtifactStore
from saeserve.registry.layout import claimed_numbers, version_key
from saeserve.registry.outcomes import job_of, outcome_of
from saeserve.registry.references import resource_of
from saeserve.registry.stored import read_stored
from saeserve.registry.version import CLAIM, DELETED, MANIFEST, Claim

PUBLISHED = "published"
"""Empty file in a version's folder that a result names; saves its readers the result."""


class Visibility:
    """Answers for the versions of a store, and remembers those that it has found visible."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._seen: set[str] = set()

    def numbers(self, name: str) -> list[int]:
        """Numbers of the versions of `name` that can be used, ascending."""
        return [number for number in claimed_numbers(self._store, name) if self.of(name, number)]

    def newest(self, name: str) -> int | None:
        """The highest of `numbers`."""
        numbers = reversed(claimed_numbers(self._store, name))
        return next((number for number in numbers if self.of(name, number)), None)

    def of(self, name: str, number: int) -> bool:
        """Whether the version is there and may be used."""
        if not self._store.exists(version_key(name, number, MANIFEST)):
            return False
        resource = resource_of(name, number)
        if resource not in self._seen and self._named(name, number):
            self._seen.add(resource)
        return resource in self._seen

    def reveal(self, name: str, number: int) -> None:
        """Record in the version's folder that a result names it."""
        if self._store.exists(version_key(name, number, MANIFEST)):
            self._store.put_if_absent(version_key(name, number, PUBLISHED), b"")

    def withdraw(self, name: str, job: str) -> None:
        """Remove the versions of a job that ended without naming them; their numbers stay used."""
        for number in claimed_numbers(self._store, name):
            claim = self._claim(name, number)
            if claim is not None and claim.job == job and not self.of(name, number):
                bury(self._store, name, number)

    def _named(self, name: str, number: int) -> bool:
        if self._store.exists(version_key(name, number, PUBLISHED)):
            return True
        claim = self._claim(name, number)
        if claim is None:
            return True  # made by hand
        outcome = outcome_of(self._store, claim.job)
        if outcome is not None:
            return outcome.names_model(resource_of(name, number))
        # A job that was removed since: what an ended job had not published went with its end.
        return job_of(self._store, claim.job) is None

    def _claim(self, name: str, number: int) -> Claim | None:
        return read_stored(self._store, version_key(name, number, CLAIM), Claim)


def bury(store: ArtifactStore, name: str, number: int) -> None:
    """Make a version gone by one rename; its claim stays, so that no job publishes it again."""
    folder = store.path(version_key(name, number))
    if (folder / MANIFEST).exists():
        (folder / MANIFEST).rename(folder / DELETED)
    for file in folder.iterdir():
        if file.name not in (CLAIM, DELETED):
            file.unlink(missing_ok=True)
