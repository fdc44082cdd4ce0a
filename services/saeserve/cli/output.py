"""What every command prints with: lines for people, JSON for programs."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.text import Text

from saeserve.cli.settings import CliSettings
from saeserve.client import Access, Client
from saeserve.client.values import RunWarning

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]

# Names, messages and remedies may hold brackets and colons, which are text and no markup.
console = Console(markup=False, emoji=False)
errors = Console(stderr=True, markup=False, emoji=False)


def connect() -> Client:
    """A client of the services that the environment names."""
    return client_of(CliSettings.load())


def client_of(settings: CliSettings, timeout: float = 60.0) -> Client:
    """A client of the services that the settings name."""
    return Client(
        settings.control_address,
        settings.inference_address,
        access=access_of(settings),
        timeout=timeout,
    )


def access_of(settings: CliSettings) -> Access:
    """What the environment says of certificates and the token."""
    return Access(
        ca=settings.tls_ca,
        certificate=settings.client_cert,
        key=settings.client_key,
        token=settings.token,
        token_file=settings.token_file,
    )


def print_json(value: Any) -> None:  # noqa: ANN401 — any plain data or value of the SDK
    """One JSON document on stdout."""
    console.print_json(json.dumps(value, default=_plain))


def print_json_line(value: Any) -> None:  # noqa: ANN401 — as above
    """One JSON document in one line on stdout, at once."""
    sys.stdout.write(json.dumps(value, default=_plain) + "\n")
    sys.stdout.flush()


def told(text: str, value: object, as_json: bool) -> None:
    """What a command did: a line for people, `value` for programs."""
    if as_json:
        print_json(value)
    else:
        say(text)


def say(text: str | Text) -> None:
    """A line for people on stdout; broken at the terminal's edge, and nowhere in a pipe."""
    console.print(text, highlight=False, soft_wrap=not console.is_terminal)


def print_refusal(word: str, text: str, violations: Sequence[tuple[str, str]] = ()) -> None:
    """Why a command ends, on stderr; as a line of JSON where --json was asked for. Where several
    fields are wrong, each has a line of its own."""
    if "--json" in sys.argv[1:]:
        error: dict[str, object] = {"reason": word, "message": text}
        if violations:
            error["violations"] = [{"field": name, "message": what} for name, what in violations]
        sys.stderr.write(json.dumps({"error": error}) + "\n")
    elif violations:
        errors.print(styled("red", word, f": {text.partition(': ')[0]}:"), soft_wrap=True)
        for _, what in violations:
            errors.print(f"  {what}", soft_wrap=True, highlight=False)
    else:
        errors.print(styled("red", word, f": {text}"), soft_wrap=True)


def styled(style: str, words: str, rest: str = "") -> Text:
    """`words` in a style such as "bold" or "red", then plain text."""
    return Text.assemble((words, style), rest)


def warnings_text(warnings: Iterable[RunWarning]) -> str:
    """A line for each warning: code, what it is about, message."""
    lines = (
        f"{each.code}: {f'{each.member}: ' if each.member else ''}{each.message}"
        for each in warnings
    )
    return "\n".join(lines)


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} is not JSON")
