"""`python -m saeserve.explorer`: run the service until a signal ends it."""

from __future__ import annotations

import asyncio

from saeserve.explorer.server import running
from saeserve.explorer.settings import ExplorerSettings
from saeserve.platform import logging, service


async def _serve(settings: ExplorerSettings) -> None:
    async with running(settings) as parts:
        logging.ready("explorer", address=parts.url, metrics=parts.metrics.address)
        await parts.run_until_stopped()


def main() -> None:
    """Read settings and serve. Raises StartupError."""
    settings = ExplorerSettings.load()
    logging.configure(settings.log_level, settings.log_format)
    settings.protect_files()
    asyncio.run(_serve(settings))


if __name__ == "__main__":
    service.run("explorer", main)
