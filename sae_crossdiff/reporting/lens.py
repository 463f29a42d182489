"""Logit lens: which next tokens a decoder direction raises, read through the final norm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from sae_crossdiff.crosscoders import Crosscoder
from sae_crossdiff.errors import CrossdiffError
from sae_crossdiff.pair import HookedModelPair

LENSES = ("base", "chat", "difference")
_DIRECTIONS_AT_ONCE = 64


class TopTokens(NamedTuple):
    """Per direction the tokens it raises most: `ids`, `logits` [directions, n], best first."""

    ids: NDArray[np.int64]
    logits: NDArray[np.float32]


@torch.no_grad()
def logit_lens(model: Any, directions: Float[Tensor, "directions d"], n: int = 10) -> TopTokens:
    """unembed(norm(d)) - unembed(norm(0)) less its mean over the vocabulary, in float32.

    The final norm rescales its input, so the logits say which tokens a direction prefers, not how
    strongly the latent writes. All layers in between are left out: for early sites read it with
    care (nostalgebraist 2020).

    Args:
        model: any model with TransformerLens modules `ln_final` and `unembed`.
    """
    found_ids, found_logits = [], []
    if not hasattr(model, "ln_final") or not hasattr(model, "unembed"):
        raise CrossdiffError(
            f"{type(model).__name__} has no ln_final and unembed, so there is no logit lens: make "
            "the report with --no-lens"
        )
    reference = next(model.unembed.parameters())
    for part in directions.split(_DIRECTIONS_AT_ONCE):
        inputs = torch.cat([torch.zeros_like(part[:1]), part]).to(reference)
        # [1, n, d]: TransformerLens modules take a batch of sequences.
        logits = model.unembed(model.ln_final(inputs[None]))[0].float()
        logits = logits[1:] - logits[0]
        top = (logits - logits.mean(-1, keepdim=True)).topk(min(n, logits.shape[-1]))
        found_ids.append(top.indices.cpu().numpy())
        found_logits.append(top.values.cpu().numpy())
    return TopTokens(np.concatenate(found_ids), np.concatenate(found_logits))


def decoder_lenses(
    pair: HookedModelPair, crosscoder: Crosscoder, latents: Sequence[int], n: int = 10
) -> dict[str, TopTokens]:
    """The lens of each latent's base decoder (through the base model), chat decoder, and of their
    difference d_chat - d_base (both through the chat model)."""
    chosen = torch.tensor(list(latents), dtype=torch.long, device=crosscoder.W_dec.device)
    parts = [part.detach()[chosen] for part in crosscoder.W_dec_per_model]
    base, chat = (parts[crosscoder.index_of(name)] for name in ("base", "chat"))
    directions = {"base": base, "chat": chat, "difference": chat - base}
    return {
        name: logit_lens(pair.models["base" if name == "base" else "chat"], rows, n)
        for name, rows in directions.items()
    }
