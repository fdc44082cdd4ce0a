"""Folders outside the store that jobs may read, named so that requests hold no machine paths."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from saeserve.errors import InvalidInput
from saeserve.platform.store_errors import bad_path
from saeserve.registry.refusals import no_file

_SHOWN = 200
"""Characters of a reference that an error repeats."""


class Roots:
    """Resolves `root:relative` references; nothing outside the named folders can be reached."""

    def __init__(self, folders: Mapping[str, Path]) -> None:
        self._folders = {name: Path(folder).resolve() for name, folder in folders.items()}

    @property
    def names(self) -> list[str]:
        """What may stand before the colon of a reference, sorted."""
        return sorted(self._folders)

    def check(self, reference: str, field: str = "") -> tuple[str, PurePosixPath]:
        """The root's name and the path below it, by form alone; touches no disk.

        Raises InvalidInput for another form, an unknown root, or a path that leaves its root.
        """
        root, colon, relative = reference.partition(":")
        path = PurePosixPath(relative)
        if not colon or not relative or path.is_absolute() or ".." in path.parts:
            raise _bad_reference(reference, field)
        if "\0" in relative or "\\" in relative:
            raise _bad_reference(reference, field)
        if root not in self._folders:
            known = ", ".join(self.names) or "none"
            raise InvalidInput(
                f"{_shown(reference)} names no root; known roots: {known}",
                code="UNKNOWN_ROOT",
                field=field,
                remedy="use one of these roots, or add the folder to SAESERVE_ROOTS",
            )
        return root, path

    def present(self, reference: str) -> bool:
        """Whether the root that `reference` names is a folder on this machine."""
        root, _ = self.check(reference)
        return self._folders[root].is_dir()

    def folder(self, reference: str) -> Path:
        """The folder that is the root of `reference`. Raises as `check`."""
        return self._folders[self.check(reference)[0]]

    def resolve(self, reference: str, field: str = "") -> Path:
        """The existing file or folder that `reference` names, links followed.

        Raises InvalidInput as `check` does, for links that lead out of the root or in a circle,
        and for paths that are too long or lead through a folder that may not be entered; NotFound
        when there is nothing.
        """
        root, relative = self.check(reference, field)
        folder = self._folders[root]
        path = _followed(folder / relative, reference, field)
        if not path.is_relative_to(folder):
            raise InvalidInput(
                f"{_shown(reference)} leads out of its root through a link",
                code="PATH_ESCAPES_ROOT",
                field=field,
                remedy="put the file itself below the root",
            )
        if not _exists(path, reference, field):
            raise no_file(
                f"there is no {_shown(reference)}",
                field=field,
                remedy="correct the path, or put the file below the root",
            )
        return path


def _followed(path: Path, reference: str, field: str) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        raise _unusable(reference, field, error) from error


def _exists(path: Path, reference: str, field: str) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise _unusable(reference, field, error) from error


def _unusable(reference: str, field: str, error: OSError | RuntimeError) -> InvalidInput:
    """What the system says of a path, without the machine's own path in it."""
    why = error.strerror if isinstance(error, OSError) else "its links lead in a circle"
    return bad_path(
        f"{_shown(reference)} cannot be looked up: {why}",
        remedy="correct the path, or let the services' user read it",
        field=field,
    )


def _shown(reference: str) -> str:
    short = reference if len(reference) <= _SHOWN else f"{reference[:_SHOWN]}…"
    return repr(short)


def _bad_reference(reference: str, field: str) -> InvalidInput:
    return bad_path(
        f"{_shown(reference)} is not a path of the form root:relative",
        remedy="write the root's name, a colon, and a path below it without '..'",
        field=field,
    )
