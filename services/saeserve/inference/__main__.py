"""`python -m saeserve.inference`: run the service until a signal ends it."""

from __future__ import annotations

import asyncio
import sys

from saeserve.core.gpu.device import refuse
from saeserve.inference.server import running
from saeserve.inference.settings import InferenceSettings
from saeserve.platform import logging, service

SWITCH_SECONDS = 0.0005
"""How long the event loop keeps the interpreter's lock from the device's threads; Python's default
is ten times as long, which a batch would wait after each operation that lets go of the lock."""


async def _serve(settings: InferenceSettings) -> None:
    async with running(settings) as parts:
        logging.ready(
            "inference",
            address=parts.server.bound,
            metrics=parts.metrics.address,
            device=parts.device,
            store=settings.store,
        )
        await parts.server.run_until_stopped()


def main() -> None:
    """Read settings and serve. Raises StartupError."""
    settings = InferenceSettings.load()
    logging.configure(settings.log_level, settings.log_format)
    settings.protect_files()
    if not settings.gpu_kernels:
        refuse("the setting gpu_kernels is off")
    sys.setswitchinterval(SWITCH_SECONDS)
    asyncio.run(_serve(settings))


if __name__ == "__main__":
    service.run("inference", main)
