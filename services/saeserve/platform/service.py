"""How every service process begins and, when it cannot begin, ends."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import NoReturn

from saeserve.errors import ServiceError, Unavailable
from saeserve.platform.logging import as_json

STARTUP_FAILED = 2


def run(service: str, main: Callable[[], None]) -> NoReturn:
    """Run `main` and exit: 0 when it returns, 2 with one line on stderr when it cannot start."""
    try:
        main()
    except ServiceError as error:
        _say(service, error)
        sys.exit(STARTUP_FAILED)
    except KeyboardInterrupt:
        logging.getLogger(f"saeserve.{service}").info("interrupted")
        sys.exit(130)
    sys.exit(0)


def stopping(remedy: str = "try again") -> Unavailable:
    """The error for calls that a server's end cuts off."""
    return Unavailable("the server is stopping", code="STOPPING", remedy=remedy)


def _say(service: str, error: ServiceError) -> None:
    """One line in the form of the log, as far as the settings that say which could be read."""
    if as_json():
        logging.getLogger(f"saeserve.{service}").critical("%s", error.text())
    else:
        sys.stderr.write(f"saeserve {service}: {error.text()}\n")
