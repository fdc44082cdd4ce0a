"""Text that a language model writes as it is, and while its rows are moved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from saeserve.core.ops.draws import generator
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.nats import kl_divergence
from saeserve.harvest.steering import Growing, Intervention, logits_of


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen. Both texts of a prompt are written with the same draws, so that they
    differ by what is steered and not by chance."""

    new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    ends: frozenset[int] = frozenset()
    """Tokens after which a text ends."""
    cached: bool = True

    def choose(self, logits_V: Tensor, step: int) -> int:
        """The most probable token; with a temperature, the one of the largest logit plus Gumbel
        noise, which draws from the distribution (Maddison et al. 2014, A* sampling)."""
        scores_V = logits_V.double().cpu()
        if self.temperature > 0:
            draws = generator(self.seed, step, "generate")
            uniform_V = torch.rand(len(scores_V), dtype=torch.float64, generator=draws)
            noise_V = -torch.log(-torch.log(uniform_V.clamp_min(1e-300)))
            scores_V = scores_V / self.temperature + noise_V
        return int(scores_V.argmax())


@dataclass(frozen=True)
class Written:
    """New tokens, and how probable they are, in nats, to the model as it is and when steered."""

    tokens: tuple[int, ...]
    log_probs_unsteered: tuple[float, ...]
    log_probs_steered: tuple[float, ...]
    steered_positions: int
    """Positions of prompt and text whose rows the edits change; the last token has none."""
    ended_by: str
    """"length" or "eos"."""


@dataclass(frozen=True)
class Continued:
    """Both texts of a prompt."""

    unsteered: Written
    steered: Written
    first_steered_position: int | None
    kl_nats: float | None


def continued(
    model: LanguageModel,
    prompt: Sequence[int],
    sampling: Sampling,
    intervention: Intervention,
    after_token: Callable[[], None],
) -> Continued:
    """Write both texts, then run both models over each whole text, without a cache, for the
    probabilities. `after_token` may raise to stop."""
    plain = written(model, prompt, sampling, None, after_token)
    steered = written(model, prompt, sampling, intervention, after_token)
    unsteered, first, kl = _scored(model, prompt, plain, sampling, intervention)
    moved, _, _ = _scored(model, prompt, steered, sampling, intervention)
    return Continued(unsteered, moved, first, kl)


def written(
    model: LanguageModel,
    prompt: Sequence[int],
    sampling: Sampling,
    intervention: Intervention | None,
    after_token: Callable[[], None],
) -> list[int]:
    """The new tokens after `prompt`."""
    sequence, new = Growing(model, intervention, sampling.cached), list[int]()
    logits_TV = sequence.logits(prompt)
    while True:
        new.append(sampling.choose(logits_TV[-1], len(new)))
        after_token()
        if len(new) == sampling.new_tokens or new[-1] in sampling.ends:
            return new
        logits_TV = sequence.logits(new[-1:])


def _scored(
    model: LanguageModel,
    prompt: Sequence[int],
    new: Sequence[int],
    sampling: Sampling,
    intervention: Intervention,
) -> tuple[Written, int | None, float | None]:
    """The text with its probabilities; the first position that is changed, and the divergence
    there."""
    whole = [*prompt, *new][:-1]
    clean_TV = logits_of(model, whole, None)
    steered_TV = logits_of(model, whole, intervention)
    changed = intervention.changed
    first = min(changed, default=None)
    kl = None
    if first is not None:
        at = slice(first, first + 1)
        kl = float(kl_divergence(clean_TV[at], steered_TV[at]))
    return (
        Written(
            tuple(new),
            _log_probs(clean_TV, new),
            _log_probs(steered_TV, new),
            len(changed),
            "eos" if new[-1] in sampling.ends else "length",
        ),
        first,
        kl,
    )


def _log_probs(logits_TV: Tensor, new: Sequence[int]) -> tuple[float, ...]:
    """Log-probabilities of the last tokens, each at the position before it."""
    log_p_NV = functional.log_softmax(logits_TV[-len(new) :].double(), dim=-1)
    tokens_N1 = torch.tensor(new, device=logits_TV.device)[:, None]
    return tuple(float(value) for value in log_p_NV.gather(1, tokens_N1)[:, 0])
