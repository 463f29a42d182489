"""An SAE on the activation difference, read as a crosscoder: a baseline for the same table."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders.crosscoder import Crosscoder, CrosscoderConfig
from sae_crossdiff.errors import CrossdiffError


def model_difference(x: Float[Tensor, "tokens d_in"]) -> Float[Tensor, "tokens d"]:
    """x_chat - x_base of joined activations of two models of equal width."""
    base, chat = x.chunk(2, dim=-1)
    return chat - base


@torch.no_grad()
def difference_as_crosscoder(sae: Crosscoder) -> Crosscoder:
    """A one-model crosscoder trained on x_chat - x_base, as one that takes cat([x_base, x_chat]).

    The code is the same: W_enc = [-W; W]. It writes the difference into the chat model and nothing
    into the base (Delta = 1 throughout), so Latent Scaling asks of every latent how much of its
    direction either model itself has on the latent's tokens.

    Raises:
        CrossdiffError: a crosscoder of several models.
    """
    if sae.n_models != 1:
        raise CrossdiffError(
            f"a difference SAE reads one difference, this crosscoder {sae.n_models} models: train "
            "it with d_ins=[d_model] on `model_difference` of the activations"
        )
    joined = Crosscoder(CrosscoderConfig(d_in=2 * sae.cfg.d_in, d_sae=sae.cfg.d_sae))
    zeros = torch.zeros_like(sae.W_dec)
    joined.W_enc.copy_(torch.cat([-sae.W_enc, sae.W_enc]))
    joined.W_dec.copy_(torch.cat([zeros, sae.W_dec], dim=-1))
    joined.b_enc.copy_(sae.b_enc)
    joined.b_dec.copy_(torch.cat([torch.zeros_like(sae.b_dec), sae.b_dec]))
    joined.threshold.copy_(sae.threshold)
    return joined
