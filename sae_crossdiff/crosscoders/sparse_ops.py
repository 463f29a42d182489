"""Encoding and decoding of chosen entries, with gradients that never become dense codes.

Autograd would build the weight gradients row by row; here each is a weighted sum of token rows
per latent (`SparseCode.transposed_matmul`), and the gradient of the values is a dot product per
entry (`SparseCode.dots`).
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from sae_crossdiff.crosscoders.codes import SparseCode

GradientBuffers = dict[str, Tensor]
"""Memory for weight gradients, by name, that is used again at every step.

Only for a caller that drops all gradients (`zero_grad(set_to_none=True)`) before each backward
pass, as the trainer does: the next pass overwrites what this one returned.
"""


def encode_entries(
    x: Float[Tensor, "tokens d_in"],
    W_enc: Float[Tensor, "d_in latents"],
    b_enc: Float[Tensor, " latents"],
    code: SparseCode,
    buffers: GradientBuffers | None = None,
) -> SparseCode:
    """`code`, whose values are relu(x @ W_enc + b_enc) at its entries, tied to the weights.

    x gets no gradient.
    """
    values: Any = _EncoderGradient.apply(code.values, x, W_enc, b_enc, code, buffers)
    return code.with_values(values)


def decode_entries(
    code: SparseCode,
    W_dec: Float[Tensor, "latents d_in"],
    buffers: GradientBuffers | None = None,
) -> Float[Tensor, "tokens d_in"]:
    """`code.to_dense() @ W_dec`, differentiable in the values and in W_dec."""
    return _Decode.apply(code.values, W_dec, code, buffers)  # type: ignore[return-value]


class _EncoderGradient(torch.autograd.Function):
    """Passes the values through; sends their gradient to W_enc and b_enc."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        values: Tensor,
        x: Tensor,
        W_enc: Tensor,
        b_enc: Tensor,
        code: SparseCode,
        buffers: GradientBuffers | None,
    ) -> Tensor:
        ctx.save_for_backward(x)
        ctx.code, ctx.buffers = code, buffers
        return values.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (x,) = ctx.saved_tensors
        code = ctx.code.with_values(grad)
        bias = grad.new_zeros(code.n_latents).index_add_(0, code.latents, grad)
        weight = code.transposed_matmul(x, _buffer(ctx.buffers, "encoder", code, x))
        return None, None, weight.view_as(weight).T, bias, None, None


class _Decode(torch.autograd.Function):
    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any,
        values: Tensor,
        W_dec: Tensor,
        code: SparseCode,
        buffers: GradientBuffers | None,
    ) -> Tensor:
        ctx.save_for_backward(W_dec)
        ctx.code, ctx.buffers = code.with_values(values.detach()), buffers
        return ctx.code.matmul(W_dec)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:  # type: ignore[override]
        (W_dec,), code = ctx.saved_tensors, ctx.code
        grad = grad.contiguous()
        weight = code.transposed_matmul(grad, _buffer(ctx.buffers, "decoder", code, grad))
        return code.dots(grad, W_dec), weight.view_as(weight), None, None


def _buffer(
    buffers: GradientBuffers | None, name: str, code: SparseCode, dense: Tensor
) -> Tensor | None:
    if buffers is None:
        return None
    if name not in buffers:
        buffers[name] = dense.new_zeros(code.n_latents, dense.shape[1])
    return buffers[name]
