"""What holds for every test: Hypothesis judges the code, never the speed of the machine, and a
process computes with one thread."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# Before torch is imported, and for the processes that tests start. `make test` runs a process of
# tests per core: with a thread per core in each they would compete, and sums would have the order
# of the machine at hand. A test that is about several threads sets their number itself.
os.environ["OMP_NUM_THREADS"] = "1"

# Examples are the same on every run, so that a green run stays green; the clock has no say.
settings.register_profile(
    "project",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("project")
