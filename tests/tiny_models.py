"""Randomly initialised models of several families, saved as Hugging Face folders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

WORDS = [
    "<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>", "user", "model",
    "\n", *[f"w{i}" for i in range(119)],
]  # fmt: skip
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{{ '<start_of_turn> ' + "
    "('model' if m['role'] == 'assistant' else m['role']) + ' ' + m['content'] | trim + "
    "' <end_of_turn> ' }}{% endfor %}"
)
_SMALL: dict[str, Any] = {
    "vocab_size": 128, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
    "bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0,
}  # fmt: skip


def tiny_config(family: str, width: int = 32, sliding_window: int = 4096) -> PretrainedConfig:
    small = {**_SMALL, "hidden_size": width}
    gemma = {"head_dim": 8, "query_pre_attn_scalar": 8, "sliding_window": sliding_window}
    if family == "gemma2":
        return Gemma2Config(**small, **gemma)
    if family == "gemma3":
        return Gemma3TextConfig(**small, **gemma)
    if family == "llama":
        return LlamaConfig(**small)
    if family == "qwen2":
        return Qwen2Config(**small)
    return GPT2Config(
        vocab_size=128, n_embd=width, n_layer=4, n_head=4, n_positions=128,
        bos_token_id=2, eos_token_id=1,
    )  # fmt: skip


def word_tokenizer(words: list[str] = WORDS, chat: bool = True) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>",
        unk_token="<unk>", additional_special_tokens=["<start_of_turn>", "<end_of_turn>"],
    )  # fmt: skip
    if chat:
        tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_tiny_model(
    folder: Path,
    family: str = "gemma2",
    seed: int = 0,
    width: int = 32,
    chat: bool = True,
    sliding_window: int = 4096,
) -> Path:
    """A model of `family` with random weights, and a word-level tokenizer, in `folder`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(tiny_config(family, width, sliding_window))
    # Default initialisation is too small for the layers to matter.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5.0)
    model.save_pretrained(folder)
    word_tokenizer(chat=chat).save_pretrained(folder)
    return folder
