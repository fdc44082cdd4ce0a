"""What a job is, in a few words: what it does, with what, and what it makes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from saeserve.cli.figures import count, duration, listed
from saeserve.client.architectures import ARCHITECTURES
from saeserve.client.values import Job

_LISTED = 3

Spec = Mapping[str, Any]


def described(job: Job) -> str:
    """Kind, inputs, sizes and output; the kind alone where the server does not say more."""
    spec = job.resolved_spec.get(job.kind, {})
    words = _WORDS.get(job.kind)
    return words(spec) if words and spec else job.kind


def progress(job: Job) -> str:
    """Why it waits, how far it is, what it made or why it failed."""
    if job.waiting is not None:
        return job.waiting.reason
    if job.error is not None:
        return job.error.code
    if job.done:
        return made(job)
    step = step_text(job)
    attempt = f"attempt {job.attempt} of {job.max_attempts}" if job.attempt > 1 else ""
    left = job.progress.remaining_seconds
    eta = f"{duration(left)} left" if left and step else ""
    return listed(part for part in (step, eta, attempt) if part)


def step_text(job: Job) -> str:
    """How far it is; empty while that is unknown."""
    at = job.progress
    if not at.total_steps:
        return ""
    share = f" ({at.step / at.total_steps:.0%})" if not job.done else ""
    return f"{at.step:,}/{at.total_steps:,} {at.unit}{share}"


def made(job: Job) -> str:
    """What it made, by name as long as that is short."""
    names = [output.model or output.dataset or output.exported for output in job.outputs]
    told = listed(name or "evaluation" for name in names)
    told = f"{len(names)} models" if len(names) > _LISTED else told
    lost = len(job.member_errors)
    return f"{told}; {lost} diverged" if lost else told


def _train(spec: Spec) -> str:
    sizes = [f"d_sae {count(spec['d_sae'])}"] if "d_sae" in spec else []
    sizes += [f"{count(spec['tokens'])} tokens"] if "tokens" in spec else []
    start = f" from {spec['init_from']}" if "init_from" in spec else ""
    told = f"train {_architecture(spec)}{_sweep(spec)} on {spec.get('dataset')}{_sources(spec)}"
    return f"{listed([told, *sizes])}{start} → {spec.get('model')}"


def _architecture(spec: Spec) -> str:
    name = next((each for each in ARCHITECTURES if each in spec), str(spec.get("preset", "SAE")))
    k = spec.get(name, {}).get("k")
    if k is not None:
        return f"{name} k={count(k)}"
    return f"{name} L0={spec['target_l0']:g}" if "target_l0" in spec else name


def _sweep(spec: Spec) -> str:
    axes: Mapping[str, list[Any]] = spec.get("sweep") or {}
    told = (f"{name}={','.join(count(value) for value in axes[name])}" for name in axes)
    return f" × {' × '.join(told)}" if axes else ""


def _sources(spec: Spec) -> str:
    if spec.get("sources"):
        return f" {'+'.join(spec['sources'])}"
    target = f"→{spec['target_source']}" if "target_source" in spec else ""
    return f" {spec['source']}{target}" if "source" in spec else ""


def _harvest(spec: Spec) -> str:
    sites = listed(f"{each.get('hook')}.{each.get('layer', 0)}" for each in spec.get("sites", ()))
    most = f", {count(spec['max_tokens'])} tokens" if spec.get("max_tokens") else ""
    model = spec.get("language_model", {}).get("path")
    return f"harvest {sites} of {model}{most} → {spec.get('dataset')}"


def _evaluate(spec: Spec) -> str:
    spliced = ", loss recovered" if "loss_recovered" in spec else ""
    models = listed([spec.get("model"), *spec.get("models", ())])
    return f"evaluate {models} on {spec.get('dataset')}{spliced}"


def _import(spec: Spec) -> str:
    return f"import {spec.get('format')} {spec.get('path')} → {spec.get('model')}"


def _generate(spec: Spec) -> str:
    edits, prompts = len(spec.get("edits", ())), len(spec.get("prompts", ()))
    return f"generate {prompts} texts, {edits} edits of {spec.get('model')}"


def _annotate(spec: Spec) -> str:
    return f"annotate {len(spec.get('texts', ()))} texts with {spec.get('model')}"


_WORDS: Mapping[str, Callable[[Spec], str]] = {
    "train": _train,
    "harvest": _harvest,
    "ingest": lambda spec: f"ingest {spec.get('dataset')}",
    "evaluate": _evaluate,
    "import_model": _import,
    "collect": lambda spec: f"collect features of {spec.get('model')} on {spec.get('dataset')}",
    "export_model": lambda spec: f"export {spec.get('model')} as {spec.get('format')}",
    "generate": _generate,
    "annotate": _annotate,
}
