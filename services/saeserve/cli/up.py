"""`saeserve up`: every process in one terminal."""

from __future__ import annotations

import signal
import threading

import typer

from saeserve.cli.output import console, errors, styled
from saeserve.cli.settings import CliSettings
from saeserve.cli.stack import BROKER, SERVICES, Stack, child_environment
from saeserve.platform.signals import SignalActor


def up() -> None:
    """Start broker, control, inference, worker and explorer here, and again when one ends by
    itself; Ctrl-C stops them all."""
    settings = CliSettings.load()
    settings.protect_files()
    services = SERVICES if settings.redis_url else (BROKER, *SERVICES)
    # gRPC's C core writes lines of its own form past the log.
    quiet = {"GRPC_VERBOSITY": "NONE"} if settings.log_format == "json" else {}
    environment = {**quiet, **child_environment({})}
    stack = Stack(services, settings.run / "logs", environment, _say)
    # Until all answer, a signal ends the start itself; `start` stops what it has started.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    stack.start()
    stopping = _stop_on_signals()
    console.print(f"logs in {settings.run / 'logs'}; Ctrl-C stops all", style="dim")
    failed = _keep_up(stack, stopping)
    if failed:
        text = f"{failed} ends again and again"
        errors.print(styled("red", text, f"\n{stack.log_tail(failed)}"))
    stack.stop()
    console.print("stopped")
    if failed:
        raise typer.Exit(1)


def _say(name: str, facts: str) -> None:
    console.print(styled("green", "●"), styled("bold", f"{name:<10}", f" {facts}"), soft_wrap=True)


def _stop_on_signals() -> threading.Event:
    stopping = threading.Event()
    SignalActor(stopping.set).handle([signal.SIGTERM, signal.SIGINT])
    return stopping


def _keep_up(stack: Stack, stopping: threading.Event) -> str:
    """Restart what ends by itself, until a signal asks for the end: then "". Otherwise the name of
    a service that does not stay up."""
    while not stopping.wait(0.2):
        stack.rotate()
        ended = stack.ended()
        if not ended:
            continue
        pause = stack.pause_s(ended)
        when = f" in {pause:.0f} s" if pause else ""
        errors.print(styled("yellow", f"{ended} ended by itself and is started again{when}"))
        if stopping.wait(pause):
            break
        if not stack.restart(ended):
            return ended
    return ""
