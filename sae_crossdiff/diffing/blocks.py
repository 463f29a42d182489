"""Blocks of documents: the unit in which sampling error is measured."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sae_crossdiff.activations import ActivationBatch
from sae_crossdiff.crosscoders import SparseCode
from sae_crossdiff.errors import CrossdiffError

N_BLOCKS = 32
CHUNK = 128


class DocumentBlocks:
    """Deals documents out to `n_blocks` blocks, whatever the order in which their tokens come.

    Tokens of one document are alike, so a token is no independent observation; a document is
    (nearly). A hash of the document's id chooses the block: ids often alternate between corpora,
    and `id % n_blocks` would then give blocks of one corpus each.

    Tokens without a document (plain tensors, document -1) are taken to come in their order:
    every run of `CHUNK` consecutive tokens counts as a document, however they are batched.
    """

    def __init__(self, n_blocks: int = N_BLOCKS):
        if n_blocks < 1:
            raise CrossdiffError(f"n_blocks={n_blocks} must be at least 1: {N_BLOCKS} is usual")
        self.n_blocks = n_blocks
        self._unknown_seen = 0

    def assign(self, batch: ActivationBatch) -> Int[Tensor, " tokens"]:
        """The block of each token, in [0, n_blocks)."""
        documents = batch.documents.clone()
        unknown = documents < 0
        n_unknown = int(unknown.sum())
        places = self._unknown_seen + torch.arange(n_unknown, device=documents.device)
        documents[unknown] = places // CHUNK
        self._unknown_seen += n_unknown
        # Fibonacci hashing (Knuth, TAOCP 6.4): multiples of 2^32 / golden ratio fill the blocks
        # evenly, and so does every arithmetic progression of ids.
        hashed = (documents * 0x9E3779B1) & 0xFFFFFFFF
        return (hashed * self.n_blocks) >> 32


def add_per_block(
    total: Float[Tensor, "blocks latents ..."],
    code: SparseCode,
    blocks: Int[Tensor, " tokens"] | None,
    per_entry: Float[Tensor, "active ..."],
) -> None:
    """Add `per_entry` of each active (token, latent) to total[block of the token, latent].

    Without `blocks` all tokens belong to block 0.
    """
    index = code.latents
    if blocks is not None:
        index = index + code.n_latents * blocks.to(index.device)[code.rows]
    total.view(-1, *total.shape[2:]).index_add_(0, index, per_entry.to(total.dtype))
