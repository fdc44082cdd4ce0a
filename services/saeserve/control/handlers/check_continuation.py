"""Checks of a train job that continues from a published model."""

from __future__ import annotations

from saeserve.control.handlers.inputs import Inputs, Upstream
from saeserve.core.formats.continuation import check_continuation
from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.training import TrainSpec
from saeserve.errors import SpecError
from saeserve.platform.status import refused_spec
from saeserve.registry.references import parse_reference

_FIELD = "spec.train.init_from"


def pinned(spec: TrainSpec, layout: Layout | None, inputs: Inputs, upstream: Upstream) -> TrainSpec:
    """The spec with `init_from` pinned to one version, where it is there already; without the
    data's `layout` the worker checks widths.

    Raises NotFound, and InvalidInput for a model that the spec cannot continue.
    """
    if spec.init_from is None:
        return spec
    wanted = parse_reference(spec.init_from, _FIELD)
    newest = not wanted.version and not wanted.alias
    if newest and upstream.makes_model(wanted.name):
        return spec
    version = inputs.models.resolve(spec.init_from, _FIELD)
    try:
        check_continuation(spec, version.config, layout)
    except SpecError as error:
        raise refused_spec(error.under("spec")) from None
    return spec.model_copy(update={"init_from": version.resource})
