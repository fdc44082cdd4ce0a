"""Logs go to stderr, one line a record: time, level, logger, message."""

from __future__ import annotations

import logging
import time

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s"


def configure(level: str = "INFO") -> None:
    """Send every record of `level` and above to stderr, in UTC. May be called again."""
    handler = logging.StreamHandler()
    handler.setFormatter(formatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)


def formatter() -> logging.Formatter:
    """How every record is written."""
    made = logging.Formatter(FORMAT, datefmt="%Y-%m-%dT%H:%M:%S")
    made.converter = time.gmtime
    return made


def ready(service: str, **facts: object) -> None:
    """Log the one line that says that `service` answers, with `facts` as key=value."""
    text = " ".join(f"{key}={value}" for key, value in facts.items())
    logging.getLogger(f"saeserve.{service}").info("ready %s", text)
