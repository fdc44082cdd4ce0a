"""Aliases: one small file each, replaced atomically."""

from __future__ import annotations

import logging

from pydantic import BaseModel, ConfigDict

from saeserve.errors import DamagedError, NotFound
from saeserve.platform.store import ArtifactStore
from saeserve.registry.layout import alias_folder
from saeserve.registry.stored import read_stored

_log = logging.getLogger("saeserve.registry")


class _Alias(BaseModel):
    """What an alias's file holds."""

    model_config = ConfigDict(frozen=True)

    version: int


class Aliases:
    """Reads and moves the aliases below models/<name>/aliases/; names are checked by callers."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store

    def target(self, name: str, alias: str, field: str) -> int:
        """The version that `alias` points at. Raises NotFound."""
        version = self._read(name, alias)
        if version is None:
            raise _no_alias(name, alias, field)
        return version

    def all(self, name: str) -> dict[str, int]:
        """Version of each alias of `name`."""
        files = self._store.names(alias_folder(name))
        aliases = [file.removesuffix(".json") for file in files]
        found = {alias: self._target_or_none(name, alias) for alias in aliases}
        return {alias: version for alias, version in found.items() if version is not None}

    def pointing_at(self, name: str, version: int) -> tuple[str, ...]:
        """What else the version is called; empty where nothing points at it."""
        return tuple(alias for alias, target in self.all(name).items() if target == version)

    def point(self, name: str, alias: str, version: int) -> None:
        """Let `alias` mean `version` from now on."""
        self._store.replace(_key(name, alias), _Alias(version=version).model_dump_json().encode())

    def remove(self, name: str, alias: str) -> None:
        """Remove an alias. Raises NotFound when it is not there."""
        if not self._store.exists(_key(name, alias)):
            raise _no_alias(name, alias, "alias")
        self._store.remove(_key(name, alias))

    def _target_or_none(self, name: str, alias: str) -> int | None:
        """None, and a line in the log, for one that is damaged: the versions must stay readable,
        so that the alias can be set again."""
        try:
            return self._read(name, alias)
        except DamagedError as error:
            _log.error("%s", error.message)
            return None

    def _read(self, name: str, alias: str) -> int | None:
        found = read_stored(self._store, _key(name, alias), _Alias)
        return None if found is None else found.version


def _key(name: str, alias: str) -> str:
    return f"{alias_folder(name)}/{alias}.json"


def _no_alias(name: str, alias: str, field: str) -> NotFound:
    return NotFound(
        f"model {name} has no alias {alias}",
        code="ALIAS_NOT_FOUND",
        field=field,
        remedy="set it with SetAlias, or name a version",
    )
