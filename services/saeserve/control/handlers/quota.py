"""How much a caller's uploads may hold while they wait for a job: files of models and data sets."""

from __future__ import annotations

from saeserve.errors import QuotaExceeded
from saeserve.platform.auth.caller import Caller
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.model_uploads import ModelUploads
from saeserve.registry.owners import Owners


class UploadQuota:
    """Adds up what the owner of a token has announced, whether it has arrived or not."""

    def __init__(self, datasets: DatasetRegistry, uploads: ModelUploads, owners: Owners) -> None:
        self._datasets = datasets
        self._uploads = uploads
        self._owners = owners

    def check(self, caller: Caller, announced: int, resource: str, file: str = "") -> None:
        """Raise QuotaExceeded unless `announced` bytes may be added; what `resource` (an upload,
        or `file` of a data set) holds already is among them."""
        if caller.upload_bytes is None:
            return
        held = self._of_uploads(caller.owner, resource)
        held += self._of_datasets(caller.owner, resource, file)
        if held + announced > caller.upload_bytes:
            raise QuotaExceeded(
                f"{announced} bytes are announced, and uploads of {caller.owner} hold {held}; "
                f"token {caller.token} allows {caller.upload_bytes} together",
                code="QUOTA_EXCEEDED",
                remedy="import, ingest or delete what was uploaded, or ask the operator for more",
            )

    def _of_uploads(self, owner: str, without: str) -> int:
        others = (each for each in self._uploads.resources() if each != without)
        return sum(self._uploads.announced_bytes(each, owner) for each in others)

    def _of_datasets(self, owner: str, resource: str, file: str) -> int:
        return sum(
            each.size_bytes
            for name in self._datasets.names()
            if self._owners.owner("datasets", name) == owner
            for each in self._datasets.uploaded(name)
            if (name, each.name) != (resource, file)
        )
