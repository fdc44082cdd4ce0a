"""`python -m saeserve.control`: run the service until a signal ends it."""

from __future__ import annotations

import asyncio

from saeserve.control.server import running
from saeserve.control.settings import ControlSettings
from saeserve.platform import logging, service


async def _serve(settings: ControlSettings) -> None:
    async with running(settings) as parts:
        logging.ready(
            "control",
            address=parts.server.bound,
            metrics=parts.metrics.address,
            store=settings.store,
        )
        await parts.server.run_until_stopped()


def main() -> None:
    """Read settings and serve. Raises StartupError."""
    settings = ControlSettings.load()
    logging.configure(settings.log_level, settings.log_format)
    settings.protect_files()
    asyncio.run(_serve(settings))


if __name__ == "__main__":
    service.run("control", main)
