"""Every setting, read from the settings classes: `make settings-page` writes SETTINGS.md."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from saeserve.cli.settings import CliSettings
from saeserve.control.settings import ControlSettings
from saeserve.explorer.settings import ExplorerSettings
from saeserve.inference.settings import InferenceSettings
from saeserve.platform.setting_names import PREFIX
from saeserve.platform.settings import BrokerSettings, ServiceSettings
from saeserve.worker.settings import WorkerSettings

PAGE = Path(__file__).resolve().parents[2] / "SETTINGS.md"
SECTIONS: dict[str, type[ServiceSettings]] = {
    "Every service": ServiceSettings,
    "Control": ControlSettings,
    "Worker": WorkerSettings,
    "Inference": InferenceSettings,
    "Explorer": ExplorerSettings,
    "Embedded broker": BrokerSettings,
    "Command line": CliSettings,
}
HEAD = """# Settings

Made from the code by `make settings-page`. All are environment variables; an empty one counts as
unset. A variable that begins with `SAESERVE_` and that nothing reads is named in the log, and by
every command, with the one that may have been meant.
"""


def page() -> str:
    """The whole page."""
    sections = (
        f"\n## {title}\n\n| variable | default | |\n|---|---|---|\n" + "".join(rows(settings))
        for title, settings in SECTIONS.items()
    )
    return HEAD + "".join(sections)


def rows(settings: type[ServiceSettings]) -> Iterator[str]:
    """A row for each field that the class adds, or describes anew."""
    for name, field in settings.model_fields.items():
        if name in settings.__annotations__ or name not in ServiceSettings.model_fields:
            default = "unset" if field.default in ("", None) else f"`{_default(field.default)}`"
            text = " ".join((field.description or "").split()).replace("|", "\\|")
            yield f"| `{PREFIX}{name.upper()}` | {default} | {text} |\n"


def _default(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if value == ():
        return "[]"
    return str(value)


if __name__ == "__main__":
    PAGE.write_text(page())
