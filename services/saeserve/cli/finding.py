"""What the doctor finds."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One line of the report; `verdict` is ok, warn or fail."""

    subject: str
    verdict: str
    detail: str
    remedy: str = ""
