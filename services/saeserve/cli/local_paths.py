"""Files that a command is given: on this machine, or of the server as root:relative."""

from __future__ import annotations

import difflib
from pathlib import Path

from saeserve.cli.refusals import refused


def is_local(text: str, field: str) -> bool:
    """Whether `text` names something on this machine; else it has the form of the server's files.

    Raises InvalidArgumentError for what is neither: most likely a mistyped name.
    """
    path = Path(text)
    if path.exists():
        return True
    if ":" in text or text.startswith("uploads/"):
        return False
    near = _near(path)
    raise refused(
        f"there is no file {text} on this machine",
        field=field,
        remedy=f"did you mean {near}?"
        if near
        else "correct the path; files of the server are named root:relative",
    )


def local_file(text: str, field: str) -> bool:
    """Return whether the text names a local file. Raises InvalidArgumentError for a folder too."""
    local = is_local(text, field)
    if local and not Path(text).is_file():
        raise refused(f"{text} is a folder", field=field, remedy="name the files in it")
    return local


def _near(path: Path) -> Path | None:
    """Return a file of the same folder with nearly the same name."""
    if not path.parent.is_dir():
        return None
    names = [each.name for each in path.parent.iterdir()]
    found = difflib.get_close_matches(path.name, names, 1, 0.75)
    return path.with_name(found[0]) if found else None
