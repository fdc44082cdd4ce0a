from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from tests.fakes.tiny_models import CPU, save_model, tiny_gpt2, tiny_llama, tiny_neox
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle
from transformers.pytorch_utils import Conv1D

from saeserve.core.specs.sites import Hook, SiteSpec
from saeserve.errors import SpecError
from saeserve.harvest.language_model import LanguageModel
from saeserve.harvest.layout import decoder_layers
from saeserve.harvest.precision import BFLOAT16_ATTENTION, Bfloat16Linear
from saeserve.harvest.sequences import PAD

TOKENS = torch.tensor([[0, 5, 9, 3, 20], [0, 7, 7, PAD, PAD]])


Build = Callable[[], nn.Module]


def own_hooks(language_model: LanguageModel, tokens: Tensor) -> dict[str, Tensor]:
    """All sites of a Llama, by hooks written here, without stopping early."""
    seen: dict[str, Tensor] = {}

    def keep(name: str, module: nn.Module) -> RemovableHandle:
        def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            seen[name] = output[0] if isinstance(output, tuple) else output

        return module.register_forward_hook(hook)

    handles: list[RemovableHandle] = []
    for i, layer in enumerate(decoder_layers(language_model.model)):
        handles.append(keep(f"resid_post.{i}", layer))
        handles.append(keep(f"mlp_out.{i}", layer.get_submodule("mlp")))
        handles.append(keep(f"attn_out.{i}", layer.get_submodule("self_attn")))
    language_model.forward(tokens)
    for handle in handles:
        handle.remove()
    return seen


def test_residual_stream_equals_hugging_faces_hidden_states(language_model: LanguageModel) -> None:
    model = cast("Any", language_model.model)
    tokens = TOKENS[:1]
    with torch.no_grad():
        states = model(input_ids=tokens, output_hidden_states=True).hidden_states
    for layer in (0, 1):
        captured = language_model.capture(tokens, [SiteSpec(layer=layer)])
        assert torch.equal(captured[f"resid_post.{layer}"], states[layer + 1])


def test_all_sites_in_one_pass_equal_hooks_on_the_full_pass(language_model: LanguageModel) -> None:
    hooks: tuple[Hook, ...] = ("resid_post", "mlp_out", "attn_out")
    sites = [SiteSpec(hook=hook, layer=layer) for hook in hooks for layer in (1, 0, 2)]
    captured = language_model.capture(TOKENS[:1], sites)
    expected = own_hooks(language_model, TOKENS[:1])
    assert captured.keys() == {site.source for site in sites}
    for source, values in captured.items():
        assert torch.equal(values, expected[source]), source


def test_forward_ends_at_the_last_site_and_leaves_no_hook(language_model: LanguageModel) -> None:
    ran: list[int] = []

    def hook(_module: nn.Module, _inputs: object, _output: object) -> None:
        ran.append(1)

    handle = decoder_layers(language_model.model)[1].register_forward_hook(hook)
    before = language_model.forward(TOKENS)
    language_model.capture(TOKENS, [SiteSpec(layer=0)])
    handle.remove()
    assert ran == [1]
    assert torch.equal(language_model.forward(TOKENS), before)


def test_padding_does_not_change_what_stands_before_it(language_model: LanguageModel) -> None:
    site = SiteSpec(layer=2)
    together = language_model.capture(TOKENS, [site])[site.source][1, :3]
    alone = language_model.capture(TOKENS[1:, :3], [site])[site.source][0]
    # Processors sum batches of other shapes in other orders.
    atol = 1e-5 * float(alone.abs().max())
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=atol)


@pytest.mark.parametrize("build", [tiny_gpt2, tiny_neox])
@pytest.mark.parametrize("hook", ["resid_post", "mlp_out", "attn_out"])
def test_other_layouts(build: Build, hook: Hook, language_model: LanguageModel) -> None:
    other = LanguageModel(build(), language_model.tokenizer, CPU)
    site = SiteSpec(hook=hook, layer=1)
    assert other.layers == 2
    assert other.capture(TOKENS, [site])[site.source].shape == (2, 5, 16)


def test_layer_out_of_range_names_the_number_of_layers(language_model: LanguageModel) -> None:
    with pytest.raises(SpecError, match="layer 3 does not exist: the model has 3 layers") as caught:
        language_model.capture(TOKENS, [SiteSpec(layer=3)])
    assert caught.value.remedy == "choose 0 to 2"


def test_unknown_layout_says_where_it_looked(language_model: LanguageModel) -> None:
    with pytest.raises(SpecError, match="layers of Linear cannot be found"):
        LanguageModel(torch.nn.Linear(2, 2), language_model.tokenizer, CPU)


def test_context_longer_than_the_models_positions(language_model: LanguageModel) -> None:
    language_model.check_context(64)
    with pytest.raises(SpecError, match="65 exceeds the model's 64 positions"):
        language_model.check_context(65)


@pytest.mark.parametrize("build", [tiny_llama, tiny_gpt2, tiny_neox])
def test_bfloat16_keeps_the_residual_stream_in_float32(build: Build, tmp_path: Path) -> None:
    save_model(build(), tmp_path)
    exact = LanguageModel.load(tmp_path, None, CPU, "float32")
    fast = LanguageModel.load(tmp_path, None, CPU, "bfloat16")
    site = SiteSpec(layer=1)
    x, y = (m.capture(TOKENS[:1], [site])[site.source] for m in (exact, fast))
    kinds = {type(module) for module in fast.model.modules()}
    assert Bfloat16Linear in kinds
    assert not kinds & {nn.Linear, Conv1D}
    assert cast("Any", fast.model).config._attn_implementation == BFLOAT16_ATTENTION
    assert y.dtype == torch.float32
    assert not torch.equal(y, y.bfloat16().float())
    error = float((x - y).square().sum() / x.square().sum())
    assert 0 < error < 0.03**2
