"""Checkpoints of a sweep: one holds all members, a folder for each, and `sweep.json`.

`sweep.json` names the members that diverged. On an accelerator a copy of every member's state stays
on the device while all train on; a thread brings one after the other to the host. A member whose
copy is not finite is left out as diverged at that step, as if the members had waited.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from pydantic import ValidationError

from saeserve.core.specs.base import Spec
from saeserve.core.training.saving import Copied
from saeserve.errors import CheckpointError, DivergedError

FORMAT_VERSION = 1
SWEEP_FILE = "sweep.json"


class Lost(Spec):
    """A member that diverged, in `sweep.json`."""

    step: int
    code: str
    message: str
    remedy: str

    @classmethod
    def by(cls, error: DivergedError) -> Lost:
        """The member that raised it."""
        fields = {"code": error.code, "message": error.message, "remedy": error.remedy}
        return cls(step=error.step, **fields)


class SweepHeader(Spec):
    """What `sweep.json` holds."""

    format_version: int
    step: int
    members: tuple[str, ...]
    lost: dict[str, Lost]

    @classmethod
    def of(cls, step: int, members: tuple[str, ...], lost: Mapping[str, Lost]) -> SweepHeader:
        """That of a checkpoint of `step`."""
        return cls(format_version=FORMAT_VERSION, step=step, members=members, lost=dict(lost))

    def write(self, folder: Path) -> None:
        """Write it into the checkpoint's folder."""
        text = self.model_dump_json(indent=1)
        (folder / SWEEP_FILE).write_text(text, encoding="utf-8")


class CopiedSweep:
    """Copies of all members on the device at one step, and what a thread finds in them."""

    def __init__(self, header: SweepHeader, members: Mapping[str, Copied]) -> None:
        """`header` is that of the checkpoint if all of them are finite."""
        self._header = header
        self._members = dict(members)
        self.diverged: dict[str, DivergedError] = {}
        """Members whose copies are not finite, by name; complete once `write` has ended."""

    def write(self, folder: Path) -> None:
        """Write the members that are finite into the empty `folder`, and the header. Raises
        DivergedError where none is."""
        written = [name for name in self._members if self._written(name, folder)]
        if not written:
            raise next(iter(self.diverged.values()))
        lost = {name: Lost.by(error) for name, error in self.diverged.items()}
        header = self._header
        SweepHeader.of(header.step, header.members, header.lost | lost).write(folder)

    def _written(self, name: str, folder: Path) -> bool:
        """Whether a member is finite, and so in its folder; its copy is let go of."""
        try:
            self._members[name].write(folder / name)
        except DivergedError as error:
            self.diverged[name] = error
            return False
        return True


def read_header(folder: Path, names: tuple[str, ...]) -> SweepHeader:
    """What `sweep.json` in `folder` holds; raises CheckpointError where that is damaged, or of
    other members than `names`."""
    try:
        header = SweepHeader.model_validate_json((folder / SWEEP_FILE).read_bytes())
    except (OSError, ValidationError) as error:
        raise _error(folder, f"{SWEEP_FILE} cannot be read: {error}") from error
    if header.format_version != FORMAT_VERSION:
        version = header.format_version
        raise _error(folder, f"has format {version}; this release reads {FORMAT_VERSION}")
    if header.members != names:
        raise _error(folder, f"is of the members {header.members}, the job has {names}")
    return header


def _error(folder: Path, message: str) -> CheckpointError:
    return CheckpointError(
        f"checkpoint {folder.name}: {message}",
        remedy="resume from an older checkpoint, or start again",
    )
