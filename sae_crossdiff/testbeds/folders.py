"""Where a pair of models lies on disk."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

__all__ = ["PairFolders"]


class PairFolders(NamedTuple):
    """Two local model folders in the Hugging Face layout (config, weights, tokenizer)."""

    base: Path
    """the model before tuning; its tokenizer has no chat template"""
    chat: Path
    """the tuned model; same vocabulary, and a tokenizer that knows the chat template"""
