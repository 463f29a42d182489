"""Encoding and decoding of chosen entries, with gradients that never become dense codes.

Only the weight gradients need code of their own: autograd would build them row by row. Each is a
weighted sum of token rows per latent (`SparseCode.transposed_matmul`).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders.codes import SparseCode


def encode_entries(
    x: Float[Tensor, "tokens d_in"],
    W_enc: Float[Tensor, "d_in latents"],
    b_enc: Float[Tensor, " latents"],
    code: SparseCode,
) -> SparseCode:
    """`code`, whose values are relu(x @ W_enc + b_enc) at its entries, tied to the weights.

    x gets no gradient.
    """
    values: Any = _EncoderGradient.apply(code.values, x, W_enc, b_enc, code)
    return code.with_values(values)


def decode_entries(
    code: SparseCode, W_dec: Float[Tensor, "latents d_in"]
) -> Float[Tensor, "tokens d_in"]:
    """`code.to_dense() @ W_dec`, differentiable in the values and in W_dec."""
    # embedding_bag has a fast backward for its weights per sample; the one for W_dec is ours.
    reconstruction: Any = code.matmul(W_dec.detach())
    return _DecoderGradient.apply(reconstruction, W_dec, code)  # type: ignore[return-value]


class _EncoderGradient(torch.autograd.Function):
    """Passes the values through; sends their gradient to W_enc and b_enc."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, values: Tensor, x: Tensor, W_enc: Tensor, b_enc: Tensor, code: SparseCode
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.code = code
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        code = ctx.code.with_values(grad)
        bias = grad.new_zeros(code.n_latents).index_add_(0, code.latents, grad)
        return None, None, code.transposed_matmul(x).T, bias, None


class _DecoderGradient(torch.autograd.Function):
    """Passes the reconstruction through; sends its gradient to W_dec as well."""

    @staticmethod
    def forward(ctx: Any, reconstruction: Tensor, W_dec: Tensor, code: SparseCode) -> Tensor:  # type: ignore[override]
        ctx.code = code.with_values(code.values.detach())
        return reconstruction.view_as(reconstruction)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        return grad, ctx.code.transposed_matmul(grad.contiguous()), None
