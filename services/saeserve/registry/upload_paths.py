"""The names of uploads and of what lies in them, as requests bring them."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import PurePosixPath

from pydantic import BaseModel, ConfigDict

from saeserve.errors import InvalidInput, NotFound
from saeserve.platform.store_errors import bad_path
from saeserve.registry.refusals import bad_name, bad_resource, no_file, no_upload

MAX_FILES = 1000
_RESOURCE = re.compile(r"uploads/u-[0-9a-f]{24}")
_PATH = re.compile(r"(uploads/u-[0-9a-f]{24})(?:/(.+))?", re.DOTALL)
_SHA256 = re.compile(r"[0-9a-f]{64}")
_EMPTY_SHA256 = hashlib.sha256().hexdigest()
_MAX_DEPTH = 8
_MAX_NAME_BYTES = 200


class Announced(BaseModel):
    """One file as the client announced it; `sha256` in lower-case hex."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    size_bytes: int
    sha256: str


class UploadManifest(BaseModel):
    """What `upload.json` holds: the files of an upload, whether they have arrived or not."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: int = 1
    files: tuple[Announced, ...]
    owner: str = ""


def is_resource(text: str) -> bool:
    """Whether `text` has the form of an upload's resource name."""
    return _RESOURCE.fullmatch(text) is not None


def is_upload(path: str) -> bool:
    """Whether an import's path means an upload; other paths are root:relative."""
    return path.startswith("uploads/")


def split_path(path: str, field: str) -> tuple[str, PurePosixPath]:
    """The upload, and the path below it. Raises InvalidInput, naming `field`."""
    match = _PATH.fullmatch(path)
    below = PurePosixPath((match[2] if match else None) or ".")
    if match is None or below.is_absolute() or ".." in below.parts or "\0" in path:
        raise bad_path(
            f"{path!r} is not a path in an upload",
            remedy="write uploads/<id> as CreateUpload gave it, and a file or folder below it",
            field=field,
        )
    return match[1], below


def checked_resource(resource: str) -> str:
    """`resource` when it has the form of an upload's name. Raises InvalidInput."""
    if not is_resource(resource):
        raise bad_resource(
            f"{resource!r} does not name an upload",
            field="upload",
            remedy="use uploads/<id> as CreateUpload gave it",
        )
    return resource


def gone(resource: str) -> NotFound:
    """The error for an upload that is not, or no longer, there."""
    return no_upload(
        f"there is no {resource}; uploads that no job imports expire",
        field="upload",
        remedy="upload the files again",
    )


def nothing_there(path: str, field: str) -> NotFound:
    """The error for a path of an upload that has no file."""
    return no_file(
        f"there is no {path}",
        field=field,
        remedy="correct the path, or upload the files again: uploads that are not used expire",
    )


def resource_of(files: Sequence[Announced], owner: str = "") -> str:
    """The upload of these files; it follows from them and their owner alone."""
    text = "\n".join(f"{file.sha256} {file.size_bytes} {file.name}" for file in files)
    text = f"{owner}\n{text}" if owner else text
    return "uploads/u-" + hashlib.sha256(text.encode()).hexdigest()[:24]


def checked_files(files: Sequence[Announced]) -> tuple[Announced, ...]:
    """The files in the order of their names. Raises InvalidInput for the first that cannot be."""
    if not 1 <= len(files) <= MAX_FILES:
        raise InvalidInput(
            f"{len(files)} files are announced",
            field="files",
            remedy=f"announce 1 to {MAX_FILES} files of one model",
        )
    for index, file in enumerate(files):
        _check_file(file, f"files[{index}]")
    names = {file.name for file in files}
    folders = {str(parent) for name in names for parent in PurePosixPath(name).parents}
    if len(names) < len(files) or names & folders:
        raise InvalidInput(
            "a name is listed twice, or is both a file and a folder",
            field="files",
            remedy="announce each file once",
        )
    return tuple(sorted(files, key=lambda file: file.name))


def _check_file(file: Announced, field: str) -> None:
    parts = file.name.split("/")
    if len(parts) > _MAX_DEPTH or not all(map(_may_name, parts)):
        raise bad_name(
            f"{file.name!r} cannot name an uploaded file",
            field=f"{field}.name",
            remedy="rename it: no control characters, no backslash, no leading dot, no .part at "
            f"the end, {_MAX_NAME_BYTES} bytes a part and {_MAX_DEPTH} levels of folders at most",
        )
    empty = file.size_bytes == 0 and file.sha256 == _EMPTY_SHA256
    if not (file.size_bytes > 0 or empty) or not _SHA256.fullmatch(file.sha256):
        raise InvalidInput(
            f"{file.name}: {file.size_bytes} bytes with the sha256 {file.sha256!r} cannot be",
            field=field,
            remedy="send the size in bytes and 64 lower-case hexadecimal digits",
        )


def _may_name(part: str) -> bool:
    """Whether a file or folder of an upload may be called so."""
    plain = part.isprintable() and "\\" not in part
    ends = part.startswith(".") or part.endswith(".part")
    return bool(part) and plain and not ends and len(part.encode()) <= _MAX_NAME_BYTES
