"""Runs a generate job: prompts continued by a language model as it is, and steered."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from saeserve.core.export.steering import Change, change_of
from saeserve.core.specs.steering import check_features
from saeserve.core.specs.text_jobs import GenerateSpec
from saeserve.errors import DataMismatchError, SpecError
from saeserve.harvest.generating import Continued, Sampling, Written, continued
from saeserve.harvest.steering import Intervention, Positions
from saeserve.jobs.record import Output
from saeserve.worker.report import Scale
from saeserve.worker.runners.base import Completed, RunContext
from saeserve.worker.runners.text_subject import TextSubject, open_texts


def run(context: RunContext) -> Completed:
    """Every prompt is checked before the first text is written."""
    spec = GenerateSpec.parse(context.submission.resolved_spec["generate"], "generate")
    subject = open_texts(context, spec, "generate")
    check_features(spec.edits, subject.model.config.d_sae, "generate.edits")
    _check_one_site(subject)
    prompts = [_prompt(subject, spec, index) for index in range(len(spec.prompts))]
    found: list[dict[str, Any]] = []
    for index, tokens in enumerate(prompts):
        context.report.log(f"continuing prompt {index + 1} of {len(prompts)}")
        result = _continued(context, subject, spec, tokens)
        found.append(_plain(subject, spec.prompts[index], tokens, result))
        context.report.metrics(index + 1, {}, Scale("prompts", len(prompts)))
    metrics = _figures(found)
    output = Output(generation={"continuations": found}, metrics=metrics)
    return Completed(outputs=(output,), steps=len(found))


def _check_one_site(subject: TextSubject) -> None:
    if len(subject.reads) > 1 or len(subject.writes) > 1:
        raise DataMismatchError(
            "the model reads or writes several sites, of which the first is written before the "
            "last is known",
            remedy="name a model of one site",
        )


def _prompt(subject: TextSubject, spec: GenerateSpec, index: int) -> list[int]:
    """The tokens of a prompt. Raises SpecError where it and the new ones would not fit into the
    language model's positions."""
    field = f"generate.prompts.{index}"
    tokens = [*subject.front, *subject.tokens(spec.prompts[index], field)]
    positions = subject.language_model.positions
    if positions is not None and len(tokens) + spec.max_new_tokens > positions:
        raise SpecError(
            field,
            f"has {len(tokens)} tokens, which with {spec.max_new_tokens} new ones exceed the "
            f"language model's {positions} positions",
            remedy="shorten it, or lower max_new_tokens",
        )
    return tokens


def _continued(
    context: RunContext, subject: TextSubject, spec: GenerateSpec, prompt: list[int]
) -> Continued:
    model = subject.language_model
    sampling = Sampling(
        spec.max_new_tokens, spec.temperature, spec.seed, model.tokenizer.ends(), spec.kv_cache
    )
    intervention = Intervention(
        model.place(subject.reads[0]),
        model.place(subject.writes[0]),
        lambda x_BD: _moves(subject, spec, x_BD),
        _positions(subject, spec, len(prompt)),
    )
    return continued(model, prompt, sampling, intervention, context.check_stop)


def _positions(subject: TextSubject, spec: GenerateSpec, prompt: int) -> Positions:
    start, bos = spec.position_start or 0, bool(subject.front)
    if spec.positions == "generated":
        start = prompt - 1
    return Positions(start, spec.position_stop, subject.special_ids, bos)


def _moves(subject: TextSubject, spec: GenerateSpec, x_BD: Tensor) -> Change:
    """Rows beyond the norm bound stay as they are: their features mean little."""
    within_B = ~subject.beyond(x_BD)
    return change_of(subject.model, subject.model.encode(x_BD), spec.edits, within_B)


def _plain(
    subject: TextSubject, prompt: str, tokens: list[int], result: Continued
) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "prompt": prompt,
        "prompt_tokens": tokens,
        "unsteered": _text(subject, result.unsteered),
        "steered": _text(subject, result.steered),
    }
    if result.first_steered_position is not None:
        facts["first_steered_position"] = result.first_steered_position
        facts["kl_nats"] = result.kl_nats
    return facts


def _text(subject: TextSubject, written: Written) -> dict[str, Any]:
    text = subject.language_model.tokenizer.text(written.tokens)
    return {"text": text, **dataclasses.asdict(written)}


def _figures(found: list[dict[str, Any]]) -> dict[str, float]:
    divergences = [each["kl_nats"] for each in found if "kl_nats" in each]
    figures = {
        "prompts": float(len(found)),
        "texts_changed": float(
            sum(each["unsteered"]["tokens"] != each["steered"]["tokens"] for each in found)
        ),
        "steered_positions": float(sum(each["steered"]["steered_positions"] for each in found)),
    }
    if divergences:
        figures["kl_nats"] = sum(divergences) / len(divergences)
    return figures
