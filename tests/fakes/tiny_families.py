"""Tiny random language models of many families, by the names that transformers gives them."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
)

BASE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
_GEMMA = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": 8}
_GPT = {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
SANDWICH: dict[str, dict[str, Any]] = {
    "gemma2": _GEMMA,
    "gemma3_text": _GEMMA,
    "olmo2": {},
    "glm4": {"head_dim": 8},
    "exaone4": {"head_dim": 8},
}
"""A norm stands between attention or MLP and the residual stream."""
SEQUENTIAL: dict[str, dict[str, Any]] = SANDWICH | {
    "llama": {},
    "qwen3": {"head_dim": 8},
    "granite": {"residual_multiplier": 0.22},
    "gpt2": _GPT,
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "bloom": {"n_layer": 3, "n_head": 4},
    "mpt": {"d_model": 32, "n_heads": 4, "n_layers": 3, "max_seq_len": 64},
    "mixtral": {"num_local_experts": 4},
    "llama4_text": {"head_dim": 8, "intermediate_size_mlp": 48, "num_local_experts": 4},
}
PARALLEL: dict[str, dict[str, Any]] = {
    "gpt_neox": {},
    "gptj": _GPT | {"rotary_dim": 8},
    "falcon": {"parallel_attn": True, "new_decoder_architecture": False, "bias": False},
    "cohere": {},
}
"""Attention and MLP read the same stream."""
WITHOUT_SUM: dict[str, dict[str, Any]] = {"openai-gpt": _GPT, "mamba": {}}
"""A norm follows the sum; there is no attention at all."""


def tiny_family(model_type: str, **more: object) -> nn.Module:
    """A model of three layers, width 32, whose attention and MLP add what is worth measuring."""
    config = cast("Any", AutoConfig).for_model(model_type, **{**BASE, **more})
    torch.default_generator.manual_seed(0)
    return _randomised(cast("Any", AutoModelForCausalLM).from_config(config))


def tiny_multimodal(kind: str) -> nn.Module:
    """The same as the text part of a model that reads images too: gemma3 or llava."""
    torch.default_generator.manual_seed(0)
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    if kind == "gemma3":
        parts = {"text_config": {**BASE, **_GEMMA}, "vision_config": vision}
        more = {"mm_tokens_per_image": 4, "boi_token_index": 61, "eoi_token_index": 62}
    else:
        seen = {"model_type": "clip_vision_model", **vision}
        parts = {"text_config": {"model_type": "llama", **BASE}, "vision_config": seen}
        more = {}
    config = cast("Any", AutoConfig).for_model(kind, **parts, **more, image_token_index=60)
    return _randomised(cast("Any", AutoModelForImageTextToText).from_config(config))


def _randomised(model: nn.Module) -> nn.Module:
    draws = torch.Generator().manual_seed(1)
    parameters = cast("list[tuple[str, nn.Parameter]]", list(cast("Any", model).named_parameters()))
    for name, parameter in parameters:
        if parameter.ndim >= 2:
            embeds = "embed" in name or "wte" in name
            scale = 1.0 if embeds else 0.6 / parameter.shape[-1] ** 0.5
            parameter.data = torch.randn(parameter.shape, generator=draws) * scale
    return model.float().eval()
