"""The specs and the protos say the same: converters rely on it and hold no table."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor

from saeserve.core.planning.plan import MemoryPeak, MemoryPlan, Plan
from saeserve.core.planning.refusal import Refusal
from saeserve.core.specs import interchange, jobs, steering, text_jobs, training
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.base import Spec
from saeserve.core.specs.sweep import SweepSpec
from saeserve.v1 import job_pb2, spec_pb2

MESSAGES = spec_pb2.DESCRIPTOR.message_types_by_name

PAIRS: list[tuple[type[Spec], Descriptor]] = [
    (jobs.JobSpec, spec_pb2.JobSpec.DESCRIPTOR),
    (training.TrainSpec, spec_pb2.TrainSpec.DESCRIPTOR),
    (training.OptimizerSpec, spec_pb2.OptimizerSpec.DESCRIPTOR),
    (training.PreprocessSpec, spec_pb2.PreprocessSpec.DESCRIPTOR),
    (training.ResampleSpec, spec_pb2.ResampleSpec.DESCRIPTOR),
    (SweepSpec, spec_pb2.SweepSpec.DESCRIPTOR),
    *((spec, MESSAGES[spec.__name__]) for spec in ARCHITECTURE_SPECS.values()),
    (jobs.HarvestSpec, spec_pb2.HarvestSpec.DESCRIPTOR),
    (jobs.LanguageModelSpec, spec_pb2.LanguageModelSpec.DESCRIPTOR),
    (jobs.TextSpec, spec_pb2.TextSpec.DESCRIPTOR),
    (jobs.SiteSpec, spec_pb2.SiteSpec.DESCRIPTOR),
    (jobs.IngestSpec, spec_pb2.IngestSpec.DESCRIPTOR),
    (jobs.IngestSourceSpec, spec_pb2.IngestSourceSpec.DESCRIPTOR),
    (jobs.EvaluateSpec, spec_pb2.EvaluateSpec.DESCRIPTOR),
    (jobs.CollectSpec, spec_pb2.CollectSpec.DESCRIPTOR),
    (jobs.LossRecoveredSpec, spec_pb2.LossRecoveredSpec.DESCRIPTOR),
    (interchange.ImportModelSpec, spec_pb2.ImportModelSpec.DESCRIPTOR),
    (interchange.ReferenceSpec, spec_pb2.ReferenceSpec.DESCRIPTOR),
    (interchange.ExportModelSpec, spec_pb2.ExportModelSpec.DESCRIPTOR),
    (text_jobs.GenerateSpec, spec_pb2.GenerateSpec.DESCRIPTOR),
    (text_jobs.AnnotateSpec, spec_pb2.AnnotateSpec.DESCRIPTOR),
    (steering.EditSpec, spec_pb2.EditSpec.DESCRIPTOR),
    (steering.ClampSpec, spec_pb2.ClampSpec.DESCRIPTOR),
]
PLANS: list[tuple[type[Spec], Descriptor]] = [
    (Plan, job_pb2.Plan.DESCRIPTOR),
    (MemoryPlan, job_pb2.MemoryPlan.DESCRIPTOR),
    (MemoryPeak, job_pb2.MemoryPeak.DESCRIPTOR),
    (Refusal, job_pb2.Refusal.DESCRIPTOR),
]
ALL = PAIRS + PLANS
IDS = [spec.__name__ for spec, _ in ALL]
SCALARS: dict[int, type] = {
    FieldDescriptor.TYPE_INT64: int,
    FieldDescriptor.TYPE_DOUBLE: float,
    FieldDescriptor.TYPE_STRING: str,
    FieldDescriptor.TYPE_BOOL: bool,
}


def plain(annotation: Any) -> tuple[Any, bool]:  # noqa: ANN401 - annotations are anything
    """The type without Annotated, None and Literal, and whether it repeats."""
    origin = get_origin(annotation)
    if origin is Annotated:
        return plain(get_args(annotation)[0])
    if origin in (Union, types.UnionType):
        [only] = [arm for arm in get_args(annotation) if arm is not type(None)]
        return plain(only)
    if origin is Literal:
        return str, False
    if origin is tuple:
        return plain(get_args(annotation)[0])[0], True
    return annotation, False


@pytest.mark.parametrize(("spec", "message"), ALL, ids=IDS)
def test_fields_have_the_same_names(spec: type[Spec], message: Descriptor) -> None:
    assert sorted(spec.model_fields) == sorted(field.name for field in message.fields)


@pytest.mark.parametrize(("spec", "message"), ALL, ids=IDS)
def test_fields_have_the_same_types(spec: type[Spec], message: Descriptor) -> None:
    for field in message.fields:
        expected, repeats = plain(spec.model_fields[field.name].annotation)
        assert field.is_repeated == repeats, field.name
        if field.message_type is not None:
            assert expected.__name__ == field.message_type.name, field.name
        else:
            assert expected is SCALARS[field.type], field.name


@pytest.mark.parametrize(("spec", "message"), PAIRS, ids=IDS[: len(PAIRS)])
def test_every_scalar_of_a_spec_knows_unset_from_zero(
    spec: type[Spec], message: Descriptor
) -> None:
    for field in message.fields:
        assert field.is_repeated or field.has_presence, f"{spec.__name__}.{field.name}"


def test_every_spec_message_has_its_spec() -> None:
    assert set(MESSAGES) == {message.name for _, message in PAIRS}


def test_architectures_are_the_oneof() -> None:
    oneof = spec_pb2.TrainSpec.DESCRIPTOR.oneofs_by_name["architecture"]
    assert {field.name for field in oneof.fields} == set(ARCHITECTURE_SPECS)


def test_kinds_are_the_oneof() -> None:
    oneof = spec_pb2.JobSpec.DESCRIPTOR.oneofs_by_name["kind"]
    assert tuple(field.name for field in oneof.fields) == jobs.JOB_KINDS
