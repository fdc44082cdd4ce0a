"""`make openapi` writes docs/openapi.json: what the explorer answers as JSON."""

from __future__ import annotations

import json
from pathlib import Path

from saeserve.explorer.application import api

PAGE = Path(__file__).resolve().parents[2] / "docs/openapi.json"


def document() -> str:
    """The document, as it is committed."""
    return json.dumps(api().openapi(), indent=1, ensure_ascii=False, sort_keys=True) + "\n"


if __name__ == "__main__":
    PAGE.write_text(document())
