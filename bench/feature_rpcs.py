"""How long FeatureService takes at 131,072 features: a list, a feature, contexts, a token.

    python -m bench.feature_rpcs [--features 131072] [--calls 300]

A real server in a thread and the SDK as its client, over loopback, one call at a time; the bundle
is generated. Each line has the wall time of a call and the CPU time of server and client together,
which what else runs on the machine changes less; the machine's load is printed first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from tests.fakes.bundle_store import put_bundle
from tests.fakes.inference_server import in_thread, settings_of
from tests.fakes.small_model import small_model

from saeserve.client import Client, FeatureFilter
from saeserve.core.export.format import save_model
from saeserve.core.formats.model import TopKActivation
from saeserve.platform.store import ArtifactStore
from saeserve.registry.models import ModelRegistry

Call = Callable[[int], object]


def main() -> None:
    """Print a line for each kind of call."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--features", type=int, default=131_072)
    parser.add_argument("--calls", type=int, default=300)
    args = parser.parse_args()
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors, {args.features} features")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        _prepare(root, args.features)
        with (
            in_thread(settings_of(root / "store")) as parts,
            Client(None, parts.server.bound) as to,
        ):
            for name, call in _calls(to, args.features).items():
                _measure(name, call, args.calls, args.features)


def _prepare(root: Path, d_sae: int) -> None:
    store = ArtifactStore(root / "store")
    models = ModelRegistry(store)
    save_model(small_model(TopKActivation(k=4)), root / "model")
    models.publish("sae", "j-made", 0, root / "model")
    put_bundle(store, models, "sae", "j-made", d_sae=d_sae, sequences=20_000)


def _calls(client: Client, d_sae: int) -> Mapping[str, Call]:
    features, some = client.features, FeatureFilter(min_max=20.0, dead=False)
    last = d_sae - 50
    return {
        "describe": lambda _: features.describe("sae"),
        "first page of 50 by density": lambda _: features.page("sae"),
        "any page of 50 by max": lambda at: features.page("sae", order_by="max", skip=at % last),
        "first page of a filter": lambda _: features.page("sae", where=some),
        "a feature": lambda at: features.get("sae", at),
        "10 contexts of 8 features": lambda at: features.contexts(
            "sae", [(at + n) % d_sae for n in range(8)]
        ),
        "a token": lambda at: features.search_token("sae", f"part{at % 500}"),
    }


def _measure(name: str, call: Call, calls: int, d_sae: int) -> None:
    numbers = np.random.default_rng(0).integers(0, d_sae, calls).tolist()
    call(numbers[0])
    walls: list[float] = []
    spent = time.process_time()
    for number in numbers:
        began = time.perf_counter()
        call(number)
        walls.append((time.perf_counter() - began) * 1e3)
    cpu = (time.process_time() - spent) / calls * 1e3
    middle, high = np.quantile(walls, (0.5, 0.95))
    print(
        f"{name}: p50 {middle:.1f} ms, p95 {high:.1f} ms of wall time; {cpu:.1f} ms of CPU a call"
    )


if __name__ == "__main__":
    main()
