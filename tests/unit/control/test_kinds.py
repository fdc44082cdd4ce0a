"""Every kind of job has one object in control, and its answers agree with the spec's."""

from __future__ import annotations

from typing import Any

import pytest

from saeserve.control.handlers.kinds import KINDS, kind_of
from saeserve.core.specs.jobs import JOB_KINDS, JobSpec

SPECS: dict[str, dict[str, Any]] = {
    "train": {
        "dataset": "d",
        "model": "m",
        "topk": {"k": 2},
        "d_sae": 8,
        "tokens": 64,
        "init_from": "models/n",
    },
    "harvest": {
        "dataset": "d",
        "language_model": {"path": "r:lm"},
        "texts": [{"path": "r:text"}],
        "sites": [{"hook": "resid_post", "layer": 0}],
    },
    "ingest": {"dataset": "d"},
    "evaluate": {"model": "models/n", "dataset": "d"},
    "import_model": {"model": "m", "format": "saelens", "path": "uploads/u/sae"},
    "export_model": {"model": "models/n", "format": "saelens"},
    "collect": {"model": "models/n", "dataset": "d"},
    "generate": {
        "model": "models/n",
        "dataset": "d",
        "prompts": ["a"],
        "edits": [{"feature": 1, "add": 1.0}],
    },
    "annotate": {"model": "models/n", "dataset": "d", "texts": ["a"]},
}
READ = {"train", "evaluate", "collect", "generate", "annotate"}
MADE = {"harvest", "ingest"}


def test_every_kind_of_a_spec_has_one_and_no_other_does() -> None:
    assert set(KINDS) == set(JOB_KINDS) == set(JobSpec.model_fields)
    assert len(set(KINDS.values())) == len(KINDS)


@pytest.mark.parametrize("name", JOB_KINDS)
def test_the_kind_is_that_of_the_spec_and_knows_what_it_names(name: str) -> None:
    """A spec that names a data set or a model gives it as read, made or published, once."""
    job = kind_of(JobSpec.parse({name: SPECS[name]}, ""))
    assert type(job) is KINDS[name]
    assert job.dataset == SPECS[name].get("dataset", "")
    assert job.reads_dataset == (job.dataset if name in READ else "")
    assert job.makes_dataset == (job.dataset if name in MADE else "")
    named = set(job.reads_models)
    asked = {SPECS[name].get(field) for field in ("model", "init_from")} - {None}
    assert named | set(job.publishes) == asked
    assert bool(job.reads_models) == ("models/n" in asked)


def test_paths_of_a_kind_without_uploads_are_none() -> None:
    """Deleting an upload asks only the kinds that take uploads."""
    for name, spec in SPECS.items():
        job = kind_of(JobSpec.parse({name: spec}, ""))
        assert bool(job.reads_paths) == KINDS[name].takes_uploads


@pytest.mark.parametrize("name", JOB_KINDS)
def test_the_device_is_that_of_the_spec_or_the_cpu(name: str) -> None:
    part = getattr(JobSpec.parse({name: SPECS[name]}, ""), name)
    assert kind_of(JobSpec.parse({name: SPECS[name]}, "")).device == getattr(part, "device", "cpu")
