"""What each kind of job makes is on its spec."""

from __future__ import annotations

from typing import Any

import pytest

from saeserve.core.specs.jobs import JOB_KINDS, JobSpec
from saeserve.core.specs.kind import KindSpec

TRAIN: dict[str, Any] = {"dataset": "acts", "model": "sae", "d_sae": 8, "tokens": 4096}
SITES = [{"layer": 0, "hook": "resid_post"}]
SPECS: dict[str, dict[str, Any]] = {
    "train": TRAIN | {"topk": {"k": 2}},
    "harvest": {
        "dataset": "acts",
        "language_model": {"path": "root:lm"},
        "texts": [{"path": "root:text"}],
        "sites": SITES,
    },
    "ingest": {"dataset": "acts"},
    "evaluate": {"model": "sae", "dataset": "acts"},
    "import_model": {"model": "sae", "format": "saelens", "path": "root:x"},
    "export_model": {"model": "sae", "format": "saelens"},
    "collect": {"model": "sae", "dataset": "acts"},
    "generate": {
        "model": "sae",
        "dataset": "acts",
        "prompts": ["a"],
        "edits": [{"feature": 1, "add": 1.0}],
    },
    "annotate": {"model": "sae", "dataset": "acts", "texts": ["a"]},
}
MAKES: dict[str, tuple[str, dict[str, float | None]]] = {
    "train": ("", {"sae": 2.0}),
    "harvest": ("acts", {}),
    "ingest": ("acts", {}),
    "evaluate": ("", {}),
    "import_model": ("", {"sae": None}),
    "export_model": ("", {}),
    "collect": ("", {}),
    "generate": ("", {}),
    "annotate": ("", {}),
}


@pytest.mark.parametrize("kind", JOB_KINDS)
def test_a_spec_says_what_its_job_makes(kind: str) -> None:
    chosen = JobSpec.parse({kind: SPECS[kind]}, "spec").chosen
    assert isinstance(chosen, KindSpec)
    assert (chosen.makes_dataset, chosen.l0_by_model) == MAKES[kind]
    assert chosen.publishes == tuple(chosen.l0_by_model)


def test_a_sweep_publishes_a_model_for_each_member() -> None:
    swept = TRAIN | {"topk": {}, "sweep": {"k": [2, 4]}}
    chosen = JobSpec.parse({"train": swept}, "spec").chosen
    assert list(chosen.l0_by_model.values()) == [2.0, 4.0]
