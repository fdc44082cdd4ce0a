"""Whether a file system has hard links: every commit of the store is one."""

from __future__ import annotations

import os
from pathlib import Path

from saeserve.errors import Unavailable


def check_links(probe: Path, linked: Path) -> None:
    """Link the file `probe` to `linked` once, for a moment. Raises Unavailable
    (STORE_WITHOUT_LINKS)."""
    try:
        os.link(probe, linked)
    except OSError as error:
        raise Unavailable(
            f"the file system of the artifact store {probe.parent} has no hard links, by which "
            f"jobs, checkpoints and models are committed: {error.strerror}",
            code="STORE_WITHOUT_LINKS",
            remedy="use a local file system or NFS; SMB and mounted object stores lack them",
        ) from error
    linked.unlink()
