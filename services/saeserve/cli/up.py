"""`saeserve up`: every process in one terminal."""

from __future__ import annotations

import signal
import threading
from types import FrameType

import typer

from saeserve.cli.output import console, errors, styled
from saeserve.cli.settings import CliSettings
from saeserve.cli.stack import BROKER, SERVICES, Stack, child_environment


def up() -> None:
    """Start broker, control, inference and worker here; Ctrl-C stops them all."""
    settings = CliSettings.load()
    settings.protect_files()
    services = SERVICES if settings.redis_url else (BROKER, *SERVICES)
    stack = Stack(services, settings.run / "logs", child_environment({}), _say)
    stopping = _stop_on_signals()
    stack.start()
    console.print(f"logs in {settings.run / 'logs'}; Ctrl-C stops all", style="dim")
    ended = _until_stopped(stack, stopping)
    if ended:
        errors.print(styled("red", f"{ended} ended by itself", f"\n{stack.log_tail(ended)}"))
    stack.stop()
    console.print("stopped")
    if ended:
        raise typer.Exit(1)


def _say(name: str, facts: str) -> None:
    console.print(styled("green", "●"), styled("bold", f"{name:<10}", f" {facts}"))


def _stop_on_signals() -> threading.Event:
    stopping = threading.Event()

    def note(_signal: int, _frame: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, note)
    signal.signal(signal.SIGINT, note)
    return stopping


def _until_stopped(stack: Stack, stopping: threading.Event) -> str:
    """Name of the service that ended by itself, or "" when we were told to stop."""
    while not stopping.wait(0.2):
        ended = stack.ended()
        if ended:
            return ended
    return ""
