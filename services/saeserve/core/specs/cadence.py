"""How often a run on an accelerator reports and commits checkpoints at most: a step may take it a
millisecond, and the cadences of a spec are in steps."""

from __future__ import annotations

REPORT_S = 0.5
"""Least time between two reports."""
CHECKPOINT_S = 60.0
"""Least time between two checkpoints; a run that stops or ends commits one anyway."""
