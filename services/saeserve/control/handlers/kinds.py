"""The kinds of jobs, a class for each: the one place where control tells them apart."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

from typing_extensions import override

from saeserve.control.handlers.check_collect import check_collect
from saeserve.control.handlers.check_data import check_harvest, check_ingest
from saeserve.control.handlers.check_interchange import check_export, check_import
from saeserve.control.handlers.check_model import check_evaluate, check_train
from saeserve.control.handlers.check_texts import check_texts
from saeserve.control.handlers.kind import JobKind, PlanContext
from saeserve.core.planning.plan import Plan
from saeserve.core.specs.field_sources import sources_of_harvest
from saeserve.core.specs.interchange import ExportModelSpec, ImportModelSpec
from saeserve.core.specs.jobs import CollectSpec, EvaluateSpec, HarvestSpec, IngestSpec, JobSpec
from saeserve.core.specs.text_jobs import AnnotateSpec, GenerateSpec
from saeserve.core.specs.training import TrainSpec
from saeserve.jobs.record import Submission


class Train(JobKind[TrainSpec]):
    """Trains a model, or the members of a sweep."""

    name = "train"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        train, plan = check_train(
            context.given, self.spec, context.inputs, context.upstream, context.fleet
        )
        return JobSpec(train=train), plan

    @property
    @override
    def device(self) -> str:
        return self.spec.device

    @property
    @override
    def architecture(self) -> str:
        return self.spec.architecture.name

    @property
    @override
    def reads_dataset(self) -> str:
        return self.spec.dataset

    @property
    @override
    def reads_models(self) -> tuple[str, ...]:
        return (self.spec.init_from,) if self.spec.init_from else ()


class Harvest(JobKind[HarvestSpec]):
    """Makes a data set from a language model and text."""

    name = "harvest"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        harvest, plan = check_harvest(self.spec, context.inputs)
        sources = sources_of_harvest(context.given, harvest)
        return JobSpec(harvest=harvest), plan.model_copy(update={"field_sources": sources})

    @property
    @override
    def device(self) -> str:
        return self.spec.device

    @property
    @override
    def creates_dataset(self) -> str:
        return self.spec.dataset


class Ingest(JobKind[IngestSpec]):
    """Makes a data set from files that were uploaded or registered."""

    name = "ingest"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        return context.planned(JobSpec(ingest=self.spec), check_ingest(self.spec, context.inputs))

    @property
    @override
    def fills_dataset(self) -> str:
        return self.spec.dataset


class Evaluate(JobKind[EvaluateSpec]):
    """Evaluates models on held-out rows."""

    name = "evaluate"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        evaluate, plan = check_evaluate(self.spec, context.inputs, context.upstream)
        return context.planned(JobSpec(evaluate=evaluate), plan)

    @property
    @override
    def device(self) -> str:
        return self.spec.device

    @property
    @override
    def reads_dataset(self) -> str:
        return self.spec.dataset

    @property
    @override
    def reads_models(self) -> tuple[str, ...]:
        return self.spec.references


class ImportModel(JobKind[ImportModelSpec]):
    """Publishes a model from the files of another library."""

    name = "import_model"
    takes_uploads = True

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        return context.planned(
            JobSpec(import_model=self.spec), check_import(self.spec, context.inputs)
        )

    @property
    @override
    def reads_paths(self) -> tuple[str, ...]:
        return self.spec.paths


class ExportModel(JobKind[ExportModelSpec]):
    """Writes a model in the format of another library."""

    name = "export_model"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        export, plan = check_export(self.spec, context.inputs, context.upstream)
        return context.planned(JobSpec(export_model=export), plan)

    @property
    @override
    def reads_models(self) -> tuple[str, ...]:
        return (self.spec.model,)


Looking = TypeVar("Looking", CollectSpec, GenerateSpec, AnnotateSpec)


class LooksAtModel(JobKind[Looking]):
    """Looks at one model with the rows or the language model of a data set."""

    @property
    @override
    def device(self) -> str:
        return self.spec.device

    @property
    @override
    def reads_dataset(self) -> str:
        return self.spec.dataset

    @property
    @override
    def reads_models(self) -> tuple[str, ...]:
        return (self.spec.model,)


class Collect(LooksAtModel[CollectSpec]):
    """Collects what the latents of a model fire on."""

    name = "collect"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        collect, plan = check_collect(self.spec, context.inputs, context.upstream)
        return context.planned(JobSpec(collect=collect), plan)


class Generate(LooksAtModel[GenerateSpec]):
    """Has a language model go on with prompts, as it is and steered."""

    name = "generate"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        found, plan = check_texts(self.spec, self.name, context.inputs, context.upstream)
        return context.planned(JobSpec(generate=found), plan)


class Annotate(LooksAtModel[AnnotateSpec]):
    """Says which features fire on the tokens of texts."""

    name = "annotate"

    @override
    def check(self, context: PlanContext) -> tuple[JobSpec, Plan]:
        found, plan = check_texts(self.spec, self.name, context.inputs, context.upstream)
        return context.planned(JobSpec(annotate=found), plan)


KINDS: Mapping[str, type[JobKind[Any]]] = {
    kind.name: kind
    for kind in (
        Train,
        Harvest,
        Ingest,
        Evaluate,
        ImportModel,
        ExportModel,
        Collect,
        Generate,
        Annotate,
    )
}
"""By the name that a kind has in a JobSpec."""


def kind_of(spec: JobSpec) -> JobKind[Any]:
    """The job that `spec` asks for."""
    return KINDS[spec.kind](spec.chosen)


def kind_of_submission(submission: Submission) -> JobKind[Any]:
    """The job by its resolved spec. Raises SpecError when this release does not read it."""
    return kind_of(JobSpec.parse(submission.resolved_spec, ""))
