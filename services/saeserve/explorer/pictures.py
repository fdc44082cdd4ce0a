"""Serves plots as SVG files: drawn once for the same facts, and not sent to who has them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from threading import Lock

from fastapi import Request, Response

from saeserve.explorer.metrics import ExplorerMetrics
from saeserve.explorer.plots import Plot, drawn
from saeserve.explorer.security import PICTURE_POLICY

MOST_KEPT = 512
"""Plots; each takes some tens of kB."""
_HEADERS = {"Cache-Control": "private, no-cache", "Content-Security-Policy": PICTURE_POLICY}


class Pictures:
    """Plots drawn lately, by what they show; threads may share it."""

    def __init__(self, metrics: ExplorerMetrics) -> None:
        self._metrics = metrics
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = Lock()

    def answer(self, request: Request, plot: Plot, *, narrow: bool = False) -> Response:
        """The plot; 304 where the browser has it. `narrow` draws it for a phone."""
        tag = hashlib.sha256(f"{plot!r} {narrow}".encode()).hexdigest()[:32]
        headers = {**_HEADERS, "ETag": f'"{tag}"'}
        if f'"{tag}"' in request.headers.get("if-none-match", ""):
            self._metrics.pictures.labels("unchanged").inc()
            return Response(None, 304, headers)
        return Response(self._svg(tag, plot, narrow), 200, headers, "image/svg+xml")

    def _svg(self, tag: str, plot: Plot, narrow: bool) -> bytes:
        with self._lock:
            found = self._kept.get(tag)
        self._metrics.pictures.labels("kept" if found else "drawn").inc()
        if found is None:
            found = drawn(plot, narrow=narrow)
            with self._lock:
                self._kept[tag] = found
                while len(self._kept) > MOST_KEPT:
                    self._kept.popitem(last=False)
        return found
