"""What the command line itself refuses, in the form of the SDK's errors: a line, exit code 1."""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from pathlib import Path

from saeserve.client.errors import InvalidArgumentError, PreconditionError
from saeserve.client.refusals import local_file


def refused(message: str, *, field: str = "", remedy: str = "") -> InvalidArgumentError:
    """The error for input that is wrong before any server sees it."""
    return InvalidArgumentError(message, field=field, remedy=remedy)


def not_installed(error: ImportError, extra: str, *, field: str = "") -> PreconditionError:
    """The error for a library that comes with an extra of ours."""
    return PreconditionError(
        f"{error.name or extra} cannot be imported: {error}",
        reason="EXTRA_MISSING",
        field=field,
        remedy=f"install it: pip install 'saeserve[{extra}]'",
    )


@contextlib.contextmanager
def reading(path: Path, what: str = "a file") -> Generator[None]:
    """Raise InvalidArgumentError, naming `path`, where it cannot be opened or read; `what` says
    what should lie there."""
    if path.is_dir():
        raise refused(f"{path} is a folder", remedy=f"name {what}")
    try:
        yield
    except FileNotFoundError as error:
        raise refused(f"there is no file {path}", remedy="correct the path") from error
    except OSError as error:
        raise refused(f"{path} cannot be read: {error.strerror or error}") from error


@contextlib.contextmanager
def writing(path: Path) -> Generator[Path]:
    """Where to write what is to be called `path`: it has that name once the block has ended well,
    and a file that was there stays as it was until then.

    Raises PreconditionError, before the block runs, where nothing can be written.
    """
    if path.is_dir():
        raise _unwritable(path, "it is a folder")
    part = path.with_name(f".{path.name}.part")
    try:
        part.open("wb").close()
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    try:
        yield part
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, error.strerror or str(error)) from error
    finally:
        part.unlink(missing_ok=True)


def _unwritable(path: Path, why: str) -> PreconditionError:
    return local_file(
        f"{path} cannot be written: {why}",
        field="out",
        remedy="name a file in a folder that you may write to",
    )
