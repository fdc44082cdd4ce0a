"""What holds for every test: Hypothesis judges the code, never the speed of the machine."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

# Examples are the same on every run, so that a green run stays green; the clock has no say.
settings.register_profile(
    "project",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("project")
