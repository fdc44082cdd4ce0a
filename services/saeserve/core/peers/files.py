"""The files of a foreign model and what their JSON says, every value checked for its type."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any, cast

from saeserve.errors import FormatError

MAX_JSON_BYTES = 4 * 2**20
_NOWHERE = PurePath()
_INCOMPLETE = "copy the whole folder of the model again"


@dataclass(frozen=True)
class ForeignFiles:
    """Finds files by their name below the model's folder; "" is the folder, or the one file.

    `resolve` may refuse names, so that links cannot lead elsewhere.
    """

    resolve: Callable[[str], Path]
    admit: Callable[[int], None] = lambda _values: None
    """Called with how many numbers a file declares before they are read; raises if too many."""
    path: PurePath = _NOWHERE
    """Where the files lie, as it was named: links not followed."""
    above: Callable[[int, str], Path | None] = lambda _levels, _name: None
    """A file by its name so many folders above the model's, or None where there is none."""

    @staticmethod
    def at(path: Path) -> ForeignFiles:
        """The files below `path`, which may itself be a file; links are followed."""

        def above(levels: int, name: str) -> Path | None:
            found = path.absolute().parents[levels - 1] / name
            return found if found.is_file() else None

        return ForeignFiles(
            lambda name: path / name if name else path, path=path.absolute(), above=above
        )

    @property
    def folders(self) -> tuple[str, ...]:
        """Names of the folders that lead to the model's files, its own last."""
        parts = self.path.parts
        return parts[:-1] if self.resolve("").is_file() else parts

    def file(self, name: str) -> Path:
        """The file `name`, or the model's only file when that is what was named.

        Raises FormatError when there is none.
        """
        root = self.resolve("")
        if root.is_file() and root.suffix == Path(name).suffix:
            return root
        path = self.resolve(name)
        if not path.is_file():
            raise FormatError(f"there is no {name} in {root.name}", remedy=_INCOMPLETE)
        return path

    def only(self, suffix: str) -> Path:
        """The one file that ends in `suffix`: the model itself, or the only one in its folder."""
        root = self.resolve("")
        if root.is_file():
            return root
        names = sorted(entry.name for entry in root.iterdir() if entry.name.endswith(suffix))
        if len(names) != 1:
            raise FormatError(
                f"{root.name} holds {len(names)} files that end in {suffix}, not one",
                remedy="name the file itself",
            )
        return self.file(names[0])


@dataclass(frozen=True)
class JsonObject:
    """A JSON object; `where` names it in errors."""

    values: Mapping[str, Any]
    where: str

    def text(self, key: str, default: str | None = None) -> str:
        """A text. Raises FormatError when it is missing without a default, or no text."""
        return cast("str", self._get(key, str, default))

    def whole(self, key: str, default: int | None = None) -> int:
        """A positive whole number."""
        value = cast("int", self._get(key, int, default))
        if isinstance(value, bool) or value < 1:
            raise self.wrong(key, "is not a positive whole number")
        return value

    def number(self, key: str) -> float:
        """A finite number."""
        value = cast("float", self._get(key, (int, float), None))
        if isinstance(value, bool) or not abs(value) < 1e30:
            raise self.wrong(key, "is not a finite number")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """true or false."""
        return cast("bool", self._get(key, bool, default))

    def optional_text(self, key: str) -> str:
        """A text, or "" where the key is missing or null."""
        return self.text(key, "")

    def part(self, key: str) -> JsonObject:
        """An object inside; empty when it is not there."""
        value = self._get(key, dict, cast("dict[str, object]", {}))
        return JsonObject(cast("dict[str, Any]", value), f"{self.where}: {key}")

    def wrong(self, key: str, what: str) -> FormatError:
        """The error for a value that cannot be."""
        shown = repr(self.values.get(key))[:80]
        return FormatError(
            f"{self.where}: {key} {what}: {shown}", remedy="correct it, or save the model again"
        )

    def _get(self, key: str, kind: type | tuple[type, ...], default: object) -> object:
        value: object = self.values.get(key)
        if value is None:
            value = default
        if value is None:
            raise FormatError(
                f"{self.where}: {key} is missing", remedy="save the model again with its library"
            )
        if not isinstance(value, kind):
            raise self.wrong(key, "is of another type")
        return value


def read_json(path: Path) -> JsonObject:
    """A JSON object of at most 4 MiB. Raises FormatError for anything else."""
    with path.open("rb") as file:
        data = file.read(MAX_JSON_BYTES + 1)
    if len(data) > MAX_JSON_BYTES:
        raise FormatError(f"{path.name} exceeds {MAX_JSON_BYTES} bytes", remedy=_INCOMPLETE)
    try:
        value: object = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path.name} is not JSON: {error}", remedy=_INCOMPLETE) from error
    if not isinstance(value, dict):
        raise FormatError(f"{path.name} holds no JSON object", remedy=_INCOMPLETE)
    return JsonObject(cast("dict[str, Any]", value), path.name)
