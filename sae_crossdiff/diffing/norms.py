"""Relative decoder norms, their buckets, decoder cosines and twins (METHOD sections 2 and 5)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

BUCKETS = ("base-only", "other", "shared", "chat-only")


def relative_decoder_norm(
    norm_base: Float[Tensor, " latents"], norm_chat: Float[Tensor, " latents"]
) -> Float[Tensor, " latents"]:
    """Delta_j = 1/2 (1 + (||d_chat|| - ||d_base||) / max(||d_chat||, ||d_base||)), in [0, 1].

    0: only the base model has it, 1: only the chat model, 1/2: equal norms. NaN if both norms
    are zero. (arXiv:2504.02922; the authors' tables hold 1 - Delta.)
    """
    larger = torch.maximum(norm_chat, norm_base)
    return 0.5 * (1 + (norm_chat - norm_base) / larger)


def norm_buckets(delta: NDArray[np.float64]) -> NDArray[np.object_]:
    """base-only: Delta < 0.1; shared: 0.4 < Delta < 0.6; chat-only: Delta > 0.9; else other."""
    buckets = np.full(delta.shape, "other", dtype=object)
    buckets[delta < 0.1] = "base-only"
    buckets[(delta > 0.4) & (delta < 0.6)] = "shared"
    buckets[delta > 0.9] = "chat-only"
    return buckets


def decoder_cosines(
    base: Float[Tensor, "latents d"], chat: Float[Tensor, "latents d"]
) -> Float[Tensor, " latents"]:
    """Cosine between the two decoder rows of each latent; NaN for a zero row."""
    return (base * chat).sum(-1) / (base.norm(dim=-1) * chat.norm(dim=-1))


class Twins(NamedTuple):
    """`twin` [latents]: index of the twin or -1; `cosine` [latents]: NaN without one."""

    twin: NDArray[np.int64]
    cosine: NDArray[np.float64]


def find_twins(
    base: Float[Tensor, "latents d"],
    chat: Float[Tensor, "latents d"],
    buckets: NDArray[np.object_],
    min_cosine: float = 0.9,
) -> Twins:
    """Pairs of a chat-only and a base-only latent that write (nearly) the same direction.

    The chat-only latent's chat decoder and the base-only latent's base decoder have a cosine
    above `min_cosine`: one concept that the crosscoder split in two. Each latent gets its nearest.
    """
    twin = np.full(len(buckets), -1, dtype=np.int64)
    cosine = np.full(len(buckets), np.nan)
    ours = np.flatnonzero(buckets == "chat-only")
    theirs = np.flatnonzero(buckets == "base-only")
    if not len(ours) or not len(theirs):
        return Twins(twin, cosine)
    base, chat = base.detach().cpu().double(), chat.detach().cpu().double()
    a = torch.nn.functional.normalize(chat[ours], dim=-1)
    b = torch.nn.functional.normalize(base[theirs], dim=-1)
    similarity = a @ b.T
    for indices, others, matrix in ((ours, theirs, similarity), (theirs, ours, similarity.T)):
        best = matrix.max(dim=-1)
        passed = (best.values > min_cosine).numpy()
        twin[indices[passed]] = others[best.indices.numpy()[passed]]
        cosine[indices[passed]] = best.values.numpy()[passed]
    return Twins(twin, cosine)
