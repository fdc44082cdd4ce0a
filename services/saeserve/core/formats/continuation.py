"""Whether a train spec can continue from a published model, as far as its config says."""

from __future__ import annotations

from saeserve.core.formats.model import ModelConfig
from saeserve.core.formats.train_sources import Layout
from saeserve.core.specs.architectures.registry import ARCHITECTURE_SPECS
from saeserve.core.specs.training import TrainSpec
from saeserve.errors import SpecError

_FIELD = "train.init_from"


def check_continuation(spec: TrainSpec, config: ModelConfig, layout: Layout | None) -> None:
    """Raise SpecError for a model of another d_sae, form, kind of activation or (given the data's
    `layout`) width than the spec's."""
    _check_latents(spec, config)
    _check_activation(spec, config)
    if spec.skip_connection != config.skip_connection:
        has = "has a" if config.skip_connection else "has no"
        raise SpecError(
            _FIELD,
            f"the model {has} skip connection",
            remedy=f"set skip_connection: {str(config.skip_connection).lower()}",
        )
    if layout is not None:
        _check_widths(config, layout)


def _check_latents(spec: TrainSpec, config: ModelConfig) -> None:
    if spec.d_sae != config.d_sae:
        raise SpecError(
            "train.d_sae",
            f"is {spec.d_sae}, and the model of init_from has {config.d_sae} latents",
            remedy=f"set d_sae: {config.d_sae}",
        )


def _check_activation(spec: TrainSpec, config: ModelConfig) -> None:
    name, activation = spec.architecture.name, config.activation
    exported = spec.architecture.exported_activation
    if exported != activation.kind:
        fitting = ", ".join(
            each.name
            for each in ARCHITECTURE_SPECS.values()
            if each.exported_activation == activation.kind
        )
        raise SpecError(
            _FIELD,
            f"the model ({config.architecture}) has the activation {activation.kind}, and "
            f"{name} trains {exported}",
            remedy=f"continue it as one of: {fitting}",
        )
    if activation.kind == "topk" and activation.post != "relu":
        raise SpecError(
            _FIELD,
            f"the model keeps negative features (post: {activation.post}), which {name} does not",
            remedy="train from initial values",
        )
    if config.row_norm.kind != "none":
        raise SpecError(
            _FIELD,
            f"the model normalises each row ({config.row_norm.kind}), which no training here does",
            remedy="train from initial values",
        )


def _check_widths(config: ModelConfig, layout: Layout) -> None:
    for what, places, entries in (
        ("reads", config.inputs, layout.inputs),
        ("writes", config.outputs, layout.targets),
    ):
        wanted, found = [place.d for place in places], [entry.d for entry in entries]
        if wanted != found:
            raise SpecError(
                _FIELD,
                f"the model {what} widths {wanted}, and the data have {found}",
                remedy="name the sources that the model was trained on",
            )
