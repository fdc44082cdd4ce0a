"""Settings of the control service."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from saeserve.control.handlers.garbage import Retention
from saeserve.platform.settings import ServiceSettings


class ControlSettings(ServiceSettings):
    """Settings of the control service, in addition to those of every service."""

    control_address: str = "127.0.0.1:7070"
    """Where gRPC is answered: host:port or unix:/path."""

    control_metrics_address: str = "127.0.0.1:9470"
    """Where /metrics is answered."""

    auto_class: Literal["auto", "cpu", "gpu"] = "auto"
    """Resource class of jobs whose device is "auto": gpu while a live worker takes that class."""

    max_attempts: int = Field(default=3, ge=1, le=100)
    """Attempts of a job that names no number."""

    lease_seconds: float = Field(default=8.0, gt=0)
    """Equal to the workers': a job whose worker was silent for this long is given to another."""

    reconcile_seconds: float = Field(default=0.5, gt=0)
    """Pause between two rounds of the reconciler."""

    leader_seconds: float = Field(default=5.0, gt=0)
    """One of several control services reconciles; silent for this long, it is replaced."""

    transfers: int = Field(default=8, ge=1, le=1000)
    """Files that may be downloaded and uploaded through TransferService at once."""

    upload_hours: float = Field(default=24.0, gt=0)
    """Uploads that no job imports are removed this long after they were last used."""

    disk_reserve_bytes: int | None = Field(default=None, ge=0)
    """What uploads leave free on the store's disk for checkpoints and records of jobs; unset, a
    twentieth of the disk, at most 16 GiB."""

    checkpoint_hours: float = Field(default=7 * 24.0, ge=0)
    """How long a job that has ended keeps its last checkpoint; earlier ones go at once."""

    sweep_seconds: float = Field(default=600.0, gt=0)
    """Pause between two looks for what can be removed from the store."""

    sweep_after_seconds: float = Field(default=86_400.0, ge=0)
    """Temporaries that no process holds are removed this long after their last change."""

    event_seconds: float = Field(default=7 * 24 * 3600.0, gt=0)
    """How long the index keeps the events of a job that has ended; the store keeps them all."""

    watch_seconds: float = Field(default=0.2, gt=0)
    """Pause between two looks of a WatchJob call."""

    @property
    def retention(self) -> Retention:
        """How long things stay in the store."""
        return Retention(3600 * self.checkpoint_hours, self.sweep_after_seconds)
