"""Opens the files of a bundle, and refuses what is not a whole bundle of this release."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import numpy.typing as npt

from saeserve.core.features import schema
from saeserve.core.features.token_file import TokenFile
from saeserve.errors import FormatError, SpecError

_AGAIN = "collect the features of the model again"
_CACHED_KIB = 8192


def open_database(folder: Path) -> sqlite3.Connection:
    """Open the database read-only. Raises FormatError where it is not one of this version."""
    path = folder / schema.DATABASE_FILE
    if not path.is_file():
        raise FormatError(f"there is no feature bundle: {path.name} is missing", remedy=_AGAIN)
    # A bundle is never written once it can be seen: neither locks nor a look for changes.
    address = f"file:{quote(str(path))}?mode=ro&immutable=1"
    try:
        database = sqlite3.connect(address, uri=True, check_same_thread=False)
    except sqlite3.DatabaseError as error:
        raise _half_written(f"{path.name}: {error}") from error
    try:
        _check_version(database, path)
        database.execute(f"PRAGMA cache_size = -{_CACHED_KIB}")
    except (sqlite3.DatabaseError, OSError) as error:
        database.close()
        raise _half_written(f"{path.name}: {error}") from error
    except BaseException:
        database.close()
        raise
    return database


def read_manifest(database: sqlite3.Connection, folder: Path) -> schema.BundleManifest:
    """The manifest, which is there only in a database that was finished. Raises FormatError."""
    try:
        rows = database.execute("SELECT value FROM meta WHERE key = 'manifest'").fetchall()
    except sqlite3.DatabaseError as error:
        raise _half_written(f"{schema.DATABASE_FILE}: {error}") from error
    if not rows:
        raise _half_written(f"{schema.DATABASE_FILE} has no manifest")
    try:
        return schema.BundleManifest.model_validate_json(rows[0][0])
    except (SpecError, ValueError) as error:
        raise FormatError(
            f"the manifest of the feature bundle in {folder.name} is not readable: {error}",
            remedy=_AGAIN,
        ) from error


def open_tokens(
    folder: Path, manifest: schema.BundleManifest
) -> tuple[TokenFile, npt.NDArray[np.int64]]:
    """Token ids [tokens], to be closed, and sequences [sequences, 3]. Raises FormatError."""
    sequences = _read_sequences(folder / schema.SEQUENCE_FILE, (manifest.sequences, 3))
    path = folder / schema.TOKEN_FILE
    try:
        tokens = TokenFile(path)
    except (OSError, EOFError, ValueError) as error:
        raise _half_written(f"{path.name}: {error}") from error
    if tokens.size != manifest.tokens:
        tokens.close()
        raise _half_written(f"{path.name} holds {tokens.size} tokens, not {manifest.tokens}")
    return tokens, sequences


def _check_version(database: sqlite3.Connection, path: Path) -> None:
    (application,) = database.execute("PRAGMA application_id").fetchone()
    (version,) = database.execute("PRAGMA user_version").fetchone()
    if application != schema.APPLICATION_ID:
        raise FormatError(f"{path.name} is not a database of features", remedy=_AGAIN)
    if version != schema.SCHEMA_VERSION:
        raise FormatError(
            f"the feature bundle has version {version}; this release reads {schema.SCHEMA_VERSION}",
            remedy=_AGAIN,
        )
    ((pages,), (size,)) = (
        database.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "page_size")
    )
    if path.stat().st_size != pages * size:
        raise _half_written(f"{path.name} is shorter or longer than it states")


def _read_sequences(path: Path, shape: tuple[int, int]) -> npt.NDArray[np.int64]:
    try:
        array: npt.NDArray[Any] = np.load(path, allow_pickle=False)
    except (OSError, EOFError, ValueError) as error:
        raise _half_written(f"{path.name}: {error}") from error
    if array.dtype != np.dtype("<i8") or array.shape != shape:
        raise _half_written(f"{path.name} holds {array.dtype} {list(array.shape)}")
    return array


def _half_written(what: str) -> FormatError:
    return FormatError(f"the feature bundle is damaged or was not finished: {what}", remedy=_AGAIN)
