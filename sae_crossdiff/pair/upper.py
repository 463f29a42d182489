"""The layers of one model above a residual-stream site, run by themselves."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge

from sae_crossdiff.errors import CrossdiffError

_SITE = re.compile(r"blocks\.(\d+)\.(hook_resid_post|hook_out|hook_resid_pre|hook_in)")


def blocks_below(hook_name: str) -> int:
    """Number of blocks below a residual-stream site: 14 for `blocks.13.hook_resid_post`.

    Raises:
        CrossdiffError: any other hook, because what lies above it does not follow from it alone.
    """
    match = _SITE.fullmatch(hook_name)
    if match is None:
        raise CrossdiffError(
            f"{hook_name!r} is not a residual stream between two blocks, so the layers above it "
            "cannot be run from its activations: use blocks.<i>.hook_resid_post (or hook_resid_pre)"
        )
    return int(match[1]) + (match[2] in ("hook_resid_post", "hook_out"))


class UpperLayers:
    """Runs a model's blocks above `hook_name`, its final norm and its unembedding.

    `start_at_layer` exists in HookedTransformer but not in TransformerBridge, whose blocks are
    called by Hugging Face's own forward. There, the blocks below the site are made to hand on what
    they get, the last of them to hand on the residual stream that is to be continued.

    Raises:
        CrossdiffError: a hook that is no residual stream, or one below the first block.
    """

    def __init__(self, model: Any, hook_name: str):
        self.model = model
        self.n_below = blocks_below(hook_name)
        if not 1 <= self.n_below <= len(model.blocks):
            raise CrossdiffError(
                f"{hook_name!r} leaves no block below it among the {len(model.blocks)} of this "
                "model: use a site after the first block"
            )
        self._is_bridge = isinstance(model, TransformerBridge)
        self._returns_tuple = self._is_bridge and _blocks_return_tuples(model)

    def __call__(
        self,
        residual: Float[Tensor, "batch pos d_model"],
        tokens: Int[Tensor, "batch pos"],
        at: Bool[Tensor, "batch pos"] | None = None,
        **kwargs: Any,
    ) -> Tensor:
        """Logits [batch, pos, vocabulary] of `residual` at the site.

        Args:
            tokens: gives the shape and the positions; their embeddings are not used.
            at: compute the logits only here, [n, vocabulary] in row order: an unembedding of 262k
                tokens costs more than all layers of a small model.
            kwargs: e.g. an attention_mask.
        """
        residual = residual.to(next(self.model.parameters()).dtype)
        with unembedding_at(self.model, at):
            if not self._is_bridge:
                logits = self.model(residual, start_at_layer=self.n_below, **kwargs)
            else:
                with self._lower_blocks_skipped(residual):
                    logits = self.model(tokens, use_cache=False, **kwargs)
        return logits if at is None else logits[0]

    @contextmanager
    def _lower_blocks_skipped(self, residual: Tensor) -> Iterator[None]:
        wrap = (lambda t: (t,)) if self._returns_tuple else (lambda t: t)
        blocks = list(self.model.blocks)[: self.n_below]
        skip: list[Callable[..., Any]] = [lambda hidden, *_, **__: wrap(hidden)] * self.n_below
        skip[-1] = lambda *_, **__: wrap(residual)
        for block, function in zip(blocks, skip, strict=True):
            block.__dict__["forward"] = function
        try:
            yield
        finally:
            for block in blocks:
                del block.__dict__["forward"]


@contextmanager
def unembedding_at(model: Any, at: Bool[Tensor, "batch pos"] | None) -> Iterator[None]:
    """Inside, forwards give logits [1, n, vocabulary] of the n positions in `at` only."""
    if at is None:
        yield
        return
    unembed: nn.Module = model.unembed
    handle = unembed.register_forward_pre_hook(lambda _, args: (args[0][at][None], *args[1:]))
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def _blocks_return_tuples(model: Any) -> bool:
    """Whether this Hugging Face version's blocks return (hidden, ...) or hidden: tried on a token.

    A bare tensor where a tuple is expected would silently lose its batch dimension.
    """
    found: list[bool] = []
    handle = model.blocks[0].register_forward_hook(
        lambda _, __, output: found.append(isinstance(output, tuple))
    )
    try:
        device = next(model.parameters()).device
        model(torch.zeros(1, 1, dtype=torch.long, device=device), return_type=None)
    finally:
        handle.remove()
    return found[0]
