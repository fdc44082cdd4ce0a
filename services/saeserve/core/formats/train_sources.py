"""Which sources of a data set a train spec reads, in which order their columns stand."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from saeserve.core.formats.manifest import DatasetManifest, SourceEntry
from saeserve.core.specs.forms import check_form
from saeserve.core.specs.training import TrainSpec, resolve
from saeserve.errors import SpecError

FindSource = Callable[[str | None, str], SourceEntry]
"""(name or None for the only one, field of the spec) to the source; raises where there is none."""


@dataclass(frozen=True)
class Layout:
    """Sources read and sources written; equal but for a transcoder."""

    inputs: tuple[SourceEntry, ...]
    targets: tuple[SourceEntry, ...]

    @property
    def columns(self) -> tuple[SourceEntry, ...]:
        """The sources whose columns stand side by side in a row: each once, inputs first."""
        return self.inputs if self.inputs == self.targets else self.inputs + self.targets

    @property
    def names(self) -> tuple[str, ...]:
        """Names of `columns`."""
        return tuple(entry.name for entry in self.columns)

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return sum(entry.d for entry in self.inputs)

    @property
    def d_out(self) -> int:
        """Width of the target."""
        return sum(entry.d for entry in self.targets)

    @property
    def target_widths(self) -> tuple[int, ...]:
        """Widths of the targets where there are several, else ()."""
        return tuple(entry.d for entry in self.targets) if len(self.targets) > 1 else ()

    def resolve(self, spec: TrainSpec) -> TrainSpec:
        """`spec` with every field filled that depends on others."""
        return resolve(spec, self.d_in, None if spec.sources else self.inputs[0].name)

    def members(self, spec: TrainSpec) -> tuple[TrainSpec, ...]:
        """The runs that a spec stands for, resolved: those of a sweep, else the one."""
        return tuple(self.resolve(member) for member in spec.members)


def layout_of(spec: TrainSpec, manifest: DatasetManifest, find: FindSource) -> Layout:
    """The sources that `spec` names, looked up by `find`.

    Raises SpecError for a crosscoder on a data set of one source, and where `source` is left to
    be the only one and `target_source` names it too; and what `find` raises.
    """
    if spec.sources:
        _check_several(manifest)
        entries = tuple(find(name, "train.sources") for name in spec.sources)
        return Layout(entries, entries)
    source = find(spec.source, "train.source")
    if spec.target_source is None:
        return Layout((source,), (source,))
    check_form(source.name, spec.target_source, (), skip=spec.skip_connection)
    return Layout((source,), (find(spec.target_source, "train.target_source"),))


def _check_several(manifest: DatasetManifest) -> None:
    names = [entry.name for entry in manifest.sources]
    if len(names) < 2:
        raise SpecError(
            "train.sources",
            f"a crosscoder needs several sources of the same rows, and data set {manifest.name} "
            f"has only {', '.join(names)}",
            remedy="harvest several sites in one job, or set source for an autoencoder",
        )
