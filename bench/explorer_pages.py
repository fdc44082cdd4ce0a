"""How long the explorer's pages take at 131,072 features, over real processes.

    python -m bench.explorer_pages [--features 131072] [--calls 200]

Broker, control, inference and explorer as processes of their own on a store with one model and a
generated bundle; a client asks for one page at a time over loopback, without a cache. Plots are
files of their own, which a browser asks for after the page. The machine's load is printed first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from urllib.request import ProxyHandler, build_opener

import numpy as np
from tests.fakes.bundle_store import put_bundle
from tests.fakes.real_stack import RealStack
from tests.fakes.small_model import small_model

from saeserve.core.export.format import save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry


def main() -> None:
    """Print a line for each kind of page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=131_072)
    parser.add_argument("--calls", type=int, default=200)
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {args.features} features")
    with tempfile.TemporaryDirectory() as folder:
        stack = RealStack(Path(folder) / "x")
        stack.start_broker()
        stack.control()
        _prepare(stack, Path(folder), args.features)
        stack.inference()
        url = stack.explorer().ready["address"]
        for name, path in _pages().items():
            _measure(name, url, path, args.calls, args.features)
        stack.close()


def _prepare(stack: RealStack, folder: Path, d_sae: int) -> None:
    store = ArtifactStore(stack.store.root)
    models = ModelRegistry(store)
    save_model(small_model(TopKActivation(k=4)), folder / "model")
    models.publish("sae", "j-made", 0, folder / "model")
    put_bundle(store, models, "sae", "j-made", d_sae=d_sae, sequences=20_000)


def _pages() -> Mapping[str, str]:
    """Paths; "@" stands for a number that differs in each request."""
    at = "/models/sae/features"
    return {
        "jobs": "/jobs",
        "models": "/models",
        "a model": "/models/sae",
        "features by density": at,
        "features by max, any page": f"{at}?sort=max&page=@",
        "features by a filter": f"{at}?min_density=0.001&dead=false",
        "a feature": f"{at}/@",
        "a token": f"{at}?token=part@",
    }


def _measure(name: str, url: str, path: str, calls: int, d_sae: int) -> None:
    # The explorer at this very address is meant, whatever proxies the environment names.
    opener = build_opener(ProxyHandler({}))
    most = d_sae // 50 if "page=@" in path else 500 if "part@" in path else d_sae
    numbers = np.random.default_rng(0).integers(1, most, calls + 1)
    walls: list[float] = []
    for number in numbers:
        began = time.perf_counter()
        with opener.open(url + path.replace("@", str(number))) as answer:
            answer.read()
        walls.append((time.perf_counter() - began) * 1e3)
    middle, high = np.quantile(walls[1:], (0.5, 0.95))
    print(f"{name}: p50 {middle:.1f} ms, p95 {high:.1f} ms")


if __name__ == "__main__":
    main()
