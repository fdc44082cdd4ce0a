"""Which fields make a transcoder or a crosscoder, and which sources they name."""

from __future__ import annotations

from typing import Any

import pytest
from tests.fakes.registry import manifest_of

from saeserve.core.formats.evaluation_sources import check_widths, judged_sources
from saeserve.core.formats.manifest import DatasetManifest, SourceEntry
from saeserve.core.formats.model import ModelConfig, ReluActivation, TensorSource
from saeserve.core.formats.train_sources import Layout, layout_of
from saeserve.core.specs.training import TrainSpec
from saeserve.errors import DataMismatchError, SpecError


def spec(**changes: object) -> TrainSpec:
    fields: dict[str, Any] = {
        "dataset": "acts",
        "model": "m",
        "topk": {"k": 2},
        "d_sae": 64,
        "tokens": 4096,
    }
    return TrainSpec.parse(fields | changes, "train")


def manifest(*names: str) -> DatasetManifest:
    made = manifest_of(sources=names)
    wide = [entry.model_copy(update={"d": 4 + i}) for i, entry in enumerate(made.sources)]
    return made.model_copy(update={"sources": tuple(wide)})


def layout(asked: TrainSpec, *names: str) -> Layout:
    return layout_of(asked, manifest(*names), finder(manifest(*names)))


def finder(made: DatasetManifest) -> Any:  # noqa: ANN401 - a function of two arguments
    def find(name: str | None, field: str) -> SourceEntry:
        try:
            return made.source(name)
        except KeyError:
            raise SpecError(field, f"no {name}") from None

    return find


@pytest.mark.parametrize(
    ("fields", "field", "text"),
    [
        ({"sources": ["a"]}, "train.sources", "two sources or more"),
        ({"sources": ["a", "b", "a"]}, "train.sources", "is listed twice"),
        ({"sources": ["a", "b"], "source": "a"}, "train.source", "is given together with sources"),
        (
            {"sources": ["a", "b"], "target_source": "a"},
            "train.target_source",
            "together with sources",
        ),
        ({"source": "a", "target_source": "a"}, "train.target_source", "is the source itself"),
        ({"skip_connection": True}, "train.skip_connection", "needs target_source"),
        ({"sources": ["a", "b"], "skip_connection": True}, "train.skip_connection", "needs"),
    ],
)
def test_fields_that_make_no_form_are_refused(
    fields: dict[str, object], field: str, text: str
) -> None:
    with pytest.raises(SpecError, match=text) as caught:
        spec(**fields)
    assert caught.value.field == field
    assert caught.value.remedy


def test_an_autoencoder_reads_and_writes_one_source() -> None:
    found = layout(spec(), "a")
    assert (found.names, found.d_in, found.d_out, found.target_widths) == (("a",), 4, 4, ())
    assert found.resolve(spec()).source == "a"


def test_a_transcoder_has_its_target_beside_its_input() -> None:
    asked = spec(source="b", target_source="a", skip_connection=True)
    found = layout(asked, "a", "b")
    assert (found.names, found.d_in, found.d_out, found.target_widths) == (("b", "a"), 5, 4, ())
    resolved = found.resolve(asked)
    assert (resolved.source, resolved.target_source, resolved.sources) == ("b", "a", ())


def test_a_crosscoder_reads_and_writes_all_its_sources() -> None:
    asked = spec(sources=["c", "a"], topk={"k": 2})
    found = layout(asked, "a", "b", "c")
    assert (found.names, found.d_in, found.d_out) == (("c", "a"), 10, 10)
    assert found.target_widths == (6, 4)
    resolved = found.resolve(asked)
    assert (resolved.source, resolved.sources) == (None, ("c", "a"))
    assert resolved.topk is not None
    assert resolved.topk.k_aux == 4
    assert found.resolve(resolved) == resolved


def test_a_crosscoder_on_a_data_set_of_one_source_is_refused() -> None:
    with pytest.raises(SpecError, match="data set acts has only a") as caught:
        layout(spec(sources=["a", "b"]), "a")
    assert caught.value.field == "train.sources"
    assert "harvest several sites" in caught.value.remedy


def test_a_target_that_is_the_only_source_is_refused() -> None:
    with pytest.raises(SpecError, match="is the source itself"):
        layout(spec(target_source="a"), "a")


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"sources": ["a", "z"]}, "train.sources"),
        ({"source": "a", "target_source": "z"}, "train.target_source"),
        ({"target_source": "a"}, "train.source"),
    ],
)
def test_what_is_not_there_is_named_by_its_field(fields: dict[str, object], field: str) -> None:
    with pytest.raises(SpecError) as caught:
        layout(spec(**fields), "a", "b")
    assert caught.value.field == field


def config(inputs: dict[str, int], outputs: dict[str, int]) -> ModelConfig:
    return ModelConfig(
        architecture="relu",
        d_in=sum(inputs.values()),
        d_out=sum(outputs.values()),
        d_sae=8,
        inputs=places(inputs),
        outputs=places(outputs),
        activation=ReluActivation(),
    )


def places(widths: dict[str, int]) -> tuple[TensorSource, ...]:
    found: list[TensorSource] = []
    for name, d in widths.items():
        found.append(TensorSource(name=name, offset=sum(each.d for each in found), d=d))
    return tuple(found)


def judged(model: ModelConfig, asked: str | None, *names: str) -> list[str]:
    made = manifest(*names)
    return [entry.name for entry in judged_sources(model, asked, made, finder(made))]


def test_a_model_is_judged_on_what_it_reads_and_writes() -> None:
    autoencoder = config({"a": 4}, {"a": 4})
    assert judged(autoencoder, None, "a", "b") == ["a"]
    assert judged(autoencoder, "b", "a", "b") == ["b"]
    assert judged(autoencoder, None, "other") == ["other"]
    transcoder = config({"a": 4}, {"b": 5})
    assert judged(transcoder, None, "b", "a") == ["a", "b"]
    assert judged(transcoder, "a", "a", "b") == ["a", "b"]
    crosscoder = config({"b": 5, "a": 4}, {"b": 5, "a": 4})
    assert judged(crosscoder, None, "a", "b") == ["b", "a"]
    assert (transcoder.row_width, crosscoder.row_width) == (9, 9)


@pytest.mark.parametrize("asked", ["b", "z"])
def test_another_input_than_the_models_is_refused(asked: str) -> None:
    with pytest.raises(SpecError, match="the model reads a, not"):
        judged(config({"a": 4}, {"b": 5}), asked, "a", "b")


def test_a_data_set_without_the_target_is_refused() -> None:
    with pytest.raises(SpecError, match="no b"):
        judged(config({"a": 4}, {"b": 5}), None, "a")


def test_a_source_of_another_width_is_refused() -> None:
    model = config({"a": 4}, {"b": 9})
    with pytest.raises(DataMismatchError, match="width 9 as b, and b of data set acts has 5"):
        check_widths("m", model, manifest("a", "b").sources, "acts")
