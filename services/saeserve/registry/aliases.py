"""Aliases: one small file each, replaced atomically."""

from __future__ import annotations

import json

from saeserve.platform.errors import NotFound
from saeserve.platform.store import ArtifactStore
from saeserve.registry.layout import alias_folder


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
        found = {alias: self._read(name, alias) for alias in aliases}
        return {alias: version for alias, version in found.items() if version is not None}

    def pointing_at(self, name: str, version: int) -> tuple[str, ...]:
        """Aliases of one version, by name."""
        return tuple(alias for alias, target in self.all(name).items() if target == version)

    def point(self, name: str, alias: str, version: int) -> None:
        """Let `alias` mean `version` from now on."""
        self._store.replace(_key(name, alias), json.dumps({"version": version}).encode())

    def remove(self, name: str, alias: str) -> None:
        """Remove an alias. Raises NotFound when it is not there."""
        if not self._store.exists(_key(name, alias)):
            raise _no_alias(name, alias, "alias")
        self._store.remove(_key(name, alias))

    def _read(self, name: str, alias: str) -> int | None:
        data = self._store.read(_key(name, alias))
        return None if data is None else int(json.loads(data)["version"])


def _key(name: str, alias: str) -> str:
    return f"{alias_folder(name)}/{alias}.json"


def _no_alias(name: str, alias: str, field: str) -> NotFound:
    return NotFound(
        f"model {name} has no alias {alias}",
        reason="ALIAS_NOT_FOUND",
        field=field,
        remedy="set it with SetAlias, or name a version",
    )
