"""Pairs in which the tuning introduced nothing: what is called chat-specific there is false.

The "chat" model is the base, tuned a little further on plain text of the base's own kind; or the
base itself, with noise on its activations. It gets the chat template, so that it can be read on
the same dialogues as the real pair, but was never trained on any.
"""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.testbeds.demo_pair import (
    ADAPTER,
    Progress,
    build_chat,
    built_whole,
    cache_folder,
    demo_base,
    say,
)
from sae_crossdiff.testbeds.folders import PairFolders
from sae_crossdiff.testbeds.tiny_pair import tiny_pair
from sae_crossdiff.testbeds.train_tiny_pair import documents, fit, text_losses, windows

__all__ = ["against_itself", "gemma_noop_pair", "tiny_noop_pair"]

NOOP_ADAPTER = ADAPTER.with_name("noop_adapter.safetensors")
TINY_STEPS, TINY_RATE = 150, 5e-4


def gemma_noop_pair(cache_dir: Path | None = None, progress: Progress | None = None) -> PairFolders:
    """Gemma 3 270M and itself tuned on plain English (adapter in this package).

    Raises:
        ImportError: if the weights' packages are missing; the message names the extra to install.
    """
    base = demo_base(cache_folder(cache_dir), progress)
    return PairFolders(base, build_chat(base, progress, NOOP_ADAPTER))


def tiny_noop_pair(cache_dir: Path | None = None, progress: Progress | None = None) -> PairFolders:
    """The tiny base and itself tuned on plain English, made at the first call (seconds)."""
    base, chat = tiny_pair()
    target = cache_folder(cache_dir) / f"tiny-noop-{TINY_STEPS}-{TINY_RATE:g}"
    if not target.exists():
        say(progress, "tuning the tiny base on more plain text (once, seconds)")
        with built_whole(target) as folder:
            for path in chat.iterdir():
                shutil.copy(path, folder)  # tokenizer and template; the weights are written next
            _tuned_tiny(base).bfloat16().save_pretrained(folder)
    return PairFolders(base, target)


def _tuned_tiny(base: Path) -> Any:
    from transformers import AutoTokenizer

    model: Any = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.set_attn_implementation("eager")  # the only one that applies Gemma-2's soft caps
    rows = windows(AutoTokenizer.from_pretrained(base), documents()[0])
    fit(model, text_losses(model, rows), TINY_STEPS, TINY_RATE)
    return model


def against_itself(tokens: ActivationBatch, noise: float, seed: int = 0) -> ActivationBatch:
    """The base's half of `tokens` as both models; the second with noise.

    `noise` is its standard deviation over that of each coordinate.
    """
    base: Tensor = tokens.acts.chunk(2, dim=-1)[0]
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(base.shape, generator=generator)
    noisy = base + (noise * base.float().std(dim=0) * drawn).to(base.dtype)
    return replace(tokens, acts=torch.cat([base, noisy], dim=-1))
