"""Tiny random language models with a word tokenizer, for tests that need a real forward pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

CPU = torch.device("cpu")
WORDS = [f"w{i}" for i in range(60)]
"""The vocabulary: token i + 2 is WORDS[i]; 0 is <bos>, 1 <unk>."""
D_MODEL = 16
POSITIONS = 64


def tiny_llama() -> nn.Module:
    """Three layers."""
    torch.default_generator.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64,
        hidden_size=D_MODEL,
        intermediate_size=24,
        num_hidden_layers=3,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=POSITIONS,
        bos_token_id=0,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


def tiny_gpt2() -> nn.Module:
    """Two layers, with Conv1D in the place of linear layers."""
    torch.default_generator.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_embd=D_MODEL, n_layer=2, n_head=2, n_positions=POSITIONS)
    return GPT2LMHeadModel(config).eval()


def tiny_neox() -> nn.Module:
    """Two layers, attention and MLP in parallel."""
    torch.default_generator.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=64,
        hidden_size=D_MODEL,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=POSITIONS,
    )
    return GPTNeoXForCausalLM(config).eval()


EOS = 62


def save_tokenizer(
    folder: Path, bos: str | None = "<bos>", eos: bool = False, puts_bos: bool = False
) -> None:
    """Write the word tokenizer's files; with `eos`, <eos> is token EOS; with `puts_bos`, it puts
    BOS before every text by itself."""
    vocabulary = {"<bos>": 0, "<unk>": 1} | {word: i + 2 for i, word in enumerate(WORDS)}
    vocabulary |= {"<eos>": EOS} if eos else {}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    cast("Any", inner).pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if puts_bos:
        cast("Any", inner).post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", 0)]
        )
    ends = {"eos_token": "<eos>"} if eos else {}
    fast = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=bos, unk_token="<unk>", **ends)
    cast("Any", fast).save_pretrained(str(folder))


def save_model(model: nn.Module, folder: Path) -> None:
    """Write model and tokenizer as Hugging Face does, safetensors."""
    cast("Any", model).save_pretrained(str(folder))
    save_tokenizer(folder)


def listed(tensor: Tensor) -> list[Any]:
    """`tensor.tolist()`, typed."""
    return cast("list[Any]", cast("Any", tensor).tolist())
