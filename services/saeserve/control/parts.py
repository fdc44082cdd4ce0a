"""The rooms below, and the handlers made of them."""

from __future__ import annotations

from dataclasses import dataclass

from saeserve.control.converters.jobs import etag
from saeserve.control.handlers.catalog import JobCatalog
from saeserve.control.handlers.datasets import DatasetHandlers
from saeserve.control.handlers.deleting import Deleter
from saeserve.control.handlers.downloads import Downloads
from saeserve.control.handlers.garbage import Garbage
from saeserve.control.handlers.inputs import Inputs
from saeserve.control.handlers.jobs import Canceller
from saeserve.control.handlers.models import ModelHandlers
from saeserve.control.handlers.ownership import OrderOwnership
from saeserve.control.handlers.quota import UploadQuota
from saeserve.control.handlers.resources import Resources
from saeserve.control.handlers.submit import SubmitPolicy, Submitter
from saeserve.control.handlers.transfers import TransferHandlers
from saeserve.control.handlers.usage import LiveUse
from saeserve.control.handlers.waiting import WaitingRoom
from saeserve.control.handlers.watch import Watcher
from saeserve.control.servicers.jobs import JobHandlers
from saeserve.control.settings import ControlSettings
from saeserve.jobs.ledger import Ledger
from saeserve.jobs.ports import Doorbell, JobIndex
from saeserve.jobs.record import JobRecord
from saeserve.jobs.store_gate import StoreGate
from saeserve.platform.store import ArtifactStore
from saeserve.registry.datasets import DatasetRegistry
from saeserve.registry.model_uploads import ModelUploads
from saeserve.registry.models import ModelRegistry
from saeserve.registry.owners import Owners
from saeserve.registry.publication import Publication
from saeserve.registry.roots import Roots


@dataclass(frozen=True)
class Parts:
    """What the services call, and what the reconciler works on."""

    ledger: Ledger
    publication: Publication
    gate: StoreGate
    index: JobIndex
    doorbell: Doorbell
    jobs: JobHandlers
    datasets: DatasetHandlers
    models: ModelHandlers
    transfers: TransferHandlers
    garbage: Garbage

    def ended(self, record: JobRecord) -> None:
        """Give up and clear away what was kept for a job that has ended."""
        self.jobs.canceller.give_up(record)
        self.transfers.ended(record)


def make_parts(
    settings: ControlSettings, store: ArtifactStore, index: JobIndex, doorbell: Doorbell
) -> Parts:
    """Put the handlers together over any index and doorbell."""
    ledger, roots = Ledger(store), Roots(settings.roots)
    datasets, models = DatasetRegistry(store, roots), ModelRegistry(store)
    publication = Publication(store, datasets)
    gate = StoreGate(store, index)
    catalog = JobCatalog(ledger, index)
    use = LiveUse(catalog, models)
    uploads, owners = ModelUploads(store), Owners(store)
    quota = UploadQuota(datasets, uploads, owners)
    inputs = Inputs(datasets, models, roots, use, uploads)
    downloads = Downloads(Resources(ledger, models))
    policy = SubmitPolicy(settings.auto_class, settings.max_attempts)
    jobs = JobHandlers(
        catalog=catalog,
        submitter=Submitter(
            ledger, index, doorbell, inputs, OrderOwnership(owners, uploads), policy
        ),
        canceller=Canceller(ledger, index, publication, etag),
        watcher=Watcher(catalog, index, ledger),
        deleter=Deleter(catalog, ledger, index, publication.apply),
        waiting=WaitingRoom(index),
    )
    return Parts(
        ledger=ledger,
        publication=publication,
        gate=gate,
        index=index,
        doorbell=doorbell,
        jobs=jobs,
        datasets=DatasetHandlers(datasets, use, owners, quota),
        models=ModelHandlers(models, use, owners),
        transfers=TransferHandlers(downloads, uploads, use, quota, 3600 * settings.upload_hours),
        garbage=Garbage(store, settings.retention),
    )
