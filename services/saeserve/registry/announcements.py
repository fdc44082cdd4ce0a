"""Models that jobs are making: known before their first version, so that callers can wait."""

from __future__ import annotations

from saeserve.platform.store import ArtifactStore


class Announcements:
    """Empty files models/<name>/training/<job>; one counts until that job has ended."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def add(self, name: str, job: str) -> None:
        """Say that `job` will publish a version of `name`. May be said again."""
        self._store.put_if_absent(f"{_folder(name)}/{job}", b"")

    def live(self, name: str) -> list[str]:
        """Jobs that said so and have not ended."""
        jobs = self._store.names(_folder(name))
        return [job for job in jobs if self._live(job)]

    def _live(self, job: str) -> bool:
        """Whether the job was submitted, has not been deleted and has not ended."""
        if self._store.exists(f"jobs/{job}/result.json"):
            return False
        return self._store.exists(f"jobs/{job}/job.json")


def _folder(name: str) -> str:
    return f"models/{name}/training"
