"""Load one model as a TransformerBridge, from a hub id or a local folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from sae_lens.constants import DTYPE_MAP
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from sae_crossdiff.errors import CrossdiffError


def load_tokenizer(name_or_path: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a hub id or local folder; raises `CrossdiffError` if there is none."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(name_or_path))
    except (OSError, ValueError) as error:
        raise _not_loadable("tokenizer", name_or_path, error) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    name_or_path: str | Path, dtype: torch.dtype | str = torch.float32, device: str = "cpu"
) -> Any:
    """A `TransformerBridge` with raw Hugging Face weights (nothing folded), in eval mode.

    Raises:
        CrossdiffError: nothing loadable at that id or path, or an unknown dtype.
    """
    path = Path(name_or_path).expanduser()
    looks_local = path.is_absolute() or str(name_or_path).startswith((".", "~"))
    if looks_local and not (path / "config.json").exists():
        raise CrossdiffError(
            f"no model in folder {name_or_path}: it has no config.json. Pass a folder written by "
            "save_pretrained, or a hub id such as google/gemma-2-2b"
        )
    name = str(path) if looks_local else str(name_or_path)
    tokenizer = load_tokenizer(name)
    try:
        model = TransformerBridge.boot_transformers(
            name,
            dtype=resolve_dtype(dtype),
            device=resolve_device(device),
            tokenizer=tokenizer,
        )
    except (OSError, ValueError) as error:
        raise _not_loadable("model", name_or_path, error) from error
    return model.eval()


def resolve_dtype(dtype: torch.dtype | str) -> torch.dtype:
    """'float32', 'bfloat16', ... -> torch.dtype; float16 is refused (Gemma overflows in it)."""
    resolved = DTYPE_MAP.get(dtype) if isinstance(dtype, str) else dtype
    if resolved not in (torch.float32, torch.bfloat16, torch.float64):
        raise CrossdiffError(
            f"dtype {dtype!r} is not supported for activations: use 'float32' or 'bfloat16' "
            "(float16 overflows on Gemma's residual stream)"
        )
    return resolved


def resolve_device(device: str) -> str:
    """`device` if torch can use it; raises `CrossdiffError` otherwise."""
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise CrossdiffError(f"device {device!r} is unknown: use 'cpu' or 'cuda'") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise CrossdiffError(f"device {device!r}: torch sees no CUDA GPU here. Use device='cpu'")
    if kind not in ("cpu", "cuda"):
        raise CrossdiffError(f"device {device!r} has no float64, which the sums need: use 'cpu'")
    return device


def _not_loadable(what: str, name: str | Path, error: Exception) -> CrossdiffError:
    reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return CrossdiffError(
        f"cannot load the {what} of {str(name)!r}: {reason}. Pass a local folder written by "
        "save_pretrained, or a hub id you can reach (gated models need `hf auth login`)"
    )
