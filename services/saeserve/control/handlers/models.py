"""Models: looking, naming, deleting."""

from __future__ import annotations

import logging

from saeserve.control.handlers.usage import LiveUse
from saeserve.errors import DamagedError, NotFound
from saeserve.platform.auth.caller import EVERYONE, Caller
from saeserve.registry.models import ModelRegistry
from saeserve.registry.names import checked_name
from saeserve.registry.owners import Owners
from saeserve.registry.references import parse_reference
from saeserve.registry.version import ModelVersion

_log = logging.getLogger("saeserve.control")


class ModelHandlers:
    """What the calls of ModelService do."""

    def __init__(self, models: ModelRegistry, use: LiveUse, owners: Owners) -> None:
        self._models = models
        self._owners = owners
        self._use = use

    def get(self, reference: str) -> ModelVersion:
        """The version that a reference means. Raises InvalidInput, NotFound."""
        return self._models.resolve(reference)

    def page(self, name: str, size: int, after: str) -> tuple[list[ModelVersion], str]:
        """Versions by name, newest first, and the reference that the next page comes after."""
        keys = self._models.keys(name)
        if after:
            last = parse_reference(after, "page_token")
            keys = [key for key in keys if _order(key) > _order((last.name, last.version))]
        found = [each for key in keys[:size] if (each := self._find(*key))]
        more = len(keys) > size
        return found, "{}@{}".format(*keys[size - 1]) if more else ""

    def delete(self, reference: str, caller: Caller = EVERYONE, *, force: bool) -> None:
        """Delete one version, unless an alias or a live job uses it and `force` is not set.

        This and what follows raise PermissionDenied for a model of another owner.
        """
        self._owners.check("models", parse_reference(reference).name, caller, "model")
        self._models.delete_version(reference, self._use.of_model, force=force)

    def set_alias(
        self, name: str, alias: str, version: int, caller: Caller = EVERYONE
    ) -> ModelVersion:
        """Point an alias at a version."""
        self._owners.check("models", checked_name(name, "name"), caller, "name")
        return self._models.set_alias(name, alias, version)

    def delete_alias(self, name: str, alias: str, caller: Caller = EVERYONE) -> None:
        """Remove an alias."""
        self._owners.check("models", checked_name(name, "name"), caller, "name")
        self._models.delete_alias(name, alias)

    def _find(self, name: str, version: int) -> ModelVersion | None:
        """None when it was deleted since its number was read. One that is damaged is left out, and
        logged: GetModel says what is wrong with it, and the others must stay visible."""
        try:
            return self._models.load(name, version)
        except NotFound:
            return None
        except DamagedError as error:
            _log.error("a listing leaves out %s@%d: %s", name, version, error.message)
            return None


def _order(key: tuple[str, int]) -> tuple[str, int]:
    """By name, newest first."""
    name, version = key
    return name, -version
